"""What comes next in one call, from what has happened in it so far.

Pure: no input or output, no waiting, no await; time and chance come from outside. A driver asks a
`Call` for its next step, carries it out and reports what came of it.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from typing import Any, NamedTuple, TypeVar

from langchain_core.exceptions import ModelTimeoutError

from langchain_model_gateway.answers import (
    RejectedAnswerError,
    StreamedAnswer,
    as_verdict,
    check_answer,
    is_callers_bug,
    is_rejection,
    is_structured,
    stamp,
)
from langchain_model_gateway.deployment import ModelDeployment
from langchain_model_gateway.errors import (
    FailedAttempt,
    ModelRouterError,
    SkippedModel,
    all_models_failed,
    is_request_fault,
    is_retryable,
    no_model_available,
    retry_after,
)
from langchain_model_gateway.health import Ticket
from langchain_model_gateway.routing import Routing, logger, route

Stream = TypeVar("Stream")


class Wait(NamedTuple):
    """A step: to wait for so many seconds. The other kind of step is a deployment to ask."""

    seconds: float


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
        passes_through: Whether the rest of a stream needs no `saw`: its answer has begun, and no
            kind of answer is refused.
        failures: Every failed attempt so far.
        skipped: Every deployment that was not tried so far.
    """

    # Here, and not set for each call: most calls leave them as they are.
    seconds: float | None = None
    answer: Any = None
    passes_through = False
    failures: tuple[FailedAttempt, ...] = ()
    skipped: tuple[SkippedModel, ...] = ()

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
            self.passes_through = not self._routing.reject
            self._attempt_ends = None
            first, *rest = ready
            return [stamp(first, self._current.model_name, self.failures), *rest]
        return ready

    def finished(self) -> None:
        """The stream has ended.

        Raises:
            RejectedAnswerError: If it is none that counts; report it as `failed`.
        """
        if not self.passes_through:
            self._stream.finished()
        if self._ticket is not None:
            self._succeeded(self._ticket)

    def failed(self, error: BaseException) -> bool:
        """The attempt raised `error`.

        Returns:
            Whether to go on with the next step; if not, the error is the caller's to raise.

        Raises:
            AllModelsFailedError: If an answer has begun and time is up.
            RejectedAnswerError: If one has begun, and it does not parse.
        """
        if not isinstance(error, Exception) or is_callers_bug(error):
            return False
        raised, error = error, as_verdict(error)
        if not self._routing.handles(error):
            return False
        failure = FailedAttempt(self._current.model_name, self._current.provider, error)
        self.failures += (failure,)
        if logger.isEnabledFor(logging.DEBUG):
            logger.debug("failed attempt %d: %s", len(self.failures), failure)
        if self._ticket is not None:
            self._count_failure(self._ticket, error)
        if self._is_settled and isinstance(error, ModelTimeoutError):
            self._check_deadline()
        if self._is_settled and error is not raised:
            raise error
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
        if policy is None or is_rejection(error) or is_request_fault(error):
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
