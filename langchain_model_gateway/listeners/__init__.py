"""Who is told of a gateway's calls: LangChain's handlers, the log, functions for events.

They stand at the edge, one module each. What decides tells them what has happened, and does not
know who they are.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from langchain_model_gateway.admission import Outcome, Permit
from langchain_model_gateway.errors import FailedAttempt, ModelRouterError, SkippedModel
from langchain_model_gateway.timing import Clock


class Asked(NamedTuple):
    """An attempt, as a listener is told of it.

    Attributes:
        model_name: The deployment's name.
        provider: Who serves it.
        number: Which attempt of its call it is, from 1 on.
        begun: When it began, in monotonic seconds.
        is_last_resort: Whether its turn came late: it was in cooldown, limited or full.
        after: The other deployment that has failed before, so that the call fell back to this one.
    """

    model_name: str
    provider: str
    number: int
    begun: float
    is_last_resort: bool
    after: str | None = None


class Listener:
    """Who is told of a gateway's calls. Each method is told one thing, and does nothing.

    Attributes:
        wants_attempts: Whether it is told of each attempt, also of those that go well.
    """

    __slots__ = ()

    wants_attempts = False

    def started(self, asked: Asked) -> None:
        """A deployment is asked."""

    def hedged(self, asked: Asked) -> None:
        """A deployment is asked beside another that takes long; `started` comes, too."""

    def first_chunk(self, asked: Asked, seconds: float) -> None:
        """Its stream has given its first real chunk, after so many seconds."""

    def ended(self, asked: Asked, outcome: Outcome) -> None:
        """An attempt has ended; told once of each that was started."""

    def skipped(self, skip: SkippedModel, provider: str) -> None:
        """A deployment may not be asked now."""

    def failed(self, failure: FailedAttempt, number: int) -> None:
        """A call has failed for the so-many-th time, and may fall back."""

    def gave_up(self, error: ModelRouterError) -> None:
        """A call has no answer."""

    def cooldown_started(
        self, model_name: str, provider: str, seconds: float, until: datetime
    ) -> None:
        """A deployment is in cooldown for so many seconds."""

    def cooldown_ended(self, model_name: str, provider: str) -> None:
        """A deployment has answered again."""


class Listeners:
    """The listeners of a gateway, shared by those derived from it.

    Attributes:
        all: Every one.
        of_attempts: Those who are told of each attempt. With none, a call costs nothing more.
    """

    __slots__ = ("all", "of_attempts")

    def __init__(self, *listeners: Listener) -> None:
        self._are(listeners)

    def add(self, listener: Listener) -> None:
        """Tell one more, from the next attempt on; one that is told already is left as it is."""
        if listener not in self.all:
            self._are((*self.all, listener))

    def remove(self, listener: Listener) -> None:
        """Tell one no more, but for the end of the attempts whose beginning it was told."""
        self._are(tuple(each for each in self.all if each != listener))

    def _are(self, listeners: tuple[Listener, ...]) -> None:
        self.all = listeners
        self.of_attempts = tuple(each for each in listeners if each.wants_attempts)


class ListenerPermit(NamedTuple):
    """One listener's interest in one attempt: a permit around those that the attempt has.

    It is given back as each permit is, once, however the attempt ends.
    """

    listener: Listener
    asked: Asked
    permits: tuple[Permit, ...]
    wait: float = 0.0

    def give_back(self, outcome: Outcome) -> None:
        """The attempt has ended; whatever the listener does, the permits are given back."""
        try:
            self.listener.ended(self.asked, outcome)
        finally:
            for permit in self.permits:
                permit.give_back(outcome)


def tell_first_chunk(permits: Sequence[Permit], seconds: float) -> None:
    """Tell those who have an interest that the stream has given its first real chunk."""
    for permit in permits:
        if isinstance(permit, ListenerPermit):
            tell_first_chunk(permit.permits, seconds)
            permit.listener.first_chunk(permit.asked, seconds)


class CooldownNews(NamedTuple):
    """What a circuit breaker tells of one deployment, on its way to the listeners."""

    listeners: Listeners
    provider: str
    clock: Clock

    def cooldown_started(self, model_name: str, seconds: float) -> None:
        """A deployment is in cooldown for so many seconds."""
        until = self.clock.now() + timedelta(seconds=seconds)
        for each in self.listeners.all:
            each.cooldown_started(model_name, self.provider, seconds, until)

    def cooldown_ended(self, model_name: str) -> None:
        """A deployment has answered again."""
        for each in self.listeners.all:
            each.cooldown_ended(model_name, self.provider)
