"""What is modelled: who calls, how long a provider takes, what it lets through, how it fails."""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from math import exp, log
from random import Random
from statistics import NormalDist
from typing import Annotated, Final, Literal, NamedTuple, Protocol, Self

from langchain_core.exceptions import ModelAPIError, ModelConnectionError, ModelRateLimitError
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from langchain_model_gateway._arguments import AnySeconds, Seconds, check_keys

_REFUSED_AFTER: Final = 0.01
"""Seconds that a provider takes to answer 429."""
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
        tells_retry_after: Whether a 429 says when to come back.
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
    """Who calls: independent callers, so that the seconds between two calls are exponential.

    Args:
        calls_per_second: How many, on the average.
        seconds: For how long new calls come.
        streams: Whether they read streams; a caller's latency is then to the first chunk.
        input_tokens: Tokens of a prompt.
        output_tokens: Tokens of an answer.
    """

    calls_per_second: Annotated[float, Field(gt=0)]
    seconds: Seconds = 900.0
    streams: bool = False
    input_tokens: Annotated[int, Field(ge=0)] = 500
    output_tokens: Annotated[int, Field(ge=0)] = 250

    @property
    def tokens(self) -> int:
        """All the tokens of a call."""
        return self.input_tokens + self.output_tokens


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
        chance: What decides the rest.
    """

    def __init__(self, provider: Provider, chance: Random) -> None:
        self._provider = provider
        self._chance = chance
        limits = ((provider.rpm, False), (provider.tpm, True))
        self._limits = [
            (_count(provider.counted, limit), is_of_tokens)
            for limit, is_of_tokens in limits
            if limit is not None
        ]

    def ask(self, now: float, traffic: Traffic) -> Reply:
        """Make a request."""
        provider, chance = self._provider, self._chance
        if any(start <= now < end for start, end in provider.outages):
            return Reply(provider.error_after, error=ModelAPIError("503: an outage"))
        if (wait := self._wait(now, traffic.tokens)) > 0:
            error = ModelRateLimitError("429: too many requests")
            if provider.tells_retry_after:
                vars(error)["retry_after"] = wait
            return Reply(_REFUSED_AFTER, error=error)
        luck = chance.random()
        if luck < provider.hang_share:
            return Reply(provider.hang_after, error=ModelConnectionError("no answer came"))
        if luck < provider.hang_share + provider.error_share:
            return Reply(provider.error_after, error=ModelAPIError("500: a server's error"))
        seconds = provider.draw_latency(now, chance)
        first = seconds * provider.first_chunk if traffic.streams else seconds
        return Reply(first, rest=seconds - first)

    def _wait(self, now: float, tokens: int) -> float:
        """The seconds until a request is let through; if that is now, it is counted."""
        amounts = [(limit, tokens if is_of_tokens else 1) for limit, is_of_tokens in self._limits]
        wait = max((limit.wait(now, amount) for limit, amount in amounts), default=0.0)
        if wait <= 0:
            for limit, amount in amounts:
                limit.take(now, amount)
        return wait


class _Count(Protocol):
    """How a provider counts what it lets through. What is more than all of it needs all of it."""

    def wait(self, now: float, amount: float) -> float:
        """The seconds until so much is let through; 0 if it would be now."""

    def take(self, now: float, amount: float) -> None:
        """Let so much through."""


def _count(counted: str, per_minute: float) -> _Count:
    match counted:
        case "bucket":
            return _Bucket(per_minute)
        case "sliding minute":
            return _Sliding(per_minute)
        case _:
            return _Slices(per_minute, 60 if counted == "clock minute" else 10)


class _Bucket:
    def __init__(self, per_minute: float) -> None:
        self._rate, self._size = per_minute / 60, max(per_minute / 10, 1)
        self._level, self._at = self._size, 0.0

    def wait(self, now: float, amount: float) -> float:
        self._level = min(self._size, self._level + (now - self._at) * self._rate)
        self._at = now
        missing = min(amount, self._size) - self._level
        return missing / self._rate if missing > 1e-9 else 0.0  # noqa: PLR2004 - rounding

    def take(self, now: float, amount: float) -> None:
        del now
        self._level -= amount


class _Slices:
    def __init__(self, per_minute: float, seconds: int) -> None:
        self._size, self._seconds = per_minute * seconds / 60, seconds
        self._slice, self._taken = 0.0, 0.0

    def wait(self, now: float, amount: float) -> float:
        if (current := now // self._seconds) != self._slice:
            self._slice, self._taken = current, 0.0
        fits = self._taken + min(amount, self._size) <= self._size
        return 0.0 if fits else (current + 1) * self._seconds - now

    def take(self, now: float, amount: float) -> None:
        del now
        self._taken += amount


class _Sliding:
    def __init__(self, per_minute: float) -> None:
        self._size, self._taken = per_minute, 0.0
        self._recent: deque[tuple[float, float]] = deque()

    def wait(self, now: float, amount: float) -> float:
        while self._recent and self._recent[0][0] <= now - 60:
            self._taken -= self._recent.popleft()[1]
        if self._taken + min(amount, self._size) <= self._size:
            return 0.0
        return self._recent[0][0] + 60 - now

    def take(self, now: float, amount: float) -> None:
        self._taken += amount
        self._recent.append((now, amount))
