"""Mistral chat completions: OpenAI's form, with rules of its own."""

from typing import Annotated, Any, Literal

from pydantic import StringConstraints

from .base import Answer, Strict, Text, one_of, request, sse
from .openai import Function, ImagePart, OpenAI, System, TextPart

CallId = Annotated[str, StringConstraints(pattern=r"^[a-zA-Z0-9]{9}$")]


class ToolCall(Strict):
    id: CallId
    function: Function
    type: Literal["function"] | None = None
    index: int | None = None


class Thinking(Strict):
    type: Literal["thinking"]
    thinking: list[TextPart]
    closed: bool | None = None


Parts = list[one_of("type", text=TextPart, thinking=Thinking, image_url=ImagePart)]


class User(Strict):
    role: Literal["user"]
    content: str | Parts


class Assistant(Strict):
    role: Literal["assistant"]
    content: str | Parts | None = None
    tool_calls: list[ToolCall] | None = None
    prefix: bool | None = None


class ToolResult(Strict):
    role: Literal["tool"]
    content: str | Parts
    tool_call_id: CallId
    name: Text | None = None


class Mistral(OpenAI):
    name = "mistral"
    schema = request(
        "MistralRequest",
        (
            "messages",
            list[one_of("role", system=System, user=User, assistant=Assistant, tool=ToolResult)],
        ),
        "model stream tools tool_choice parallel_tool_calls temperature top_p max_tokens stop "
        "random_seed safe_prompt response_format prompt_mode presence_penalty frequency_penalty n",
    )
    call_id = "D681PevKs"

    def error(self, status: int, message: str) -> tuple[Any, dict[str, str]]:
        return {"object": "error", "message": message, "type": "error", "code": str(status)}, {}

    def error_frame(self) -> bytes:
        return sse({"object": "error", "message": "Service unavailable", "code": "3505"})

    def _thought(self, answer: Answer) -> dict[str, Any]:
        if not answer.reasoning:
            return {}
        text = [{"type": "text", "text": answer.text}] if answer.text else []
        thinking = [{"type": "text", "text": answer.reasoning}]
        return {"content": [{"type": "thinking", "thinking": thinking}, *text]}
