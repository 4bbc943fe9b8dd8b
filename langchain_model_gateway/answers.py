"""What counts as an answer, when a stream has begun to be one, and the stamp of who gave it."""

import traceback
from collections.abc import Iterator, Mapping, Sequence
from operator import attrgetter
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

from langchain_model_gateway.errors import EmptyStreamError, FailedAttempt, RejectedAnswerError
from langchain_model_gateway.provider_errors import NO_CHUNKS, NO_CHUNKS_ERRORS
from langchain_model_gateway.rejection import (
    EMPTY,
    TRUNCATED,
    Rejects,
    calls_tools,
    finish_reason,
    is_empty,
)

STAMP: Final = "gateway"

HELD_BACK_LIMIT: Final = 64
"""The most empty chunks held back; a model that sends more has begun to answer."""

# Keys of a content block that say which block it is, not what is in it.
_BLOCK_LABELS: Final = frozenset({"type", "index", "id"})
# What Cohere and others tell of the call in a message's `additional_kwargs`.
_ABOUT_THE_CALL: Final = frozenset(
    {"finish_reason", "generation_id", "id", "model_id", "stop_reason", "token_count", "usage"}
)

# By name, since langchain-core has them from 1.7.5 on, and no client library is imported.
_VERDICTS: Final[Mapping[str, str]] = {
    "ModelRefusalError": "refusal: the model declined to answer",
    "OpenAIRefusalError": "refusal: the model declined to answer",
    "ContentFilterFinishReasonError": "content_filter: the output does not parse",
    "LengthFinishReasonError": "length: the output does not parse",
}


_NAME: Final = attrgetter("__name__")


class StreamedAnswer:
    """A stream as it comes in: what is held back, whether it has begun, how it ended.

    Args:
        reject: What is rejected, if anything is.
        counts_tokens: Whether to sum up the usage that its chunks tell.

    Attributes:
        begun: Whether it has begun to answer.
        head: What was held back until then.
        latency: The seconds until then, where somebody wants to know.
        usage: The tokens that its chunks have told, where they are counted.
    """

    __slots__ = (
        *("_chunks", "_counts_tokens", "_empty", "_finish", "_reject", "begun", "head"),
        *("latency", "usage"),
    )

    def __init__(self, reject: Rejects | None, *, counts_tokens: bool = False) -> None:
        self._counts_tokens = counts_tokens
        self.latency: float | None = None
        self.usage: UsageMetadata | None = None
        self._reject = reject
        self._finish = ""
        self._empty = True
        self._chunks: list[Any] = []
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
        if (reject := self._reject) is not None and isinstance(chunk, BaseMessage):
            self._finish = finish_reason(chunk) or self._finish
            self._empty = self._empty and is_empty(chunk)
            if reject.functions:
                self._chunks.append(chunk)
            reject.check_refusal(chunk)
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
        reject, has_no_text = self._reject, False
        is_message = bool(self.head) and isinstance(self.head[0], BaseMessage)
        if reject is not None:
            reject.check_finish(self._finish)
            has_no_text = is_message and self._empty and "empty" in reject.kinds
        if has_no_text and self._finish:
            raise RejectedAnswerError(EMPTY)
        if not self.begun:
            raise EmptyStreamError(f"the stream ended after {len(self.head)} empty chunks")
        if reject is None:
            return
        if is_message and not self._finish and "truncated" in reject.kinds:
            raise RejectedAnswerError(TRUNCATED)
        if has_no_text:
            raise RejectedAnswerError(EMPTY)
        if self._chunks:
            reject.ask_functions(_whole(self._chunks))


def check_answer(answer: Any, reject: Rejects | None) -> None:
    """Reject what is no answer.

    Args:
        answer: What a model gave.
        reject: What is rejected, if anything is.

    Raises:
        RejectedAnswerError: If it is nothing, does not parse, or is rejected.
    """
    if isinstance(answer, BaseMessage):
        if reject is not None:
            reject.check(answer)
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


def is_structured(answer: Any) -> bool:
    """Whether this is what `with_structured_output(..., include_raw=True)` gives."""
    return isinstance(answer, dict) and answer.keys() == {"raw", "parsed", "parsing_error"}


def usage_of(answer: Any) -> UsageMetadata | None:
    """The tokens that an answer, or a chunk, tells; `None` if it does not."""
    message = answer.get("raw") if isinstance(answer, dict) else answer
    return message.usage_metadata if isinstance(message, AIMessage) else None


def carries_something(chunk: Any) -> bool:
    """Whether a chunk holds any part of an answer: text, a tool call, reasoning, any block."""
    if isinstance(chunk, BaseMessage):
        parts = chunk.content if isinstance(chunk.content, list) else [chunk.content]
        return (
            any(map(_block_carries, parts))
            or calls_tools(chunk)
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
        stamped = answer.model_copy()  # the update that it can take costs more than an assignment
        stamped.response_metadata = {**metadata, STAMP: mark}
        return stamped
    if isinstance(answer, dict) and isinstance(answer.get("raw"), BaseMessage):
        return {**answer, "raw": stamp(answer["raw"], model_name, failures, hedged)}
    return answer


def _block_carries(block: Any) -> bool:
    if isinstance(block, Mapping):
        return any(value for key, value in block.items() if key not in _BLOCK_LABELS)
    return bool(block)


def _whole(chunks: list[Any]) -> Any:
    """A stream's chunks as the message they add up to."""
    first, *rest = chunks
    if all(isinstance(chunk, AIMessageChunk) for chunk in chunks):
        return message_chunk_to_message(first + rest if rest else first)
    last = chunks[-1]
    return message_chunk_to_message(last) if isinstance(last, BaseMessageChunk) else last


def _verdict(error: BaseException) -> str | None:
    """What a parser's error means, in words of our own; `None` if it is no parser's."""
    names = map(_NAME, type(error).__mro__)
    if (name := next(filter(_VERDICTS.__contains__, names), None)) is not None:
        return _VERDICTS[name]
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
