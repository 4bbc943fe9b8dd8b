"""What comes next in one call, from what has happened in it so far.

Sans-I/O: nothing here waits, awaits or does input or output; time and chance come from outside.
A driver asks a `Call` for its next step, carries it out, and reports to the `Attempt` what came of
it.
"""

import math
from collections.abc import Collection, Iterator, Sequence
from itertools import chain, count
from typing import Any, Final, NamedTuple

from langchain_model_gateway.admission import Closed, Moment, Permit
from langchain_model_gateway.admission.limits import size_of
from langchain_model_gateway.attempt import Attempt, Progress
from langchain_model_gateway.classify import is_retryable, retry_after
from langchain_model_gateway.errors import SkippedModel
from langchain_model_gateway.routing import Choice, Full, Routing, route
from langchain_model_gateway.target import Target

_FIRST_PAUSE: Final = 0.02
_LONGEST_PAUSE: Final = 0.25
"""The seconds after which a full deployment is looked at again, and the most of them."""


class Wait(NamedTuple):
    """A step: to wait for so many seconds."""

    seconds: float


class Call(Progress):
    """One call on its way through the deployments.

    Args:
        routing: Who there is, and the rules.
        value: The call's input.
        preference: The name to try first, if any.
        fallback: Whether another deployment is tried when the first choice fails.
        affinity: What goes to the same deployment as long as it can, such as a thread's id.
        is_stream: Whether it is asked for a stream.
    """

    __slots__ = ("_attempt", "_full", "_order", "_pick", "_size", "_value")

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
        super().__init__(routing, fallback=fallback, is_stream=is_stream)
        self._attempt: Attempt | None = None
        self._full: list[Target] = []
        self._order = routing.order(preference, affinity, is_only=not fallback)
        is_drawn = routing.rules.balance is not None and affinity is None
        self._pick = self._next if is_drawn else None
        self._size: int | None = None
        self._value = value
        if (policy := routing.rules.hedge) is not None:
            routing.hedges.earn(policy.budget)

    # --- what comes next ---------------------------------------------------------------------

    def steps(self) -> Iterator[Attempt | Wait]:
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
                    if not self.fallback:
                        break
                elif isinstance(choice, Wait):
                    yield choice
                elif isinstance(choice, Full):
                    self._full.append(choice.target)
                else:
                    self._skip(choice)
            if self.answer is None:  # else the last structured output, unparsed
                raise self.gave_up()
        finally:
            if self._attempt is not None:
                self._attempt.end()
            # No circle is left behind: an attempt holds its call, and a failure, by its traceback,
            # the driver's frame, which holds it too.
            self._attempt, self.failures = None, ()

    def _attempts(self, choice: Choice) -> Iterator[Attempt | Wait]:
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
        return self.fallback and bool(self._free({each.model_name for each in self.failures}))

    def _free(self, tried: Collection[str]) -> list[Target]:
        """The deployments that were not tried yet and may be asked now."""
        present, untried = (
            self.routing.moment(),
            (target for target in self._order if target.model_name not in tried),
        )
        return [target for target in untried if target.closed(present, self.size) is None]

    # --- hedging -----------------------------------------------------------------------------

    def hedge(self, first: Attempt) -> Attempt | None:
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
