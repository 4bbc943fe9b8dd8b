"""What comes next in one call, from what has happened in it so far.

Sans-I/O: nothing here waits, awaits or does input or output; time and chance come from outside.
A driver asks a `Call` for its next step, carries it out, and reports to the `Attempt` what came of
it.
"""

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import chain, count
from typing import Any, Final, Literal, NamedTuple, TypeVar

from langchain_core.exceptions import ModelTimeoutError

from langchain_model_gateway.admission import Closed, Moment, Outcome, Permit
from langchain_model_gateway.admission.limits import size_of
from langchain_model_gateway.answers import (
    StreamedAnswer,
    as_verdict,
    check_answer,
    is_structured,
    stamp,
    usage_of,
)
from langchain_model_gateway.classify import (
    is_account_fault,
    is_neutral,
    is_retryable,
    is_wrong_event_loop,
    provider_status,
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
from langchain_model_gateway.routing import Choice, Full, Routing, Target, route

Stream = TypeVar("Stream")

_FIRST_PAUSE: Final = 0.02
_LONGEST_PAUSE: Final = 0.25
"""The seconds after which a full deployment is looked at again, and the most of them."""


class Wait(NamedTuple):
    """A step: to wait for so many seconds."""

    seconds: float


class Call:
    """One call on its way through the deployments.

    Args:
        routing: Who there is, and the rules.
        value: The call's input.
        preference: The name to try first, if any.
        fallback: Whether another deployment is tried when the first choice fails.
        affinity: What goes to the same deployment as long as it can, such as a thread's id.
        is_stream: Whether it is asked for a stream.

    Attributes:
        answer: What the call has come to.
        is_answered: Whether an attempt has answered; in a stream, has begun to.
        raced: The names of those who were asked at once, where the call was hedged.
        deadline: When the call's time is up, in monotonic seconds.
        failures: Every failed attempt so far.
        skipped: Every deployment that was not tried so far.
    """

    __slots__ = (
        *("_attempt", "_fallback", "_full", "_is_late", "_order", "_pick", "_size", "_value"),
        *("answer", "deadline", "failures", "is_answered", "is_stream", "raced", "routing"),
        *("skipped",),
    )

    def __init__(
        self,
        routing: Routing,
        value: Any,
        preference: object = None,
        *,
        fallback: bool = True,
        affinity: object = None,
        is_stream: bool = False,
    ) -> None:
        self.routing = routing
        self.answer: Any = None
        self.deadline: float | None = None
        self.failures: tuple[FailedAttempt, ...] = ()
        self.is_answered = False
        self.is_stream = is_stream
        self.raced: tuple[str, ...] = ()
        self.skipped: tuple[SkippedModel, ...] = ()
        self._attempt: Attempt | None = None
        self._fallback = fallback
        self._full: list[Target] = []
        self._is_late = False
        self._order = routing.order(preference, affinity, is_only=not fallback)
        is_drawn = routing.rules.balance is not None and affinity is None
        self._pick = self._next if is_drawn else None
        self._size: int | None = None
        self._value = value
        if (timeout := routing.rules.timeout) is not None:
            self.deadline = routing.clock.monotonic() + timeout
        if (policy := routing.rules.hedge) is not None:
            routing.hedges.earn(policy.budget)

    # --- what comes next ---------------------------------------------------------------------

    def steps(self) -> "Iterator[Attempt | Wait]":
        """What to do, one step after another, until there is an answer.

        Raises:
            NoModelAvailableError: If no deployment may be used now.
            AllModelsFailedError: If every one that could be tried has failed, or time is up.
        """
        ready = route(self._order, self.routing.moment, self._enter, self._pick)
        try:
            for choice in chain(ready, self._when_free()):
                if isinstance(choice, Choice):
                    yield from self._attempts(choice)
                    if self.is_answered:
                        return
                    if not self._fallback:
                        break
                elif isinstance(choice, Wait):
                    yield choice
                elif isinstance(choice, Full):
                    self._full.append(choice.target)
                else:
                    self._skip(choice)
            if self.answer is None:  # else the last structured output, unparsed
                raise self._give_up()
        finally:
            if self._attempt is not None:
                self._attempt.end()
            # They hold the driver's frames by their tracebacks, and those hold this call.
            self.failures = ()

    def _attempts(self, choice: Choice) -> "Iterator[Attempt | Wait]":
        """The attempts at one deployment, and the waits between them."""
        target, permits, is_last_resort = choice
        for number in count(1):
            self._attempt = attempt = Attempt(self, target, permits)
            if is_last_resort and (wait := self._worth_waiting(permits)):
                yield Wait(wait)
                if self._is_restricted(target):
                    attempt.end()
                    return
            if target.model_name in self.raced:
                attempt.end()
                return
            attempt.begin()
            yield attempt
            if self.is_answered or (delay := self._delay_before_retry(choice, number)) is None:
                return
            yield Wait(delay)
            # Meanwhile a window may have begun, or other calls have failed.
            entry = self._enter(target, self.routing.moment(), is_last_resort=is_last_resort)
            if isinstance(entry, Closed):
                return
            permits = entry

    def _is_restricted(self, target: Target) -> bool:
        """Whether a window has begun while a place was waited for; then it is noted."""
        closed = target.closed(self.routing.moment(), self.size)
        if closed is None or closed.kind != "restricted":
            return False
        self._skip(target.skip(closed))
        return True

    def _when_free(self) -> Iterator[Choice | SkippedModel | Wait]:
        """Wait for a place at deployments that are full; there is no bell, so look again."""
        pending, clock = self._full, self.routing.clock
        if not pending:
            return
        most, pause = self.routing.rules.max_wait, _FIRST_PAUSE
        begun = clock.monotonic()
        while pending:
            for target in [*pending]:
                entry = self._enter(target, self.routing.moment(), is_last_resort=True)
                if isinstance(entry, Closed) and entry.kind != "restricted":
                    continue
                pending.remove(target)
                if isinstance(entry, Closed):
                    yield target.skip(entry)
                else:
                    yield Choice(target, entry, is_last_resort=True)
            waited = clock.monotonic() - begun
            limits = (None if most is None else most - waited, self.time_left())
            left = min((each for each in limits if each is not None), default=math.inf)
            if left <= 0:
                break
            if pending:
                yield Wait(min(pause * clock.uniform(0.5, 1.0), left))
                pause = min(2 * pause, _LONGEST_PAUSE)
        for target in pending:
            closed = target.closed(self.routing.moment(), self.size)
            reason = f"{closed.reason if closed else 'full'}, no place within {waited:.3g} s"
            yield SkippedModel(target.model_name, reason, clock.now())

    def _skip(self, skip: SkippedModel) -> None:
        self.skipped += (skip,)
        self.routing.listener.skipped(skip)

    def _enter(
        self, target: Target, at: Moment, *, is_last_resort: bool = False
    ) -> tuple[Permit, ...] | Closed:
        return target.enter(at, self.size, is_last_resort=is_last_resort)

    def _next(self, pending: Sequence[Target], at: Moment) -> Target:
        return self.routing.pick(pending, at, self.size, streams=self.is_stream, advance=True)

    def size(self) -> int:
        """The tokens of the call's input, approximately."""
        if self._size is None:
            self._size = size_of(self._value)
        return self._size

    def _worth_waiting(self, permits: tuple[Permit, ...]) -> float:
        """The seconds to wait for room in the limits; 0 where that would take too long."""
        wait = max((permit.wait for permit in permits), default=0.0)
        left, most = self.time_left(), self.routing.rules.max_wait
        # A limit is a courtesy: who would have to wait too long asks anyway, and at once.
        return 0.0 if most is None or wait > most or (left is not None and wait >= left) else wait

    def _delay_before_retry(self, choice: Choice, attempts: int) -> float | None:
        """How long to wait before the next attempt at the same deployment, if one is worth it.

        Raises:
            AllModelsFailedError: If time is up.
        """
        if self.deadline is not None:
            self.check_deadline()
        policy, clock = self.routing.rules.retry, self.routing.clock
        if policy is None or attempts >= policy.max_attempts or self.raced:
            return None
        error = self.failures[-1].exception
        if not is_retryable(error):
            return None
        least = retry_after(error, clock.now()) or 0.0
        if least > policy.max_retry_after or (least > policy.max_delay and self._another_is_free()):
            return None
        delay = max(clock.uniform(0, policy.longest_delay(attempts)), least)
        left = self.time_left()
        if left is not None and delay >= left:
            return None
        closed = choice.target.closed(self.routing.moment().after(delay), self.size)
        is_open = closed is None or (choice.is_last_resort and closed.kind != "restricted")
        return delay if is_open else None

    def _another_is_free(self) -> bool:
        return self._fallback and bool(self._free({each.model_name for each in self.failures}))

    def _free(self, tried: Collection[str]) -> list[Target]:
        """The deployments that were not tried yet and may be asked now."""
        present, untried = (
            self.routing.moment(),
            (target for target in self._order if target.model_name not in tried),
        )
        return [target for target in untried if target.closed(present, self.size) is None]

    # --- hedging -----------------------------------------------------------------------------

    def hedge_after(self, target: Target) -> float | None:
        """The seconds after which another is asked beside a deployment; `None`: nobody is."""
        policy = self.routing.rules.hedge
        if policy is None or self.raced or not self._fallback:
            return None
        recent = target.load.latencies(streams=self.is_stream)
        return policy.after(recent.quantile(policy.quantile))

    def hedge(self, first: "Attempt") -> "Attempt | None":
        """An attempt beside one that takes long, if another is free and the budget allows it."""
        name = first.target.model_name
        free = self._free({name, *(each.model_name for each in self.failures)})
        if not free:
            return None
        at = self.routing.moment()
        target = free[0] if self._pick is None else self._pick(free, at)
        entry = self._enter(target, at)
        if isinstance(entry, Closed):
            return None
        second = Attempt(self, target, entry)
        if not self.routing.hedges.spend():
            second.end()
            return None
        self.raced = (name, target.model_name)
        second.begin()
        return second

    # --- time --------------------------------------------------------------------------------

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
        hedge_after: The seconds after which another is asked beside it; `None`: nobody is.
        passes_through: Whether the rest of a stream needs no `received`: no kind of answer is
            rejected.
    """

    __slots__ = (
        *("_begun", "_call", "_ends", "_is_cut_by_call", "_latency", "_permits", "_stream"),
        *("has_answered", "hedge_after", "passes_through", "seconds", "target"),
    )

    def __init__(self, call: Call, target: Target, permits: tuple[Permit, ...]) -> None:
        self._begun: float | None = None
        self._call = call
        self._ends: float | None = None
        self._is_cut_by_call = False
        self._latency: float | None = None
        self._permits = permits
        self._stream: StreamedAnswer | None = None
        self.hedge_after: float | None = None
        self.target = target
        self.seconds: float | None = None
        self.has_answered = self.passes_through = False

    def begin(self) -> None:
        """The driver is about to ask."""
        if self._call.is_stream:
            rejects = self._call.routing.rules.reject
            self._stream = StreamedAnswer(rejects, counts_tokens=self.target.counts_tokens)
        if self._permits:
            self._begun = self._call.routing.clock.monotonic()
            self.hedge_after = self._call.hedge_after(self.target)
        if self.target.timeout is not None or self._call.deadline is not None:
            self._limit(self.target.timeout)

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
        call.answer = self._stamped(answer)
        self.has_answered = call.is_answered = True
        if self._permits:
            usage = usage_of(answer) if self.target.counts_tokens else None
            self._give_back("answered", usage=usage)

    def received(self, chunk: Any) -> Sequence[Any]:
        """The stream gave a chunk.

        Returns:
            The chunks to pass on: none until the answer has begun. With the first of them this
            deployment's answer is the call's, for good.

        Raises:
            RejectedAnswerError: If it is none that counts; report it as `failed`.
        """
        ready = self.noted(chunk)
        return ready if not ready or self.has_answered else self._claimed(ready)

    def noted(self, chunk: Any) -> Sequence[Any]:
        """`received`, but its answer is not the call's yet: another attempt may be quicker."""
        assert self._stream is not None  # noqa: S101
        return self._stream.received(chunk)

    def _claimed(self, ready: Sequence[Any]) -> list[Any]:
        """Make its answer the call's."""
        self.has_answered = self._call.is_answered = True
        rejects = bool(self._call.routing.rules.reject)
        self.passes_through = not rejects and not self.target.counts_tokens
        self._ends = None
        if self._begun is not None:
            self._latency = self._call.routing.clock.monotonic() - self._begun
        first, *rest = ready
        return [self._stamped(first), *rest]

    def _stamped(self, answer: Any) -> Any:
        call, name = self._call, self.target.model_name
        failed = {failure.model_name for failure in call.failures}
        beside = [each for each in call.raced if each != name and each not in failed]
        return stamp(answer, name, call.failures, beside)

    def finished(self) -> None:
        """The stream has ended.

        Raises:
            RejectedAnswerError: If it is none that counts; report it as `failed`.
        """
        if not self.passes_through:
            self.ended()
        if self._permits:
            usage = self._stream.usage if self._stream is not None else None
            self._give_back("answered", usage=usage)

    def ended(self) -> None:
        """`finished`, but nothing is recorded yet."""
        assert self._stream is not None  # noqa: S101
        self._stream.finished()

    def won(self, given: Any) -> Any:
        """It gave an answer, or the head of a stream, before another did; returns that.

        Raises:
            RejectedAnswerError: If it is none that counts; report it as `failed`.
        """
        if not self._call.is_stream:
            self.answered(given)
            return given
        ready, chunks = given
        return self, self._claimed(ready), chunks

    def lost(self) -> None:
        """Another was quicker. That counts: what hangs must not stay first for ever."""
        if self._permits:
            self._give_back("failed")

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
            self.end()
            return False
        target = self.target
        failure = FailedAttempt(target.model_name, target.provider, error, target.secrets)
        call.failures += (failure,)
        call.routing.listener.failed(failure, len(call.failures))
        is_timeout = type(error) is ModelTimeoutError
        if is_timeout and self._is_cut_by_call:
            call.is_cut_short()
            self.end()
        elif self._permits:
            self._count(error)
        if self.has_answered and is_timeout:
            call.check_deadline()
        if self.has_answered and error is not raised:
            raise error
        return not self.has_answered

    def _count(self, error: Exception) -> None:
        """Give the permits back with what an error says about the deployment."""
        if is_wrong_event_loop(error):
            self._call.routing.listener.wrong_event_loop(self.target.model_name)
        self._give_back(
            "neutral" if is_neutral(error) else "failed",
            retry_after=retry_after(error, self._call.routing.clock.now()),
            is_account_fault=is_account_fault(error),
            status=provider_status(error),
        )

    def end(self) -> None:
        """Give the permits back, unless they have been; it says nothing about the deployment."""
        if self._permits:
            self._give_back("neutral")

    def _give_back(self, kind: Literal["answered", "failed", "neutral"], **facts: Any) -> None:
        permits, self._permits = self._permits, ()
        now, begun, latency = self._call.routing.clock.monotonic(), self._begun, self._latency
        if latency is None and begun is not None and kind != "neutral":
            latency = now - begun
        outcome = Outcome(
            kind, now, latency, self._call.is_stream, has_begun=begun is not None, **facts
        )
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

    @property
    def is_hedge(self) -> bool:
        """Whether it was made beside another that takes long."""
        return self._call.raced[1:] == (self.target.model_name,)

    def async_model(self) -> Any:
        """What async callers ask."""
        target = self.target
        if self.is_limited and is_sync_only(target.model, streams=self._call.is_stream):
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
