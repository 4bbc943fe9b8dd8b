"""What comes next in one call, from what has happened in it so far.

Sans-I/O: nothing here waits, awaits or does input or output; time and chance come from outside.
A driver asks a `Call` for its next step, carries it out, and reports to the `Attempt` what came of
it.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import count
from typing import Any, Literal, NamedTuple, TypeVar

from langchain_core.exceptions import ModelTimeoutError

from langchain_model_gateway.admission import Closed, Outcome, Permit
from langchain_model_gateway.answers import (
    StreamedAnswer,
    as_verdict,
    check_answer,
    is_structured,
    stamp,
)
from langchain_model_gateway.classify import (
    is_account_fault,
    is_neutral,
    is_retryable,
    is_wrong_event_loop,
    retry_after,
)
from langchain_model_gateway.errors import (
    FailedAttempt,
    ModelRouterError,
    RejectedAnswerError,
    SkippedModel,
    all_models_failed,
    no_model_available,
)
from langchain_model_gateway.guards import InThreads, is_sync_only
from langchain_model_gateway.history import translated
from langchain_model_gateway.routing import Choice, Routing, Target, route

Stream = TypeVar("Stream")


class Wait(NamedTuple):
    """A step: to wait for so many seconds."""

    seconds: float


class Call:
    """One call on its way through the deployments.

    Args:
        routing: Who there is, and the rules.
        preference: The name to try first, if any.
        fallback: Whether another deployment is tried when the first choice fails.

    Attributes:
        answer: What the call has come to.
        deadline: When the call's time is up, in monotonic seconds.
        failures: Every failed attempt so far.
        skipped: Every deployment that was not tried so far.
    """

    __slots__ = (
        *("_fallback", "_is_late", "_pending"),
        *("answer", "deadline", "failures", "routing", "skipped"),
    )

    def __init__(
        self, routing: Routing, preference: object = None, *, fallback: bool = True
    ) -> None:
        self.routing = routing
        self.answer: Any = None
        self.deadline: float | None = None
        self.failures: tuple[FailedAttempt, ...] = ()
        self.skipped: tuple[SkippedModel, ...] = ()
        self._fallback = fallback
        self._is_late = False
        self._pending = [*routing.order(preference, is_only=not fallback)]
        if (timeout := routing.rules.timeout) is not None:
            self.deadline = routing.clock.monotonic() + timeout

    def steps(self) -> "Iterator[Attempt | Wait]":
        """What to do, one step after another, until there is an answer.

        Raises:
            NoModelAvailableError: If no deployment may be used now.
            AllModelsFailedError: If every one that could be tried has failed, or time is up.
        """
        routing, attempt = self.routing, None
        try:
            for choice in route(self._pending, routing.moment, Target.enter):
                if isinstance(choice, SkippedModel):
                    self.skipped += (choice,)
                    routing.listener.skipped(choice)
                    continue
                target, permits, is_last_resort = choice
                for number in count(1):
                    attempt = Attempt(self, target, permits)
                    yield attempt
                    if attempt.has_answered:
                        return
                    delay = self._delay_before_retry(choice, number)
                    if delay is None:
                        break
                    yield Wait(delay)
                    # Meanwhile a window may have begun, or other calls have failed.
                    entry = target.enter(routing.moment(), is_last_resort=is_last_resort)
                    if isinstance(entry, Closed):
                        break
                    permits = entry
                if not self._fallback:
                    break
            if self.answer is None:  # else the last structured output, unparsed
                raise self._give_up()
        finally:
            if attempt is not None:
                attempt.end("neutral")
            # They hold the driver's frames by their tracebacks, and those hold this call.
            self.failures = ()

    def _delay_before_retry(self, choice: Choice, attempts: int) -> float | None:
        """How long to wait before the next attempt at the same deployment, if one is worth it.

        Raises:
            AllModelsFailedError: If time is up.
        """
        if self.deadline is not None:
            self.check_deadline()
        policy, clock = self.routing.rules.retry, self.routing.clock
        if policy is None or attempts >= policy.max_attempts:
            return None
        error = self.failures[-1].exception
        if not is_retryable(error):
            return None
        least = retry_after(error, clock.now()) or 0.0
        if least > policy.max_retry_after:
            return None
        if least > policy.max_delay and self._another_is_free():
            return None
        delay = max(clock.uniform(0, policy.longest_delay(attempts)), least)
        if (left := self.time_left()) is not None and delay >= left:
            return None
        closed = choice.target.closed(self.routing.moment().after(delay))
        is_in_vain = closed is not None and (closed.is_final or not choice.is_last_resort)
        return None if is_in_vain else delay

    def _another_is_free(self) -> bool:
        if not (self._pending and self._fallback):
            return False
        present = self.routing.moment()
        return any(target.closed(present) is None for target in self._pending)

    def time_left(self) -> float | None:
        """Seconds until the deadline; `None` if there is none."""
        if self.deadline is None:
            return None
        return 0.0 if self._is_late else max(0.0, self.deadline - self.routing.clock.monotonic())

    def is_cut_short(self) -> None:
        """The deadline has cut an attempt short, whatever the clock says by now."""
        self._is_late = True

    def check_deadline(self) -> None:
        """Raise if time is up.

        Raises:
            AllModelsFailedError: With every failure so far.
        """
        if self.time_left() == 0:
            raise self._give_up(f" (the timeout of {self.routing.rules.timeout:.3g} s has passed)")

    def _give_up(self, because: str = "") -> ModelRouterError:
        error: ModelRouterError
        if self.failures:
            error = all_models_failed(self.failures, self.skipped, because)
        else:
            error = no_model_available(self.skipped)
        self.routing.listener.gave_up(error)
        return error


class Attempt:
    """A step: to ask one deployment, and to report what came of it.

    A driver reports `answered`, or for a stream `received` for each chunk and `finished`; or, if
    something was raised, `failed`.

    Args:
        call: The call it is part of.
        target: The deployment to ask.
        permits: The permits it was let in with; they are given back with its outcome.

    Attributes:
        seconds: How long it may take (in a stream, to the first real chunk); `None`: any time.
        has_answered: Whether its answer is the call's; in a stream, from the first real chunk on.
        passes_through: Whether the rest of a stream needs no `received`: no kind of answer is
            rejected.
    """

    __slots__ = (
        *("_call", "_ends", "_is_cut_by_call", "_permits", "_stream"),
        *("has_answered", "passes_through", "seconds", "target"),
    )

    def __init__(self, call: Call, target: Target, permits: tuple[Permit, ...]) -> None:
        self._call = call
        self._permits = permits
        self._stream: StreamedAnswer | None = None
        self._ends: float | None = None
        self._is_cut_by_call = False
        self.target = target
        self.seconds: float | None = None
        self.has_answered = self.passes_through = False
        if target.timeout is not None or call.deadline is not None:
            self._limit(target.timeout)

    # --- what happened -----------------------------------------------------------------------

    def answered(self, answer: Any) -> None:
        """The deployment gave an answer.

        Raises:
            RejectedAnswerError: If it is none that counts; report it as `failed`.
        """
        call = self._call
        try:
            check_answer(answer, call.routing.rules.reject)
        except RejectedAnswerError:
            if is_structured(answer):
                call.answer = answer
            raise
        call.answer = stamp(answer, self.target.model_name, call.failures)
        self.has_answered = True
        self.end("answered")

    def received(self, chunk: Any) -> Sequence[Any]:
        """The stream gave a chunk.

        Returns:
            The chunks to pass on: none until the answer has begun. With the first of them this
            deployment's answer is the call's, for good.

        Raises:
            RejectedAnswerError: If it is none that counts; report it as `failed`.
        """
        assert self._stream is not None  # noqa: S101
        ready = self._stream.received(chunk)
        if not ready or self.has_answered:
            return ready
        self.has_answered = True
        self.passes_through = not self._call.routing.rules.reject
        self._ends = None
        first, *rest = ready
        return [stamp(first, self.target.model_name, self._call.failures), *rest]

    def finished(self) -> None:
        """The stream has ended.

        Raises:
            RejectedAnswerError: If it is none that counts; report it as `failed`.
        """
        if not self.passes_through:
            assert self._stream is not None  # noqa: S101
            self._stream.finished()
        self.end("answered")

    def failed(self, error: BaseException) -> bool:
        """Something was raised: by the model, or by whoever cancelled or closed the attempt.

        Returns:
            Whether to go on with the next step; if not, the error is the caller's to raise.

        Raises:
            AllModelsFailedError: If an answer has begun and time is up.
            RejectedAnswerError: If one has begun, and it does not parse.
        """
        call, raised = self._call, error
        if isinstance(error, Exception):
            error = as_verdict(error)
        if not isinstance(error, Exception) or not call.routing.handles(error):
            self.end("neutral")
            return False
        target = self.target
        failure = FailedAttempt(target.model_name, target.provider, error, target.secrets)
        call.failures += (failure,)
        call.routing.listener.failed(failure, len(call.failures))
        is_timeout = type(error) is ModelTimeoutError
        if is_timeout and self._is_cut_by_call:
            call.is_cut_short()
            self.end("neutral")
        elif self._permits:
            self._count(error)
        if self.has_answered and is_timeout:
            call.check_deadline()
        if self.has_answered and error is not raised:
            raise error
        return not self.has_answered

    def _count(self, error: Exception) -> None:
        """Give the permits back with what an error says about the deployment."""
        clock = self._call.routing.clock
        if is_wrong_event_loop(error):
            self._call.routing.listener.wrong_event_loop(self.target.model_name)
        if is_neutral(error):
            self.end("neutral")
        else:
            asked = retry_after(error, clock.now())
            outcome = Outcome("failed", clock.monotonic(), asked, is_account_fault(error))
            self._give_back(outcome)

    def end(self, kind: Literal["answered", "neutral"]) -> None:
        """Give the permits back, unless they have been."""
        if self._permits:
            self._give_back(Outcome(kind, self._call.routing.clock.monotonic()))

    def _give_back(self, outcome: Outcome) -> None:
        permits, self._permits = self._permits, ()
        for permit in permits:
            permit.give_back(outcome)

    # --- time --------------------------------------------------------------------------------

    def guarded(self, chunks: Stream, guard: Callable[..., Stream], *args: Any) -> Stream:
        """The attempt's stream, about to be read; under guard if it may take too long.

        Args:
            chunks: The stream.
            guard: The guards' `stream` or `astream`.
            *args: What it takes beside the stream and its patience.
        """
        self._stream = StreamedAnswer(self._call.routing.rules.reject)
        return guard(chunks, self._patience, *args) if self.is_limited else chunks

    @property
    def is_limited(self) -> bool:
        """Whether it may take too long."""
        return self.seconds is not None or self.target.stall_timeout is not None

    def given(self, value: Any, keywords: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """A call's input and keywords as the deployment's client takes them."""
        routing = self._call.routing
        if not routing.rules.translate_history:
            return value, keywords
        return translated(value, keywords, self.target, routing.targets)

    def async_model(self, *, streams: bool = False) -> Any:
        """What async callers ask.

        Args:
            streams: Whether for a stream.
        """
        target = self.target
        if self.is_limited and is_sync_only(target.model, streams=streams):
            return InThreads(target.model, target.hanging)
        return target.model

    def _patience(self) -> float | None:
        """How many seconds the next chunk may take; `None`: any time."""
        own: list[float] = []
        if self._ends is not None:
            own.append(max(0.0, self._ends - self._call.routing.clock.monotonic()))
        # Between two chunks, and only while the reader waits for one: a slow reader is no stall.
        stall = self.target.stall_timeout
        if stall is not None and self._stream is not None and self._stream.head:
            own.append(stall)
        return self._least(min(own, default=None))

    def _limit(self, seconds: float | None) -> None:
        """Limit the attempt to so many seconds, and to what is left of the call's."""
        if seconds is not None:
            self._ends = self._call.routing.clock.monotonic() + seconds
        self.seconds = self._least(seconds)

    def _least(self, own: float | None) -> float | None:
        left = self._call.time_left()
        self._is_cut_by_call = left is not None and (own is None or left < own)
        return left if self._is_cut_by_call else own
