"""A play in five acts: `make demo`, or `make demo LIVE=1` for real models."""

import logging
import os
import sys
import time
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

from langchain_core.messages import AIMessage
from langchain_core.prompts import ChatPromptTemplate
from rich.console import Console
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from demo.providers import Provider, open_providers
from langchain_model_gateway import GatewayRunnable, ModelRouterError

QUESTIONS = [
    "What does a load balancer do?",
    "Why is the sky blue?",
    "What is a circuit breaker in software?",
    "How do vaccines work?",
    "What is the capital of Australia?",
    "Why do cats purr?",
    "What is full jitter?",
    "How does a heat pump work?",
    "What is daylight saving time?",
    "Who wrote 'The Left Hand of Darkness'?",
]
PROMPT = ChatPromptTemplate.from_messages(
    [("system", "Answer in one sentence."), ("user", "{question}")]
)

console = Console(width=100)
history: list[tuple[str, Any]] = []
skipped: dict[str, str] = {}

STORY = (
    "Once there was a gateway at the edge of a city. Many roads led through it, and travellers "
    "never asked which one was open tonight. The gateway knew. When the northern road was closed "
    "it waved them to the east, and everyone arrived before the lamps were lit."
)


def say(title: str, text: str) -> None:
    """Announce what comes next."""
    console.print()
    console.print(Panel(text, title=title, title_align="left", border_style="cyan"))


def ask_all(gateway: GatewayRunnable, act: str, questions: Iterable[str], **kwargs: Any) -> None:
    """Put questions to a chain as a batch, and show who answered what as it comes in."""
    chain = PROMPT | gateway.bind(**kwargs)
    skipped[act] = ", ".join(f"{s.model_name}: {s.reason}" for s in gateway.explain().skipped)
    inputs = [{"question": question} for question in questions]
    bar = Progress(
        TextColumn("{task.description}"), BarColumn(30), MofNCompleteColumn(), console=console
    )
    with bar:
        task = bar.add_task("asking", total=len(inputs))
        for i, answer in chain.batch_as_completed(
            inputs, {"max_concurrency": 4}, return_exceptions=True
        ):
            history.append((act, answer))
            bar.console.print(f"  {_who(answer):<34} {inputs[i]['question']}")
            bar.advance(task)


def _who(answer: Any) -> str:
    if not isinstance(answer, AIMessage):
        return f"[red]{type(answer).__name__}[/red]"
    mark = answer.response_metadata["gateway"]
    failed = ", ".join(f"{f['model_name']}: {f['error']}" for f in mark["failed"])
    after = f" [dim]after {failed}[/dim]" if failed else ""
    return f"[green]{mark['model_name']}[/green]{after}"


def with_hours(gateway: GatewayRunnable, name: str) -> GatewayRunnable:
    """The same gateway, with `name` inside its restricted hours for an hour from now."""
    now = datetime.now(UTC)
    start, end = now - timedelta(minutes=1), now + timedelta(hours=1)
    window = (f"{start:%H:%M}", f"{end:%H:%M}")
    entries = [dict(deployment) for deployment in gateway.models]
    for entry in entries:
        if entry["model_name"] == name:
            entry["time_constraints"] = [window]
    return GatewayRunnable(models=entries)


def play(providers: list[Provider]) -> None:
    """Show the gateway at work."""
    first, second, *_ = names = [provider.name for provider in providers]
    gateway = GatewayRunnable(models=[{"model_name": p.name, "model": p.model} for p in providers])
    say(
        "One Runnable over named models",
        f"The chain is [bold]prompt | gateway[/bold]. The gateway tries [bold]{', '.join(names)}"
        "[/bold], in this order,\nand every answer says who gave it.",
    )
    ask_all(gateway, "all healthy", QUESTIONS[:3])

    say("The caller prefers one", f'chain.invoke(..., model_preference="{second}")')
    ask_all(gateway, f"{second} preferred", QUESTIONS[3:5], model_preference=second)

    say(f"{first} goes down", "Each question falls over by itself, at once; none is lost.")
    providers[0].go_down()
    ask_all(gateway, f"{first} down", QUESTIONS[5:8])

    say(f"{first} is back", "The next question goes to it again.")
    providers[0].come_back()
    ask_all(gateway, f"{first} back", QUESTIONS[8:])

    say(
        f"{first} enters its restricted hours",
        "Nobody has to be down: it may just not be used now. gateway.explain() tells, without a "
        "call:",
    )
    closed = with_hours(gateway, first)
    console.print(str(closed.explain()), highlight=False)
    ask_all(closed, f"{first} restricted", QUESTIONS[:2])

    say("A stream", f"Chunks as they arrive, {first} still restricted:")
    providers[1].will_say(STORY)
    began = time.perf_counter()
    for chunk in closed.stream("Tell me a short story about a gateway."):
        console.print(chunk.content, end="", highlight=False)
    console.print(f"\n[dim]({time.perf_counter() - began:.1f} s)[/dim]")

    say("Everybody is down", "One error tells all:")
    for provider in providers:
        provider.go_down()
    try:
        gateway.invoke("Is anybody there?")
    except ModelRouterError as error:
        history.append(("everybody down", error))
        console.print(f"[red]{type(error).__name__}[/red]: {error}", highlight=False)


def report() -> None:
    """The whole play in a table."""
    table = Table(title="Who answered what", title_justify="left")
    for column in ("act", "asked", "answered by", "failed on the way", "skipped"):
        table.add_column(column)
    for act in dict.fromkeys(act for act, _ in history):
        answers = [answer for each, answer in history if each == act]
        marks = [a.response_metadata["gateway"] for a in answers if isinstance(a, AIMessage)]
        failed = [f"{f['model_name']}: {f['error']}" for mark in marks for f in mark["failed"]]
        for error in answers:
            if isinstance(error, ModelRouterError):
                failed += [f"{n}: {type(e).__name__}" for n, _, e in error.failures]
        table.add_row(
            act,
            str(len(answers)),
            ", ".join(sorted({mark["model_name"] for mark in marks})) or "-",
            "\n".join(f"{failed.count(f)} x {f}" for f in sorted(set(failed))) or "-",
            skipped.get(act) or "-",
        )
    console.print()
    console.print(table)


def main() -> int:
    """Play, on real models if LIVE is set."""
    logging.getLogger("langchain_model_gateway").addHandler(logging.NullHandler())
    live = os.environ.get("LIVE") not in (None, "", "0")
    if live and not os.environ.get("OPENAI_API_KEY"):
        console.print("LIVE=1 needs OPENAI_API_KEY in the environment.")
        return 2
    with open_providers(live=live) as providers:
        play(providers)
    report()
    return 0


if __name__ == "__main__":
    sys.exit(main())
