"""The decision: who may be tried, in which order, and what comes next.

Pure: no input or output, no waiting, no await; time and chance come from outside. A driver asks a
`Call` for its next step, carries it out and reports what happened. The very same code answers
`explain()`.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from itertools import chain, filterfalse
from operator import is_
from types import TracebackType
from typing import Any, Final, NamedTuple, Self, TypeVar

from langchain_core.exceptions import ModelTimeoutError

from langchain_model_gateway._text import one_line
from langchain_model_gateway.answers import (
    EmptyStreamError,
    RejectedAnswerError,
    StreamedAnswer,
    check_answer,
    is_structured,
    stamp,
)
from langchain_model_gateway.deployment import ModelDeployment
from langchain_model_gateway.errors import (
    FailedAttempt,
    ModelRouterError,
    SkippedModel,
    all_models_failed,
    is_control_flow,
    is_request_fault,
    is_retryable,
    no_model_available,
    retry_after,
)
from langchain_model_gateway.health import HealthState, Ticket
from langchain_model_gateway.policies import CooldownPolicy, Rejection, RetryPolicy
from langchain_model_gateway.timing import Clock

Stream = TypeVar("Stream")

logger: Final = logging.getLogger("langchain_model_gateway")


class Attempt(NamedTuple):
    """The next step is to ask a deployment.

    Attributes:
        deployment: Which.
        seconds: How long its answer (or the first real chunk of it) may take; `None`: any time.
    """

    deployment: ModelDeployment
    seconds: float | None


class Wait(NamedTuple):
    """The next step is to wait for so many seconds."""

    seconds: float


class RoutingPlan(NamedTuple):
    """What a call would do at one moment.

    Attributes:
        order: The names of the deployments that would be tried, in that order.
        skipped: Those that would not: who, why, and until when.
        resting: Those in `order` that come last because they rest, and until when.
        at: The moment.
    """

    order: tuple[str, ...]
    skipped: tuple[SkippedModel, ...]
    resting: tuple[SkippedModel, ...]
    at: datetime

    def __str__(self) -> str:
        from langchain_model_gateway.display import plan_text  # noqa: PLC0415 - only when shown

        return plan_text(self)

    def _repr_html_(self) -> str:
        from langchain_model_gateway.display import plan_html  # noqa: PLC0415 - only when shown

        return plan_html(self)


@dataclass(frozen=True, slots=True)
class Routing:
    """The part of a gateway that decides: its deployments, its rules and their health."""

    deployments: Mapping[str, ModelDeployment]
    exceptions_to_handle: tuple[type[BaseException], ...]
    strict_preference: bool
    retry: RetryPolicy | None
    cooldown: CooldownPolicy | None
    timeout: float | None
    reject: frozenset[Rejection]
    health: HealthState
    clock: Clock

    def preferred(self, name: object) -> ModelDeployment | None:
        """The deployment a caller asked for.

        Raises:
            ValueError: If there is none of that name and preference is strict.
        """
        if name is None:
            return None
        if isinstance(name, str) and (deployment := self.deployments.get(name)) is not None:
            return deployment
        shown = one_line(name, 60) if isinstance(name, str) else type(name).__name__
        known = ", ".join(one_line(each, 60) for each in self.deployments)
        if self.strict_preference:
            raise ValueError(
                f"model_preference {shown!r} is no deployment's name; use one of: {known}"
            )
        logger.warning("ignored model_preference %r: the deployments are: %s", shown, known)
        return None

    def handles(self, error: Exception) -> bool:
        """Whether an attempt that raised this has failed, so that the next may be tried."""
        # A gateway's own verdicts are failures whatever else is: they are what was asked for.
        is_verdict = isinstance(error, (RejectedAnswerError, EmptyStreamError))
        if is_verdict or type(error) is ModelTimeoutError:
            return True
        return isinstance(error, self.exceptions_to_handle) and not is_control_flow(error)

    def plan(self, preference: object, at: datetime | None = None) -> RoutingPlan:
        """What a call now, or at that moment, would do, if nobody's health changes until then."""
        clock = self.clock
        moment = clock.now() if at is None else at
        ahead = (moment - clock.now()).total_seconds()
        resting: list[SkippedModel] = []

        def wakes_at(name: str) -> float | None:
            present = clock.monotonic()
            wake = self.health.wakes_at(name, present + ahead)
            if wake is not None:
                until = clock.now() + timedelta(seconds=wake - present)
                resting.append(SkippedModel(name, "resting after failures", until))
            return wake

        choices = list(Route(self, self.preferred(preference), lambda: moment, wakes_at))
        return RoutingPlan(
            order=tuple(c.model_name for c in choices if isinstance(c, ModelDeployment)),
            skipped=tuple(c for c in choices if isinstance(c, SkippedModel)),
            resting=tuple(resting),
            at=moment,
        )


class Route(Iterator[ModelDeployment | SkippedModel]):
    """A way through the deployments in order, telling of each that it may be tried, or why not.

    Lazy: the clock is looked at when a deployment's turn has come, and a call whose first choice
    answers looks at no other. Those at rest come last, soonest to wake first.

    Args:
        routing: Who there is, and the rules.
        preferred: Whom to try first.
        now: The clock.
        wakes_at: Tells of a deployment when its rest ends; `None` if a call may go to it.
    """

    # No generator: to end one that is left half-way is a good part of what a healthy call costs.
    __slots__ = ("_is_rest_considered", "_now", "_resting", "_turns", "_wakes_at")

    def __init__(
        self,
        routing: Routing,
        preferred: ModelDeployment | None,
        now: Callable[[], datetime],
        wakes_at: Callable[[str], float | None],
    ) -> None:
        self._turns: Iterator[ModelDeployment] = iter(routing.deployments.values())
        if preferred is not None:
            self._turns = chain([preferred], filterfalse(partial(is_, preferred), self._turns))
        self._is_rest_considered = routing.cooldown is not None
        self._now = now
        self._wakes_at = wakes_at
        self._resting: list[tuple[float, ModelDeployment]] = []

    def __next__(self) -> ModelDeployment | SkippedModel:
        for deployment in self._turns:
            if (skip := deployment.restriction(self._now())) is not None:
                return skip
            if (
                not self._is_rest_considered
                or (wake := self._wakes_at(deployment.model_name)) is None
            ):
                return deployment
            self._resting.append((wake, deployment))
        if not self._resting:
            raise StopIteration
        self._resting.sort(key=lambda each: each[0])
        _, deployment = self._resting.pop(0)
        return deployment.restriction(self._now()) or deployment


class Call:
    """One call on its way through the deployments.

    A driver carries out `steps()` and reports of each attempt `answered`, or for a stream `saw` for
    each chunk and `finished`; or, if it raised, `failed`. It is a context manager: leaving it
    gives back what an unfinished attempt held.

    Args:
        routing: Who there is, and the rules.
        preference: The name to try first, if any.

    Attributes:
        clock: Time and chance, for the driver too.
        answer: What the call has come to.
        failures: Every failed attempt so far.
        skipped: Every deployment that was not tried so far.
    """

    __slots__ = (
        "_attempt_ends",
        "_current",
        "_deadline",
        "_is_settled",
        "_preferred",
        "_routing",
        "_stream",
        "_ticket",
        "answer",
        "clock",
        "failures",
        "skipped",
    )

    def __init__(self, routing: Routing, preference: object) -> None:
        self._routing = routing
        self.clock = clock = routing.clock
        self._preferred = routing.preferred(preference)
        self._deadline = None
        if routing.timeout is not None:
            self._deadline = clock.monotonic() + routing.timeout
        self._attempt_ends: float | None = None
        self._current: ModelDeployment
        self._ticket: Ticket | None = None
        self._stream: StreamedAnswer
        self._is_settled = False
        self.answer: Any = None
        self.failures: list[FailedAttempt] = []
        self.skipped: list[SkippedModel] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._release()
        # They hold this call's frames by their tracebacks, and the call holds them.
        self.failures = []

    # --- what comes next ---------------------------------------------------------------------

    def steps(self) -> Iterator[Attempt | Wait]:
        """What to do, one step after another, until there is an answer.

        Raises:
            NoModelAvailableError: If no deployment may be used now.
            AllModelsFailedError: If every one that could be tried has failed, or time is up.
        """
        for choice in Route(self._routing, self._preferred, self.clock.now, self._admit):
            if isinstance(choice, SkippedModel):
                self.skipped.append(choice)
                logger.debug("skipped %s", choice)
                continue
            yield from self._attempts(choice)
            if self._is_settled:
                return
        if self.answer is None:  # else the last structured output, unparsed
            raise self._give_up()

    def _attempts(self, deployment: ModelDeployment) -> Iterator[Attempt | Wait]:
        """One attempt at a deployment, and its retries."""
        self._current = deployment
        name = deployment.model_name
        is_last_resort = self._routing.cooldown is not None and self._ticket is None
        retries = 0
        while True:
            if is_last_resort and self._admit(name) is not None:
                self._ticket = self._routing.health.join(name)
            yield Attempt(deployment, self._time_for_attempt(deployment))
            if self._is_settled:
                return
            if self._time_left() == 0:
                raise self._give_up(f" (the timeout of {self._routing.timeout:.3g} s has passed)")
            retries += 1
            delay = self._delay_before_retry(retries)
            if delay is None or (not is_last_resort and self._rests_after(delay, name)):
                return
            yield Wait(delay)
            # Meanwhile a window may have begun, or failures have sent it to rest.
            if deployment.restriction(self.clock.now()) is not None:
                return
            if not is_last_resort and self._routing.cooldown and self._admit(name) is not None:
                return

    def _delay_before_retry(self, attempts: int) -> float | None:
        """How long to wait before the next attempt at the same deployment, if one is worth it."""
        policy = self._routing.retry
        error = self.failures[-1].exception
        if policy is None or attempts >= policy.max_attempts or not is_retryable(error):
            return None
        least = retry_after(error, self.clock.now()) or 0.0
        if least > policy.max_retry_after:
            return None
        delay = max(self.clock.uniform(0, policy.longest_delay(attempts)), least)
        left = self._time_left()
        return delay if left is None or delay < left else None

    def _rests_after(self, delay: float, name: str) -> bool:
        if self._routing.cooldown is None:
            return False
        return self._routing.health.wakes_at(name, self.clock.monotonic() + delay) is not None

    def _admit(self, name: str) -> float | None:
        """Begin to count an attempt; when the deployment rests, tell until when instead."""
        health, present = self._routing.health, self.clock.monotonic()
        self._ticket = health.admit(name, present)
        if self._ticket is not None:
            return None
        wake = health.wakes_at(name, present)
        return present if wake is None else wake

    # --- what happened -----------------------------------------------------------------------

    def answered(self, answer: Any) -> None:
        """The attempt gave an answer.

        Raises:
            RejectedAnswerError: If it is none that counts; report it as `failed`.
        """
        try:
            check_answer(answer, self._routing.reject)
        except RejectedAnswerError:
            if is_structured(answer):
                self.answer = answer
            raise
        self.answer = self._stamped(answer)
        self._succeeded()

    def saw(self, chunk: Any) -> Sequence[Any]:
        """The attempt's stream gave a chunk.

        Returns:
            The chunks to pass on: none until the answer has begun. With the first of them this
            deployment's answer is the call's, for good.

        Raises:
            RejectedAnswerError: If it is none that counts; report it as `failed`.
        """
        ready = self._stream.saw(chunk)
        if not ready:
            return ready
        if not self._is_settled:
            self._is_settled = True
            self._attempt_ends = None
            return [self._stamped(ready[0]), *ready[1:]]
        return ready

    def finished(self) -> None:
        """The stream has ended.

        Raises:
            RejectedAnswerError: If it is none that counts; report it as `failed`.
        """
        self._stream.finished()
        self._succeeded()

    def failed(self, error: BaseException) -> bool:
        """The attempt raised `error`.

        Returns:
            Whether to go on with the next step; if not, the error is the caller's to raise.

        Raises:
            AllModelsFailedError: If an answer has begun and time is up.
        """
        if not isinstance(error, Exception) or not self._routing.handles(error):
            self._release()
            return False
        failure = FailedAttempt(self._current.model_name, self._current.provider, error)
        self.failures.append(failure)
        if logger.isEnabledFor(logging.DEBUG):
            logger.debug("failed attempt %d: %s", len(self.failures), failure)
        self._count_failure(error)
        if self._is_settled and isinstance(error, ModelTimeoutError) and self._time_left() == 0:
            raise self._give_up(f" (the timeout of {self._routing.timeout:.3g} s has passed)")
        return not self._is_settled

    # --- time --------------------------------------------------------------------------------

    def watched(
        self, chunks: Stream, guard: Callable[[Stream, Callable[[], float | None]], Stream]
    ) -> Stream:
        """The stream of the current attempt, about to be read; under guard if it may take too long.

        Args:
            chunks: The stream.
            guard: The clock's `stream` or `astream`.
        """
        self._stream = StreamedAnswer(self._routing.reject)
        deployment = self._current
        limits = (self._deadline, deployment.timeout, deployment.stall_timeout)
        return chunks if limits == (None, None, None) else guard(chunks, self._patience)

    def _patience(self) -> float | None:
        """How many seconds the next chunk may take; `None`: any time."""
        present = self.clock.monotonic()
        ends = (self._attempt_ends, self._deadline)
        limits = [max(0.0, end - present) for end in ends if end is not None]
        # Between two chunks, and only while the reader waits for one: a slow reader is no stall.
        if self._stream.head and (stall := self._current.stall_timeout) is not None:
            limits.append(stall)
        return min(limits, default=None)

    def _time_for_attempt(self, deployment: ModelDeployment) -> float | None:
        left, seconds = self._time_left(), deployment.timeout
        self._attempt_ends = None if seconds is None else self.clock.monotonic() + seconds
        if left is None or seconds is None:
            return seconds if left is None else left
        return min(left, seconds)

    def _time_left(self) -> float | None:
        if self._deadline is None:
            return None
        return max(0.0, self._deadline - self.clock.monotonic())

    # --- bookkeeping -------------------------------------------------------------------------

    def _stamped(self, answer: Any) -> Any:
        return stamp(answer, self._current.model_name, self.failures)

    def _succeeded(self) -> None:
        self._is_settled = True
        if self._ticket is not None:
            self._routing.health.succeeded(self._ticket)
            self._ticket = None

    def _count_failure(self, error: Exception) -> None:
        policy, ticket = self._routing.cooldown, self._ticket
        if policy is None or ticket is None:
            return
        if isinstance(error, RejectedAnswerError) or is_request_fault(error):
            self._release()
            return
        asked = retry_after(error, self.clock.now())
        self._routing.health.failed(ticket, policy, self.clock.monotonic(), asked)
        self._ticket = None

    def _release(self) -> None:
        if self._ticket is not None:
            self._routing.health.released(self._ticket)
            self._ticket = None

    def _give_up(self, because: str = "") -> ModelRouterError:
        error: ModelRouterError
        if self.failures:
            error = all_models_failed(self.failures, self.skipped, because)
        else:
            error = no_model_available(self.skipped)
        logger.error("%s", error)
        return error
