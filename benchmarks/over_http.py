"""Real clients, real HTTP: throughput, latency, and a first choice that hangs."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Any, ClassVar

from typing_extensions import override

from benchmarks import peers
from benchmarks.backends import Backend
from benchmarks.contenders import Contender, Gateway, GatewayWithPolicies
from benchmarks.measure import Record, interleaved
from langchain_model_gateway import CooldownPolicy

# An HTTP client's pool may leave one of many responses unread, and wait for ever.
STUCK, TRIES = 90, 3


class Oracle(Contender):
    """Knows that the first is dead once it has failed `threshold` times, and asks it no more."""

    name = "oracle"
    family = "langchain"
    threshold: ClassVar[int] = 3

    def __init__(self, backends: Sequence[Backend], *, has_handler: bool = False) -> None:
        self._models = [Gateway([backend]) for backend in backends]
        self._failures = 0

    @override
    async def acall(self, text: str) -> Any:
        if self._failures < self.threshold:
            try:
                return await self._models[0].acall(text)
            except Exception:  # noqa: BLE001 - whatever it is, the second is asked
                self._failures += 1
        return await self._models[1].acall(text)


class GatewayWithCooldown(Gateway):
    """Ours, where one that fails three times in a row is in cooldown."""

    name = "gateway + cooldown"
    policies: ClassVar[dict[str, Any]] = {"cooldown": CooldownPolicy(failure_threshold=3)}


@dataclass(frozen=True)
class Effort:
    """How long to look.

    Attributes:
        rounds: How often each load is sampled.
        calls: How many calls a load has.
        concurrencies: How many of them at once.
        hang: How many seconds a hanging first choice takes to fail.
        hanging_calls: How many calls go to it.
    """

    rounds: int
    calls: int
    concurrencies: tuple[int, ...]
    hang: float
    hanging_calls: int


def measure(
    everybody: Sequence[type[Contender]],
    effort: Effort,
    address: str,
    runner: asyncio.Runner,
    say: Callable[[str], None],
) -> list[Record]:
    """Put the load on every contender."""
    ok = Backend(url=f"{address}/ok/v1")
    records: list[Record] = []
    for name, first in (("healthy", "ok"), ("primary 500", "500"), ("primary 429", "429")):
        backends = (Backend(url=f"{address}/{first}/v1"), ok)
        entrants = [e for e in everybody if first == "ok" or not e.is_direct]
        for concurrency in effort.concurrencies:
            work = f"{name}, {concurrency} at once"
            say(work)
            contenders = [kind(backends) for kind in entrants]
            records += _loads(work, contenders, effort, concurrency, runner=runner, say=say)
    return records


def measure_hanging(
    everybody: Sequence[type[Contender]],
    effort: Effort,
    address: str,
    runner: asyncio.Runner,
    say: Callable[[str], None],
) -> list[Record]:
    """A first choice that takes its time to fail; once, as it is long and steady."""
    backends = (
        Backend(url=f"{address}/hang-{effort.hang}/v1"),
        Backend(url=f"{address}/ok/v1"),
    )
    entrants = [each for each in everybody if not each.is_direct and each != GatewayWithPolicies]
    entrants += [GatewayWithCooldown, Oracle]
    if peers.LiteLLMRouter in everybody:
        entrants.append(peers.LiteLLMRouterWithCooldown)
    records: list[Record] = []
    concurrency, calls = 20, effort.hanging_calls
    work = f"{calls} calls, {concurrency} at once, {effort.hang:g} s to fail"
    for kind in entrants:
        say(f"hanging: {kind.name}")
        total, latencies = _put_on(kind(backends), calls, concurrency, runner=runner, say=say)
        extras: dict[str, float | str] = _spread(latencies)
        records.append(Record("hanging", work, kind.name, kind.family, "s", [total], extras))
    return records


def _loads(
    work: str,
    contenders: Sequence[Contender],
    effort: Effort,
    concurrency: int,
    *,
    runner: asyncio.Runner,
    say: Callable[[str], None],
) -> list[Record]:
    calls = max(effort.calls if concurrency > 1 else effort.calls // 4, concurrency)
    latencies: dict[str, list[float]] = {each.name: [] for each in contenders}

    def sample(contender: Contender) -> float:
        total, each = _put_on(contender, calls, concurrency, runner=runner, say=say)
        latencies[contender.name] += each
        return total / calls * 1e3

    for contender in contenders:  # connections and caches are there when it counts
        _put_on(contender, concurrency, concurrency, runner=runner, say=say)
    values = interleaved(
        {c.name: lambda c=c: sample(c) for c in contenders},
        effort.rounds,
    )
    return [
        Record("http", work, k.name, k.family, "ms", values[k.name], {**_spread(latencies[k.name])})
        for k in contenders
    ]


def _put_on(
    contender: Contender,
    calls: int,
    concurrency: int,
    *,
    runner: asyncio.Runner,
    say: Callable[[str], None],
) -> tuple[float, list[float]]:
    for _ in range(TRIES):
        with suppress(TimeoutError):
            return runner.run(asyncio.wait_for(_load(contender, calls, concurrency), STUCK))
        say(f"{contender.name}: not done after {STUCK} s; once more")
    raise TimeoutError(f"{contender.name} got stuck {TRIES} times")


async def _load(contender: Contender, calls: int, concurrency: int) -> tuple[float, list[float]]:
    """Make so many calls, so many at once; gives the total and each call's seconds."""
    waiting = deque(range(calls))
    latencies: list[float] = []

    async def work() -> None:
        while waiting:
            waiting.popleft()
            began = time.perf_counter()
            await contender.acall("hi")
            latencies.append(time.perf_counter() - began)

    began = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(concurrency):
            group.create_task(work())
    return time.perf_counter() - began, latencies


def _spread(latencies: list[float]) -> dict[str, float]:
    return {"p50_ms": median(latencies) * 1e3, "p99_ms": quantiles(latencies, n=100)[98] * 1e3}
