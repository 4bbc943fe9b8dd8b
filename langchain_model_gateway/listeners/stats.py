"""What a live view counts of a gateway's events: who answers, how often, how fast, what fails.

Sans-I/O: time comes from outside.
"""

from collections import defaultdict, deque
from collections.abc import Mapping
from datetime import datetime
from threading import Lock
from typing import Final, NamedTuple

from langchain_model_gateway.admission import Moment
from langchain_model_gateway.events import GatewayEvent

_WINDOW: Final = 10.0
"""The last seconds that a rate is told of."""

_MOST_LATENCIES: Final = 20
_MOST_EVENTS: Final = 6
_MOST_UNREAD: Final = 100_000
_NEWS: Final = frozenset(
    {"failed", "rejected", "abandoned", "hedged", "cooldown_started", "cooldown_ended"}
)
"""What is worth a line; the others are counted."""


class Counts(NamedTuple):
    """One deployment's attempts since the view was opened.

    Attributes:
        in_flight: Those under way.
        answered: Those that gave the answer.
        failed: Those that failed, or gave an answer that was rejected.
        abandoned: Those that were cancelled or closed, or lost a race.
        rate: Answers a second, of late.
        latency: The mean seconds of the last few answers; `None` if there are none.
    """

    in_flight: int = 0
    answered: int = 0
    failed: int = 0
    abandoned: int = 0
    rate: float = 0.0
    latency: float | None = None


class Told(NamedTuple):
    """An event, and when it was told."""

    at: datetime
    event: GatewayEvent


class Snapshot(NamedTuple):
    """What has been counted up to one moment: plain values.

    Attributes:
        counts: By the deployments' names; a deployment that was not asked has none.
        news: The last events that are no everyday ones, the newest first.
    """

    counts: Mapping[str, Counts]
    news: tuple[Told, ...]


class _Tally:
    """One deployment's attempts."""

    __slots__ = ("answers", "ended", "latencies", "started")

    def __init__(self) -> None:
        self.started = 0
        self.ended: dict[str, int] = defaultdict(int)
        self.answers: deque[float] = deque()
        """When the answers of late came."""
        self.latencies: deque[float] = deque(maxlen=_MOST_LATENCIES)

    def note(self, event: GatewayEvent, now: float) -> None:
        match event.kind:
            case "started":
                self.started += 1
            case "answered" | "failed" | "rejected" | "abandoned":
                self.ended[event.kind] += 1
        if event.kind == "answered":
            self.answers.append(now)
            self.latencies.append(event.seconds or 0.0)

    def counts(self, now: float, seconds: float) -> Counts:
        self._forget(now)
        ended, latencies = self.ended, self.latencies
        return Counts(
            in_flight=self.started - sum(ended.values()),
            answered=ended["answered"],
            failed=ended["failed"] + ended["rejected"],
            abandoned=ended["abandoned"],
            rate=len(self.answers) / seconds,
            latency=sum(latencies) / len(latencies) if latencies else None,
        )

    def _forget(self, now: float) -> None:
        while self.answers and self.answers[0] <= now - _WINDOW:
            self.answers.popleft()


class Stats:
    """Counts events, from any thread; `note` is what `on_event` takes.

    A call only leaves its events here, without a lock; who looks counts them.

    Args:
        clock: The present.
    """

    def __init__(self, clock: Moment) -> None:
        self._clock = clock
        self._began = clock.monotonic()
        # In a forked process nobody looks.
        self._inbox: deque[tuple[GatewayEvent, float, datetime]] = deque(maxlen=_MOST_UNREAD)
        self._tallies: dict[str, _Tally] = defaultdict(_Tally)
        self._news: deque[Told] = deque(maxlen=_MOST_EVENTS)
        self._lock = Lock()

    def note(self, event: GatewayEvent) -> None:
        """An event is told."""
        self._inbox.append((event, self._clock.monotonic(), self._clock.now()))

    def snapshot(self) -> Snapshot:
        """What has been told up to now."""
        now = self._clock.monotonic()
        seconds = min(_WINDOW, max(1.0, now - self._began))
        with self._lock:
            while self._inbox:
                self._count(*self._inbox.popleft())
            counts = {name: tally.counts(now, seconds) for name, tally in self._tallies.items()}
            return Snapshot(counts, tuple(self._news))

    def _count(self, event: GatewayEvent, then: float, at: datetime) -> None:
        self._tallies[event.model_name].note(event, then)
        if event.kind in _NEWS:
            self._news.appendleft(Told(at, event))
