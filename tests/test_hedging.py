"""Two attempts of one call: who wins, what it costs, and what becomes of the other."""

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.runnables import Runnable

from langchain_model_gateway import (
    AllModelsFailedError,
    CooldownPolicy,
    GatewayRunnable,
    HedgePolicy,
    RetryPolicy,
)
from tests.schedules import ServerError

from .models import NEVER

FORMS = ["invoke", "ainvoke", "stream", "astream"]
SOON = HedgePolicy(delay=0.02, least_delay=0.01)
NOW = HedgePolicy(delay=0.02, least_delay=0.01, budget=1.0)


class Model(Runnable[Any, Any]):
    """Answers with its name, when it may, or fails."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.asked = self.cancelled = self.closed = 0
        self.error: Exception | None = None
        self.go = threading.Event()
        self.go.set()

    def _chunks(self) -> Iterator[AIMessageChunk]:
        if self.error is not None:
            raise self.error
        yield AIMessageChunk(self.name)
        yield AIMessageChunk("!")

    def invoke(self, input: Any, config: Any = None, **kwargs: Any) -> AIMessage:
        self.asked += 1
        assert self.go.wait(20)
        first, last = self._chunks()
        return AIMessage(str(first.content) + str(last.content))

    async def _wait(self) -> None:
        self.asked += 1
        try:
            while not self.go.is_set():
                await asyncio.sleep(0.002)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise

    async def ainvoke(self, input: Any, config: Any = None, **kwargs: Any) -> AIMessage:
        await self._wait()
        first, last = self._chunks()
        return AIMessage(str(first.content) + str(last.content))

    def stream(self, input: Any, config: Any = None, **kwargs: Any) -> Iterator[AIMessageChunk]:
        try:
            yield AIMessageChunk("")
            self.asked += 1
            assert self.go.wait(20)
            yield from self._chunks()
        finally:
            self.closed += 1

    async def astream(self, input: Any, config: Any = None, **kwargs: Any) -> Any:
        try:
            yield AIMessageChunk("")
            await self._wait()
            for chunk in self._chunks():
                yield chunk
        finally:
            self.closed += 1


class Trial:
    """A gateway over "slow", "quick" and "third", called in one of four forms."""

    def __init__(self, form: str) -> None:
        self.form = form
        self.slow, self.quick, self.third = (Model(name) for name in ("slow", "quick", "third"))
        self.models = [self.slow, self.quick, self.third]

    def over(self, *limits: dict[str, Any], **rules: Any) -> "Trial":
        entries = [
            {"model_name": model.name, "model": model, **limit}
            for model, limit in zip(self.models, [*limits, {}, {}, {}], strict=False)
        ]
        self.gateway = GatewayRunnable(models=entries, **{"hedge": SOON, **rules})
        return self

    def call(self, config: Any = None, **kwargs: Any) -> Any:
        """The whole answer."""
        match self.form:
            case "invoke":
                return self.gateway.invoke("?", config, **kwargs)
            case "ainvoke":
                return asyncio.run(self.gateway.ainvoke("?", config, **kwargs))
            case "stream":
                return self._added(list(self.gateway.stream("?", config, **kwargs)))
            case _:
                return asyncio.run(self._read(config, kwargs))

    async def _read(self, config: Any, kwargs: Any) -> Any:
        chunks = self.gateway.astream("?", config, **kwargs)
        return self._added([chunk async for chunk in chunks])

    def _added(self, chunks: list[Any]) -> Any:
        first, *rest = chunks
        return first + rest if rest else first

    @property
    def asked(self) -> list[int]:
        return [model.asked for model in self.models]


@pytest.fixture(params=FORMS)
def trial(request: pytest.FixtureRequest) -> Iterator[Trial]:
    trial = Trial(request.param)
    yield trial
    for model in trial.models:
        model.go.set()
    for thread in threading.enumerate():
        if thread.name == "gateway-call":
            thread.join(5)
            assert not thread.is_alive()


def mark(answer: Any) -> Any:
    return answer.response_metadata["gateway"]


def test_where_the_first_takes_long_the_next_is_asked_too(trial: Trial) -> None:
    """The first answer wins, and says who was asked beside."""
    trial.over().slow.go.clear()
    answer = trial.call()
    assert answer.content == "quick!"
    assert mark(answer) == {"model_name": "quick", "failed": [], "hedged": ["slow"]}
    assert trial.asked == [1, 1, 0]


def test_who_answers_in_time_is_asked_alone(trial: Trial) -> None:
    """And its answer says nothing of hedges."""
    answer = trial.over(hedge=HedgePolicy(delay=20)).call()
    assert answer.content == "slow!"
    assert mark(answer) == {"model_name": "slow", "failed": []}
    assert trial.asked == [1, 0, 0]


def test_the_first_may_still_win(trial: Trial) -> None:
    """Then the other is the one beside."""
    trial.over().slow.go.clear()
    trial.quick.go.clear()

    def later() -> None:
        while not trial.quick.asked:
            pass
        trial.slow.go.set()

    thread = threading.Thread(target=later)
    thread.start()
    answer = trial.call()
    thread.join()
    assert mark(answer) == {"model_name": "slow", "failed": [], "hedged": ["quick"]}


def test_a_lost_race_counts_for_the_losers_cooldown(trial: Trial) -> None:
    """What hangs must not stay first for ever."""
    trial.over(cooldown=CooldownPolicy(failure_threshold=1)).slow.go.clear()
    trial.call()
    assert trial.gateway.explain().order == ("quick", "third", "slow")


def test_the_budget_is_a_share_of_the_calls(trial: Trial) -> None:
    """One is saved at the start, and each call adds its share."""
    trial.over(hedge=HedgePolicy(delay=0.02, least_delay=0.01, budget=0.25)).slow.go.clear()
    assert trial.call().content == "quick!"
    threading.Timer(0.1, trial.slow.go.set).start()
    assert trial.call().content == "slow!"
    for _ in range(3):
        assert trial.call().content == "slow!"
    trial.slow.go.clear()
    assert trial.call().content == "quick!"


@pytest.mark.parametrize("why", ["restricted", "limited", "no fallback", "alone"])
def test_only_one_that_is_free_now_is_asked_beside(trial: Trial, why: str) -> None:
    """Never one that is restricted, limited or in cooldown; and none without fallback."""
    limits: dict[str, Any] = {
        "restricted": {"time_constraints": NEVER},
        "limited": {"rpm": 1},
    }.get(why, {})
    if why == "alone":
        trial.models = [trial.slow]
    trial.over({}, limits, limits, hedge=NOW)
    if why == "limited":
        trial.gateway.invoke("?", model_preference="quick")
        trial.gateway.invoke("?", model_preference="third")
    before = trial.asked
    trial.slow.go.clear()
    threading.Timer(0.1, trial.slow.go.set).start()
    answer = trial.call(model_fallback=why != "no fallback")
    assert mark(answer) == {"model_name": "slow", "failed": []}
    assert trial.asked[1:] == before[1:]


def test_a_hedge_takes_from_the_limits_as_any_attempt(trial: Trial) -> None:
    """So the next is not made at who has no room left."""
    trial.over({}, {"rpm": 1, "tpm": 1e6}, hedge=NOW).slow.go.clear()
    for name in ("quick", "third"):
        answer = trial.call()
        assert answer.content == f"{name}!"
        assert mark(answer)["failed"] == []


def test_who_is_asked_beside_is_drawn_by_the_balance(trial: Trial) -> None:
    """As who was asked first."""
    weights: list[dict[str, Any]] = [{"weight": 5}, {"weight": 1}, {"weight": 4}]
    trial.over(*weights, balance="weighted").slow.go.clear()
    answer = trial.call()
    assert answer.content == "third!"
    assert mark(answer)["failed"] == []


def test_when_both_fail_the_call_falls_back(trial: Trial) -> None:
    """To who has not been asked, and without retries."""
    trial.over(retry=RetryPolicy(initial_delay=0.001)).slow.go.clear()
    trial.slow.error = trial.quick.error = ServerError(503, None)
    trial.quick.go.clear()

    def later() -> None:
        while not trial.quick.asked:
            pass
        trial.quick.go.set()
        trial.slow.go.set()

    thread = threading.Thread(target=later)
    thread.start()
    answer = trial.call()
    thread.join()
    assert answer.content == "third!"
    assert sorted(each["model_name"] for each in mark(answer)["failed"]) == ["quick", "slow"]
    assert "hedged" not in mark(answer)
    assert trial.asked == [1, 1, 1]


def test_a_hedge_that_fails_leaves_the_first_alone(trial: Trial) -> None:
    """It was only asked beside."""
    trial.over().slow.go.clear()
    trial.quick.error = ServerError(503, None)
    threading.Timer(0.1, trial.slow.go.set).start()
    answer = trial.call()
    assert answer.content == "slow!"
    assert [each["model_name"] for each in mark(answer)["failed"]] == ["quick"]
    assert trial.asked == [1, 1, 0]


def test_when_all_fail_the_error_tells_all(trial: Trial) -> None:
    """In the order in which they failed."""
    trial.over(hedge=NOW).slow.go.clear()
    for model in trial.models:
        model.error = ServerError(503, None)
    threading.Timer(0.1, trial.slow.go.set).start()
    with pytest.raises(AllModelsFailedError) as failed:
        trial.call()
    names = [failure.model_name for failure in failed.value.failures]
    assert names == ["quick", "slow", "third"]


@pytest.mark.parametrize("form", ["ainvoke", "astream"])
async def test_an_async_loser_is_cancelled_and_awaited(form: str) -> None:
    """Nothing of it is left when the answer is there."""
    trial = Trial(form).over()
    trial.slow.go.clear()
    before = asyncio.all_tasks()
    if form == "ainvoke":
        await trial.gateway.ainvoke("?")
    else:
        stream = trial.gateway.astream("?")
        assert (await anext(stream)).content == ""
        await stream.aclose()
        assert trial.quick.closed == trial.slow.closed == 1
    assert trial.slow.cancelled == 1
    assert asyncio.all_tasks() == before
    assert trial.gateway._memory["slow"].load.places == 0


@pytest.mark.parametrize("form", ["invoke", "stream"])
def test_a_sync_loser_is_abandoned_within_the_bound(form: str) -> None:
    """It keeps its place until it ends, and its stream is closed then."""
    trial = Trial(form).over(hedge=NOW)
    trial.slow.go.clear()
    assert trial.call().content == "quick!"
    assert trial.gateway._memory["slow"].load.places == 1
    trial.slow.go.set()
    for thread in threading.enumerate():
        if thread.name == "gateway-call":
            thread.join(5)
    assert trial.gateway._memory["slow"].load.places == 0
    assert trial.slow.closed == (form == "stream")


async def test_a_hedge_that_fails_before_it_is_awaited_is_its_own_failure() -> None:
    """The first goes on, nothing is said of it, and the other's place is given back."""

    class Broken(Model):
        def ainvoke(self, input: Any, config: Any = None, **kwargs: Any) -> Any:
            raise ServerError(503, None)

    trial = Trial("ainvoke")
    trial.models = [trial.slow, Broken("broken")]
    trial.over().slow.go.clear()
    threading.Timer(0.1, trial.slow.go.set).start()
    answer = await trial.gateway.ainvoke("?")
    assert mark(answer)["model_name"] == "slow"
    assert [each["model_name"] for each in mark(answer)["failed"]] == ["broken"]
    assert trial.gateway._memory["broken"].load.places == 0


async def test_a_caller_who_goes_away_takes_both_along() -> None:
    """A cancellation is nobody's failure."""
    trial = Trial("ainvoke").over(cooldown=CooldownPolicy(failure_threshold=1))
    trial.slow.go.clear()
    trial.quick.go.clear()
    task = asyncio.create_task(trial.gateway.ainvoke("?"))
    while not trial.quick.asked:
        await asyncio.sleep(0.002)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (trial.slow.cancelled, trial.quick.cancelled) == (1, 1)
    assert not trial.gateway.explain().deferred


def test_the_usual_latency_says_when(trial: Trial) -> None:
    """Where that quantile of the recent ones is less than `delay`."""
    trial.over(hedge=HedgePolicy(delay=20, least_delay=0.01, budget=1.0))
    for _ in range(10):
        trial.call()
    trial.slow.go.clear()
    assert trial.call().content == "quick!"


@pytest.mark.parametrize(("known", "asked"), [("invoke", "stream"), ("astream", "ainvoke")])
def test_the_usual_latency_of_a_plain_call_says_nothing_of_a_stream(known: str, asked: str) -> None:
    """Nor the other way round: a stream's is the one to its first chunk."""
    trial = Trial(known).over(hedge=HedgePolicy(delay=20, least_delay=0.01, budget=1.0))
    for _ in range(10):
        trial.call()
    trial.slow.go.clear()
    trial.form, timer = asked, threading.Timer(0.1, trial.slow.go.set)
    timer.start()
    assert trial.call().content == "slow!"
    timer.join()
    assert trial.quick.asked == 0


def test_a_hedges_run_is_tagged(trial: Trial) -> None:
    """Beside its deployment's name."""

    class Tags(BaseCallbackHandler):
        def __init__(self) -> None:
            self.seen: list[list[str]] = []

        def on_chain_start(self, *args: Any, tags: Any = None, **kwargs: Any) -> None:
            self.seen.append(tags or [])

    class Traced(Model):
        def invoke(self, input: Any, config: Any = None, **kwargs: Any) -> AIMessage:
            tags.seen.append(config["tags"])
            return super().invoke(input, config)

    if trial.form != "invoke":
        return
    tags = Tags()
    trial.slow, trial.quick = Traced("slow"), Traced("quick")
    trial.models = [trial.slow, trial.quick]
    trial.over().slow.go.clear()
    trial.call({"callbacks": [tags]})
    slow, quick = tags.seen[1:]
    assert "gateway:hedge" not in slow
    assert {"gateway:hedge", "gateway:deployment:quick"} <= set(quick)


@pytest.mark.parametrize(
    "wrong",
    [{"delay": 0}, {"quantile": 1}, {"budget": 0}, {"budget": 2}, {"least_delay": 3}, {"dely": 1}],
)
def test_a_senseless_policy_is_an_error(wrong: dict[str, Any]) -> None:
    """It names what is wrong."""
    with pytest.raises(ValueError, match=next(iter(wrong))):
        HedgePolicy(**wrong)
