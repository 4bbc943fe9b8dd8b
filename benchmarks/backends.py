"""Models that cost next to nothing, so that what is measured is what stands in front of them."""

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult

ANSWER = "hello"
MARK = "FAIL"
"""A question that holds this fails at a backend that fails the marked ones."""


@dataclass(frozen=True)
class Backend:
    """One model behind a contender, in the terms of no library.

    Attributes:
        fails: Which questions it fails.
        chunks: How many chunks its stream has.
        url: Where it is served; `None`: in this process.
    """

    fails: Literal["never", "always", "marked"] = "never"
    chunks: int = 5
    url: str | None = None

    def does_fail(self, text: str) -> bool:
        """Whether it fails this question."""
        return self.fails == "always" or (self.fails == "marked" and MARK in text)


class InstantChatModel(BaseChatModel):
    """A backend as LangChain's chat model."""

    backend: Backend

    @property
    def _llm_type(self) -> str:
        return "instant"

    def _refuse(self, messages: list[BaseMessage]) -> None:
        if self.backend.does_fail(messages[-1].text):
            raise RuntimeError("down")

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        self._refuse(messages)
        return ChatResult(generations=[ChatGeneration(message=AIMessage(ANSWER))])

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return self._generate(messages)

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        self._refuse(messages)
        for _ in range(self.backend.chunks):
            yield ChatGenerationChunk(message=AIMessageChunk(ANSWER))

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        for chunk in self._stream(messages):
            yield chunk


class ThreadedChatModel(BaseChatModel):
    """A backend whose model is only sync: async callers get it in a thread."""

    backend: Backend

    @property
    def _llm_type(self) -> str:
        return "threaded"

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=AIMessage(ANSWER))])
