"""`diagnose()`: each thing that would hurt in production, with its exact cost, and nothing else."""

import pickle
import re
import sys
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, time, timedelta
from types import ModuleType, SimpleNamespace
from typing import Any
from zoneinfo import ZoneInfo

import openai
import pytest
from freezegun import freeze_time
from langchain.chat_models import init_chat_model
from langchain_anthropic import ChatAnthropic
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.rate_limiters import InMemoryRateLimiter
from langchain_openai import ChatOpenAI

from langchain_model_gateway import (
    Finding,
    GatewayRunnable,
    HedgePolicy,
    RedisState,
    RetryPolicy,
)
from langchain_model_gateway.diagnosis import processes
from tests.models import NEVER, ScriptedChatModel, gateway_over, says, who
from tests.test_hedging import Model

DAYS = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
MONDAY = "2026-06-01 00:00"
KEYS = {"weak": "sk-weak-0123456789", "strong": "sk-strong-0123456789"}


def client(endpoint: str = "weak", **fields: Any) -> ChatOpenAI:
    """A real client with an endpoint and a key of its own, that does not retry."""
    settings: dict[str, Any] = {
        "model": "gpt-4o-mini",
        "base_url": f"http://user:hunter2@{endpoint}.test/v1",
        "api_key": KEYS[endpoint],
        "max_retries": 0,
        "timeout": 10,
    }
    return ChatOpenAI(**{**settings, **fields})


def window(start: str, end: str, timezone: str = "UTC", days: Any = None) -> dict[str, Any]:
    return {"start": start, "end": end, "timezone": timezone, "days": days}


def hours(*each: list[Any]) -> GatewayRunnable:
    """A gateway whose deployments have these windows."""
    windows = dict(zip(("weak", "strong", "backup"), each, strict=False))
    return gateway_over(*(says(name) for name in windows), windows=windows)


def profiled(**profile: Any) -> ScriptedChatModel:
    return ScriptedChatModel(profile=profile or None)


def diagnosis(gateway: GatewayRunnable, now: str = MONDAY) -> list[Finding]:
    with freeze_time(now):
        return gateway.diagnose()


def the_finding(gateway: GatewayRunnable, code: str, now: str = MONDAY) -> Finding:
    """The one thing that is found, which tells what it costs and what to do."""
    [finding] = diagnosis(gateway, now)
    assert finding.code == code
    assert finding.message
    assert finding.advice
    return finding


# --- all is well -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "gateway",
    [
        lambda: gateway_over(says("a"), says("b")),
        lambda: gateway_over(says("a"), says("b"), says("c"), retry={}, cooldown={}, timeout=60),
        lambda: hours([("22:00", "06:00")], [("09:00", "17:00")]),
        lambda: gateway_over(client("weak"), client("strong"), retry={}, timeout=60),
        lambda: gateway_over(gateway_over(says("a"), says("b")), says("c")),
    ],
    ids=["plain", "policies", "windows", "clients", "nested"],
)
def test_nothing_is_found_when_all_is_well(gateway: Callable[[], GatewayRunnable]) -> None:
    """A gateway with nothing to mend has an empty list of findings, equal to `[]`."""
    assert diagnosis(gateway()) == []


def test_no_call_is_made() -> None:
    """A check-up asks no model anything."""
    models = [says("a").with_retry(), says("b")]
    diagnosis(gateway_over(*models, retry={}, windows={"weak": NEVER, "strong": NEVER}))
    assert models[0].bound.calls == models[1].calls == []


def test_everything_wrong_is_told_at_once() -> None:
    """Findings of different kinds come together, each once."""
    gateway = gateway_over(
        client(max_retries=2, timeout=30, profile={"max_input_tokens": 9, "tool_calling": True}),
        client(profile={"max_input_tokens": 8, "tool_calling": False}),
        windows={"weak": [("12:00", "12:00"), *NEVER], "strong": [("01:00", "02:00")]},
        retry={},
        timeout=20,
        exceptions_to_handle=(),
    )
    codes = [finding.code for finding in diagnosis(gateway)]
    assert sorted(codes) == [
        *("always-restricted", "client-retries", "deadline-too-short", "no-fallback"),
        *("no-tool-calling", "shared-endpoint", "smaller-context", "timeout-without-cooldown"),
        *("uncovered-time", "window-never-applies"),
    ]


def test_a_single_deployment() -> None:
    """With one deployment, there is no other to fall back to."""
    finding = the_finding(gateway_over(says("a")), "single-deployment")
    assert finding.model_names == ("weak",)


def test_no_exception_falls_back() -> None:
    """With no exception to handle, the first deployment's error is the call's."""
    models = [says("a"), says("b")]
    finding = the_finding(gateway_over(*models, exceptions_to_handle=()), "no-fallback")
    assert finding.model_names == ("weak", "strong")
    assert diagnosis(gateway_over(*models, exceptions_to_handle=(KeyError,))) == []


@pytest.mark.parametrize("derive", ["as_chat_model", "bind_tools", "with_structured_output"])
def test_derived_gateways_are_diagnosed_alike(derive: str) -> None:
    """What hurts a gateway hurts what is derived from it."""
    gateway = gateway_over(client(max_retries=2), client(), retry={})
    schema = {"title": "T", "type": "object", "properties": {}}
    arguments = {"bind_tools": [[]], "with_structured_output": [schema]}
    derived = getattr(gateway, derive)(*arguments.get(derive, []))
    assert diagnosis(derived) == diagnosis(gateway)
    assert len(diagnosis(gateway)) == 2


# --- retries upon retries --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("retries", "attempts", "own", "calls"), [(2, 3, 3, 9), (1, 3, 2, 6), (5, 2, 6, 12)]
)
def test_worst_case_calls(retries: int, attempts: int, own: int, calls: int) -> None:
    """A client's calls and the gateway's attempts multiply."""
    gateway = gateway_over(
        client(max_retries=retries), client("strong"), retry={"max_attempts": attempts}
    )
    finding = the_finding(gateway, "client-retries")
    assert finding.model_names == ("weak",)
    assert f"up to {own} calls for each of the gateway's {attempts} attempts" in finding.message
    assert f": {calls} calls for one question" in finding.message
    assert "max_retries=0" in finding.advice


@pytest.mark.parametrize(
    ("retry", "attempt", "whole", "seconds"),
    [
        ({}, 20, None, "76"),  # 3 attempts of 20 s; a Retry-After is waited out up to max_delay
        ({}, 20, 70, "70"),
        ({}, 20, 1000, "76"),
        ({"max_retry_after": 0, "initial_delay": 2}, 20, None, "66"),  # 2 s and 4 s of backoff
        ({"max_retry_after": 0, "initial_delay": 6}, 20, None, "74"),  # 6 s, and 8 s, not 12 s
        ({"max_retry_after": 3, "initial_delay": 2}, 20, None, "67"),  # the longer of each
        ({"max_attempts": 10}, 200, None, "2,072"),
    ],
)
def test_worst_case_seconds(
    retry: dict[str, Any], attempt: float, whole: float | None, seconds: str
) -> None:
    """The most seconds are all attempts and the longest waits between, within the deadline."""
    weak = {"model_name": "weak", "model": client(max_retries=2), "timeout": attempt}
    strong = {"model_name": "strong", "model": client("strong")}
    finding = the_finding(
        GatewayRunnable(models=[weak, strong], retry=retry, timeout=whole, cooldown={}),
        "client-retries",
    )
    assert f", up to {seconds} s before the next deployment has its turn" in finding.message


@pytest.mark.parametrize("timeout", [10, 10.0, openai.Timeout(10), (5, 10)])
def test_the_clients_own_timeout_counts_for_each_of_its_calls(timeout: Any) -> None:
    """With no limit on the deployment, an attempt is at least all the client's calls run out."""
    gateway = gateway_over(client(max_retries=2, timeout=timeout), client("strong"), retry={})
    message = the_finding(gateway, "client-retries").message
    [seconds] = re.findall(r"up to ([\d,]+) s before", message)
    assert int(seconds.replace(",", "")) == 3 * 3 * 10 + 2 * 8


def test_the_clients_default_retries_count() -> None:
    """A client that was not told how often to retry does so twice."""
    finding = the_finding(
        gateway_over(client(max_retries=None), client("strong"), retry={}), "client-retries"
    )
    assert ": 9 calls for one question" in finding.message


@pytest.mark.parametrize(
    ("model", "calls"),
    [
        (lambda: says("a").with_retry(stop_after_attempt=4), 12),
        (lambda: client(max_retries=2).with_retry(stop_after_attempt=2), 18),
        (lambda: client(max_retries=2).bind(stop=["x"]), 9),
        (lambda: ChatPromptTemplate.from_template("{x}") | client(max_retries=2), 9),
        (lambda: says("a").with_retry(stop_after_attempt=4).with_config(tags=["x"]), 12),
        (
            lambda: (
                ChatPromptTemplate.from_template("{x}") | says("a").with_retry(stop_after_attempt=4)
            ),
            12,
        ),
        (lambda: client(max_retries=2).with_fallbacks([says("c")]), 12),
        (lambda: says("a").with_retry(stop_after_attempt=4).with_fallbacks([says("c")]), 15),
        (lambda: says("a").with_fallbacks([client(max_retries=2)]).with_config(tags=["x"]), 12),
    ],
    ids=[
        *("with_retry", "both", "bound", "chain", "configured with_retry", "with_retry in a chain"),
        *("with_fallbacks", "with_retry in with_fallbacks", "in the fallback"),
    ],
)
def test_retries_are_found_wherever_they_are(model: Callable[[], Any], calls: int) -> None:
    """Retries count inside bindings and chains, and those of `with_retry` multiply too."""
    finding = the_finding(gateway_over(model(), says("b"), retry={}), "client-retries")
    assert f": {calls} calls for one question" in finding.message


def test_fallbacks_within_are_no_retries() -> None:
    """A model with its own fallback asks each once: nothing is multiplied."""
    chain = says("a").with_fallbacks([says("c")])
    assert diagnosis(gateway_over(chain, says("b"), retry={})) == []


def test_one_clients_retries_are_told_once() -> None:
    """A client that several deployments share is one finding about all of them, by the worst."""
    shared = client(max_retries=2)
    again = shared.bind(stop=["x"]).with_retry(stop_after_attempt=2)
    gateway = gateway_over(shared, client("strong"), again, retry={})
    found = [each for each in diagnosis(gateway) if each.code == "client-retries"]
    assert [each.model_names for each in found] == [("weak", "backup")]
    assert ": 18 calls for one question" in found[0].message
    assert found[0].advice == "Leave retrying to the gateway: drop with_retry(), set max_retries=0"


def test_no_seconds_are_told_where_none_are_known() -> None:
    """A model that tells no timeout has a worst case in calls only, unless the call has one."""
    models = says("a").with_retry(), says("b")
    assert " s before" not in the_finding(gateway_over(*models, retry={}), "client-retries").message
    limited = gateway_over(*models, retry={}, timeout=45, cooldown={})
    finding = the_finding(limited, "client-retries")
    assert ", up to 45 s before" in finding.message


@pytest.mark.parametrize("retry", [None, RetryPolicy(max_attempts=1)])
def test_clients_may_retry_where_the_gateway_does_not(retry: RetryPolicy | None) -> None:
    """Retries in one place only do not multiply."""
    assert diagnosis(gateway_over(client(max_retries=2), client("strong"), retry=retry)) == []


# --- a deadline shorter than an attempt ------------------------------------------------------


@pytest.mark.parametrize(
    ("attempt", "whole", "found"), [(10, 10, True), (10.5, 10, True), (9.5, 10, False)]
)
def test_a_deployments_timeout_against_the_deadline(
    attempt: float, whole: float, found: bool
) -> None:
    """An attempt that may use up the whole deadline leaves nothing for the next deployment."""
    models = [{"model_name": n, "model": says(n), "timeout": attempt} for n in ("weak", "strong")]
    findings = diagnosis(GatewayRunnable(models=models, timeout=whole, cooldown={}))
    # The last deployment has nobody after it.
    assert [(f.code, f.model_names) for f in findings] == (
        [("deadline-too-short", ("weak",))] if found else []
    )
    for finding in findings:
        assert f"may take {attempt:g} s, the whole call only {whole:g} s" in finding.message


@pytest.mark.parametrize("timeout", [30, 30.0, openai.Timeout(30), (5, 30)])
def test_a_clients_timeout_against_the_deadline(timeout: Any) -> None:
    """The timeout a client was built with counts as the attempt's, in every form it takes."""
    gateway = gateway_over(client(timeout=timeout), client("strong"), timeout=20, cooldown={})
    finding = the_finding(gateway, "deadline-too-short")
    assert finding.model_names == ("weak",)
    assert "may take 30 s, the whole call only 20 s" in finding.message


def test_a_deployments_timeout_overrules_its_clients() -> None:
    """A client that would wait longer is cut short by its deployment's limit."""
    weak = {"model_name": "weak", "model": client(timeout=300), "timeout": 5}
    strong = {"model_name": "strong", "model": client("strong")}
    assert diagnosis(GatewayRunnable(models=[weak, strong], timeout=20, cooldown={})) == []


def test_a_clients_retries_count_against_the_deadline() -> None:
    """An attempt lasts as long as all the requests its client may make."""
    gateway = gateway_over(client(max_retries=2), client("strong"), timeout=25, cooldown={})
    assert "may take 30 s" in the_finding(gateway, "deadline-too-short").message


def test_a_client_that_waits_for_ever_against_the_deadline() -> None:
    """A client with no timeout of its own uses up any deadline."""
    gateway = gateway_over(client(timeout=None), client("strong"), timeout=60, cooldown={})
    assert "may take for ever" in the_finding(gateway, "deadline-too-short").message


# --- calls that hang -------------------------------------------------------------------------


def test_no_timeout_at_all() -> None:
    """A client that waits for ever is told where neither its deployment nor the call is limited."""
    finding = the_finding(gateway_over(client(timeout=None), client("strong")), "no-timeout")
    assert finding.model_names == ("weak",)


@pytest.mark.parametrize("limit", ["deployment", "call"])
def test_any_timeout_is_one(limit: str) -> None:
    """A limit on the deployment or on the call ends what its client would wait for."""
    weak = {"model_name": "weak", "model": client(timeout=None)}
    strong = {"model_name": "strong", "model": client("strong")}
    whole = {"timeout": 60} if limit == "call" else {}
    weak |= {"timeout": 20} if limit == "deployment" else {}
    codes = {f.code for f in diagnosis(GatewayRunnable(models=[weak, strong], **whole))}
    assert "no-timeout" not in codes


def test_a_timeout_without_a_cooldown() -> None:
    """Where sync calls can be abandoned again and again, a cooldown is recommended."""
    models = [
        {"model_name": "unknown", "model": says("a"), "timeout": 5},
        {"model_name": "longer", "model": client(timeout=30), "timeout": 5},
        {"model_name": "retrying", "model": client("strong", timeout=3, max_retries=1)},
        {
            "model_name": "shorter",
            "model": client("strong", base_url="http://a.test"),
            "timeout": 15,
        },
        {"model_name": "unlimited", "model": says("a")},
    ]
    finding = the_finding(GatewayRunnable(models=models), "timeout-without-cooldown")
    assert finding.model_names == ("unknown", "longer")
    [*findings] = diagnosis(GatewayRunnable(models=models, timeout=5.5))
    assert findings[-1].model_names == ("unknown", "longer", "retrying", "shorter", "unlimited")
    assert diagnosis(GatewayRunnable(models=models, cooldown={})) == []


# --- no real redundancy ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("other", "shared"),
    [
        (client, True),
        (lambda: client(model="gpt-4o", temperature=0), True),
        (lambda: client().bind(stop=["x"]), True),
        (lambda: ChatPromptTemplate.from_template("{x}") | client(), True),
        (lambda: client(api_key=KEYS["strong"]), False),
        (lambda: client(base_url="http://other.test/v1"), False),
        (lambda: client("strong"), False),
        (lambda: says("b"), False),
    ],
)
def test_one_endpoint_and_key(other: Callable[[], Any], shared: bool) -> None:
    """Deployments are no redundancy for each other if endpoint and key are both the same."""
    findings = diagnosis(gateway_over(client(), other()))
    expected = [("shared-endpoint", ("weak", "strong"))] if shared else []
    assert [(finding.code, finding.model_names) for finding in findings] == expected


def test_only_those_that_share_are_named() -> None:
    """A third deployment elsewhere has no part in the finding."""
    finding = the_finding(gateway_over(client(), client("strong"), client()), "shared-endpoint")
    assert finding.model_names == ("weak", "backup")


def test_models_with_no_key_share_nothing() -> None:
    """Models in this process have no endpoint to share."""
    assert diagnosis(gateway_over(says("a"), says("a"))) == []


# --- lesser fallbacks ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "second", "found"),
    [(128_000, 8_192, True), (8_192, 8_191, True), (8_192, 8_192, False), (8_192, 128_000, False)],
)
def test_a_smaller_context_window(first: int, second: int, found: bool) -> None:
    """A fallback with fewer tokens than the first deployment is told with both numbers."""
    gateway = gateway_over(profiled(max_input_tokens=first), profiled(max_input_tokens=second))
    if not found:
        assert diagnosis(gateway) == []
        return
    finding = the_finding(gateway, "smaller-context")
    assert finding.model_names == ("strong",)
    assert f"it takes {second:,} tokens, 'weak' takes {first:,}" in finding.message


@pytest.mark.parametrize(
    ("first", "second", "found"),
    [(True, False, True), (True, True, False), (False, False, False), (False, True, False)],
)
def test_a_fallback_with_no_tools(first: bool, second: bool, found: bool) -> None:
    """A fallback that cannot call tools is told only if the first deployment can."""
    gateway = gateway_over(profiled(tool_calling=first), profiled(tool_calling=second))
    findings = diagnosis(gateway)
    assert [(f.code, f.model_names) for f in findings] == (
        [("no-tool-calling", ("strong",))] if found else []
    )


@pytest.mark.parametrize("profiles", [(0, 1), (1, 0)])
def test_what_no_profile_tells_is_no_finding(profiles: tuple[int, int]) -> None:
    """A model that says nothing of itself is not suspected."""
    models = [profiled(), profiled(max_input_tokens=8, tool_calling=True)]
    assert diagnosis(gateway_over(*(models[each] for each in profiles))) == []


# --- hours -----------------------------------------------------------------------------------


def test_a_window_that_never_applies() -> None:
    """A window of one instant is told with the way to write a whole day."""
    finding = the_finding(
        hours([("9:00", "17:00"), ("12:00", "12:00")], []), "window-never-applies"
    )
    assert finding.model_names == ("weak",)
    assert "12:00-12:00 UTC" in finding.message
    assert "('00:00', '12:00') and ('12:00', '00:00')" in finding.advice


def test_a_deployment_that_is_never_used() -> None:
    """Windows that cover the week are told of the one deployment they shut out."""
    finding = the_finding(hours([("9:00", "17:00")], NEVER, []), "always-restricted")
    assert finding.model_names == ("strong",)


def free_on_sunday(start: str, end: str) -> list[Any]:
    """Windows in Berlin that cover the week but for one stretch of its Sunday."""
    weekdays = [window(*each, "Europe/Berlin", DAYS[:-1]) for each in NEVER]
    halves = [("00:00", start), (end, "00:00")]
    return weekdays + [window(*each, "Europe/Berlin", ["sun"]) for each in halves]


@pytest.mark.parametrize("now", ["2026-06-01", "2026-03-23"])
def test_one_free_hour_a_week_is_some_use(now: str) -> None:
    """A deployment free for an hour is not shut out, even in the week that skips this hour."""
    assert diagnosis(hours(free_on_sunday("02:00", "03:00"), []), now) == []


@pytest.mark.parametrize(
    ("weak", "strong", "minutes", "first"),
    [
        (("22:00", "06:00"), ("05:00", "23:00"), 840, "Mon 05:00 to Mon 06:00"),
        (("09:00", "17:00"), ("16:59", "09:00"), 7, "Mon 16:59 to Mon 17:00"),
        (("23:00", "01:00"), ("23:30", "00:30"), 420, "Sun 23:30 to Mon 00:30"),
        (
            window("22:00", "06:00", days=["fri"]),
            window("00:00", "12:00", days=["sat"]),
            360,
            "Sat 00:00 to Sat 06:00",
        ),
        (
            window("22:00", "06:00", days=["sun"]),
            window("20:00", "10:00", days=["sun"]),
            480,
            "Sun 22:00 to Mon 06:00",
        ),
        (
            window("09:00", "17:00", "Asia/Tokyo"),
            window("00:00", "01:30", "Asia/Kolkata"),
            0,
            None,
        ),
        (
            window("09:00", "17:00", "Asia/Tokyo"),
            window("06:00", "07:45", "Asia/Kolkata"),
            735,
            "Mon 00:30 to Mon 02:15",
        ),
    ],
)
def test_minutes_that_nobody_covers(weak: Any, strong: Any, minutes: int, first: str) -> None:
    """The minutes of the week in which all windows overlap are counted, and the first named."""
    gateway = hours([weak], [strong])
    if not minutes:
        assert diagnosis(gateway) == []
        return
    finding = the_finding(gateway, "uncovered-time")
    assert finding.model_names == ("weak", "strong")
    assert finding.message == (
        f"in the coming week no deployment may be used for {minutes} minutes, "
        f"first from {first} UTC"
    )


def test_a_week_with_nobody_at_all() -> None:
    """Where all are always restricted, the whole week is uncovered, and each of them told."""
    findings = diagnosis(hours(NEVER, NEVER))
    assert [finding.code for finding in findings] == [
        *("uncovered-time", "always-restricted", "always-restricted")
    ]
    assert "may be used for 10080 minutes" in findings[0].message


@pytest.mark.parametrize(
    "windows",
    [
        ([("00:00", "12:00")], [("12:00", "00:00")]),  # only at noon and midnight sharp
        ([("09:00", "17:00")], [("12:00", "12:00")]),
        (NEVER, []),
        (NEVER, None, NEVER),
    ],
)
def test_an_instant_or_a_free_deployment_is_no_gap(windows: Any) -> None:
    """Windows that share an instant leave no minute uncovered, nor does a deployment with none."""
    assert "uncovered-time" not in {finding.code for finding in diagnosis(hours(*windows))}


def test_a_week_that_begins_within_a_gap() -> None:
    """Inside a gap it is told from its beginning, and a week's minutes are those of a week."""
    gateway = hours([("09:00", "17:00")], [("16:00", "18:00")])
    finding = the_finding(gateway, "uncovered-time", "2026-06-01 16:30:59.999999")
    assert "for 420 minutes, first from Mon 16:00 to Mon 17:00 UTC" in finding.message


@pytest.mark.usefixtures("in_nepal")
def test_the_timezone_of_the_machine_does_not_matter() -> None:
    """A gap is counted and told in UTC, wherever the process runs."""
    gateway = hours([("09:00", "17:00")], [window("17:00", "09:00", "Europe/Berlin")])
    message = the_finding(gateway, "uncovered-time", "2026-06-01 16:30").message
    assert message.endswith("for 840 minutes, first from Mon 15:00 to Mon 17:00 UTC")


def test_a_week_in_which_clocks_change() -> None:
    """Days before and after a clock change count by their own hours, and the worst week is told.

    Berlin's 17:00 to 09:00 overlaps UTC's 09:00 to 17:00 for one hour in winter, for two in summer.
    """
    gateway = hours([("09:00", "17:00")], [window("17:00", "09:00", "Europe/Berlin")])
    assert the_finding(gateway, "uncovered-time", "2026-03-23").message == (
        "in the coming week no deployment may be used for 480 minutes, first from Mon 16:00 to "
        "Mon 17:00 UTC; at most 840 in a week, as clocks change, about 2026-03-30 15:00 UTC"
    )


def test_a_gap_that_only_winter_has() -> None:
    """A gap that opens months from now, when clocks change, is found today."""
    gateway = hours([window("22:00", "06:00", "Europe/Berlin")], [("04:00", "20:00")])
    message = the_finding(gateway, "uncovered-time", "2026-06-01").message
    assert "for 0 minutes" in message
    assert "at most 420 in a week, as clocks change, about 2026-10-26 04:00 UTC" in message


@pytest.mark.parametrize(
    ("now", "minutes"), [("2026-10-19", 480), ("2026-03-23", 360), ("2026-06-01", 420)]
)
def test_repeated_and_skipped_hours_count_as_often_as_they_come(now: str, minutes: int) -> None:
    """One hour a night is uncovered: eight times as clocks go back, six as they go forward."""
    gateway = hours(
        [window("02:00", "03:00", "Europe/Berlin")], [window("01:00", "04:00", "Europe/Berlin")]
    )
    assert f"used for {minutes} minutes" in the_finding(gateway, "uncovered-time", now).message


def uncovered(windows: Iterable[list[dict[str, Any]]], start: datetime) -> int:
    """The uncovered minutes of a week, by looking at the clock on the wall in each."""
    minutes = (start + timedelta(minutes=minute, seconds=30) for minute in range(7 * 24 * 60))
    return sum(all(any(inside(w, at) for w in each) for each in windows) for at in minutes)


def inside(each: dict[str, Any], at: datetime) -> bool:
    local = at.astimezone(ZoneInfo(each["timezone"]))
    start, end = (time.fromisoformat(each[key]) for key in ("start", "end"))
    clock, days = local.time(), each["days"] or DAYS
    if start <= end:
        return start <= clock <= end and DAYS[local.weekday()] in days
    return (clock >= start and DAYS[local.weekday()] in days) or (
        clock <= end and DAYS[local.weekday() - 1] in days
    )


@pytest.mark.parametrize("now", ["2026-03-04", "2026-03-27", "2026-10-22"])
@pytest.mark.parametrize(
    "windows",
    [
        (
            [window("22:00", "02:30", "America/New_York")],
            [window("03:00", "07:45", "Europe/Berlin")],
        ),
        (
            [window("01:30", "12:15", "Australia/Lord_Howe", ["sat", "sun"])],
            [window("13:00", "09:00"), window("10:00", "11:00", "Asia/Kathmandu")],
        ),
        (
            [window("02:15", "02:45", "Europe/Berlin", ["sun"])],
            [window("00:00", "03:00"), window("23:00", "05:00", "America/New_York", ["sat"])],
        ),
    ],
)
def test_minutes_are_those_on_the_clocks_of_the_walls(windows: Any, now: str) -> None:
    """Counted minute by minute, in weeks with and without clock changes, the sum is the same."""
    expected = uncovered(windows, datetime.fromisoformat(now).replace(tzinfo=UTC))
    told = re.findall(
        r"used for (\d+) minutes", " ".join(map(str, diagnosis(hours(*windows), now)))
    )
    assert [int(minutes) for minutes in told] in ([expected], [] if expected == 0 else None)


# --- how they show themselves ----------------------------------------------------------------


def test_findings_print_as_a_table() -> None:
    """Each finding prints its code and deployments, what it costs, and what to do."""
    findings = diagnosis(hours([("9:00", "9:00")], []))
    [finding] = findings
    assert str(findings) == (
        f"window-never-applies: weak\n    {finding.message}\n    -> {finding.advice}"
    )
    assert str(finding) == f"window-never-applies (weak): {finding.message}. {finding.advice}."


def test_findings_show_in_a_notebook() -> None:
    """In a notebook they are a table with a row for each, everything escaped."""
    models = [
        {"model_name": "<script>", "model": profiled(max_input_tokens=9, tool_calling=True)},
        {"model_name": "a&b", "model": profiled(max_input_tokens=8, tool_calling=False)},
    ]
    html = diagnosis(GatewayRunnable(models=models))._repr_html_()
    assert html.startswith("<table")
    assert html.count("<tr>") == 3
    assert "smaller-context" in html
    assert "no-tool-calling" in html
    assert "&lt;script&gt;" in html
    assert "a&amp;b" in html
    assert "<script" not in html


def test_nothing_found_says_so() -> None:
    """With nothing to mend, print and notebook say that."""
    nothing = diagnosis(gateway_over(says("a"), says("b")))
    assert str(nothing) == "Nothing found."
    assert "Nothing found." in nothing._repr_html_()


@pytest.mark.parametrize("shown", [str, repr, lambda found: found._repr_html_()])
def test_findings_show_no_keys_or_passwords(shown: Callable[[Any], str]) -> None:
    """What is said of shared keys and endpoints tells neither."""
    gateway = gateway_over(client(max_retries=2), client(), retry={}, timeout=5)
    text = shown(diagnosis(gateway))
    assert "shared" in text
    assert not any(secret in text for secret in (*KEYS.values(), "hunter2"))


@pytest.mark.parametrize("shown", [str, lambda found: str(found[0]), lambda f: f._repr_html_()])
def test_a_name_cannot_forge_a_line(shown: Callable[[Any], str]) -> None:
    """A name with a line break stays on its line, also as part of another's message."""
    models = [
        {"model_name": "weak\nERROR: forged", "model": profiled(max_input_tokens=9)},
        {"model_name": "strong\nERROR: forged", "model": profiled(max_input_tokens=8)},
    ]
    assert "\nERROR" not in shown(diagnosis(GatewayRunnable(models=models)))


# --- traffic ---------------------------------------------------------------------------------


def claude(**fields: Any) -> ChatAnthropic:
    settings: dict[str, Any] = {
        "model": "claude-sonnet-4-5",
        "api_key": "sk-ant",
        "max_retries": 0,
        "timeout": 10,
        "profile": {"tool_calling": True},  # its window is larger than others', which is a finding
    }
    return ChatAnthropic(**{**settings, **fields})


def made(**fields: Any) -> Any:
    """A client as a string in a configuration makes it."""
    key = "sk-made-0123456789"
    return init_chat_model("openai:gpt-4o-mini", api_key=key, max_retries=0, timeout=10, **fields)


def traffic(*entries: Any, **rules: Any) -> GatewayRunnable:
    """A gateway over models, each with its limits; cooldown is on, so that hangs are no finding."""
    names = ("weak", "strong", "backup")
    models = [
        {"model_name": name, **(entry if isinstance(entry, dict) else {"model": entry})}
        for name, entry in zip(names, entries, strict=False)
    ]
    return GatewayRunnable(models=models, **{"cooldown": {}, **rules})


def limited(model: Any, **limits: Any) -> dict[str, Any]:
    return {"model": model, **limits}


LIMITER = InMemoryRateLimiter(requests_per_second=0.5)


@pytest.fixture(autouse=True)
def one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """No sign of other processes."""
    for name in ("WEB_CONCURRENCY", "SERVER_SOFTWARE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(processes, "multiprocessing", SimpleNamespace(parent_process=lambda: None))


@pytest.mark.parametrize("model", [client, claude, made], ids=["openai", "anthropic", "by name"])
def test_settings_for_traffic_can_be_all_well(model: Callable[..., Any]) -> None:
    """Balance, limits, waits and hedges that fit are no finding, on every real client."""
    gateway = traffic(
        limited(model(stream_usage=True), rpm=60, tpm=9000, max_concurrency=4, timeout=20),
        limited(client("strong", stream_usage=True), rpm=60, tpm=9000, timeout=20),
        balance="fastest",
        hedge=HedgePolicy(),
        max_wait=10,
        timeout=60,
    )
    assert diagnosis(gateway) == []


@pytest.mark.parametrize("model", [client, claude, made], ids=["openai", "anthropic", "by name"])
def test_a_clients_own_rate_limiter(
    model: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A limiter inside a client is told with its pace, and that it does not travel."""
    gateway = traffic(model(rate_limiter=LIMITER).bind(stop=["x"]), client("strong"))
    findings = {each.code: each for each in diagnosis(gateway)}
    assert findings.keys() == {"client-rate-limiter", "rate-limiter-not-pickled"}
    assert "sleeps inside the attempt 2 s for each request" in (
        findings["client-rate-limiter"].message
    )
    assert findings["client-rate-limiter"].advice.endswith("give the deployment rpm=30")
    assert {each.model_names for each in findings.values()} == {("weak",)}
    monkeypatch.setenv("OPENAI_API_KEY", "sk-none")
    travelled = pickle.loads(pickle.dumps(traffic(made(rate_limiter=LIMITER), made())))
    assert travelled.models[0].model.rate_limiter is None


@pytest.mark.parametrize(
    ("model", "found"),
    [
        (lambda: client(stream_usage=False), True),
        (client, True),  # at an address of its own, langchain-openai leaves usage out
        (lambda: client(stream_usage=True), False),
        (lambda: client(stream_usage=False).bind(stream_usage=True), False),
        (lambda: client().bind(stream_options={"include_usage": True}), False),
        (lambda: client(model_kwargs={"stream_options": {"include_usage": True}}), False),
        (lambda: client(stream_usage=True).bind(stream_usage=False), True),
        (lambda: client(use_responses_api=True), False),
        (claude, False),
        (lambda: claude(stream_usage=False), True),
        (made, False),
        (lambda: says("a"), False),
    ],
)
def test_tokens_that_no_stream_tells(model: Callable[[], Any], found: bool) -> None:
    """A token limit on a client that leaves usage out of streams is told."""
    for limit in ({"tpm": 9000}, {"rpm": 60}):
        findings = diagnosis(traffic(limited(model(), **limit), client("strong")))
        is_expected = found and "tpm" in limit
        assert [f.code for f in findings] == (["tokens-not-told"] if is_expected else [])
    for finding in findings:
        assert "9,000 tokens a minute" in finding.message


@pytest.mark.parametrize(
    ("limits", "rules", "found"),
    [
        ({"max_concurrency": 4}, {}, True),
        ({"max_concurrency": 4}, {"max_wait": 0}, False),
        ({"max_concurrency": 4}, {"timeout": 60}, False),
        ({"rpm": 4}, {}, False),
    ],
)
def test_waits_without_an_end(limits: Any, rules: Any, found: bool) -> None:
    """Places that calls wait for as long as it takes are told, unless anything ends the wait."""
    gateway = traffic(limited(client(), **limits), client("strong"), **rules)
    assert [f.code for f in diagnosis(gateway)] == (["unbounded-wait"] if found else [])
    for finding in diagnosis(gateway):
        assert "with 4 attempts under way" in finding.message


@pytest.mark.parametrize(
    ("delay", "limits", "rules", "found"),
    [
        (5, {"timeout": 5}, {}, True),
        (4.9, {"timeout": 5}, {}, False),
        (10, {}, {}, True),  # the client's own timeout
        (9, {}, {}, False),
        (8, {"timeout": 9}, {"timeout": 8}, True),
    ],
)
def test_a_hedge_that_comes_too_late(delay: float, limits: Any, rules: Any, found: bool) -> None:
    """A hedge not before the end of an attempt, whatever ends it, is told with both numbers."""
    hedge = HedgePolicy(delay=delay)
    gateway = traffic(limited(client(), **limits), says("b"), hedge=hedge, **rules)
    codes = [f for f in diagnosis(gateway) if f.code == "hedge-too-late"]
    assert ("weak",) in [f.model_names for f in codes] if found else codes == []
    for finding in codes:
        assert f"after {delay:g} s" in finding.message


@pytest.mark.parametrize(
    ("least_delay", "told", "is_hedged"),
    [(0.01, "not hedged before its usual latency is known", True), (1, "never hedged", False)],
)
def test_what_a_late_hedge_costs_is_told_as_it_is(
    least_delay: float, told: str, is_hedged: bool
) -> None:
    """A known latency brings a late hedge forward, but not below its least delay; so it is told."""
    slow, hedge = Model("slow"), HedgePolicy(delay=60, least_delay=least_delay)
    entries = [limited(slow, timeout=0.5), limited(Model("quick"), timeout=0.5)]
    gateway = traffic(*entries, hedge=hedge)
    messages = [f.message for f in diagnosis(gateway) if f.code == "hedge-too-late"]
    assert len(messages) == 2
    assert all(told in message for message in messages)
    gateway.invoke("hi")
    slow.go.clear()
    try:
        answer = gateway.invoke("hi")
    finally:
        slow.go.set()
    assert who(answer) == "strong"
    stamp = answer.response_metadata["gateway"]
    assert (stamp.get("hedged"), len(stamp["failed"])) == (
        (["weak"], 0) if is_hedged else (None, 1)
    )


@pytest.mark.parametrize(
    ("entries", "windows", "rules", "found"),
    [
        (1, (), {}, True),
        (2, (), {"model_fallback": False}, True),
        (2, (), {}, False),
        (2, ([], NEVER), {}, True),
        (2, ([("06:00", "18:00")], [("18:00", "06:00")]), {}, True),
        (2, ([("06:00", "18:00")], [("18:00", "05:59")]), {}, False),
        (3, ([], NEVER, []), {}, False),
    ],
)
def test_a_hedge_with_nobody_to_ask(entries: int, windows: Any, rules: Any, found: bool) -> None:
    """A hedge is of no use where no two deployments may be used at the same time."""
    each = [limited(says("a"), time_constraints=w) for w in (*windows, *[None] * 3)][:entries]
    findings = diagnosis(traffic(*each, hedge=HedgePolicy(), **rules))
    assert ("hedge-has-no-second" in {f.code for f in findings}) is found
    without = diagnosis(traffic(*each, **rules))
    assert "hedge-has-no-second" not in {f.code for f in without}


@pytest.mark.parametrize(
    ("tiers", "found"), [((0, 1), True), ((0, 0), False), ((0, 1, 1), False), ((0,), True)]
)
def test_a_balance_with_nobody_to_share(tiers: Any, found: bool) -> None:
    """A balance is told as of no effect where each tier has one deployment."""
    gateway = traffic(*(limited(says("a"), tier=t) for t in tiers), balance="weighted")
    assert ("balance-has-no-effect" in {f.code for f in diagnosis(gateway)}) is found
    plain = traffic(*(limited(says("a"), tier=t) for t in tiers))
    assert "balance-has-no-effect" not in {f.code for f in diagnosis(plain)}


@pytest.mark.parametrize(
    ("first", "second", "other", "found"),
    [
        ({"rpm": 60}, {"rpm": 40}, client, "100 requests"),
        ({"tpm": 6000}, {"tpm": 4000}, client, "10,000 tokens"),
        ({"rpm": 60}, {}, client, None),
        ({"rpm": 60}, {"tpm": 4000}, client, None),
        ({"rpm": 60}, {"rpm": 40}, lambda **f: client("strong", **f), None),
        ({"rpm": 60}, {"rpm": 40}, lambda **f: client(model="gpt-4o", **f), None),
    ],
)
def test_limits_that_the_provider_counts_together(
    first: Any, second: Any, other: Any, found: str | None
) -> None:
    """Two limits for one model, endpoint and key allow their sum, which is told."""
    gateway = traffic(
        limited(client(stream_usage=True), **first), limited(other(stream_usage=True), **second)
    )
    told = [f for f in diagnosis(gateway) if f.code == "separate-limits-on-one-key"]
    assert [f.model_names for f in told] == ([("weak", "strong")] if found else [])
    for finding in told:
        assert f"allow {found} a minute in all" in finding.message
        assert KEYS["weak"] not in str(finding)


SEARCHES = [
    ({"type": "web_search"}, "web_search"),
    ({"type": "web_search_20250305", "name": "web_search"}, "web_search"),
    ({"type": "code_interpreter", "container": {"type": "auto"}}, "code_interpreter"),
    ({"google_search": {}}, "google_search"),
]


@pytest.mark.parametrize(("tool", "name"), SEARCHES)
def test_a_hedge_runs_a_providers_tools_twice(tool: Any, name: str) -> None:
    """Tools that run at the provider are told with the share of calls that may run them twice."""
    hedge = HedgePolicy(budget=0.1)
    models = client().bind(tools=[tool]), says("b")
    finding = the_finding(traffic(*models, hedge=hedge), "hedge-with-server-tools")
    assert f"runs {name} itself: up to 0.1 of all calls" in finding.message
    assert diagnosis(traffic(*models)) == []


MCP = [{"type": "url", "url": "https://mcp.example.test", "name": "tickets"}]


@pytest.mark.parametrize(
    ("model", "name"),
    [
        (lambda: claude(mcp_servers=MCP), "mcp"),
        (lambda: claude().bind(mcp_servers=MCP), "mcp"),
        (lambda: client(model_kwargs={"tools": [{"type": "web_search"}]}), "web_search"),
        (lambda: client().bind(web_search_options={}), "web_search"),
        (lambda: traffic(client().bind(tools=[{"type": "mcp"}]), claude()), "mcp"),
        (lambda: claude(mcp_servers=[]), None),
        (lambda: client(model_kwargs={"tools": []}), None),
        (lambda: traffic(client(), claude()), None),
    ],
)
def test_a_providers_tools_count_wherever_they_are_set(
    model: Callable[[], Any], name: str | None
) -> None:
    """Tools of the provider's are told on the model, in its keywords and in a gateway inside."""
    found = diagnosis(traffic(model(), says("b"), hedge=HedgePolicy()))
    told = [f.message for f in found if f.code == "hedge-with-server-tools"]
    assert len(told) == (0 if name is None else 1)
    assert all(f"provider runs {name} itself" in message for message in told)


@pytest.mark.parametrize("model", [client, claude, made], ids=["openai", "anthropic", "by name"])
def test_a_callers_own_tools_may_be_hedged(model: Callable[..., Any]) -> None:
    """Functions that the caller runs are asked for twice and run once: no finding."""

    def add(a: int, b: int) -> int:
        """Add."""
        return a + b

    gateway = traffic(model(), client("strong"), hedge=HedgePolicy()).bind_tools([add])
    assert diagnosis(gateway) == []
    assert diagnosis(traffic(claude().bind_tools([add]), says("b"), hedge=HedgePolicy())) == []


@pytest.mark.parametrize(
    ("sign", "told"),
    [
        ({"WEB_CONCURRENCY": "4"}, "WEB_CONCURRENCY is 4, and each process"),
        ({"WEB_CONCURRENCY": "1"}, None),
        ({"WEB_CONCURRENCY": "many"}, None),
        ({"SERVER_SOFTWARE": "gunicorn/23.0.0"}, "a worker of gunicorn"),
        ({}, None),
    ],
)
@pytest.mark.parametrize("limit", ["rpm", "tpm", "max_concurrency"])
def test_limits_of_each_process(
    sign: dict[str, str], told: str | None, limit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where several processes are likely, limits that each keeps for itself are told."""
    for name, value in sign.items():
        monkeypatch.setenv(name, value)
    models = limited(client(stream_usage=True), **{limit: 60}), client("strong")
    gateway = traffic(*models, max_wait=5)
    if told is None:
        assert diagnosis(gateway) == []
        return
    finding = the_finding(gateway, "limits-per-process")
    assert finding.model_names == ("weak",)
    assert told in finding.message
    assert ("up to 4 times" in finding.message) is ("4" in sign.values())
    assert diagnosis(traffic(client(), client("strong"))) == []


def test_limits_that_are_shared_are_no_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a state that processes share, their number does not matter."""
    monkeypatch.setenv("WEB_CONCURRENCY", "4")
    state = RedisState("redis://127.0.0.1:9/0")
    gateway = traffic(limited(client(), rpm=60), client("strong"), state=state)
    assert diagnosis(gateway) == []


@pytest.mark.parametrize("worker", ["ray", "pool"])
def test_a_worker_process_is_one_of_several(worker: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker of Ray, and a process that another has started, are not alone."""
    if worker == "ray":
        monkeypatch.setitem(sys.modules, "ray", ModuleType("ray"))
        monkeypatch.setattr(sys, "argv", ["/site-packages/ray/_private/workers/default_worker.py"])
    else:
        parent = SimpleNamespace(parent_process=object)
        monkeypatch.setattr(processes, "multiprocessing", parent)
    finding = the_finding(
        traffic(limited(client(), rpm=60), client("strong")), "limits-per-process"
    )
    assert "several times as much" in finding.message
