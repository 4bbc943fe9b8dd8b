"""Who may be asked now: restricted hours and cooldown, behind one protocol.

A call asks to enter a deployment at a moment. It gets a permit, or learns why the deployment is
closed and until when; each permit is given back with the outcome of its attempt.
"""

from datetime import datetime, timedelta
from typing import Literal, NamedTuple, Protocol


class Moment(NamedTuple):
    """One moment on both clocks: the time of day, and monotonic seconds."""

    now: datetime
    monotonic: float

    def after(self, seconds: float) -> "Moment":
        """The moment so many seconds later."""
        return Moment(self.now + timedelta(seconds=seconds), self.monotonic + seconds)


class Closed(NamedTuple):
    """Why a deployment may not be asked now.

    Attributes:
        reason: The reason in words.
        until: The last moment this holds; `None` if no end is in sight.
        is_final: Whether it may not even be asked as the last resort.
    """

    reason: str
    until: datetime | None
    is_final: bool = False


class Outcome(NamedTuple):
    """How an attempt ended, as far as an admission needs to know.

    Attributes:
        kind: "neutral" says nothing about the deployment: cancelled, or the request's own fault.
        at: When it ended, in monotonic seconds.
        retry_after: The seconds that the server asked to wait.
        is_account_fault: Whether the account or the key is to blame, so that waiting is no help.
    """

    kind: Literal["answered", "failed", "neutral"]
    at: float
    retry_after: float | None = None
    is_account_fault: bool = False


class Permit(Protocol):
    """Permission for one attempt, against which its outcome is recorded."""

    def give_back(self, outcome: Outcome) -> None:
        """The attempt has ended."""


class Admission(Protocol):
    """One thing that can keep a deployment from being asked."""

    def closed(self, at: Moment) -> Closed | None:
        """Why the deployment may not be asked at a moment, taking nothing; `None` if it may."""

    def enter(self, at: Moment, *, is_last_resort: bool = False) -> Permit | Closed | None:
        """Take a place for one attempt; `None` if there is nothing to give back.

        Args:
            at: The moment.
            is_last_resort: Whether to let it in unless the reason is final.
        """
