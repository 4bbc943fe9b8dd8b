"""Which of several equal deployments is asked: in turn, the least busy, the fastest, by a value."""

import asyncio
import math
import random
from collections import Counter
from typing import Any

import pytest
from langchain_core.messages import AIMessage
from langchain_core.runnables import Runnable

from langchain_model_gateway import CooldownPolicy, GatewayRunnable
from tests.models import ScriptedChatModel
from tests.schedules import ServerError
from tests.virtual_time import VirtualClock, rehearsed

from .conftest import CallForm
from .models import NEVER, says, who


class Chance(VirtualClock):
    """Virtual time with seeded chance."""

    def __init__(self) -> None:
        super().__init__()
        self.random = random.Random(1)

    def uniform(self, low: float, high: float) -> float:
        return self.random.uniform(low, high)


class Timed(Runnable[Any, Any]):
    """A model that takes its time, and can be out of order."""

    def __init__(self, clock: VirtualClock, takes: float = 0.0) -> None:
        self.clock, self.takes, self.is_down = clock, takes, False

    def invoke(self, input: Any, config: Any = None, **kwargs: Any) -> AIMessage:
        self.clock.spend(self.takes)
        if self.is_down:
            raise ServerError(503, None)
        return AIMessage("hi")


def over(clock: VirtualClock, entries: dict[str, dict[str, Any]], **rules: Any) -> GatewayRunnable:
    models = [
        {"model_name": name, "model": Timed(clock), **entry} for name, entry in entries.items()
    ]
    return rehearsed(GatewayRunnable(models=models, **rules), clock)


def asked(gateway: GatewayRunnable, times: int, config: Any = None) -> str:
    return "".join(who(gateway.invoke("?", config)) for _ in range(times))


def load(gateway: GatewayRunnable, name: str) -> Any:
    return gateway._memory[name].load


# --- tiers ------------------------------------------------------------------------------------


@pytest.mark.parametrize("balance", [None, "weighted", "least_busy", "fastest"])
def test_a_lower_tier_is_tried_first(balance: Any) -> None:
    """With or without a balance; a preferred deployment is before all."""
    clock = Chance()
    entries: dict[str, Any] = {"c": {"tier": 2}, "b": {"tier": 1}, "a": {"tier": 0}}
    gateway = over(clock, entries, balance=balance)
    assert gateway.explain().order == ("a", "b", "c")
    assert asked(gateway, 5) == "aaaaa"
    assert gateway.explain("c").order == ("c", "a", "b")
    assert who(gateway.invoke("?", model_preference="c")) == "c"


@pytest.mark.parametrize("balance", ["weighted", "least_busy", "fastest"])
def test_a_call_falls_back_inside_its_tier_first(balance: Any, ask: CallForm) -> None:
    """Then to the next."""
    entries = [
        {"model_name": "other", "model": says("o"), "tier": 1},
        {"model_name": "down", "model": says(ServerError(503, None))},
        {"model_name": "up", "model": says("u"), "weight": 0.001},
    ]
    gateway = GatewayRunnable(models=entries, balance=balance)
    for _ in range(5):
        assert who(ask(gateway, "?")) == "up"


def test_a_preferred_deployment_is_a_tier_of_its_own() -> None:
    """Nobody shares its load."""
    gateway = over(Chance(), {"a": {}, "b": {}, "c": {}}, balance="weighted", model_preference="b")
    assert asked(gateway, 6) == "bbbbbb"


# --- weighted ---------------------------------------------------------------------------------


def test_weights_are_shares_to_the_call() -> None:
    """Smooth weighted round-robin: evenly spread, exact over each round."""
    gateway = over(Chance(), {"a": {"weight": 3}, "b": {}, "c": {"weight": 2}}, balance="weighted")
    rounds = asked(gateway, 60)
    assert Counter(rounds) == {"a": 30, "b": 10, "c": 20}
    assert rounds[:6] * 10 == rounds
    assert "aaa" not in rounds


def test_asking_for_a_plan_takes_nobodys_turn() -> None:
    """Its first is who the next call asks."""
    gateway = over(Chance(), {"a": {}, "b": {}, "c": {}, "d": {}}, balance="weighted")
    for _ in range(8):
        planned = {gateway.explain().order[0] for _ in range(5)}
        assert planned == {who(gateway.invoke("?"))}


def test_a_plan_tells_the_shares() -> None:
    """By weight, between those that may be asked now."""
    entries: dict[str, Any] = {
        "a": {"weight": 3},
        "b": {},
        "c": {"time_constraints": NEVER},
        "d": {"tier": 1},
    }
    plan = over(Chance(), entries, balance="weighted").explain()
    assert plan.shares == {"a": 0.75, "b": 0.25}
    assert "a  would be tried, 75% of the load" in str(plan)
    assert not over(Chance(), entries).explain().shares
    above = {"first": {}, "last": {"tier": 1}}
    assert over(Chance(), above, balance="weighted").explain().shares == {"first": 1.0}


def test_who_may_not_be_asked_takes_no_turn() -> None:
    """The others share its load by their weights."""
    entries: dict[str, Any] = {"a": {}, "b": {"time_constraints": NEVER}, "c": {"weight": 2}}
    gateway = over(Chance(), entries, balance="weighted")
    assert Counter(asked(gateway, 30)) == {"a": 10, "c": 20}


def test_who_is_in_cooldown_takes_no_turn() -> None:
    """It is the last resort, also under a balance."""
    clock = Chance()
    dead = Timed(clock)
    dead.is_down = True
    once = CooldownPolicy(failure_threshold=1)
    gateway = over(
        clock, {"dead": {"model": dead}, "b": {}, "c": {}}, balance="weighted", cooldown=once
    )
    gateway.invoke("?")
    assert Counter(who(gateway.invoke("?")) for _ in range(10)) == {"b": 5, "c": 5}


def test_derived_gateways_take_turns_together() -> None:
    """They share one state, also where it was never used before."""
    gateway = over(Chance(), {"a": {}, "b": {}}, balance="weighted")
    other = gateway.with_config(tags=["other"])
    third = gateway.model_copy()
    answers = [who(each.invoke("?")) for each in (gateway, other, third, gateway)]
    assert Counter(answers) == {"a": 2, "b": 2}


# --- least busy -------------------------------------------------------------------------------


async def test_the_less_busy_of_two_is_asked() -> None:
    """By weight: who is twice as strong may have twice as much to do."""
    go = asyncio.Event()

    class Slow(Runnable[Any, Any]):
        def invoke(self, input: Any, config: Any = None, **kwargs: Any) -> AIMessage:
            raise NotImplementedError

        async def ainvoke(self, input: Any, config: Any = None, **kwargs: Any) -> AIMessage:
            await go.wait()
            return AIMessage("hi")

    entries = [
        {"model_name": "a", "model": Slow(), "weight": 2},
        {"model_name": "b", "model": Slow()},
    ]
    gateway = GatewayRunnable(models=entries, balance="least_busy")
    tasks = [asyncio.create_task(gateway.ainvoke("?")) for _ in range(30)]
    await asyncio.sleep(0)
    assert (load(gateway, "a").in_flight, load(gateway, "b").in_flight) == (20, 10)
    go.set()
    await asyncio.gather(*tasks)
    assert (load(gateway, "a").in_flight, load(gateway, "b").in_flight) == (0, 0)


def test_idle_traffic_is_shared_by_weight() -> None:
    """A tie goes to the first draw, so the heaviest does not get it all."""
    gateway = over(Chance(), {"a": {"weight": 3}, "b": {}}, balance="least_busy")
    shares = Counter(asked(gateway, 2000))
    assert shares["a"] / 2000 == pytest.approx(0.75, abs=0.03)


# --- fastest ----------------------------------------------------------------------------------


def test_the_faster_one_is_asked() -> None:
    """And the slow one gets its chance again, as what is known of it fades."""
    clock = Chance()
    slow, quick = Timed(clock, 4.0), Timed(clock, 1.0)
    gateway = over(clock, {"slow": {"model": slow}, "quick": {"model": quick}}, balance="fastest")
    shares = Counter(who(gateway.invoke("?")) for _ in range(200))
    assert shares["quick"] > 5 * shares["slow"] > 0
    slow.takes = 0.2
    shares = Counter(who(gateway.invoke("?")) for _ in range(400))
    assert shares["slow"] > shares["quick"]


def test_the_faster_one_is_asked_for_its_weight_and_its_load() -> None:
    """What counts is the latency, times the attempts under way and this one, by the weight."""
    clock = Chance()
    fastest = over(clock, {"a": {"weight": 3}, "b": {}}, balance="fastest")
    slow = over(clock, {"a": {}, "b": {}}, balance="fastest")
    for each, latencies in ((fastest, {"a": 2.0, "b": 1.0}), (slow, {"a": 1.0, "b": 1.7})):
        for name, seconds in latencies.items():
            load(each, name).plain.note(seconds, clock.time)
    assert fastest.explain().order[0] == "a"  # 2/3 against 1
    load(slow, "a").take(None)
    assert slow.explain().order[0] == "b"  # 2 x 1 against 1.7


def test_recent_latencies_are_averaged() -> None:
    """The last 32 or so count, for about 30 s, and then ever less: a quantile is one of them."""
    plain = load(over(Chance(), {"a": {}, "b": {}}, balance="fastest"), "a").plain
    assert plain.quantile(0.98) is None
    plain.note(5.0, 0.0)
    assert plain.mean(0.0) == 5.0
    plain.note(7.0, 0.0)
    assert plain.mean(0.0) == 6.0
    assert plain.mean(30.0) == pytest.approx(12 / math.e)
    for _ in range(10_000):
        plain.note(1.0, 0.0)
    plain.note(33.0, 0.0)
    assert plain.mean(0.0) == pytest.approx((31 * 1 + 33) / 32)
    for number in range(128):
        plain.note(float(number), 0.0)
    assert (plain.quantile(0.5), plain.quantile(0.98)) == (63.0, 125.0)


def test_who_fails_at_once_is_not_quick() -> None:
    """A failure counts as at least one second."""
    clock = Chance()
    broken, sound = Timed(clock, 0.0), Timed(clock, 0.5)
    broken.is_down = True
    entries: dict[str, Any] = {"broken": {"model": broken}, "sound": {"model": sound}}
    gateway = over(clock, entries, balance="fastest")
    for _ in range(100):
        assert who(gateway.invoke("?")) == "sound"
    failed = len(load(gateway, "broken").plain._recent)
    assert failed < 20


def test_streams_and_plain_calls_are_told_apart() -> None:
    """A stream's latency is that of its first chunk."""
    clock = Chance()
    gateway = over(clock, {"a": {"model": Timed(clock, 2.0)}, "b": {}}, balance="fastest")
    for _ in range(10):
        gateway.invoke("?")
        list(gateway.stream("?"))
    assert load(gateway, "a").plain is not load(gateway, "a").streams
    assert load(gateway, "a").streams._recent


# --- affinity ---------------------------------------------------------------------------------


def thread(number: int) -> dict[str, Any]:
    return {"configurable": {"thread_id": f"thread-{number}"}}


def by_thread(gateway: GatewayRunnable, count: int = 400) -> dict[int, str]:
    return {number: who(gateway.invoke("?", thread(number))) for number in range(count)}


@pytest.mark.parametrize("balance", [None, "weighted", "fastest"])
def test_a_thread_stays_with_its_deployment(balance: Any) -> None:
    """In any process, and by weight."""
    entries: dict[str, Any] = {"a": {"weight": 2}, "b": {}, "c": {}}
    rules = {"balance": balance, "affinity": "thread_id"}
    homes = by_thread(over(Chance(), entries, **rules))
    assert by_thread(over(Chance(), entries, **rules)) == homes
    assert Counter(homes.values())["a"] == pytest.approx(200, abs=40)


def test_an_outage_moves_its_own_threads_only() -> None:
    """And they spread over the others."""
    entries: dict[str, Any] = {"a": {}, "b": {}, "c": {}}
    before = by_thread(over(Chance(), entries, affinity="thread_id"))
    entries["b"] = {"time_constraints": NEVER}
    after = by_thread(over(Chance(), entries, affinity="thread_id"))
    moved = {number for number in before if before[number] != after[number]}
    assert moved == {number for number, name in before.items() if name == "b"}
    assert Counter(after[number] for number in moved).keys() == {"a", "c"}


def test_the_same_thread_goes_to_the_same_deployment_for_ever() -> None:
    """The hash does not change with a release, since a prompt cache would go with it."""
    gateway = over(Chance(), {"a": {}, "b": {}, "c": {}}, affinity="thread_id")
    assert "".join(by_thread(gateway, 12).values()) == "cbbbccbcbcbc"


def test_without_a_value_the_balance_decides(ask: CallForm) -> None:
    """Affinity is for the calls that have one."""
    entries = [{"model_name": name, "model": says(name)} for name in "ab"]
    gateway = GatewayRunnable(models=entries, balance="weighted", affinity="thread_id")
    assert {who(ask(gateway, "?")) for _ in range(2)} == {"a", "b"}
    home = who(ask(gateway, "?", thread(1)))
    assert {who(ask(gateway, "?", thread(1))) for _ in range(3)} == {home}


def test_a_clock_that_is_far_behind_the_last_one() -> None:
    """A gateway with another clock has the same state, whatever that clock says."""
    entries = [{"model_name": name, "model": ScriptedChatModel()} for name in "ab"]
    late = VirtualClock()
    late.spend(1e6)
    gateway = rehearsed(GatewayRunnable(entries, balance="fastest"), late)
    for each in (gateway, rehearsed(gateway, VirtualClock())):
        assert each.invoke("?").text == "hello"
        assert each.invoke("?").text == "hello"
