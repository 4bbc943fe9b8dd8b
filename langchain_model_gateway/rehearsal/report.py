"""What a rehearsal has come to: numbers, tables and a picture."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from math import ceil
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, get_args

from langchain_model_gateway._text import one_line
from langchain_model_gateway.rehearsal.picture import Table, draw, panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes

End = Literal["answered", "429", "timed out", "failed", "overtaken"]
"""How an attempt ended; one is overtaken in a race against a hedge."""
_ENDS: Final[tuple[End, ...]] = get_args(End)

_NUMBERS: Final = "answered", "lost", "429s", "hedged", "waited s", "p50 s", "p99 s", "p99.9 s"


class RehearsedAttempt(NamedTuple):
    """One request that was made of a provider.

    Attributes:
        model_name: The deployment.
        began: When, in seconds from the rehearsal's beginning.
        seconds: How long it took, in a stream to the first chunk.
        end: How it ended.
        is_hedge: Whether it was made beside another.
    """

    model_name: str
    began: float
    seconds: float
    end: End
    is_hedge: bool


class RehearsedCall(NamedTuple):
    """One call, as its caller saw it.

    Attributes:
        began: When, in seconds from the rehearsal's beginning.
        seconds: How long it took to the answer (in a stream, its first chunk) or the error.
        answered_by: The deployment that answered; `None`: the call was lost.
        attempts: The requests that were made for it, in the order in which they ended.
        waits: The seconds of each wait in between.
    """

    began: float
    seconds: float
    answered_by: str | None
    attempts: tuple[RehearsedAttempt, ...]
    waits: tuple[float, ...]


class RehearsedCooldown(NamedTuple):
    """From when to when a deployment was in cooldown, the time until a probe's success included."""

    model_name: str
    began: float
    ended: float


@dataclass(frozen=True, repr=False)
class Rehearsal:
    """What came of every call.

    Attributes:
        calls: The calls in the order in which they began.
        cooldowns: The cooldowns in the order in which they began.
        model_names: The deployments in list order.
        trouble: From when to when a provider was down or slow, in seconds.
        seconds: For how long calls came.
    """

    calls: tuple[RehearsedCall, ...]
    cooldowns: tuple[RehearsedCooldown, ...]
    model_names: tuple[str, ...]
    trouble: tuple[tuple[float, float], ...]
    seconds: float

    def between(self, start: float, end: float) -> "Rehearsal":
        """The calls that began from `start` on and before `end`, in seconds."""
        return self._of(lambda call: start <= call.began < end)

    @property
    def in_trouble(self) -> "Rehearsal":
        """The calls that began while a provider was down or slow."""
        return self._of(lambda call: any(start <= call.began < end for start, end in self.trouble))

    def _of(self, is_in: Callable[[RehearsedCall], bool]) -> "Rehearsal":
        return replace(self, calls=tuple(filter(is_in, self.calls)))

    @property
    def attempts(self) -> Iterator[RehearsedAttempt]:
        """The attempts of the calls."""
        return chain.from_iterable(call.attempts for call in self.calls)

    # --- numbers -----------------------------------------------------------------------------

    @property
    def answered(self) -> int:
        """The calls that were answered."""
        return len(self.calls) - self.lost

    @property
    def lost(self) -> int:
        """The calls that ended with an error."""
        return sum(call.answered_by is None for call in self.calls)

    @property
    def rate_limited(self) -> int:
        """The attempts that were answered with 429."""
        return sum(attempt.end == "429" for attempt in self.attempts)

    @property
    def hedged(self) -> int:
        """The calls for which a second deployment was asked beside the first."""
        return sum(attempt.is_hedge for attempt in self.attempts)

    @property
    def waited(self) -> float:
        """The seconds of all waits, before retries and for room under a limit."""
        return sum(sum(call.waits) for call in self.calls)

    @property
    def asked(self) -> dict[str, int]:
        """The attempts at each deployment."""
        return self._by_name(attempt.model_name for attempt in self.attempts)

    @property
    def answers(self) -> dict[str, int]:
        """The calls that each deployment answered."""
        return self._by_name(call.answered_by for call in self.calls)

    def latency(self, percent: float) -> float:
        """The seconds within which so many percent of the calls ended, lost ones included."""
        if not self._latencies:
            return 0.0
        return self._latencies[max(0, ceil(len(self._latencies) * percent / 100) - 1)]

    @property
    def p50(self) -> float:
        """The median of the callers' latency, in seconds."""
        return self.latency(50)

    @property
    def p99(self) -> float:
        """What 99 % of the callers waited at most, in seconds."""
        return self.latency(99)

    @property
    def p999(self) -> float:
        """What 99.9 % of the callers waited at most, in seconds."""
        return self.latency(99.9)

    @cached_property
    def _latencies(self) -> list[float]:
        return sorted(call.seconds for call in self.calls)

    def _by_name(self, names: Iterable[str | None]) -> dict[str, int]:
        counted = Counter(names)
        return {name: counted[name] for name in self.model_names}

    # --- looking at it -----------------------------------------------------------------------

    def __str__(self) -> str:
        return "\n\n".join(table.text() for table in self._tables())

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return "".join(table.html() for table in self._tables())

    def _tables(self) -> tuple[Table, Table]:
        spans = {"all the time": self} | ({"in trouble": self.in_trouble} if self.trouble else {})
        title = f"{len(self.calls):,} calls in {self.seconds:,.0f} s"
        header = (*_ENDS, "in cooldown s")
        return (
            Table(title, _NUMBERS, [(name, *span.numbers()) for name, span in spans.items()]),
            Table("How the attempts ended", header, [*self._deployments()]),
        )

    def numbers(self) -> tuple[str, ...]:
        """A row of a table."""
        counts = (self.answered, self.lost, self.rate_limited, self.hedged)
        seconds = (self.waited, self.p50, self.p99, self.p999)
        return *(f"{n:,}" for n in counts), *(f"{s:,.1f}" for s in seconds)

    def _deployments(self) -> Iterator[tuple[str, ...]]:
        ended = Counter((attempt.model_name, attempt.end) for attempt in self.attempts)
        for name in self.model_names:
            seconds = (c.ended - c.began for c in self.cooldowns if c.model_name == name)
            yield name, *(f"{ended[name, end]:,}" for end in _ENDS), f"{sum(seconds):,.0f}"

    def plot(self, axes: "Axes | None" = None) -> "Axes":
        """Draw each call as a dot at the height of its latency, in the colour of who answered.

        A black cross is a lost call, a grey stretch a provider's trouble, a bar below a cooldown.

        Args:
            axes: Where to draw; new ones if left out.

        Raises:
            ImportError: If matplotlib is not installed.
        """
        axes = axes or panels(1)[0]
        draw(self, axes)
        return axes


class Comparison(dict[str, Rehearsal]):
    """Rehearsals side by side, each under the name of what was tried.

    Example:
        ```python
        print(Comparison(before=rehearse(old, ...), after=rehearse(new, ...)))
        ```
    """

    def __str__(self) -> str:
        return self._table().text()

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return self._table().html()

    def _table(self) -> Table:
        rows = [(name, *r.numbers(), f"{r.in_trouble.p99:,.1f}") for name, r in self.items()]
        return Table("Settings", (*_NUMBERS, "p99 s in trouble"), rows)

    def plot(self) -> "list[Axes]":
        """Draw them below each other, on the same scale.

        Raises:
            ImportError: If matplotlib is not installed.
        """
        axes = panels(len(self))
        for each, (name, rehearsal) in zip(axes, self.items(), strict=True):
            rehearsal.plot(each).set_title(one_line(name, 60), loc="left")
        return axes
