"""Anthropic Messages."""

import json
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import StringConstraints

from .base import CITY, Answer, Dialect, Stream, Strict, Text, halves, one_of, request, sse

ToolId = Annotated[str, StringConstraints(pattern=r"^[a-zA-Z0-9_-]+$")]


class Block(Strict):
    cache_control: Any = None


class TextBlock(Block):
    type: Literal["text"]
    text: Text
    citations: Any = None


class Image(Block):
    type: Literal["image"]
    source: Any


class Thinking(Strict):
    type: Literal["thinking"]
    thinking: str
    signature: Text


class RedactedThinking(Strict):
    type: Literal["redacted_thinking"]
    data: str


class ToolUse(Block):
    type: Literal["tool_use"]
    id: ToolId
    name: Text
    input: dict[str, Any]
    caller: Any = None


class ToolResult(Block):
    type: Literal["tool_result"]
    tool_use_id: ToolId
    content: str | list[one_of("type", text=TextBlock, image=Image)] | None = None
    is_error: bool | None = None


class User(Strict):
    role: Literal["user"]
    content: Text | list[one_of("type", text=TextBlock, image=Image, tool_result=ToolResult)]


class Assistant(Strict):
    role: Literal["assistant"]
    content: (
        Text
        | list[
            one_of(
                "type",
                text=TextBlock,
                thinking=Thinking,
                redacted_thinking=RedactedThinking,
                tool_use=ToolUse,
            )
        ]
    )


ERRORS = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    529: "overloaded_error",
}


class Anthropic(Dialect):
    name = "anthropic"
    schema = request(
        "AnthropicRequest",
        ("messages", list[one_of("role", user=User, assistant=Assistant)]),
        "model max_tokens stream system tools tool_choice temperature top_p top_k stop_sequences "
        "thinking metadata service_tier cache_control output_config",
    )

    def plain(self, answer: Answer) -> Any:
        message = self._message(list(self._blocks(answer)))
        return {**message, "stop_reason": self._stop(answer)}

    def stream(self, answer: Answer) -> Stream:
        content: list[bytes] = []
        for index, block in enumerate(self._blocks(answer)):
            content += [self._event({**event, "index": index}) for event in self._parts(block)]
        start = self._event({"type": "message_start", "message": self._message([])})
        delta = {"stop_reason": self._stop(answer), "stop_sequence": None}
        end = {"type": "message_delta", "delta": delta, "usage": {"output_tokens": 1}}
        return Stream([start], content, [self._event(end), self._event({"type": "message_stop"})])

    def error(self, status: int, message: str) -> tuple[Any, dict[str, str]]:
        kind = ERRORS.get(status, "api_error")
        return {"type": "error", "error": {"type": kind, "message": message}}, {}

    def error_frame(self) -> bytes:
        return self._event({**self.error(529, "Overloaded")[0]})

    def tool_ids(self, body: Any) -> Iterator[tuple[Literal["call", "result"], str]]:
        for message in body["messages"]:
            for block in message["content"] if isinstance(message["content"], list) else ():
                if block["type"] == "tool_use":
                    yield "call", block["id"]
                if block["type"] == "tool_result":
                    yield "result", block["tool_use_id"]

    def _blocks(self, answer: Answer) -> Iterator[dict[str, Any]]:
        if answer.reasoning:
            yield {"type": "thinking", "thinking": answer.reasoning, "signature": "EqQB"}
        if answer.text:
            yield {"type": "text", "text": answer.text}
        if answer.tool:
            yield {"type": "tool_use", "id": "toolu_01A", "name": answer.tool, "input": CITY}

    def _parts(self, block: dict[str, Any]) -> Iterator[dict[str, Any]]:
        empty: dict[str, Any]
        match block["type"]:
            case "thinking":
                empty = {"thinking": "", "signature": ""}
                deltas = [
                    {"type": "thinking_delta", "thinking": block["thinking"]},
                    {"type": "signature_delta", "signature": block["signature"]},
                ]
            case "text":
                empty = {"text": ""}
                deltas = [{"type": "text_delta", "text": half} for half in halves(block["text"])]
            case _:
                empty = {"input": {}}
                deltas = [{"type": "input_json_delta", "partial_json": json.dumps(CITY)}]
        yield {"type": "content_block_start", "content_block": {**block, **empty}}
        yield from ({"type": "content_block_delta", "delta": delta} for delta in deltas)
        yield {"type": "content_block_stop"}

    def _event(self, data: dict[str, Any]) -> bytes:
        return sse(data, data["type"])

    def _message(self, content: list[Any]) -> dict[str, Any]:
        usage = {"input_tokens": 1, "output_tokens": 1}
        head = {"id": "msg_1", "type": "message", "role": "assistant", "model": "m"}
        stop = {"stop_reason": None, "stop_sequence": None}
        return {**head, "content": content, **stop, "usage": usage}

    def _stop(self, answer: Answer) -> str:
        return "tool_use" if answer.tool else "end_turn"
