"""Time that passes only when someone waits: clocks, guards, an event loop and threads.

All times are multiples of 1/64 s, so that sums are exact and a boundary is a boundary.
"""

import asyncio
import concurrent.futures
import math
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Generator, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from unittest.mock import patch

from langchain_core.exceptions import ModelTimeoutError

from langchain_model_gateway import GatewayRunnable, guards, hedging
from langchain_model_gateway.guards import Guards, Hanging, Patience
from langchain_model_gateway.timing import Clock

NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)


def jitter(time: float) -> float:
    """Chance that looks random and can be foretold: a fraction for each moment."""
    return (int(time * 64) * 7 + 3) % 17 / 16


class VirtualClock(Clock):
    """Time that passes only when someone waits; a model waits by `spend`."""

    def __init__(self, start: datetime = NOON) -> None:
        self.start = start
        self.time = 0.0
        self.waits: list[float] = []

    def now(self) -> datetime:
        return self.start + timedelta(seconds=self.time)

    def monotonic(self) -> float:
        return self.time

    def uniform(self, low: float, high: float) -> float:
        return low + (high - low) * jitter(self.time)

    def spend(self, seconds: float) -> None:
        self.time += seconds

    def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.spend(seconds)

    async def async_sleep(self, seconds: float) -> None:
        self.sleep(seconds)


class TickingClock(VirtualClock):
    """Wakes nobody but at its ticks, so that even odd waits end on one; told of attempts.

    How often someone looks up from a long wait is no matter: waits with nothing in between are one.
    """

    def __init__(self, attempts: list[tuple[str, float]]) -> None:
        super().__init__()
        self.attempts = attempts
        self.waited: dict[int, float] = {}
        """The seconds waited after so many attempts."""
        self.closings: list[tuple[float, Any]] = []
        """The streams that others close while someone waits, and when."""

    def sleep(self, seconds: float) -> None:
        for stream in self._slept(seconds):
            stream.close()

    async def async_sleep(self, seconds: float) -> None:
        for stream in self._slept(seconds):
            await stream.aclose()

    def _slept(self, seconds: float) -> list[Any]:
        seconds = math.ceil(seconds * 64) / 64
        number = len(self.attempts)
        self.waited[number] = self.waited.get(number, 0.0) + seconds
        assert self.waited[number] < 1000, "waits for ever"
        self.spend(seconds)
        closed = [stream for time, stream in self.closings if time <= self.time]
        self.closings = [each for each in self.closings if each[0] > self.time]
        return closed


class VirtualGuards(Guards):
    """Limits in virtual time: what takes too long is cut off, as if it had been abandoned there."""

    def __init__(self, clock: VirtualClock) -> None:
        self.clock = clock

    def call(self, seconds: float | None, function: Callable[[], Any], hanging: Hanging) -> Any:
        begun = self.clock.time
        try:
            answer = function()
        except Exception:
            self._cut(begun, seconds)
            raise
        self._cut(begun, seconds)
        return answer

    async def acall(self, seconds: float | None, awaitable: Awaitable[Any]) -> Any:
        begun = self.clock.time
        try:
            answer = await awaitable
        except Exception:
            self._cut(begun, seconds)
            raise
        self._cut(begun, seconds)
        return answer

    def stream(
        self, chunks: Iterator[Any], patience: Patience, hanging: Hanging
    ) -> Generator[Any, None, None]:
        end = object()
        with closing(chunks):  # type: ignore[type-var]
            while True:
                chunk = self.call(patience(), lambda: next(chunks, end), hanging)
                if chunk is end:
                    return
                yield chunk

    def _cut(self, begun: float, seconds: float | None) -> None:
        if seconds is not None and self.clock.time - begun > seconds:
            self.clock.time = begun + seconds
            raise ModelTimeoutError("too late")


def rehearsed(gateway: GatewayRunnable, clock: VirtualClock) -> GatewayRunnable:
    """A gateway in virtual time."""
    return gateway.with_clock(clock, guards=VirtualGuards(clock))


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop on which time passes only when everyone waits: then it is the next timer's.

    So attempts can be under way at once, which a clock that models move cannot show.
    """

    def __init__(self) -> None:
        super().__init__()
        self.passed = 0.0
        select = self._selector.select  # type: ignore[attr-defined]

        def jump(timeout: float | None) -> Any:
            if not timeout:
                return select(timeout)
            self.passed += timeout
            return select(0)

        self._selector.select = jump  # type: ignore[attr-defined]

    def time(self) -> float:
        return self.passed


class LoopClock(VirtualClock):
    """The running loop's time; it is for the loop to let it pass."""

    def now(self) -> datetime:
        return self.start + timedelta(seconds=self.monotonic())

    async def async_sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()


@dataclass(eq=False)
class _Sleeper:
    """A thread that waits, for a moment or for one of these to be done."""

    until: float
    futures: Collection["Future[Any]"] = ()
    is_awake: bool = False


class ThreadClock(VirtualClock):
    """Time for real threads: it passes only when all of them wait, up to the first to wake."""

    def __init__(self) -> None:
        super().__init__()
        self._changed = threading.Condition()
        self._running = 1
        """The threads that do not wait; the caller's own is one."""
        self._sleepers: list[_Sleeper] = []
        self._tasks: Counter[int] = Counter()
        """How many each worker has; one after another, so that it is one thread."""

    def sleep(self, seconds: float) -> None:
        self._sleep(_Sleeper(self.time + seconds))

    def wait(
        self,
        futures: Collection["Future[Any]"],
        timeout: float | None = None,
        return_when: str = concurrent.futures.ALL_COMPLETED,
    ) -> Any:
        """`concurrent.futures.wait`, in this time."""
        until = math.inf if timeout is None else self.time + timeout
        self._sleep(_Sleeper(until, [*futures]))
        return concurrent.futures.wait(futures, 0, return_when)

    @contextmanager
    def ruling(self) -> Iterator[None]:
        """Let the gateway's threads live in this time."""
        submit = guards.Worker.submit

        def counted(worker: guards.Worker, function: Callable[[], Any]) -> "Future[Any]":
            with self._changed:
                self._running += not self._tasks[id(worker)]
                self._tasks[id(worker)] += 1
            future = submit(worker, function)
            future.add_done_callback(partial(self._ended, worker))
            return future

        with ExitStack() as stack:
            stack.enter_context(patch.object(guards.Worker, "submit", counted))
            for module in (guards, hedging):
                stack.enter_context(patch.object(module, "wait", self.wait))
            yield
            self.sleep(1000)  # until all who were abandoned have ended

    def _sleep(self, sleeper: _Sleeper) -> None:
        with self._changed:
            if any(future.done() for future in sleeper.futures):
                return
            self._sleepers.append(sleeper)
            self._rested()
            assert self._changed.wait_for(lambda: sleeper.is_awake, 20), "waits for ever"

    def _ended(self, worker: guards.Worker, future: "Future[Any]") -> None:
        with self._changed:
            for sleeper in [each for each in self._sleepers if future in each.futures]:
                self._wake(sleeper)
            self._tasks[id(worker)] -= 1
            if not self._tasks[id(worker)]:
                self._rested()

    def _wake(self, sleeper: _Sleeper) -> None:
        self._sleepers.remove(sleeper)
        self._running += 1
        sleeper.is_awake = True
        self._changed.notify_all()

    def _rested(self) -> None:
        """One thread fewer runs; when none does, time passes."""
        self._running -= 1
        if not self._running:
            first = min(self._sleepers, key=lambda each: each.until)
            self.time = first.until
            self._wake(first)
