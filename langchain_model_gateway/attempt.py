"""One attempt at one deployment.

Sans-I/O: nothing here waits, awaits or does input or output; time comes from outside. Drivers
report to an attempt what came of it; two attempts of one call may be under way at once.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, Final, Literal, TypeVar

from langchain_core.exceptions import ModelTimeoutError
from langchain_core.messages.ai import UsageMetadata

from langchain_model_gateway.admission import Outcome, Permit
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
    is_control_flow,
    is_neutral,
    provider_status,
    retry_after,
)
from langchain_model_gateway.errors import FailedAttempt, RejectedAnswerError
from langchain_model_gateway.guards import InThreads, is_sync_only
from langchain_model_gateway.history import translated
from langchain_model_gateway.listeners import Asked, Listener, ListenerPermit, tell_first_chunk
from langchain_model_gateway.progress import Progress
from langchain_model_gateway.rejection import is_callers_bug
from langchain_model_gateway.target import Target

Stream = TypeVar("Stream")

_EARLY: Final = 0.01
"""The seconds before its time at which a timer may go off."""


class Attempt:
    """A step: to ask one deployment, and to report what came of it.

    A driver reports `answered`, or for a stream `received` for each chunk and `finished`; or, if
    something was raised, `failed`.

    Args:
        call: The call it is part of.
        target: The deployment to ask.
        permits: The permits it was let in with; they are given back with its outcome.
        is_last_resort: Whether its turn came late: it was in cooldown, limited or full.
        is_hedge: Whether it is made beside another that takes long.

    Attributes:
        seconds: How long it may take (in a stream, to the first real chunk); `None`: any time.
        hedge_after: The seconds after which another is asked beside it; `None`: nobody is.
        permits: What it was let in with, until they are given back.
        passes_through: Whether the rest of a stream needs no `received`: no kind of answer is
            rejected, and no tokens are counted.
    """

    __slots__ = (
        *("_begun", "_call", "_counts_tokens", "_ends", "_is_cut_by_call", "_stream", "_usage"),
        *("hedge_after", "is_hedge", "passes_through", "permits", "seconds", "target"),
    )

    def __init__(
        self,
        call: Progress,
        target: Target,
        permits: tuple[Permit, ...],
        *,
        is_last_resort: bool = False,
        is_hedge: bool = False,
    ) -> None:
        routing = call.routing
        self._call = call
        self.target = target
        self.permits = permits
        self.is_hedge = is_hedge
        self.passes_through = self._is_cut_by_call = False
        self._counts_tokens = target.counts_tokens
        self._begun: float | None = None
        self._ends: float | None = None
        self._stream: StreamedAnswer | None = None
        self._usage: UsageMetadata | None = None
        self.hedge_after: float | None = None
        self.seconds: float | None = None
        if listeners := routing.listeners.of_attempts:
            self._tell(listeners, is_last_resort=is_last_resort)
        if call.is_stream:
            self._stream = StreamedAnswer(routing.reject, counts_tokens=self._counts_tokens)
        if self.permits:
            self._begun = routing.clock.monotonic()
            if routing.rules.hedge is not None:
                self.hedge_after = call.hedge_after(target)
        if target.timeout is not None or call.deadline is not None:
            self._limit(target.timeout)

    def _tell(self, listeners: Sequence[Listener], *, is_last_resort: bool) -> None:
        """Tell the listeners that it begins; each gets a permit, so it is told of the end."""
        call, target = self._call, self.target
        begun = call.routing.clock.monotonic()
        name, provider = target.model_name, target.provider
        failed = call.failures[-1].model_name if call.failures and not self.is_hedge else name
        after = None if failed == name else failed
        number = len(call.failures) + (2 if self.is_hedge else 1)
        asked = Asked(name, provider, number, begun, is_last_resort, after)
        self._counts_tokens = True
        try:
            for listener in listeners:
                self.permits = (ListenerPermit(listener, asked, self.permits),)
                if self.is_hedge:
                    listener.hedged(asked)
                listener.started(asked)
        except BaseException:  # an exit: nobody gets this attempt, who could give them back
            self.end()
            raise

    # --- what happened -----------------------------------------------------------------------

    def answered(self, answer: Any) -> None:
        """The deployment gave an answer.

        Raises:
            RejectedAnswerError: If it is none that counts; report it as `failed`.
        """
        call = self._call
        if self._counts_tokens:
            self._usage = usage_of(answer)
        try:
            check_answer(answer, call.routing.reject)
        except RejectedAnswerError:
            if is_structured(answer):
                call.answer = answer
            raise
        beside = self._beside() if call.raced else ()
        call.answer = stamp(answer, self.target.model_name, call.failures, beside)
        call.is_answered = True
        if self.permits:
            self._give_back("answered", self._usage)

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
        return ready if not ready or self._call.is_answered else self._claimed(ready)

    def noted(self, chunk: Any) -> Sequence[Any]:
        """`received`, but its answer is not the call's yet: another attempt may be quicker."""
        assert self._stream is not None  # noqa: S101
        return self._stream.received(chunk)

    def _claimed(self, ready: Sequence[Any]) -> list[Any]:
        """Make its answer the call's."""
        call = self._call
        call.is_answered = True
        self.passes_through = call.routing.reject is None and not self._counts_tokens
        self._ends = None
        if self._begun is not None:
            assert self._stream is not None  # noqa: S101
            self._stream.latency = latency = call.routing.clock.monotonic() - self._begun
            tell_first_chunk(self.permits, latency)
        first, *rest = ready
        beside = self._beside() if call.raced else ()
        return [stamp(first, self.target.model_name, call.failures, beside), *rest]

    def _beside(self) -> Sequence[str]:
        """The names of those who were asked beside it, and have not failed."""
        call = self._call
        gone = {self.target.model_name, *(failure.model_name for failure in call.failures)}
        return [name for name in call.raced if name not in gone]

    def finished(self) -> None:
        """The stream has ended.

        Raises:
            RejectedAnswerError: If it is none that counts; report it as `failed`.
        """
        if not self.passes_through:
            self.ended()
        if self.permits:
            self._give_back("answered", self._spent())

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
        if self.permits:
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
            self.end(_failure(error))
            return False
        target = self.target
        failure = FailedAttempt(target.model_name, target.provider, error, target.secrets)
        call.record_failure(failure, target)
        is_timeout = type(error) is ModelTimeoutError
        if is_timeout and self._is_cut_by_call and (call.time_left() or 0.0) <= _EARLY:
            call.deadline = -math.inf  # whatever the clock says by now
            self.end(error)
        elif self.permits:
            self._count(error)
        if call.is_answered and is_timeout:
            call.check_deadline()
        if call.is_answered and error is not raised:
            raise error
        return not call.is_answered

    def _spent(self) -> UsageMetadata | None:
        """The tokens that it took, where they are counted and told; also those of no use."""
        return self._usage if self._stream is None else self._stream.usage

    def _count(self, error: Exception) -> None:
        """Give the permits back with what an error says about the deployment."""
        self._give_back(
            "neutral" if is_neutral(error) else "failed",
            self._spent() if isinstance(error, RejectedAnswerError) else None,
            error,
            retry_after=retry_after(error, self._call.routing.clock.now()),
            is_account_fault=is_account_fault(error),
            status=provider_status(error),
            is_cut=self._call.is_answered,
        )

    def end(self, error: Exception | None = None) -> None:
        """Give the permits back, unless they have been; it says nothing about the deployment."""
        if self.permits:
            self._give_back("neutral", None, error)

    def _give_back(
        self,
        kind: Literal["answered", "failed", "neutral"],
        usage: UsageMetadata | None = None,
        error: Exception | None = None,
        **facts: Any,
    ) -> None:
        permits, self.permits = self.permits, ()
        now, stream = self._call.routing.clock.monotonic(), self._stream
        latency = None if stream is None else stream.latency
        if latency is None and self._begun is not None and kind != "neutral":
            latency = now - self._begun
        outcome = Outcome(kind, now, latency, stream is not None, usage, error)
        if facts:
            outcome = outcome._replace(**facts)
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


def _failure(error: BaseException) -> Exception | None:
    """An error that ends the call, if it is the deployment's; else the attempt was given up."""
    is_own = isinstance(error, Exception) and not is_callers_bug(error)
    return error if is_own and not is_control_flow(error) else None  # type: ignore[return-value]
