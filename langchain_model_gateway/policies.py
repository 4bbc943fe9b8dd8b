"""What a gateway may do beyond falling over: data, validated and frozen."""

from collections.abc import Callable, Hashable
from difflib import get_close_matches
from inspect import iscoroutinefunction
from types import SimpleNamespace
from typing import Annotated, Any, Literal, Self, get_args

from langchain_core.messages import AIMessage
from pydantic import BaseModel, ConfigDict, Field, model_validator

from langchain_model_gateway._text import one_line

Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False, strict=False)]
"""A positive, finite number of seconds."""

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


class RetryPolicy(_Policy):
    """Retry a deployment on retryable errors before going to the next.

    The wait is exponential backoff with full jitter ("Exponential Backoff And Jitter", AWS
    Architecture Blog, 2015). A server's `Retry-After` is the least wait; one that is too long
    sends the call to the next deployment at once.

    Args:
        max_attempts: The most attempts at one deployment, the first included.
        initial_delay: The most seconds to wait before the first retry; doubles with each.
        max_delay: The most seconds to wait before any retry.
        max_retry_after: The longest `Retry-After`, in seconds, that is worth waiting for.

    Raises:
        ValidationError: If a number is out of range.
    """

    max_attempts: int = Field(default=3, ge=1, le=100)
    initial_delay: Seconds = 0.5
    max_delay: Seconds = 8.0
    max_retry_after: float = Field(default=30.0, ge=0, allow_inf_nan=False)

    def longest_delay(self, attempts: int) -> float:
        """The most seconds to wait after `attempts` failed ones; the wait is drawn below it."""
        # Imported when first needed: it would be a tenth of this package's import time.
        from tenacity import wait_exponential  # noqa: PLC0415

        wait = wait_exponential(multiplier=self.initial_delay, max=self.max_delay)
        state: Any = SimpleNamespace(attempt_number=attempts)
        return float(wait(state))


class CooldownPolicy(_Policy):
    """Let a deployment that keeps failing rest, and find out with one call when it is back.

    The circuit breaker of M. Nygard, "Release It!", with one probe in the half-open state; that a
    resting deployment is still the last resort is Envoy's panic threshold.

    Args:
        failure_threshold: How many failures in a row send a deployment to rest.
        window: The seconds within which they must fall.
        duration: How many seconds it rests, unless the server's `Retry-After` says.
        max_duration: The longest rest in seconds; each failed probe doubles the rest up to this.

    Raises:
        ValidationError: If a number is out of range, or `max_duration` less than `duration`.
    """

    failure_threshold: int = Field(default=3, ge=1)
    window: Seconds = 60.0
    duration: Seconds = 30.0
    max_duration: Seconds = 300.0

    @model_validator(mode="after")
    def _check_durations(self) -> Self:
        if self.max_duration < self.duration:
            raise ValueError(
                f"max_duration ({self.max_duration}) is less than duration ({self.duration})"
            )
        return self

    def first(self, retry_after: float | None) -> float:
        """How many seconds a cooldown lasts after the failure that reached the threshold."""
        # "Retry-After: 0" from a server that has just failed so often is no cooldown.
        return min(retry_after or self.duration, self.max_duration)

    def longer(self, cooldown: float, retry_after: float | None) -> float:
        """How many seconds a cooldown lasts after a failed probe."""
        return min(max(2 * cooldown, retry_after or 0.0), self.max_duration)
