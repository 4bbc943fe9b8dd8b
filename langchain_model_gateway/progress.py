"""One call's state: what it asks for, and what has happened in it so far.

Sans-I/O: nothing here waits, awaits or does input or output; time comes from outside.
"""

from typing import Any

from langchain_model_gateway.admission.limits import size_of
from langchain_model_gateway.capabilities import MESSAGES
from langchain_model_gateway.classify import is_context_overflow
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
    """What a call asks for, and what has happened in it so far; its attempts write it down.

    Args:
        routing: Who there is, and the rules.
        value: The call's input.
        preference: The name to try first, in place of the rules'; "" or `None` for theirs.
        fallback: Whether another deployment is tried when the first choice fails, in place of what
            the rules say.
        affinity: What goes to the same deployment as long as it can, such as a thread's id.
        is_stream: Whether it is asked for a stream.
        has_tools: Whether tools are among its keywords.

    Attributes:
        answer: What the call has come to.
        behind: Those that come last, as they cannot take the request, and why; by name.
        deadline: When the call's time is up, in monotonic seconds.
        failures: Every failed attempt so far.
        is_answered: Whether an attempt has answered; in a stream, has begun to.
        is_drawn: Whether a balance decides who is next.
        order: The deployments in the order to try them.
        raced: The names of those who were asked at once, where the call was hedged.
        skipped: Every deployment that was not tried so far.
    """

    __slots__ = (
        *("_size", "_value", "answer", "behind", "deadline", "failures", "fallback"),
        *("is_answered", "is_drawn", "is_stream", "order", "raced", "routing", "skipped"),
    )

    def __init__(
        self,
        routing: Routing,
        value: Any,
        preference: object = None,
        *,
        fallback: bool | None = None,
        affinity: object = None,
        is_stream: bool = False,
        has_tools: bool = False,
    ) -> None:
        rules = routing.rules
        if preference is None or preference == "":  # given "", whatever the config says
            preference = rules.model_preference
        if fallback is None:
            fallback = rules.model_fallback
        self._size: int | None = None
        self._value = value
        self.answer: Any = None
        self.behind: dict[str, SkippedModel] = {}
        self.deadline: float | None = None
        self.failures: tuple[FailedAttempt, ...] = ()
        self.fallback = fallback
        self.is_answered = False
        self.is_drawn = rules.balance is not None and affinity is None
        self.is_stream = is_stream
        self.order = routing.order(preference, affinity, is_only=not fallback)
        self.raced: tuple[str, ...] = ()
        self.routing = routing
        self.skipped: tuple[SkippedModel, ...] = ()
        if rules.timeout is not None:
            self.deadline = routing.clock.monotonic() + rules.timeout
        if routing.lacks:
            is_plain = value.__class__ is str
            if value.__class__ is list:  # written out: plain text is to cost no function call
                for message in value:
                    if message.__class__ not in MESSAGES or message.content.__class__ is not str:
                        break
                else:
                    is_plain = True
            if not is_plain or has_tools or routing.has_vain_tools:
                self.behind = routing.unable(value, has_tools=has_tools)
        if routing.counts_calls:
            routing.count_call()

    def size(self) -> int:
        """The tokens of the call's input, approximately."""
        if self._size is None:
            self._size = size_of(self._value)
        return self._size

    def record_failure(self, failure: FailedAttempt, target: Target) -> None:
        """An attempt at a deployment has failed."""
        self.failures += (failure,)
        for each in self.routing.listeners.all:
            each.failed(failure, len(self.failures))
        if target.window and self.fallback and is_context_overflow(failure.exception):
            self._put_smaller_behind(target.window)

    def _put_smaller_behind(self, window: int) -> None:
        """The input does not fit into so many tokens: who has no larger window comes last."""
        tried = {failure.model_name for failure in self.failures}
        for target in self.order:
            if target.window and target.window <= window and target.model_name not in tried:
                reason = f"its window of {target.window:,} tokens is no larger"
                skip = SkippedModel(target.model_name, reason)
                self.behind.setdefault(target.model_name, skip)

    def time_left(self) -> float | None:
        """Seconds until the deadline; `None` if there is none."""
        if self.deadline is None:
            return None
        return max(0.0, self.deadline - self.routing.clock.monotonic())

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
