"""`on_event`: each story is told right, one event for each thing that happens."""

import asyncio
import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from typing import Any

import pytest
from langchain_core.load import dumpd
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.runnables import RunnableLambda

from langchain_model_gateway import (
    AllModelsFailedError,
    CooldownPolicy,
    GatewayEvent,
    GatewayRunnable,
    HedgePolicy,
    NoModelAvailableError,
    RetryPolicy,
)
from langchain_model_gateway.listeners.events import Events
from tests.conftest import BatchForm, CallForm, StreamForm, openai_at
from tests.models import NEVER, gateway_over, says
from tests.schedules import Rehearsal, ServerError, random_schedule
from tests.virtual_time import VirtualClock, rehearsed

Story = list[tuple[Any, ...]]


class Told:
    """A function for events that keeps them."""

    def __init__(self) -> None:
        self.events: list[GatewayEvent] = []

    def __call__(self, event: GatewayEvent) -> None:
        self.events.append(event)

    def story(self) -> Story:
        """Kind, name and attempt of each event; of a failure also the error."""
        return [
            (each.kind, each.model_name, each.attempt, each.error)[: 4 if each.error else 3]
            for each in self.events
            if each.kind != "first_chunk"
        ]


@pytest.fixture
def told() -> Told:
    return Told()


def down() -> Any:
    return says(ConnectionError("a secret in an error"))


# --- the stories -----------------------------------------------------------------------------


def test_a_failure_and_an_answer(told: Told, ask: CallForm) -> None:
    """Who was asked, who failed with what, and who answered; attempts are counted in the call."""
    ask(gateway_over(down(), says("yes"), on_event=told), "?")
    assert told.story() == [
        ("started", "weak", 1),
        ("failed", "weak", 1, "ConnectionError"),
        ("started", "strong", 2),
        ("answered", "strong", 2),
    ]
    assert {each.provider for each in told.events} == {"scriptedchatmodel"}


def test_a_rejected_answer(told: Told, ask: CallForm) -> None:
    """An answer that does not count is "rejected", not "failed"."""
    blocked = AIMessage("", response_metadata={"finish_reason": "content_filter"})
    reply: Any = blocked
    if "stream" in ask.name or "transform" in ask.name:
        reply = [AIMessageChunk("", response_metadata=blocked.response_metadata)]
    ask(gateway_over(says(reply), says("yes"), reject="content_filter", on_event=told), "?")
    assert told.story() == [
        ("started", "weak", 1),
        ("rejected", "weak", 1, "RejectedAnswerError"),
        ("started", "strong", 2),
        ("answered", "strong", 2),
    ]


def test_tokens_of_a_rejected_answer(told: Told, ask: CallForm) -> None:
    """They are billed, so they are told."""
    usage: Any = {"input_tokens": 3, "output_tokens": 4, "total_tokens": 7}
    marks: Any = {"usage_metadata": usage, "response_metadata": {"finish_reason": "content_filter"}}
    reply: Any = AIMessage("", **marks)
    if "stream" in ask.name or "transform" in ask.name:
        reply = [AIMessageChunk("", **marks)]
    ask(gateway_over(says(reply), says("yes"), reject="content_filter", on_event=told), "?")
    assert [each.usage for each in told.events if each.kind == "rejected"] == [usage]


def test_a_restricted_deployment(told: Told, ask: CallForm) -> None:
    """It is "skipped", until when."""
    windows = {"weak": [("00:00", "23:59")], "strong": None}
    at = datetime(2026, 5, 5, 12, 0, tzinfo=UTC)
    gateway = gateway_over(says("no"), says("yes"), windows=windows, on_event=told)
    ask(rehearsed(gateway, VirtualClock(at)), "?")
    assert told.story() == [
        ("skipped", "weak", None),
        ("started", "strong", 1),
        ("answered", "strong", 1),
    ]
    assert told.events[0].until == datetime(2026, 5, 5, 23, 59, tzinfo=UTC)


def test_nobody_may_be_asked(told: Told, ask: CallForm) -> None:
    """Nothing is started."""
    gateway = gateway_over(says("no"), says("no"), windows=dict.fromkeys(("weak", "strong"), NEVER))
    with pytest.raises(NoModelAvailableError):
        ask(gateway.model_copy(update={"on_event": told}), "?")
    assert told.story() == [("skipped", "weak", None), ("skipped", "strong", None)]


def test_retries(told: Told, ask: CallForm) -> None:
    """Each attempt is told, the same deployment's too."""
    model = says(ServerError(503, None), ServerError(503, None), "yes")
    gateway = gateway_over(model, says("no"), retry=RetryPolicy(max_attempts=3), on_event=told)
    ask(rehearsed(gateway, VirtualClock()), "?")
    assert Counter(each.kind for each in told.events if each.kind != "first_chunk") == {
        "started": 3,
        "failed": 2,
        "answered": 1,
    }
    assert [each.attempt for each in told.events if each.kind == "started"] == [1, 2, 3]


def test_all_fail(told: Told, ask: CallForm) -> None:
    """Each failure is told once."""
    with pytest.raises(AllModelsFailedError):
        ask(gateway_over(down(), down(), on_event=told), "?")
    assert [each[0] for each in told.story()] == ["started", "failed"] * 2


def test_an_error_that_no_fallback_is_for(told: Told, ask: CallForm) -> None:
    """The caller gets the deployment's error, and it is told as its failure."""
    gateway = gateway_over(down(), says("no"), exceptions_to_handle=OSError, on_event=told)
    gateway = gateway.model_copy(update={"exceptions_to_handle": (ZeroDivisionError,)})
    with pytest.raises(ConnectionError):
        ask(gateway, "?")
    assert told.story() == [("started", "weak", 1), ("failed", "weak", 1, "ConnectionError")]


def test_a_cooldown_from_its_start_to_its_end(told: Told, ask: CallForm) -> None:
    """Started, started again by a probe that failed, and ended; each with until when."""
    model = says(ServerError(503, None), ServerError(503, None), ServerError(503, None), "yes")
    clock = VirtualClock()
    policy = CooldownPolicy(failure_threshold=2, duration=10)
    gateway = rehearsed(gateway_over(model, says("?"), cooldown=policy, on_event=told), clock)
    for pause in (0, 1, 10, 19.9, 0.2):
        clock.spend(pause)
        ask(gateway, "?")
    cooldowns = [each for each in told.events if each.kind.startswith("cooldown")]
    assert [(each.kind, each.model_name) for each in cooldowns] == [
        ("cooldown_started", "weak"),
        ("cooldown_started", "weak"),
        ("cooldown_ended", "weak"),
    ]
    lengths = [(each.until - clock.start).total_seconds() for each in cooldowns[:2] if each.until]
    assert lengths == [11, 31]
    assert cooldowns[0].attempt is None


def test_what_says_nothing_of_a_cooldown_tells_nothing_of_it(told: Told) -> None:
    """A success that began before it does not end it, and a last resort does not start it anew."""
    policy = CooldownPolicy(failure_threshold=1, duration=10)
    gateway = gateway_over(
        says("yes", ServerError(503, None)), down(), cooldown=policy, on_event=told
    )
    gateway = rehearsed(gateway, VirtualClock())
    early = gateway.stream("?")
    next(early)
    for _ in range(2):
        with pytest.raises(AllModelsFailedError):
            gateway.invoke("?")
    for _ in early:
        pass
    cooldowns = [(each.kind, each.model_name) for each in told.events if "cooldown" in each.kind]
    assert cooldowns == [("cooldown_started", "weak"), ("cooldown_started", "strong")]


def test_a_failure_that_began_before_a_cooldown_starts_no_other(told: Told) -> None:
    """It says what is known already."""
    policy = CooldownPolicy(failure_threshold=1, duration=10)
    weak = says(["a", ServerError(503, None)], ServerError(503, None))
    gateway = rehearsed(
        gateway_over(weak, says("yes"), cooldown=policy, on_event=told), VirtualClock()
    )
    early = gateway.stream("?")
    next(early)
    gateway.invoke("?")
    with pytest.raises(ServerError):
        next(early)
    assert [each.kind for each in told.events if "cooldown" in each.kind] == ["cooldown_started"]


def test_the_last_resort(told: Told, ask: CallForm) -> None:
    """A deployment in cooldown that is asked after all others says so."""
    policy = CooldownPolicy(failure_threshold=1, duration=10)
    gateway = gateway_over(
        says(ServerError(503, None), "yes"), down(), cooldown=policy, on_event=told
    )
    gateway = rehearsed(gateway, VirtualClock())
    with pytest.raises(AllModelsFailedError):
        ask(gateway, "?")
    told.events.clear()
    ask(gateway, "?")
    told.events = [each for each in told.events if each.kind == "started"]
    assert [(each.model_name, each.last_resort) for each in told.events] == [("weak", True)]


def test_a_batch(told: Told, run_batch: BatchForm) -> None:
    """Each call's events come; in threads, in any order."""
    run_batch(gateway_over(down(), says("yes"), on_event=told), ["?"] * 5)
    counts = Counter((each[0], each[1]) for each in told.story())
    assert counts == dict.fromkeys(
        [("started", "weak"), ("failed", "weak"), ("started", "strong"), ("answered", "strong")], 5
    )


def test_an_inner_gateway_tells_its_own_function(told: Told, ask: CallForm) -> None:
    """Neither tells the other's story."""
    inner_told = Told()
    inner = gateway_over(down(), says("yes"), on_event=inner_told)
    ask(gateway_over(inner, says("no"), on_event=told), "?")
    assert told.story() == [("started", "weak", 1), ("answered", "weak", 1)]
    assert [each[0] for each in inner_told.story()] == ["started", "failed", "started", "answered"]


# --- time ------------------------------------------------------------------------------------


def test_seconds_and_usage(told: Told, ask: CallForm) -> None:
    """How long an attempt took, and the tokens that were counted, over streams too."""
    clock = VirtualClock()

    def slowly() -> AIMessageChunk:
        clock.spend(2.0)
        return AIMessageChunk("yes")

    usage: Any = {"input_tokens": 3, "output_tokens": 4, "total_tokens": 7}
    reply: Any = AIMessage("yes", usage_metadata=usage)
    if "stream" in ask.name or "transform" in ask.name:
        last = AIMessageChunk("", usage_metadata=usage)
        reply = [slowly, slowly, last]
    ask(rehearsed(gateway_over(says(reply), says("no"), on_event=told), clock), "?")
    ends = {each.kind: each for each in told.events}
    assert ends["answered"].usage == usage
    assert ends["started"].seconds is None
    if isinstance(reply, list):
        assert ends["first_chunk"].seconds == 2.0
        assert ends["answered"].seconds == 4.0


@pytest.mark.parametrize("form", ["invoke", "ainvoke", "stream", "astream"])
def test_an_attempt_that_takes_too_long(told: Told, form: str) -> None:
    """A timed-out attempt has failed, in sync as in async."""
    gate = threading.Event()

    def wait(_: Any) -> AIMessage:
        gate.wait(20)
        return AIMessage("late")

    async def await_(_: Any) -> AIMessage:
        await asyncio.sleep(20)
        return AIMessage("late")

    slow = {"model_name": "slow", "model": RunnableLambda(wait, await_), "timeout": 0.05}
    quick = {"model_name": "quick", "model": says("yes")}
    try:
        CallForm(form)(GatewayRunnable([slow, quick], on_event=told), "?")  # type: ignore[list-item]
    finally:
        gate.set()
    assert told.story() == [
        ("started", "slow", 1),
        ("failed", "slow", 1, "ModelTimeoutError"),
        ("started", "quick", 2),
        ("answered", "quick", 2),
    ]


def test_a_cancelled_call(told: Told) -> None:
    """An attempt that its caller cancels is "abandoned"."""

    async def forever(_: Any) -> AIMessage:
        await asyncio.sleep(20)
        return AIMessage("late")

    async def cancel() -> None:
        model = RunnableLambda(lambda _: AIMessage("?"), forever)
        task = asyncio.ensure_future(gateway_over(model, says("no"), on_event=told).ainvoke("?"))
        while not told.events:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancel())
    assert told.story() == [("started", "weak", 1), ("abandoned", "weak", 1)]


def test_a_stream_that_its_reader_closes(told: Told, ask_stream: StreamForm) -> None:
    """It is "abandoned"; its first chunk was told."""
    gateway = gateway_over(says(["one", "two", "three"]), says("no"), on_event=told)
    ask_stream.watch(ask_stream.open(gateway, "?"), limit=1)
    assert [each.kind for each in told.events] == ["started", "first_chunk", "abandoned"]


def test_a_stream_that_breaks(told: Told, ask_stream: StreamForm) -> None:
    """After its first chunk nothing falls back: the deployment has failed, and nobody follows."""
    broken = says(["one", ConnectionError("broken")])
    with pytest.raises(ConnectionError):
        ask_stream(gateway_over(broken, says("no"), on_event=told), "?")
    assert [each.kind for each in told.events] == ["started", "first_chunk", "failed"]
    assert told.events[-1].error == "ConnectionError"


@pytest.mark.parametrize("form", ["invoke", "ainvoke", "stream", "astream"])
@pytest.mark.parametrize("wins", [True, False])
def test_a_hedge(told: Told, form: str, *, wins: bool) -> None:
    """The second one is "hedged", and who loses the race is "abandoned"."""
    gate = threading.Event()

    async def awaited(seconds: float, name: str) -> AIMessage:
        await asyncio.sleep(seconds)
        return AIMessage(name)

    def waited(seconds: float, name: str) -> AIMessage:
        gate.wait(seconds)
        return AIMessage(name)

    def model(name: str, seconds: float) -> Any:
        return RunnableLambda(
            lambda _: waited(seconds, name), lambda _: awaited(seconds, name), name=name
        )

    models = [model("slow", 20.0 if wins else 0.3), model("quick", 0.0 if wins else 20.0)]
    entries = [{"model_name": each.name, "model": each} for each in models]
    hedge = HedgePolicy(delay=0.05, least_delay=0.01)
    try:
        CallForm(form)(GatewayRunnable(entries, hedge=hedge, on_event=told), "?")
    finally:
        gate.set()
    story = told.story()
    assert story[:3] == [("started", "slow", 1), ("hedged", "quick", 2), ("started", "quick", 2)]
    winner, loser = (("quick", 2), ("slow", 1))[:: 1 if wins else -1]
    assert sorted(story[3:]) == [("abandoned", *loser), ("answered", *winner)]


# --- the function ----------------------------------------------------------------------------


def test_it_may_fail(caplog: pytest.LogCaptureFixture, ask: CallForm) -> None:
    """What it raises reaches no call, and is logged once a gateway."""

    def bad(_: GatewayEvent) -> None:
        raise ZeroDivisionError("a secret")

    gateway = gateway_over(down(), says("yes"), on_event=bad)
    for _ in range(3):
        assert ask(gateway, "?").text == "yes"
    lines = [each.message for each in caplog.records if "on_event" in each.message]
    assert len(lines) == 1
    assert "ZeroDivisionError" in lines[0]
    assert "secret" not in lines[0]


def test_an_exit_goes_through(told: Told) -> None:
    """`KeyboardInterrupt` in it ends the call, and every place is given back."""

    def leave(_: GatewayEvent) -> None:
        raise KeyboardInterrupt

    entries: Any = [{"model_name": "a", "model": says("yes"), "max_concurrency": 1}]
    gateway = GatewayRunnable(entries, on_event=leave)
    with pytest.raises(KeyboardInterrupt):
        gateway.invoke("?")
    assert gateway._memory["a"].load.places == 0


@pytest.mark.parametrize("form", ["invoke", "ainvoke", "stream", "astream"])
def test_an_exit_at_a_hedge_goes_through(form: str) -> None:
    """So does one that comes with the second attempt: both places are given back."""

    def leave(event: GatewayEvent) -> None:
        if event.kind == "hedged":
            raise KeyboardInterrupt

    gate = threading.Event()

    async def awaited(_: Any) -> AIMessage:
        await asyncio.sleep(20)
        return AIMessage("late")

    def waited(_: Any) -> AIMessage:
        gate.wait(20)
        return AIMessage("late")

    entries: Any = [
        {"model_name": name, "model": RunnableLambda(waited, awaited), "max_concurrency": 1}
        for name in "ab"
    ]
    hedge = HedgePolicy(delay=0.05, least_delay=0.01)
    gateway = GatewayRunnable(entries, hedge=hedge, on_event=leave)
    with pytest.raises(KeyboardInterrupt):
        CallForm(form)(gateway, "?")
    gate.set()
    assert [gateway._memory[name].load.in_flight for name in "ab"] == [0, 0]


async def _async(event: GatewayEvent) -> None: ...


def _generator(event: GatewayEvent) -> Iterator[None]:
    yield


class _AsyncCall:
    async def __call__(self, event: GatewayEvent) -> None: ...


@pytest.mark.parametrize("function", [_async, partial(_async), _generator, _AsyncCall()])
def test_what_would_never_run_is_told(function: Any) -> None:
    """An async function, or a generator, is refused with what to do."""
    with pytest.raises(ValueError, match=r"on_event takes a plain function.*queue"):
        gateway_over(says("a"), says("b"), on_event=function)


def test_what_is_no_function_is_told() -> None:
    """Anything that cannot be called is refused."""
    with pytest.raises(ValueError, match="on_event"):
        gateway_over(says("a"), says("b"), on_event="print")


def test_it_is_shared_and_not_serialized(told: Told) -> None:
    """Derived gateways tell the same function; a payload does not have it."""
    models: Any = [{"model_name": name, "model": openai_at("http://127.0.0.1:9")} for name in "ab"]
    gateway = GatewayRunnable(models, on_event=told)
    assert "on_event" not in dumpd(gateway)["kwargs"]
    assert "on_event" not in repr(gateway)
    derived: list[Callable[[], Any]] = [
        lambda: gateway.prefer("b"),
        lambda: gateway.bind(model_preference="a"),
        lambda: gateway.with_config(tags=["x"]),
        gateway.as_chat_model,
        lambda: gateway.bind_tools([]),
        lambda: gateway.with_clock(VirtualClock()),
    ]
    for each in derived:
        told.events.clear()
        with pytest.raises(AllModelsFailedError):
            each().invoke("?")
        assert len(told.events) == 4, each


def test_a_copy_may_have_another(told: Told) -> None:
    """`model_copy(update=...)` changes the function for the copy alone."""
    other, gateway = Told(), gateway_over(says("a"), says("b"), on_event=told)
    gateway.model_copy(update={"on_event": other}).invoke("?")
    assert (len(told.events), len(other.events)) == (0, 2)
    third = Told()
    gateway._listeners.add(Events(third))  # as `otel.instrument` does: it stays
    gateway.model_copy(update={"on_event": None}).invoke("?")
    assert (len(told.events), len(other.events), len(third.events)) == (0, 2, 2)
    gateway.invoke("?")
    assert (len(told.events), len(other.events)) == (2, 2)


def test_listeners_come_and_go(told: Told) -> None:
    """What is added in place is told of derived gateways' calls, once, and can be taken away."""
    gateway = gateway_over(says("a"), says("b"))
    derived = gateway.prefer("strong")
    gateway.invoke("?")
    for _ in range(2):
        gateway._listeners.add(Events(told))
    derived.invoke("?")
    assert told.story() == [("started", "strong", 1), ("answered", "strong", 1)]
    gateway._listeners.remove(Events(told))
    derived.invoke("?")
    assert len(told.events) == 2


def test_nothing_private_is_told(told: Told, ask: CallForm) -> None:
    """No prompt, answer, key or error text is in any event."""
    model = openai_at("http://127.0.0.1:9", api_key="sk-SENTINEL-key")
    gateway = gateway_over(
        model, says(ValueError("SENTINEL")), says("SENTINEL"), exceptions_to_handle=Exception
    ).model_copy(update={"on_event": told})
    try:
        ask(gateway, "SENTINEL", model_preference="backup")
        ask(gateway, "SENTINEL")
    except ValueError:
        pass
    assert told.events
    assert "SENTINEL" not in repr(told.events)


# --- it adds up ------------------------------------------------------------------------------

ENDS = {"answered", "failed", "rejected", "abandoned"}


@pytest.fixture
def quiet() -> Iterator[None]:
    logger = logging.getLogger("langchain_model_gateway")
    logger.disabled = True
    yield
    logger.disabled = False


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("streams", [False, True])
async def test_events_add_up_to_what_happened(*, streams: bool) -> None:
    """In random schedules: one end for each start, told alike in sync and async."""
    for seed in range(400):
        schedule, stories = random_schedule(seed), []
        for is_async in (False, True):
            told, rehearsal = Told(), Rehearsal(schedule)
            rehearsal.gateway = rehearsal.gateway.model_copy(update={"on_event": told})
            name = ("a" if is_async else "") + ("stream" if streams else "invoke")
            for pause, preference in schedule.calls:
                begun = len(told.events)
                course = getattr(rehearsal, name)(pause, preference)
                course = await course if is_async else course
                _check(told.events[begun:], course.attempts)
            stories.append(told.events)
        assert stories[0] == stories[1], f"seed {seed}: {schedule}"


def _check(events: list[GatewayEvent], attempts: list[tuple[str, float]]) -> None:
    starts = [each for each in events if each.kind == "started"]
    assert [each.model_name for each in starts] == [name for name, _ in attempts]
    assert [each.attempt for each in starts] == [*range(1, len(starts) + 1)]
    ends = [each for each in events if each.kind in ENDS]
    assert [(each.model_name, each.attempt) for each in ends] == [
        (each.model_name, each.attempt) for each in starts
    ]
    assert all((each.error is None) == (each.kind in {"answered", "abandoned"}) for each in ends)
    answered = sum(each.kind == "answered" for each in ends)
    assert answered <= 1
    assert all(each.seconds is not None and each.seconds >= 0 for each in ends)
