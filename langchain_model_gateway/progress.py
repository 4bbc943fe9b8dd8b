"""What has happened in a call so far.

Sans-I/O: nothing here waits, awaits or does input or output; time comes from outside.
"""

from typing import Any

from langchain_model_gateway.errors import (
    FailedAttempt,
    ModelRouterError,
    SkippedModel,
    all_models_failed,
    no_model_available,
)
from langchain_model_gateway.routing import Routing
from langchain_model_gateway.target import Target


class Progress:
    """What has happened in a call so far; its attempts write it down.

    Args:
        routing: Who there is, and the rules.
        fallback: Whether another deployment is tried when the first choice fails.
        is_stream: Whether it is asked for a stream.

    Attributes:
        answer: What the call has come to.
        attempts: How many attempts have begun.
        behind: Those that come last, as they cannot take the request, and why; by name.
        deadline: When the call's time is up, in monotonic seconds.
        failures: Every failed attempt so far.
        is_answered: Whether an attempt has answered; in a stream, has begun to.
        is_late: Whether the deadline has cut an attempt short, whatever the clock says by now.
        raced: The names of those who were asked at once, where the call was hedged.
        skipped: Every deployment that was not tried so far.
    """

    __slots__ = (
        *("answer", "attempts", "behind", "deadline", "failures", "fallback", "is_answered"),
        *("is_late", "is_stream", "raced", "routing", "skipped"),
    )

    def __init__(self, routing: Routing, *, fallback: bool, is_stream: bool) -> None:
        self.answer: Any = None
        self.attempts = 0
        self.behind: dict[str, SkippedModel] = {}
        self.deadline: float | None = None
        self.failures: tuple[FailedAttempt, ...] = ()
        self.fallback = fallback
        self.is_answered = self.is_late = False
        self.is_stream = is_stream
        self.raced: tuple[str, ...] = ()
        self.routing = routing
        self.skipped: tuple[SkippedModel, ...] = ()
        if (timeout := routing.rules.timeout) is not None:
            self.deadline = routing.clock.monotonic() + timeout

    def time_left(self) -> float | None:
        """Seconds until the deadline; `None` if there is none."""
        if self.deadline is None:
            return None
        return 0.0 if self.is_late else max(0.0, self.deadline - self.routing.clock.monotonic())

    def check_deadline(self) -> None:
        """Raise if time is up.

        Raises:
            AllModelsFailedError: With every failure so far.
        """
        if self.time_left() == 0:
            raise self.gave_up(f" (the timeout of {self.routing.rules.timeout:.3g} s has passed)")

    def gave_up(self, because: str = "") -> ModelRouterError:
        """The error that tells all."""
        error: ModelRouterError
        if self.failures:
            error = all_models_failed(
                self.failures, self.skipped, because, tuple(self.behind.values())
            )
        else:
            error = no_model_available(self.skipped)
        for each in self.routing.listeners.all:
            each.gave_up(error)
        return error

    def hedge_after(self, target: Target) -> float | None:
        """The seconds after which another is asked beside a deployment; `None`: nobody is."""
        policy = self.routing.rules.hedge
        if policy is None or self.raced or not self.fallback:
            return None
        recent = target.load.latencies(streams=self.is_stream)
        return policy.after(recent.quantile(policy.quantile))
