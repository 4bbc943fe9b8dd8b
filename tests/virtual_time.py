"""Time that passes only when someone waits: clocks, guards and an event loop.

All times are multiples of 1/64 s, so that sums are exact and a boundary is a boundary.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable, Generator, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any

from langchain_core.exceptions import ModelTimeoutError

from langchain_model_gateway import GatewayRunnable
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
