"""What a request needs, and who cannot take it, as the models' profiles say.

Sans-I/O; no token is counted. Where a profile says nothing, nobody is suspected.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)
from langchain_core.prompt_values import PromptValue
from langchain_core.runnables import Runnable
from langchain_core.runnables.base import RunnableBindingBase

from langchain_model_gateway.wrappers import within

MESSAGES: Final = frozenset({AIMessage, AIMessageChunk, HumanMessage, SystemMessage, ToolMessage})
"""Messages whose text is all that they hold."""

_REASONS: Final = {
    "image_inputs": "its profile takes no images",
    "audio_inputs": "its profile takes no audio",
    "video_inputs": "its profile takes no video",
    "pdf_inputs": "its profile takes no PDF",
    "tool_calling": "its profile calls no tools",
}
"""Keys of LangChain's `ModelProfile`, and what it means that one is false."""

_BLOCKS: Final = {
    **dict.fromkeys(("image", "image_url", "input_image"), "image_inputs"),
    **dict.fromkeys(("audio", "input_audio"), "audio_inputs"),
    **dict.fromkeys(("video", "video_url"), "video_inputs"),
}
"""What a content block's type needs; that of a file is seen by its media type."""
_FILES: Final = frozenset({"document", "file", "input_file", "media"})


def lacks(profile: Mapping[str, Any]) -> frozenset[str]:
    """What a profile says that its model cannot take."""
    return frozenset(key for key in _REASONS if profile.get(key) is False)


def needs(value: Any, *, has_tools: bool = False) -> frozenset[str]:
    """What a request needs beside plain text.

    Args:
        value: A call's input.
        has_tools: Whether it comes with tools.
    """
    found = {"tool_calling"} if has_tools else set()
    if value.__class__ is str:
        return frozenset(found)
    messages = value.to_messages() if isinstance(value, PromptValue) else value
    for message in messages if isinstance(messages, (list, tuple)) else (messages,):
        content = _content(message)
        if isinstance(content, list):
            found.update(_needed_for(content))
    return frozenset(found)


def why_not(needed: frozenset[str], lacking: frozenset[str]) -> str | None:
    """Why a model cannot take a request; `None` if nothing is known against it."""
    return next((text for key, text in _REASONS.items() if key in needed & lacking), None)


def window(profile: Mapping[str, Any]) -> int | None:
    """The most tokens of input, if a profile says."""
    most = profile.get("max_input_tokens")
    return most if isinstance(most, int) and most > 0 else None


def bound_tools(runnable: Runnable[Any, Any]) -> list[Any]:
    """The tools that are bound to a model, anywhere in its wrappers."""
    bound = runnable.kwargs.get("tools") if isinstance(runnable, RunnableBindingBase) else None
    own = list(bound) if isinstance(bound, (list, tuple)) else []
    return own + [tool for each in within(runnable) for tool in bound_tools(each)]


def _content(message: Any) -> Any:
    """The content of a message, however it is written."""
    if isinstance(message, Mapping):
        return message.get("content")
    if isinstance(message, (tuple, list)):
        return message[-1] if message else None
    return getattr(message, "content", None)


def _needed_for(blocks: Iterable[Any]) -> Iterator[str]:
    for block in blocks:
        if not isinstance(block, Mapping) or not isinstance(kind := block.get("type"), str):
            continue
        if kind in _BLOCKS:
            yield _BLOCKS[kind]
        elif kind in _FILES:
            media = _media_type(block)
            if media.startswith("application/pdf"):
                yield "pdf_inputs"
            elif (key := _BLOCKS.get(media.partition("/")[0])) is not None:
                yield key


def _media_type(block: Mapping[str, Any]) -> str:
    """The media type of a file: LangChain's, Anthropic's, or in OpenAI's data URL; else ""."""
    nested = [each for key in ("source", "file") if isinstance(each := block.get(key), Mapping)]
    for part in (block, *nested):
        for key in ("mime_type", "media_type"):
            if isinstance(found := part.get(key), str):
                return found
        if isinstance(url := part.get("file_data"), str) and url.startswith("data:"):
            return url[5:60]
    return ""
