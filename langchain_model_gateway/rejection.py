"""Which answers are rejected: by their kind, or by a function of the user's."""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple, Self

from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage

from langchain_model_gateway._text import one_line
from langchain_model_gateway.errors import RejectedAnswerError
from langchain_model_gateway.policies import RejectFunction, Rejection

# Where the providers say how an answer ended: OpenAI and most others, Anthropic, Bedrock, Ollama,
# OpenAI's Responses API.
_FINISH_KEYS: Final = ("finish_reason", "stop_reason", "stopReason", "done_reason", "status")
# How they spell what it was, in lower case. Their names are their own; what they mean is read
# from their API references.
_FINISHES: Final[Mapping[Rejection, str]] = {
    "content_filter": "content_filter content_filtered "  # OpenAI and most others; Bedrock
    "guardrail_intervened error_toxic "  # Bedrock; Cohere
    "safety prohibited_content blocklist recitation spii image_safety "  # Gemini
    "image_prohibited_content image_recitation blocked_prompt",
    "length": "length max_tokens model_length "  # OpenAI and most others; Anthropic; Mistral
    "model_context_window_exceeded error_limit",  # Anthropic, Bedrock; Cohere
    "refusal": "refusal "  # Anthropic
    "safety prohibited_content blocklist blocked_prompt",  # Gemini, as LangChain reads them
    "error": "error timeout failed cancelled "  # Mistral, OpenRouter, Cohere; Responses API
    "insufficient_system_resource "  # DeepSeek
    "malformed_model_output malformed_tool_use "  # Bedrock
    "malformed_function_call malformed_response unexpected_tool_call "  # Gemini
    "too_many_tool_calls missing_thought_signature other language image_other no_image",
}
_FINISHED_BY: Final[Mapping[str, tuple[Rejection, ...]]] = {
    reason: tuple(kind for kind, reasons in _FINISHES.items() if reason in reasons.split())
    for reason in " ".join(_FINISHES.values()).split()
}

EMPTY: Final = "empty: neither text nor a tool call"
TRUNCATED: Final = (
    "truncated: the stream ended with no finish reason; if this model never gives one, leave "
    '"truncated" out of reject'
)
_FUNCTION_RAISED: Final = "raised by a function in the gateway's reject="


class Rejects(NamedTuple):
    """What is rejected.

    Attributes:
        kinds: The kinds of answer.
        functions: Those that tell of an answer whether it is rejected.
    """

    kinds: frozenset[Rejection]
    functions: tuple[RejectFunction, ...]

    @classmethod
    def of(cls, reject: frozenset[Rejection | RejectFunction]) -> Self | None:
        """Sort what a user gives; `None` if nothing is rejected."""
        kinds = frozenset(each for each in reject if not callable(each))
        functions = tuple(each for each in reject if callable(each))
        return cls(kinds, functions) if reject else None

    def check(self, message: BaseMessage) -> None:
        """Check a whole answer.

        Raises:
            RejectedAnswerError: If it is rejected; so raise all of these.
        """
        if "empty" in self.kinds and is_empty(message):
            raise RejectedAnswerError(EMPTY)
        self.check_refusal(message)
        self.check_finish(finish_reason(message))
        if self.functions:
            self.ask_functions(message)

    def check_refusal(self, message: BaseMessage) -> None:
        """Check whether an answer, or a chunk, is a refusal."""
        if "refusal" in self.kinds and (
            message.additional_kwargs.get("refusal")
            or (isinstance(message.content, list) and any(map(_is_refusal, message.content)))
        ):
            raise RejectedAnswerError("refusal: the model declined to answer")

    def check_finish(self, reason: str) -> None:
        """Check how an answer has ended."""
        for kind in _FINISHED_BY.get(reason.lower(), ()):
            if kind in self.kinds:
                told = one_line(reason, 60)
                raise RejectedAnswerError(f"{kind}: the model finished with {told!r}")

    def ask_functions(self, answer: Any) -> None:
        """Ask the functions about a whole answer."""
        for function in self.functions:
            if _rejects(function, answer):
                name = getattr(function, "__qualname__", type(function).__qualname__)
                raise RejectedAnswerError(f"rejected by the function {one_line(name, 60)}")


def is_callers_bug(error: BaseException) -> bool:
    """Whether a function in `reject` raised this: it is the caller's, and no model's failure."""
    return _FUNCTION_RAISED in error.__dict__.get("__notes__", ())


def is_empty(message: BaseMessage) -> bool:
    """Whether a message has neither text nor a tool call."""
    content = message.content
    text = content if isinstance(content, str) else message.text
    return not text and not calls_tools(message)


def calls_tools(message: BaseMessage) -> bool:
    """Whether a message has a tool call, or a part of one."""
    if isinstance(message, AIMessageChunk) and message.tool_call_chunks:
        return True
    return isinstance(message, AIMessage) and bool(message.tool_calls or message.invalid_tool_calls)


def finish_reason(message: BaseMessage) -> str:
    """How an answer has ended, in its provider's words; "" if it does not tell."""
    metadata = message.response_metadata
    for key in filter(metadata.__contains__, _FINISH_KEYS):
        if isinstance(reason := metadata[key], str) and reason:
            details = metadata.get("incomplete_details")
            if reason == "incomplete" and isinstance(details, Mapping):  # OpenAI's Responses API
                return str(details.get("reason") or reason).replace("max_output_", "max_")
            return reason
    is_blocked = "prompt_feedback" in metadata and _is_blocked(metadata["prompt_feedback"])
    return "blocked_prompt" if is_blocked else ""


def _is_blocked(feedback: Any) -> bool:
    """Whether Gemini blocked the prompt: then there is no answer that could have a finish."""
    reason = feedback.get("block_reason") if isinstance(feedback, Mapping) else None
    return bool(reason) and not str(reason).endswith("UNSPECIFIED")


def _is_refusal(block: Any) -> bool:
    return isinstance(block, Mapping) and block.get("type") == "refusal"


def _rejects(function: RejectFunction, answer: Any) -> bool:
    try:
        return bool(function(answer))
    except Exception as error:
        error.add_note(_FUNCTION_RAISED)
        raise
