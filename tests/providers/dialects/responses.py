"""OpenAI Responses."""

import json
from collections.abc import Iterator
from typing import Any, Literal

from .base import CITY, Answer, Dialect, Stream, Strict, Text, halves, one_of, request, sse
from .openai import CALL_ID, OpenAI


class Part(Strict):
    type: Literal["input_text", "output_text"]
    text: str
    annotations: list[Any] | None = None
    logprobs: list[Any] | None = None


class Refusal(Strict):
    type: Literal["refusal"]
    refusal: str


class Image(Strict):
    type: Literal["input_image"]
    image_url: str
    detail: str | None = None


class Said(Strict):
    """What anybody said; with no `type` it is a message too."""

    type: Literal["message"] | None = None
    role: Literal["user", "system", "developer", "assistant"]
    content: (
        str
        | list[
            one_of("type", input_text=Part, output_text=Part, refusal=Refusal, input_image=Image)
        ]
    )
    id: str | None = None
    status: str | None = None
    phase: str | None = None


class Summary(Strict):
    type: Literal["summary_text"]
    text: str


class Reasoning(Strict):
    type: Literal["reasoning"]
    id: Text
    summary: list[Summary]
    encrypted_content: str | None = None
    content: list[Any] | None = None
    status: str | None = None


class FunctionCall(Strict):
    type: Literal["function_call"]
    call_id: Text
    name: Text
    arguments: str
    id: str | None = None
    status: str | None = None


class FunctionOutput(Strict):
    type: Literal["function_call_output"]
    call_id: Text
    output: str | list[Part]
    id: str | None = None
    status: str | None = None


def _item(value: Any) -> Any:
    return value.get("type") or "message"


class Responses(Dialect):
    name = "responses"
    schema = request(
        "ResponsesRequest",
        (
            "input",
            str
            | list[
                one_of(
                    "type",
                    message=Said,
                    reasoning=Reasoning,
                    function_call=FunctionCall,
                    function_call_output=FunctionOutput,
                )
            ],
        ),
        "model stream tools tool_choice parallel_tool_calls temperature top_p max_output_tokens "
        "reasoning include store text instructions previous_response_id metadata truncation "
        "prompt_cache_key service_tier user stream_options",
    )

    def plain(self, answer: Answer) -> Any:
        return self._response("completed", list(self._items(answer)))

    def stream(self, answer: Answer) -> Stream:
        content: list[bytes] = []
        for position, item in enumerate(self._items(answer)):
            at = {"output_index": position, "item_id": item["id"]}
            content += [self._event(kind, {**at, **data}) for kind, data in self._parts(item)]
        created = {"response": self._response("in_progress", [])}
        completed = {"response": self.plain(answer)}
        return Stream(
            [self._event("response.created", created)],
            content,
            [self._event("response.completed", completed)],
        )

    error = OpenAI.error

    def error_frame(self) -> bytes:
        return self._event(
            "error", {"code": "server_error", "message": "The server had an error", "param": None}
        )

    def failed_frame(self) -> bytes:
        error = {"code": "server_error", "message": "The server had an error"}
        return self._event(
            "response.failed", {"response": {**self._response("failed", []), "error": error}}
        )

    def tool_ids(self, body: Any) -> Iterator[tuple[Literal["call", "result"], str]]:
        kinds: dict[Any, Literal["call", "result"]] = {
            "function_call": "call",
            "function_call_output": "result",
        }
        for item in body["input"] if isinstance(body["input"], list) else ():
            if kind := kinds.get(item.get("type")):
                yield kind, item["call_id"]

    def complaint(self, body: Any) -> str | None:
        if isinstance(body.get("input"), list):
            body = {**body, "input": [{"type": _item(item), **item} for item in body["input"]]}
        return super().complaint(body)

    def _items(self, answer: Answer) -> Iterator[dict[str, Any]]:
        if answer.reasoning:
            summary = [{"type": "summary_text", "text": answer.reasoning}]
            yield {
                "type": "reasoning",
                "id": "rs_1",
                "summary": summary,
                "encrypted_content": "gAAAA",
            }
        if answer.text:
            text = {"type": "output_text", "text": answer.text, "annotations": []}
            done = {"role": "assistant", "status": "completed", "content": [text]}
            yield {"type": "message", "id": "msg_1", **done}
        if answer.tool:
            call = {"call_id": CALL_ID, "name": answer.tool, "arguments": json.dumps(CITY)}
            yield {"type": "function_call", "id": "fc_1", "status": "completed", **call}

    def _parts(self, item: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
        first = {"content_index": 0}
        match item["type"]:
            case "reasoning":
                yield "response.output_item.added", {"item": {**item, "summary": []}}
                part = {"summary_index": 0, "part": {"type": "summary_text", "text": ""}}
                yield "response.reasoning_summary_part.added", part
                delta = {"summary_index": 0, "delta": item["summary"][0]["text"]}
                yield "response.reasoning_summary_text.delta", delta
            case "message":
                yield "response.output_item.added", {"item": {**item, "content": []}}
                empty = {**item["content"][0], "text": ""}
                yield "response.content_part.added", {**first, "part": empty}
                for half in halves(item["content"][0]["text"]):
                    yield "response.output_text.delta", {**first, "delta": half, "logprobs": []}
            case "function_call":
                yield "response.output_item.added", {"item": {**item, "arguments": ""}}
                yield "response.function_call_arguments.delta", {"delta": item["arguments"]}
        yield "response.output_item.done", {"item": item}

    def _event(self, kind: str, data: dict[str, Any]) -> bytes:
        return sse({"type": kind, "sequence_number": 1, **data}, kind)

    def _response(self, status: str, output: list[Any]) -> dict[str, Any]:
        usage = {"input_tokens": 1, "output_tokens": 1, "total_tokens": 2}
        details = {
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens_details": {"reasoning_tokens": 0},
        }
        settings = {"tools": [], "tool_choice": "auto", "parallel_tool_calls": True}
        return {
            "id": "resp_1",
            "object": "response",
            "created_at": 1,
            "model": "m",
            "status": status,
            "output": output,
            "error": None,
            "usage": {**usage, **details} if output else None,
            **settings,
        }
