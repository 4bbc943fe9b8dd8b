"""What a function is told of a gateway's calls: a `GatewayEvent` for each thing that happens."""

from datetime import datetime
from typing import Any

from langchain_model_gateway._logger import logger
from langchain_model_gateway._text import one_line
from langchain_model_gateway.admission import Outcome
from langchain_model_gateway.errors import RejectedAnswerError, SkippedModel
from langchain_model_gateway.events import EventFunction, EventKind, GatewayEvent
from langchain_model_gateway.listeners import Asked, Listener


class Events(Listener):
    """Calls a function with each event.

    Two of the same function are one: adding it again to a gateway's listeners changes nothing.

    Args:
        function: The function. What it raises is logged once, and reaches no call.
    """

    __slots__ = ("_has_failed", "function")

    wants_attempts = True

    def __init__(self, function: EventFunction) -> None:
        self.function = function
        self._has_failed = False

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Events) and other.function == self.function

    __hash__ = None  # type: ignore[assignment]

    def started(self, asked: Asked) -> None:
        """A deployment is asked."""
        self._tell(_of("started", asked))

    def hedged(self, asked: Asked) -> None:
        """A deployment is asked beside another that takes long."""
        self._tell(_of("hedged", asked))

    def first_chunk(self, asked: Asked, seconds: float) -> None:
        """Its stream has given its first real chunk."""
        self._tell(_of("first_chunk", asked, seconds))

    def ended(self, asked: Asked, outcome: Outcome) -> None:
        """An attempt has ended."""
        error, usage = outcome.error, outcome.usage
        self._tell(
            _of(
                end_of(outcome),
                asked,
                outcome.at - asked.begun,
                None if error is None else type(error).__name__,
                None if usage is None else usage.copy(),
            )
        )

    def skipped(self, skip: SkippedModel, provider: str) -> None:
        """A deployment may not be asked now."""
        self._tell(GatewayEvent("skipped", skip.model_name, provider, until=skip.until))

    def cooldown_started(
        self, model_name: str, provider: str, seconds: float, until: datetime
    ) -> None:
        """A deployment is in cooldown."""
        del seconds
        self._tell(GatewayEvent("cooldown_started", model_name, provider, until=until))

    def cooldown_ended(self, model_name: str, provider: str) -> None:
        """A deployment has answered again."""
        self._tell(GatewayEvent("cooldown_ended", model_name, provider))

    def _tell(self, event: GatewayEvent) -> None:
        try:
            self.function(event)
        except Exception as error:  # noqa: BLE001 - who looks on must not break a call
            if not self._has_failed:
                self._has_failed = True
                logger.warning(
                    "on_event raised %s at %r; what it raises from here on is not logged",
                    one_line(type(error).__name__, 60),
                    event.kind,
                )


def _of(kind: EventKind, asked: Asked, *facts: Any) -> GatewayEvent:
    event = GatewayEvent(kind, asked.model_name, asked.provider, asked.number, *facts)
    return event._replace(last_resort=True) if asked.is_last_resort else event


def end_of(outcome: Outcome) -> EventKind:
    """What an attempt has come to, in one word."""
    if outcome.kind == "answered":
        return "answered"
    if outcome.error is None:
        return "abandoned"
    return "rejected" if isinstance(outcome.error, RejectedAnswerError) else "failed"
