"""Run with `make demo`, or `make demo LIVE=1`."""

import argparse
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
    ModelDeployment,
    ModelRouterError,
)

QUESTIONS = [
    "Why is the sky blue?",
    "How do vaccines work?",
    "What does a compiler do?",
    "Why does ice float on water?",
    "What is compound interest?",
    "How does GPS find my position?",
    "Why do leaves change colour in autumn?",
    "What is a hash table good for?",
    "How does noise cancelling work?",
    "Why is the sea salty?",
    "What makes bread rise?",
    "How does public-key cryptography work?",
    "Why do we have leap years?",
    "What is inflation?",
    "How do birds find their way?",
    "What is a black hole?",
]
HARD_QUESTIONS = [
    "Why are there infinitely many primes?",
    "What is the halting problem?",
    "Why is quicksort fast in practice?",
    "What did Goedel show about arithmetic?",
]
POEM = "Write a verse on a bridge."
VERSES = "When one span falls, the river hears no sound: the road has found the next, and holds."

GOES_DOWN_AT, COMES_BACK_AT = 4, 9

Chain = Runnable[dict[str, Any], BaseMessage]


def gateway_over(cast: Sequence[Provider]) -> GatewayRunnable:
    """The cast behind one Runnable; two failures in a row are a cooldown of a second."""
    return GatewayRunnable(
        models=[{"model_name": each.name, "model": each.model} for each in cast],
        cooldown=CooldownPolicy(failure_threshold=2, duration=1),
    )


def chain_over(gateway: GatewayRunnable) -> Chain:
    """A chain like any other."""
    prompt = ChatPromptTemplate([("system", "One sentence, please."), ("human", "{question}")])
    return prompt | gateway


def outage(cast: Sequence[Provider], gateway: GatewayRunnable) -> Iterator[Row]:
    """Act 1: the first choice goes down in the middle of a batch, and comes back."""
    first = cast[0]
    trouble = "an outage in the middle of it" if first.server else "a first choice that is dead"
    screen.act(f"1. A batch of {len(QUESTIONS)} questions, and {trouble}")
    inputs = [{"question": question} for question in QUESTIONS]
    rows: dict[int, Row] = {}
    has_failed = False
    progress, bars = screen.bars(gateway.model_names, len(QUESTIONS))
    with progress:
        answers = chain_over(gateway).batch_as_completed(inputs, {"max_concurrency": 2})
        for position, answer in answers:
            rows[position] = row = story(1, QUESTIONS[position], answer, gateway)
            progress.advance(bars[row.answered_by])
            if first.server and len(rows) == GOES_DOWN_AT:
                first.server.stop()
                say(f"[red]✗[/] {named(first.name)} goes down: its server is switched off")
            if first.server and len(rows) == COMES_BACK_AT:
                first.server.start()
                say(f"[green]✓[/] {named(first.name)} is back: its server runs again")
            if not has_failed and gateway.explain().deferred:
                has_failed = True
                say(f"[yellow]•[/] {named(first.name)} failed twice: no call waits for it now")
                screen.shown(gateway.explain(), "gateway.explain()")
    yield from (rows[position] for position in range(len(rows)))


def restricted_hours(gateway: GatewayRunnable, later: GatewayRunnable) -> Iterator[Row]:
    """Act 2: the deployment that the caller prefers enters its restricted hours."""
    screen.act("2. Hard questions prefer the flagship, until its restricted hours begin")
    say('[dim]config={"configurable": {"model_preference": "flagship"}}[/]')
    yield from ask(gateway, HARD_QUESTIONS[:2])
    plan = later.explain("flagship")
    say(f"[yellow]•[/] it is {plan.at:%H:%M} UTC: {named('flagship')} may not be used for an hour")
    screen.shown(plan, 'gateway.explain("flagship")')
    yield from ask(later, HARD_QUESTIONS[2:])


def an_hour_without(model_name: str, gateway: GatewayRunnable) -> GatewayRunnable:
    """The same gateway, with a window for one deployment that begins now."""
    now = datetime.now(UTC)
    restricted = ModelDeployment(
        model_name=model_name,
        model=gateway[model_name].model,
        time_constraints=[(f"{now:%H:%M}", f"{now + timedelta(hours=1):%H:%M}")],
    )
    models = tuple(restricted if d.model_name == model_name else d for d in gateway.models)
    return gateway.model_copy(update={"models": models})


def ask(gateway: GatewayRunnable, questions: list[str]) -> Iterator[Row]:
    """Put questions that prefer the flagship, and tell who answers."""
    config: RunnableConfig = {"configurable": {"model_preference": "flagship"}}
    answers = chain_over(gateway).batch([{"question": each} for each in questions], config)
    for question, answer in zip(questions, answers, strict=True):
        row = story(2, question, answer, gateway, "flagship")
        screen.answer(row, answer.text)
        yield row


def stream(cast: Sequence[Provider], gateway: GatewayRunnable) -> Iterator[Row]:
    """Act 3: a stream breaks before its first word, and the reader sees nothing of it."""
    trouble = ": the first provider hangs up before its first word" if cast[0].server else ""
    screen.act(f"3. A stream{trouble}")
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
    yield story(3, POEM, chunks[0], gateway)


def story(
    act: int,
    question: str,
    answer: BaseMessage,
    gateway: GatewayRunnable,
    preference: str | None = None,
) -> Row:
    """Who answered, and what became of those whose turn came before."""
    mark = answer.response_metadata["gateway"]
    failed = {each["model_name"]: f"[red]{each['error']}[/]" for each in mark["failed"]}
    skipped = {each.model_name: each.reason for each in gateway.explain(preference).skipped}
    order = sorted(gateway.model_names, key=lambda name: name != preference)
    before = order[: order.index(mark["model_name"])]
    # Who came first, did not fail and was not restricted can only have been in cooldown.
    reasons = [f"{named(name)} {(failed | skipped).get(name, 'in cooldown')}" for name in before]
    return Row(act, question, mark["model_name"], "\n".join(reasons))


def main() -> None:
    """Play."""
    parser = argparse.ArgumentParser(prog="python -m demo", description=__doc__)
    parser.add_argument("--live", action="store_true", help="ask OpenAI (needs OPENAI_API_KEY)")
    with providers(live=parser.parse_args().live) as cast:
        gateway = gateway_over(cast)
        screen.opening(cast, gateway=gateway_over, chain=chain_over)
        try:
            rows = list(outage(cast, gateway))
            later = an_hour_without("flagship", gateway)
            rows += [*restricted_hours(gateway, later), *stream(cast, later)]
        except ModelRouterError as error:
            sys.exit(str(error))
    screen.closing(rows)


if __name__ == "__main__":
    main()
