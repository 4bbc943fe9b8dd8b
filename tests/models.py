"""Chat models that do as they are told: real `BaseChatModel`s, with no network behind them."""

from collections.abc import AsyncIterator, Iterator
from typing import Any

import langchain_core.exceptions
from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.exceptions import OutputParserException
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from pydantic import Field

from langchain_model_gateway import GatewayRunnable

ModelRefusal: type[Exception] = getattr(
    langchain_core.exceptions, "ModelRefusalError", OutputParserException
)
"""What a refused structured output is told by; langchain-core has its own from 1.7.5 on."""

type_of_reply = str | AIMessage | BaseException | list[Any]


class ScriptedChatModel(BaseChatModel):
    """Gives its replies in turn, the last one for ever, and notes what it was given.

    Of its streams it notes how many chunks were sent, and how many streams were closed.
    A reply is a text, a message, an exception to raise, or for a stream a list of chunks (texts,
    `AIMessageChunk`s and exceptions, or functions called for one when its turn has come).
    """

    replies: list[Any] = Field(default_factory=lambda: ["hello"])
    calls: list[list[BaseMessage]] = Field(default_factory=list)
    received: list[dict[str, Any]] = Field(default_factory=list)
    sent: int = 0
    closed: int = 0

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def _next_reply(self, messages: list[BaseMessage], kwargs: dict[str, Any]) -> Any:
        reply = self.replies[min(len(self.calls), len(self.replies) - 1)]
        self.calls.append(messages)
        self.received.append(kwargs)
        return reply

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        reply = self._next_reply(messages, kwargs | ({"stop": stop} if stop else {}))
        if isinstance(reply, BaseException):
            raise reply
        if isinstance(reply, list):
            reply = "".join(part for part in reply if isinstance(part, str))
        message = reply if isinstance(reply, AIMessage) else AIMessage(reply)
        return ChatResult(generations=[ChatGeneration(message=message)])

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        reply = self._next_reply(messages, kwargs | ({"stop": stop} if stop else {}))
        try:
            for part in reply if isinstance(reply, list) else [reply]:
                part = part() if callable(part) else part  # noqa: PLW2901
                if isinstance(part, BaseException):
                    raise part
                chunk = part if isinstance(part, AIMessageChunk) else AIMessageChunk(_text(part))
                if run_manager and isinstance(chunk.content, str):
                    run_manager.on_llm_new_token(
                        chunk.content, chunk=ChatGenerationChunk(message=chunk)
                    )
                self.sent += 1
                yield ChatGenerationChunk(message=chunk)
        finally:
            self.closed += 1

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        sync = run_manager.get_sync() if run_manager else None
        for chunk in self._stream(messages, stop, sync, **kwargs):
            yield chunk


def says(*replies: Any) -> ScriptedChatModel:
    return ScriptedChatModel(replies=list(replies))


NEVER = [("00:00", "12:00"), ("12:00", "00:00")]
"""Windows in which a deployment is restricted at all times."""


def gateway_over(
    *models: Any, windows: dict[str, Any] | None = None, **fields: Any
) -> GatewayRunnable:
    """A gateway whose deployments are called weak, strong and backup."""
    return GatewayRunnable(
        models=[
            {"model_name": name, "model": model, "time_constraints": (windows or {}).get(name)}
            for name, model in zip(("weak", "strong", "backup"), models, strict=False)
        ],
        **fields,
    )


def who(answer: Any) -> str:
    """The name of the deployment that gave an answer."""
    return str(answer.response_metadata["gateway"]["model_name"])


def _text(part: Any) -> str:
    return str(part.content) if isinstance(part, AIMessage) else str(part)
