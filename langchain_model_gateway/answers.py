"""What counts as an answer: when one has begun, why one is refused, and the mark of who gave it."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage

from langchain_model_gateway.errors import EmptyStreamError, FailedAttempt, RejectedAnswerError
from langchain_model_gateway.policies import Rejection

STAMP: Final = "gateway"

HELD_BACK_LIMIT: Final = 64
"""The most empty chunks held back; a model that sends more has begun to answer."""

# Keys of a content block that say which block it is, not what is in it.
_BLOCK_LABELS: Final = frozenset({"type", "index", "id"})

# How the providers spell it: OpenAI, Anthropic, Gemini, Bedrock.
_FINISH_KEYS: Final = ("finish_reason", "stop_reason", "stopReason", "done_reason", "status")
_FINISHED_BY: Final[Mapping[str, Rejection]] = {
    "content_filter": "content_filter",
    "content_filtered": "content_filter",
    "guardrail_intervened": "content_filter",
    "safety": "content_filter",
    "prohibited_content": "content_filter",
    "blocklist": "content_filter",
    "length": "length",
    "max_tokens": "length",
    "model_length": "length",
    "model_context_window_exceeded": "length",
    "refusal": "refusal",
}

_EMPTY: Final = "empty: neither text nor a tool call"


class StreamedAnswer:
    """A stream as it comes in: what is held back, whether it has begun, how it ended.

    Args:
        reject: The kinds of answer that are refused.
    """

    __slots__ = ("_empty", "_finish", "_reject", "begun", "head")

    def __init__(self, reject: frozenset[Rejection]) -> None:
        self._reject = reject
        self._finish = ""
        self._empty = True
        self.head: list[Any] = []
        self.begun = False

    def saw(self, chunk: Any) -> Sequence[Any]:
        """Take note of a chunk.

        Returns:
            What may be passed on now: nothing while the answer has not begun, then all that was
            held back, then each chunk.

        Raises:
            RejectedAnswerError: If it is a refusal, and those are refused.
        """
        if self._reject and isinstance(chunk, BaseMessage):
            self._finish = _finish_reason(chunk) or self._finish
            self._empty = self._empty and is_empty(chunk)
            _check_refusal(chunk, self._reject)
        if self.begun:
            return (chunk,)
        self.head.append(chunk)
        self.begun = carries_something(chunk) or len(self.head) > HELD_BACK_LIMIT
        return self.head if self.begun else ()

    def finished(self) -> None:
        """The stream has ended.

        Raises:
            EmptyStreamError: If no chunk carried anything.
            RejectedAnswerError: If it is one of the kinds that are refused.
        """
        _check_finish(self._finish, self._reject)
        is_message = bool(self.head) and isinstance(self.head[0], BaseMessage)
        is_refused_as_empty = is_message and self._empty and "empty" in self._reject
        if is_refused_as_empty and self._finish:
            raise RejectedAnswerError(_EMPTY)
        if not self.begun:
            raise EmptyStreamError(f"the stream ended after {len(self.head)} empty chunks")
        if is_message and not self._finish and "truncated" in self._reject:
            raise RejectedAnswerError("truncated: the stream ended with no finish reason")
        if is_refused_as_empty:
            raise RejectedAnswerError(_EMPTY)


def check_answer(answer: Any, reject: frozenset[Rejection]) -> None:
    """Refuse what is no answer.

    Args:
        answer: What a model gave.
        reject: The kinds of answer that are refused.

    Raises:
        RejectedAnswerError: If it is nothing, does not parse, or is of a kind that is refused.
    """
    if isinstance(answer, BaseMessage):
        if "empty" in reject and is_empty(answer):
            raise RejectedAnswerError(_EMPTY)
        if reject:
            _check_refusal(answer, reject)
            _check_finish(_finish_reason(answer), reject)
    elif answer is None:
        raise RejectedAnswerError("no output: the model called no tool")
    elif is_structured(answer):
        # The parser's error quotes the answer; its type is enough to act on.
        if (error := answer["parsing_error"]) is not None:
            raise RejectedAnswerError(f"the output does not parse ({type(error).__name__})")
        if answer["parsed"] is None:
            raise RejectedAnswerError("no output: the model called no tool")


def is_structured(answer: Any) -> bool:
    """Whether this is what `with_structured_output(..., include_raw=True)` gives."""
    return isinstance(answer, dict) and answer.keys() == {"raw", "parsed", "parsing_error"}


def is_empty(message: BaseMessage) -> bool:
    """Whether a message has neither text nor a tool call."""
    return not message.text and not _calls_tools(message)


def carries_something(chunk: Any) -> bool:
    """Whether a chunk holds any part of an answer: text, a tool call, reasoning, any block."""
    if isinstance(chunk, BaseMessage):
        parts = chunk.content if isinstance(chunk.content, list) else [chunk.content]
        return (
            any(map(_block_carries, parts)) or _calls_tools(chunk) or bool(chunk.additional_kwargs)
        )
    if isinstance(chunk, dict) and chunk.keys() == {"raw"}:
        return carries_something(chunk["raw"])
    return chunk is not None and chunk != ""


def stamp(answer: Any, model_name: str, failures: Sequence[FailedAttempt]) -> Any:
    """A copy of an answer (a message, or the first chunk of one) that says who gave it.

    What is no message comes back as it is, but for `include_raw=True`'s dict.
    """
    if isinstance(answer, BaseMessage):
        metadata = answer.response_metadata
        mark: dict[str, Any] = {"model_name": model_name, "failed": []}
        for failure in failures:
            failed = {"model_name": failure.model_name, "error": type(failure.exception).__name__}
            mark["failed"].append(failed)
        # A gateway inside this one has left its own.
        if (inner := metadata.get(STAMP)) is not None:
            mark[STAMP] = inner
        return _with_metadata(answer, {**metadata, STAMP: mark})
    if isinstance(answer, dict) and isinstance(answer.get("raw"), BaseMessage):
        return {**answer, "raw": stamp(answer["raw"], model_name, failures)}
    return answer


def _with_metadata(message: BaseMessage, metadata: dict[str, Any]) -> BaseMessage:
    """What `message.model_copy(update={"response_metadata": metadata})` gives, in half its time."""
    state = message.__getstate__()
    state["__dict__"] = {**state["__dict__"], "response_metadata": metadata}
    state["__pydantic_fields_set__"] = {*state["__pydantic_fields_set__"], "response_metadata"}
    if (extra := state["__pydantic_extra__"]) is not None:
        state["__pydantic_extra__"] = {**extra}
    changed = message.__class__.__new__(message.__class__)
    changed.__setstate__(state)
    return changed


def _calls_tools(message: BaseMessage) -> bool:
    if isinstance(message, AIMessageChunk) and message.tool_call_chunks:
        return True
    return isinstance(message, AIMessage) and bool(message.tool_calls or message.invalid_tool_calls)


def _block_carries(block: Any) -> bool:
    if isinstance(block, Mapping):
        return any(value for key, value in block.items() if key not in _BLOCK_LABELS)
    return bool(block)


def _finish_reason(message: BaseMessage) -> str:
    metadata = message.response_metadata
    for key in _FINISH_KEYS:
        if isinstance(reason := metadata.get(key), str) and reason:
            details = metadata.get("incomplete_details")
            if reason == "incomplete" and isinstance(details, Mapping):  # OpenAI's Responses API
                return str(details.get("reason") or reason).replace("max_output_", "max_")
            return reason
    return ""


def _check_refusal(message: BaseMessage, reject: frozenset[Rejection]) -> None:
    if "refusal" not in reject:
        return
    blocks = message.content if isinstance(message.content, list) else []
    if message.additional_kwargs.get("refusal") or any(
        isinstance(block, Mapping) and block.get("type") == "refusal" for block in blocks
    ):
        raise RejectedAnswerError("refusal: the model declined to answer")


def _check_finish(reason: str, reject: frozenset[Rejection]) -> None:
    kind = _FINISHED_BY.get(reason.lower())
    if kind in reject:
        raise RejectedAnswerError(f"{kind}: the model finished with {reason!r}")
