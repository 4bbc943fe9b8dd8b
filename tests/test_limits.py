"""Requests and tokens a minute, and attempts at once: who is passed over, and who waits."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage
from langchain_core.messages.utils import count_tokens_approximately
from langchain_core.prompt_values import ChatPromptValue
from langchain_core.runnables import Runnable

from langchain_model_gateway import (
    AllModelsFailedError,
    CooldownPolicy,
    GatewayRunnable,
    NoModelAvailableError,
    RetryPolicy,
)
from langchain_model_gateway.admission.limits import size_of
from tests.conftest import CallForm
from tests.models import says
from tests.schedules import ServerError
from tests.virtual_time import VirtualClock, rehearsed

FORMS = ["invoke", "ainvoke", "stream", "astream"]
INPUT = "x" * 84
"""A question of 25 tokens, as LangChain counts them approximately."""
INPUT_TOKENS = 25


class Model(Runnable[Any, Any]):
    """Answers, or fails with what `error` says; a number in `takes` is time that passes."""

    def __init__(self, clock: VirtualClock, name: str, usage: tuple[int, int] | None) -> None:
        self.clock, self.name, self.usage = clock, name, usage
        self.error: Exception | None = None
        self.takes = 0.0
        self.asked_at: list[float] = []

    def _chunks(self) -> Iterator[AIMessageChunk]:
        self.asked_at.append(self.clock.time)
        self.clock.spend(self.takes)
        if self.error is not None:
            raise self.error
        yield AIMessageChunk(self.name)
        usage: Any = None
        if self.usage is not None:
            used, made = self.usage
            usage = {"input_tokens": used, "output_tokens": made, "total_tokens": used + made}
        yield AIMessageChunk("", usage_metadata=usage)

    def invoke(self, input: Any, config: Any = None, **kwargs: Any) -> AIMessage:
        first, last = self._chunks()
        return AIMessage(first.content, usage_metadata=last.usage_metadata)

    async def ainvoke(self, input: Any, config: Any = None, **kwargs: Any) -> AIMessage:
        return self.invoke(input)

    def stream(self, input: Any, config: Any = None, **kwargs: Any) -> Iterator[AIMessageChunk]:
        yield from self._chunks()

    async def astream(self, input: Any, config: Any = None, **kwargs: Any) -> Any:
        for chunk in self._chunks():
            yield chunk


class Traffic:
    """Calls of a gateway over "a" and "b" in virtual time, in one of four forms."""

    def __init__(self, form: str) -> None:
        self.form, self.clock = form, VirtualClock()
        self.a, self.b = (Model(self.clock, name, None) for name in "ab")

    def over(self, a: dict[str, Any], b: dict[str, Any] | None = None, **rules: Any) -> "Traffic":
        models = [{"model_name": "a", "model": self.a, **a}]
        if b is not None:
            models.append({"model_name": "b", "model": self.b, **b})
        self.gateway = rehearsed(GatewayRunnable(models=models, **rules), self.clock)
        return self

    def call(self, times: int = 1) -> str:
        """Who answered, one letter a call."""
        return "".join(self._call() for _ in range(times))

    def _call(self) -> str:
        match self.form:
            case "invoke":
                return str(self.gateway.invoke(INPUT).content)
            case "ainvoke":
                return str(asyncio.run(self.gateway.ainvoke(INPUT)).content)
            case "stream":
                return "".join(str(chunk.content) for chunk in self.gateway.stream(INPUT))
            case _:
                return asyncio.run(self._read())

    async def _read(self) -> str:
        return "".join([str(chunk.content) async for chunk in self.gateway.astream(INPUT)])


@pytest.fixture(params=FORMS)
def traffic(request: pytest.FixtureRequest) -> Traffic:
    return Traffic(request.param)


# --- requests a minute ------------------------------------------------------------------------


@pytest.mark.parametrize(("rpm", "burst"), [(60, 6), (600, 60), (30, 5), (3, 3), (1, 1)])
def test_a_deployment_without_room_is_passed_over(traffic: Traffic, rpm: int, burst: int) -> None:
    """A tenth of a minute's requests may come at once, but five in any case; then one by one."""
    traffic.over({"rpm": rpm}, {})
    assert traffic.call(burst + 2) == "a" * burst + "bb"
    traffic.clock.spend(60 / rpm)
    assert traffic.call(2) == "ab"
    traffic.clock.spend(10 * 60)
    assert traffic.call(burst + 1) == "a" * burst + "b"


def test_every_attempt_counts(traffic: Traffic) -> None:
    """A failure and its retries take their requests too."""
    traffic.over({"rpm": 5}, {}, retry=RetryPolicy(initial_delay=0.001, max_delay=0.001))
    traffic.a.error = ServerError(503, None)
    assert traffic.call() == "b"
    assert len(traffic.a.asked_at) == 3
    traffic.a.error = None
    assert traffic.call(3) == "aab"


def test_with_everybody_limited_the_soonest_is_waited_for(traffic: Traffic) -> None:
    """The waits are exact, and up to `max_wait`."""
    traffic.over({"rpm": 1}, {"rpm": 2}, max_wait=60)
    assert traffic.call(3) == "abb"
    traffic.clock.waits.clear()
    assert traffic.call(2) == "ba"
    assert traffic.clock.waits == [pytest.approx(30), pytest.approx(30)]
    assert traffic.clock.time == pytest.approx(60)


@pytest.mark.parametrize("max_wait", [None, 0, 59.9])
def test_a_wait_that_is_too_long_is_not_begun(traffic: Traffic, max_wait: float | None) -> None:
    """The deployment is asked anyway, at once: the provider's 429 is the law."""
    traffic.over({"rpm": 1}, max_wait=max_wait)
    assert traffic.call(2) == "aa"
    assert traffic.clock.waits == []


def test_a_wait_beyond_the_deadline_is_not_begun(traffic: Traffic) -> None:
    """Who could not be answered in time asks at once."""
    traffic.over({"rpm": 1}, max_wait=100, timeout=50)
    assert traffic.call(2) == "aa"
    assert traffic.clock.waits == []


def test_a_limited_deployment_comes_before_one_in_cooldown(traffic: Traffic) -> None:
    """There is nothing wrong with it."""
    traffic.over({"rpm": 1}, {}, cooldown=CooldownPolicy(failure_threshold=1))
    assert traffic.call() == "a"
    traffic.b.error = ServerError(503, None)
    assert traffic.call() == "a"
    assert traffic.call() == "a"
    assert len(traffic.b.asked_at) == 1


def test_a_429_with_a_retry_after_fills_the_limit(traffic: Traffic) -> None:
    """Until then the deployment is passed over."""
    traffic.over({"rpm": 600}, {})
    traffic.a.error = ServerError(429, "7")
    assert traffic.call() == "b"
    traffic.a.error = None
    traffic.clock.spend(6.99)
    assert traffic.call() == "b"
    traffic.clock.spend(0.01)
    assert traffic.call() == "a"


def test_a_plan_tells_the_limit_and_takes_nothing(traffic: Traffic) -> None:
    """However often it is asked for."""
    traffic.over({"rpm": 300}, {"rpm": 300})
    for _ in range(100):
        assert traffic.gateway.explain().order == ("a", "b")
    assert traffic.call(31) == "a" * 30 + "b"
    plan = traffic.gateway.explain()
    assert plan.order == ("b", "a")
    (limited,) = plan.deferred
    assert limited.reason == "limited, 300 requests a minute"
    assert (limited.until - traffic.clock.now()).total_seconds() == pytest.approx(0.2)
    assert "would wait: limited, 300 requests a minute, until 2026-01-05 12:00:0" in str(plan)


def test_derived_gateways_share_the_limits(traffic: Traffic) -> None:
    """They ask the same provider."""
    traffic.over({"rpm": 5}, {})
    assert traffic.call(3) == "aaa"
    traffic.gateway = traffic.gateway.prefer("a")
    assert traffic.call(3) == "aab"


# --- tokens a minute --------------------------------------------------------------------------


def test_tokens_are_reserved_by_the_input_and_corrected_by_the_usage(traffic: Traffic) -> None:
    """Also where a stream tells them."""
    traffic.over({"tpm": 1000}, {})  # a burst of 100
    traffic.a.usage = (INPUT_TOKENS, 0)
    assert traffic.call(5) == "aaaab"
    traffic.clock.spend(600)
    traffic.a.usage = (INPUT_TOKENS, 475)  # 500 in all: half a minute's
    assert traffic.call(2) == "ab"
    traffic.clock.spend(28)
    assert traffic.call() == "b"
    traffic.clock.spend(1)
    assert traffic.call() == "a"


def test_recent_answers_are_reserved_for(traffic: Traffic) -> None:
    """The mean of their lengths is added to the input's."""
    traffic.over({"tpm": 1000}, {})
    traffic.a.usage = (INPUT_TOKENS, 25)
    assert traffic.call() == "a"
    traffic.clock.spend(600)
    traffic.a.usage = None  # it tells nothing: what was reserved stays taken
    assert traffic.call(3) == "aab"


def test_what_is_larger_than_the_burst_goes_alone(traffic: Traffic) -> None:
    """And takes what it is, however long that lasts."""
    traffic.over({"tpm": 60}, {})  # a burst of 6
    assert traffic.call(2) == "ab"
    traffic.clock.spend(24.9)
    assert traffic.call() == "b"
    traffic.clock.spend(0.2)
    assert traffic.call() == "a"


@pytest.mark.parametrize(
    ("error", "then"),
    [(ServerError(500, None), "aaaa"), (ServerError(400, None), "aaaa"), (ConnectionError(), "b")],
)
def test_an_http_error_gives_the_tokens_back(traffic: Traffic, error: Exception, then: str) -> None:
    """A server that refused has generated nothing; a cut connection may have."""
    traffic.over({"tpm": 1000}, {})
    traffic.a.error = error
    assert traffic.call(4) == "bbbb"
    traffic.a.error = None
    assert traffic.call(len(then)) == then


def test_a_timeout_keeps_the_tokens(traffic: Traffic) -> None:
    """The provider may be generating still."""
    traffic.over({"tpm": 100, "timeout": 1}, {})
    traffic.a.takes = 2
    assert traffic.call() == "b"
    traffic.a.takes = 0
    assert traffic.call() == "b"
    traffic.clock.spend(14)
    assert traffic.call() == "a"


# --- attempts at once -------------------------------------------------------------------------


class Gate(Runnable[Any, Any]):
    """A model whose calls stay inside until they are let go."""

    def __init__(self) -> None:
        self.inside, self.most = 0, 0
        self.entered = threading.Semaphore(0)
        self.go = threading.Event()
        self._lock = threading.Lock()

    def _enter(self, by: int) -> None:
        with self._lock:
            self.inside += by
            self.most = max(self.most, self.inside)

    def invoke(self, input: Any, config: Any = None, **kwargs: Any) -> AIMessage:
        self._enter(1)
        self.entered.release()
        try:
            assert self.go.wait(20)
            return AIMessage("a")
        finally:
            self._enter(-1)

    async def ainvoke(self, input: Any, config: Any = None, **kwargs: Any) -> AIMessage:
        self._enter(1)
        try:
            while not self.go.is_set():
                await asyncio.sleep(0.002)
            return AIMessage("a")
        finally:
            self._enter(-1)

    def stream(self, input: Any, config: Any = None, **kwargs: Any) -> Iterator[AIMessageChunk]:
        self._enter(1)
        try:
            yield AIMessageChunk("a")
            yield AIMessageChunk("!")
        finally:
            self._enter(-1)


class Backup(Runnable[Any, Any]):
    def invoke(self, input: Any, config: Any = None, **kwargs: Any) -> AIMessage:
        return AIMessage("b")


def gated(gate: Gate, *, backup: bool = True, timeout: Any = None, **rules: Any) -> GatewayRunnable:
    entries = [{"model_name": "a", "model": gate, "max_concurrency": 2, "timeout": timeout}]
    if backup:
        entries.append({"model_name": "b", "model": Backup()})
    return GatewayRunnable(models=entries, **rules)


def in_threads(count: int, function: Callable[[], Any]) -> list[threading.Thread]:
    threads = [threading.Thread(target=function, daemon=True) for _ in range(count)]
    for thread in threads:
        thread.start()
    return threads


def test_who_finds_it_full_goes_to_another() -> None:
    """The bound is hard, and a place is free again when its call ends."""
    gate = Gate()
    gateway = gated(gate)
    threads = in_threads(2, lambda: gateway.invoke("?"))
    assert gate.entered.acquire(timeout=20)
    assert gate.entered.acquire(timeout=20)
    assert gateway.invoke("?").content == "b"
    plan = gateway.explain()
    assert plan.order == ("b", "a")
    assert plan.deferred[0].reason == "full, 2 at once"
    gate.go.set()
    for thread in threads:
        thread.join(20)
    assert gateway.invoke("?").content == "a"
    assert gate.most == 2


def test_with_everybody_full_a_call_waits_for_a_place() -> None:
    """As long as it takes, if nothing else is said."""
    gate = Gate()
    gateway, answers = gated(gate, backup=False), []
    threads = in_threads(6, lambda: answers.append(gateway.invoke("?").content))
    assert gate.entered.acquire(timeout=20)
    gate.go.set()
    for thread in threads:
        thread.join(20)
    assert answers == ["a"] * 6
    assert gate.most == 2


def test_who_has_got_a_place_still_waits_for_room() -> None:
    """Its place came late, and its room in the limit comes later: then it is asked, no sooner."""

    class Freeing(VirtualClock):
        def sleep(self, seconds: float) -> None:
            super().sleep(seconds)
            held.close()

    clock = Freeing()
    entry = {"model_name": "a", "model": Gate(), "max_concurrency": 1, "rpm": 1}
    gateway = rehearsed(GatewayRunnable(models=[entry], max_wait=120), clock)
    held = gateway.stream("?")
    next(held)
    assert next(gateway.stream("?")).content == "a"
    assert clock.time == pytest.approx(60)


async def test_with_everybody_full_async_calls_wait_for_a_place() -> None:
    """They hold up nobody."""
    gate = Gate()
    gateway = gated(gate, backup=False)
    tasks = [asyncio.create_task(gateway.ainvoke("?")) for _ in range(6)]
    while gate.inside < 2:
        await asyncio.sleep(0.001)
    gate.go.set()
    assert [answer.content for answer in await asyncio.gather(*tasks)] == ["a"] * 6
    assert gate.most == 2


@pytest.mark.parametrize("rules", [{"max_wait": 0.05}, {"max_wait": 0}, {"timeout": 0.05}])
def test_who_gets_no_place_in_time_is_told_what_was_waited_for(rules: dict[str, Any]) -> None:
    """Nobody was asked, and later it may go better."""
    gate = Gate()
    gateway = gated(gate, backup=False)
    threads = in_threads(2, lambda: gateway.invoke("?"))
    assert gate.entered.acquire(timeout=20)
    assert gate.entered.acquire(timeout=20)
    with pytest.raises(NoModelAvailableError, match="full, 2 at once, no place within") as told:
        gateway.model_copy(update=rules).invoke("?")
    assert told.value.is_retryable
    gate.go.set()
    for thread in threads:
        thread.join(20)


async def test_who_is_cancelled_while_waiting_leaves_nothing_behind() -> None:
    """Neither a place nor a booking."""
    gate = Gate()
    gateway = gated(gate, backup=False)
    tasks = [asyncio.create_task(gateway.ainvoke("?")) for _ in range(3)]
    while gate.inside < 2:
        await asyncio.sleep(0.001)
    await asyncio.sleep(0.03)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert gateway._memory["a"].load.places == 0
    gate.go.set()
    assert (await gateway.ainvoke("?")).content == "a"


async def test_a_cancelled_wait_gives_its_booking_back() -> None:
    """The next one does not wait for who has gone."""
    model = Backup()
    entry = {"model_name": "b", "model": model, "rpm": 1}
    gateway = GatewayRunnable(models=[entry], max_wait=100)
    await gateway.ainvoke("?")
    task = asyncio.create_task(gateway.ainvoke("?"))
    await asyncio.sleep(0.02)
    before = gateway._memory["b"].usage.requests.ends
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert gateway._memory["b"].usage.requests.ends == pytest.approx(before - 60)


def test_an_abandoned_sync_call_keeps_its_place_until_it_ends() -> None:
    """It still is at the provider's."""
    gate = Gate()
    gateway = gated(gate, timeout=0.02)
    assert [gateway.invoke("?").content for _ in range(4)] == ["b"] * 4
    assert gate.most == 2
    gate.go.set()
    for thread in threading.enumerate():
        if thread.name == "gateway-call":
            thread.join(20)
    assert gateway.invoke("?").content == "a"


def test_a_stream_holds_its_place_until_it_is_closed() -> None:
    """However slowly it is read."""
    gateway = gated(Gate())
    first, second = gateway.stream("?"), gateway.stream("?")
    assert [next(first).content, next(second).content] == ["a", "a"]
    assert gateway.invoke("?").content == "b"
    first.close()
    assert next(gateway.stream("?")).content == "a"


# --- unused -----------------------------------------------------------------------------------


@pytest.mark.parametrize("field", ["rpm", "tpm", "max_concurrency", "weight"])
@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), "many"])
def test_a_senseless_limit_is_an_error(field: str, value: Any) -> None:
    """At construction, naming it."""
    with pytest.raises(ValueError, match=field):
        GatewayRunnable(models=[{"model_name": "a", "model": Backup(), field: value}])


def test_all_failed_after_a_wait_is_told_as_ever() -> None:
    """Limits change nothing about errors."""
    clock = VirtualClock()
    model = Model(clock, "a", None)
    model.error = ServerError(503, None)
    entry = {"model_name": "a", "model": model, "rpm": 1}
    gateway = rehearsed(GatewayRunnable(models=[entry], max_wait=60), clock)
    for _ in range(2):
        with pytest.raises(AllModelsFailedError):
            gateway.invoke("?")
    assert clock.waits == [pytest.approx(60)]


# --- what a limit counts, to the last token -----------------------------------------------------


def test_a_429_fills_the_limit_of_tokens_too(traffic: Traffic) -> None:
    """Nothing is asked before the moment that the server told."""
    traffic.over({"tpm": 6_000}, {})
    traffic.a.error = ServerError(429, "20")
    assert traffic.call() == "b"
    (deferred,) = traffic.gateway.explain().deferred
    assert deferred.reason == "limited, 6,000 tokens a minute"
    assert deferred.until is not None
    assert (deferred.until - traffic.clock.now()).total_seconds() == pytest.approx(20)


def test_a_server_that_is_down_fills_no_limit(traffic: Traffic) -> None:
    """`Retry-After` of a 503 says nothing about a limit."""
    traffic.over({"rpm": 60, "tpm": 6_000}, {})
    traffic.a.error = ServerError(503, "20")
    assert traffic.call() == "b"
    assert traffic.gateway.explain().deferred == ()


def test_the_models_own_maximum_is_reserved(traffic: Traffic) -> None:
    """Not the mean of recent answers: the next one may be as long as it is allowed to be."""
    traffic.over({"tpm": 600}, {})
    assert traffic.call(2) == "aa"
    bound = {"model": traffic.a.bind(max_tokens=500)}
    traffic.over({"tpm": 600, **bound}, {})
    assert traffic.call(2) == "ab"


def test_the_mean_of_recent_answers_is_reserved(traffic: Traffic) -> None:
    """The latest counts a tenth."""
    traffic.over({"tpm": 1e6}, {})
    for made in (100, 0):
        traffic.a.usage = (25, made)
        traffic.call()
    assert traffic.gateway._memory["a"].usage.mean_output == pytest.approx(90)


@pytest.mark.parametrize(
    "value",
    [
        INPUT,
        [HumanMessage(INPUT)],
        [("user", INPUT)],
        ChatPromptValue(messages=[HumanMessage(INPUT)]),
    ],
)
def test_every_form_of_input_is_counted(value: Any) -> None:
    """A text, messages and a prompt's value are 25 tokens alike."""
    traffic = Traffic("invoke").over({"tpm": 600}, {})
    answers = [traffic.gateway.invoke(value).content for _ in range(3)]
    assert answers == ["a", "a", "b"]


@pytest.mark.parametrize("text", ["", "hey", "four", "fifth", "sixth hour", INPUT])
def test_a_text_counts_as_the_message_that_is_made_of_it(text: str) -> None:
    """Although no message is made of it to count it."""
    assert size_of(text) == count_tokens_approximately([HumanMessage(text)])


def test_a_correction_of_tokens_takes_no_request(traffic: Traffic) -> None:
    """Six requests at once are six, however many tokens they told."""
    traffic.a.usage = (25, 50)
    assert traffic.over({"rpm": 60, "tpm": 1e6}, {}).call(7) == "aaaaaab"


async def test_a_cancelled_wait_gives_its_tokens_back() -> None:
    """They were not used."""
    entry = {"model_name": "b", "model": Backup(), "tpm": 60}
    gateway = GatewayRunnable(models=[entry], max_wait=1000)
    await gateway.ainvoke(INPUT)
    before = gateway._memory["b"].usage.tokens.ends
    task = asyncio.create_task(gateway.ainvoke(INPUT))
    await asyncio.sleep(0.02)
    assert gateway._memory["b"].usage.tokens.ends == pytest.approx(before + INPUT_TOKENS)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert gateway._memory["b"].usage.tokens.ends == pytest.approx(before)


def test_a_retry_waits_for_room_where_nobody_else_can_be_asked(ask: CallForm) -> None:
    """A limit that is full does not end the call: the retry waits, as a first attempt would."""
    model = says(*"aaaaa", ServerError(503, None), "b")
    entries: Any = [{"model_name": "a", "model": model, "rpm": 60}]
    clock = VirtualClock()
    retry = RetryPolicy(max_attempts=3, initial_delay=0.01)
    gateway = rehearsed(GatewayRunnable(entries, retry=retry, max_wait=300), clock)
    assert [ask(gateway, "?").text for _ in range(6)] == [*"aaaaab"]
    assert clock.time == pytest.approx(1.0, abs=0.02)


def test_a_retry_goes_on_at_once_where_no_wait_is_wanted(ask: CallForm) -> None:
    """Without `max_wait` a limit is a courtesy: the provider decides."""
    model = says(*"aaaaa", ServerError(503, None), "b")
    entries: Any = [{"model_name": "a", "model": model, "rpm": 60}]
    clock = VirtualClock()
    retry = RetryPolicy(max_attempts=3, initial_delay=0.01)
    gateway = rehearsed(GatewayRunnable(entries, retry=retry), clock)
    assert [ask(gateway, "?").text for _ in range(6)] == [*"aaaaab"]
    assert clock.time < 0.05


def test_no_retry_waits_for_room_while_another_is_free(ask: CallForm) -> None:
    """The call falls back at once."""
    model = says(*"aaaaa", ServerError(503, None), "b")
    entries: Any = [
        {"model_name": "a", "model": model, "rpm": 60},
        {"model_name": "other", "model": says("other")},
    ]
    clock = VirtualClock()
    gateway = rehearsed(GatewayRunnable(entries, retry=RetryPolicy(), max_wait=300), clock)
    assert [ask(gateway, "?").text for _ in range(6)] == [*"aaaaa", "other"]
    assert clock.waits == []
