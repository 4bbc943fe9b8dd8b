"""A provider on this machine that answers each prompt with its own words, and counts them."""

import asyncio
import json
import threading
import time
from collections import Counter
from typing import Any, Self


class Provider:
    """A real HTTP server, in a thread.

    Args:
        seconds: What each answer takes.
        per_minute: More than this (and a burst of a tenth) is a 429; `None`: no limit.
    """

    def __init__(self, seconds: float = 0.0, per_minute: float | None = None) -> None:
        self.asked: Counter[str] = Counter()
        self.statuses: Counter[int] = Counter()
        self.times: list[float] = []
        self._seconds = seconds
        self._interval = 60 / per_minute if per_minute else None
        self._ends = 0.0
        self._counted = threading.Condition()

    def __enter__(self) -> Self:
        ready = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(ready,), daemon=True)
        self._thread.start()
        assert ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}/v1"

    def wait_for(self, requests: int, seconds: float = 120.0) -> None:
        """Until so many prompts were answered with a 200."""
        with self._counted:
            assert self._counted.wait_for(lambda: self.statuses[200] >= requests, seconds)

    def _run(self, ready: threading.Event) -> None:
        asyncio.run(self._serve(ready))

    async def _serve(self, ready: threading.Event) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._connection, "127.0.0.1", 0, backlog=1024)
        self._port = server.sockets[0].getsockname()[1]
        ready.set()
        await self._stop.wait()
        server.close()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                length = int(head.split(b"content-length:", 1)[1].split(b"\r\n", 1)[0])
                prompt = json.loads(await reader.readexactly(length))["messages"][-1]["content"]
                status = self._count(prompt)
                await asyncio.sleep(self._seconds)
                body = json.dumps(_answer(prompt) if status == 200 else _REFUSED).encode()
                writer.write(
                    b"HTTP/1.1 %d x\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
                    % (status, len(body))
                    + body
                )
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    def _count(self, prompt: str) -> int:
        now = time.monotonic()
        with self._counted:
            status = 200
            if self._interval:
                ends = max(self._ends, now)
                burst = 6 / self._interval  # a tenth of a minute's
                if ends - now > (burst - 1) * self._interval + 1e-6:
                    status = 429
                else:
                    self._ends = ends + self._interval
            if status == 200:
                self.asked[prompt] += 1
                self.times.append(now)
            self.statuses[status] += 1
            self._counted.notify_all()
        return status


_REFUSED = {"error": {"message": "slow down", "type": "rate_limit", "code": None}}


def _answer(prompt: str) -> dict[str, Any]:
    message = {"role": "assistant", "content": f"answer to {prompt}"}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 0,
        "model": "gpt-4o-mini",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
    }
