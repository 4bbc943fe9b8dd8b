"""What a gateway may do beyond falling back: data, validated and frozen."""

from collections.abc import Callable, Hashable, Mapping
from datetime import timedelta
from difflib import get_close_matches
from inspect import iscoroutinefunction
from typing import Annotated, ClassVar, Literal, Self, get_args

from langchain_core.messages import AIMessage
from pydantic import BaseModel, ConfigDict, Field, model_validator

from langchain_model_gateway._arguments import (
    CLASS_NOT_INSTANCE,
    AnySeconds,
    Seconds,
    check_keys,
    written_out,
)
from langchain_model_gateway._text import one_line

Rejection = Literal["empty", "content_filter", "length", "refusal", "error", "truncated"]
"""What an answer can be rejected for."""

RejectFunction = Callable[[AIMessage], bool]
"""Tells of a whole answer whether it is rejected."""


def check_rejection(kind: object) -> None:
    """Check one entry of `reject`.

    Raises:
        ValueError: If it is neither a known name nor a function that can be asked; says why.
    """
    names = get_args(Rejection)
    known = f"any of {', '.join(map(repr, names))}, or a function of the answer"
    if isinstance(kind, str):
        if kind not in names:
            near = get_close_matches(kind, names, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"reject does not know {one_line(kind, 60)!r}: {known}{hint}")
    elif isinstance(kind, type):
        hint = "; exceptions belong in exceptions_to_handle" * issubclass(kind, BaseException)
        raise ValueError(f"reject takes {known}, got the class {kind.__name__}{hint}")
    elif not callable(kind) or not isinstance(kind, Hashable):
        raise ValueError(f"reject takes {known}, got {type(kind).__name__}")
    elif iscoroutinefunction(kind) or iscoroutinefunction(type(kind).__call__):
        raise ValueError("reject takes plain functions, got an async one: its answer comes late")


class _Policy(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    _main: ClassVar[str]
    """The argument that a bare number, in the policy's place, is meant for."""

    @model_validator(mode="before")
    @classmethod
    def _check_form(cls, value: object) -> object:
        if isinstance(value, Mapping):
            check_keys(cls, value)
        elif isinstance(value, type):
            raise ValueError(f"got {CLASS_NOT_INSTANCE}")
        elif isinstance(value, bool):
            raise ValueError(f"write {cls.__name__}(), or None for none; got {value}")
        elif isinstance(value, (int, float, timedelta)):
            raise ValueError(f"write {cls.__name__}({cls._main}={value!r}), got {value!r}")
        return value


class RetryPolicy(_Policy):
    """Retry a deployment on retryable errors before going to the next.

    The wait is exponential backoff with full jitter ("Exponential Backoff And Jitter", AWS
    Architecture Blog, 2015). A server's `Retry-After` is the least wait; one that is too long
    sends the call to the next deployment at once.

    Args:
        max_attempts: The most attempts at one deployment, the first included.
        initial_delay: The most seconds (or a `timedelta`) to wait before the first retry; doubles
            with each.
        max_delay: The most seconds (or a `timedelta`) to wait before any retry.
        max_retry_after: The longest `Retry-After`, in seconds or as a `timedelta`, that is worth
            waiting for.

    Raises:
        ValidationError: If a number is out of range.
    """

    _main: ClassVar[str] = "max_attempts"

    max_attempts: int = Field(default=3, ge=1, le=100)
    initial_delay: Seconds = 0.5
    max_delay: Seconds = 8.0
    max_retry_after: Annotated[AnySeconds, Field(ge=0)] = 30.0

    @written_out
    def __init__(
        self,
        *,
        max_attempts: int = 3,
        initial_delay: float | timedelta = 0.5,
        max_delay: float | timedelta = 8.0,
        max_retry_after: float | timedelta = 30.0,
    ) -> None: ...

    def longest_delay(self, attempts: int) -> float:
        """The most seconds to wait after `attempts` failed ones; the wait is drawn below it."""
        # A power beyond 1,000 would be no float any more.
        return min(self.initial_delay * 2.0 ** min(attempts - 1, 1000), self.max_delay)


class CooldownPolicy(_Policy):
    """Do not call a deployment that keeps failing for a while, then find out with one call.

    The circuit breaker of M. Nygard, "Release It!": closed while the deployment is called as usual,
    open while it is in cooldown, half-open while one probe is under way. That a deployment in
    cooldown is still the last resort is Envoy's panic threshold.

    Args:
        failure_threshold: How many failures in a row start the cooldown.
        window: The seconds (or a `timedelta`) within which they must fall.
        duration: How many seconds (or a `timedelta`) the cooldown lasts, unless the server's
            `Retry-After` says.
        max_duration: The longest cooldown, in seconds or as a `timedelta`; each failed probe
            doubles the cooldown up to this. Left out: 300, or `duration` if that is longer.

    Raises:
        ValidationError: If a number is out of range, or `max_duration` less than `duration`.
    """

    _main: ClassVar[str] = "duration"

    failure_threshold: int = Field(default=3, ge=1)
    window: Seconds = 60.0
    duration: Seconds = 30.0
    max_duration: Seconds = 300.0

    @written_out
    def __init__(
        self,
        *,
        failure_threshold: int = 3,
        window: float | timedelta = 60.0,
        duration: float | timedelta = 30.0,
        max_duration: float | timedelta = 300.0,
    ) -> None: ...

    @model_validator(mode="after")
    def _check_durations(self) -> Self:
        if self.max_duration >= self.duration:
            return self
        if "max_duration" in self.model_fields_set:
            raise ValueError(
                f"max_duration ({self.max_duration}) is less than duration ({self.duration})"
            )
        object.__setattr__(self, "max_duration", self.duration)  # frozen only from here on
        return self

    def first(self, retry_after: float | None) -> float:
        """How many seconds a cooldown lasts after the failure that reached the threshold."""
        # "Retry-After: 0" from a server that has just failed so often is no cooldown.
        return min(retry_after or self.duration, self.max_duration)

    def longer(self, cooldown: float, retry_after: float | None) -> float:
        """How many seconds a cooldown lasts after a failed probe."""
        return min(max(2 * cooldown, retry_after or 0.0), self.max_duration)


class HedgePolicy(_Policy):
    """Ask another deployment too where the first one takes long, and take the first answer.

    "The Tail at Scale" (Dean and Barroso, CACM 2013). It helps against hangs and slow tails, and
    costs at most `budget` more calls.

    Args:
        delay: The most seconds (or a `timedelta`) to wait for the first one to answer; in a stream,
            to give its first real chunk.
        quantile: The share of the recent latencies of the first one after which another is asked,
            where that is less than `delay`.
        least_delay: The least seconds (or a `timedelta`) to wait.
        budget: The share of calls that may be hedged; up to ten are saved up.

    Raises:
        ValidationError: If a number is out of range, or `least_delay` more than `delay`.
    """

    delay: Seconds = 2.0
    quantile: float = Field(default=0.98, gt=0, lt=1)
    least_delay: Seconds = 0.1
    budget: float = Field(default=0.05, gt=0, le=1)

    @written_out
    def __init__(
        self,
        *,
        delay: float | timedelta = 2.0,
        quantile: float = 0.98,
        least_delay: float | timedelta = 0.1,
        budget: float = 0.05,
    ) -> None: ...

    @model_validator(mode="after")
    def _check_delays(self) -> Self:
        if self.least_delay > self.delay:
            raise ValueError(f"least_delay ({self.least_delay}) is more than delay ({self.delay})")
        return self

    def after(self, usual: float | None) -> float:
        """The seconds after which another is asked.

        Args:
            usual: The quantile of recent latencies, if any are known.
        """
        return self.delay if usual is None else max(self.least_delay, min(self.delay, usual))
