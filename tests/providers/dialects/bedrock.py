"""Bedrock Converse, with AWS' binary event stream."""

import json
import struct
from binascii import crc32
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from .base import CITY, Answer, Dialect, Stream, Strict, Text, halves, one_key, one_of, request

ToolId = Annotated[str, StringConstraints(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]


class ToolUse(Strict):
    toolUseId: ToolId  # noqa: N815
    name: Text
    input: dict[str, Any]


class ReasoningText(Strict):
    text: str
    signature: str | None = None


class Result(Strict):
    text: str | None = None
    data: Any = Field(None, alias="json")
    image: Any = None


class ToolResult(Strict):
    toolUseId: ToolId  # noqa: N815
    content: list[Result]
    status: Literal["success", "error"] | None = None


Reasoning = one_key(reasoningText=ReasoningText, redactedContent=str)


class User(Strict):
    role: Literal["user"]
    content: list[one_key(text=Text, image=Any, toolResult=ToolResult, cachePoint=Any)]


class Assistant(Strict):
    role: Literal["assistant"]
    content: list[one_key(text=Text, toolUse=ToolUse, reasoningContent=Reasoning, cachePoint=Any)]


EXCEPTIONS = {
    400: "ValidationException",
    401: "UnrecognizedClientException",
    403: "AccessDeniedException",
    404: "ResourceNotFoundException",
    408: "ModelTimeoutException",
    429: "ThrottlingException",
    500: "InternalServerException",
    503: "ServiceUnavailableException",
}


class Bedrock(Dialect):
    name = "bedrock"
    media_type = "application/vnd.amazon.eventstream"
    schema = request(
        "BedrockRequest",
        ("messages", list[one_of("role", user=User, assistant=Assistant)]),
        "system inferenceConfig toolConfig additionalModelRequestFields guardrailConfig "
        "additionalModelResponseFieldPaths performanceConfig requestMetadata serviceTier",
    )

    def is_streamed(self, path: str, body: Any) -> bool:
        return path.endswith("converse-stream")

    def plain(self, answer: Answer) -> Any:
        message = {"role": "assistant", "content": list(self._blocks(answer))}
        usage = {"inputTokens": 1, "outputTokens": 1, "totalTokens": 2}
        end = {"stopReason": self._stop(answer), "usage": usage, "metrics": {"latencyMs": 1}}
        return {"output": {"message": message}, **end}

    def stream(self, answer: Answer) -> Stream:
        content: list[bytes] = []
        for index, block in enumerate(self._blocks(answer)):
            at = {"contentBlockIndex": index}
            content += [frame(kind, {**at, **data}) for kind, data in self._parts(block)]
        usage = {"inputTokens": 1, "outputTokens": 1, "totalTokens": 2}
        return Stream(
            [frame("messageStart", {"role": "assistant"})],
            content,
            [
                frame("messageStop", {"stopReason": self._stop(answer)}),
                frame("metadata", {"usage": usage, "metrics": {"latencyMs": 1}}),
            ],
        )

    def error(self, status: int, message: str) -> tuple[Any, dict[str, str]]:
        kind = EXCEPTIONS.get(status, "ModelErrorException")
        return {"message": message}, {"x-amzn-ErrorType": kind}

    def error_frame(self) -> bytes:
        return frame("serviceUnavailableException", {"message": "Too busy"}, kind="exception")

    def tool_ids(self, body: Any) -> Iterator[tuple[Literal["call", "result"], str]]:
        for block in (block for message in body["messages"] for block in message["content"]):
            if use := block.get("toolUse"):
                yield "call", use["toolUseId"]
            if result := block.get("toolResult"):
                yield "result", result["toolUseId"]

    def _blocks(self, answer: Answer) -> Iterator[dict[str, Any]]:
        if answer.reasoning:
            thought = {"text": answer.reasoning, "signature": "EqQB"}
            yield {"reasoningContent": {"reasoningText": thought}}
        if answer.text:
            yield {"text": answer.text}
        if answer.tool:
            yield {"toolUse": {"toolUseId": "tooluse_1", "name": answer.tool, "input": CITY}}

    def _parts(self, block: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
        if use := block.get("toolUse"):
            start = {"toolUseId": use["toolUseId"], "name": use["name"]}
            yield "contentBlockStart", {"start": {"toolUse": start}}
            yield "contentBlockDelta", {"delta": {"toolUse": {"input": json.dumps(CITY)}}}
        elif thought := block.get("reasoningContent"):
            for key, value in thought["reasoningText"].items():
                yield "contentBlockDelta", {"delta": {"reasoningContent": {key: value}}}
        else:
            for half in halves(block["text"]):
                yield "contentBlockDelta", {"delta": {"text": half}}
        yield "contentBlockStop", {}

    def _stop(self, answer: Answer) -> str:
        return "tool_use" if answer.tool else "end_turn"


def frame(name: str, payload: Any, kind: str = "event") -> bytes:
    """One message of `application/vnd.amazon.eventstream`."""
    headers = {
        ":message-type": kind,
        f":{kind}-type": name,
        ":content-type": "application/json",
    }
    head = b"".join(
        struct.pack("!B", len(key)) + key.encode() + struct.pack("!BH", 7, len(value)) + value
        for key, value in ((key, value.encode()) for key, value in headers.items())
    )
    data = json.dumps(payload).encode()
    prelude = struct.pack("!II", 16 + len(head) + len(data), len(head))
    message = prelude + struct.pack("!I", crc32(prelude)) + head + data
    return message + struct.pack("!I", crc32(message))
