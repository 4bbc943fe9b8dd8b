"""Gemini generateContent."""

from collections.abc import Iterator
from typing import Any, Literal

from .base import CITY, Answer, Dialect, Stream, Strict, Text, halves, request, sse


class Call(Strict):
    name: Text
    args: dict[str, Any] | None = None
    id: str | None = None


class Result(Strict):
    name: Text
    response: dict[str, Any]
    id: str | None = None


class Part(Strict):
    text: str | None = None
    thought: bool | None = None
    thoughtSignature: str | None = None  # noqa: N815
    functionCall: Call | None = None  # noqa: N815
    functionResponse: Result | None = None  # noqa: N815
    inlineData: Any = None  # noqa: N815


class Content(Strict):
    role: Literal["user", "model", "function"] | None = None
    parts: list[Part]


STATUSES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
}


class Gemini(Dialect):
    name = "gemini"
    schema = request(
        "GeminiRequest",
        ("contents", list[Content]),
        "systemInstruction tools toolConfig safetySettings generationConfig cachedContent labels",
    )

    def is_streamed(self, path: str, body: Any) -> bool:
        return "streamGenerateContent" in path

    def plain(self, answer: Answer) -> Any:
        return self._candidate(list(self._parts(answer, [answer.text])), finishReason="STOP")

    def stream(self, answer: Answer) -> Stream:
        parts = self._parts(answer, halves(answer.text))
        content = [sse(self._candidate([part])) for part in parts]
        return Stream([], content, [sse(self._candidate([{"text": ""}], finishReason="STOP"))])

    def error(self, status: int, message: str) -> tuple[Any, dict[str, str]]:
        kind = STATUSES.get(status, "UNKNOWN")
        return {"error": {"code": status, "message": message, "status": kind}}, {}

    def error_frame(self) -> bytes:
        return sse(self.error(503, "The model is overloaded.")[0])

    def tool_ids(self, body: Any) -> Iterator[tuple[Literal["call", "result"], str]]:
        for part in (part for content in body["contents"] for part in content["parts"]):
            if call := part.get("functionCall"):
                yield "call", call["name"]
            if result := part.get("functionResponse"):
                yield "result", result["name"]

    def _parts(self, answer: Answer, texts: list[str]) -> Iterator[dict[str, Any]]:
        if answer.reasoning:
            yield {"text": answer.reasoning, "thought": True}
        yield from ({"text": text} for text in texts if text)
        if answer.tool:
            call = {"name": answer.tool, "args": CITY}
            yield {"functionCall": call, "thoughtSignature": "AQID"}

    def _candidate(self, parts: list[Any], **more: Any) -> dict[str, Any]:
        content = {"role": "model", "parts": parts}
        usage = {"promptTokenCount": 1, "candidatesTokenCount": 1, "totalTokenCount": 2}
        candidate = {"content": content, "index": 0, **more}
        return {"candidates": [candidate], "usageMetadata": usage, "modelVersion": "m"}
