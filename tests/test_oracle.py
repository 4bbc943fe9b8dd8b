"""10,000 random fault schedules, sync and async, against an oracle written from the contract."""

import logging
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.oracle import (
    Course,
    Oracle,
    Rehearsal,
    Schedule,
    is_inside,
    random_schedule,
)

SCHEDULES = 10_000
CHUNK = 500


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
        for pause, preference in schedule.calls:
            cools_until = {name: health.cools_until for name, health in oracle.health.items()}
            cooling = {n for n, until in cools_until.items() if until > oracle.time + pause}
            expected, course = oracle.call(pause, preference), run(pause, preference)
            assert course == expected, f"seed {seed}: {schedule}"
            check_invariants(schedule, course, cools_until, cooling)


@pytest.mark.parametrize("first", range(0, SCHEDULES, CHUNK))
async def test_async_calls_go_as_the_contract_says(first: int) -> None:
    """The async forms are no different."""
    for seed in range(first, first + CHUNK):
        schedule, streams = random_schedule(seed), seed % 2 == 1
        oracle, rehearsal = Oracle(schedule, streams=streams), Rehearsal(schedule)
        run = rehearsal.astream if streams else rehearsal.ainvoke
        for pause, preference in schedule.calls:
            cools_until = {name: health.cools_until for name, health in oracle.health.items()}
            cooling = {n for n, until in cools_until.items() if until > oracle.time + pause}
            expected, course = oracle.call(pause, preference), await run(pause, preference)
            assert course == expected, f"seed {seed}: {schedule}"
            check_invariants(schedule, course, cools_until, cooling)


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
    assert cooling.issuperset(after), "nobody in cooldown is called before all others have failed"
    if schedule.timeout is not None and course.attempts:
        deadline = course.attempts[0][1] + schedule.timeout
        assert course.ended_at <= deadline
        assert all(time < deadline for _, time in course.attempts)


def test_the_schedules_reach_every_corner() -> None:
    """What never happens in a rehearsal is not rehearsed."""
    seen: Counter[str] = Counter()
    for seed in range(2000):
        schedule = random_schedule(seed)
        oracle = Oracle(schedule, streams=seed % 2 == 1)
        for pause, preference in schedule.calls:
            course = oracle.call(pause, preference)
            seen[course.end[0]] += 1
            seen["waits"] += bool(course.waits)
            seen["skips"] += bool(oracle.skipped)
            seen["cooldowns"] += any(health.cooldown for health in oracle.health.values())
            seen.update(kind for _, kind in oracle.failures)
        seen.update(oracle.seen)
    rare = {what: count for what, count in seen.items() if count < 20}
    assert not rare, rare
    assert len(seen) == 4 + 3 + 13 + 6 + 3 + 1 + 2, seen
