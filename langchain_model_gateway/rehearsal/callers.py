"""Everybody who calls the gateway: one more driver of its decisions, beside those of `drivers`."""

from collections.abc import Mapping
from datetime import datetime
from itertools import takewhile
from random import Random
from typing import Any, Final, NamedTuple

from langchain_core.exceptions import ModelError, ModelRateLimitError, ModelTimeoutError
from langchain_core.messages import AIMessage, AIMessageChunk

from langchain_model_gateway.attempt import Attempt
from langchain_model_gateway.call import Call, Wait
from langchain_model_gateway.errors import RejectedAnswerError
from langchain_model_gateway.guards import Patience
from langchain_model_gateway.listeners import Listener
from langchain_model_gateway.rehearsal.providers import Reply, Service, Traffic
from langchain_model_gateway.rehearsal.report import (
    End,
    RehearsedAttempt,
    RehearsedCall,
    RehearsedCooldown,
)
from langchain_model_gateway.rehearsal.timeline import Process, Timeline
from langchain_model_gateway.routing import Routing

_CHUNK: Final = AIMessageChunk(content="...")
_ENDS: Final[Mapping[type[Exception], End]] = {
    ModelRateLimitError: "429",
    ModelTimeoutError: "timed out",
}


class Callers:
    """All callers of one rehearsal, each a process of its own.

    Args:
        routing: What they call, with nothing remembered yet.
        traffic: How they come.
        services: The providers, by deployment.
        time: The time they live in.

    Attributes:
        calls: What came of each call that has ended.
    """

    def __init__(
        self,
        routing: Routing,
        traffic: Traffic,
        services: Mapping[str, Service],
        time: Timeline,
    ) -> None:
        self.calls: list[RehearsedCall] = []
        self.traffic, self.time = traffic, time
        self._routing, self._services = routing, services
        self._prompt = "four" * traffic.input_tokens  # a token has four letters, approximately
        told: dict[str, Any] = {
            "content": "...",
            "response_metadata": {"finish_reason": "stop"},
            "usage_metadata": {
                "input_tokens": traffic.input_tokens,
                "output_tokens": traffic.output_tokens,
                "total_tokens": traffic.tokens,
            },
        }
        self.answer, self.last_chunk = AIMessage(**told), AIMessageChunk(**told)

    def arrive(self, chance: Random) -> Process:
        """Come one after another, as long as the traffic lasts."""
        traffic, time = self.traffic, self.time
        for moment in takewhile(lambda t: t < traffic.seconds, traffic.moments(chance)):
            yield moment - time.seconds
            thread = None if traffic.threads is None else chance.randrange(traffic.threads)
            time.begin(_Caller(self, self._begin_call(thread)).live())

    def _begin_call(self, thread: int | None) -> Call:
        """Begin a call, as `invoke` and `stream` do."""
        routing, streams = self._routing, self.traffic.streams
        affinity = None if routing.rules.affinity is None else thread
        return Call(routing, self._prompt, affinity=affinity, is_stream=streams)

    def ask(self, attempt: Attempt) -> Reply:
        """What an attempt will come to in the time that it may take."""
        reply = self._services[attempt.target.model_name].ask(self.time.seconds)
        if attempt.seconds is None or reply.seconds <= attempt.seconds:
            return reply
        return Reply(attempt.seconds, error=ModelTimeoutError("no answer in time"))


class _Leg(NamedTuple):
    """A request under way, and what it will come to."""

    attempt: Attempt
    began: float
    reply: Reply
    patience: Patience

    def heard_at(self) -> float:
        """When its answer, its first chunk or its error comes."""
        return self.began + self.reply.seconds


class _Caller:
    """One caller with one call."""

    def __init__(self, callers: Callers, call: Call) -> None:
        self._all, self._call, self._time = callers, call, callers.time
        self._began = callers.time.seconds
        self._attempts: list[RehearsedAttempt] = []
        self._waits: list[float] = []
        self._winner: RehearsedAttempt | None = None

    def live(self) -> Process:
        """Call, and tell what came of it."""
        try:
            for step in self._call.steps():
                if isinstance(step, Wait):
                    self._waits.append(step.seconds)
                    yield step.seconds
                else:
                    yield from self._race(step)
        except ModelError:  # what the caller gets in place of an answer
            self._winner = None
        winner = self._winner
        heard_at = self._time.seconds if winner is None else winner.began + winner.seconds
        self._all.calls.append(
            RehearsedCall(
                self._began,
                heard_at - self._began,
                winner and winner.model_name,
                tuple(self._attempts),
                tuple(self._waits),
            )
        )

    def _race(self, attempt: Attempt) -> Process:
        """Make an attempt, and a hedge beside it where it is slow."""
        legs = [self._begin(attempt)]
        after = attempt.hedge_after
        if after is not None and after < legs[0].reply.seconds:
            yield after
            if (hedge := self._call.hedge(attempt)) is not None:
                legs.append(self._begin(hedge))
        legs.sort(key=_Leg.heard_at)
        try:
            while legs and self._winner is None:
                leg = legs.pop(0)
                yield leg.heard_at() - self._time.seconds
                self._hear(leg)
        finally:
            for loser in legs:
                self._let_go(loser)
        if self._winner is not None and self._all.traffic.streams:
            yield from self._read_on(leg)

    def _begin(self, attempt: Attempt) -> _Leg:
        """Ask a provider."""
        # What a guard would keep a stream to is all that is wanted of it.
        patience = attempt.guarded(_without_end, lambda _, patience: patience)
        return _Leg(attempt, self._time.seconds, self._all.ask(attempt), patience)

    def _let_go(self, leg: _Leg) -> None:
        self._note(leg, "overtaken")
        if self._winner is None:  # the caller goes away with an error
            leg.attempt.end()
        else:
            leg.attempt.lost()

    def _hear(self, leg: _Leg) -> None:
        """Report an answer, the first chunk of one, or an error."""
        error = leg.reply.error or self._report(leg.attempt)
        if error is None:
            self._winner = self._note(leg, "answered")
            return
        self._note(leg, _ENDS.get(type(error), "failed"))
        if not leg.attempt.failed(error):
            raise error

    def _report(self, attempt: Attempt) -> RejectedAnswerError | None:
        try:
            if self._all.traffic.streams:
                attempt.received(_CHUNK)
            else:
                attempt.answered(self._all.answer)
        except RejectedAnswerError as error:
            return error
        return None

    def _read_on(self, leg: _Leg) -> Process:
        """Read the rest of a stream, of which a chunk comes as soon as patience would end."""
        attempt, rest = leg.attempt, leg.reply.rest
        while (limit := leg.patience()) is not None and limit < rest:
            is_late = limit == self._call.time_left()
            yield limit
            if is_late:
                error = ModelTimeoutError("no end in time")
                attempt.failed(error)
                raise error
            attempt.received(_CHUNK)
            rest -= limit
        yield rest
        if not attempt.passes_through:
            attempt.received(self._all.last_chunk)
        attempt.finished()

    def _note(self, leg: _Leg, end: End) -> RehearsedAttempt:
        name, seconds = leg.attempt.target.model_name, self._time.seconds - leg.began
        noted = RehearsedAttempt(name, leg.began, seconds, end, leg.attempt.is_hedge)
        self._attempts.append(noted)
        return noted


def _without_end() -> None:
    """The patience of a stream that may take any time."""


class Cooldowns(Listener):
    """Keeps the cooldowns that a gateway would tell of.

    Args:
        time: When something is told.
    """

    __slots__ = ("_began", "_ended", "_time")

    def __init__(self, time: Timeline) -> None:
        self._time = time
        self._began: dict[str, float] = {}
        self._ended: list[RehearsedCooldown] = []

    def cooldown_started(
        self, model_name: str, provider: str, seconds: float, until: datetime
    ) -> None:
        """A deployment is in cooldown, or still is after a probe."""
        del provider, seconds, until
        self._began.setdefault(model_name, self._time.seconds)

    def cooldown_ended(self, model_name: str, provider: str) -> None:
        """A deployment has answered again."""
        del provider
        self._end(model_name)

    def _end(self, model_name: str) -> None:
        began = self._began.pop(model_name)
        self._ended.append(RehearsedCooldown(model_name, began, self._time.seconds))

    def all(self) -> tuple[RehearsedCooldown, ...]:
        """Every cooldown; one that has not ended lasts to the present."""
        for model_name in [*self._began]:
            self._end(model_name)
        return tuple(sorted(self._ended, key=lambda cooldown: cooldown.began))
