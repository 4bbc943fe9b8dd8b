"""The decision: who may be tried, in which order, and what comes next.

Pure: no input or output, no waiting, no await; time and chance come from outside. A driver asks a
`Call` for its next step, carries it out and reports what happened. The very same code answers
`explain()`.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import count
from operator import itemgetter
from typing import Any, Final, NamedTuple, TypeVar

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


class Wait(NamedTuple):
    """A step: to wait for so many seconds. The other kind of step is a deployment to ask."""

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
    _orders: dict[object, tuple[ModelDeployment, ...]] = field(default_factory=dict, init=False)

    def order(self, preference: object) -> tuple[ModelDeployment, ...]:
        """The deployments in the order to try them: first the one a caller asked for, if any.

        Raises:
            ValueError: If there is none of that name and preference is strict.
        """
        try:
            return self._orders[preference]
        except (KeyError, TypeError):  # not asked for before, or not even hashable
            order = tuple(self.deployments.values())
        if preference is not None:
            if (preferred := self._named(preference)) is None:
                return self.order(None)
            order = (preferred, *(each for each in order if each is not preferred))
        return self._orders.setdefault(preference, order)

    def _named(self, name: object) -> ModelDeployment | None:
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

        choices = list(route(self.order(preference), lambda: moment, wakes_at))
        return RoutingPlan(
            order=tuple(c.model_name for c in choices if isinstance(c, ModelDeployment)),
            skipped=tuple(c for c in choices if isinstance(c, SkippedModel)),
            resting=tuple(resting),
            at=moment,
        )


def route(
    order: Iterable[ModelDeployment],
    now: Callable[[], datetime],
    wakes_at: Callable[[str], float | None] | None,
) -> Iterator[ModelDeployment | SkippedModel]:
    """A way through the deployments, telling of each that it may be tried, or why not.

    Lazy: the clock is looked at when a deployment's turn has come, and a call whose first choice
    answers looks at no other. Those at rest come last, soonest to wake first.

    Args:
        order: The deployments, as long as all are awake.
        now: The clock.
        wakes_at: Tells of a deployment when its rest ends (`None`: a call may go to it); left out
            where nobody rests.
    """
    resting: list[tuple[float, ModelDeployment]] = []
    for deployment in order:
        if (skip := deployment.restriction(now())) is not None:
            yield skip
        elif wakes_at is None or (wake := wakes_at(deployment.model_name)) is None:
            yield deployment
        else:
            resting.append((wake, deployment))
    for _, deployment in sorted(resting, key=itemgetter(0)):
        yield deployment.restriction(now()) or deployment


class Call:
    """One call on its way through the deployments.

    A driver carries out `steps()` and reports of each attempt `answered`, or for a stream `saw` for
    each chunk and `finished`; or, if it raised, `failed`.

    Args:
        routing: Who there is, and the rules.
        preference: The name to try first, if any.

    Attributes:
        clock: Time and chance, for the driver too.
        seconds: How long the attempt under way may take (in a stream, to its first real chunk);
            `None`: any time.
        answer: What the call has come to.
        failures: Every failed attempt so far.
        skipped: Every deployment that was not tried so far.
    """

    # Here, and not set for each call: most calls leave them as they are.
    seconds: float | None = None
    answer: Any = None
    failures: tuple[FailedAttempt, ...] = ()
    skipped: tuple[SkippedModel, ...] = ()

    is_unguarded = False

    _current: ModelDeployment
    _stream: StreamedAnswer
    _is_last_resort = False
    _is_settled = False
    _ticket: Ticket | None = None
    _attempt_ends: float | None = None
    _deadline: float | None = None

    def __init__(self, routing: Routing, preference: object) -> None:
        self._routing = routing
        self._order = routing.order(preference)
        self.clock = routing.clock
        if routing.timeout is not None:
            self._deadline = self.clock.monotonic() + routing.timeout

    # --- what comes next ---------------------------------------------------------------------

    def steps(self) -> Iterator[ModelDeployment | Wait]:
        """What to do, one step after another, until there is an answer.

        Raises:
            NoModelAvailableError: If no deployment may be used now.
            AllModelsFailedError: If every one that could be tried has failed, or time is up.
        """
        wakes_at = None if self._routing.cooldown is None else self._admit
        try:
            for choice in route(self._order, self.clock.now, wakes_at):
                if isinstance(choice, SkippedModel):
                    self.skipped += (choice,)
                    logger.debug("skipped %s", choice)
                    continue
                self._is_last_resort = wakes_at is not None and self._ticket is None
                for attempts in count(1):
                    self._begin(choice)
                    yield choice
                    if self._is_settled:
                        return
                    if (delay := self._delay_before_retry(attempts)) is None:
                        break
                    yield Wait(delay)
                    if not self._may_be_retried(choice):
                        break
            if self.answer is None:  # else the last structured output, unparsed
                raise self._give_up()
        finally:
            if self._ticket is not None:
                self._release(self._ticket)
            # They hold the driver's frames by their tracebacks, and those hold this call.
            self.failures = ()

    def _begin(self, deployment: ModelDeployment) -> None:
        """Begin an attempt."""
        self._current = deployment
        if self._is_last_resort and self._admit(deployment.model_name) is not None:
            self._ticket = self._routing.health.join(deployment.model_name)
        self.seconds = self._attempt_ends = None
        if deployment.timeout is not None or self._deadline is not None:
            self._limit(deployment.timeout)

    def _delay_before_retry(self, attempts: int) -> float | None:
        """How long to wait before the next attempt at the same deployment, if one is worth it.

        Raises:
            AllModelsFailedError: If time is up.
        """
        if self._deadline is not None:
            self._check_deadline()
        policy = self._routing.retry
        if policy is None or attempts >= policy.max_attempts:
            return None
        error = self.failures[-1].exception
        if not is_retryable(error):
            return None
        least = retry_after(error, self.clock.now()) or 0.0
        if least > policy.max_retry_after:
            return None
        delay = max(self.clock.uniform(0, policy.longest_delay(attempts)), least)
        left = self._time_left()
        if (left is not None and delay >= left) or self._rests_after(delay):
            return None
        return delay

    def _rests_after(self, delay: float) -> bool:
        if self._routing.cooldown is None or self._is_last_resort:
            return False
        wakes_at, then = self._routing.health.wakes_at, self.clock.monotonic() + delay
        return wakes_at(self._current.model_name, then) is not None

    def _may_be_retried(self, deployment: ModelDeployment) -> bool:
        """Whether meanwhile no window has begun and no other call's failures sent it to rest."""
        if deployment.restriction(self.clock.now()) is not None:
            return False
        if self._routing.cooldown is None or self._is_last_resort:
            return True
        return self._admit(deployment.model_name) is None

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
        self.answer = stamp(answer, self._current.model_name, self.failures)
        self._is_settled = True
        if self._ticket is not None:
            self._succeeded(self._ticket)

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
            self.is_unguarded = not self._routing.reject
            self._attempt_ends = None
            first, *rest = ready
            return [stamp(first, self._current.model_name, self.failures), *rest]
        return ready

    def finished(self) -> None:
        """The stream has ended.

        Raises:
            RejectedAnswerError: If it is none that counts; report it as `failed`.
        """
        if not self.is_unguarded:
            self._stream.finished()
        if self._ticket is not None:
            self._succeeded(self._ticket)

    def failed(self, error: BaseException) -> bool:
        """The attempt raised `error`.

        Returns:
            Whether to go on with the next step; if not, the error is the caller's to raise.

        Raises:
            AllModelsFailedError: If an answer has begun and time is up.
        """
        if not isinstance(error, Exception) or not self._routing.handles(error):
            return False
        failure = FailedAttempt(self._current.model_name, self._current.provider, error)
        self.failures += (failure,)
        if logger.isEnabledFor(logging.DEBUG):
            logger.debug("failed attempt %d: %s", len(self.failures), failure)
        if self._ticket is not None:
            self._count_failure(self._ticket, error)
        if self._is_settled and isinstance(error, ModelTimeoutError):
            self._check_deadline()
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

    def _limit(self, seconds: float | None) -> None:
        """Limit the attempt to so many seconds, and to what is left of the call's."""
        if seconds is not None:
            self._attempt_ends = self.clock.monotonic() + seconds
        limits = (self._time_left(), seconds)
        self.seconds = min(limit for limit in limits if limit is not None)

    def _time_left(self) -> float | None:
        if self._deadline is None:
            return None
        return max(0.0, self._deadline - self.clock.monotonic())

    # --- bookkeeping -------------------------------------------------------------------------

    def _succeeded(self, ticket: Ticket) -> None:
        self._routing.health.succeeded(ticket)
        self._ticket = None

    def _count_failure(self, ticket: Ticket, error: Exception) -> None:
        policy = self._routing.cooldown
        if policy is None or isinstance(error, RejectedAnswerError) or is_request_fault(error):
            self._release(ticket)
            return
        asked = retry_after(error, self.clock.now())
        self._routing.health.failed(ticket, policy, self.clock.monotonic(), asked)
        self._ticket = None

    def _release(self, ticket: Ticket) -> None:
        self._routing.health.released(ticket)
        self._ticket = None

    def _check_deadline(self) -> None:
        if self._time_left() == 0:
            raise self._give_up(f" (the timeout of {self._routing.timeout:.3g} s has passed)")

    def _give_up(self, because: str = "") -> ModelRouterError:
        error: ModelRouterError
        if self.failures:
            error = all_models_failed(self.failures, self.skipped, because)
        else:
            error = no_model_available(self.skipped)
        logger.error("%s", error)
        return error
