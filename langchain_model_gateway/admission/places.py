"""Places as an admission: how many attempts a deployment has at once, and how long they took."""

import math
from collections import deque
from collections.abc import Iterator
from threading import Lock
from typing import Final

from langchain_model_gateway.admission import Closed, Moment, Outcome, Size
from langchain_model_gateway.guards import Hanging

_MEMORY: Final = 30.0
"""The seconds after which a latency counts for a third (e-folding)."""

_MOST_WEIGHT: Final = 32.0
"""How many latencies count at most: with many a second, 30 s of a good past would hide trouble."""

_MOST_KEPT: Final = 128
_LEAST_OF_A_FAILURE: Final = 1.0
"""What fails at once is not quick."""


class Latencies:
    """Recent latencies in seconds: a mean that fades with time, and quantiles."""

    __slots__ = ("_at", "_recent", "_sum", "_weight")

    def __init__(self) -> None:
        self._recent: deque[float] = deque(maxlen=_MOST_KEPT)
        self._sum = self._weight = 0.0
        self._at = 0.0

    def note(self, seconds: float, now: float) -> None:
        """An attempt took so long."""
        fading = self._fading(now)
        if self._weight:
            fading = min(fading, (_MOST_WEIGHT - 1) / self._weight)
        self._sum = self._sum * fading + seconds
        self._weight = self._weight * fading + 1
        self._at = now
        self._recent.append(seconds)

    def mean(self, now: float) -> float:
        """The moving average; it fades to 0, so that who was slow gets its chance again."""
        fading = self._fading(now)
        return self._sum * fading / max(self._weight * fading, 1.0)

    def quantile(self, share: float) -> float | None:
        """What that share of the recent ones is below; `None` if none are known."""
        recent = sorted(self._recent)
        return recent[math.ceil(share * len(recent)) - 1] if recent else None

    def _fading(self, now: float) -> float:
        # Another clock than the last one may be far behind it.
        return math.exp(min(0.0, self._at - now) / _MEMORY)


class Load:
    """What one deployment is busy with in this process."""

    __slots__ = ("_lock", "elsewhere", "hanging", "in_flight", "plain", "streams")

    def __init__(self, hanging: Hanging) -> None:
        self.hanging = hanging
        self.plain, self.streams = Latencies(), Latencies()
        self.reset()

    def reset(self) -> None:
        """Forget what is under way: a forked process does not have it."""
        self.in_flight = 0
        self.elsewhere = 0
        """The attempts that other processes have under way."""
        self._lock = Lock()

    @property
    def places(self) -> int:
        """The attempts under way, abandoned ones that still run included."""
        return self.in_flight + self.hanging.count

    def latencies(self, *, streams: bool) -> Latencies:
        """Those of streams (to the first chunk), or of plain calls."""
        return self.streams if streams else self.plain

    def take(self, most: int | None) -> bool:
        """Take a place, if there are not so many taken already."""
        with self._lock:
            if most is not None and self.places + self.elsewhere >= most:
                return False
            self.in_flight += 1
            return True

    def leave(self) -> None:
        """Give a place back."""
        with self._lock:
            self.in_flight -= 1


class Places:
    """One deployment's places, and the permit for each of them: they are all alike.

    Args:
        load: What it is busy with.
        most: The most attempts at once; `None`: any number.
    """

    __slots__ = ("_most", "load")

    wait = 0.0

    def __init__(self, load: Load, most: int | None) -> None:
        self.load = load
        self._most = most

    def closed(self, at: Moment, size: Size) -> Closed | None:
        """That it is full, if it is."""
        del at, size
        if self._most is None or self.load.places + self.load.elsewhere < self._most:
            return None
        return Closed("full", f"full, {self._most} at once", None)

    def enter(self, at: Moment, size: Size, *, is_last_resort: bool) -> "Places | Closed":
        """Take a place, if there is one; nobody is let in beyond them."""
        del is_last_resort
        if self.load.take(self._most):
            return self
        return self.closed(at, size) or Closed("full", f"full, {self._most} at once", None)

    def room(self, now: float) -> Iterator[tuple[str, float, float]]:
        """The places that are free, of how many; nothing where there are any number."""
        del now
        if self._most is not None:
            taken = self.load.places + self.load.elsewhere
            yield "at once", max(0, self._most - taken), self._most

    def give_back(self, outcome: Outcome) -> None:
        """The attempt has ended."""
        load = self.load
        load.leave()
        if outcome.latency is not None:
            failed = outcome.kind == "failed"
            seconds = max(outcome.latency, _LEAST_OF_A_FAILURE) if failed else outcome.latency
            load.latencies(streams=outcome.is_stream).note(seconds, outcome.at)
