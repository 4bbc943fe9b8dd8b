"""Cohere chat, version 2."""

import json
from collections.abc import Iterator
from typing import Any, Literal

from .base import CITY, Answer, Dialect, Stream, Strict, Text, halves, one_of, request, sse
from .openai import ImagePart, OpenAI, TextPart, ToolCall


class Thinking(Strict):
    type: Literal["thinking"]
    thinking: str


class Document(Strict):
    type: Literal["document"]
    document: dict[str, Any]


class Said(Strict):
    role: Literal["system", "user"]
    content: str | list[one_of("type", text=TextPart, image_url=ImagePart)]


class Assistant(Strict):
    role: Literal["assistant"]
    content: str | list[one_of("type", text=TextPart, thinking=Thinking)] | None = None
    tool_calls: list[ToolCall] | None = None
    tool_plan: str | None = None
    citations: list[Any] | None = None


class ToolResult(Strict):
    role: Literal["tool"]
    content: str | list[one_of("type", text=TextPart, document=Document)]
    tool_call_id: Text


class Cohere(Dialect):
    name = "cohere"
    schema = request(
        "CohereRequest",
        (
            "messages",
            list[one_of("role", system=Said, user=Said, assistant=Assistant, tool=ToolResult)],
        ),
        "model stream tools tool_choice strict_tools documents citation_options response_format "
        "safety_mode max_tokens stop_sequences temperature seed frequency_penalty "
        "presence_penalty k p logprobs thinking priority",
    )

    def plain(self, answer: Answer) -> Any:
        message: dict[str, Any] = {"role": "assistant", "content": list(self._content(answer))}
        if answer.tool:
            message |= {"tool_calls": [self._call(answer)], "tool_plan": "I will look."}
        end = {"finish_reason": self._finish(answer), "usage": self._usage()}
        return {"id": "c1", "message": message, **end}

    def stream(self, answer: Answer) -> Stream:
        content: list[bytes] = []
        for index, part in enumerate(self._content(answer)):
            key = part["type"]
            content += [self._event("content-start", {"content": {**part, key: ""}}, index)]
            for half in halves(part[key]):
                content += [self._event("content-delta", {"content": {key: half}}, index)]
            content += [self._event("content-end", None, index)]
        if answer.tool:
            call = self._call(answer)
            begun = {**call, "function": {**call["function"], "arguments": ""}}
            arguments = {"function": {"arguments": call["function"]["arguments"]}}
            content += [
                self._event("tool-plan-delta", {"tool_plan": "I will look."}),
                self._event("tool-call-start", {"tool_calls": begun}, 0),
                self._event("tool-call-delta", {"tool_calls": arguments}, 0),
                self._event("tool-call-end", None, 0),
            ]
        start = {"role": "assistant", "content": [], "tool_plan": "", "tool_calls": []}
        end = {"finish_reason": self._finish(answer), "usage": self._usage()}
        return Stream(
            [self._event("message-start", start, id="c1")],
            content,
            [sse({"type": "message-end", "id": "c1", "delta": end})],
        )

    def error(self, status: int, message: str) -> tuple[Any, dict[str, str]]:
        return {"id": "e1", "message": message}, {}

    def error_frame(self) -> bytes:
        end = {"finish_reason": "ERROR", "error": "internal server error", "usage": self._usage()}
        return sse({"type": "message-end", "id": "c1", "delta": end})

    tool_ids = OpenAI.tool_ids

    def _content(self, answer: Answer) -> Iterator[dict[str, Any]]:
        if answer.reasoning:
            yield {"type": "thinking", "thinking": answer.reasoning}
        if answer.text:
            yield {"type": "text", "text": answer.text}

    def _call(self, answer: Answer) -> dict[str, Any]:
        function = {"name": answer.tool, "arguments": json.dumps(CITY)}
        return {"id": f"{answer.tool}_x1", "type": "function", "function": function}

    def _event(self, kind: str, message: Any, index: int | None = None, **more: Any) -> bytes:
        at = {} if index is None else {"index": index}
        delta = {} if message is None else {"delta": {"message": message}}
        return sse({"type": kind, **at, **delta, **more}, kind)

    def _finish(self, answer: Answer) -> str:
        return "TOOL_CALL" if answer.tool else "COMPLETE"

    def _usage(self) -> dict[str, Any]:
        tokens = {"input_tokens": 1, "output_tokens": 1}
        return {"tokens": tokens, "billed_units": tokens}
