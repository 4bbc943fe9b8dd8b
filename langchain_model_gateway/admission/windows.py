"""Restricted hours as an admission."""

from collections.abc import Sequence
from typing import Final

from langchain_model_gateway.admission import Closed, Moment, Size
from langchain_model_gateway.schedule import TimeWindow, restricted_until, timetables

_MOST_SHOWN: Final = 3


class Windows:
    """The windows of one deployment.

    Args:
        windows: At least one.
    """

    __slots__ = ("_timetables", "_windows")

    def __init__(self, windows: Sequence[TimeWindow]) -> None:
        self._windows = tuple(windows)
        self._timetables = timetables(self._windows)

    def closed(self, at: Moment, size: Size) -> Closed | None:
        """The restriction at a moment, with its end, if there is one."""
        del size
        if not any(timetable.restricts(at.now) for timetable in self._timetables):
            return None
        shown = ", ".join(map(str, self._windows[:_MOST_SHOWN]))
        more = len(self._windows) - _MOST_SHOWN
        reason = f"restricted {shown}" + (f" and {more} more windows" if more > 0 else "")
        return Closed("restricted", reason, restricted_until(self._timetables, at.now))

    def enter(self, at: Moment, size: Size, *, is_last_resort: bool) -> Closed | None:
        """`closed`, as a window has no place to take."""
        del is_last_resort
        return self.closed(at, size)
