"""What comes next in one call, from what has happened in it so far.

Sans-I/O: nothing here waits, awaits or does input or output; time and chance come from outside.
A driver asks a `Call` for its next step, carries it out, and reports to the `Attempt` what came of
it.
"""

import math
from collections.abc import Collection, Iterator, Sequence
from itertools import count
from typing import Any, Final, NamedTuple

from langchain_model_gateway.admission import Closed, Permit, Then
from langchain_model_gateway.admission.limits import size_of
from langchain_model_gateway.attempt import Attempt
from langchain_model_gateway.capabilities import MESSAGES
from langchain_model_gateway.classify import is_context_overflow, is_retryable, retry_after
from langchain_model_gateway.errors import SkippedModel
from langchain_model_gateway.progress import Progress
from langchain_model_gateway.routing import Choice, Routing, route
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
        preference: The name to try first, in place of the rules'; "" or `None` for theirs.
        fallback: Whether another deployment is tried when the first choice fails, in place of what
            the rules say.
        affinity: What goes to the same deployment as long as it can, such as a thread's id.
        is_stream: Whether it is asked for a stream.
        has_tools: Whether tools are among its keywords.
    """

    __slots__ = ("_attempt", "_is_drawn", "_order", "_size", "_value")

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
        super().__init__(routing, fallback=fallback, is_stream=is_stream)
        self._attempt: Attempt | None = None
        self._order = routing.order(preference, affinity, is_only=not fallback)
        self._is_drawn = rules.balance is not None and affinity is None
        self._size: int | None = None
        self._value = value
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
        if rules.hedge is not None:
            routing.hedges.earn(rules.hedge.budget)
        if routing.exchange is not None and not routing.exchange.is_started:
            routing.exchange.start(routing.clock)

    # --- what comes next ---------------------------------------------------------------------

    def steps(self) -> Iterator[Attempt | Wait]:
        """What to do, one step after another, until there is an answer.

        Raises:
            NoModelAvailableError: If no deployment may be used now.
            AllModelsFailedError: If every one that could be tried has failed, or time is up.
        """
        steps = route(
            self._order,
            self.routing.clock,
            self.size,
            Target.enter,
            pick=self._next if self._is_drawn else None,
            when_free=self._when_free,
            behind=self.behind,
        )
        try:
            for step in steps:
                if isinstance(step, Wait):
                    yield step
                    continue
                target, entry, is_last_resort = step
                if isinstance(entry, Closed):
                    self._skip(target, entry)
                    continue
                yield from self._attempts(target, entry, is_last_resort=is_last_resort)
                if self.is_answered:
                    return
                if not self.fallback:
                    break
                self._put_smaller_behind()
            if self.answer is None:  # else the last structured output, unparsed
                raise self.gave_up()
        finally:
            if self._attempt is not None and self._attempt.permits:
                self._attempt.end()
            # No circle is left behind: an attempt holds its call, and a failure, by its traceback,
            # the driver's frame, which holds it too.
            self._attempt, self.failures = None, ()

    def _attempts(
        self, target: Target, permits: tuple[Permit, ...], *, is_last_resort: bool
    ) -> Iterator[Attempt | Wait]:
        """The attempts at one deployment, and the waits between them."""
        clock = self.routing.clock
        for number in count(1):
            self._attempt = attempt = Attempt(self, target, permits)
            attempt.is_last_resort = is_last_resort
            if target.model_name in self.raced:  # it was asked beside another
                attempt.end()
                return
            if is_last_resort and (wait := self._worth_waiting(permits)):
                yield Wait(wait)
                if self._is_restricted(target):
                    attempt.end()
                    return
            attempt.begin()
            yield attempt
            if self.is_answered:
                return
            delay = self._delay_before_retry(target, number, is_last_resort=is_last_resort)
            if delay is None:
                return
            yield Wait(delay)
            # Meanwhile a window may have begun, or other calls have failed.
            entry = target.enter(clock, self.size, is_last_resort=is_last_resort)
            if self._is_only_limited(entry):
                is_last_resort = True
                entry = target.enter(clock, self.size, is_last_resort=True)
            if isinstance(entry, Closed):
                return
            permits = entry

    def _put_smaller_behind(self) -> None:
        """After a context overflow, those whose window is no larger come last."""
        targets = self.routing.targets
        for failure in self.failures:
            most = targets[failure.model_name].window
            if most is None or not is_context_overflow(failure.exception):
                continue
            tried = {each.model_name for each in self.failures}
            for target in self._order:
                if target.window and target.window <= most and target.model_name not in tried:
                    reason = f"its window of {target.window:,} tokens is no larger"
                    skip = SkippedModel(target.model_name, reason)
                    self.behind.setdefault(target.model_name, skip)

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
        if least > policy.max_retry_after or (least > policy.max_delay and self._another_is_free()):
            return None
        delay = max(clock.uniform(0, policy.longest_delay(attempts)), least)
        left = self.time_left()
        if left is not None and delay >= left:
            return None
        closed = target.closed(Then(clock, delay), self.size)
        is_open = closed is None or (is_last_resort and closed.kind != "restricted")
        return delay if is_open or self._is_only_limited(closed) else None

    def _is_only_limited(self, entry: object) -> bool:
        """Whether a deployment has no room, and nobody else can be asked: then it waits for it."""
        is_limited = isinstance(entry, Closed) and entry.kind == "limited"
        return is_limited and not self._another_is_free()

    def _another_is_free(self) -> bool:
        return self.fallback and bool(self._free({each.model_name for each in self.failures}))

    def _free(self, tried: Collection[str]) -> list[Target]:
        """The deployments that were not tried yet, can take the request and may be asked now."""
        clock, size, passed = self.routing.clock, self.size, set(tried)
        assert self._attempt is not None  # noqa: S101
        if self._attempt.target.model_name not in self.behind:  # else there are only such left
            passed.update(self.behind)
        untried = (target for target in self._order if target.model_name not in passed)
        return [target for target in untried if target.closed(clock, size) is None]

    # --- hedging -----------------------------------------------------------------------------

    def hedge(self, first: Attempt) -> Attempt | None:
        """An attempt beside one that takes long, if another is free and the budget allows it."""
        name = first.target.model_name
        free = self._free({name, *(each.model_name for each in self.failures)})
        if not free:
            return None
        target = self._next(free) if self._is_drawn else free[0]
        entry = target.enter(self.routing.clock, self.size)
        if isinstance(entry, Closed):
            return None
        second = Attempt(self, target, entry)
        if not self.routing.hedges.spend():
            second.end()
            return None
        self.raced = (name, target.model_name)
        second.is_hedge = True
        second.begin()
        return second
