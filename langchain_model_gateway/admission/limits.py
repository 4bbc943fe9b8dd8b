"""Rate limits as an admission: requests and tokens a minute.

Each limit is one number, by the Generic Cell Rate Algorithm (ITU-T I.371): the moment at which all
that was taken will have flowed off. So waits are exact, places are booked ahead in the order asked
for, and tokens that are counted after the fact are charged or paid back. That last is why this is
our own arithmetic: `limits`, `pyrate-limiter`, `throttled-py`, `aiolimiter` and langchain-core's
limiter drop them.
"""

import math
from collections.abc import Iterator
from datetime import timedelta
from threading import Lock
from typing import Any, Final, NamedTuple

from langchain_core.messages.utils import count_tokens_approximately

from langchain_model_gateway.admission import Closed, Moment, Outcome, Size
from langchain_model_gateway.sharing import LimitNews

_NEVER: Final = float("-inf")
_TOO_MANY_REQUESTS: Final = 429
# A moment that was told as the end of a wait is the end of it, whatever was rounded.
_ROUNDING: Final = 1e-6
_CHARACTERS_OF_A_TOKEN: Final = 4
_OF_A_MESSAGE: Final = int(count_tokens_approximately([""]))
_KEPT_FREE: Final = 3
"""For how many exchanges' time of the limit's flow, where processes share it."""


class Level:
    """What was taken from one limit: the moment at which all of it will have flowed off."""

    __slots__ = ("_all", "_least", "_own", "_untold")

    def __init__(self) -> None:
        self._own = self._all = self._least = _NEVER
        """What this process took; what all did, as far as is known; what the provider told."""
        self._untold = 0.0

    @property
    def ends(self) -> float:
        """When all that was taken will have flowed off."""
        return max(self._own, self._all)

    def take(self, now: float, seconds: float) -> None:
        """Take what flows off in so many seconds; less than 0 pays back."""
        self._own = max(self._own, now) + seconds
        self._all = max(self._all, now) + seconds
        self._untold += seconds

    def fill(self, ends: float) -> None:
        """Leave no room that this would not leave."""
        self._own, self._all, self._least = (
            max(each, ends) for each in (self._own, self._all, self._least)
        )

    def news(self, now: float) -> LimitNews:
        """What the other processes do not know yet."""
        return LimitNews(self._untold, max(0.0, self._least - now))

    def learn(self, left: float, told: LimitNews, now: float, every: float) -> None:
        """What all have taken flows off in so many seconds.

        What the others take is known up to two exchanges later; room is kept for that.
        """
        self._untold -= told.taken
        self._all = now + left + self._untold + (_KEPT_FREE * every if left > 0 else 0.0)

    def told(self) -> None:
        """There is nothing to tell."""
        self._untold = 0.0

    def forget_others(self, now: float) -> None:
        """Count this process's only; of what it has not told, what has not flowed off yet."""
        self._all = _NEVER
        self._untold = min(self._untold, max(0.0, self._own - now))


class Usage:
    """What was taken from one deployment's limits, and what its answers are like."""

    __slots__ = ("_outputs", "lock", "requests", "tokens")

    def __init__(self) -> None:
        self.requests, self.tokens = Level(), Level()
        self._outputs: float | None = None
        self.renew_lock()

    def renew_lock(self) -> None:
        """Make a new lock: in a forked process the old one may be held by nobody."""
        self.lock = Lock()
        """Held for a few assignments."""

    def after_fork(self) -> None:
        """Have nothing to tell: the process of before tells it."""
        self.renew_lock()
        self.requests.told()
        self.tokens.told()

    @property
    def mean_output(self) -> float:
        """The tokens of a recent answer."""
        return self._outputs or 0.0

    def note_output(self, tokens: int) -> None:
        """An answer had so many tokens."""
        known = self._outputs
        self._outputs = float(tokens) if known is None else known + 0.1 * (tokens - known)


class Rate:
    """So many requests or tokens a minute, evenly, with a small burst.

    The burst is a tenth of a minute's amount, or five where that is less: providers enforce
    seconds, whatever they say of minutes.

    Attributes:
        per_minute: How many.
        interval: The seconds in which one flows off.
        burst: How many may be taken at once.
    """

    __slots__ = ("burst", "interval", "per_minute")

    def __init__(self, per_minute: float) -> None:
        self.per_minute = per_minute
        self.interval = 60.0 / per_minute
        self.burst = max(per_minute / 10, min(per_minute, 5.0))

    def wait(self, ends: float, now: float, amount: float) -> float:
        """The seconds until so much may be taken; what is larger than the burst goes alone."""
        room = self.burst - min(amount, self.burst)
        return max(0.0, ends - now - room * self.interval)

    def room(self, ends: float, now: float) -> float:
        """How many may be taken at once."""
        return max(0.0, self.burst - max(0.0, ends - now) / self.interval)


class Limits:
    """One deployment's limits.

    Args:
        usage: What was taken from them.
        rpm: Requests a minute.
        tpm: Tokens a minute.
        max_output: The most tokens that the model answers with, if it says.
    """

    __slots__ = ("_max_output", "_rpm", "_tpm", "usage")

    def __init__(
        self, usage: Usage, rpm: float | None, tpm: float | None, max_output: int | None
    ) -> None:
        self.usage = usage
        self._rpm = None if rpm is None else Rate(rpm)
        self._tpm = None if tpm is None else Rate(tpm)
        self._max_output = max_output

    def closed(self, at: Moment, size: Size) -> Closed | None:
        """The limit that is reached at a moment, with when there is room again."""
        waits = self._waits(at.monotonic(), self._estimate(size))
        return self._closed(at, waits) if max(waits) > _ROUNDING else None

    def enter(self, at: Moment, size: Size, *, is_last_resort: bool) -> "LimitsPermit | Closed":
        """Take what the attempt needs; as the last resort, book it ahead."""
        tokens, now, usage = self._estimate(size), at.monotonic(), self.usage
        with usage.lock:
            waits = self._waits(now, tokens)
            wait = max(waits)
            if wait > _ROUNDING and not is_last_resort:
                return self._closed(at, waits)
            self._take(now, 1, tokens)
        return LimitsPermit(self, tokens, wait)

    def room(self, now: float) -> Iterator[tuple[str, float, float]]:
        """What each limit counts, how many of it may be taken at once now, and the most ever."""
        usage = self.usage
        for what, rate, ends in (
            ("requests", self._rpm, usage.requests.ends),
            ("tokens", self._tpm, usage.tokens.ends),
        ):
            if rate is not None:
                yield what, rate.room(ends, now), rate.burst

    def settle(self, tokens: int, outcome: Outcome) -> None:
        """An attempt that had taken so many tokens has ended."""
        usage, now = self.usage, outcome.at
        with usage.lock:
            if not outcome.has_begun:
                self._take(now, -1, -tokens)
            elif outcome.usage is not None:
                made = outcome.usage["output_tokens"]
                self._take(now, 0, outcome.usage["input_tokens"] + made - tokens)
                usage.note_output(made)
            elif outcome.status is not None and not outcome.is_cut:  # nothing was generated
                self._take(now, 0, -tokens)
            if outcome.status == _TOO_MANY_REQUESTS and outcome.retry_after:
                self._fill(now + outcome.retry_after)

    def _estimate(self, size: Size) -> int:
        if self._tpm is None:
            return 0
        output = self._max_output or self.usage.mean_output
        return size() + round(output)

    def _waits(self, now: float, tokens: int) -> tuple[float, float]:
        usage, rpm, tpm = self.usage, self._rpm, self._tpm
        return (
            0.0 if rpm is None else rpm.wait(usage.requests.ends, now, 1),
            0.0 if tpm is None else tpm.wait(usage.tokens.ends, now, tokens),
        )

    def _closed(self, at: Moment, waits: tuple[float, float]) -> Closed:
        for_request, for_tokens = waits
        rate, what = (self._rpm, "requests") if for_request >= for_tokens else (self._tpm, "tokens")
        assert rate is not None  # noqa: S101
        reason = f"limited, {rate.per_minute:,.15g} {what} a minute"
        return Closed("limited", reason, at.now() + timedelta(seconds=max(waits)))

    def _take(self, now: float, requests: int, tokens: int) -> None:
        """Take, or pay back. The lock is held."""
        usage = self.usage
        if self._rpm is not None and requests:
            usage.requests.take(now, requests * self._rpm.interval)
        if self._tpm is not None and tokens:
            usage.tokens.take(now, tokens * self._tpm.interval)

    def _fill(self, until: float) -> None:
        """Leave no room before a moment. The lock is held."""
        usage = self.usage
        if self._rpm is not None:
            usage.requests.fill(until + (self._rpm.burst - 1) * self._rpm.interval)
        if self._tpm is not None:
            usage.tokens.fill(until + self._tpm.burst * self._tpm.interval)


class LimitsPermit(NamedTuple):
    """What one attempt has taken from its deployment's limits."""

    limits: Limits
    tokens: int
    wait: float

    def give_back(self, outcome: Outcome) -> None:
        """The attempt has ended."""
        self.limits.settle(self.tokens, outcome)


def size_of(value: Any) -> int:
    """The tokens of a call's input, approximately; 0 for what is no input of a chat model."""
    if isinstance(value, str):  # counted as LangChain does, but no message is made of it for that
        return _OF_A_MESSAGE + math.ceil(len(value) / _CHARACTERS_OF_A_TOKEN)
    try:
        return int(count_tokens_approximately(value))
    except Exception:  # noqa: BLE001 - a chain's own input; the usage that is told corrects it
        return 0
