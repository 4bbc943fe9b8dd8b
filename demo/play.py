"""A play in three acts: an outage, restricted hours, and a stream that breaks."""

import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from langchain_core.messages import BaseMessage
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import Runnable, RunnableConfig
from llmock.scenarios import Reply, StreamFault

from demo import screen
from demo.providers import Provider, providers
from demo.screen import Row, named, say
from langchain_model_gateway import (
    CooldownPolicy,
    GatewayRunnable,
    ModelRouterError,
    SystemClock,
)

HEALTHY_QUESTIONS = [
    "Why is the sky blue?",
    "How do vaccines work?",
    "What does a compiler do?",
    "Why does ice float on water?",
    "What is compound interest?",
    "How does GPS find my position?",
]
OUTAGE_QUESTIONS = [
    "Why do leaves change colour in autumn?",
    "What is a hash table good for?",
    "How does noise cancelling work?",
    "Why is the sea salty?",
    "What makes bread rise?",
    "How do birds find their way?",
]
PROBE_QUESTION = "Why do we have leap years?"
RECOVERED_QUESTIONS = [
    "What is inflation?",
    "How does public-key cryptography work?",
    "What is a black hole?",
]
HARD_QUESTIONS = [
    "Why are there infinitely many primes?",
    "What is the halting problem?",
    "Why is quicksort fast in practice?",
    "What did Goedel show about arithmetic?",
]
POEM = "Write a verse on a bridge."
VERSES = "One span falls; the road has found the next, and holds."

Chain = Runnable[dict[str, Any], BaseMessage]
PREFERS_FLAGSHIP: RunnableConfig = {"configurable": {"model_preference": "flagship"}}


class StageClock(SystemClock):
    """The gateway's time: it goes on as ever, and jumps where the play says "later"."""

    def __init__(self, begins: datetime) -> None:
        self._ahead = begins - datetime.now(UTC)

    def skip(self, time: timedelta) -> None:
        """Let some time pass at once."""
        self._ahead += time

    def now(self) -> datetime:
        """The present of the play."""
        return super().now() + self._ahead

    def monotonic(self) -> float:
        """Seconds that never run backwards."""
        return super().monotonic() + self._ahead.total_seconds()


def gateway_over(cast: Sequence[Provider]) -> GatewayRunnable:
    """The cast behind one Runnable."""
    budget, flagship, backup = (each.model for each in cast)
    return GatewayRunnable(
        models=[
            {"model_name": "budget", "model": budget},
            {
                "model_name": "flagship",
                "model": flagship,
                "time_constraints": [("22:00", "06:00")],
            },
            {"model_name": "backup", "model": backup},
        ],
        cooldown=CooldownPolicy(failure_threshold=2, duration=30),
    )


def chain_over(gateway: GatewayRunnable) -> Chain:
    """A chain like any other."""
    text = "In one sentence: {question}"
    prompt = ChatPromptTemplate.from_template(text)
    return prompt | gateway


def outage(cast: Sequence[Provider], gateway: GatewayRunnable, clock: StageClock) -> Iterator[Row]:
    """Act 1: the first choice goes down between batches, and comes back."""
    first = cast[0]
    screen.act("1. Batches of questions, and an outage of the first choice")
    server = first.server
    if server:
        yield from batch(gateway, HEALTHY_QUESTIONS, "first in order")
        server.stop()
        say(f"[red]✗[/] {named(first.name)} goes down: its server is switched off")
    yield from batch(gateway, OUTAGE_QUESTIONS, "next in order")
    say(f"[yellow]•[/] {named(first.name)} failed twice: it is in cooldown, no call waits for it")
    screen.shown(gateway.explain(), "gateway.explain()")
    if server:
        server.start()
        clock.skip(timedelta(seconds=31))
        say(f"[green]✓[/] {named(first.name)} is back: its server runs again")
        say("[yellow]•[/] 31 seconds later the cooldown is over (the demo moves the clock)")
        say("  One call goes through to find out whether it is back: the [bold]probe[/]")
        yield from probe(gateway)
        yield from batch(gateway, RECOVERED_QUESTIONS, "first in order")


def probe(gateway: GatewayRunnable) -> Iterator[Row]:
    """The first call after a cooldown."""
    answer = chain_over(gateway).invoke({"question": PROBE_QUESTION})
    row = story(1, PROBE_QUESTION, answer, gateway, why="the probe: it is back")
    screen.answer(row, answer.text)
    yield row


def batch(gateway: GatewayRunnable, questions: list[str], why: str) -> Iterator[Row]:
    """Ask questions two at a time, with a bar for who answers."""
    rows: dict[int, Row] = {}
    progress, bars = screen.bars(gateway.model_names)
    with progress:
        inputs = [{"question": question} for question in questions]
        answers = chain_over(gateway).batch_as_completed(inputs, {"max_concurrency": 2})
        for position, answer in answers:
            rows[position] = row = story(1, questions[position], answer, gateway, why=why)
            progress.advance(bars[row.answered_by])
    yield from (rows[position] for position in range(len(rows)))


def restricted_hours(gateway: GatewayRunnable, clock: StageClock) -> Iterator[Row]:
    """Act 2: the deployment that the caller prefers enters its restricted hours."""
    screen.act("2. Restricted hours of the preferred one")
    say('[dim]config={"configurable": {"model_preference": "flagship"}}[/]')
    yield from ask(gateway, HARD_QUESTIONS[:2])
    clock.skip(timedelta(hours=1))
    plan = gateway.explain("flagship")
    say(f"[yellow]•[/] an hour later, at {plan.at:%H:%M} UTC, {named('flagship')} may not be used")
    screen.shown(plan, 'gateway.explain("flagship")')
    yield from ask(gateway, HARD_QUESTIONS[2:])


def ask(gateway: GatewayRunnable, questions: list[str]) -> Iterator[Row]:
    """Put questions that prefer the flagship, and tell who answers."""
    inputs = [{"question": each} for each in questions]
    answers = chain_over(gateway).batch(inputs, PREFERS_FLAGSHIP)
    for question, answer in zip(questions, answers, strict=True):
        row = story(2, question, answer, gateway, why="preferred", preference="flagship")
        screen.answer(row, answer.text)
        yield row


def stream(cast: Sequence[Provider], gateway: GatewayRunnable) -> Iterator[Row]:
    """Act 3: a stream breaks before its first word, and the reader sees nothing of it."""
    screen.act("3. A stream, cut before its first word" if cast[0].server else "3. A stream")
    for each in cast:
        if each.server:
            each.server.state.scenarios.add(Reply(VERSES))
    if cast[0].server:
        cast[0].server.state.scenarios.add(StreamFault("disconnect"))
    chunks = []
    screen.word("  ")
    for chunk in chain_over(gateway).stream({"question": POEM}):
        screen.word(chunk.text)
        chunks.append(chunk)
    screen.word("\n")
    screen.shown(chunks[0].response_metadata["gateway"], 'first_chunk.response_metadata["gateway"]')
    yield story(3, POEM, chunks[0], gateway, why="next in order")


def story(
    act: int,
    question: str,
    answer: BaseMessage,
    gateway: GatewayRunnable,
    *,
    why: str,
    preference: str | None = None,
) -> Row:
    """Who answered, and why: what became of those whose turn came before, if there were some."""
    mark = answer.response_metadata["gateway"]
    failed = {each["model_name"]: f"[red]{each['error']}[/]" for each in mark["failed"]}
    skipped = {each.model_name: each.reason for each in gateway.explain(preference).skipped}
    order = sorted(gateway.model_names, key=lambda name: name != preference)
    before = order[: order.index(mark["model_name"])]
    # Who came first, did not fail and was not restricted can only have been in cooldown.
    reasons = [f"{named(name)} {(failed | skipped).get(name, 'in cooldown')}" for name in before]
    return Row(act, question, mark["model_name"], "\n".join(reasons) or why)


def play(*, live: bool) -> None:
    """Play."""
    clock = StageClock(datetime.now(UTC).replace(hour=21, minute=30))
    with providers(live=live) as cast:
        screen.opening(cast, gateway=gateway_over, chain=chain_over)
        gateway = gateway_over(cast).with_clock(clock)
        try:
            rows = list(outage(cast, gateway, clock))
            rows += [*restricted_hours(gateway, clock), *stream(cast, gateway)]
        except ModelRouterError as error:
            sys.exit(str(error))
    screen.closing(rows, live=live)
