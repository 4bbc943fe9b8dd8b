"""What is modelled: who calls, how long a provider takes, what it lets through, how it fails."""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from math import ceil, exp, log
from random import Random
from statistics import NormalDist
from typing import Annotated, Final, Literal, NamedTuple, Protocol, Self

from langchain_core.exceptions import (
    ModelAPIError,
    ModelConnectionError,
    ModelError,
    ModelRateLimitError,
)
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from langchain_model_gateway._arguments import AnySeconds, Seconds, check_keys

_REFUSED_AFTER: Final = 0.01
"""Seconds that a provider takes to answer 429."""
_ROUNDING: Final = 1e-9
_P99: Final = NormalDist().inv_cdf(0.99)

Share = Annotated[float, Field(ge=0, le=1)]
Since = Annotated[AnySeconds, Field(ge=0)]
Spells = Annotated[Sequence[tuple[Since, Seconds]], AfterValidator(tuple)]
SlowSpells = Annotated[
    Sequence[tuple[Since, Seconds, Annotated[float, Field(gt=0)]]], AfterValidator(tuple)
]
PerMinute = Annotated[float, Field(gt=0)]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _check_keys(cls, value: object) -> object:
        if isinstance(value, Mapping):
            check_keys(cls, value)
        return value


class Latency(_Model):
    """Seconds to a whole answer, log-normal as they are, by the two numbers a dashboard shows.

    Args:
        median: What half of the answers take at most.
        p99: What 99 of 100 take at most.
    """

    median: Seconds
    p99: Seconds

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        if self.p99 < self.median:
            raise ValueError(f"p99 ({self.p99}) is less than the median ({self.median})")
        return self

    def draw(self, chance: Random) -> float:
        """How long one answer takes."""
        return self.median * exp(chance.gauss(0, log(self.p99 / self.median) / _P99))


class Provider(_Model):
    """How a deployment's provider behaves. All seconds count from the rehearsal's beginning.

    Args:
        latency: Seconds to a whole answer: a distribution, a number, or measured ones to draw from.
        first_chunk: After which share of them a stream's first chunk comes.
        rpm: The requests it lets through in a minute; the others it answers with 429, at once.
        tpm: The tokens it lets through in a minute, input and output.
        counted: How it counts a minute: a bucket that fills evenly and holds a tenth of a minute,
            by the clock, over the last 60 seconds, or a sixth every ten seconds.
        tells_retry_after: Whether a 429 says when to come back, in whole seconds.
        outages: From when to when every request fails.
        slow: From when to when answers take so many times as long: `(start, end, factor)`.
        error_share: How many of the other requests fail, from 0 to 1.
        error_after: Seconds until a request fails.
        hang_share: How many requests are never answered, from 0 to 1.
        hang_after: Seconds until a client gives one up by itself.

    Raises:
        ValidationError: If a number is out of range.
    """

    latency: Latency | Seconds | Annotated[Sequence[Seconds], AfterValidator(tuple)] = Latency(
        median=1.0, p99=4.0
    )
    first_chunk: Share = 0.3
    rpm: PerMinute | None = None
    tpm: PerMinute | None = None
    counted: Literal["bucket", "clock minute", "sliding minute", "ten seconds"] = "bucket"
    tells_retry_after: bool = True
    outages: Spells = ()
    slow: SlowSpells = ()
    error_share: Share = 0.0
    error_after: Since = 0.1
    hang_share: Share = 0.0
    hang_after: Seconds = 600.0

    @model_validator(mode="after")
    def _check_sense(self) -> Self:
        for start, end in self.trouble():
            if start >= end:
                raise ValueError(f"a spell begins at {start} and ends at {end}")
        if self.hang_share + self.error_share > 1:
            raise ValueError("hang_share and error_share are more than all requests")
        return self

    def trouble(self) -> Iterator[tuple[float, float]]:
        """From when to when it is down or slow."""
        yield from self.outages
        yield from ((start, end) for start, end, _ in self.slow)

    def draw_latency(self, now: float, chance: Random) -> float:
        """How long an answer takes that is asked for now."""
        match self.latency:
            case Latency():
                seconds = self.latency.draw(chance)
            case float():
                seconds = self.latency
            case _:
                seconds = chance.choice(self.latency)
        for start, end, factor in self.slow:
            if start <= now < end:
                seconds *= factor
        return seconds


class Traffic(_Model):
    """Who calls: independent callers, who come by chance, or at given moments.

    Args:
        calls_per_second: How many come, on the average (a Poisson process).
        arrivals: When they come, in seconds, such as a log tells; in place of the above.
        seconds: For how long they come.
        streams: Whether they read streams; a caller's latency is then to the first chunk.
        input_tokens: Tokens of a prompt.
        output_tokens: Tokens of an answer.
        threads: How many conversations they belong to, for a gateway with `affinity`.

    Raises:
        ValidationError: If a number is out of range, or it is not told when callers come.
    """

    calls_per_second: Annotated[float, Field(gt=0)] | None = None
    arrivals: Annotated[Sequence[Since], AfterValidator(sorted)] = ()
    seconds: Seconds = 900.0
    streams: bool = False
    input_tokens: Annotated[int, Field(ge=0)] = 500
    output_tokens: Annotated[int, Field(ge=0)] = 250
    threads: Annotated[int, Field(gt=0)] | None = None

    @model_validator(mode="after")
    def _check_arrivals(self) -> Self:
        if (self.calls_per_second is None) != bool(self.arrivals):
            raise ValueError("give either calls_per_second or arrivals")
        return self

    @property
    def tokens(self) -> int:
        """All the tokens of a call."""
        return self.input_tokens + self.output_tokens

    def moments(self, chance: Random) -> Iterator[float]:
        """When the calls begin."""
        if self.calls_per_second is None:
            yield from self.arrivals
            return
        now = 0.0
        while True:
            now += chance.expovariate(self.calls_per_second)
            yield now


class Reply(NamedTuple):
    """What a request will come to.

    Attributes:
        seconds: Until its answer, its first chunk or its error.
        rest: Seconds from a stream's first chunk to its last.
        error: What it fails with, if it does.
    """

    seconds: float
    rest: float = 0.0
    error: Exception | None = None


class Service:
    """A provider at work.

    Args:
        provider: How it behaves.
        traffic: What it is asked for.
        chance: What decides the rest.
    """

    def __init__(self, provider: Provider, traffic: Traffic, chance: Random) -> None:
        self._provider, self._chance = provider, chance
        self._first_chunk = provider.first_chunk if traffic.streams else 1.0
        amounts = ((provider.rpm, 1), (provider.tpm, traffic.tokens))
        self._limits = [
            _LIMITS[provider.counted](per_minute, amount)
            for per_minute, amount in amounts
            if per_minute is not None
        ]

    def ask(self, now: float) -> Reply:
        """Make a request."""
        provider = self._provider
        for start, end in provider.outages:
            if start <= now < end:
                return Reply(provider.error_after, error=_http(ModelAPIError("an outage"), 503))
        wait = max([limit.wait(now) for limit in self._limits], default=0.0)
        if wait > _ROUNDING:
            error = _http(ModelRateLimitError("too many requests"), 429)
            if provider.tells_retry_after:
                vars(error)["retry_after"] = ceil(wait)
            return Reply(_REFUSED_AFTER, error=error)
        for limit in self._limits:
            limit.take(now)
        return self._answer(now)

    def _answer(self, now: float) -> Reply:
        provider, luck = self._provider, self._chance.random()
        if luck < provider.hang_share:
            return Reply(provider.hang_after, error=ModelConnectionError("no answer came"))
        if luck < provider.hang_share + provider.error_share:
            return Reply(provider.error_after, error=_http(ModelAPIError("an error"), 500))
        seconds = provider.draw_latency(now, self._chance)
        first = seconds * self._first_chunk
        return Reply(first, seconds - first)


def _http(error: ModelError, status: int) -> ModelError:
    """An error with what the gateway reads of a client's."""
    vars(error)["status_code"] = status
    return error


class _Limit(Protocol):
    """How a provider counts what it lets through in a minute, always the same amount at once."""

    def wait(self, now: float) -> float:
        """The seconds until the next is let through; 0 if it would be now."""

    def take(self, now: float) -> None:
        """Let one through."""


class _Bucket(_Limit):
    """Fills evenly and holds a tenth of a minute; at least what is let through at once."""

    def __init__(self, per_minute: float, amount: float) -> None:
        self._seconds = 60 * amount / per_minute
        self._slack = max(60 / 10 - self._seconds, 0)
        self._full_at = 0.0

    def wait(self, now: float) -> float:
        return self._full_at - self._slack - now

    def take(self, now: float) -> None:
        self._full_at = max(self._full_at, now) + self._seconds


class _Window(_Limit):
    """Counts within so many seconds: those just past, or those that the clock cuts off."""

    def __init__(self, most: float, seconds: float, *, is_sliding: bool) -> None:
        self._most, self._seconds, self._is_sliding = max(int(most), 1), seconds, is_sliding
        self._recent: deque[float] = deque()

    def wait(self, now: float) -> float:
        start = now - self._seconds if self._is_sliding else now // self._seconds * self._seconds
        while self._recent and self._recent[0] < start:
            self._recent.popleft()
        if len(self._recent) < self._most:
            return 0.0
        first = self._recent[0] if self._is_sliding else start
        return first + self._seconds - now

    def take(self, now: float) -> None:
        self._recent.append(now)


_LIMITS: Final[Mapping[str, Callable[[float, float], _Limit]]] = {
    "bucket": _Bucket,
    "clock minute": lambda most, amount: _Window(most / amount, 60, is_sliding=False),
    "sliding minute": lambda most, amount: _Window(most / amount, 60, is_sliding=True),
    "ten seconds": lambda most, amount: _Window(most / amount / 6, 10, is_sliding=False),
}
