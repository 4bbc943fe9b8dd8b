"""Ollama chat: a JSON object a line."""

import json
from collections.abc import Iterator
from typing import Any, Literal

from .base import CITY, Answer, Dialect, Stream, Strict, Text, halves, one_of, request


class Function(Strict):
    name: Text
    arguments: dict[str, Any]
    index: int | None = None
    description: str | None = None


class ToolCall(Strict):
    function: Function
    id: str | None = None
    type: Literal["function"] | None = None


class Said(Strict):
    role: Literal["system", "user", "assistant"]
    content: str = ""
    thinking: str | None = None
    images: list[Any] | None = None
    tool_calls: list[ToolCall] | None = None


class ToolResult(Strict):
    role: Literal["tool"]
    content: str
    tool_call_id: str | None = None
    tool_name: str | None = None
    images: list[Any] | None = None


class Ollama(Dialect):
    name = "ollama"
    media_type = "application/x-ndjson"
    schema = request(
        "OllamaRequest",
        ("messages", list[one_of("role", system=Said, user=Said, assistant=Said, tool=ToolResult)]),
        "model stream tools format options think keep_alive logprobs top_logprobs",
    )

    def is_streamed(self, path: str, body: Any) -> bool:
        return bool(body.get("stream", True))

    def plain(self, answer: Answer) -> Any:
        message = {"content": answer.text, **self._thought(answer), **self._call(answer)}
        return self._reply(message, done=True)

    def stream(self, answer: Answer) -> Stream:
        content: list[dict[str, Any]] = [{"content": half} for half in halves(answer.text)]
        if thought := self._thought(answer):
            content = [{"content": "", **thought}, *content]
        if answer.tool:
            content += [{"content": "", **self._call(answer)}]
        lines = [self._line(self._reply(message)) for message in content]
        return Stream([], lines, [self._line(self._reply({"content": ""}, done=True))])

    def error(self, status: int, message: str) -> tuple[Any, dict[str, str]]:
        return {"error": message}, {}

    def error_frame(self) -> bytes:
        return self._line({"error": "llama runner process no longer running"})

    def tool_ids(self, body: Any) -> Iterator[tuple[Literal["call", "result"], str]]:
        return iter(())  # Ollama pairs them by their order

    def _thought(self, answer: Answer) -> dict[str, Any]:
        return {"thinking": answer.reasoning} if answer.reasoning else {}

    def _call(self, answer: Answer) -> dict[str, Any]:
        call = {"function": {"name": answer.tool, "arguments": CITY}}
        return {"tool_calls": [call]} if answer.tool else {}

    def _reply(self, message: dict[str, Any], *, done: bool = False) -> dict[str, Any]:
        reply = {"model": "m", "created_at": "2026-01-01T00:00:00Z", "done": done}
        end = {"done_reason": "stop", "prompt_eval_count": 1, "eval_count": 1} if done else {}
        return {**reply, "message": {"role": "assistant", **message}, **end}

    def _line(self, data: Any) -> bytes:
        return json.dumps(data).encode() + b"\n"
