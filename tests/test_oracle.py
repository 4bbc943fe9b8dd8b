"""10,000 random fault schedules, sync and async, against an oracle written from the contract."""

import asyncio
import logging
import random
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.oracle import Oracle, is_inside
from tests.races import Race, RaceOracle, random_race
from tests.schedules import Course, Deployment, Outcome, Rehearsal, Schedule, random_schedule
from tests.virtual_time import LoopClock, ThreadClock, VirtualLoop

SCHEDULES = 10_000
CHUNK = 100


@pytest.fixture(autouse=True)
def _no_log_lines() -> Iterator[None]:
    logger = logging.getLogger("langchain_model_gateway")
    logger.disabled = True
    yield
    logger.disabled = False


@pytest.mark.parametrize("first", range(0, SCHEDULES, CHUNK))
def test_sync_calls_go_as_the_contract_says(first: int) -> None:
    """Attempts, waits, and the answer or error of every call are the oracle's, exactly."""
    for seed in range(first, first + CHUNK):
        schedule, streams = random_schedule(seed), seed % 2 == 1
        oracle, rehearsal = Oracle(schedule, streams=streams), Rehearsal(schedule)
        run = rehearsal.stream if streams else rehearsal.invoke
        for (pause, preference), held in zip(schedule.calls, schedule.holds, strict=True):
            cools_until = {name: health.closed_until for name, health in oracle.health.items()}
            cooling = {n for n, until in cools_until.items() if until > oracle.time + pause}
            expected = oracle.call(pause, preference, held)
            course = rehearsal.hold(pause, preference, held) if held else run(pause, preference)
            if oracle.is_end_open:
                check_open_end(course, expected)
                break
            assert course == expected, f"seed {seed}: {schedule}"
            check_invariants(schedule, course, cools_until, cooling)
            rehearsal.close()
        rehearsal.close(is_end=True)


@pytest.mark.parametrize("first", range(0, SCHEDULES, CHUNK))
async def test_async_calls_go_as_the_contract_says(first: int) -> None:
    """The async forms are no different."""
    for seed in range(first, first + CHUNK):
        schedule, streams = random_schedule(seed), seed % 2 == 1
        oracle, rehearsal = Oracle(schedule, streams=streams), Rehearsal(schedule)
        run = rehearsal.astream if streams else rehearsal.ainvoke
        for (pause, preference), held in zip(schedule.calls, schedule.holds, strict=True):
            cools_until = {name: health.closed_until for name, health in oracle.health.items()}
            cooling = {n for n, until in cools_until.items() if until > oracle.time + pause}
            expected = oracle.call(pause, preference, held)
            if held:
                course = await rehearsal.ahold(pause, preference, held)
            else:
                course = await run(pause, preference)
            if oracle.is_end_open:
                check_open_end(course, expected)
                break
            assert course == expected, f"seed {seed}: {schedule}"
            check_invariants(schedule, course, cools_until, cooling)
            await rehearsal.aclose()
        await rehearsal.aclose(is_end=True)


def check_open_end(course: Course, expected: Course) -> None:
    """A call that waits for a place notices soon, but not at once, that there is nobody left."""
    assert (course.attempts, course.end) == (expected.attempts, expected.end)
    assert expected.ended_at <= course.ended_at <= expected.ended_at + 0.5


def check_invariants(
    schedule: Schedule, course: Course, cools_until: dict[str, float], cooling: set[str]
) -> None:
    """What holds of any call, whatever an oracle thinks of it."""
    names = [name for name, _ in course.attempts]
    end, *facts = course.end
    if end == "answer":
        assert [*facts[2], facts[0]] == names, "the mark lists every attempt in order"
    if end == "failed":
        assert [name for name, _ in facts[0]] == names, "the error lists every attempt in order"
    most = schedule.retry["max_attempts"] if schedule.retry else 1
    assert max(Counter(names).values(), default=0) <= most
    windows = {each.name: each.windows for each in schedule.deployments}
    assert not any(is_inside(windows[name], time) for name, time in course.attempts)
    last_resort = [time < cools_until[name] for name, time in course.attempts]
    after = names[last_resort.index(True) :] if True in last_resort else []
    unable = {d.name for d in schedule.deployments if d.window or not d.takes_pictures}
    assert (cooling | unable).issuperset(after), "nobody in cooldown is called before the others"
    if schedule.timeout is not None and course.attempts:
        deadline = course.attempts[0][1] + schedule.timeout
        assert course.ended_at <= deadline
        assert all(time < deadline for _, time in course.attempts)


@pytest.mark.parametrize("is_async", [False, True])
async def test_who_waits_for_a_place_gets_the_first_that_is_free(*, is_async: bool) -> None:
    """All are full, and then another call closes its stream: in time for who waits, or too late."""
    ends: Counter[str] = Counter()
    for seed in range(300):
        chance = random.Random(seed)
        places = {name: chance.choice([1, 2]) for name in "abc"[: chance.choice([1, 2, 3])]}
        max_wait = chance.choice([None, 0.5, 2.0])
        schedule = Schedule(
            tuple(Deployment(n, (Outcome(),), max_concurrency=most) for n, most in places.items()),
            calls=(),
            max_wait=max_wait,
        )
        rehearsal = Rehearsal(schedule)
        opened = [name for name, most in places.items() for _ in range(most)]
        for name in opened:
            held = await rehearsal.ahold(0, None, 99) if is_async else rehearsal.hold(0, None, 99)
            assert held.end[:2] == ("answer", name), "in order, each up to its places"
        which, free_at = chance.randrange(len(opened)), chance.randrange(1, 200) / 64
        rehearsal.clock.closings = [(free_at, rehearsal.held[which][1])]
        course = await rehearsal.ainvoke(0, None) if is_async else rehearsal.invoke(0, None)
        ends[course.end[0]] += 1
        if max_wait is None or free_at <= max_wait:
            [(name, begun)] = course.attempts
            assert (name, course.end[0]) == (opened[which], "answer")
            assert free_at <= begun <= free_at + 0.5
        else:
            assert course.end[:2] == ("nobody", list(places))
            assert course.ended_at == max_wait
        await rehearsal.aclose(is_end=True) if is_async else rehearsal.close(is_end=True)
    assert min(ends["answer"], ends["nobody"]) > 50, ends


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_hedged_calls_go_as_the_contract_says(is_async: bool) -> None:
    """Who is asked beside whom, and when; who wins; what a lost race costs; what may be hedged."""
    seen: Counter[str] = Counter()

    def compare(seed: int) -> None:
        schedule, streams, clock = random_race(seed), seed % 2 == 1, ThreadClock()
        oracle, race = RaceOracle(schedule), Race(schedule, clock)
        with clock.ruling():
            for pause, preference in schedule.calls:
                expected = oracle.call(pause, preference)
                course = race.call(pause, streams=streams)
                assert course == expected, f"seed {seed}: {schedule}"
        seen.update(oracle.seen)

    async def acompare(seed: int) -> None:
        schedule, streams = random_race(seed), seed % 2 == 1
        oracle, race = RaceOracle(schedule), Race(schedule, LoopClock())
        for pause, preference in schedule.calls:
            expected = oracle.call(pause, preference)
            course = await race.acall(pause, streams=streams)
            assert course == expected, f"seed {seed}: {schedule}"
        seen.update(oracle.seen)

    for seed in range(500):
        if is_async:
            with asyncio.Runner(loop_factory=VirtualLoop) as runner:
                runner.run(acompare(seed))
        else:
            compare(seed)
    assert len(seen) == 3, seen
    assert min(seen.values()) > 50, seen


def test_the_schedules_reach_every_corner() -> None:
    """What never happens in a rehearsal is not rehearsed."""
    seen: Counter[str] = Counter()
    for seed in range(2000):
        schedule = random_schedule(seed)
        oracle = Oracle(schedule, streams=seed % 2 == 1)
        for (pause, preference), held in zip(schedule.calls, schedule.holds, strict=True):
            course = oracle.call(pause, preference, held)
            seen[course.end[0]] += 1
            seen["waits"] += bool(course.waits)
            seen["skips"] += bool(oracle.skipped)
            seen["cooldowns"] += any(health.cooldown for health in oracle.health.values())
            seen.update(kind for _, kind in oracle.failures)
        seen.update(oracle.seen)
    rare = {what: count for what, count in seen.items() if count < 20}
    assert not rare, rare
    assert len(seen) == 4 + 3 + 13 + 6 + 3 + 1 + 2 + 3 + 1, seen
