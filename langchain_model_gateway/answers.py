"""What counts as an answer: when it has begun, why it is rejected, and the stamp of who gave it."""

import traceback
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from typing import Any, Final

from langchain_core.exceptions import OutputParserException
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    BaseMessageChunk,
    message_chunk_to_message,
)
from langchain_core.messages.ai import UsageMetadata, add_usage
from pydantic import ValidationError

from langchain_model_gateway._text import one_line
from langchain_model_gateway.errors import EmptyStreamError, FailedAttempt, RejectedAnswerError
from langchain_model_gateway.policies import RejectFunction, Rejection
from langchain_model_gateway.provider_errors import NO_CHUNKS, NO_CHUNKS_ERRORS

STAMP: Final = "gateway"

HELD_BACK_LIMIT: Final = 64
"""The most empty chunks held back; a model that sends more has begun to answer."""

# Keys of a content block that say which block it is, not what is in it.
_BLOCK_LABELS: Final = frozenset({"type", "index", "id"})
# What Cohere and others tell of the call in a message's `additional_kwargs`.
_ABOUT_THE_CALL: Final = frozenset(
    {"finish_reason", "generation_id", "id", "model_id", "stop_reason", "token_count", "usage"}
)

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

# By name, since langchain-core has them from 1.7.5 on, and no client library is imported.
_VERDICTS: Final[Mapping[str, str]] = {
    "ModelRefusalError": "refusal: the model declined to answer",
    "OpenAIRefusalError": "refusal: the model declined to answer",
    "ContentFilterFinishReasonError": "content_filter: the output does not parse",
    "LengthFinishReasonError": "length: the output does not parse",
}

_EMPTY: Final = "empty: neither text nor a tool call"
_TRUNCATED: Final = (
    "truncated: the stream ended with no finish reason; if this model never gives one, leave "
    '"truncated" out of reject'
)
_FUNCTION_RAISED: Final = "raised by a function in the gateway's reject="


class StreamedAnswer:
    """A stream as it comes in: what is held back, whether it has begun, how it ended.

    Args:
        reject: The kinds of answer that are rejected, and functions that tell.
        counts_tokens: Whether to sum up the usage that its chunks tell.
    """

    __slots__ = (
        *("_chunks", "_counts_tokens", "_empty", "_finish", "_reject", "begun", "head", "usage"),
    )

    def __init__(
        self, reject: frozenset[Rejection | RejectFunction], *, counts_tokens: bool = False
    ) -> None:
        self._counts_tokens = counts_tokens
        self.usage: UsageMetadata | None = None
        self._reject = reject
        self._finish = ""
        self._empty = True
        self._chunks: list[Any] | None = [] if any(map(callable, reject)) else None
        self.head: list[Any] = []
        self.begun = False

    def received(self, chunk: Any) -> Sequence[Any]:
        """Take note of a chunk.

        Returns:
            What may be passed on now: nothing while the answer has not begun, then all that was
            held back, then each chunk.

        Raises:
            RejectedAnswerError: If it is a refusal, and those are rejected.
        """
        if self._reject and isinstance(chunk, BaseMessage):
            self._finish = _finish_reason(chunk) or self._finish
            self._empty = self._empty and is_empty(chunk)
            if self._chunks is not None:
                self._chunks.append(chunk)
            _check_refusal(chunk, self._reject)
        if self._counts_tokens and (usage := usage_of(chunk)) is not None:
            self.usage = add_usage(self.usage, usage)
        if self.begun:
            return (chunk,)
        self.head.append(chunk)
        self.begun = carries_something(chunk) or len(self.head) > HELD_BACK_LIMIT
        return self.head if self.begun else ()

    def finished(self) -> None:
        """The stream has ended.

        Raises:
            EmptyStreamError: If no chunk carried anything.
            RejectedAnswerError: If it is one of the kinds that are rejected.
        """
        _check_finish(self._finish, self._reject)
        is_message = bool(self.head) and isinstance(self.head[0], BaseMessage)
        is_rejected_as_empty = is_message and self._empty and "empty" in self._reject
        if is_rejected_as_empty and self._finish:
            raise RejectedAnswerError(_EMPTY)
        if not self.begun:
            raise EmptyStreamError(f"the stream ended after {len(self.head)} empty chunks")
        if is_message and not self._finish and "truncated" in self._reject:
            raise RejectedAnswerError(_TRUNCATED)
        if is_rejected_as_empty:
            raise RejectedAnswerError(_EMPTY)
        if self._chunks:
            _ask_functions(_whole(self._chunks), self._reject)


def check_answer(answer: Any, reject: frozenset[Rejection | RejectFunction]) -> None:
    """Reject what is no answer.

    Args:
        answer: What a model gave.
        reject: The kinds of answer that are rejected, and functions that tell.

    Raises:
        RejectedAnswerError: If it is nothing, does not parse, or is rejected.
    """
    if isinstance(answer, BaseMessage):
        if reject:
            if "empty" in reject and is_empty(answer):
                raise RejectedAnswerError(_EMPTY)
            _check_refusal(answer, reject)
            _check_finish(_finish_reason(answer), reject)
            _ask_functions(answer, reject)
    elif answer is None:
        raise RejectedAnswerError("no output: the model called no tool")
    elif is_structured(answer):
        if (error := answer["parsing_error"]) is not None:
            raise RejectedAnswerError(_verdict(error) or _does_not_parse(error)) from error
        if answer["parsed"] is None:
            raise RejectedAnswerError("no output: the model called no tool")


def as_verdict(error: Exception) -> Exception:
    """An attempt's error, as the gateway's own verdict where there was no answer that does.

    Output that does not parse, or a refusal, is a rejected answer, and a stream with no event at
    all an empty one. Their errors quote the answer: ours never do, and name them as the cause.
    """
    if (verdict := _verdict(error)) is not None:
        ours: Exception = RejectedAnswerError(verdict)
    elif type(error).__name__ in NO_CHUNKS_ERRORS and str(error) in NO_CHUNKS:
        ours = EmptyStreamError("the stream ended with no event at all")
    else:
        return error
    ours.__cause__ = error
    return ours


def is_callers_bug(error: BaseException) -> bool:
    """Whether a function in `reject` raised this: it is the caller's, and no model's failure."""
    return _FUNCTION_RAISED in error.__dict__.get("__notes__", ())


def is_structured(answer: Any) -> bool:
    """Whether this is what `with_structured_output(..., include_raw=True)` gives."""
    return isinstance(answer, dict) and answer.keys() == {"raw", "parsed", "parsing_error"}


def usage_of(answer: Any) -> UsageMetadata | None:
    """The tokens that an answer, or a chunk, tells; `None` if it does not."""
    message = answer.get("raw") if isinstance(answer, dict) else answer
    return message.usage_metadata if isinstance(message, AIMessage) else None


def is_empty(message: BaseMessage) -> bool:
    """Whether a message has neither text nor a tool call."""
    return not message.text and not _calls_tools(message)


def carries_something(chunk: Any) -> bool:
    """Whether a chunk holds any part of an answer: text, a tool call, reasoning, any block."""
    if isinstance(chunk, BaseMessage):
        parts = chunk.content if isinstance(chunk.content, list) else [chunk.content]
        return (
            any(map(_block_carries, parts))
            or _calls_tools(chunk)
            or any(v for k, v in chunk.additional_kwargs.items() if k not in _ABOUT_THE_CALL)
        )
    if isinstance(chunk, dict) and chunk.keys() == {"raw"}:
        return carries_something(chunk["raw"])
    return chunk is not None and chunk != ""


def stamp(
    answer: Any, model_name: str, failures: Sequence[FailedAttempt], hedged: Sequence[str] = ()
) -> Any:
    """A copy of an answer (a message, or the first chunk of one) that says who gave it.

    What is no message comes back as it is, but for `include_raw=True`'s dict.
    """
    if isinstance(answer, BaseMessage):
        metadata = answer.response_metadata
        mark: dict[str, Any] = {"model_name": model_name, "failed": []}
        for failure in failures:
            failed = {"model_name": failure.model_name, "error": type(failure.exception).__name__}
            mark["failed"].append(failed)
        if hedged:
            mark["hedged"] = [*hedged]
        # A gateway inside this one has left its own.
        if (inner := metadata.get(STAMP)) is not None:
            mark[STAMP] = inner
        stamped = copy(answer)  # in half the time of `model_copy`
        stamped.response_metadata = {**metadata, STAMP: mark}
        return stamped
    if isinstance(answer, dict) and isinstance(answer.get("raw"), BaseMessage):
        return {**answer, "raw": stamp(answer["raw"], model_name, failures, hedged)}
    return answer


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
    return "blocked_prompt" if _is_blocked(metadata.get("prompt_feedback")) else ""


def _is_blocked(feedback: Any) -> bool:
    """Whether Gemini blocked the prompt: then there is no answer that could have a finish."""
    reason = feedback.get("block_reason") if isinstance(feedback, Mapping) else None
    name = str(getattr(reason, "name", reason or ""))
    return bool(name) and not name.endswith("UNSPECIFIED")


def _check_refusal(message: BaseMessage, reject: frozenset[Rejection | RejectFunction]) -> None:
    if "refusal" not in reject:
        return
    blocks = message.content if isinstance(message.content, list) else []
    if message.additional_kwargs.get("refusal") or any(
        isinstance(block, Mapping) and block.get("type") == "refusal" for block in blocks
    ):
        raise RejectedAnswerError("refusal: the model declined to answer")


def _check_finish(reason: str, reject: frozenset[Rejection | RejectFunction]) -> None:
    for kind in _FINISHED_BY.get(reason.lower(), ()):
        if kind in reject:
            raise RejectedAnswerError(f"{kind}: the model finished with {one_line(reason, 60)!r}")


def _ask_functions(answer: Any, reject: frozenset[Rejection | RejectFunction]) -> None:
    for function in reject:
        if callable(function) and _rejects(function, answer):
            name = getattr(function, "__qualname__", type(function).__qualname__)
            raise RejectedAnswerError(f"rejected by the function {one_line(name, 60)}")


def _rejects(function: RejectFunction, answer: Any) -> bool:
    try:
        return bool(function(answer))
    except Exception as error:
        error.add_note(_FUNCTION_RAISED)
        raise


def _whole(chunks: list[Any]) -> Any:
    """A stream's chunks as the message they add up to."""
    first, *rest = chunks
    if all(isinstance(chunk, AIMessageChunk) for chunk in chunks):
        return message_chunk_to_message(first + rest if rest else first)
    last = chunks[-1]
    return message_chunk_to_message(last) if isinstance(last, BaseMessageChunk) else last


def _verdict(error: BaseException) -> str | None:
    """What a parser's error means, in words of our own; `None` if it is no parser's."""
    for base in type(error).__mro__:
        if base.__name__ in _VERDICTS:
            return _VERDICTS[base.__name__]
    is_parsers = isinstance(error, OutputParserException) or (
        isinstance(error, ValidationError) and any(map(_is_parser, _modules(error)))
    )
    return _does_not_parse(error) if is_parsers else None


def _does_not_parse(error: BaseException) -> str:
    return f"the output does not parse ({type(error).__name__})"


def _modules(error: BaseException) -> Iterator[str]:
    """The modules that an exception has come through."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        yield str(frame.f_globals.get("__name__"))


def _is_parser(module: str) -> bool:
    """Whether a module parses output; not each `ValidationError` is about that."""
    # langchain_core.output_parsers, openai.lib._parsing, anthropic.lib._parse, a user's own.
    return "pars" in module
