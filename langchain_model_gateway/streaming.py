"""The head of a stream: what is held back until an answer has really begun."""

from collections.abc import Mapping
from typing import Any, Final

from langchain_core.exceptions import ModelAPIError
from langchain_core.messages import AIMessageChunk, BaseMessage

HELD_BACK_LIMIT: Final = 64
"""The most empty chunks held back; a model that sends more has begun to answer."""

# Keys of a content block that say which block it is, not what is in it.
_BLOCK_LABELS: Final = frozenset({"type", "index", "id"})


class EmptyStreamError(ModelAPIError):
    """A model's stream ended before it carried anything."""


class Head:
    """The chunks of a stream up to the first that carries something."""

    __slots__ = ("begun", "chunks")

    def __init__(self) -> None:
        self.chunks: list[Any] = []
        self.begun = False

    def completed_by(self, chunk: Any) -> bool:
        """Take a chunk; whether the answer has now begun, and with it the commitment to it."""
        self.chunks.append(chunk)
        self.begun = carries_something(chunk) or len(self.chunks) > HELD_BACK_LIMIT
        return self.begun

    def check(self) -> None:
        """Refuse a stream that ended before it began.

        Raises:
            EmptyStreamError: If no chunk carried anything.
        """
        if not self.begun:
            raise EmptyStreamError(f"the stream ended after {len(self.chunks)} empty chunks")


def carries_something(chunk: Any) -> bool:
    """Whether a chunk holds any part of an answer: text, a tool call, reasoning, any block."""
    if isinstance(chunk, BaseMessage):
        if isinstance(chunk, AIMessageChunk) and chunk.tool_call_chunks:
            return True
        content = chunk.content
        if isinstance(content, str):
            return bool(content) or bool(chunk.additional_kwargs)
        return any(map(_block_carries, content)) or bool(chunk.additional_kwargs)
    return chunk is not None and chunk != ""


def _block_carries(block: Any) -> bool:
    if isinstance(block, Mapping):
        return any(value for key, value in block.items() if key not in _BLOCK_LABELS)
    return bool(block)
