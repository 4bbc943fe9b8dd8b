"""Traffic rehearsed in virtual time: schedules reckoned by hand, and a real run beside one."""

import asyncio
import logging
import re
import sys
from collections import Counter
from collections.abc import Sequence
from copy import deepcopy
from datetime import UTC, datetime
from typing import Any

import pytest
from langchain_core.messages import AIMessage
from langchain_core.runnables import Runnable, RunnableLambda
from pydantic import ValidationError

from langchain_model_gateway import (
    AllModelsFailedError,
    CooldownPolicy,
    GatewayRunnable,
    HedgePolicy,
    RetryPolicy,
)
from langchain_model_gateway.rehearsal import (
    Comparison,
    Latency,
    Provider,
    Rehearsal,
    Traffic,
    rehearse,
)

SECOND = Provider(latency=1.0)


def never(_: Any) -> AIMessage:
    raise ConnectionError("a rehearsal calls no model")


def gateway(
    names: str = "ab", *, limits: dict[str, Any] | None = None, **rules: Any
) -> GatewayRunnable:
    """A gateway of which each letter is a deployment."""
    model = RunnableLambda(never)
    models = [{"model_name": n, "model": model, **(limits or {})} for n in names]
    return GatewayRunnable(models, **rules)  # type: ignore[arg-type]


def at(*moments: float, **settings: Any) -> Traffic:
    """Calls at these moments."""
    return Traffic(arrivals=moments, **settings)


def told(rehearsal: Rehearsal) -> list[tuple[float, float, str | None]]:
    """When each call began, how long it took, and who answered."""
    return [call[:3] for call in rehearsal.calls]


def ends(rehearsal: Rehearsal) -> list[tuple[str, float, float, str]]:
    """Who was asked, when, how long that took, and how it ended."""
    return [attempt[:4] for attempt in rehearsal.attempts]


# --- schedules reckoned by hand ---------------------------------------------------------------


def test_callers_are_concurrent() -> None:
    """Three callers who come within one answer's time all have theirs after that time."""
    done = rehearse(gateway(), at(0, 0.25, 0.5), SECOND)
    assert told(done) == [(0, 1, "a"), (0.25, 1, "a"), (0.5, 1, "a")]
    assert done.asked == done.answers == {"a": 3, "b": 0}


def test_a_call_falls_back_in_an_outage() -> None:
    """A failure takes its time; an outage ends before its last moment."""
    providers = {"a": Provider(latency=1.0, outages=[(0, 8)], error_after=0.25), "b": SECOND}
    done = rehearse(gateway(), at(0, 4, 8), providers)
    assert told(done) == [(0, 1.25, "b"), (4, 1.25, "b"), (8, 1, "a")]
    assert ends(done)[:2] == [("a", 0, 0.25, "failed"), ("b", 0.25, 1, "answered")]
    assert told(done.in_trouble) == told(done.between(0, 8)) == told(done)[:2]


def test_a_slow_spell_multiplies_the_latency() -> None:
    """What is asked for in a slow spell takes so many times as long, to its end."""
    done = rehearse(gateway(), at(0, 2, 4), Provider(latency=1.0, slow=[(2, 4, 6)]))
    assert [call.seconds for call in done.calls] == [1, 6, 1]


def test_nobody_left_is_a_lost_call() -> None:
    """A call that all deployments fail is lost after the time that this took."""
    done = rehearse(gateway(), at(0, 60), Provider(outages=[(0, 30)], error_after=0.5))
    assert (done.answered, done.lost) == (1, 1)
    assert done.calls[0][:3] == (0, 1, None)


@pytest.mark.parametrize(
    ("counted", "let_through"),
    [("bucket", 6 + 9), ("clock minute", 60), ("sliding minute", 60), ("ten seconds", 10)],
)
def test_a_provider_lets_through_what_it_counts(counted: Any, let_through: int) -> None:
    """Of 100 calls in ten seconds: a bucket's tenth and what fills in; a minute's; a sixth."""
    alone = gateway("a")
    every_tenth = at(*(n / 10 for n in range(100)))
    done = rehearse(alone, every_tenth, Provider(latency=1.0, rpm=60, counted=counted))
    assert (done.answered, done.lost) == (let_through, 100 - let_through)
    assert done.rate_limited == done.lost


@pytest.mark.parametrize(
    ("counted", "opens"),
    [("bucket", 1), ("clock minute", 20), ("sliding minute", 60), ("ten seconds", 10)],
)
def test_a_429_says_when_to_come_back(counted: Any, opens: int) -> None:
    """Who waits for what `Retry-After` says, and no longer, is let through."""
    patient = gateway("a", retry=RetryPolicy(initial_delay=1e-9, max_retry_after=60))
    burst = {"bucket": 6, "ten seconds": 10}.get(counted, 60)
    provider = Provider(latency=1.0, rpm=60, counted=counted)
    done = rehearse(patient, at(*[40.0] * (burst + 1)), provider)
    *_, last = sorted(done.calls, key=lambda call: call.seconds)
    assert last.waits == (opens,)
    assert last.seconds == pytest.approx(0.01 + opens + 1)
    assert [attempt.end for attempt in last.attempts] == ["429", "answered"]
    assert done.waited == opens


def test_a_429_speaks_in_whole_seconds() -> None:
    """Three quarters of a second are told as one."""
    patient = gateway("a", retry=RetryPolicy(initial_delay=1e-9))
    done = rehearse(patient, at(*[0.0] * 6, 0.25), Provider(latency=1.0, rpm=60))
    assert done.calls[-1].waits == (1,)


def test_a_429_need_not_say_when_to_come_back() -> None:
    """Without `Retry-After`, the wait is the policy's own."""
    patient = gateway("a", retry=RetryPolicy(initial_delay=0.5))
    provider = Provider(latency=1.0, rpm=10, counted="clock minute", tells_retry_after=False)
    done = rehearse(patient, at(*[0.0] * 11), provider)
    assert 0 < max(call.waits[0] for call in done.calls if call.waits) <= 0.5


def test_a_provider_counts_tokens() -> None:
    """3,000 tokens a minute are four calls of 750 in a minute."""
    traffic = at(*range(10), input_tokens=700, output_tokens=50)
    done = rehearse(gateway(), traffic, Provider(latency=1.0, tpm=3000, counted="clock minute"))
    assert done.answers == {"a": 4, "b": 4}
    assert (done.lost, done.rate_limited) == (2, 6 + 2)


def test_an_attempt_is_cut_at_its_timeout() -> None:
    """What hangs has timed out at the deployment's limit; the next is asked."""
    providers = {"a": Provider(hang_share=1), "b": SECOND}
    done = rehearse(gateway(limits={"timeout": 5}), at(0), providers)
    assert told(done) == [(0, 6, "b")]
    assert ends(done)[0] == ("a", 0, 5, "timed out")


def test_a_client_gives_up_by_itself() -> None:
    """With no limit at all, what hangs takes as long as its client waits."""
    providers = {"a": Provider(hang_share=1, hang_after=90), "b": SECOND}
    assert told(rehearse(gateway(), at(0), providers)) == [(0, 91, "b")]


def test_a_call_ends_at_its_deadline() -> None:
    """The gateway's timeout cuts the attempt under way, and the call is lost."""
    done = rehearse(gateway(timeout=1.5), at(0), Provider(latency=2.0))
    assert told(done) == [(0, 1.5, None)]


def test_a_cooldown_is_kept_and_spares_callers() -> None:
    """Three failures, then 30 s without a call, one probe, and so on until the outage is over."""
    providers = {"a": Provider(latency=1.0, outages=[(0, 50)], error_after=0.5), "b": SECOND}
    policy = CooldownPolicy(failure_threshold=3, duration=30)
    done = rehearse(gateway(cooldown=policy), at(*range(0, 200, 10)), providers)
    asked = [attempt.began for attempt in done.attempts if attempt.model_name == "a"]
    # Failures at 0.5, 10.5, 20.5: closed to 50.5; the call at 60 is the probe.
    assert asked == [0, 10, 20, *range(60, 200, 10)]
    assert [tuple(each) for each in done.cooldowns] == [("a", 20.5, 61)]


def test_a_probe_that_fails_prolongs_a_cooldown() -> None:
    """It is one cooldown, from its beginning to the first success."""
    providers = {"a": Provider(latency=1.0, outages=[(0, 80)], error_after=0.5), "b": SECOND}
    policy = CooldownPolicy(failure_threshold=3, duration=30)
    done = rehearse(gateway(cooldown=policy), at(*range(0, 200, 10)), providers)
    # The probe at 60 fails at 60.5: closed for twice as long, to 120.5.
    assert [tuple(each) for each in done.cooldowns] == [("a", 20.5, 131)]


def test_restricted_hours_hold_at_their_time_of_day() -> None:
    """A rehearsal that begins a minute before a window sees it begin."""
    windows = {"time_constraints": [("22:00", "23:00")]}
    models = [
        {"model_name": "a", "model": RunnableLambda(never), **windows},
        {"model_name": "b", "model": RunnableLambda(never)},
    ]
    evening = datetime(2026, 1, 5, 21, 59, tzinfo=UTC)
    done = rehearse(GatewayRunnable(models), at(0, 59, 61), SECOND, at=evening)  # type: ignore[arg-type]
    assert [call.answered_by for call in done.calls] == ["a", "a", "b"]


def test_a_preference_holds() -> None:
    """The gateway's own preference is everybody's, and without fallback nobody else is asked."""
    providers = {"a": SECOND, "b": Provider(outages=[(0, 900)])}
    assert rehearse(gateway(model_preference="b"), at(0), providers).asked == {"a": 1, "b": 1}
    alone = gateway(model_preference="b", model_fallback=False)
    assert rehearse(alone, at(0), providers).asked == {"a": 0, "b": 1}


def test_a_streams_latency_is_to_its_first_chunk() -> None:
    """And the attempt's limit is to there, too."""
    provider = Provider(latency=8.0, first_chunk=0.25)
    done = rehearse(gateway(limits={"timeout": 2}), at(0, streams=True), provider)
    assert told(done) == [(0, 2, "a")]


def test_a_stream_that_passes_its_deadline_is_lost() -> None:
    """It is raised to the caller: no other model goes on with an answer that has begun."""
    provider = Provider(latency=8.0, first_chunk=0.25)
    done = rehearse(gateway(timeout=4), at(0, streams=True), provider)
    assert told(done) == [(0, 4, None)]
    assert done.asked == {"a": 1, "b": 0}


@pytest.mark.parametrize("timeout", [None, 9])
def test_a_stream_that_flows_is_no_stall(timeout: float | None) -> None:
    """A limit between two chunks does not cut an answer that takes longer as a whole."""
    limited = gateway(limits={"stall_timeout": 1}, timeout=timeout)
    done = rehearse(limited, at(0, streams=True), Provider(latency=8.0, first_chunk=0.25))
    assert told(done) == [(0, 2, "a")]


def test_a_probe_that_streams_ends_a_cooldown_at_its_end() -> None:
    """A stream is an answer when it has ended, not before."""
    provider = Provider(latency=8.0, first_chunk=0.5, outages=[(0, 1)], error_after=0.5)
    cool = gateway("a", cooldown=CooldownPolicy(failure_threshold=1, duration=10))
    done = rehearse(cool, at(0, 20, streams=True), provider)
    assert [tuple(each) for each in done.cooldowns] == [("a", 0.5, 28)]


@pytest.mark.parametrize("streams", [False, True])
def test_answers_that_are_rejected_fall_back(streams: bool) -> None:
    """A gateway's own `reject` is asked, of what a modelled provider says."""
    asked = []

    def is_first(answer: AIMessage) -> bool:
        asked.append(answer.text)
        return len(asked) == 1

    done = rehearse(gateway(reject=is_first), at(0, streams=streams), SECOND)
    # A stream is rejected when it has ended, and its text has been delivered.
    assert told(done)[0][2] == (None if streams else "b")
    assert asked[0]


# --- traffic rules ----------------------------------------------------------------------------


def test_limits_keep_a_provider_from_saying_429() -> None:
    """The gateway's own limits, against a provider that counts as they do; and without them."""
    traffic, provider = Traffic(calls_per_second=4, seconds=300), Provider(latency=1.0, rpm=150)
    limited = rehearse(gateway(limits={"rpm": 150}), traffic, {"a": provider, "b": SECOND})
    assert limited.rate_limited == 0 == limited.lost
    assert limited.asked["a"] == pytest.approx(150 * 5 + 15, rel=0.02)
    assert rehearse(gateway(), traffic, {"a": provider, "b": SECOND}).rate_limited > 100


def test_a_wait_for_room_is_a_wait() -> None:
    """Five at once, the sixth twelve seconds later: exactly, and told as waited."""
    patient = gateway("a", limits={"rpm": 5}, max_wait=30)
    done = rehearse(patient, at(*[0.0] * 7), SECOND)
    assert [call.seconds for call in done.calls] == [1, 1, 1, 1, 1, 13, 25]
    assert done.waited == 12 + 24


def test_tokens_are_counted_and_corrected() -> None:
    """An estimate that knows nothing of the answers is put right by what they say."""
    traffic = Traffic(calls_per_second=1.4, seconds=300, output_tokens=500)
    provider = Provider(latency=1.0, tpm=60_000, counted="sliding minute")
    for streams in (False, True):
        asked = traffic.model_copy(update={"streams": streams})
        limited = rehearse(gateway(limits={"tpm": 50_000}), asked, {"a": provider, "b": SECOND})
        assert limited.rate_limited == 0
        assert limited.asked["a"] == pytest.approx(50 * 5 + 5, rel=0.1)


def test_an_error_costs_no_tokens() -> None:
    """What was reserved for a request that failed is there for the next one."""
    providers = {"a": Provider(latency=1.0, outages=[(0, 0.5)]), "b": SECOND, "c": SECOND}
    done = rehearse(gateway("abc", limits={"tpm": 1000}), at(0, 1), providers)
    assert [call.answered_by for call in done.calls] == ["b", "a"]


def test_places_are_a_bound() -> None:
    """With room for two at once, the third caller waits until one has gone."""
    done = rehearse(gateway("a", limits={"max_concurrency": 2}), at(0, 0, 0, 0), SECOND)
    spans = [(attempt.began, attempt.began + attempt.seconds) for attempt in done.attempts]
    assert max(sum(one <= moment < end for one, end in spans) for moment, _ in spans) == 2
    assert done.calls[-1].seconds == pytest.approx(2, abs=0.3)
    assert sum(bool(call.waits) for call in done.calls) == 2


@pytest.mark.parametrize("balance", ["weighted", "least_busy", "fastest"])
def test_a_balance_shares_the_load(balance: Any) -> None:
    """The gateway's own balance draws, with chance from the seed."""
    shared = gateway(balance=balance)
    one, same = (rehearse(shared, Traffic(calls_per_second=5, seconds=600), SECOND) for _ in "12")
    assert one.answers["a"] == pytest.approx(one.answers["b"], rel=0.1)
    assert one.calls == same.calls


def test_the_fastest_spares_a_slow_one() -> None:
    """In a slow spell, hardly any are asked of the slow one; without a balance, all are."""
    providers = {"a": Provider(latency=1.0, slow=[(100, 200, 10)]), "b": SECOND}
    traffic = Traffic(calls_per_second=5, seconds=300)
    listed, fastest = (
        rehearse(gateway(balance=balance), traffic, providers).in_trouble
        for balance in (None, "fastest")
    )
    assert listed.p50 == 10
    assert fastest.p50 == 1
    assert fastest.asked["a"] * 4 < fastest.asked["b"]


def test_much_traffic_does_not_hide_that_one_has_become_slow() -> None:
    """Many good answers a moment ago weigh no more than a few: within 10 s it is hardly asked."""
    slow = Provider(latency=1.0, slow=[(100, 200, 6)])
    providers = {"a": slow, "b": SECOND, "c": SECOND, "d": SECOND}
    traffic = Traffic(calls_per_second=20, seconds=200)
    fastest = gateway("abcd", balance="fastest")
    done = [rehearse(fastest, traffic, providers, seed=seed) for seed in range(3)]
    assert sum(each.between(110, 160).asked["a"] for each in done) < 75  # of 3,000


def test_a_thread_keeps_its_deployment() -> None:
    """With affinity, the calls of a conversation go to one deployment; without, to both."""
    traffic = Traffic(calls_per_second=5, seconds=100, threads=1)
    kept = rehearse(gateway(balance="weighted", affinity="thread_id"), traffic, SECOND)
    assert sorted(kept.answers.values()) == [0, len(kept.calls)]
    shared = rehearse(gateway(balance="weighted"), traffic, SECOND)
    assert min(shared.answers.values()) > 100


# --- hedging ----------------------------------------------------------------------------------


HEDGE = HedgePolicy(delay=2.0, budget=1.0)


@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize(
    ("first", "second", "answer", "loser"),
    [
        (1.0, 1.0, (1, "a"), []),  # in time: nobody else is asked
        (9.0, 1.0, (3, "b"), ["a"]),
        (2.5, 1.0, (2.5, "a"), ["b"]),
    ],
)
def test_the_first_answer_wins_a_race(
    streams: bool, first: float, second: float, answer: Any, loser: list[str]
) -> None:
    """A hedge is asked when the first one is slow, and who is slower is overtaken."""
    latencies = {"a": first, "b": second}
    providers = {n: Provider(latency=s, first_chunk=1) for n, s in latencies.items()}
    done = rehearse(gateway(hedge=HEDGE), at(0, streams=streams), providers)
    assert told(done) == [(0, *answer)]
    assert [a.model_name for a in done.attempts if a.end == "overtaken"] == loser
    assert [a.model_name for a in done.attempts if a.is_hedge] == ["b"] * len(loser)
    assert done.hedged == len(loser)


def test_a_race_goes_on_when_one_fails() -> None:
    """An error beside a slow answer is no loss: the other leg is waited for."""
    providers = {"a": Provider(latency=4.0), "b": Provider(outages=[(0, 9)])}
    done = rehearse(gateway(hedge=HEDGE), at(0), providers)
    assert told(done) == [(0, 4, "a")]
    assert [end for *_, end in ends(done)] == ["failed", "answered"]


def test_an_error_that_is_the_callers_ends_a_race() -> None:
    """The other leg is let go, and gives its place back."""
    hedging = gateway(
        hedge=HEDGE, exceptions_to_handle=(LookupError,), limits={"max_concurrency": 1}
    )
    providers = {"a": Provider(latency=4.0), "b": Provider(latency=1.0, outages=[(0, 9)])}
    done = rehearse(hedging, at(0, 10), providers)
    assert [call[1:3] for call in done.calls] == [(2.1, None), (3, "b")]
    assert [end for *_, end in ends(done)] == ["failed", "overtaken", "answered", "overtaken"]


def test_who_is_overtaken_has_failed() -> None:
    """As far as its cooldown is concerned; but not where nobody has won."""
    cool = CooldownPolicy(failure_threshold=1)
    providers = {"a": Provider(latency=9.0), "b": Provider(latency=1.0, outages=[(5, 9)])}
    won = rehearse(gateway(hedge=HEDGE, cooldown=cool), at(0), providers)
    assert [each.began for each in won.cooldowns] == [3]
    raised = gateway(hedge=HEDGE, cooldown=cool, exceptions_to_handle=(LookupError,))
    assert rehearse(raised, at(4), providers).cooldowns == ()


def test_hedges_keep_to_their_budget() -> None:
    """Not more than the share that they may be, and ten; and hangs are hardly felt."""
    traffic, provider = Traffic(calls_per_second=5, seconds=400), Provider(hang_share=0.02)
    limits = {"timeout": 30}
    plain, hedged = (
        rehearse(gateway(limits=limits, hedge=hedge), traffic, provider)
        for hedge in (None, HedgePolicy(delay=5.0, quantile=0.98, budget=0.05))
    )
    assert 0 < hedged.hedged <= 0.05 * len(hedged.calls) + 10
    assert plain.p99 > 30
    assert hedged.p99 < 8


# --- what a rehearsal leaves alone ------------------------------------------------------------


def test_the_gateway_is_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    """Nothing of a rehearsal is remembered, and nothing is logged."""
    caplog.set_level(logging.DEBUG, "langchain_model_gateway")
    cool = gateway(cooldown=CooldownPolicy(failure_threshold=1), retry=RetryPolicy())
    before = deepcopy(cool)
    down = Provider(outages=[(0, 900)])
    first, second = (rehearse(cool, at(*range(9)), down) for _ in range(2))
    assert first.lost == 9
    assert (first.calls, first.cooldowns) == (second.calls, second.cooldowns)
    assert cool == before
    assert cool.explain().deferred == ()
    assert caplog.records == []


def test_what_a_gateway_remembers_is_no_part_of_a_rehearsal() -> None:
    """A deployment that is in cooldown now is not at the rehearsal's beginning."""
    cool = gateway("a", cooldown=CooldownPolicy(failure_threshold=1))
    with pytest.raises(AllModelsFailedError):
        cool.invoke("?")
    assert cool.explain().deferred
    assert rehearse(cool, at(0), SECOND).answered == 1


def test_calls_that_come_at_once_keep_their_order() -> None:
    """Ten callers at the same moment, some of them lost: nothing is mixed up."""
    provider = Provider(latency=0.01, rpm=5, counted="clock minute")
    done = rehearse(gateway("a"), at(*[1.0] * 10), provider)
    assert [call.answered_by for call in done.calls] == ["a"] * 5 + [None] * 5


def test_the_same_seed_gives_the_same_rehearsal() -> None:
    """Chance is the seed's alone, the jitter of the gateway's retries included."""
    retrying = gateway(retry=RetryPolicy())
    traffic, provider = Traffic(calls_per_second=5, seconds=60), Provider(error_share=0.3)
    one, same, other = (rehearse(retrying, traffic, provider, seed=s).calls for s in (1, 1, 2))
    assert one == same != other
    assert any(call.waits for call in one)


def test_chance_keeps_to_what_it_is_told() -> None:
    """Arrivals, latencies, errors and hangs come as often as they should."""
    provider = Provider(
        latency=Latency(median=1.0, p99=4.0), error_share=0.1, hang_share=0.05, error_after=0.01
    )
    traffic = Traffic(calls_per_second=10, seconds=1000)
    done = rehearse(gateway("a", limits={"timeout": 100}), traffic, provider)
    assert len(done.calls) == pytest.approx(10_000, rel=0.03)
    share = Counter(attempt.end for attempt in done.attempts)
    assert share["failed"] == pytest.approx(1000, rel=0.1)
    assert share["timed out"] == pytest.approx(500, rel=0.15)
    seconds = sorted(a.seconds for a in done.attempts if a.end == "answered")
    assert seconds[len(seconds) // 2] == pytest.approx(1, rel=0.05)
    assert seconds[len(seconds) * 99 // 100] == pytest.approx(4, rel=0.15)


def test_measured_latencies_are_drawn_from() -> None:
    """A list is what a log tells: nothing else comes of it."""
    done = rehearse(gateway(), Traffic(calls_per_second=5, seconds=60), Provider(latency=[1, 2, 4]))
    assert {round(call.seconds, 9) for call in done.calls} == {1, 2, 4}


# --- a real run -------------------------------------------------------------------------------


class RealProvider(Runnable[Any, Any]):
    """Answers so many calls in the test's life, then says 429; a hang is for ever."""

    def __init__(self, capacity: int, seconds: float) -> None:
        self.capacity, self.seconds, self.asked = capacity, seconds, 0

    def invoke(self, input: Any, config: Any = None, **kwargs: Any) -> Any:
        raise NotImplementedError

    async def ainvoke(self, input: Any, config: Any = None, **kwargs: Any) -> AIMessage:
        self.asked += 1
        if self.asked > self.capacity:
            error = ConnectionError("429")
            error.status_code = 429  # type: ignore[attr-defined]
            raise error
        await asyncio.sleep(self.seconds)
        return AIMessage("!")


async def test_a_real_run_comes_to_the_same() -> None:
    """Forty callers of real providers, each after its time: the same counts, in real time.

    One hangs until it is cut, one has room for twelve, one for all; a cooldown spares the first.
    """
    real = [RealProvider(99, 60), RealProvider(12, 0.01), RealProvider(99, 0.02)]
    models = [
        {"model_name": name, "model": model, "timeout": 0.25}
        for name, model in zip("abc", real, strict=True)
    ]
    cool = GatewayRunnable(models, cooldown=CooldownPolicy(failure_threshold=4))  # type: ignore[arg-type]
    # Eight at once, all of which hang; the others come when they have been cut.
    moments = [0.0] * 8 + [0.6 + n / 100 for n in range(32)]

    async def caller(moment: float) -> str:
        await asyncio.sleep(moment)
        answer = await cool.ainvoke("?")
        return str(answer.response_metadata["gateway"]["model_name"])

    answers = Counter(await asyncio.gather(*map(caller, moments)))
    providers = {
        "a": Provider(hang_share=1),
        "b": Provider(latency=0.01, rpm=12, counted="clock minute", tells_retry_after=False),
        "c": Provider(latency=0.02),
    }
    done = rehearse(cool, at(*moments), providers)
    assert done.answers == {"a": 0, "b": 12, "c": 28} == {"a": 0} | answers
    assert done.asked["a"] == real[0].asked == 8
    # Those that are under way when the fourth fails are asked as well; a busy machine has more.
    assert 4 <= done.rate_limited <= 6
    assert 4 <= real[1].asked - 12 <= 10


# --- numbers, tables, pictures ----------------------------------------------------------------


def storm(**settings: Any) -> Rehearsal:
    providers = {
        "a": Provider(rpm=300, outages=[(20, 40)], **settings),
        "b <script>": Provider(error_share=0.2),
    }
    models = [{"model_name": name, "model": RunnableLambda(never)} for name in providers]
    cool = GatewayRunnable(models, cooldown=CooldownPolicy())  # type: ignore[arg-type]
    return rehearse(cool, Traffic(calls_per_second=10, seconds=60), providers)


def test_the_numbers_add_up() -> None:
    """Each call is answered or lost, each attempt is somebody's, and trouble is a part of all."""
    done = storm()
    assert done.answered + done.lost == len(done.calls)
    assert sum(done.answers.values()) == done.answered
    assert sum(done.asked.values()) == sum(len(call.attempts) for call in done.calls)
    assert done.rate_limited == sum(a.end == "429" for call in done.calls for a in call.attempts)
    assert done.rate_limited > 0 < done.lost
    assert 0 < len(done.in_trouble.calls) < len(done.calls)
    assert done.hedged == 0


def test_percentiles_are_calls_that_there_were() -> None:
    """The nearest rank: of 200 latencies, the median is the 100th, and 99 % the 198th."""
    latencies = [(n + 1) / 8 for n in range(200)]
    calls = [(float(n), seconds) for n, seconds in enumerate(latencies)]
    slow = [(moment, moment + 1, seconds) for moment, seconds in calls]
    moments = [moment for moment, _ in calls]
    done = rehearse(gateway(), at(*moments), Provider(latency=1.0, slow=slow))
    assert (done.p50, done.p99, done.p999) == (12.5, 198 / 8, 25)
    assert done.latency(0) == latencies[0]
    assert done.between(1000, 2000).p99 == 0


def test_it_prints_as_tables() -> None:
    """The numbers, all the time and in trouble; and each deployment's attempts."""
    providers = {"a": Provider(latency=1.0, outages=[(0, 8)], error_after=0.25), "b": SECOND}
    done = rehearse(gateway(cooldown=CooldownPolicy()), at(0, 4, 8, seconds=10), providers)
    assert str(done).splitlines() == [
        "3 calls in 10 s",
        "              answered  lost  429s  hedged  waited s  p50 s  p99 s  p99.9 s",
        "all the time         3     0     0       0       0.0    1.2    1.2      1.2",
        "in trouble           2     0     0       0       0.0    1.2    1.2      1.2",
        "",
        "How the attempts ended",
        "   answered  429  timed out  failed  overtaken  in cooldown s",
        "a         1    0          0       2          0              0",
        "b         2    0          0       0          0              0",
    ]
    assert repr(done) == str(done)


def test_two_settings_are_compared() -> None:
    """A row for each, with the numbers in trouble beside."""
    providers = {"a": Provider(latency=1.0, outages=[(0, 80)], error_after=2), "b": SECOND}
    policies = {"none": None, "cooldown": CooldownPolicy(failure_threshold=1, duration=60)}
    traffic = at(*range(0, 100, 5))
    tried = {n: rehearse(gateway(cooldown=p), traffic, providers) for n, p in policies.items()}
    none, cooldown = str(Comparison(tried)).splitlines()[2:]
    assert none.split() == ["none", "20", "0", "0", "0", "0.0", "3.0", "3.0", "3.0", "3.0"]
    assert cooldown.split() == ["cooldown", *none.split()[1:6], "1.0", "3.0", "3.0", "3.0"]


def test_it_shows_in_a_notebook_with_everything_escaped() -> None:
    """A deployment's name, or a setting's, is text, not markup."""
    for shown in (storm(), Comparison({"<b>x": storm()})):
        markup = shown._repr_html_()
        assert "<script>" not in markup
        assert "<b>x" not in markup
        assert markup.count("<table") == markup.count("</table>") > 0
    assert "b &lt;script&gt;" in storm()._repr_html_()


def test_it_draws_what_happened() -> None:
    """A dot for each call, in the colour of who answered; settings below each other."""
    pyplot = pytest.importorskip("matplotlib.pyplot")
    pyplot.switch_backend("agg")
    done = storm()
    axes = done.plot()
    dots = sum(len(each.get_offsets()) for each in axes.collections if each.get_label()[0] != "_")
    assert dots == len(done.calls)
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == ["a", "b <script>", "lost"]
    panels = Comparison(one=done, two=done).plot()
    assert [each.get_title("left") for each in panels] == ["one", "two"]
    axes.figure.canvas.draw()
    pyplot.close("all")


def test_drawing_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without matplotlib all else works, and `plot()` tells what it needs."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match="pip install matplotlib"):
        storm().plot()


# --- what is malformed ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: Provider(latencies=1), "did you mean latency"),
        (lambda: Provider(latency=0), "latency"),
        (lambda: Provider(rpm=0), "rpm"),
        (lambda: Provider(counted="daily"), "clock minute"),
        (lambda: Provider(hang_share=1.5), "hang_share"),
        (lambda: Provider(slow=[(0, 10)]), "slow"),
        (lambda: Provider(outages=[(-1, 10)]), "outages"),
        (lambda: Provider(outages=[(20, 10)]), "begins at 20.0 and ends at 10.0"),
        (lambda: Provider(hang_share=0.6, error_share=0.6), "more than all"),
        (lambda: Latency(median=2, p99=1), "less than the median"),
        (lambda: Traffic(calls_per_second=0), "calls_per_second"),
        (Traffic, "either calls_per_second or arrivals"),
        (lambda: Traffic(calls_per_second=1, arrivals=[1]), "either"),
    ],
)
def test_malformed_settings_are_told(make: Any, complaint: str) -> None:
    """An error names what is wrong, and what was probably meant."""
    with pytest.raises(ValidationError, match=re.escape(complaint)):
        make()


@pytest.mark.parametrize(
    ("providers", "complaint"),
    [
        ({"a": SECOND}, "providers has no Provider for 'b'"),
        ({"a": SECOND, "b": SECOND, "c": SECOND}, "'c' is unknown"),
        ({"a": SECOND, "b": 1.0}, "'b' is a float"),
    ],
)
def test_each_deployment_has_a_provider(providers: Any, complaint: str) -> None:
    """One too few, one too many, and something else are told by name."""
    with pytest.raises(ValueError, match=complaint):
        rehearse(gateway(), at(0), providers)


def test_only_a_gateway_is_rehearsed() -> None:
    """A binding around one is told by its type."""
    with pytest.raises(TypeError, match="takes a GatewayRunnable, got RunnableBinding"):
        rehearse(gateway().with_config(tags=["x"]), at(0), SECOND)  # type: ignore[arg-type]


def test_a_naive_moment_is_an_error() -> None:
    """A time of day without a timezone is no moment."""
    with pytest.raises(ValueError, match="naive"):
        rehearse(gateway(), at(0), SECOND, at=datetime(2026, 1, 5))


def test_settings_are_frozen() -> None:
    """What was given is copied, and stays as it is."""
    outages: Sequence[Any] = [(0, 10)]
    provider = Provider(outages=outages)
    outages.append((20, 30))  # type: ignore[attr-defined]
    assert provider.outages == ((0, 10),)
    with pytest.raises(ValidationError):
        provider.rpm = 5  # type: ignore[misc]
