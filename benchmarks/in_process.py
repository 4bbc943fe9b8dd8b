"""What stands in front of a model costs, with models that cost next to nothing."""

import asyncio
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

from benchmarks.backends import MARK, Backend
from benchmarks.contenders import Contender
from benchmarks.measure import Record, interleaved

Form = Literal["call", "acall", "stream", "astream", "abatch"]

GOOD, DEAD, MARKED = Backend(), Backend(fails="always"), Backend(fails="marked")


@dataclass(frozen=True)
class Effort:
    """How long to look.

    Attributes:
        rounds: How often each work is sampled.
        sample: About how many seconds a sample takes.
        batch: How many questions a batch has.
        budget: After how many seconds no new round of a work begins.
    """

    rounds: int
    sample: float
    batch: int
    budget: float


@dataclass(frozen=True)
class Work:
    """One thing to do, for every contender the same."""

    name: str
    form: Form
    backends: tuple[Backend, ...]
    has_handler: bool = False
    langchain_only: bool = False
    is_shared: bool = False

    def suits(self, contender: type[Contender]) -> bool:
        """Whether it makes sense to ask this contender."""
        if contender.is_direct and self.backends[0].fails != "never":
            return False
        if not contender.is_direct and contender.shares != self.is_shared:
            return False
        failures = sum(backend.fails == "always" for backend in self.backends)
        if contender.most_failures is not None and failures > contender.most_failures:
            return False
        return contender.family == "langchain" or not self.langchain_only


def works() -> Iterator[Work]:
    """Everything that is measured in this process but for batches."""
    sync_async: tuple[tuple[Form, Form], ...] = (("call", "stream"), ("acall", "astream"))
    for call, stream in sync_async:
        kind = "invoke" if call == "call" else "ainvoke"
        yield Work(f"healthy, {kind}", call, (GOOD,) * 2)
        yield Work(f"healthy, {kind}, a handler", call, (GOOD,) * 2, True, True)  # noqa: FBT003
        yield Work(f"first fails, {kind}", call, (DEAD, GOOD))
        yield Work(f"ten fail, {kind}", call, (*[DEAD] * 10, GOOD))
        for chunks in (5, 1000):
            backends = (Backend(chunks=chunks),) * 2
            name = f"{'' if stream == 'stream' else 'a'}stream of {chunks:,} chunks"
            yield Work(name, stream, backends)
        yield Work(f"shared by four, {kind}", call, (GOOD,) * 4, is_shared=True)
    for deployments in (50, 1000):
        name = f"healthy, invoke, {deployments:,} deployments"
        yield Work(name, "call", (GOOD,) * deployments, langchain_only=True)


def measure(
    everybody: Sequence[type[Contender]],
    effort: Effort,
    runner: asyncio.Runner,
    say: Callable[[str], None],
) -> list[Record]:
    """Do all works, and the batch: a library after the other, so that none is in another's way.

    What LiteLLM goes on to do in its threads, say, would be counted for whoever comes next.
    """
    records: list[Record] = []
    for family in dict.fromkeys(each.family for each in everybody):
        own = [each for each in everybody if each.family == family]
        records += _measure_family(own, effort, runner, lambda work, f=family: say(f"{f}: {work}"))
    return records


def _measure_family(
    family: Sequence[type[Contender]],
    effort: Effort,
    runner: asyncio.Runner,
    say: Callable[[str], None],
) -> list[Record]:
    records: list[Record] = []
    batch = Work(f"abatch of {effort.batch:,}, 30 % fall back", "abatch", (MARKED, GOOD))
    for work in (*works(), batch):
        ready = {each: _contender(each, work, runner) for each in family if work.suits(each)}
        samples = {
            each.name: _sample(contender, work.form, effort, runner)
            for each, contender in ready.items()
            if contender is not None
        }
        if not samples or all(each.is_direct for each in ready):
            continue
        say(work.name)
        values = interleaved(samples, effort.rounds, effort.budget)
        records += [
            Record("in-process", work.name, each.name, each.family, "us", values[each.name])
            for each in ready
            if each.name in values
        ]
        if work is batch:
            say("memory of the batch")
            records += [
                _memory(each, contender, effort.batch, runner)
                for each, contender in ready.items()
                if contender is not None and each.family == "langchain"
            ]
    return records


def _contender(kind: type[Contender], work: Work, runner: asyncio.Runner) -> Contender | None:
    """A contender that has done the work once; `None` if its library has no form for it."""
    with suppress(NotImplementedError):
        contender = kind(work.backends, has_handler=work.has_handler)
        _times(contender, work.form, 1, runner)
        return contender
    return None


def _sample(
    contender: Contender, form: Form, effort: Effort, runner: asyncio.Runner
) -> Callable[[], float]:
    calls = effort.batch
    if form != "abatch":
        once = min(_times(contender, form, 1, runner) for _ in range(2))
        calls = max(1, round(effort.sample / (once * 1e-6)))
    return lambda: _times(contender, form, calls, runner)


def _times(contender: Contender, form: Form, calls: int, runner: asyncio.Runner) -> float:
    """Microseconds of processor time for each of so many calls.

    Not of the wall clock: nothing here waits, and a neighbour's load would be counted.
    """
    if form in ("call", "stream"):
        began = time.process_time()
        for _ in range(calls):
            if form == "call":
                contender.call("hi")
            else:
                for _chunk in contender.stream("hi"):
                    pass
        return (time.process_time() - began) / calls * 1e6
    return runner.run(_atimes(contender, form, calls))


async def _atimes(contender: Contender, form: Form, calls: int) -> float:
    if form == "abatch":
        texts = _questions(calls)
        began = time.process_time()
        await contender.abatch(texts)
        return (time.process_time() - began) / calls * 1e6
    began = time.process_time()
    for _ in range(calls):
        if form == "acall":
            await contender.acall("hi")
        else:
            async for _chunk in contender.astream("hi"):
                pass
    return (time.process_time() - began) / calls * 1e6


def _questions(count: int) -> list[str]:
    return [f"{MARK if i % 10 < 3 else 'hi'} {i}" for i in range(count)]  # noqa: PLR2004


def _memory(
    kind: type[Contender], contender: Contender, size: int, runner: asyncio.Runner
) -> Record:
    """The most memory that a batch holds at one time."""
    texts = _questions(size)

    async def batch() -> Any:
        return await contender.abatch(texts)

    tracemalloc.start()
    try:
        runner.run(batch())
        peak = tracemalloc.get_traced_memory()[1] / 2**20
    finally:
        tracemalloc.stop()
    return Record("memory", f"abatch of {size:,}", kind.name, kind.family, "MiB", [peak])
