"""Outages rehearsed on a virtual clock: fault schedules, models that follow them, and an oracle.

The oracle says, from the contract alone, what a call must come to. It shares no code with the
package: a checker that asks the code under test what is right finds nothing.

All times are multiples of 1/64 s, so that sums are exact and a boundary is a boundary.
"""

import asyncio
import math
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from hashlib import blake2b
from types import SimpleNamespace
from typing import Any

from langchain_core.exceptions import ContextOverflowError, ModelError, ModelTimeoutError
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.messages.utils import count_tokens_approximately
from langchain_core.runnables import Runnable, RunnableConfig

from langchain_model_gateway import (
    AllModelsFailedError,
    CooldownPolicy,
    GatewayRunnable,
    HedgePolicy,
    NoModelAvailableError,
    RetryPolicy,
)
from langchain_model_gateway.guards import Guards, Hanging, Patience
from langchain_model_gateway.timing import Clock

NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)
QUESTION = "?"
QUESTION_TOKENS = count_tokens_approximately([HumanMessage(QUESTION)])


# --- time -------------------------------------------------------------------------------------


def jitter(time: float) -> float:
    """Chance that looks random and can be foretold: a fraction for each moment."""
    return (int(time * 64) * 7 + 3) % 17 / 16


class VirtualClock(Clock):
    """Time that passes only when someone waits; a model waits by `spend`."""

    def __init__(self, start: datetime = NOON) -> None:
        self.start = start
        self.time = 0.0
        self.waits: list[float] = []

    def now(self) -> datetime:
        return self.start + timedelta(seconds=self.time)

    def monotonic(self) -> float:
        return self.time

    def uniform(self, low: float, high: float) -> float:
        return low + (high - low) * jitter(self.time)

    def spend(self, seconds: float) -> None:
        self.time += seconds

    def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.spend(seconds)

    async def async_sleep(self, seconds: float) -> None:
        self.sleep(seconds)


class TickingClock(VirtualClock):
    """Wakes nobody but at its ticks, so that even odd waits end on one; told of attempts.

    How often someone looks up from a long wait is no matter: waits with nothing in between are one.
    """

    def __init__(self, attempts: list[tuple[str, float]]) -> None:
        super().__init__()
        self.attempts = attempts
        self.waited: dict[int, float] = {}
        """The seconds waited after so many attempts."""
        self.closings: list[tuple[float, Any]] = []
        """The streams that others close while someone waits, and when."""

    def sleep(self, seconds: float) -> None:
        for stream in self._slept(seconds):
            stream.close()

    async def async_sleep(self, seconds: float) -> None:
        for stream in self._slept(seconds):
            await stream.aclose()

    def _slept(self, seconds: float) -> list[Any]:
        seconds = math.ceil(seconds * 64) / 64
        number = len(self.attempts)
        self.waited[number] = self.waited.get(number, 0.0) + seconds
        assert self.waited[number] < 1000, "waits for ever"
        self.spend(seconds)
        closed = [stream for time, stream in self.closings if time <= self.time]
        self.closings = [each for each in self.closings if each[0] > self.time]
        return closed


class VirtualGuards(Guards):
    """Limits in virtual time: what takes too long is cut off, as if it had been abandoned there."""

    def __init__(self, clock: VirtualClock) -> None:
        self.clock = clock

    def call(self, seconds: float | None, function: Callable[[], Any], hanging: Hanging) -> Any:
        begun = self.clock.time
        try:
            answer = function()
        except Exception:
            self._cut(begun, seconds)
            raise
        self._cut(begun, seconds)
        return answer

    async def acall(self, seconds: float | None, awaitable: Awaitable[Any]) -> Any:
        begun = self.clock.time
        try:
            answer = await awaitable
        except Exception:
            self._cut(begun, seconds)
            raise
        self._cut(begun, seconds)
        return answer

    def stream(
        self, chunks: Iterator[Any], patience: Patience, hanging: Hanging
    ) -> Generator[Any, None, None]:
        end = object()
        with closing(chunks):  # type: ignore[type-var]
            while True:
                chunk = self.call(patience(), lambda: next(chunks, end), hanging)
                if chunk is end:
                    return
                yield chunk

    def _cut(self, begun: float, seconds: float | None) -> None:
        if seconds is not None and self.clock.time - begun > seconds:
            self.clock.time = begun + seconds
            raise ModelTimeoutError("too late")


def rehearsed(gateway: GatewayRunnable, clock: VirtualClock) -> GatewayRunnable:
    """A gateway in virtual time."""
    return gateway.with_clock(clock, guards=VirtualGuards(clock))


# --- schedules --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """What one attempt comes to: after `latency`, an answer or an error.

    A stream says a first word after `latency` and goes on after `gap`; an error comes in place of
    the first word, or with `midway` after it. At its end an answer may tell the tokens it took, of
    input and of output.
    """

    kind: str = "ok"
    latency: float = 0.0
    retry_after: str | None = None
    gap: float = 0.0
    midway: bool = False
    usage: tuple[int, int] | None = None


@dataclass(frozen=True)
class Deployment:
    name: str
    outcomes: tuple[Outcome, ...]
    windows: tuple[tuple[str, str], ...] = ()
    timeout: float | None = None
    stall_timeout: float | None = None
    weight: float = 1.0
    tier: int = 0
    rpm: float | None = None
    tpm: float | None = None
    max_tokens: int | None = None
    """The most of an answer, as its model says."""
    max_concurrency: int | None = None


@dataclass(frozen=True)
class Schedule:
    """A gateway's rules, what its deployments come to, and when it is called."""

    deployments: tuple[Deployment, ...]
    calls: tuple[tuple[float, str | None], ...]
    """The pauses before each call, and whom it prefers."""
    retry: dict[str, Any] | None = None
    cooldown: dict[str, Any] | None = None
    timeout: float | None = None
    reject: tuple[str, ...] = ()
    lookup_errors_are_handled: bool = True
    balance: str | None = None
    max_wait: float | None = None
    threads: tuple[str | int | None, ...] = ()
    """What each call is part of; calls of one thread go to one deployment while they can."""
    holds: tuple[int, ...] = ()
    """After how many more calls each call's stream is closed; 0: its answer is read to its end."""
    hedge: dict[str, Any] | None = None


class ServerError(Exception):
    def __init__(self, status: int, retry_after: str | None) -> None:
        super().__init__(f"status {status}")
        self.status_code = status
        headers = {} if retry_after is None else {"Retry-After": retry_after}
        self.response = SimpleNamespace(headers=headers, status_code=status)


# An outcome's kind: how to make its error.
ERRORS: dict[str, Callable[[str | None], Exception]] = {
    "busy": lambda after: ServerError(429, after),
    "down": lambda after: ServerError(503, after),
    "unreachable": lambda _: ConnectionError("refused"),
    "denied": lambda after: ServerError(401, after),
    "malformed": lambda _: ServerError(400, None),
    "too_large": lambda _: ServerError(413, None),
    "overflow": lambda _: ContextOverflowError("too long"),
    "lookup": lambda _: LookupError("not a model's error"),
}
WORTH_A_RETRY = {"busy", "down", "unreachable", "too_late", "nothing"}
SAYS_HTTP_STATUS = {"busy", "down", "denied", "malformed", "too_large"}
SAYS_NOTHING_OF_HEALTH = {"malformed", "too_large", "overflow", "lookup"}
# Answers that `reject` may name: the finish reason they end with.
REJECTABLE = {"content_filter": "content_filter", "length": "length", "truncated": ""}


def random_schedule(seed: int) -> Schedule:
    """A schedule from a seed, with numbers that like to meet on boundaries."""
    chance = random.Random(seed)
    names = ["a", "b", "c", "d"][: chance.choice([1, 2, 2, 3, 3, 4])]
    failing = chance.choice([0.2, 0.5, 0.9])

    def maybe(*values: Any) -> Any:
        return chance.choice([None, *values])

    def outcome() -> Outcome:
        kind = "ok"
        if chance.random() < failing:
            kind = chance.choice([*ERRORS, "down", "busy", *REJECTABLE, "nothing"])
        after = None
        if kind in {"busy", "down", "denied"}:
            date = format_datetime(NOON + timedelta(seconds=chance.choice([2, 40, 400])))
            numbers = ["0.5", "2", "4", "10", "31", "400", "-1", "nan", "9" * 5000]
            after = maybe(None, date, *numbers)
        return Outcome(
            kind,
            latency=chance.choice([0, 0, 1 / 4, 1, 2, 4, 16]),
            retry_after=after,
            gap=chance.choice([0, 0, 1 / 2, 2, 8]),
            midway=chance.random() < 0.3,
        )

    pauses = [0, 0, 0.5, 1, 2, 4, 15, 30, 60, 120, 1800, 25000]
    calls: list[tuple[float, str | None]] = []
    minutes = [
        chance.choice([-700, -60, -1, 0, 1])
    ]  # at which windows begin, some of them during a call
    time = 0.0
    for _ in range(chance.choice([1, 3, 6, 10])):
        pause = chance.choice(pauses)
        if chance.random() < 0.3:
            pause += (60 - chance.choice([0.25, 1, 2, 4]) - time - pause) % 60
        time += pause
        calls.append((pause, maybe(None, None, *names)))
        minutes.append(int(time // 60) + 1)

    # Of its own, so that the faults stay what they are without it.
    traffic = random.Random(f"traffic {seed}")
    is_shared, is_limited = traffic.random() < 0.4, traffic.random() < 0.4

    def window() -> tuple[str, str]:
        start, length = chance.choice(minutes[-3:]), chance.choice([1, 2, 60, 720])
        first, last = NOON + timedelta(minutes=start), NOON + timedelta(minutes=start + length)
        return f"{first:%H:%M}", f"{last:%H:%M}"

    deployments = tuple(
        Deployment(
            name,
            outcomes=tuple(outcome() for _ in range(chance.choice([1, 3, 7]))),
            windows=tuple(window() for _ in range(chance.choice([0, 0, 1, 2]))),
            timeout=maybe(None, 1.0, 2.0, 5.0),
            stall_timeout=maybe(None, 1.0, 2.0),
            weight=traffic.choice([1.0, 1.0, 2.0, 3.0]) if is_shared else 1.0,
            tier=traffic.choice([0, 0, 0, 1]) if is_shared else 0,
            # One flows off in 1 to 32 seconds; 6 to hardly 2 may come at once.
            rpm=traffic.choice([None, 60.0, 7.5, 3.75, 1.875]) if is_limited else None,
        )
        for name in names
    )
    retry = {
        "max_attempts": chance.choice([1, 2, 3, 5]),
        "initial_delay": chance.choice([0.5, 4.0]),
        "max_delay": chance.choice([1.0, 8.0]),
        "max_retry_after": chance.choice([0.0, 4.0, 30.0]),
    }
    duration = chance.choice([2.0, 30.0])
    cooldown = {
        "failure_threshold": chance.choice([1, 2, 3, 4]),
        "window": chance.choice([1.0, 16.0, 60.0]),
        "duration": duration,
        "max_duration": duration * chance.choice([1, 3, 10]),
    }
    deployments = _limit_tokens(deployments, random.Random(f"tokens {seed}"))
    talk = random.Random(f"threads {seed}")
    threads: tuple[str | int | None, ...] = ()
    if talk.random() < 0.2:
        deployments = _weigh(deployments, talk)
        threads = tuple(talk.choice(["ann", "bob", "b\u00f6", 7, None]) for _ in calls)
    pace = random.Random(f"pace {seed}")
    balance = traffic.choice([None, "weighted", "least_busy"]) if is_shared else None
    if pace.random() < 0.2:
        deployments, balance = _weigh(deployments, pace), "fastest"
    schedule = Schedule(
        deployments,
        tuple(calls),
        retry=maybe(retry, retry),
        cooldown=maybe(cooldown, cooldown),
        timeout=maybe(None, 1.0, 4.0, 20.0),
        reject=tuple(kind for kind in REJECTABLE if chance.random() < 0.4),
        lookup_errors_are_handled=chance.random() < 0.5,
        balance=balance,
        max_wait=traffic.choice([None, 2.0, 30.0]) if is_limited else None,
        threads=threads,
        holds=(0,) * len(calls),
    )
    places = random.Random(f"places {seed}")
    return _hold_streams(schedule, places) if places.random() < 0.2 else schedule


def _hold_streams(schedule: Schedule, chance: random.Random) -> Schedule:
    """The schedule with streams that are left open over some calls, and few places for them."""
    deployments = tuple(
        replace(each, max_concurrency=chance.choice([None, 1, 1, 2]))
        for each in schedule.deployments
    )
    last = len(schedule.calls) - 1
    holds = tuple(min(chance.choice([0, 0, 1, 2, 4]), last - n) for n in range(last + 1))
    # Who waits for a place without end waits for ever, as no other call is under way.
    max_wait = chance.choice([0.5, 2.0, *([None] if schedule.timeout else [])])
    return replace(schedule, deployments=deployments, holds=holds, max_wait=max_wait)


def _weigh(deployments: tuple[Deployment, ...], chance: random.Random) -> tuple[Deployment, ...]:
    """The deployments with shares that are not alike."""
    return tuple(replace(each, weight=chance.choice([1.0, 2.0, 5.0])) for each in deployments)


def _limit_tokens(
    deployments: tuple[Deployment, ...], chance: random.Random
) -> tuple[Deployment, ...]:
    """The deployments of some schedules with limits for tokens, and answers that tell theirs."""
    if chance.random() < 0.6:
        return deployments
    limited = []
    for each in deployments:
        # One flows off in 1/16 to 1/2 second; 96 to 12 may come at once.
        tpm = chance.choice([None, 960.0, 240.0, 120.0])
        most = chance.choice([None, 4, 30])
        # What a mean is of is not agreed; of equal numbers there is but one.
        usual = chance.choice([1, 10, 50])
        outcomes = tuple(
            replace(outcome, usage=_random_usage(chance, usual if most is None else None))
            for outcome in each.outcomes
        )
        limited.append(replace(each, tpm=tpm, max_tokens=most, outcomes=outcomes))
    return tuple(limited)


def _random_usage(chance: random.Random, output: int | None) -> tuple[int, int] | None:
    if chance.random() < 0.2:
        return None
    return chance.choice([0, 3, 5, 20]), output or chance.choice([0, 2, 30, 400])


# --- the gateway under rehearsal --------------------------------------------------------------


@dataclass
class FollowsSchedule(Runnable[Any, Any]):
    """A model that comes to its deployment's outcomes in turn, over and over."""

    deployment: Deployment
    clock: VirtualClock
    attempts: list[tuple[str, float]]
    """Every attempt at any of the models: who, and when."""
    asked: int = 0

    @property
    def max_tokens(self) -> int | None:
        """The most of an answer, by the name that clients have for it."""
        return self.deployment.max_tokens

    def _next(self) -> tuple[Outcome, str]:
        outcome = self.deployment.outcomes[self.asked % len(self.deployment.outcomes)]
        self.asked += 1
        self.attempts.append((self.deployment.name, self.clock.monotonic()))
        return outcome, f"{self.deployment.name}{self.asked}"

    def invoke(self, input: Any, config: Any = None, **kwargs: Any) -> AIMessage:
        outcome, words = self._next()
        self.clock.spend(outcome.latency)
        if outcome.kind in ERRORS:
            raise ERRORS[outcome.kind](outcome.retry_after)
        return AIMessage(words, **_end(outcome))

    async def ainvoke(self, input: Any, config: Any = None, **kwargs: Any) -> AIMessage:
        return self.invoke(input)

    def stream(self, input: Any, config: Any = None, **kwargs: Any) -> Iterator[AIMessageChunk]:
        outcome, words = self._next()
        error = ERRORS.get(outcome.kind)
        self.clock.spend(outcome.latency)
        yield AIMessageChunk("")
        if outcome.kind == "nothing":
            return
        if error and not outcome.midway:
            raise error(outcome.retry_after)
        yield AIMessageChunk(words)
        self.clock.spend(outcome.gap)
        if error:
            raise error(outcome.retry_after)
        yield AIMessageChunk("!", **_end(outcome))

    async def astream(
        self, input: Any, config: Any = None, **kwargs: Any
    ) -> AsyncIterator[AIMessageChunk]:
        for chunk in self.stream(input):
            yield chunk


def _end(outcome: Outcome) -> dict[str, Any]:
    """What the end of an answer says of it."""
    reason = REJECTABLE.get(outcome.kind, "stop")
    said: dict[str, Any] = {"response_metadata": {"finish_reason": reason} if reason else {}}
    if outcome.usage is not None:
        taken, made = outcome.usage
        total = taken + made
        said["usage_metadata"] = UsageMetadata(
            input_tokens=taken, output_tokens=made, total_tokens=total
        )
    return said


class Rehearsal:
    """A gateway on a virtual clock, over models that follow a schedule."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule
        self.attempts: list[tuple[str, float]] = []
        self.clock = TickingClock(self.attempts)
        gateway = GatewayRunnable(
            models=[
                {
                    "model_name": each.name,
                    "model": FollowsSchedule(each, self.clock, self.attempts),
                    "time_constraints": list(each.windows),
                    "timeout": each.timeout,
                    "stall_timeout": each.stall_timeout,
                    "weight": each.weight,
                    "tier": each.tier,
                    "rpm": each.rpm,
                    "tpm": each.tpm,
                    "max_concurrency": each.max_concurrency,
                }
                for each in schedule.deployments
            ],
            retry=schedule.retry and RetryPolicy(**schedule.retry),
            cooldown=schedule.cooldown and CooldownPolicy(**schedule.cooldown),
            timeout=schedule.timeout,
            reject=schedule.reject,
            exceptions_to_handle=(Exception,)
            if schedule.lookup_errors_are_handled
            else (ServerError, OSError, ContextOverflowError, ModelError),
            balance=schedule.balance,
            max_wait=schedule.max_wait,
            affinity="thread" if schedule.threads else None,
        )
        self.calls = 0
        self.held: list[tuple[int, Any]] = []
        """The streams that are open, and after which call each is closed."""
        self.gateway = rehearsed(gateway, self.clock)

    def invoke(self, pause: float, preference: str | None) -> "Course":
        config = self._pause(pause)
        try:
            answer = self.gateway.invoke(QUESTION, config, model_preference=preference)
        except Exception as error:
            return self._course(_told(error))
        return self._course(_answered([answer]))

    async def ainvoke(self, pause: float, preference: str | None) -> "Course":
        config = self._pause(pause)
        try:
            answer = await self.gateway.ainvoke(QUESTION, config, model_preference=preference)
        except Exception as error:
            return self._course(_told(error))
        return self._course(_answered([answer]))

    def stream(self, pause: float, preference: str | None) -> "Course":
        config = self._pause(pause)
        chunks: list[Any] = []
        try:
            chunks.extend(self.gateway.stream(QUESTION, config, model_preference=preference))
        except Exception as error:
            return self._course(_told(error))
        return self._course(_answered(chunks))

    async def astream(self, pause: float, preference: str | None) -> "Course":
        config = self._pause(pause)
        chunks: list[Any] = []
        try:
            async for chunk in self.gateway.astream(QUESTION, config, model_preference=preference):
                chunks.append(chunk)
        except Exception as error:
            return self._course(_told(error))
        return self._course(_answered(chunks))

    def hold(self, pause: float, preference: str | None, calls: int) -> "Course":
        """Leave a stream open after its first word, for so many calls."""
        config = self._pause(pause)
        chunks: list[Any] = []
        stream = self.gateway.stream(QUESTION, config, model_preference=preference)
        try:
            while not (chunks and chunks[-1].content):
                chunks.append(next(stream))
        except Exception as error:
            return self._course(_told(error))
        self.held.append((self.calls + calls, stream))
        return self._course(_answered(chunks))

    async def ahold(self, pause: float, preference: str | None, calls: int) -> "Course":
        config = self._pause(pause)
        chunks: list[Any] = []
        stream = self.gateway.astream(QUESTION, config, model_preference=preference)
        try:
            while not (chunks and chunks[-1].content):
                chunks.append(await anext(stream))
        except Exception as error:
            return self._course(_told(error))
        self.held.append((self.calls + calls, stream))
        return self._course(_answered(chunks))

    def close(self, *, is_end: bool = False) -> None:
        """Close the streams whose time has come; at the end, all."""
        for stream in self._due(is_end=is_end):
            stream.close()

    async def aclose(self, *, is_end: bool = False) -> None:
        for stream in self._due(is_end=is_end):
            await stream.aclose()

    def _due(self, *, is_end: bool) -> list[Any]:
        due = [stream for last, stream in self.held if is_end or last <= self.calls]
        self.held = [each for each in self.held if each[1] not in due]
        return due

    def _pause(self, seconds: float) -> RunnableConfig | None:
        """Let time pass until the next call; returns its config."""
        self.clock.spend(seconds)
        self.attempts.clear()
        self.clock.waited = {}
        threads, number = self.schedule.threads, self.calls
        self.calls += 1
        return {"configurable": {"thread": threads[number]}} if threads else None

    def _course(self, end: tuple[Any, ...]) -> "Course":
        return Course(list(self.attempts), self.clock.waited, end, self.clock.time)


@dataclass
class Course:
    """How a call went: every attempt, the seconds waited after so many, its end, and when."""

    attempts: list[tuple[str, float]]
    waits: dict[int, float]
    end: tuple[Any, ...]
    ended_at: float


def _answered(chunks: list[Any]) -> tuple[Any, ...]:
    mark = chunks[0].response_metadata["gateway"]
    marks = [chunk for chunk in chunks if "gateway" in chunk.response_metadata]
    failed = [each["model_name"] for each in mark["failed"]]
    text = "".join(chunk.content for chunk in chunks)
    beside = mark.get("hedged", [])
    return "answer", mark["model_name"], text.rstrip("!"), failed, len(marks), beside


def _told(error: Exception) -> tuple[Any, ...]:
    if isinstance(error, NoModelAvailableError):
        skipped = [skip.model_name for skip in error.skipped]
        return "nobody", skipped, error.available_at, error.is_retryable
    if isinstance(error, AllModelsFailedError):
        failures = [(failure.model_name, _kind(failure.exception)) for failure in error.failures]
        skipped = [skip.model_name for skip in error.skipped]
        return "failed", failures, skipped, error.is_retryable
    return "raised", _kind(error)


def _kind(error: Exception) -> str:
    names = {
        "ModelTimeoutError": "too_late",
        "EmptyStreamError": "nothing",
        "RejectedAnswerError": str(error).partition(":")[0],
        "ConnectionError": "unreachable",
        "ContextOverflowError": "overflow",
        "LookupError": "lookup",
    }
    status = {429: "busy", 503: "down", 401: "denied", 400: "malformed", 413: "too_large"}
    if isinstance(error, ServerError):
        return status[error.status_code]
    return names[type(error).__name__]


# --- the oracle -------------------------------------------------------------------------------


@dataclass
class _Health:
    failed_at: list[float] = field(default_factory=list)
    cooldown: float | None = None
    cools_until: float = 0.0
    probe: "_Held | None" = None
    """A probe that is still open; for so long nobody else is let through."""
    probe_until: float = 0.0

    @property
    def closed_until(self) -> float:
        return max(self.cools_until, self.probe_until if self.probe else 0.0)


@dataclass(eq=False)
class _Held:
    """A stream that is left open: whose, for how long, and the seconds to its first word."""

    name: str
    last_call: int
    latency: float


class _Pace:
    """How long attempts took: what counts fades by a factor of e every 30 seconds.

    Less than one attempt is left of is no mean of it: the rest counts as no time at all.
    """

    def __init__(self) -> None:
        self.seconds = self.weight = self.at = 0.0

    def note(self, now: float, seconds: float) -> None:
        left = self._left(now)
        self.seconds = self.seconds * left + seconds
        self.weight = self.weight * left + 1
        self.at = now

    def mean(self, now: float) -> float:
        left = self._left(now)
        return self.seconds * left / max(1.0, self.weight * left)

    def _left(self, now: float) -> float:
        return math.exp((self.at - now) / 30)


class _Bucket:
    """What drips out evenly and holds a tenth of a minute, or five where that is less."""

    def __init__(self, per_minute: float) -> None:
        self.drip = 60 / per_minute
        self.holds = max(per_minute / 10, min(per_minute, 5))
        self.level = self.at = 0.0

    def settle(self, now: float) -> None:
        self.level = max(0.0, self.level - (now - self.at) / self.drip)
        self.at = now

    def wait(self, now: float, amount: float) -> float:
        """The seconds until so much has room; what is more than it holds goes alone."""
        level = max(0.0, self.level - (now - self.at) / self.drip)
        return max(0.0, (level + min(amount, self.holds) - self.holds) * self.drip)

    def pour(self, now: float, amount: float) -> None:
        self.settle(now)
        self.level += amount

    def fill(self, now: float, seconds: float, *, least: float) -> None:
        """Have no room for so many seconds, and then for at least so much."""
        self.settle(now)
        self.level = max(self.level, self.holds - least + seconds / self.drip)


class _Over(Exception):  # noqa: N818 - no error
    """The call is over."""

    def __init__(self, *end: Any) -> None:
        self.end = end


class Oracle:
    """What each call of a schedule must come to, by the contract (4, 5, 6, 8, 11, 15, 16)."""

    def __init__(self, schedule: Schedule, *, streams: bool) -> None:
        self.rules = schedule
        self.streams = streams
        self.time = 0.0
        self.health = {each.name: _Health() for each in schedule.deployments}
        self.asked = dict.fromkeys(self.health, 0)
        self.requests = {d.name: _Bucket(d.rpm) for d in schedule.deployments if d.rpm}
        self.tokens = {d.name: _Bucket(d.tpm) for d in schedule.deployments if d.tpm}
        self.usual_output = dict.fromkeys(self.health, 0)
        self.reserved = 0
        """The tokens of the attempt under way."""
        self.pace = {name: (_Pace(), _Pace()) for name in self.health}
        """Of plain calls and of streams."""
        self.held: list[_Held] = []
        self.credit = dict.fromkeys(self.health, 0.0)
        self.calls = 0
        self.is_end_open = False
        """Whether the contract leaves open when exactly the last call ends."""
        self.seen: list[str] = []
        """What traffic rules have decided."""

    def call(self, pause: float, preference: str | None, held_for: int = 0) -> Course:
        """The course of the next call.

        Args:
            pause: The seconds before it.
            preference: Whom it prefers.
            held_for: For how many more calls its stream is left open; 0: it is read to its end.
        """
        self.time += pause
        self.held_for, self.is_stream = held_for, self.streams or held_for > 0
        self.is_end_open = False
        self.thread = self.rules.threads[self.calls] if self.rules.threads else None
        self.calls += 1
        self.deadline = self.time + (self.rules.timeout or float("inf"))
        self.attempts: list[tuple[str, float]] = []
        self.waits: dict[int, float] = {}
        self.failures: list[tuple[str, str]] = []
        self.skipped: list[str] = []
        self.opens: list[float] = []
        try:
            self._try_all(preference)
        except _Over as over:
            self._close()
            return Course(self.attempts, self.waits, over.end, self.time)
        raise AssertionError("a call has an end")

    def _wait_for(self, seconds: float) -> None:
        number = len(self.attempts)
        self.waits[number] = self.waits.get(number, 0.0) + seconds
        self.time += seconds

    def _skip(self, deployment: Deployment, opens: float) -> None:
        self.skipped.append(deployment.name)
        self.opens.append(opens)

    def _skip_restricted(self, deployment: Deployment, moment: float) -> None:
        self._skip(deployment, self._opens(deployment, moment))

    def _try_all(self, preference: str | None) -> None:
        everyone = sorted(
            self.rules.deployments,
            key=lambda each: (self._tier(each, preference), self._distance(each)),
        )
        deferred, full = self._try_open(everyone, preference)
        for _, _, deployment in sorted(deferred, key=lambda each: each[:2]):
            if self._is_restricted(deployment):
                self._skip_restricted(deployment, self.time)
            elif self._is_full(deployment):
                full.append(deployment)
            else:
                self._try(deployment, everyone, is_last_resort=True)
        self._wait_for_a_place(full)
        if self.failures:
            self._fail()
        first = NOON + timedelta(seconds=min(self.opens))
        raise _Over("nobody", self.skipped, first, True)

    def _try_open(
        self, everyone: list[Deployment], preference: str | None
    ) -> tuple[list[tuple[int, float, Deployment]], list[Deployment]]:
        """Try those that are open; returns whom to try later, and when, and those that are full."""
        untried, deferred, full = [*everyone], [], []
        while untried:
            deployment = self._next(untried, preference)
            untried.remove(deployment)
            if self._is_restricted(deployment):
                self._skip_restricted(deployment, self.time)
            elif self._is_cooling(deployment):
                deferred.append((1, self.health[deployment.name].closed_until, deployment))
            elif wait := self._wait_for_room(deployment):
                self.seen.append("passed over as limited")
                deferred.append((0, self.time + wait, deployment))
            elif self._is_full(deployment):
                full.append(deployment)
            else:
                self._try(deployment, everyone, is_last_resort=False)
        return deferred, full

    def _fail(self) -> None:
        may_help = any(kind in WORTH_A_RETRY for _, kind in self.failures) or bool(self.skipped)
        raise _Over("failed", self.failures, self.skipped, may_help)

    def _try(
        self, deployment: Deployment, everyone: list[Deployment], *, is_last_resort: bool
    ) -> None:
        attempts = self.rules.retry["max_attempts"] if self.rules.retry else 1
        for attempt in range(1, attempts + 1):
            # As what it is let in: decided here, before it waits for room.
            has_cooldown, is_cooling = self._has_cooldown(deployment), self._is_cooling(deployment)
            self.let_in_at = self.time
            if self._waits_in_vain(deployment, is_last_resort=is_last_resort):
                return
            outcome, kind = self._attempt(
                deployment, is_probe=has_cooldown and not is_cooling, is_extra=is_cooling
            )
            if self.time >= self.deadline:
                self._fail()
            if attempt == attempts or kind not in WORTH_A_RETRY:
                return
            wait = self._wait(attempt, outcome if kind == outcome.kind else None, everyone)
            if wait is None:
                return
            # One that may not be asked by then is not waited for.
            then = self.time + wait
            if not is_last_resort and self._is_cooling(deployment, then):
                return
            if self._is_restricted(deployment, then):
                return
            is_limited = self._wait_for_room(deployment, then) > 0
            if not is_last_resort and is_limited and self._another_is_free(everyone):
                return
            self._wait_for(wait)
            if not is_last_resort and is_limited and self._another_is_free(everyone):
                return
            is_last_resort = is_last_resort or is_limited

    def _wait(
        self, attempt: int, outcome: Outcome | None, everyone: list[Deployment]
    ) -> float | None:
        rules = self.rules.retry
        assert rules
        asked = self._retry_after(outcome)
        if asked is not None and asked > rules["max_retry_after"]:
            return None
        if asked is not None and asked > rules["max_delay"] and self._another_is_free(everyone):
            return None
        longest = min(rules["max_delay"], rules["initial_delay"] * 2 ** (attempt - 1))
        wait = max(longest * jitter(self.time), asked or 0)
        return wait if self.time + wait < self.deadline else None

    def _another_is_free(self, everyone: list[Deployment]) -> bool:
        tried = {name for name, _ in self.failures}
        return any(self._is_free(each) for each in everyone if each.name not in tried)

    def _attempt(
        self, deployment: Deployment, *, is_probe: bool, is_extra: bool
    ) -> tuple[Outcome, str]:
        """Make one attempt; returns if it failed and the call goes on."""
        name = deployment.name
        outcome = deployment.outcomes[self.asked[name] % len(deployment.outcomes)]
        self.asked[name] += 1
        self.attempts.append((name, self.time))
        begun = self.time
        kind, has_begun = self._take(deployment, outcome)
        if kind is None and self.held_for:
            self._hold(deployment, outcome.latency, is_probe=is_probe)
        self._correct(name, kind, outcome)
        says_nothing = kind in {*self.rules.reject, *SAYS_NOTHING_OF_HEALTH} or self.was_cut_by_call
        # To the first word, if there was one; what fails at once is not quick.
        seconds = outcome.latency if has_begun else self.time - begun
        if has_begun or not says_nothing:
            has_failed = kind is not None and not says_nothing
            self.pace[name][self.is_stream].note(
                self.time, max(seconds, 1.0) if has_failed else seconds
            )
        if kind is None:
            self.health[name] = _Health()
            words = f"{name}{self.asked[name]}"
            raise _Over("answer", name, words, [each for each, _ in self.failures], 1, [])
        if kind == "lookup" and not self.rules.lookup_errors_are_handled:
            raise _Over("raised", kind)
        self.failures.append((name, kind))
        told = outcome if kind != "too_late" else None
        if kind == "busy" and (seconds := self._retry_after(told)):
            self._fill(name, seconds)
        if not is_extra and not says_nothing:
            self._count(name, kind, is_probe, self._retry_after(told))
        if has_begun:
            if kind == "too_late" and self.time >= self.deadline:
                self._fail()
            raise _Over("raised", kind)
        return outcome, kind

    def _take(self, deployment: Deployment, outcome: Outcome) -> tuple[str | None, bool]:
        """Let time pass for an attempt: how it failed if it did, and whether words were given."""
        self.was_cut_by_call = False
        if self._is_too_late(outcome.latency, deployment.timeout):
            return "too_late", False
        is_error = outcome.kind in ERRORS
        rejected = outcome.kind if outcome.kind in self.rules.reject else None
        if not self.is_stream:
            if outcome.kind == "truncated":  # only a stream can be
                rejected = None
            return (outcome.kind if is_error else rejected), False
        if outcome.kind == "nothing" or (is_error and not outcome.midway):
            return outcome.kind, False
        if self.held_for:
            return None, True
        if self._is_too_late(outcome.gap, deployment.stall_timeout):
            return "too_late", True
        return (outcome.kind if is_error else rejected), True

    def _is_too_late(self, takes: float, limit: float | None) -> bool:
        """Let time pass, up to a deployment's limit or the call's, whichever is first."""
        own = self.time + (limit or float("inf"))
        end = min(own, self.deadline)
        self.time += takes
        if self.time <= end:
            return False
        self.time, self.was_cut_by_call = end, self.deadline < own
        return True

    def _count(self, name: str, kind: str, is_probe: bool, retry_after: float | None) -> None:
        rules, health = self.rules.cooldown, self.health[name]
        if rules is None:
            return
        if is_probe:
            assert health.cooldown is not None
            health.cooldown = min(max(2 * health.cooldown, retry_after or 0), rules["max_duration"])
        else:
            health.failed_at.append(self.time)
            recent = [each for each in health.failed_at if self.time - each <= rules["window"]]
            if len(recent) < rules["failure_threshold"] and kind != "denied":
                return
            asked = retry_after or rules["duration"]
            health.cooldown = min(asked, rules["max_duration"])
        health.failed_at, health.probe = [], None
        health.cools_until = self.time + health.cooldown

    def _has_cooldown(self, deployment: Deployment) -> bool:
        return self.health[deployment.name].cooldown is not None

    def _is_cooling(self, deployment: Deployment, at: float | None = None) -> bool:
        health = self.health[deployment.name]
        then = self.time if at is None else at
        return health.cooldown is not None and then < health.closed_until

    def _retry_after(self, outcome: Outcome | None) -> float | None:
        told = outcome.retry_after if outcome else None
        if told is None or told in {"-1", "nan"} or len(told) > 1000:
            return None
        if told.endswith(("0000", "GMT")):
            then = datetime.strptime(told[:25], "%a, %d %b %Y %H:%M:%S").replace(tzinfo=UTC)
            return max(0.0, (then - NOON).total_seconds() - self.time)
        return float(told)

    # --- traffic ------------------------------------------------------------------------------

    def _tier(self, deployment: Deployment, preference: str | None) -> float:
        return -1 if deployment.name == preference else deployment.tier

    def _distance(self, deployment: Deployment) -> float:
        """How far it is from the call's thread: weighted rendezvous hashing, the nearest first.

        What is hashed is not for the contract to say, but two versions of the package that run side
        by side must say the same.
        """
        if self.thread is None:
            return 0.0
        hashed = f"{len(str(self.thread))}:{self.thread}{deployment.name}".encode()
        drawn = int.from_bytes(blake2b(hashed, digest_size=8).digest(), "big")
        return -math.log((drawn + 0.5) / 2**64) / deployment.weight

    def _next(self, untried: list[Deployment], preference: str | None) -> Deployment:
        """Whose turn it is among those of the first tier that may be asked; else the first's."""
        first = self._tier(untried[0], preference)
        ready = [d for d in untried if self._tier(d, preference) == first and self._is_free(d)]
        if self.thread is not None:
            self.seen += ["stays with its own"] if len(ready) > 1 else []
            return untried[0]
        if not ready or self.rules.balance is None:
            return untried[0]
        if len(ready) == 1:
            return ready[0]
        self.seen.append(self.rules.balance)
        total = sum(each.weight for each in ready)
        if self.rules.balance != "weighted":
            first = self._drawn(ready)
            second = self._drawn([each for each in ready if each is not first])
            is_second = self._expected(second) < self._expected(first)
            self.seen += ["the quicker of two"] if is_second else []
            return second if is_second else first
        for each in ready:
            self.credit[each.name] += each.weight
        chosen = max(ready, key=lambda each: self.credit[each.name])
        self.credit[chosen.name] -= total
        return chosen

    def _drawn(self, candidates: list[Deployment]) -> Deployment:
        """One of them, by weight, as chance will have it."""
        point = sum(each.weight for each in candidates) * jitter(self.time)
        for each in candidates:
            point -= each.weight
            if point < 0:
                return each
        return candidates[-1]

    def _expected(self, deployment: Deployment) -> float:
        """How busy it would be, or how long it would take for what it is busy with and one more."""
        busy = self._places(deployment)
        if self.rules.balance == "least_busy":
            return busy / deployment.weight
        # Less than a millisecond is no difference.
        takes = max(self.pace[deployment.name][self.is_stream].mean(self.time), 1e-3)
        return takes * (busy + 1) / deployment.weight

    def _is_free(self, deployment: Deployment) -> bool:
        is_closed = self._is_restricted(deployment) or self._is_cooling(deployment)
        if is_closed or self._is_full(deployment):
            return False
        return not self._wait_for_room(deployment)

    def _wait_for_room(self, deployment: Deployment, at: float | None = None) -> float:
        if deployment.rpm is None and deployment.tpm is None:
            return 0.0
        then = self.time if at is None else at
        limits = self._limits(deployment, self._estimate(deployment))
        return max([bucket.wait(then, amount) for bucket, amount in limits], default=0.0)

    def _limits(self, deployment: Deployment, tokens: int) -> list[tuple[_Bucket, int]]:
        """A deployment's limits, and what an attempt of so many tokens takes of each."""
        name = deployment.name
        both = (self.requests.get(name), 1), (self.tokens.get(name), tokens)
        return [(bucket, amount) for bucket, amount in both if bucket]

    def _estimate(self, deployment: Deployment) -> int:
        return QUESTION_TOKENS + (deployment.max_tokens or self.usual_output[deployment.name])

    def _waits_in_vain(self, deployment: Deployment, *, is_last_resort: bool) -> bool:
        """Take room for an attempt, and as the last resort wait for it, if that is worth it.

        Returns:
            Whether a window has begun meanwhile, so that the room is given back.
        """
        wait, most = self._wait_for_room(deployment), self.rules.max_wait
        self.reserved = self._estimate(deployment)
        limits = self._limits(deployment, self.reserved)
        for bucket, amount in limits:
            bucket.pour(self.time, amount)
        is_too_long = most is None or wait > most or self.time + wait >= self.deadline
        if not is_last_resort or not wait:
            return False
        self.seen.append("asked although limited" if is_too_long else "waited for room")
        if is_too_long:
            return False
        self._wait_for(wait)
        if not self._is_restricted(deployment):
            return False
        for bucket, amount in limits:
            bucket.pour(self.time, -amount)
        self._skip_restricted(deployment, self.time)
        return True

    def _correct(self, name: str, kind: str | None, outcome: Outcome) -> None:
        """Charge what an attempt took in place of what was reserved for it, as far as is known."""
        bucket = self.tokens.get(name)
        if bucket is None:
            return
        if kind in SAYS_HTTP_STATUS:
            self.seen.append("tokens given back")
            bucket.pour(self.time, -self.reserved)
        elif (kind is None or kind in self.rules.reject) and outcome.usage:
            self.seen.append("tokens charged")
            self.usual_output[name] = outcome.usage[1]
            bucket.pour(self.time, sum(outcome.usage) - self.reserved)
        else:
            self.seen.append("tokens kept")

    def _fill(self, name: str, seconds: float) -> None:
        """Have no room in a deployment's limits before the moment that its 429 has named."""
        for bucket, least in (self.requests.get(name), 1), (self.tokens.get(name), 0):
            if bucket:
                self.seen.append("filled by a 429")
                bucket.fill(self.time, seconds, least=least)

    # --- places -------------------------------------------------------------------------------

    def _places(self, deployment: Deployment) -> int:
        """The streams of it that are open; as calls come one by one, nothing else is."""
        return sum(each.name == deployment.name for each in self.held)

    def _is_full(self, deployment: Deployment) -> bool:
        most = deployment.max_concurrency
        return most is not None and self._places(deployment) >= most

    def _wait_for_a_place(self, full: list[Deployment]) -> None:
        """Wait in vain: only other calls could close a stream, and none is under way."""
        if not full:
            return
        self.seen.append("passed over as full")
        most = float("inf") if self.rules.max_wait is None else self.rules.max_wait
        begun, end = self.time, min(self.time + most, max(self.time, self.deadline))
        minutes = [60.0 * n for n in range(int(begun // 60) + 1, int(end // 60) + 1)]
        moments = [begun, *minutes]  # at which windows begin
        for moment in moments:
            for each in [each for each in full if self._is_restricted(each, moment)]:
                full.remove(each)
                self._skip_restricted(each, moment)
            if not full:
                # Who waits looks at the windows now and then.
                self.is_end_open = moment > begun
                end = moment
                break
        if end > begun:
            self.seen.append("waited for a place")
            self._wait_for(end - begun)
        for each in full:
            self._skip(each, self.time)

    def _hold(self, deployment: Deployment, latency: float, *, is_probe: bool) -> None:
        """Leave the stream open, which says nothing of the deployment until it is closed."""
        name = deployment.name
        held = _Held(name, self.calls + self.held_for, latency)
        self.held.append(held)
        if is_probe:
            self.seen.append("holds a probe")
            assert self.rules.cooldown
            health = self.health[name]
            health.probe = held
            health.probe_until = self.let_in_at + (
                deployment.timeout or self.rules.cooldown["duration"]
            )
        words = f"{name}{self.asked[name]}"
        raise _Over("answer", name, words, [each for each, _ in self.failures], 1, [])

    def _close(self) -> None:
        """Close the streams whose time has come: their tokens stay taken, as nobody knows more."""
        for held in [each for each in self.held if each.last_call <= self.calls]:
            self.held.remove(held)
            self.pace[held.name][True].note(self.time, held.latency)
            health = self.health[held.name]
            if health.probe is held:
                health.probe = None

    # --- windows ------------------------------------------------------------------------------

    def _is_restricted(self, deployment: Deployment, at: float | None = None) -> bool:
        return is_inside(deployment.windows, self.time if at is None else at)

    def _opens(self, deployment: Deployment, moment: float) -> float:
        """The last moment of the restriction under way at a moment."""
        while True:
            later = max(
                moment + (_seconds_of_day(end) - (moment + 43200)) % 86400
                for start, end in deployment.windows
                if is_inside([(start, end)], moment)
            )
            if later == moment:
                return moment
            moment = later


def _seconds_of_day(text: str) -> int:
    hours, minutes = text.split(":")
    return int(hours) * 3600 + int(minutes) * 60


def is_inside(windows: Any, time: float) -> bool:
    """Whether a moment, in seconds after noon, is inside a daily window; both ends are."""
    now = (time + 43200) % 86400
    for start, end in windows:
        first, last = _seconds_of_day(start), _seconds_of_day(end)
        if first <= now <= last if first <= last else (now >= first or now <= last):
            return True
    return False


# --- two attempts at once ---------------------------------------------------------------------


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop on which time passes only when everyone waits: then it is the next timer's.

    So attempts can be under way at once, which a clock that models move cannot show.
    """

    def __init__(self) -> None:
        super().__init__()
        self.passed = 0.0
        select = self._selector.select  # type: ignore[attr-defined]

        def jump(timeout: float | None) -> Any:
            if not timeout:
                return select(timeout)
            self.passed += timeout
            return select(0)

        self._selector.select = jump  # type: ignore[attr-defined]

    def time(self) -> float:
        return self.passed


class LoopClock(VirtualClock):
    """The running loop's time; it is for the loop to let it pass."""

    def now(self) -> datetime:
        return self.start + timedelta(seconds=self.monotonic())

    async def async_sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()


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
    """A model that waits on the loop."""

    async def ainvoke(self, input: Any, config: Any = None, **kwargs: Any) -> AIMessage:
        outcome, words = self._next()
        await asyncio.sleep(outcome.latency)
        if outcome.kind in ERRORS:
            raise ERRORS[outcome.kind](None)
        return AIMessage(words, **_end(outcome))

    async def astream(
        self, input: Any, config: Any = None, **kwargs: Any
    ) -> AsyncIterator[AIMessageChunk]:
        yield AIMessageChunk("")
        answer = await self.ainvoke(input)
        yield AIMessageChunk(answer.content)
        yield AIMessageChunk("!", response_metadata=answer.response_metadata)


class Race:
    """A gateway that hedges, over models that take time."""

    def __init__(self, schedule: Schedule) -> None:
        self.attempts: list[tuple[str, float]] = []
        self.clock = LoopClock()
        gateway = GatewayRunnable(
            models=[
                {
                    "model_name": each.name,
                    "model": TakesTime(each, self.clock, self.attempts),
                    "timeout": each.timeout,
                }
                for each in schedule.deployments
            ],
            cooldown=schedule.cooldown and CooldownPolicy(**schedule.cooldown),
            hedge=schedule.hedge and HedgePolicy(**schedule.hedge),
        )
        self.gateway = gateway.with_clock(self.clock)  # the real guards keep to the loop's time

    async def call(self, pause: float, *, streams: bool) -> Course:
        await asyncio.sleep(pause)
        self.attempts.clear()
        try:
            if streams:
                chunks = [chunk async for chunk in self.gateway.astream(QUESTION)]
            else:
                chunks = [await self.gateway.ainvoke(QUESTION)]
        except Exception as error:
            end = _told(error)
        else:
            end = _answered(chunks)
        return Course([*self.attempts], {}, end, self.clock.monotonic())


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
        self.health[name] = _Health()
        for each in losers:
            self.seen.append("lost a race")
            self._note_failure(each)
        failed, beside = [each for each, _ in self.failures], [d.deployment.name for d in losers]
        self.seen += ["won beside another"] if self.attempts[-1][0] == name and beside else []
        raise _Over("answer", name, winner.words, failed, 1, beside)

    def _note_failure(self, leg: _Leg) -> None:
        if not leg.is_extra:
            self._count(leg.deployment.name, leg.kind, leg.is_probe, None)
