"""Virtual time."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from heapq import heappop, heappush
from itertools import count
from random import Random

from langchain_model_gateway.timing import SystemClock

Process = Iterator[float]
"""What someone does, as a generator: each number is a pause in seconds before it goes on."""


class Timeline(SystemClock):
    """A clock that jumps from one thing that happens to the next.

    Args:
        start: The time of day at which it begins.
        chance: What a gateway's jitter is drawn from.

    Attributes:
        seconds: How many have passed.
    """

    def __init__(self, start: datetime, chance: Random) -> None:
        self.seconds = 0.0
        self._start = start
        self._chance = chance
        self._due: list[tuple[float, int, Process]] = []
        self._order = count()

    def now(self) -> datetime:
        """The present, aware."""
        return self._start + timedelta(seconds=self.seconds)

    def monotonic(self) -> float:
        """Seconds since the beginning."""
        return self.seconds

    def uniform(self, low: float, high: float) -> float:
        """A random number between two."""
        return self._chance.uniform(low, high)

    def begin(self, process: Process, pause: float = 0.0) -> None:
        """Have a process go on after a pause; of two that are due at once, the first to ask."""
        heappush(self._due, (self.seconds + pause, next(self._order), process))

    def run(self) -> None:
        """Live until nothing is left to happen."""
        while self._due:
            self.seconds, _, process = heappop(self._due)
            if (pause := next(process, None)) is not None:
                self.begin(process, pause)
