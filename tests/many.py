"""One of many processes, that asks a provider through a gateway; and the provider."""

import http.client
import multiprocessing
import threading
import time
from collections import Counter, deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.synchronize import Barrier
from typing import Any, Self

from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableLambda

from langchain_model_gateway import CooldownPolicy, GatewayRunnable, RedisState


class TooManyRequestsError(Exception):
    """A 429."""

    status_code = 429


class Provider:
    """A real HTTP server that counts its callers' requests in a bucket, or is down."""

    def __init__(
        self, per_minute: float = 0.0, *, is_down: bool = False, is_sliding: bool = False
    ) -> None:
        self.seen: Counter[int] = Counter()
        self._recent: deque[float] | None = deque() if is_sliding else None
        self._per_minute = per_minute
        self._interval = 60 / per_minute if per_minute else 0.0
        self._burst = max(per_minute / 10, 5.0)
        self._ends = 0.0
        self._lock = threading.Lock()
        self.is_down = is_down
        provider = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                self.send_response(provider.status())
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]

    def status(self) -> int:
        """What it says to one request."""
        with self._lock:
            now = time.monotonic()
            ends = max(self._ends, now)
            status = 500 if self.is_down else 200
            if status == 200 and self._recent is not None:
                while self._recent and self._recent[0] <= now - 60:
                    self._recent.popleft()
                if len(self._recent) >= self._per_minute:
                    status = 429
                else:
                    self._recent.append(now)
            elif status == 200 and self._interval:
                if ends - now > (self._burst - 1) * self._interval + 1e-6:
                    status = 429
                else:
                    self._ends = ends + self._interval
            self.seen[status] += 1
            return status

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def asks(port: int) -> RunnableLambda[Any, AIMessage]:
    """A model that asks the provider at a port."""

    def ask(_: Any) -> AIMessage:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        try:
            connection.request("POST", "/", b"", {"Content-Length": "0"})
            status = connection.getresponse().status
        finally:
            connection.close()
        if status == 429:
            raise TooManyRequestsError("slow down")
        if status != 200:
            raise ConnectionError("down")
        return AIMessage("hello")

    return RunnableLambda(ask)


def gateway(job: dict[str, Any]) -> GatewayRunnable:
    """The primary, limited if the job says so, and a local backup that always answers."""
    primary = {"model_name": "primary", "model": asks(job["port"]), **job.get("limits", {})}
    backup = {"model_name": "backup", "model": RunnableLambda(lambda _: AIMessage("backup"))}
    url = job.get("url")
    return GatewayRunnable(
        [primary, backup],  # type: ignore[list-item]
        cooldown=CooldownPolicy(**job["cooldown"]) if "cooldown" in job else None,
        state=None if url is None else RedisState(url, **job.get("state", {})),
    )


def work(job: dict[str, Any], start: Barrier) -> None:
    """One process: asks at a steady pace, from the moment on at which all begin."""
    model = gateway(job)
    start.wait()
    model.invoke("hello")  # from now on it listens
    begun = time.monotonic()
    for number in range(job["calls"]):
        time.sleep(max(0.0, begun + (number + job["offset"]) * job["pause"] - time.monotonic()))
        model.invoke("hello")


def run_many(count: int, **job: Any) -> None:
    """Let so many processes do a job at once."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.many"])
    start = context.Barrier(count)
    processes = [
        context.Process(target=work, args=(job | {"offset": number / count}, start), daemon=True)
        for number in range(count)
    ]
    for each in processes:
        each.start()
    for each in processes:
        each.join(600)
    assert [each.exitcode for each in processes] == [0] * count
