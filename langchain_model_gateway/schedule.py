"""When a deployment may not be used: windows, and the timetable they make.

Windows repeat weekly, so all of a deployment's windows in one timezone are folded into one table
with a cell per minute of the week. A check is then one look-up, however many windows there are.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime, time, timedelta, tzinfo
from functools import lru_cache
from typing import Final, NamedTuple, NotRequired, Self, TypedDict
from zoneinfo import ZoneInfo

from pydantic import BaseModel, ConfigDict, field_validator, model_validator

from langchain_model_gateway._arguments import check_keys, shown, written_out

WEEKDAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_DAY: Final = 24 * 60
WEEK_MINUTES: Final = 7 * _DAY
_MINUTE: Final = timedelta(minutes=1)
_INSTANT: Final = timedelta(microseconds=1)

# What a cell of the table says of its minute.
_FREE, _ON_THE_DOT, _WHOLE = 0, 1, 2
_IS_WHOLE: Final = bytes(cell == _WHOLE for cell in range(256))


class WindowDict(TypedDict):
    """A `TimeWindow` as a dict with the same keys."""

    start: str | time
    end: str | time
    timezone: NotRequired[str | ZoneInfo]
    days: NotRequired[Collection[str] | None]


class TimeWindow(BaseModel):
    """A daily period in which a deployment is not used, both ends inclusive.

    Args:
        start: When it begins, "HH:MM" or a `datetime.time`, in `timezone`.
        end: When it ends, likewise; earlier than `start` means on the next day, and equal to it
            means that single instant.
        timezone: An IANA name such as "America/Sao_Paulo", or a `ZoneInfo`. The window follows that
            place's wall clock: an hour that daylight saving repeats is restricted twice, a skipped
            one never.
        days: The weekdays it starts on ("mon" to "sun"), or `None` for every day.

    Raises:
        ValidationError: If a time, the timezone or a weekday is malformed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    start: str
    end: str
    timezone: str = "UTC"
    days: tuple[str, ...] | None = None

    @written_out
    def __init__(
        self,
        start: str | time,
        end: str | time,
        timezone: str | ZoneInfo = "UTC",
        days: Collection[str] | None = None,
    ) -> None: ...

    @model_validator(mode="before")
    @classmethod
    def _check_form(cls, value: object) -> object:
        if isinstance(value, TimeWindow):
            return value
        if isinstance(value, Mapping):
            check_keys(cls, value)
            return value
        if not isinstance(value, Sequence) or isinstance(value, str) or len(value) != 2:  # noqa: PLR2004
            raise ValueError(
                f"a window is a pair (start, end) of 'HH:MM' strings, got {shown(value)}"
            )
        return {"start": value[0], "end": value[1]}

    @field_validator("start", "end", mode="before")
    @classmethod
    def _check_time(cls, value: object) -> str:
        if isinstance(value, time) and value == time(value.hour, value.minute):
            return value.strftime("%H:%M")
        if isinstance(value, time):
            raise ValueError(f"a time has no seconds and no timezone of its own, got {value}")
        if not isinstance(value, str):
            raise ValueError(f"a time is a string 'HH:MM' or a datetime.time, got {shown(value)}")
        try:
            return datetime.strptime(value, "%H:%M").strftime("%H:%M")  # noqa: DTZ007
        except ValueError:
            raise ValueError(
                f"{shown(value)} is not a time: use 'HH:MM', from '00:00' to '23:59'"
            ) from None

    @field_validator("timezone", mode="before")
    @classmethod
    def _check_timezone(cls, value: object) -> str:
        name = value.key if isinstance(value, ZoneInfo) else value
        try:
            # Besides ZoneInfoNotFoundError (a KeyError) and ValueError, a directory of the database
            # or an overlong name surfaces as OSError, and a non-string as TypeError.
            return str(ZoneInfo(name).key)  # type: ignore[arg-type]
        except (KeyError, ValueError, OSError, TypeError, AttributeError):
            raise ValueError(
                f"{shown(value)} is not a timezone: use an IANA name such as 'Europe/Berlin'"
            ) from None

    @field_validator("days", mode="before")
    @classmethod
    def _check_days(cls, value: object) -> tuple[str, ...] | None:
        if value is None:
            return None
        if isinstance(value, str) or not isinstance(value, (Sequence, set, frozenset)):
            raise ValueError(
                f"days is a list of weekdays such as ['mon', 'fri'], got {shown(value)}"
            )
        if not value:
            raise ValueError("days names at least one weekday; leave it out for every day")
        for day in value:
            if not isinstance(day, str) or day.lower() not in WEEKDAYS:
                raise ValueError(f"{shown(day)} is not a weekday: use one of {', '.join(WEEKDAYS)}")
        return tuple(sorted({day.lower() for day in value}, key=WEEKDAYS.index))

    @property
    def zone(self) -> tzinfo:
        """Its timezone, ready to use."""
        return UTC if self.timezone == "UTC" else ZoneInfo(self.timezone)

    @property
    def is_instant(self) -> bool:
        """Whether it restricts a single instant only, which is rarely what was meant."""
        return self.start == self.end

    def __str__(self) -> str:
        text = f"{self.start}-{self.end}"
        if self.days is not None:
            text += f" {','.join(self.days)}"
        return f"{text} {self.timezone}"


class Timetable(NamedTuple):
    """All windows of one timezone, folded into one table of the week's minutes."""

    zone: tzinfo
    cells: bytes

    @classmethod
    def of(cls, windows: Sequence[TimeWindow]) -> Self:
        """Fold windows, all of them in one timezone."""
        cells = bytearray(WEEK_MINUTES)
        for window in windows:
            length = (_minutes(window.end) - _minutes(window.start)) % _DAY
            for day in window.days or WEEKDAYS:
                start = WEEKDAYS.index(day) * _DAY + _minutes(window.start)
                _fill(cells, start, start + length)
        return cls(windows[0].zone, bytes(cells))

    def restricts(self, now: datetime) -> bool:
        """Whether `now` lies inside a window, to the microsecond."""
        local = now.astimezone(self.zone)
        cell = self.cells[_minute_of_week(local)]
        return cell == _WHOLE or (
            cell == _ON_THE_DOT and local.second == 0 and local.microsecond == 0
        )

    def until(self, now: datetime) -> datetime | None:
        """The last restricted instant of the stretch `now` lies in; `None` if it never ends."""
        local = now.astimezone(self.zone)
        here = _minute_of_week(local)
        if self.cells[here] != _WHOLE:
            return now
        # Wherever restricted minutes end, the instant after them is restricted too.
        found = self.cells.find(_ON_THE_DOT, here)
        if found < 0 and (found := self.cells.find(_ON_THE_DOT)) < 0:
            return None
        floor = now - timedelta(seconds=local.second, microseconds=local.microsecond)
        end = floor + (found - here) % WEEK_MINUTES * _MINUTE
        if (jump := next(clock_changes(self.zone, floor, end), None)) is None:
            return end
        # The wall clock jumps before the end: look again from there.
        return self.until(jump) if self.restricts(jump) else jump - _INSTANT


@lru_cache(maxsize=256)
def timetables(windows: tuple[TimeWindow, ...]) -> tuple[Timetable, ...]:
    """Fold windows into one timetable per timezone; equal windows share theirs."""
    zones = dict.fromkeys(window.timezone for window in windows)
    return tuple(Timetable.of([w for w in windows if w.timezone == zone]) for zone in zones)


def restricted_until(tables: Sequence[Timetable], now: datetime) -> datetime | None:
    """The last instant of the restriction that `now` lies in.

    Args:
        tables: A deployment's timetables.
        now: An aware instant at which one of them restricts it.

    Returns:
        That instant in UTC (a microsecond later the deployment is free), or `None` if no later
        moment is free.
    """
    at = now.astimezone(UTC)
    # Windows repeat weekly, and a clock change may skip the one free hour of a week.
    while at - now <= timedelta(days=15):
        ends = [table.until(at) for table in tables if table.restricts(at)]
        if not ends:
            return at - _INSTANT
        if None in ends:
            return None
        at = max(end for end in ends if end is not None).astimezone(UTC) + _INSTANT
    return None


def clock_changes(zone: tzinfo, start: datetime, end: datetime) -> Iterator[datetime]:
    """The minutes after `start`, up to `end`, at which a timezone's UTC offset changes."""
    while start < end:
        # No timezone changes twice within a day.
        high = min(start + timedelta(days=1), end)
        offset = _utc_offset(zone, start)
        low, start = start, high
        if _utc_offset(zone, high) == offset:
            continue
        while high - low > _MINUTE:
            middle = low + (high - low) // _MINUTE // 2 * _MINUTE
            if _utc_offset(zone, middle) == offset:
                low = middle
            else:
                high = middle
        yield high


def restricted_stretches(
    schedules: Sequence[tuple[TimeWindow, ...]], start: datetime, end: datetime
) -> Iterator[tuple[datetime, datetime]]:
    """The stretches of time in which the windows restrict every one of several deployments.

    Exact to the minute. Windows repeat weekly as long as no clock changes; so each span between
    two clock changes of any of their timezones is worked out from one week.

    Args:
        schedules: The windows of each deployment.
        start: From when, aware.
        end: Until when, aware.
    """
    if not all(schedules):
        return
    start = start.astimezone(UTC).replace(second=0, microsecond=0)
    zones = {window.zone for windows in schedules for window in windows}
    changes = sorted({change for zone in zones for change in clock_changes(zone, start, end)})
    restricted_since: datetime | None = None
    for first, last in zip([start, *changes], [*changes, end], strict=True):
        restricted = _combined(min, [_restricted_minutes(windows, first) for windows in schedules])
        # Twice, so that a search for the next change may run over the week's end.
        restricted *= 2
        at = first
        while at < last:
            minute = _minute_of_week(at)
            is_restricted = restricted[minute]
            if is_restricted and restricted_since is None:
                restricted_since = at
            elif not is_restricted and restricted_since is not None:
                yield restricted_since, at
                restricted_since = None
            change = restricted.find(not is_restricted, minute)
            at = last if change < 0 else min(last, at + (change - minute) * _MINUTE)
    if restricted_since is not None:
        yield restricted_since, end


def _restricted_minutes(windows: tuple[TimeWindow, ...], at: datetime) -> bytes:
    """For each minute of a week in UTC whether windows restrict it, by the UTC offsets of `at`."""
    tables = []
    for zone, cells in timetables(windows):
        offset = _utc_offset(zone, at) // _MINUTE % WEEK_MINUTES
        restricted = cells.translate(_IS_WHOLE)
        tables.append(restricted[offset:] + restricted[:offset])
    return _combined(max, tables)


def _combined(function: Callable[..., int], tables: Sequence[bytes]) -> bytes:
    """One table of several, minute by minute."""
    return bytes(map(function, *tables)) if len(tables) > 1 else tables[0]


def _utc_offset(zone: tzinfo, at: datetime) -> timedelta:
    # Not `utcoffset()`: a frozen clock's datetimes forget which of two equal hours they are in.
    return at.astimezone(zone).replace(tzinfo=None) - at.astimezone(UTC).replace(tzinfo=None)


def _fill(cells: bytearray, start: int, end: int) -> None:
    """Mark the minutes from `start` up to `end` and the instant `end`, around the week's end."""
    whole = bytes([_WHOLE])
    cells[start : min(end, WEEK_MINUTES)] = whole * (min(end, WEEK_MINUTES) - start)
    if end > WEEK_MINUTES:
        cells[: end - WEEK_MINUTES] = whole * (end - WEEK_MINUTES)
    last = end % WEEK_MINUTES
    cells[last] = max(cells[last], _ON_THE_DOT)


def _minute_of_week(local: datetime) -> int:
    """The minutes since Monday's midnight."""
    return local.weekday() * _DAY + local.hour * 60 + local.minute


def _minutes(clock_time: str) -> int:
    return int(clock_time[:2]) * 60 + int(clock_time[3:])
