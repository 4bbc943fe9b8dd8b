"""What a dialect is: how one provider's API answers, streams, fails, and checks a request."""

import json
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    StringConstraints,
    Tag,
    ValidationError,
    create_model,
)

CITY = {"city": "Paris"}
"""The arguments of every tool call."""

Text = Annotated[str, StringConstraints(min_length=1)]


class Answer(NamedTuple):
    """What a provider says: text, or the name of a tool it calls, after some reasoning."""

    text: str = ""
    tool: str = ""
    reasoning: str = ""


class Stream(NamedTuple):
    """A streamed answer: frames before, with and after what a reader wants."""

    opening: list[bytes]
    content: list[bytes]
    closing: list[bytes]


class Strict(BaseModel):
    """A part of a request in which every key is known, as the real APIs want it."""

    model_config = ConfigDict(extra="forbid")


def request(name: str, messages: Any, settings: str) -> type[BaseModel]:
    """A request's schema: its messages in full, and the names of its other settings."""
    fields: dict[str, Any] = dict.fromkeys(settings.split(), (Any, None))
    return create_model(name, __base__=Strict, **fields, **{messages[0]: (messages[1], ...)})


def one_of(key: str, **models: Any) -> Any:
    """A union told apart by the value of one key."""
    union = None
    for tag, model in models.items():
        tagged = Annotated[model, Tag(tag)]
        union = tagged if union is None else union | tagged
    return Annotated[union, Discriminator(lambda value: value.get(key))]


def one_key(**models: Any) -> Any:
    """A part that may have these keys and no other."""
    fields: dict[str, Any] = {key: (model, None) for key, model in models.items()}
    return create_model("Part", __base__=Strict, **fields)


class Dialect:
    """One provider's API. What differs from OpenAI's habits is overridden."""

    name: ClassVar[str]
    media_type: ClassVar[str] = "text/event-stream"
    schema: ClassVar[type[BaseModel]]

    def is_streamed(self, path: str, body: Any) -> bool:
        return bool(body.get("stream"))

    def plain(self, answer: Answer) -> Any:
        raise NotImplementedError

    def stream(self, answer: Answer) -> Stream:
        raise NotImplementedError

    def error(self, status: int, message: str) -> tuple[Any, dict[str, str]]:
        """The body and the headers of an HTTP error."""
        raise NotImplementedError

    def error_frame(self) -> bytes:
        """An error in the middle of a stream that began with 200."""
        raise NotImplementedError

    def tool_ids(self, body: Any) -> Iterator[tuple[Literal["call", "result"], str]]:
        """Each tool call and each result in a request, in its order."""
        raise NotImplementedError

    def complaint(self, body: Any) -> str | None:
        """What the real API would say against a request; `None` if it takes it."""
        try:
            self.schema.model_validate(body, strict=True)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False, include_context=False)[0]
            return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        called: set[str] = set()
        for kind, tool_id in self.tool_ids(body):
            if kind == "result" and tool_id not in called:
                return f"a result for {tool_id!r}, which nobody called"
            (called.add if kind == "call" else called.discard)(tool_id)
        return f"no result for the calls {sorted(called)}" if called else None


def sse(data: Any, event: str = "") -> bytes:
    """A server-sent event."""
    head = f"event: {event}\n" if event else ""
    return f"{head}data: {data if isinstance(data, str) else json.dumps(data)}\n\n".encode()


def halves(text: str) -> list[str]:
    """A text in the two pieces in which it is streamed."""
    return [text[: len(text) // 2], text[len(text) // 2 :]] if text else []
