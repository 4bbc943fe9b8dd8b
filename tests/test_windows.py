"""Time windows, to the microsecond, against an oracle that is written from the contract alone."""

import logging
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, time, timedelta
from itertools import product
from pathlib import Path
from typing import Any
from zoneinfo import TZPATH, ZoneInfo

import pytest
from freezegun import freeze_time
from hypothesis import example, given, settings
from hypothesis import strategies as st
from langchain_core.runnables import RunnableLambda
from pydantic import ValidationError

from langchain_model_gateway import (
    AllModelsFailedError,
    GatewayRunnable,
    NoModelAvailableError,
    RetryPolicy,
    SkippedModel,
    TimeWindow,
)
from tests.conftest import CallForm
from tests.models import NEVER, gateway_over, says, who

MICROSECOND = timedelta(microseconds=1)
MINUTE = timedelta(minutes=1)
DAYS = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"]


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def window(start: str, end: str, timezone: str = "UTC", days: Any = None) -> dict[str, Any]:
    return {"start": start, "end": end, "timezone": timezone, "days": days}


def restricting(*windows: Any) -> GatewayRunnable:
    """A gateway whose first deployment has these windows."""
    return gateway_over(says("weak"), says("strong"), windows={"weak": list(windows)})


def skipped(gateway: GatewayRunnable, at: datetime) -> SkippedModel | None:
    """What a plan says of the first deployment, which is None if it may be used."""
    plan = gateway.explain(at=at)
    assert plan.order == (("strong",) if plan.skipped else ("weak", "strong"))
    assert plan.deferred == ()
    return plan.skipped[0] if plan.skipped else None


# --- the oracle ------------------------------------------------------------------------------


def oracle(windows: Iterable[dict[str, Any]], at: datetime) -> bool:
    """Whether `at` is inside a window, by comparing the clock on the wall with its two ends."""
    return any(inside(each, at.astimezone(ZoneInfo(each["timezone"]))) for each in windows)


def inside(each: dict[str, Any], local: datetime) -> bool:
    start, end = (time.fromisoformat(each[key]) for key in ("start", "end"))
    clock = local.time()
    today = DAYS[local.weekday()]
    yesterday = DAYS[local.weekday() - 1]
    days = each["days"] or DAYS
    if start <= end:
        return today in days and start <= clock <= end
    return (today in days and clock >= start) or (yesterday in days and clock <= end)


def telling_moments(first: datetime, last: datetime) -> Iterable[datetime]:
    """Both sides of every minute: all windows begin, end and jump on one."""
    at = first.replace(second=0, microsecond=0)
    while at <= last:
        yield from (each for each in (at, at + MICROSECOND) if first <= each <= last)
        at += MINUTE


def check(windows: Sequence[dict[str, Any]], at: datetime) -> None:
    """A plan for `at` says what the oracle says, and its `until` is the last such moment."""
    skip = skipped(restricting(*windows), at)
    assert (skip is not None) == oracle(windows, at)
    if skip is None:
        return
    last = skip.until or at + timedelta(days=8)
    assert all(oracle(windows, moment) for moment in telling_moments(at, last))
    if skip.until is not None:
        assert skip.until.utcoffset() == timedelta()
        assert oracle(windows, skip.until)
        assert not oracle(windows, skip.until + MICROSECOND)


# --- both ends -------------------------------------------------------------------------------

EDGES = [
    (("09:00", "17:00"), "2026-03-04 08:59:59.999999", False),
    (("09:00", "17:00"), "2026-03-04 09:00:00.000000", True),
    (("09:00", "17:00"), "2026-03-04 16:59:59.999999", True),
    (("09:00", "17:00"), "2026-03-04 17:00:00.000000", True),
    (("09:00", "17:00"), "2026-03-04 17:00:00.000001", False),
    (("09:00", "17:00"), "2026-03-04 17:00:30.000000", False),
    (("22:00", "06:00"), "2026-03-04 21:59:59.999999", False),
    (("22:00", "06:00"), "2026-03-04 22:00:00.000000", True),
    (("22:00", "06:00"), "2026-03-04 23:59:59.999999", True),
    (("22:00", "06:00"), "2026-03-05 00:00:00.000000", True),
    (("22:00", "06:00"), "2026-03-05 06:00:00.000000", True),
    (("22:00", "06:00"), "2026-03-05 06:00:00.000001", False),
    (("22:00", "06:00"), "2026-03-05 12:00:00.000000", False),
    (("12:00", "12:00"), "2026-03-04 11:59:59.999999", False),
    (("12:00", "12:00"), "2026-03-04 12:00:00.000000", True),
    (("12:00", "12:00"), "2026-03-04 12:00:00.000001", False),
    (("00:00", "00:00"), "2026-03-04 00:00:00.000000", True),
    (("00:00", "00:00"), "2026-03-04 00:00:00.000001", False),
    (("00:00", "00:00"), "2026-03-04 12:00:00.000000", False),
    (("00:00", "23:59"), "2026-03-04 23:59:00.000000", True),
    (("00:00", "23:59"), "2026-03-04 23:59:00.000001", False),
    (("12:00", "00:00"), "2026-03-05 00:00:00.000000", True),
    (("12:00", "00:00"), "2026-03-05 00:00:00.000001", False),
    (("00:01", "00:00"), "2026-03-05 00:00:00.000001", False),
    (("00:01", "00:00"), "2026-03-05 00:01:00.000000", True),
]


@pytest.mark.parametrize(("hours", "moment", "restricted"), EDGES)
def test_both_ends_are_inclusive_to_the_microsecond(
    hours: tuple[str, str], moment: str, restricted: bool
) -> None:
    """The first and the last instant of a window are inside, their neighbours outside are not."""
    gateway = restricting(hours)
    with freeze_time(moment):
        assert who(gateway.invoke("x")) == ("strong" if restricted else "weak")
        assert gateway.explain().order[0] == ("strong" if restricted else "weak")
    assert gateway.explain(at=utc(moment)).order[0] == ("strong" if restricted else "weak")


@pytest.mark.parametrize(
    ("moment", "expected"),
    [("2026-03-04 17:00:00.000000", "strong"), ("2026-03-04 17:00:00.000001", "weak")],
)
def test_every_call_form_keeps_the_boundary(ask: CallForm, moment: str, expected: str) -> None:
    """No form of a call begins an attempt inside its deployment's window, nor avoids one after."""
    with freeze_time(moment, real_asyncio=True):
        assert who(ask(restricting(("09:00", "17:00")), "x")) == expected


@pytest.mark.parametrize("hours", [None, [], ()])
def test_no_windows_mean_never_restricted(hours: Any) -> None:
    """`None` and an empty list are no restriction, at any moment."""
    gateway = gateway_over(says("weak"), says("strong"), windows={"weak": hours})
    assert all(
        gateway.explain(at=utc(moment)).order == ("weak", "strong")
        for moment in ("2026-03-04 00:00", "2026-03-04 12:00", "2026-03-04 23:59:59.999999")
    )


def test_a_single_instant_is_warned_about(caplog: pytest.LogCaptureFixture) -> None:
    """A window whose ends are equal says at construction how a whole day is written."""
    restricting(("12:00", "12:0"))
    [record] = [r for r in caplog.records if r.levelno == logging.WARNING]
    assert record.name == "langchain_model_gateway"
    assert all(part in record.getMessage() for part in ("weak", "12:00-12:00", "'00:00'"))


def test_two_halves_make_a_whole_day() -> None:
    """The two windows which that warning advises restrict every instant of the day."""
    gateway = restricting(*NEVER)
    day = utc("2026-03-04 00:00")
    for moment in telling_moments(day, day + timedelta(days=1)):
        assert skipped(gateway, moment) is not None


# --- the form --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("start", "end", "shown"),
    [
        ("9:5", "17:0", "09:05-17:00 UTC"),
        ("09:05", "17:00", "09:05-17:00 UTC"),
        ("0:0", "23:59", "00:00-23:59 UTC"),
    ],
)
def test_short_forms_mean_the_full_ones(start: str, end: str, shown: str) -> None:
    """A missing zero is filled in, as `strptime` does."""
    assert str(TimeWindow(start=start, end=end)) == shown
    assert TimeWindow.model_validate((start, end)) == TimeWindow(start=start, end=end)


@pytest.mark.parametrize(
    ("start", "end", "timezone", "shown"),
    [
        (time(22), time(6, 5), "UTC", "22:00-06:05 UTC"),
        (time(9), "17:00", ZoneInfo("UTC"), "09:00-17:00 UTC"),
        ("9:00", time(23, 59), ZoneInfo("Asia/Kolkata"), "09:00-23:59 Asia/Kolkata"),
        (time(9, fold=1), time(10), "UTC", "09:00-10:00 UTC"),
    ],
)
def test_times_and_zones_are_taken_as_objects(
    start: Any, end: Any, timezone: Any, shown: str
) -> None:
    """A `datetime.time` is a time and a `ZoneInfo` a timezone, kept as the strings they mean."""
    window = TimeWindow(start, end, timezone)
    assert str(window) == shown
    assert window == TimeWindow(*shown.split(maxsplit=1)[0].split("-"), shown.split()[1])
    assert TimeWindow.model_validate_json(window.model_dump_json()) == window
    if window.timezone == "UTC":
        assert gateway_over(says("a"), windows={"weak": [(start, end)]})[
            "weak"
        ].time_constraints == (window,)


@pytest.mark.parametrize("bad", [time(9, 0, 1), time(9, 0, 0, 1), time(9, tzinfo=UTC)])
def test_a_time_with_seconds_or_a_zone_is_refused(bad: time) -> None:
    """A window's ends are minutes of its own timezone, and the refusal shows the time."""
    with pytest.raises(ValidationError, match=str(bad).replace("+", r"\+")):
        TimeWindow("08:00", bad)


def test_a_zone_without_a_name_is_refused() -> None:
    """A `ZoneInfo` made from a file has no IANA name to be kept by."""
    found = next((path for each in TZPATH if (path := Path(each, "UTC")).is_file()), None)
    if found is None:
        pytest.skip("this system has no timezone files")
    with found.open("rb") as file:
        nameless = ZoneInfo.from_file(file)
    with pytest.raises(ValidationError, match="ZoneInfo is not a timezone"):
        TimeWindow("08:00", "09:00", nameless)


@pytest.mark.parametrize(
    "text", ["24:00", "0900", "09:00:00", " 09:00", "09:00 ", "09 :00", "", "9", "12:60", "a:b"]
)
def test_other_forms_are_refused(text: str) -> None:
    """What is not hours and minutes of a day is no time, at either end."""
    for ends in ((text, "10:00"), ("10:00", text)):
        with pytest.raises(ValidationError, match="is not a time"):
            TimeWindow.model_validate(ends)


@pytest.mark.parametrize("zone", ["America", "x" * 5000, "../etc", "/etc/localtime", "", 5, None])
def test_unknown_timezones_are_refused(zone: Any) -> None:
    """Whatever is no timezone is one kind of error, that does not repeat a long name."""
    with pytest.raises(ValidationError, match="is not a timezone") as caught:
        TimeWindow(start="09:00", end="17:00", timezone=zone)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    "days", [["MON", "Fri"], ("fri", "mon"), {"mon", "fri"}, ["mon"] * 2 + ["fri"]]
)
def test_days_are_written_in_any_case_and_order(days: Any) -> None:
    """Weekdays are a set, whatever collection names them and however, and shown in order."""
    expected = TimeWindow(start="09:00", end="17:00", days=["mon", "fri"])
    written = TimeWindow(start="09:00", end="17:00", days=days)
    assert written == expected
    assert str(written) == "09:00-17:00 mon,fri UTC"


# --- timezones and daylight saving -----------------------------------------------------------


@pytest.mark.parametrize(
    ("zone", "first", "last"),
    [
        ("UTC", "2026-07-01 09:00", "2026-07-01 17:00"),
        ("America/Sao_Paulo", "2026-07-01 12:00", "2026-07-01 20:00"),
        ("Asia/Kolkata", "2026-07-01 03:30", "2026-07-01 11:30"),
        ("Asia/Kathmandu", "2026-07-01 03:15", "2026-07-01 11:15"),
        ("Pacific/Kiritimati", "2026-06-30 19:00", "2026-07-01 03:00"),
        ("Europe/Berlin", "2026-07-01 07:00", "2026-07-01 15:00"),
        ("Europe/Berlin", "2026-01-05 08:00", "2026-01-05 16:00"),
    ],
)
def test_windows_follow_the_local_clock(zone: str, first: str, last: str) -> None:
    """09:00 to 17:00 is that on the wall of the window's own place, summer and winter."""
    gateway = restricting(window("09:00", "17:00", zone))
    assert skipped(gateway, utc(first) - MICROSECOND) is None
    assert skipped(gateway, utc(first)).until == utc(last)
    assert skipped(gateway, utc(last)).until == utc(last)
    assert skipped(gateway, utc(last) + MICROSECOND) is None


def test_the_timezone_of_at_does_not_matter() -> None:
    """One instant gives one plan, in whatever timezone it is written, and `until` is in UTC."""
    gateway = restricting(window("09:00", "17:00", "America/New_York"))
    at = utc("2026-07-01 15:00")
    for zone in ("UTC", "Asia/Tokyo", "America/New_York", "Asia/Kolkata"):
        skip = skipped(gateway, at.astimezone(ZoneInfo(zone)))
        assert skip.until == utc("2026-07-01 21:00")
        assert skip.until.utcoffset() == timedelta()


@pytest.mark.usefixtures("in_nepal")
def test_the_timezone_of_the_machine_does_not_matter() -> None:
    """Windows go by their own timezones and `until` is in UTC, wherever the process runs."""
    check([window("09:00", "17:00")], utc("2026-07-01 15:00"))
    check([window("01:15", "01:45", "America/New_York")], utc("2026-11-01 05:30"))


REPEATED = [("America/New_York", "2026-11-01 04:00"), ("Europe/Berlin", "2026-10-24 23:00")]
SKIPPED = [("America/New_York", "2026-03-08 05:00"), ("Europe/Berlin", "2026-03-28 23:00")]
HOURS = [
    *(("00:30", "01:15"), ("01:15", "01:45"), ("01:45", "02:30"), ("02:15", "02:45")),
    *(("02:30", "03:30"), ("01:30", "03:00"), ("02:00", "03:00"), ("03:00", "02:00")),
    *(("22:00", "02:30"), ("02:30", "02:30"), ("23:00", "22:00"), ("01:00", "02:00")),
]


@pytest.mark.parametrize(("zone", "start"), REPEATED + SKIPPED)
@pytest.mark.parametrize("hours", HOURS)
def test_clock_changes_minute_by_minute(zone: str, start: str, hours: tuple[str, str]) -> None:
    """Around a clock change, both sides of every minute are restricted as the wall clock says."""
    windows = [window(*hours, zone)]
    gateway = restricting(*windows)
    for moment in telling_moments(utc(start), utc(start) + timedelta(hours=6)):
        assert (skipped(gateway, moment) is not None) == oracle(windows, moment), moment


@pytest.mark.parametrize(("zone", "start"), REPEATED + SKIPPED)
@pytest.mark.parametrize("hours", HOURS)
def test_until_is_exact_around_clock_changes(zone: str, start: str, hours: tuple[str, str]) -> None:
    """At every quarter hour around a clock change, `until` is the restriction's last instant."""
    for quarter in range(24):
        check([window(*hours, zone)], utc(start) + quarter * timedelta(minutes=15))


@pytest.mark.parametrize(
    ("zone", "first"),
    [("America/New_York", "2026-11-01 05:15"), ("Europe/Berlin", "2026-10-25 00:15")],
)
def test_a_repeated_hour_is_restricted_twice(zone: str, first: str) -> None:
    """A window inside the hour that clocks repeat applies both times, and not in between."""
    hours = ("01:15", "01:45") if zone.startswith("America") else ("02:15", "02:45")
    gateway = restricting(window(*hours, zone))
    for at in (utc(first), utc(first) + timedelta(hours=1)):
        assert skipped(gateway, at - MICROSECOND) is None
        assert skipped(gateway, at).until == at + timedelta(minutes=30)
        assert skipped(gateway, at + timedelta(minutes=30) + MICROSECOND) is None


@pytest.mark.parametrize(
    ("zone", "day"),
    [("America/New_York", "2026-03-08 05:00"), ("Europe/Berlin", "2026-03-28 23:00")],
)
def test_a_skipped_hour_is_never_restricted(zone: str, day: str) -> None:
    """A window inside the hour that clocks skip does not apply on that day, and does the next."""
    gateway = restricting(window("02:15", "02:45", zone))
    start = utc(day)
    first_day = telling_moments(start, start + timedelta(hours=22))
    assert all(skipped(gateway, moment) is None for moment in first_day)
    next_day = telling_moments(start + timedelta(hours=22), start + timedelta(hours=46))
    assert any(skipped(gateway, moment) for moment in next_day)


# --- days ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("moment", "restricted"),
    [
        ("2026-03-06 21:59:59.999999", False),  # a Friday
        ("2026-03-06 22:00:00.000000", True),
        ("2026-03-07 06:00:00.000000", True),  # Saturday, still Friday's window
        ("2026-03-07 06:00:00.000001", False),
        ("2026-03-07 22:00:00.000000", False),
        ("2026-03-06 05:00:00.000000", False),  # the end of Thursday's, which is none
    ],
)
def test_a_window_across_midnight_belongs_to_its_first_day(moment: str, restricted: bool) -> None:
    """Friday's night runs into Saturday; Friday's small hours are Thursday's."""
    gateway = restricting(window("22:00", "06:00", days=["fri"]))
    assert (skipped(gateway, utc(moment)) is not None) == restricted


def test_sundays_night_runs_into_monday() -> None:
    """A window across midnight also crosses the end of the week."""
    gateway = restricting(window("22:00", "06:00", days=["sun"]))
    assert skipped(gateway, utc("2026-03-08 23:00")).until == utc("2026-03-09 06:00")
    assert skipped(gateway, utc("2026-03-09 06:00:00.000001")) is None


@pytest.mark.parametrize(
    ("moment", "restricted"),
    [
        ("2026-11-01 05:30", True),  # 01:30 EDT
        ("2026-11-01 06:30", True),  # 01:30 EST, the hour again
        ("2026-11-01 07:30", False),
        ("2026-11-02 05:30", False),  # 00:30 on Monday
        ("2026-11-02 06:30", False),  # 01:30, but a Monday
    ],
)
def test_a_repeated_hour_is_restricted_on_its_day_only(moment: str, restricted: bool) -> None:
    """Weekdays and clock changes are those of one place."""
    sunday = window("01:00", "01:59", "America/New_York", ["SUN"])
    assert bool(skipped(restricting(sunday), utc(moment))) is restricted


def test_days_are_local() -> None:
    """In Kiritimati it is Monday while UTC still has Sunday."""
    gateway = restricting(window("00:00", "12:00", "Pacific/Kiritimati", ["mon"]))
    assert skipped(gateway, utc("2026-03-08 10:00")).until == utc("2026-03-08 22:00")
    assert skipped(gateway, utc("2026-03-09 10:00")) is None


@pytest.mark.parametrize("day", range(7))
def test_a_day_restricts_that_day_only(day: int) -> None:
    """Of the seven days of a week, one window on one day closes exactly that."""
    gateway = restricting(window("09:00", "17:00", days=[DAYS[day]]))
    monday = utc("2026-03-02 12:00")
    closed = [d for d in range(7) if skipped(gateway, monday + timedelta(days=d))]
    assert closed == [day]


# --- explain ---------------------------------------------------------------------------------


def test_a_plan_tells_order_and_skipped() -> None:
    """A plan names who would be tried in order, and of the others why not and until when."""
    gateway = gateway_over(says("a"), says("b"), says("c"), windows={"strong": [("9:00", "17:00")]})
    plan = gateway.explain("backup", at=utc("2026-03-04 12:00"))
    assert plan.order == ("backup", "weak")
    [skip] = plan.skipped
    assert skip.model_name == "strong"
    assert "09:00-17:00" in skip.reason
    assert skip.until == utc("2026-03-04 17:00")
    assert plan.at == utc("2026-03-04 12:00")


def test_a_preferred_deployment_that_is_restricted_is_skipped() -> None:
    """A preference does not open a window; the rest follow in list order."""
    gateway = gateway_over(says("a"), says("b"), says("c"), windows={"backup": [("9:00", "17:00")]})
    at = utc("2026-03-04 12:00")
    assert gateway.explain("backup", at=at).order == ("weak", "strong")
    with freeze_time(at):
        assert who(gateway.invoke("x", model_preference="backup")) == "weak"


def test_a_naive_at_is_refused() -> None:
    """A moment without a timezone is no moment."""
    with pytest.raises(ValueError, match="naive"):
        restricting().explain(at=datetime(2026, 3, 4))


@pytest.mark.parametrize(
    ("windows", "at", "until"),
    [
        ([("9:00", "12:00"), ("12:00", "17:00")], "2026-03-04 10:00", "2026-03-04 17:00"),
        ([("12:00", "17:00"), ("9:00", "12:00")], "2026-03-04 10:00", "2026-03-04 17:00"),
        ([("9:00", "13:00"), ("12:00", "17:00")], "2026-03-04 10:00", "2026-03-04 17:00"),
        ([("9:00", "17:00"), ("10:00", "11:00")], "2026-03-04 10:30", "2026-03-04 17:00"),
        ([("9:00", "12:00"), ("12:01", "17:00")], "2026-03-04 10:00", "2026-03-04 12:00"),
        ([("9:00", "12:00"), ("12:00", "12:00")], "2026-03-04 10:00", "2026-03-04 12:00"),
        ([("22:00", "00:00"), ("00:00", "06:00")], "2026-03-04 23:00", "2026-03-05 06:00"),
        ([window("22:00", "00:00", days=["sun"])], "2026-03-08 23:00", "2026-03-09 00:00"),
        ([window("22:00", "6:00", "Europe/London")], "2026-03-28 23:00", "2026-03-29 05:00"),
        ([("9:00", "17:00")], "2026-03-04 17:00", "2026-03-04 17:00"),
        ([("12:00", "12:00")], "2026-03-04 12:00", "2026-03-04 12:00"),
        ([("12:00", "11:00")], "2026-03-04 12:00", "2026-03-05 11:00"),
        (
            [window("9:00", "12:00"), window("13:00", "15:00", "Europe/Berlin")],
            "2026-03-04 10:00",
            "2026-03-04 14:00",
        ),
        (
            [window("9:00", "12:00"), window("7:01", "9:00", "America/New_York")],
            "2026-03-04 10:00",
            "2026-03-04 12:00",
        ),
        (
            [window("22:00", "10:00"), window("10:00", "22:00", days=["mon", "tue"])],
            "2026-03-02 11:00",
            "2026-03-04 10:00",
        ),
        ([window("0:00", "12:00"), ("12:00", "0:00")], "2026-03-04 10:00", None),
        (
            [window("0:00", "12:00"), window("9:00", "21:00", "Asia/Tokyo"), ("12:00", "0:00")],
            "2026-03-04 10:00",
            None,
        ),
        (
            [window("0:00", "12:00"), window("21:00", "9:00", "Asia/Tokyo")],
            "2026-03-04 10:00",
            None,
        ),
    ],
)
def test_until_is_the_last_restricted_instant(windows: Any, at: str, until: str | None) -> None:
    """Windows that touch or overlap are one restriction; one with no end has no `until`."""
    gateway = restricting(*windows)
    skip = skipped(gateway, utc(at))
    assert skip is not None
    assert skip.until == (until and utc(until))
    if until:
        assert skipped(gateway, utc(until)) is not None
        assert skipped(gateway, utc(until) + MICROSECOND) is None


@pytest.mark.parametrize("at", ["2026-03-22 02:00", "2026-03-23 12:00", "2026-03-28 12:00"])
def test_until_looks_past_a_week_whose_free_hour_is_skipped(at: str) -> None:
    """A deployment free for one hour a week is free again in the week after clocks skip it."""
    weekdays = [window(*half, "Europe/Berlin", DAYS[:-1]) for half in NEVER]
    halves = [("00:00", "02:00"), ("03:00", "00:00")]
    sunday = [window(*half, "Europe/Berlin", ["sun"]) for half in halves]
    assert skipped(restricting(*weekdays, *sunday), utc(at)).until == utc("2026-04-05 00:00")


def test_nobody_available_tells_when_somebody_is() -> None:
    """With everybody restricted, the error names the earliest end of a restriction."""
    windows = {"weak": [("9:00", "17:00")], "strong": [("10:00", "14:00")], "backup": NEVER}
    models = says("a"), says("b"), says("c")
    gateway = gateway_over(*models, windows=windows)
    with freeze_time("2026-03-04 12:00"), pytest.raises(NoModelAvailableError) as caught:
        gateway.invoke("x")
    assert caught.value.available_at == utc("2026-03-04 14:00")
    assert "2026-03-04 14:00:00 UTC" in str(caught.value)
    assert [skip.until for skip in caught.value.skipped] == [
        utc("2026-03-04 17:00"),
        utc("2026-03-04 14:00"),
        None,
    ]
    assert all(model.calls == [] for model in models)
    assert caught.value.failures == []
    assert caught.value.is_retryable


def test_nobody_ever_available_has_no_end() -> None:
    """With everybody restricted for good, no moment is promised and waiting does not help."""
    gateway = gateway_over(says("a"), says("b"), windows={"weak": NEVER, "strong": NEVER})
    with pytest.raises(NoModelAvailableError) as caught:
        gateway.invoke("x")
    assert caught.value.available_at is None
    assert not caught.value.is_retryable


def test_many_windows_are_one_restriction() -> None:
    """A thousand windows, every other minute of the day, each end where they should."""
    minutes = [f"{m // 60}:{m % 60}" for m in range(1440)]
    gateway = restricting(*[(minutes[m], minutes[m + 1]) for m in range(0, 1438, 2)] * 2)
    day = utc("2026-03-04 00:00")
    for m in range(0, 1438, 7):
        skip = skipped(gateway, day + m * MINUTE + timedelta(seconds=30))
        assert (skip is not None) == (m % 2 == 0)
        assert skip is None or skip.until == day + (m + 1) * MINUTE
        assert len(str(skip)) < 300


CLOCK = st.builds(
    "{:02}:{:02}".format, st.integers(0, 23), st.sampled_from([0, 0, 0, 1, 15, 30, 59])
)
ZONES = st.sampled_from(
    ["UTC", "America/New_York", "Europe/Berlin", "Australia/Lord_Howe", "Asia/Kathmandu"]
)
WINDOWS = st.lists(
    st.builds(window, CLOCK, CLOCK, ZONES, st.none() | st.lists(st.sampled_from(DAYS), min_size=1)),
    max_size=4,
)
# The days on which clocks change, and some on which they don't.
MOMENTS = st.builds(
    lambda day, minute, off: utc(day) + minute * MINUTE + off,
    st.sampled_from(
        [
            *("2026-03-07", "2026-03-28", "2026-04-04", "2026-10-03", "2026-10-24", "2026-10-31"),
            *("2026-01-01", "2027-12-31"),
        ]
    ),
    st.integers(0, 3 * 24 * 60),
    st.sampled_from([timedelta(), MICROSECOND, -MICROSECOND, timedelta(seconds=30)]),
)


@settings(deadline=None, max_examples=300)
@given(windows=WINDOWS, at=MOMENTS)
@example([window("01:45", "02:30", "America/New_York")], utc("2026-11-01 05:50"))
@example([window("01:00", "02:30", "America/New_York")], utc("2026-03-08 06:30"))
def test_plans_agree_with_a_naive_oracle(windows: list[dict[str, Any]], at: datetime) -> None:
    """Whatever the windows, days, timezones and the moment, a plan says what the contract says."""
    check(windows, at)


@pytest.mark.parametrize(
    ("hours", "edges"),
    [
        (("03:00", "03:10"), ["03:00", "03:10"]),
        (("12:00", "12:00"), ["12:00"]),
        (window("03:00", "03:10", "Asia/Kathmandu"), ["21:15", "21:25"]),
    ],
)
def test_what_was_asked_before_does_not_matter(hours: Any, edges: list[str]) -> None:
    """Around a window's ends, whatever moment was asked about before, and in whatever order."""
    offsets = [-MINUTE, -MICROSECOND, timedelta(), MICROSECOND, 59 * MICROSECOND, MINUTE]
    moments = [utc(f"2026-03-04 {edge}") + offset for edge in edges for offset in offsets]

    def first(gateway: GatewayRunnable, at: datetime) -> str:
        return gateway.explain(at=at).order[0]

    fresh = {at: first(restricting(hours), at) for at in moments}
    assert set(fresh.values()) == {"weak", "strong"}
    gateway = restricting(hours)
    for before, at in product(moments, moments):
        assert (first(gateway, before), first(gateway, at)) == (fresh[before], fresh[at])


def test_a_repeated_hour_is_told_apart() -> None:
    """Two moments that differ in their `fold` only are an hour apart, whichever is asked first."""
    gateway = restricting(("05:30", "05:40"))
    first = datetime(2026, 11, 1, 1, 35, tzinfo=ZoneInfo("America/New_York"))
    for at, order in [(first.replace(fold=1), "weak"), (first, "strong")] * 2:
        assert gateway.explain(at=at).order[0] == order


# --- the clock is looked at just before each attempt -----------------------------------------


def slow_failure(frozen: Any, then: str) -> Any:
    """A model that fails only when the clock says `then`."""

    def fail(_: Any) -> Any:
        frozen.move_to(then)
        raise ValueError("down")

    return RunnableLambda(fail)


def test_a_window_that_begins_during_an_attempt_counts(ask: CallForm) -> None:
    """A deployment free when the call began is skipped if its window has begun by its turn."""
    strong = says("strong")
    with freeze_time("2026-03-04 08:59:59.999999", real_asyncio=True) as frozen:
        weak = slow_failure(frozen, "2026-03-04 09:00:00")
        gateway = gateway_over(
            weak, strong, says("backup"), windows={"strong": [("9:00", "17:00")]}
        )
        assert gateway.explain().order == ("weak", "strong", "backup")
        assert who(ask(gateway, "x")) == "backup"
    assert strong.calls == []


def test_a_window_that_ends_during_an_attempt_counts(ask: CallForm) -> None:
    """A deployment restricted when the call began is tried if its window has ended by its turn."""
    with freeze_time("2026-03-04 17:00:00", real_asyncio=True) as frozen:
        weak = slow_failure(frozen, "2026-03-04 17:00:00.000001")
        gateway = gateway_over(
            weak, says("strong"), says("backup"), windows={"strong": [("9:00", "17:00")]}
        )
        assert gateway.explain().order == ("weak", "backup")
        assert who(ask(gateway, "x")) == "strong"


def test_a_skip_is_reported_with_the_failures(ask: CallForm) -> None:
    """When the last hope's window begins meanwhile, the error tells the failure and the skip."""
    with freeze_time("2026-03-04 08:00", real_asyncio=True) as frozen:
        weak = slow_failure(frozen, "2026-03-04 10:00")
        gateway = gateway_over(weak, says("strong"), windows={"strong": [("9:00", "17:00")]})
        with pytest.raises(AllModelsFailedError) as caught:
            ask(gateway, "x")
    assert [failure.model_name for failure in caught.value.failures] == ["weak"]
    [skip] = caught.value.skipped
    assert (skip.model_name, skip.until) == ("strong", utc("2026-03-04 17:00"))
    assert caught.value.is_retryable


def test_a_retry_does_not_start_inside_the_window(ask: CallForm) -> None:
    """An attempt that was free and failed is not repeated once its own window has begun."""
    tries: list[str] = []
    with freeze_time("2026-03-04 08:59", real_asyncio=True) as frozen:

        def fail(_: Any) -> Any:
            tries.append("weak")
            frozen.move_to("2026-03-04 09:00")
            raise TimeoutError("slow")

        gateway = gateway_over(
            RunnableLambda(fail),
            says("strong"),
            windows={"weak": [("9:00", "17:00")]},
            retry=RetryPolicy(max_attempts=3, initial_delay=1e-6),
        )
        assert who(ask(gateway, "x")) == "strong"
    assert tries == ["weak"]


@pytest.mark.parametrize(
    ("hidden", "told"),
    [(0, ""), (1, " and 1 more window"), (2, " and 2 more windows")],
)
def test_a_reason_names_the_first_windows_and_counts_the_rest(hidden: int, told: str) -> None:
    """A long list of windows does not fill the table."""
    hours = [(f"{hour:02}:00", f"{hour:02}:30") for hour in range(12, 15 + hidden)]
    skip = skipped(restricting(*hours), utc("2026-01-05 12:10"))
    assert skip is not None
    shown = ", ".join(f"{start}-{end} UTC" for start, end in hours[:3])
    assert skip.reason == f"restricted {shown}{told}"
