"""Who may be asked now: restricted hours, cooldown and limits, behind one protocol.

A call asks to enter a deployment at a moment. It gets a permit, or learns why the deployment is
closed and until when; each permit is given back with the outcome of its attempt.
"""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Literal, NamedTuple, Protocol

from langchain_core.messages.ai import UsageMetadata

Size = Callable[[], int]
"""The tokens of a call's input, counted when this is first called."""


class Moment(Protocol):
    """One moment on both clocks. A gateway's clock is the present one."""

    def now(self) -> datetime:
        """The time of day, aware, in UTC."""

    def monotonic(self) -> float:
        """Seconds that never run backwards."""


class Then:
    """Another moment than the present one.

    Args:
        moment: The present.
        seconds: How many seconds later.
        at: The time of day in UTC, if it is known already.
    """

    __slots__ = ("_monotonic", "_now")

    def __init__(self, moment: Moment, seconds: float, at: datetime | None = None) -> None:
        self._now = moment.now() + timedelta(seconds=seconds) if at is None else at
        self._monotonic = moment.monotonic() + seconds

    def now(self) -> datetime:
        """The time of day, aware."""
        return self._now

    def monotonic(self) -> float:
        """Monotonic seconds."""
        return self._monotonic


class Closed(NamedTuple):
    """Why a deployment may not be asked now.

    Attributes:
        kind: What closes it. Who is "restricted" is not asked at all, and who is "full" waits for a
            place; the others may be asked as the last resort.
        reason: The reason in words.
        until: The last moment this holds; `None` if no end is in sight.
    """

    kind: Literal["restricted", "limited", "cooldown", "full"]
    reason: str
    until: datetime | None


class Outcome(NamedTuple):
    """How an attempt ended, as far as an admission needs to know.

    Attributes:
        kind: "neutral" says nothing about the deployment: cancelled, or the request's own fault.
        at: When it ended, in monotonic seconds.
        latency: The seconds to the answer, or to the first real chunk; `None` if there was none.
        is_stream: Whether it was a stream.
        usage: The tokens that the provider counted, if it told.
        error: What was raised; `None` also where it was abandoned, or another was quicker.
        has_begun: Whether the deployment was asked at all.
        retry_after: The seconds that the server asked to wait.
        is_account_fault: Whether the account or the key is to blame, so that waiting is no help.
        status: The HTTP status that the server answered with, if it failed with one.
        is_cut: Whether it failed after its first real chunk, so that tokens were generated.
    """

    kind: Literal["answered", "failed", "neutral"]
    at: float
    latency: float | None = None
    is_stream: bool = False
    usage: UsageMetadata | None = None
    error: Exception | None = None
    has_begun: bool = True
    retry_after: float | None = None
    is_account_fault: bool = False
    status: int | None = None
    is_cut: bool = False


class Permit(Protocol):
    """Permission for one attempt, against which its outcome is recorded."""

    @property
    def wait(self) -> float:
        """The seconds to wait before the attempt; more than 0 for a booking only."""

    def give_back(self, outcome: Outcome) -> None:
        """The attempt has ended."""


class Admission(Protocol):
    """One thing that can keep a deployment from being asked."""

    def closed(self, at: Moment, size: Size) -> Closed | None:
        """Why the deployment may not be asked at a moment, taking nothing; `None` if it may."""

    def enter(self, at: Moment, size: Size, *, is_last_resort: bool) -> Permit | Closed | None:
        """Take a place for one attempt; `None` if there is nothing to give back.

        Args:
            at: The moment.
            size: The tokens of the call's input.
            is_last_resort: Whether to let it in although it is limited or in cooldown.
        """
