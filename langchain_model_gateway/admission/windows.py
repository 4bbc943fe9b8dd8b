"""Restricted hours as an admission."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

from langchain_model_gateway.admission import Closed, Moment, Size
from langchain_model_gateway.schedule import TimeWindow, restricted_until, timetables

_MOST_SHOWN: Final = 3
_NEVER: Final = datetime.min.replace(tzinfo=UTC)


class Windows:
    """The windows of one deployment.

    Args:
        windows: At least one.
    """

    __slots__ = ("_free", "_timetables", "_windows")

    def __init__(self, windows: Sequence[TimeWindow]) -> None:
        self._windows = tuple(windows)
        self._timetables = timetables(self._windows)
        self._free = (_NEVER, _NEVER)
        """From when until when it is known to be free."""

    def closed(self, at: Moment, size: Size) -> Closed | None:
        """The restriction at a moment, with its end, if there is one."""
        return self.enter(at, size, is_last_resort=False)

    def enter(self, at: Moment, size: Size, *, is_last_resort: bool) -> Closed | None:
        """`closed`, as a window has no place to take."""
        del size, is_last_resort
        now = at.now()
        since, until = self._free
        if since <= now <= until:
            return None
        for timetable in self._timetables:
            if timetable.restricts(now):
                return self._restriction(now)
        # Who is free at some moment of a minute is so until its end.
        self._free = (now, now.replace(second=59, microsecond=999_999))
        return None

    def _restriction(self, now: datetime) -> Closed:
        until = restricted_until(self._timetables, now)
        return Closed("restricted", f"restricted {hours(self._windows)}", until)


def hours(windows: Sequence[TimeWindow]) -> str:
    """The first few windows, and how many more there are; "" if there are none."""
    more = len(windows) - _MOST_SHOWN
    shown = ", ".join(map(str, windows[:_MOST_SHOWN]))
    return shown + (f" and {more} more window{'s' * (more > 1)}" if more > 0 else "")
