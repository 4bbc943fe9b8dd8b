"""Retries, cooldowns, deadlines and rejected answers: each by itself, and all together."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from email.utils import format_datetime
from typing import Any

import httpx
import pytest
from langchain_core.exceptions import ModelAPIError, ModelInvalidRequestError, ModelTimeoutError
from langchain_core.load import dumpd
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.runnables import Runnable
from langchain_openai import ChatOpenAI
from pydantic import ValidationError

from langchain_model_gateway import (
    AllModelsFailedError,
    CooldownPolicy,
    GatewayRunnable,
    ModelDeployment,
    RetryPolicy,
)
from tests.models import NEVER, ScriptedChatModel
from tests.schedules import ServerError
from tests.virtual_time import NOON, VirtualClock, VirtualGuards, jitter, rehearsed

BUSY = ServerError(503, None)
FORMS = ["invoke", "ainvoke", "stream", "astream"]


class Model(Runnable[Any, Any]):
    """Gives its replies in turn, the last for ever; a number among them is time that passes."""

    def __init__(self, clock: VirtualClock, *replies: Any) -> None:
        self.clock, self.replies, self.asked = clock, list(replies), 0
        self.asked_at: list[float] = []

    def _next(self) -> list[Any]:
        reply = self.replies[min(self.asked, len(self.replies) - 1)]
        self.asked += 1
        self.asked_at.append(self.clock.time)
        return reply if isinstance(reply, list) else [reply]

    def _parts(self) -> Iterator[Any]:
        for part in self._next():
            if isinstance(part, (int, float)):
                self.clock.spend(part)
            elif isinstance(part, Exception):
                raise part
            else:
                yield part if isinstance(part, AIMessageChunk) else AIMessageChunk(part)

    def invoke(self, input: Any, config: Any = None, **kwargs: Any) -> AIMessage:
        whole = None
        for part in self._parts():
            whole = part if whole is None else whole + part
        assert whole is not None
        return AIMessage(
            **whole.model_dump(include={"content", "response_metadata", "additional_kwargs"})
        )

    async def ainvoke(self, input: Any, config: Any = None, **kwargs: Any) -> AIMessage:
        return self.invoke(input)

    def stream(self, input: Any, config: Any = None, **kwargs: Any) -> Iterator[Any]:
        yield from self._parts()

    async def astream(self, input: Any, config: Any = None, **kwargs: Any) -> Any:
        for part in self._parts():
            yield part


class Drill:
    """A gateway over deployments "a", "b", ... on a virtual clock, called in one of four forms."""

    def __init__(self, form: str) -> None:
        self.form, self.clock = form, VirtualClock()

    def over(self, *replies: Any, limits: dict[str, Any] | None = None, **rules: Any) -> "Drill":
        self.models = [
            Model(self.clock, *(each if isinstance(each, tuple) else (each,))) for each in replies
        ]
        gateway = GatewayRunnable(
            models=[
                {"model_name": name, "model": model, **(limits or {} if name == "a" else {})}
                for name, model in zip("abc", self.models, strict=False)
            ],
            **rules,
        )
        self.gateway = rehearsed(gateway, self.clock)
        return self

    def call(self, on_chunk: Callable[[], None] = lambda: None) -> str:
        """The answer's text; raises what the call raises."""
        return "".join(chunk.content for chunk in asyncio.run(self._chunks(on_chunk)))

    async def _chunks(self, on_chunk: Callable[[], None]) -> list[Any]:
        chunks = []
        match self.form:
            case "invoke":
                chunks.append(self.gateway.invoke("?"))
            case "ainvoke":
                chunks.append(await self.gateway.ainvoke("?"))
            case "stream":
                for chunk in self.gateway.stream("?"):
                    chunks.append(chunk)
                    on_chunk()
            case _:
                async for chunk in self.gateway.astream("?"):
                    chunks.append(chunk)
                    on_chunk()
        return chunks

    @property
    def asked(self) -> list[int]:
        return [model.asked for model in self.models]


@pytest.fixture(params=FORMS)
def drill(request: pytest.FixtureRequest) -> Drill:
    return Drill(request.param)


@pytest.fixture(params=["stream", "astream"])
def stream_drill(request: pytest.FixtureRequest) -> Drill:
    return Drill(request.param)


# --- as data ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "values"),
    [
        (RetryPolicy, [3, 0.5, 8.0, 30.0]),
        (CooldownPolicy, [3, 60.0, 30.0, 300.0]),
    ],
)
def test_policies_have_the_defaults_of_the_contract(policy: Any, values: list[Any]) -> None:
    """Somebody's production relies on them."""
    assert list(policy().model_dump().values()) == values


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: RetryPolicy(max_attempts=0),
        lambda: RetryPolicy(max_attempts=2.5),
        lambda: RetryPolicy(initial_delay=0),
        lambda: RetryPolicy(initial_delay=-1),
        lambda: RetryPolicy(max_delay=float("inf")),
        lambda: RetryPolicy(max_delay=float("nan")),
        lambda: RetryPolicy(max_retry_after=-1),
        lambda: RetryPolicy(max_retries=3),
        lambda: CooldownPolicy(failure_threshold=0),
        lambda: CooldownPolicy(window=0),
        lambda: CooldownPolicy(duration=-1),
        lambda: CooldownPolicy(duration=60, max_duration=59),
        lambda: CooldownPolicy(threshold=3),
    ],
)
def test_a_policy_refuses_what_makes_no_sense(wrong: Callable[[], Any]) -> None:
    """At construction, not at three in the morning."""
    with pytest.raises(ValidationError):
        wrong()


@pytest.mark.parametrize("field", ["timeout", "stall_timeout"])
@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), "soon"])
def test_a_deployment_refuses_a_senseless_limit(field: str, value: Any) -> None:
    """No time at all, or endless time, is no limit."""
    with pytest.raises(ValidationError, match=field):
        ModelDeployment(model_name="a", model=ScriptedChatModel(), **{field: value})


@pytest.mark.parametrize(
    "rules",
    [
        {"timeout": 0},
        {"timeout": -1},
        {"timeout": float("nan")},
        {"reject": ("sad",)},
        {"reject": 3},
        {"reject": ("empty", None)},
        {"retry": 3},
        {"cooldown": {"duration": 0}},
    ],
)
def test_a_gateway_refuses_senseless_rules(rules: dict[str, Any]) -> None:
    """The error names the field."""
    with pytest.raises(ValidationError, match=next(iter(rules))):
        GatewayRunnable(models=_two(), **rules)


@pytest.mark.parametrize("policy", [RetryPolicy(), CooldownPolicy()])
def test_policies_are_frozen(policy: Any) -> None:
    """One that calls share cannot change under them."""
    with pytest.raises(ValidationError, match="frozen"):
        policy.max_attempts = 5


def test_every_rule_survives_serialization() -> None:
    """And plain data are what they are written as."""
    first = ModelDeployment(model_name="a", model=_serializable(), timeout=2.5, stall_timeout=1.5)
    gateway = GatewayRunnable(
        models=[first, {"model_name": "b", "model": _serializable()}],
        retry=RetryPolicy(max_attempts=5, max_retry_after=0),
        cooldown=CooldownPolicy(duration=7, max_duration=70),
        timeout=20,
        reject=("truncated", "empty"),
    )
    data = dumpd(gateway)
    assert "not_implemented" not in str(data)
    loaded = GatewayRunnable.from_serialized(
        data, allowed_objects=[ChatOpenAI], secrets_map={"OPENAI_API_KEY": "k"}
    )
    assert loaded == gateway
    assert loaded.retry == gateway.retry
    assert loaded.cooldown == gateway.cooldown
    assert (loaded.timeout, loaded.reject) == (20.0, {"truncated", "empty"})
    assert (loaded["a"].timeout, loaded["a"].stall_timeout) == (2.5, 1.5)


# --- retries ----------------------------------------------------------------------------------


def test_a_retryable_error_is_retried_on_the_same_deployment(drill: Drill) -> None:
    """With waits drawn below 0.5 s, then 1 s."""
    drill.over((BUSY, BUSY, "a!"), "b!", retry=RetryPolicy())
    assert drill.call() == "a!"
    first = 0.5 * jitter(0)
    assert drill.clock.waits == [first, 1.0 * jitter(first)]


def test_backoff_doubles_up_to_max_delay(drill: Drill) -> None:
    """With all the chance there is, the waits are the bounds themselves."""
    drill.clock.uniform = lambda _, high: high  # type: ignore[method-assign]
    drill.over(BUSY, "b!", retry=RetryPolicy(max_attempts=7))
    assert drill.call() == "b!"
    assert drill.clock.waits == [0.5, 1, 2, 4, 8, 8]
    assert drill.asked == [7, 1]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 422])
def test_an_error_that_no_retry_can_help_goes_to_the_next(drill: Drill, status: int) -> None:
    """At once."""
    drill.over(ServerError(status, None), "b!", retry=RetryPolicy())
    assert drill.call() == "b!"
    assert drill.asked == [1, 1]
    assert drill.clock.waits == []


@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503, 504, 529, 599])
def test_every_passing_status_is_retried(drill: Drill, status: int) -> None:
    """The set that the OpenAI and Anthropic clients retry."""
    drill.over((ServerError(status, None), "a!"), retry=RetryPolicy())
    assert drill.call() == "a!"


@pytest.mark.parametrize(
    ("told", "wait"),
    [
        ("7", 7.0),
        ("7.25", 7.25),
        (" 7 ", 7.0),
        (format_datetime(NOON + timedelta(seconds=9), usegmt=True), 9.0),
        ("30", 30.0),
    ],
)
def test_retry_after_is_the_least_wait(drill: Drill, told: str, wait: float) -> None:
    """In seconds or as a date; with nobody else to ask, up to `max_retry_after` itself."""
    drill.over((ServerError(429, told), "a!"), retry=RetryPolicy())
    assert drill.call() == "a!"
    assert drill.clock.waits == [wait]


def test_a_retry_after_below_the_backoff_does_not_shorten_it(drill: Drill) -> None:
    """It is the least wait, not the wait."""
    drill.clock.uniform = lambda _, high: high  # type: ignore[method-assign]
    drill.over((ServerError(429, "0.125"), "a!"), retry=RetryPolicy())
    assert drill.call() == "a!"
    assert drill.clock.waits == [0.5]


@pytest.mark.parametrize(
    "told",
    ["30.015625", "100", format_datetime(NOON + timedelta(seconds=31), usegmt=True)],
)
def test_a_long_retry_after_goes_to_the_next_at_once(drill: Drill, told: str) -> None:
    """Nobody sleeps 200 seconds in front of a healthy fallback."""
    drill.over(ServerError(429, told), "b!", retry=RetryPolicy())
    assert drill.call() == "b!"
    assert drill.clock.waits == []
    assert drill.asked == [1, 1]


@pytest.mark.parametrize(
    "nonsense",
    [
        "nan",
        "inf",
        "-inf",
        "-1",
        "",
        "soon",
        "9" * 5000,
        "-" + "9" * 5000,
        "1e999",
        "☃",
        "Mon, 99 Foo 2026 99:99:99 GMT",
        "Thu, 01 Jan 99999 00:00:00 GMT",
        b"7",
        [],
        {},
        True,
    ],
)
def test_a_nonsense_retry_after_is_as_if_absent(drill: Drill, nonsense: Any) -> None:
    """Whatever a server, or a proxy before it, makes up."""
    drill.over((ServerError(429, nonsense), "a!"), retry=RetryPolicy())
    assert drill.call() == "a!"
    assert drill.clock.waits == [0.5 * jitter(0)]


def test_a_retry_after_longer_than_the_time_left_goes_to_the_next(drill: Drill) -> None:
    """So does one that would use up all of it."""
    for told, waits in (("3.984375", [3.984375]), ("4", []), ("5", [])):
        drill.clock.waits = []
        drill.over((ServerError(429, told), "a!"), "b!", retry=RetryPolicy(), timeout=4)
        assert drill.call() == ("a!" if waits else "b!")
        assert drill.clock.waits == waits


def test_a_wait_that_would_end_inside_a_window_is_not_begun(drill: Drill) -> None:
    """No attempt ever starts inside its deployment's window, and nobody waits for one in vain."""
    drill.over(
        (ServerError(503, "2"), "a!"),
        "b!",
        retry=RetryPolicy(),
        limits={"time_constraints": [("12:01", "12:02")]},
    )
    drill.clock.spend(58)
    assert drill.call() == "b!"
    assert drill.clock.waits == []
    assert drill.asked == [1, 1]


# --- cooldowns --------------------------------------------------------------------------------


def test_a_deployment_that_keeps_failing_rests_until_a_probe_succeeds(drill: Drill) -> None:
    """Three failures in a row, thirty seconds, one probe; then all is as before."""
    drill.over((BUSY, BUSY, BUSY, "a!", BUSY, "a!"), "b!", cooldown=CooldownPolicy())
    assert [drill.call() for _ in range(4)] == ["b!"] * 4
    assert drill.asked == [3, 4]
    drill.clock.spend(30 - 1 / 64)
    assert drill.call() == "b!"
    assert drill.asked[0] == 3
    drill.clock.spend(1 / 64)
    assert drill.call() == "a!"
    assert drill.call() == "b!", "the failure after it is a first one"
    assert drill.call() == "a!"


def test_a_cooldown_is_told_when_it_starts_and_when_it_ends(
    drill: Drill, caplog: pytest.LogCaptureFixture
) -> None:
    """One WARNING and one INFO, whatever else is logged; a failed probe starts it anew."""
    caplog.set_level("INFO", "langchain_model_gateway")
    drill.over((BUSY, BUSY, "a!"), "b!", cooldown=CooldownPolicy(failure_threshold=1))
    for pause in (0, 0, 30, 0, 60, 0):
        drill.clock.spend(pause)
        drill.call()
    told = [(record.levelname, record.message) for record in caplog.records]
    assert told == [
        ("WARNING", "a is in cooldown for 30 s"),
        ("WARNING", "a is in cooldown for 60 s"),
        ("INFO", "a answers again: its cooldown has ended"),
    ]


def test_failures_count_in_a_row_only(drill: Drill) -> None:
    """A success in between begins the count anew."""
    drill.over((BUSY, BUSY, "a!"), "b!", cooldown=CooldownPolicy())
    assert [drill.call() for _ in range(3)] == ["b!", "b!", "a!"]
    drill.models[0].replies = [BUSY]
    assert [drill.call() for _ in range(2)] == ["b!"] * 2
    assert drill.gateway.explain().order == ("a", "b")
    drill.call()
    assert drill.gateway.explain().order == ("b", "a")


@pytest.mark.parametrize(("apart", "cools"), [(30.0, True), (30 + 1 / 64, False)])
def test_failures_count_within_the_window(drill: Drill, apart: float, cools: bool) -> None:
    """The first and the third lie 60 seconds apart, or a little more."""
    drill.over(BUSY, "b!", cooldown=CooldownPolicy())
    for _ in range(3):
        drill.call()
        drill.clock.spend(apart)
    drill.call()
    assert drill.asked[0] == (3 if cools and apart > 30 else 4)


@pytest.mark.parametrize(("last", "cools"), [(60.0, True), (60 + 1 / 64, False)])
def test_the_window_is_inclusive(drill: Drill, last: float, cools: bool) -> None:
    """To the clock's tick."""
    drill.over(BUSY, "b!", cooldown=CooldownPolicy(failure_threshold=2))
    drill.call()
    drill.clock.spend(last)
    drill.call()
    assert (drill.gateway.explain().order == ("b", "a")) is cools


@pytest.mark.parametrize(
    ("duration", "cooldowns"), [(30, (30, 60, 120, 240, 300, 300)), (1 / 4, (1 / 4, 1 / 2, 1))]
)
def test_each_failed_probe_doubles_the_rest_up_to_a_limit(
    drill: Drill, duration: float, cooldowns: tuple[float, ...]
) -> None:
    """From `duration` on, however short."""
    drill.over(BUSY, "b!", cooldown=CooldownPolicy(failure_threshold=1, duration=duration))
    for seconds in cooldowns:
        drill.call()
        (deferred,) = drill.gateway.explain().deferred
        assert deferred.until == drill.clock.now() + timedelta(seconds=seconds)
        drill.clock.spend(seconds)


@pytest.mark.parametrize(("told", "seconds"), [("2", 2), ("100", 100), ("4000", 300), ("nan", 30)])
def test_the_server_says_how_long_a_cooldown_is(drill: Drill, told: str, seconds: float) -> None:
    """Up to `max_duration`."""
    drill.over(ServerError(429, told), "b!", cooldown=CooldownPolicy(failure_threshold=1))
    drill.call()
    (deferred,) = drill.gateway.explain().deferred
    assert deferred.until == drill.clock.now() + timedelta(seconds=seconds)


@pytest.mark.parametrize(("told", "seconds"), [("10", 60), ("100", 100), ("4000", 300)])
def test_a_server_may_ask_for_more_than_the_doubled_rest(
    drill: Drill, told: str, seconds: float
) -> None:
    """Of the two the longer counts after a failed probe, up to `max_duration`."""
    dead = (BUSY, ServerError(429, told))
    drill.over(dead, "b!", cooldown=CooldownPolicy(failure_threshold=1))
    drill.call()
    drill.clock.spend(30)
    drill.call()
    (deferred,) = drill.gateway.explain().deferred
    assert deferred.until == drill.clock.now() + timedelta(seconds=seconds)


def test_a_retry_after_of_zero_does_not_undo_the_cooldown(drill: Drill) -> None:
    """A dead server that says so is asked now and then, not by every call for ever."""
    drill.over(ServerError(503, "0"), "b!", cooldown=CooldownPolicy(failure_threshold=1))
    for _ in range(100):
        drill.call()
        drill.clock.spend(1)
    assert drill.asked[0] < 20


@pytest.mark.parametrize(
    "fault",
    [
        ServerError(400, None),
        ServerError(413, None),
        ServerError(422, None),
        ModelInvalidRequestError("no"),
    ],
)
def test_a_requests_own_fault_never_sends_anybody_to_rest(drill: Drill, fault: Exception) -> None:
    """One user's bad prompt must not take the model from the others."""
    drill.over(fault, "b!", cooldown=CooldownPolicy(failure_threshold=1))
    for _ in range(5):
        assert drill.call() == "b!"
    assert drill.asked == [5, 5]


@pytest.mark.parametrize("status", [401, 402, 403, 404])
def test_a_matter_of_the_account_starts_the_cooldown_at_once(drill: Drill, status: int) -> None:
    """Neither a retry nor the next call can mend a key; and it is not retried."""
    drill.over(ServerError(status, None), "b!", retry=RetryPolicy(), cooldown=CooldownPolicy())
    for _ in range(5):
        assert drill.call() == "b!"
    assert drill.asked == [1, 5]


@pytest.mark.parametrize("mistake", [TypeError, ValueError, KeyError, IndexError, AttributeError])
def test_a_callers_own_mistake_says_nothing_of_a_deployment(
    drill: Drill, mistake: type[Exception]
) -> None:
    """What is wrong with the call is wrong at every deployment."""
    drill.over(mistake("oops"), "b!", cooldown=CooldownPolicy(failure_threshold=1))
    for _ in range(5):
        assert drill.call() == "b!"
    assert drill.asked == [5, 5]


@pytest.mark.parametrize(("least", "asked", "waits"), [("8", 2, [8.0]), ("8.5", 1, [])])
def test_nobody_waits_long_while_another_is_free(
    drill: Drill, least: str, asked: int, waits: list[float]
) -> None:
    """A `Retry-After` above `max_delay` goes to the next deployment if that may be asked now."""
    drill.over((ServerError(429, least), "a!"), "b!", retry=RetryPolicy(max_delay=8.0))
    assert drill.call() == ("a!" if asked == 2 else "b!")
    assert (drill.asked[0], drill.clock.waits) == (asked, waits)


def test_a_deployment_that_may_not_be_asked_is_no_reason_to_go_on(drill: Drill) -> None:
    """A long `Retry-After` is waited out where the others are restricted or in cooldown."""
    busy = (ServerError(429, "20"), "b!")
    drill.over("a!", busy, limits={"time_constraints": NEVER}, retry=RetryPolicy())
    drill.gateway = drill.gateway.prefer("b")
    assert drill.call() == "b!"
    assert drill.clock.waits == [20.0]


def test_the_calls_own_deadline_says_nothing_of_a_deployment(drill: Drill) -> None:
    """Who is cut short before its own timeout has not failed by itself."""
    once = CooldownPolicy(failure_threshold=1)
    drill.over([100, "a!"], "b!", limits={"timeout": 5.0}, cooldown=once, timeout=4.0)
    for _ in range(3):
        with pytest.raises(AllModelsFailedError):
            drill.call()
    assert not drill.gateway.explain().deferred


def test_its_own_timeout_counts_beside_a_later_deadline(drill: Drill) -> None:
    """And a deadline at the very same moment takes nothing from it."""
    once = CooldownPolicy(failure_threshold=1)
    drill.over([100, "a!"], "b!", limits={"timeout": 4.0}, cooldown=once, timeout=4.0)
    with pytest.raises(AllModelsFailedError):
        drill.call()
    assert [each.model_name for each in drill.gateway.explain().deferred] == ["a"]


@pytest.mark.parametrize("status", [429, 500])
def test_every_other_failure_counts(drill: Drill, status: int) -> None:
    """What is overloaded or broken for one call is so for the next."""
    drill.over(ServerError(status, None), "b!", cooldown=CooldownPolicy(failure_threshold=2))
    for _ in range(5):
        assert drill.call() == "b!"
    assert drill.asked == [2, 5]


def test_those_in_cooldown_are_the_last_resort_soonest_to_end_first(drill: Drill) -> None:
    """And a success there ends the cooldown."""
    drill.over(
        (ServerError(429, "90"), "a!"),
        (ServerError(429, "20"), BUSY),
        ("c!", BUSY),
        cooldown=CooldownPolicy(failure_threshold=1),
    )
    assert drill.call() == "c!"
    assert drill.gateway.explain().order == ("c", "b", "a")
    assert drill.call() == "a!"
    assert drill.asked == [2, 2, 2]
    plan = drill.gateway.explain()
    assert plan.order[0] == "a"
    assert [each.model_name for each in plan.deferred] == ["b", "c"], "b's extra failure is no news"


def test_resting_never_turns_a_degraded_service_into_none(drill: Drill) -> None:
    """Everybody is in cooldown, and everybody is asked."""
    drill.over(BUSY, BUSY, cooldown=CooldownPolicy(failure_threshold=1))
    for _ in range(2):
        with pytest.raises(AllModelsFailedError) as failed:
            drill.call()
        assert [each.model_name for each in failed.value.failures] == ["a", "b"]
    drill.models[1].replies = ["b!"]
    assert drill.call() == "b!"


def test_a_plan_for_a_later_moment_knows_whose_cooldown_has_ended(drill: Drill) -> None:
    """Who is in cooldown now is in its place again in a plan for the moment it ends."""
    drill.over(BUSY, "b!", cooldown=CooldownPolicy(failure_threshold=1))
    drill.call()
    now = drill.clock.now()
    assert drill.gateway.explain(at=now + timedelta(seconds=30 - 1 / 64)).order == ("b", "a")
    assert drill.gateway.explain(at=now + timedelta(seconds=30)).order == ("a", "b")


def test_a_stream_that_fails_when_closed_has_answered(stream_drill: Drill) -> None:
    """An error after the last chunk is raised as it is, and does not count for the cooldown."""
    error = OSError("cannot close")

    class Unclosable:
        """One chunk, then the end, then an error."""

        def __init__(self, *_: Any, **__: Any) -> None:
            self.chunks = iter([AIMessageChunk("a!")])

        def __iter__(self) -> Any:
            return self

        def __next__(self) -> Any:
            return next(self.chunks)

        def close(self) -> None:
            raise error

        def __aiter__(self) -> Any:
            return self

        async def __anext__(self) -> Any:
            if (chunk := next(self.chunks, None)) is None:
                raise StopAsyncIteration
            return chunk

        async def aclose(self) -> None:
            raise error

    stream_drill.over("a!", "b!", cooldown=CooldownPolicy(failure_threshold=1))
    stream_drill.models[0].stream = stream_drill.models[0].astream = Unclosable  # type: ignore[method-assign,assignment]
    with pytest.raises(OSError, match="cannot close") as caught:
        stream_drill.call()
    assert caught.value is error
    assert stream_drill.gateway.explain().order == ("a", "b")


def test_retries_count_for_the_rest_and_stop_with_it(drill: Drill) -> None:
    """The second failure begins its cooldown: the third attempt is not made, nor waited for."""
    drill.over(
        BUSY, "b!", retry=RetryPolicy(max_attempts=5), cooldown=CooldownPolicy(failure_threshold=2)
    )
    assert drill.call() == "b!"
    assert drill.asked == [2, 1]
    assert len(drill.clock.waits) == 1, "it waits before the second attempt only"


# --- deadlines --------------------------------------------------------------------------------


def test_an_attempt_that_takes_too_long_falls_back(drill: Drill) -> None:
    """A deployment's `timeout` is for each attempt; an answer at the very limit is in time."""
    drill.over(([2, "a!"], [2 + 1 / 64, "a!"]), "b!", limits={"timeout": 2})
    assert drill.call() == "a!"
    assert drill.call() == "b!"
    assert drill.clock.time == 4


def test_a_timeout_falls_back_whatever_is_handled(drill: Drill) -> None:
    """Narrowing the exceptions does not turn the gateway's own limit into a crash."""
    drill.over([9, "a!"], "b!", limits={"timeout": 2}, exceptions_to_handle=(KeyError,))
    assert drill.call() == "b!"


def test_a_timeout_is_retryable_and_counts_for_the_rest(drill: Drill) -> None:
    """A slow server is a failing server."""
    drill.over(
        [9, "a!"],
        "b!",
        limits={"timeout": 2},
        retry=RetryPolicy(),
        cooldown=CooldownPolicy(failure_threshold=3),
    )
    assert drill.call() == "b!"
    assert drill.call() == "b!"
    assert drill.asked == [3, 2]


def test_the_deadline_rules_over_attempts_and_waits(drill: Drill) -> None:
    """What is left for the last attempt is what the others have left of it."""
    drill.over(([1, BUSY]), [9, "b!"], "c!", timeout=5)
    with pytest.raises(AllModelsFailedError, match="timeout of 5 s") as failed:
        drill.call()
    assert drill.clock.time == 5
    assert [type(each) for each in failed.value.exceptions] == [ServerError, ModelTimeoutError]
    assert drill.asked == [1, 1, 0]
    assert failed.value.is_retryable


def test_a_timer_that_goes_off_early_is_the_deadline_all_the_same(drill: Drill) -> None:
    """Timers and clocks are rounded apart: for the rest of a millisecond nobody else is asked."""

    class Early(VirtualGuards):
        def _cut(self, begun: float, seconds: float | None) -> None:
            try:
                super()._cut(begun, seconds)
            except ModelTimeoutError:
                self.clock.time -= 0.001
                raise

    drill.over([9, "a!"], "b!", timeout=5)
    drill.gateway = drill.gateway.with_clock(drill.clock, guards=Early(drill.clock))
    with pytest.raises(AllModelsFailedError, match="timeout of 5 s"):
        drill.call()
    assert drill.asked == [1, 0]


def test_no_attempt_begins_when_time_is_up(drill: Drill) -> None:
    """Also where the attempt did not fail for lack of time."""
    drill.over([5, BUSY], "b!", timeout=5)
    with pytest.raises(AllModelsFailedError):
        drill.call()
    assert drill.asked == [1, 0]


def test_the_first_word_ends_a_streams_timeout(stream_drill: Drill) -> None:
    """An answer may take longer than its beginning; an empty chunk is no beginning."""
    stream_drill.over(
        (["", 2, "a", 9, "!"], ["", 2 + 1 / 64, "a", "!"]), "b!", limits={"timeout": 2}
    )
    assert stream_drill.call() == "a!"
    assert stream_drill.call() == "b!"


def test_a_stall_after_the_first_word_is_raised(stream_drill: Drill) -> None:
    """Never stitched, and counted."""
    stream_drill.over(
        (["a", 2, "!"], ["a", 2 + 1 / 64, "!"]),
        "b!",
        limits={"stall_timeout": 2},
        cooldown=CooldownPolicy(failure_threshold=1),
    )
    assert stream_drill.call() == "a!"
    with pytest.raises(ModelTimeoutError):
        stream_drill.call()
    assert stream_drill.gateway.explain().order == ("b", "a")


def test_a_stall_behind_an_empty_chunk_falls_back(stream_drill: Drill) -> None:
    """Seconds between two chunks, whatever they carry: else a role and silence hang for ever."""
    stream_drill.over(["", 3600, "a!"], "b!", limits={"stall_timeout": 2})
    assert stream_drill.call() == "b!"
    assert stream_drill.clock.time == 2


def test_a_slow_reader_is_no_stall(stream_drill: Drill) -> None:
    """The time between two chunks is the model's, not what the reader does with them."""
    stream_drill.over(["a", 1, "a", 1, "!"], "b!", limits={"stall_timeout": 2})
    assert stream_drill.call(lambda: stream_drill.clock.spend(10)) == "aa!"


def test_the_deadline_ends_a_stream_under_way(stream_drill: Drill) -> None:
    """With the error that tells all."""
    stream_drill.over(BUSY, ["b", 3, "b", 3, "!"], "c!", timeout=5)
    with pytest.raises(AllModelsFailedError, match="timeout of 5 s") as failed:
        stream_drill.call()
    assert [each.model_name for each in failed.value.failures] == ["a", "b"]
    assert stream_drill.clock.time == 5


# --- rejected answers -------------------------------------------------------------------------


def _ending(reason: str, text: str = "", **metadata: Any) -> AIMessageChunk:
    return AIMessageChunk(text, response_metadata={"finish_reason": reason, **metadata})


@pytest.mark.parametrize(
    ("kind", "reply"),
    [
        ("empty", _ending("stop")),
        ("content_filter", _ending("content_filter")),
        ("content_filter", AIMessageChunk("", response_metadata={"finish_reason": "SAFETY"})),
        ("length", _ending("length")),
        ("length", AIMessageChunk("", response_metadata={"stop_reason": "max_tokens"})),
        ("refusal", AIMessageChunk("", additional_kwargs={"refusal": "I cannot"})),
        ("refusal", AIMessageChunk("", response_metadata={"stop_reason": "refusal"})),
    ],
)
def test_a_rejected_answer_falls_back_and_says_nothing_of_health(
    drill: Drill, kind: str, reply: AIMessageChunk
) -> None:
    """Neither retried on the same deployment nor counted, in whichever form it was asked for."""
    drill.over(
        reply,
        "b!",
        reject=(kind,),
        retry=RetryPolicy(),
        cooldown=CooldownPolicy(failure_threshold=1),
    )
    for _ in range(3):
        assert drill.call() == "b!"
    assert drill.asked == [3, 3]
    assert drill.clock.waits == []


@pytest.mark.parametrize("form", ["invoke", "ainvoke"])
@pytest.mark.parametrize("kind", ["empty", "content_filter", "length", "refusal", "truncated"])
def test_a_kind_that_is_not_rejected_is_an_answer(form: str, kind: str) -> None:
    """Every other kind is."""
    others = {"empty", "content_filter", "length", "refusal", "truncated"} - {kind}
    replies = {
        "empty": _ending("stop"),
        "content_filter": _ending("content_filter", "a!"),
        "length": _ending("length", "a!"),
        "refusal": AIMessageChunk("a!", additional_kwargs={"refusal": "no"}),
        "truncated": AIMessageChunk("a!"),
    }
    drill = Drill(form).over(replies[kind], "b!", reject=tuple(others))
    assert drill.call() == replies[kind].content


def test_a_truncated_stream_is_raised_after_text(stream_drill: Drill) -> None:
    """The reader must learn that it has half an answer; the model's health does not suffer."""
    stream_drill.over(
        ["a", "a"], "b!", reject=("truncated",), cooldown=CooldownPolicy(failure_threshold=1)
    )
    for _ in range(2):
        with pytest.raises(Exception, match="truncated"):
            stream_drill.call()
    assert stream_drill.asked == [2, 0]
    stream_drill.over(["a", _ending("stop", "!")], reject=("truncated",))
    assert stream_drill.call() == "a!"


def test_tool_calls_are_no_empty_answer() -> None:
    """They are what was asked for."""
    call = AIMessage("", tool_calls=[{"name": "add", "args": {}, "id": "1"}])
    gateway = GatewayRunnable(
        models=[
            {"model_name": "a", "model": ScriptedChatModel(replies=[call])},
            {"model_name": "b", "model": ScriptedChatModel()},
        ],
        reject=("empty",),
    )
    assert gateway.invoke("?").tool_calls


# --- all together -----------------------------------------------------------------------------


def test_all_policies_together(drill: Drill) -> None:
    """A bad minute, call by call."""
    drill.over(
        (ServerError(429, "1"), "a!", [9, "a!"], BUSY, BUSY, BUSY),
        (_ending("length"), "b!"),
        "c!",
        limits={"timeout": 2},
        retry=RetryPolicy(max_attempts=2),
        cooldown=CooldownPolicy(failure_threshold=2),
        timeout=10,
        reject=("length",),
    )
    assert drill.call() == "a!"
    assert drill.clock.time == 1
    assert drill.call() == "c!", "a is slow, then busy; b is cut off"
    assert drill.gateway.explain().order == ("b", "c", "a")
    assert drill.call() == "b!"
    assert drill.asked == [4, 2, 1]


# --- in real time -----------------------------------------------------------------------------


class Slow(Runnable[Any, Any]):
    """A model that really takes its time, and notes what became of it."""

    def __init__(self, seconds: float = 30) -> None:
        self.seconds, self.was_cancelled, self.is_closed = seconds, False, threading.Event()
        self.released = threading.Event()

    def invoke(self, input: Any, config: Any = None, **kwargs: Any) -> AIMessage:
        self.released.wait(self.seconds)
        return AIMessage("late")

    async def ainvoke(self, input: Any, config: Any = None, **kwargs: Any) -> AIMessage:
        try:
            await asyncio.sleep(self.seconds)
        except asyncio.CancelledError:
            self.was_cancelled = True
            raise
        return AIMessage("late")

    def stream(self, input: Any, config: Any = None, **kwargs: Any) -> Iterator[Any]:
        try:
            self.released.wait(self.seconds)
            yield AIMessageChunk("late")
        finally:
            self.is_closed.set()

    async def astream(self, input: Any, config: Any = None, **kwargs: Any) -> Any:
        try:
            yield await self.ainvoke(input)
        finally:
            self.is_closed.set()


def _slow_gateway(slow: Slow, **rules: Any) -> GatewayRunnable:
    return GatewayRunnable(
        models=[
            {"model_name": "slow", "model": slow, "timeout": 0.1},
            {"model_name": "b", "model": ScriptedChatModel()},
        ],
        **rules,
    )


async def test_async_timeouts_cancel_the_models_call() -> None:
    """Nothing of it is left running."""
    slow, tasks = Slow(), asyncio.all_tasks()
    assert (await _slow_gateway(slow).ainvoke("?")).text == "hello"
    assert slow.was_cancelled
    slow.was_cancelled = False
    chunks = [chunk async for chunk in _slow_gateway(slow).astream("?")]
    assert "".join(chunk.content for chunk in chunks) == "hello"
    assert slow.was_cancelled
    assert slow.is_closed.is_set()
    assert asyncio.all_tasks() == tasks


@pytest.mark.parametrize("form", ["invoke", "stream"])
def test_sync_timeouts_give_the_caller_its_answer_in_time(form: str) -> None:
    """The abandoned call ends by itself."""
    slow = Slow()
    began = time.monotonic()
    gateway = _slow_gateway(slow)
    text = (
        gateway.invoke("?").text
        if form == "invoke"
        else "".join(chunk.content for chunk in gateway.stream("?"))
    )
    assert text == "hello"
    assert time.monotonic() - began < 5
    slow.released.set()
    if form == "stream":
        assert slow.is_closed.wait(5)
    _join_abandoned()


async def test_a_cancellation_that_coincides_with_a_timeout_is_not_lost() -> None:
    """A caller who goes away gets no answer from the next deployment."""
    slow = Slow()
    task = asyncio.create_task(_slow_gateway(slow).ainvoke("?"))
    await asyncio.sleep(0.02)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert slow.was_cancelled


async def test_a_deadline_holds_in_real_time() -> None:
    """Sync and async, over all deployments."""
    slow = Slow()
    gateway = GatewayRunnable(
        models=[{"model_name": name, "model": slow} for name in "ab"], timeout=0.1
    )
    began = time.monotonic()
    with pytest.raises(AllModelsFailedError, match="timeout of"):
        gateway.invoke("?")
    with pytest.raises(AllModelsFailedError, match="timeout of"):
        await gateway.ainvoke("?")
    assert time.monotonic() - began < 5
    slow.released.set()
    _join_abandoned()


def test_a_models_own_retryable_verdict_rules() -> None:
    """LangChain's classification comes first, whatever the status."""

    class FinalError(ModelAPIError):
        is_retryable = False
        status_code = 503

    drill = Drill("invoke").over(FinalError("no"), "b!", retry=RetryPolicy())
    assert drill.call() == "b!"
    assert drill.asked == [1, 1]


def test_real_http_errors_carry_their_retry_after() -> None:
    """Httpx keeps headers without regard to case; a wrapped error still tells."""
    request = httpx.Request("POST", "http://localhost")
    response = httpx.Response(429, headers={"retry-after": "3"}, request=request)
    error = RuntimeError("wrapped")
    error.__cause__ = httpx.HTTPStatusError("busy", request=request, response=response)
    drill = Drill("invoke").over((error, "a!"), retry=RetryPolicy())
    assert drill.call() == "a!"
    assert drill.clock.waits == [3.0]


def _two() -> list[dict[str, Any]]:
    return [{"model_name": name, "model": ScriptedChatModel()} for name in "ab"]


def _serializable() -> Any:
    return ChatOpenAI(model="m", api_key="k", base_url="http://127.0.0.1:9/v1")


def _join_abandoned() -> None:
    for thread in threading.enumerate():
        if thread.name == "gateway-call":
            thread.join(5)
            assert not thread.is_alive()
