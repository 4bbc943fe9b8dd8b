"""What comes next in one call, from what has happened in it so far.

Sans-I/O: nothing here waits, awaits or does input or output; time and chance come from outside.
A driver asks a `Call` for its next step, carries it out, and reports to the `Attempt` what came of
it.
"""

import math
from collections.abc import Generator, Iterator, Sequence
from typing import Final, NamedTuple

from langchain_model_gateway.admission import Closed, Permit, Then
from langchain_model_gateway.attempt import Attempt
from langchain_model_gateway.classify import is_retryable, retry_after
from langchain_model_gateway.progress import Progress
from langchain_model_gateway.routing import Choice, route
from langchain_model_gateway.target import Target, give_back_unused

_FIRST_PAUSE: Final = 0.02
_LONGEST_PAUSE: Final = 0.25
"""The seconds after which a full deployment is looked at again, and the most of them."""


class Wait(NamedTuple):
    """A step: to wait for so many seconds."""

    seconds: float


class Call(Progress):
    """One call on its way through the deployments."""

    __slots__ = ()

    # --- what comes next ---------------------------------------------------------------------

    def steps(self) -> Iterator[Attempt | Wait]:
        """What to do, one step after another, until there is an answer.

        Raises:
            NoModelAvailableError: If no deployment may be used now.
            AllModelsFailedError: If every one that could be tried has failed, or time is up.
        """
        steps = route(
            self.order,
            self.routing.clock,
            self.size,
            Target.enter,
            pick=self._next if self.is_drawn else None,
            when_free=self._when_free,
            behind=self.behind,
        )
        attempt = None
        try:
            for step in steps:
                if isinstance(step, Wait):
                    yield step
                    continue
                target, entry, is_last_resort = step
                if isinstance(entry, Closed):
                    self._skip(target, entry)
                    continue
                permits: tuple[Permit, ...] | None = entry
                attempts = 0
                while permits is not None:
                    is_late = is_last_resort or self.raced
                    if is_late and not (yield from self._may_ask(target, permits)):
                        break
                    attempt = Attempt(self, target, permits, is_last_resort=is_last_resort)
                    yield attempt
                    if self.is_answered:
                        return
                    attempts += 1
                    permits, is_last_resort = yield from self._again(
                        target, attempts, is_last_resort=is_last_resort
                    )
                if not self.fallback:
                    break
            if self.answer is None:  # else the last structured output, unparsed
                raise self.gave_up()
        finally:
            if attempt is not None and attempt.permits:
                attempt.end()
            # No circle is left behind: a failure holds the driver's frame by its traceback.
            self.failures = ()

    def _may_ask(self, target: Target, permits: tuple[Permit, ...]) -> Generator[Wait, None, bool]:
        """Wait for room in the limits; whether the deployment may be asked then."""
        may_ask = False
        try:
            if target.model_name not in self.raced:  # else it was asked beside another
                if wait := self._worth_waiting(permits):
                    yield Wait(wait)
                may_ask = not wait or not self._is_restricted(target)
            return may_ask
        finally:
            if not may_ask:
                give_back_unused(permits, self.routing.clock)

    def _again(
        self, target: Target, attempts: int, *, is_last_resort: bool
    ) -> Generator[Wait, None, tuple[tuple[Permit, ...] | None, bool]]:
        """Wait before another attempt at the same deployment.

        Returns:
            Its permits, `None` if it is not worth it or not possible; and whether it is the last
            resort now.
        """
        delay = self._delay_before_retry(target, attempts, is_last_resort=is_last_resort)
        if delay is None:
            return None, is_last_resort
        yield Wait(delay)
        # Meanwhile a window may have begun, or other calls have failed.
        clock = self.routing.clock
        entry = target.enter(clock, self.size, is_last_resort=is_last_resort)
        if self._is_only_limited(target, entry):
            is_last_resort = True
            entry = target.enter(clock, self.size, is_last_resort=True)
        return None if isinstance(entry, Closed) else entry, is_last_resort

    def _is_restricted(self, target: Target) -> bool:
        """Whether a window has begun while a place was waited for; then it is noted."""
        closed = target.closed(self.routing.clock, self.size)
        if closed is None or closed.kind != "restricted":
            return False
        self._skip(target, closed)
        return True

    def _when_free(self, full: Sequence[Target]) -> Iterator[Choice | Wait]:
        """Wait for a place at deployments that are full; there is no bell, so look again."""
        pending, clock = [*full], self.routing.clock
        most, pause = self.routing.rules.max_wait, _FIRST_PAUSE
        begun = clock.monotonic()
        while pending:
            for target in [*pending]:
                entry = target.enter(clock, self.size, is_last_resort=True)
                if not isinstance(entry, Closed) or entry.kind == "restricted":
                    pending.remove(target)
                    yield target, entry, True
            waited = clock.monotonic() - begun
            limits = (None if most is None else most - waited, self.time_left())
            left = min((each for each in limits if each is not None), default=math.inf)
            if left <= 0:
                break
            if pending:
                yield Wait(min(pause * clock.uniform(0.5, 1.0), left))
                pause = min(2 * pause, _LONGEST_PAUSE)
        for target in pending:
            closed = target.closed(clock, self.size)
            reason = f"{closed.reason if closed else 'full'}, no place within {waited:.3g} s"
            yield target, Closed("full", reason, clock.now()), True

    def _skip(self, target: Target, closed: Closed) -> None:
        skip = target.skip(closed)
        self.skipped += (skip,)
        for each in self.routing.listeners.all:
            each.skipped(skip, target.provider)

    def _next(self, pending: Sequence[Target]) -> Target:
        routing = self.routing
        return routing.pick(pending, routing.clock, self.size, streams=self.is_stream, advance=True)

    def _worth_waiting(self, permits: tuple[Permit, ...]) -> float:
        """The seconds to wait for room in the limits; 0 where that would take too long."""
        wait = max((permit.wait for permit in permits), default=0.0)
        left, most = self.time_left(), self.routing.rules.max_wait
        # A limit is a courtesy: who would have to wait too long asks anyway, and at once.
        return 0.0 if most is None or wait > most or (left is not None and wait >= left) else wait

    def _delay_before_retry(
        self, target: Target, attempts: int, *, is_last_resort: bool
    ) -> float | None:
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
        if least > policy.max_retry_after or (
            least > policy.max_delay and self._another_is_free(target)
        ):
            return None
        delay = max(clock.uniform(0, policy.longest_delay(attempts)), least)
        left = self.time_left()
        if left is not None and delay >= left:
            return None
        closed = target.closed(Then(clock, delay), self.size)
        is_open = closed is None or (is_last_resort and closed.kind != "restricted")
        return delay if is_open or self._is_only_limited(target, closed) else None

    def _is_only_limited(self, target: Target, entry: object) -> bool:
        """Whether a deployment has no room, and nobody else can be asked: then it waits for it."""
        is_limited = isinstance(entry, Closed) and entry.kind == "limited"
        return is_limited and not self._another_is_free(target)

    def _another_is_free(self, target: Target) -> bool:
        return self.fallback and bool(self._free(target))

    def _free(self, target: Target) -> list[Target]:
        """The other deployments that may be asked now, can take the request and were not tried."""
        clock, size = self.routing.clock, self.size
        passed = {target.model_name, *(each.model_name for each in self.failures)}
        if target.model_name not in self.behind:  # else there are only such left
            passed.update(self.behind)
        untried = (each for each in self.order if each.model_name not in passed)
        return [each for each in untried if each.closed(clock, size) is None]

    # --- hedging -----------------------------------------------------------------------------

    def hedge(self, first: Attempt) -> Attempt | None:
        """An attempt beside one that takes long, if another is free and the budget allows it."""
        free = self._free(first.target)
        if not free:
            return None
        target = self._next(free) if self.is_drawn else free[0]
        entry = target.enter(self.routing.clock, self.size)
        if isinstance(entry, Closed):
            return None
        if not self.routing.hedges.spend():
            give_back_unused(entry, self.routing.clock)
            return None
        self.raced = (first.target.model_name, target.model_name)
        return Attempt(self, target, entry, is_hedge=True)
