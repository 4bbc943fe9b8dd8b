"""A provider on this machine: it speaks every dialect, records what it is asked, and breaks on cue.

`llmock` speaks several of these too, but neither puts an error event into a stream, nor cuts a
connection before the head, nor checks a history's blocks as the real APIs do.
"""

import json
import socket
import struct
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal, NamedTuple, Self

from .dialects import DIALECTS, Answer, Dialect

GREETING = Answer("Hello there")

HANG = 5.0
"""The longest a hanging request is kept, in seconds; closing or mending the server ends it."""

Way = Literal["status", "cut", "error", "failed", "empty", "no_finish", "hang"]
When = Literal["head", "opening", "content"]


class Fault(NamedTuple):
    """One way to break.

    Args:
        way: What happens.
        when: Before the head, before the first word, or after it; plain answers know only the
            first and the last, which is a body that ends too soon.
        status: Of an HTTP error.
        headers: That go with it.
        message: Its text.
        code: The error's code, in the dialects that have one.
    """

    way: Way
    when: When = "head"
    status: int = 0
    headers: dict[str, str] = {}
    message: str = "This is the fault that was asked for."
    code: str | None = None


class Asked(NamedTuple):
    """A request that came in."""

    path: str
    body: Any


@dataclass
class Provider:
    """The server. Used as a context manager; its fields may be changed at any time."""

    answer: Answer = GREETING
    fault: Fault | None = None
    requests: list[Asked] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._mended = threading.Event()
        handler = type("Handler", (_Handler,), {"provider": self})
        self._http = _Server(("127.0.0.1", 0), handler)
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._mended.set()
        self._http.shutdown()
        self._http.server_close()

    def url(self, dialect: str) -> str:
        """Where a client of this dialect finds its provider."""
        return f"http://127.0.0.1:{self._http.server_port}/{dialect}"

    def reset(self, answer: Answer = GREETING, fault: Fault | None = None) -> Self:
        """Forget what was asked, let what hangs go, and answer like this from now on."""
        self._mended.set()
        self._mended = threading.Event()
        self.answer, self.fault = answer, fault
        self.requests.clear()
        self.complaints.clear()
        return self

    def hang(self) -> None:
        self._mended.wait(HANG)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, *_: Any) -> None:
        """A client that goes away is what half of the tests are about."""


class _Handler(BaseHTTPRequestHandler):
    provider: Provider
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Nobody reads it."""

    def do_GET(self) -> None:
        self._send(200, {"data": [], "object": "list"})  # what models there are

    def do_POST(self) -> None:
        self.close_connection = True
        dialect = DIALECTS[self.path.split("/")[1]]
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.provider.requests.append(Asked(self.path, body))
        fault = self.provider.fault
        if complaint := dialect.complaint(body):
            self.provider.complaints.append(complaint)
            self._fail(dialect, 400, complaint)
        elif fault and fault.way == "status":
            self._fail(dialect, fault.status, fault.message, fault.headers, fault.code)
        elif fault and fault.when == "head" and fault.way in {"cut", "hang"}:
            self._break(fault)
        elif dialect.is_streamed(self.path, body):
            self._stream(dialect, fault)
        else:
            self._answer(dialect, fault)

    def _answer(self, dialect: Dialect, fault: Fault | None) -> None:
        data = json.dumps(dialect.plain(self.provider.answer)).encode()
        self._head(200, "application/json", {"Content-Length": str(len(data))})
        if fault is None:
            self.wfile.write(data)
            return
        self.wfile.write(data[: len(data) // 2])
        self._break(fault)

    def _stream(self, dialect: Dialect, fault: Fault | None) -> None:
        opening, content, closing = dialect.stream(self.provider.answer)
        self._head(200, dialect.media_type, {"Transfer-Encoding": "chunked"})
        if fault is None:
            self._frames([*opening, *content, *closing])
        elif fault.way == "no_finish":
            self._frames([*opening, *content])
        elif fault.way != "empty":
            begun = content if fault.when == "content" else []
            self._frames([*opening, *begun])
            if fault.way in {"error", "failed"}:
                self._frames([getattr(dialect, f"{fault.way}_frame")()])
            else:
                self._break(fault)
                return
        self.wfile.write(b"0\r\n\r\n")

    def _frames(self, frames: Iterable[bytes]) -> None:
        for frame in frames:
            self.wfile.write(b"%x\r\n%s\r\n" % (len(frame), frame))
            self.wfile.flush()

    def _break(self, fault: Fault) -> None:
        if fault.way == "hang":
            self.provider.hang()
        else:
            # All that was sent arrives, and then nothing more: not even an end.
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_WR)
            if fault.when == "head":
                linger = struct.pack("ii", 1, 0)
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)

    def _fail(
        self,
        dialect: Dialect,
        status: int,
        message: str,
        headers: dict[str, str] | None = None,
        code: str | None = None,
    ) -> None:
        body, own = dialect.error(status, message)
        if code:
            body.get("error", body)["code"] = code
        self._send(status, body, {**own, **(headers or {})})

    def _send(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        data = json.dumps(body).encode()
        length = {"Content-Length": str(len(data))}
        self._head(status, "application/json", {**length, **(headers or {})})
        self.wfile.write(data)

    def _head(self, status: int, media_type: str, headers: dict[str, str]) -> None:
        self.send_response(status)
        # One request a connection: none outlives the event loop of its test.
        for name, value in {"Content-Type": media_type, "Connection": "close", **headers}.items():
            self.send_header(name, value)
        self.end_headers()
