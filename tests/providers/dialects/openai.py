"""OpenAI chat completions, and what its compatible providers add."""

import json
from collections.abc import Iterator
from typing import Any, Literal

from .base import CITY, Answer, Dialect, Stream, Strict, Text, halves, one_of, request, sse

CALL_ID = "call_a1b2c3d4e5"


class Function(Strict):
    name: Text
    arguments: str


class ToolCall(Strict):
    id: Text
    type: Literal["function"]
    function: Function


class TextPart(Strict):
    type: Literal["text"]
    text: str


class RefusalPart(Strict):
    type: Literal["refusal"]
    refusal: str


class ImagePart(Strict):
    type: Literal["image_url"]
    image_url: Any


class System(Strict):
    role: Literal["system"]
    content: str | list[TextPart]
    name: str | None = None


class User(Strict):
    role: Literal["user"]
    content: str | list[one_of("type", text=TextPart, image_url=ImagePart)]
    name: str | None = None


class Assistant(Strict):
    role: Literal["assistant"]
    content: str | list[one_of("type", text=TextPart, refusal=RefusalPart)] | None = None
    name: str | None = None
    refusal: str | None = None
    tool_calls: list[ToolCall] | None = None


class ThinkingAssistant(Assistant):
    reasoning: str | None = None
    reasoning_content: str | None = None
    reasoning_details: list[Any] | None = None


class ToolResult(Strict):
    role: Literal["tool"]
    content: str | list[TextPart]
    tool_call_id: Text


class CompatibleToolResult(ToolResult):
    name: str | None = None


SETTINGS = (
    "model stream stream_options tools tool_choice parallel_tool_calls temperature top_p n stop "
    "max_tokens max_completion_tokens seed frequency_penalty presence_penalty user "
    "response_format logprobs top_logprobs reasoning_effort prompt_cache_key service_tier"
)


def messages(assistant: type[Strict], result: type[Strict]) -> Any:
    return "messages", list[
        one_of("role", system=System, user=User, assistant=assistant, tool=result)
    ]


class OpenAI(Dialect):
    name = "openai"
    schema = request("OpenAIRequest", messages(Assistant, ToolResult), SETTINGS)
    call_id = CALL_ID
    reasoning_key = ""

    def plain(self, answer: Answer) -> Any:
        calls = [{"id": self.call_id, "type": "function", "function": self._function(answer.tool)}]
        message = {"role": "assistant", "content": answer.text, **self._thought(answer)}
        if answer.tool:
            message["tool_calls"] = calls
        finish = "tool_calls" if answer.tool else "stop"
        return self._completion(
            "chat.completion", message=message, finish_reason=finish, logprobs=None
        )

    def stream(self, answer: Answer) -> Stream:
        content = [{"content": half} for half in halves(answer.text)]
        if answer.tool:
            call = {"index": 0, "id": self.call_id, "type": "function"}
            content += [{"tool_calls": [{**call, "function": self._function(answer.tool)}]}]
        if thought := self._thought(answer._replace(text="")):
            content = [thought, *content]
        finish = "tool_calls" if answer.tool else "stop"
        return Stream(
            [self._chunk({"role": "assistant", "content": ""})],
            [self._chunk(delta) for delta in content],
            [self._chunk({}, finish), sse("[DONE]")],
        )

    def error(self, status: int, message: str) -> tuple[Any, dict[str, str]]:
        return {"error": {"message": message, "type": "error", "param": None, "code": None}}, {}

    def error_frame(self) -> bytes:
        return sse({"error": {"message": "The server had an error", "type": "server_error"}})

    def tool_ids(self, body: Any) -> Iterator[tuple[Literal["call", "result"], str]]:
        for message in body["messages"]:
            yield from (("call", call["id"]) for call in message.get("tool_calls") or ())
            if message["role"] == "tool":
                yield "result", message["tool_call_id"]

    def _function(self, tool: str) -> dict[str, str]:
        return {"name": tool, "arguments": json.dumps(CITY)}

    def _thought(self, answer: Answer) -> dict[str, Any]:
        spoken = self.reasoning_key and answer.reasoning
        return {self.reasoning_key: answer.reasoning} if spoken else {}

    def _completion(self, kind: str, **choice: Any) -> dict[str, Any]:
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        return {
            "id": "chatcmpl-1",
            "object": kind,
            "created": 1,
            "model": "m",
            "system_fingerprint": "fp_1",
            "choices": [{"index": 0, **choice}],
            "usage": usage,
        }

    def _chunk(self, delta: dict[str, Any], finish: str | None = None) -> bytes:
        chunk = self._completion("chat.completion.chunk", delta=delta, finish_reason=finish)
        return sse(chunk if finish else {**chunk, "usage": None})


class Compatible(OpenAI):
    """Who speaks OpenAI's format with reasoning in the message, and takes it back."""

    name = "compatible"
    reasoning_key = "reasoning_content"
    schema = request(
        "CompatibleRequest",
        messages(ThinkingAssistant, CompatibleToolResult),
        f"{SETTINGS} reasoning reasoning_format include_reasoning provider "
        "search_domain_filter web_search_options safe_prompt extra_body session_id trace",
    )


class Groq(Compatible):
    name = "groq"
    reasoning_key = "reasoning"

    def error_frame(self) -> bytes:
        error = {"message": "over capacity", "type": "internal_server_error", "status_code": 503}
        return sse({"error": error}, "error")


class OpenRouter(Compatible):
    name = "openrouter"
    reasoning_key = "reasoning"

    def error(self, status: int, message: str) -> tuple[Any, dict[str, str]]:
        return {"error": {"code": status, "message": message}}, {}

    def error_frame(self) -> bytes:
        error = {"code": 503, "message": "Provider disconnected"}
        chunk = self._completion(
            "chat.completion.chunk", delta={"content": ""}, finish_reason="error"
        )
        return sse({**chunk, "error": error})
