"""Two attempts of one call at once: schedules with hedges, and what must come of them."""

import random
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from langchain_core.messages import AIMessage, AIMessageChunk

from langchain_model_gateway import (
    CooldownPolicy,
    GatewayRunnable,
    HedgePolicy,
)
from tests.oracle import Health, Oracle, Over
from tests.schedules import (
    ERRORS,
    QUESTION,
    Course,
    Deployment,
    FollowsSchedule,
    Outcome,
    Schedule,
    answered,
    ending,
    told,
)
from tests.virtual_time import VirtualClock


def random_race(seed: int) -> Schedule:
    """A schedule with hedges in which no two things happen at one moment."""
    chance = random.Random(f"race {seed}")
    deployments = tuple(
        Deployment(
            name,
            tuple(
                Outcome(
                    chance.choice(["ok", "ok", "ok", "down", "unreachable"]),
                    latency=chance.choice([0, 0.25, 1, 2, 4, 16]) + number / 64,
                )
                for _ in range(chance.choice([1, 3, 5]))
            ),
            timeout=chance.choice([None, None, 3 + 1 / 128]),
        )
        for number, name in enumerate("abcd"[: chance.choice([1, 2, 3, 4])], 1)
    )
    delay = chance.choice([0.5, 1.0, 3.0])
    cooldown = {
        "failure_threshold": chance.choice([1, 2]),
        "window": 10000.0,
        "duration": chance.choice([2.0, 30.0]),
        "max_duration": 60.0,
    }
    return Schedule(
        deployments,
        tuple((chance.choice([0, 1, 10, 40]), None) for _ in range(chance.choice([3, 8]))),
        cooldown=chance.choice([None, cooldown, cooldown]),
        # A usual latency makes no difference, as the least delay is the most.
        hedge={"delay": delay, "least_delay": delay, "budget": chance.choice([0.25, 0.5, 1.0])},
    )


@dataclass
class TakesTime(FollowsSchedule):
    """A model that waits: on the loop, or in its thread."""

    def invoke(self, input: Any, config: Any = None, **kwargs: Any) -> AIMessage:
        outcome, words = self._next()
        self.clock.sleep(outcome.latency)
        return _answer(outcome, words)

    async def ainvoke(self, input: Any, config: Any = None, **kwargs: Any) -> AIMessage:
        outcome, words = self._next()
        await self.clock.async_sleep(outcome.latency)
        return _answer(outcome, words)

    def stream(self, input: Any, config: Any = None, **kwargs: Any) -> Iterator[AIMessageChunk]:
        yield AIMessageChunk("")
        yield from _chunks(self.invoke(input))

    async def astream(
        self, input: Any, config: Any = None, **kwargs: Any
    ) -> AsyncIterator[AIMessageChunk]:
        yield AIMessageChunk("")
        for chunk in _chunks(await self.ainvoke(input)):
            yield chunk


def _answer(outcome: Outcome, words: str) -> AIMessage:
    if outcome.kind in ERRORS:
        raise ERRORS[outcome.kind](None)
    return AIMessage(words, **ending(outcome))


def _chunks(answer: AIMessage) -> Iterator[AIMessageChunk]:
    yield AIMessageChunk(answer.content)
    yield AIMessageChunk("!", response_metadata=answer.response_metadata)


class Race:
    """A gateway that hedges, over models that take time."""

    def __init__(self, schedule: Schedule, clock: VirtualClock) -> None:
        self.attempts: list[tuple[str, float]] = []
        self.clock = clock
        gateway = GatewayRunnable(
            models=[
                {
                    "model_name": each.name,
                    "model": TakesTime(each, clock, self.attempts),
                    "timeout": each.timeout,
                }
                for each in schedule.deployments
            ],
            cooldown=schedule.cooldown and CooldownPolicy(**schedule.cooldown),
            hedge=schedule.hedge and HedgePolicy(**schedule.hedge),
        )
        self.gateway = gateway.with_clock(clock)  # the real guards keep to its time

    def call(self, pause: float, *, streams: bool) -> Course:
        self.clock.sleep(pause)
        with self._course() as chunks:
            if streams:
                chunks.extend(self.gateway.stream(QUESTION))
            else:
                chunks.append(self.gateway.invoke(QUESTION))
        return self.course

    async def acall(self, pause: float, *, streams: bool) -> Course:
        await self.clock.async_sleep(pause)
        with self._course() as chunks:
            if streams:
                chunks.extend([chunk async for chunk in self.gateway.astream(QUESTION)])
            else:
                chunks.append(await self.gateway.ainvoke(QUESTION))
        return self.course

    @contextmanager
    def _course(self) -> Iterator[list[Any]]:
        chunks: list[Any] = []
        self.attempts.clear()
        try:
            yield chunks
            end = answered(chunks)
        except Exception as error:
            end = told(error)
        self.course = Course([*self.attempts], {}, end, self.clock.monotonic())


@dataclass(eq=False)
class _Leg:
    """One attempt under way: what it comes to, and when."""

    deployment: Deployment
    words: str
    kind: str
    ends: float
    is_probe: bool
    is_extra: bool


class RaceOracle(Oracle):
    """What each call must come to where another deployment is asked beside a slow one (18)."""

    def __init__(self, schedule: Schedule) -> None:
        super().__init__(schedule, streams=False)
        self.saved = 1.0

    def _try_all(self, preference: str | None) -> None:
        assert self.rules.hedge
        self.saved = min(self.saved + self.rules.hedge["budget"], 10)
        self.tried: list[str] = []
        self.is_hedged = False
        everyone, deferred = self.rules.deployments, []
        for each in everyone:
            if self._is_cooling(each) and each.name not in self.tried:
                deferred.append((self.health[each.name].cools_until, each))
            elif each.name not in self.tried:
                self._race(each)
        for _, each in sorted(deferred, key=lambda pair: pair[0]):
            if each.name not in self.tried:
                self._race(each)
        self._fail()

    def _race(self, deployment: Deployment) -> None:
        """Ask one, and another beside it if that takes long; return if all that were asked fail."""
        assert self.rules.hedge
        legs = [self._begin(deployment)]
        look = self.time + self.rules.hedge["delay"]
        if legs[0].ends > look and not self.is_hedged:
            self.time = look
            free = [d for d in self.rules.deployments if d.name not in self.tried]
            free = [each for each in free if not self._is_cooling(each)]
            if free and self.saved < 1:
                self.seen.append("no budget for a hedge")
            elif free:
                self.saved -= 1
                self.is_hedged = True
                legs.append(self._begin(free[0]))
        for leg in sorted(legs, key=lambda leg: leg.ends):
            self.time = leg.ends
            legs.remove(leg)
            if leg.kind == "ok":
                self._win(leg, legs)
            self.failures.append((leg.deployment.name, leg.kind))
            self._note_failure(leg)

    def _begin(self, deployment: Deployment) -> _Leg:
        name = deployment.name
        outcome = deployment.outcomes[self.asked[name] % len(deployment.outcomes)]
        self.asked[name] += 1
        self.tried.append(name)
        self.attempts.append((name, self.time))
        limit = deployment.timeout or float("inf")
        is_late, is_cooling = outcome.latency > limit, self._is_cooling(deployment)
        return _Leg(
            deployment,
            f"{name}{self.asked[name]}",
            kind="too_late" if is_late else outcome.kind,
            ends=self.time + min(outcome.latency, limit),
            is_probe=self._has_cooldown(deployment) and not is_cooling,
            is_extra=is_cooling,
        )

    def _win(self, winner: _Leg, losers: list[_Leg]) -> None:
        """A lost race counts as a failure: what hangs must not stay first for ever."""
        name = winner.deployment.name
        self.health[name] = Health()
        for each in losers:
            self.seen.append("lost a race")
            self._note_failure(each)
        failed, beside = [each for each, _ in self.failures], [d.deployment.name for d in losers]
        self.seen += ["won beside another"] if self.attempts[-1][0] == name and beside else []
        raise Over("answer", name, winner.words, failed, 1, beside)

    def _note_failure(self, leg: _Leg) -> None:
        if not leg.is_extra:
            self._count(leg.deployment.name, leg.kind, leg.is_probe, None)
