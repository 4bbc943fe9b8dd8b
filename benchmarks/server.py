"""A provider on this machine, in a process of its own: `python -m benchmarks.server`.

The path says how it behaves: `/ok/...` answers, `/500/...` and `/429/...` fail at once, and
`/hang-2.0/...` fails after two seconds.
"""

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

BODY = json.dumps(
    {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 0,
        "model": "gpt-4o-mini",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "hello"},
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
    }
)
ERROR = json.dumps({"error": {"message": "down", "type": "server_error", "code": None}})


@contextmanager
def provider() -> Iterator[str]:
    """Serve on a free port; gives the address."""
    command = [sys.executable, "-m", "benchmarks.server"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603
        try:
            assert process.stdout is not None  # noqa: S101
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.terminate()


async def _serve_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One connection, kept alive for as many requests as its client sends."""
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            length = head.split("content-length:", 1)[1].split("\r\n", 1)[0]
            await reader.readexactly(int(length))
            status, body = await _answer(head.split("/", 2)[1])
            writer.write(
                f"HTTP/1.1 {status} x\r\ncontent-type: application/json\r\n"
                f"content-length: {len(body)}\r\n\r\n{body}".encode()
            )
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


async def _answer(behaviour: str) -> tuple[int, str]:
    kind, _, seconds = behaviour.partition("-")
    if kind == "ok":
        return 200, BODY
    if kind == "hang":
        await asyncio.sleep(float(seconds))
        return 500, ERROR
    return int(kind), ERROR


async def _main() -> None:
    server = await asyncio.start_server(_serve_one, "127.0.0.1", 0, backlog=1024)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_main())
