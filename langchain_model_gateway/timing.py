"""Time, chance and waiting, from outside."""

import asyncio
import random
import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Where a gateway gets its time, its chance and its waiting from.

    `GatewayRunnable.with_clock` gives it another, so that hours can be rehearsed in a second.
    """

    def now(self) -> datetime:
        """The present, aware, in UTC."""

    def monotonic(self) -> float:
        """Seconds that never run backwards."""

    def uniform(self, low: float, high: float) -> float:
        """A random number between two."""

    def sleep(self, seconds: float) -> None:
        """Wait."""

    async def async_sleep(self, seconds: float) -> None:
        """Wait, letting others run."""


class SystemClock(Clock):
    """The real time. Each function is looked up when it is asked, so that tests can freeze it."""

    def now(self) -> datetime:
        """The present, aware, in UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Seconds that never run backwards."""
        return time.monotonic()

    def uniform(self, low: float, high: float) -> float:
        """A random number between two."""
        return low + (high - low) * random.random()  # noqa: S311 - jitter is no secret

    def sleep(self, seconds: float) -> None:
        """Wait."""
        time.sleep(seconds)

    async def async_sleep(self, seconds: float) -> None:
        """Wait, letting others run."""
        await asyncio.sleep(seconds)
