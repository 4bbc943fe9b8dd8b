"""Random fault schedules, and a gateway over models that follow one, in virtual time."""

import random
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from email.utils import format_datetime
from types import SimpleNamespace
from typing import Any

from langchain_core.exceptions import ContextOverflowError, ModelError
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.messages.utils import count_tokens_approximately
from langchain_core.runnables import Runnable, RunnableConfig

from langchain_model_gateway import (
    AllModelsFailedError,
    CooldownPolicy,
    GatewayRunnable,
    NoModelAvailableError,
    RetryPolicy,
)
from tests.virtual_time import NOON, TickingClock, VirtualClock, rehearsed

QUESTION = "?"
PICTURE = {"type": "image", "url": "https://example.test/a.png"}
WITH_A_PICTURE = [HumanMessage([{"type": "text", "text": QUESTION}, PICTURE])]
QUESTION_TOKENS = count_tokens_approximately([HumanMessage(QUESTION)])
PICTURE_TOKENS = count_tokens_approximately(WITH_A_PICTURE)


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
    takes_pictures: bool = True
    window: int | None = None
    """The most tokens of input, as its model says."""


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
    pictures: tuple[bool, ...] = ()
    """Whether each call has a picture."""
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
    schedule = _random_faults(seed)
    places, abilities = random.Random(f"places {seed}"), random.Random(f"abilities {seed}")
    if places.random() < 0.2:
        schedule = _hold_streams(schedule, places)
    return _disable(schedule, abilities) if abilities.random() < 0.3 else schedule


def _random_faults(seed: int) -> Schedule:
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
    return Schedule(
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


def _disable(schedule: Schedule, chance: random.Random) -> Schedule:
    """The schedule with models that take no pictures, or not so many tokens."""
    deployments = tuple(
        replace(
            each,
            takes_pictures=chance.random() < 0.5,
            window=chance.choice([None, 10, 10, 20]),
            outcomes=tuple(
                replace(outcome, kind="overflow") if chance.random() < 0.3 else outcome
                for outcome in each.outcomes
            ),
        )
        for each in schedule.deployments
    )
    pictures = tuple(chance.random() < 0.5 for _ in schedule.calls)
    return replace(schedule, deployments=deployments, pictures=pictures)


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

    @property
    def profile(self) -> dict[str, Any]:
        """What it can do."""
        most = {"max_input_tokens": self.deployment.window} if self.deployment.window else {}
        return {"image_inputs": self.deployment.takes_pictures, **most}

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
        return AIMessage(words, **ending(outcome))

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
        yield AIMessageChunk("!", **ending(outcome))

    async def astream(
        self, input: Any, config: Any = None, **kwargs: Any
    ) -> AsyncIterator[AIMessageChunk]:
        for chunk in self.stream(input):
            yield chunk


def ending(outcome: Outcome) -> dict[str, Any]:
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
        self.question: Any = QUESTION
        self.held: list[tuple[int, Any]] = []
        """The streams that are open, and after which call each is closed."""
        self.gateway = rehearsed(gateway, self.clock)

    def invoke(self, pause: float, preference: str | None) -> "Course":
        config = self._pause(pause)
        try:
            answer = self.gateway.invoke(self.question, config, model_preference=preference)
        except Exception as error:
            return self._course(told(error))
        return self._course(answered([answer]))

    async def ainvoke(self, pause: float, preference: str | None) -> "Course":
        config = self._pause(pause)
        try:
            answer = await self.gateway.ainvoke(self.question, config, model_preference=preference)
        except Exception as error:
            return self._course(told(error))
        return self._course(answered([answer]))

    def stream(self, pause: float, preference: str | None) -> "Course":
        config = self._pause(pause)
        chunks: list[Any] = []
        try:
            chunks.extend(self.gateway.stream(self.question, config, model_preference=preference))
        except Exception as error:
            return self._course(told(error))
        return self._course(answered(chunks))

    async def astream(self, pause: float, preference: str | None) -> "Course":
        config = self._pause(pause)
        chunks: list[Any] = []
        try:
            async for chunk in self.gateway.astream(
                self.question, config, model_preference=preference
            ):
                chunks.append(chunk)
        except Exception as error:
            return self._course(told(error))
        return self._course(answered(chunks))

    def hold(self, pause: float, preference: str | None, calls: int) -> "Course":
        """Leave a stream open after its first word, for so many calls."""
        config = self._pause(pause)
        chunks: list[Any] = []
        stream = self.gateway.stream(self.question, config, model_preference=preference)
        try:
            while not (chunks and chunks[-1].content):
                chunks.append(next(stream))
        except Exception as error:
            return self._course(told(error))
        self.held.append((self.calls + calls, stream))
        return self._course(answered(chunks))

    async def ahold(self, pause: float, preference: str | None, calls: int) -> "Course":
        config = self._pause(pause)
        chunks: list[Any] = []
        stream = self.gateway.astream(self.question, config, model_preference=preference)
        try:
            while not (chunks and chunks[-1].content):
                chunks.append(await anext(stream))
        except Exception as error:
            return self._course(told(error))
        self.held.append((self.calls + calls, stream))
        return self._course(answered(chunks))

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
        has_picture = bool(self.schedule.pictures) and self.schedule.pictures[number]
        self.question = WITH_A_PICTURE if has_picture else QUESTION
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


def answered(chunks: list[Any]) -> tuple[Any, ...]:
    mark = chunks[0].response_metadata["gateway"]
    marks = [chunk for chunk in chunks if "gateway" in chunk.response_metadata]
    failed = [each["model_name"] for each in mark["failed"]]
    text = "".join(chunk.content for chunk in chunks)
    beside = mark.get("hedged", [])
    return "answer", mark["model_name"], text.rstrip("!"), failed, len(marks), beside


def told(error: Exception) -> tuple[Any, ...]:
    if isinstance(error, NoModelAvailableError):
        skipped = [skip.model_name for skip in error.skipped]
        return "nobody", skipped, error.available_at, error.is_retryable
    if isinstance(error, AllModelsFailedError):
        failures = [(failure.model_name, kind_of(failure.exception)) for failure in error.failures]
        skipped = [skip.model_name for skip in error.skipped]
        return "failed", failures, skipped, error.is_retryable
    return "raised", kind_of(error)


def kind_of(error: Exception) -> str:
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
