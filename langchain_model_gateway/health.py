"""What each deployment's recent calls say of it: the state behind `CooldownPolicy`.

Kept per process and shared by derived gateways. Every method is short and takes the time from
outside; the lock is never held while a model is called.
"""

from collections import deque
from dataclasses import dataclass, field
from threading import Lock
from typing import Protocol

from langchain_model_gateway.policies import CooldownPolicy


@dataclass(slots=True, eq=False)
class Ticket:
    """One attempt's right to be counted.

    Attributes:
        model_name: The deployment's name.
        era: The deployment's era when the attempt began. A rest begins a new one, so that a late
            answer to an earlier call does not end it.
    """

    model_name: str
    era: int = 0


class HealthState(Protocol):
    """Where health is kept. All times are seconds on one monotonic clock."""

    def wakes_at(self, model_name: str, now: float) -> float | None:
        """When a deployment's rest ends, or `None` if a call may go to it now."""

    def admit(self, model_name: str, now: float) -> Ticket | None:
        """Begin an attempt if the deployment is awake, or as the one probe after its rest."""

    def join(self, model_name: str) -> Ticket:
        """Begin an attempt although the deployment rests, as the last resort."""

    def succeeded(self, ticket: Ticket) -> None:
        """The attempt was answered."""

    def failed(
        self, ticket: Ticket, policy: CooldownPolicy, now: float, retry_after: float | None
    ) -> None:
        """The attempt failed, and not by the request's own fault."""

    def released(self, ticket: Ticket) -> None:
        """The attempt ended without telling anything: cancelled, abandoned, a request's fault."""


@dataclass(slots=True)
class _Deployment:
    failures: deque[float] = field(default_factory=deque)
    era: int = 0
    rest: float | None = None
    """The length of the present rest; `None` while awake."""
    wakes_at: float = 0.0
    probe: Ticket | None = None


class Health:
    """Health kept in this process's memory."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._deployments: dict[str, _Deployment] = {}

    def wakes_at(self, model_name: str, now: float) -> float | None:
        """When a deployment's rest ends, or `None` if a call may go to it now."""
        known = self._deployments.get(model_name)
        if known is None or known.rest is None or (known.wakes_at <= now and known.probe is None):
            return None
        return known.wakes_at

    def admit(self, model_name: str, now: float) -> Ticket | None:
        """Begin an attempt if the deployment is awake, or as the one probe after its rest."""
        with self._lock:
            known = self._deployments.get(model_name)
            if known is None:
                known = self._deployments[model_name] = _Deployment()
            ticket = Ticket(model_name, known.era)
            if known.rest is None:
                return ticket
            if known.wakes_at > now or known.probe is not None:
                return None
            known.probe = ticket
            return ticket

    def join(self, model_name: str) -> Ticket:
        """Begin an attempt although the deployment rests, as the last resort."""
        with self._lock:
            return Ticket(model_name, self._deployments[model_name].era)

    def succeeded(self, ticket: Ticket) -> None:
        """The attempt was answered."""
        with self._lock:
            known = self._settle(ticket)
            if ticket.era == known.era:
                known.failures.clear()
                known.rest = None

    def failed(
        self, ticket: Ticket, policy: CooldownPolicy, now: float, retry_after: float | None
    ) -> None:
        """The attempt failed, and not by the request's own fault."""
        with self._lock:
            was_probe = self._deployments[ticket.model_name].probe is ticket
            known = self._settle(ticket)
            if ticket.era != known.era:
                return
            if known.rest is None:
                known.failures.append(now)
                while known.failures[0] < now - policy.window:
                    known.failures.popleft()
                if len(known.failures) >= policy.failure_threshold:
                    self._rest(known, policy.first_rest(retry_after), now)
            elif was_probe:
                self._rest(known, policy.longer_rest(known.rest, retry_after), now)

    def released(self, ticket: Ticket) -> None:
        """The attempt ended without telling anything: cancelled, abandoned, a request's fault."""
        with self._lock:
            self._settle(ticket)

    def _settle(self, ticket: Ticket) -> _Deployment:
        """Give a probe's place back. The lock is held."""
        known = self._deployments[ticket.model_name]
        if known.probe is ticket:
            known.probe = None
        return known

    @staticmethod
    def _rest(known: _Deployment, seconds: float, now: float) -> None:
        """Send a deployment to rest. The lock is held."""
        known.rest = seconds
        known.wakes_at = now + seconds
        known.era += 1
        known.failures.clear()
