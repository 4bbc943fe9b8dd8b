"""What ours should reach, as ratios (or differences) within one run."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.measure import Record

Found = Mapping[tuple[str, str], Record]


@dataclass(frozen=True)
class Verdict:
    """One target, and what came out."""

    work: str
    target: str
    measured: str
    is_met: bool


def verdicts(records: Sequence[Record]) -> Iterator[Verdict]:
    """Hold what was measured against each target that it tells something about."""
    found: Found = {(r.work, r.contender): r for r in records if r.section != "memory"}
    for form in ("invoke", "ainvoke"):
        yield from _ratio(found, f"healthy, {form}", "direct", 1.10)
        yield from _ratio(found, f"healthy, {form}, a handler", "with_fallbacks", 0.95)
        yield from _ratio(found, f"first fails, {form}", "with_fallbacks", 0.76)
        yield from _ratio(found, f"ten fail, {form}", "with_fallbacks", 0.82)
    for form in ("stream", "astream"):
        yield from _ratio(found, f"{form} of 5 chunks", "direct", 1.08)
        yield from _ratio(found, f"{form} of 1,000 chunks", "direct", 1.04)
    for work in {r.work for r in records if r.work.startswith("abatch") and r.section != "memory"}:
        yield from _ratio(found, work, "with_fallbacks", 0.85)
    yield from _sharing(found)
    yield from _ratio(found, "import", "langchain_core", 1.05)
    for work in {r.work for r in records if r.section == "hanging"}:
        yield from _ratio(found, work, "oracle", 1.20, ours="gateway + cooldown")
    yield from _scaling(found)
    yield from _batch_memory(records)


def _ratio(
    found: Found, work: str, baseline: str, limit: float, ours: str = "gateway"
) -> Iterator[Verdict]:
    mine, theirs = found.get((work, ours)), found.get((work, baseline))
    if mine and theirs:
        ratio = mine.over(theirs)
        target = f"at most {limit:.2f} x {baseline}"
        work = work if ours == "gateway" else f"{work}: {ours}"
        yield Verdict(work, target, f"{ratio:.2f} x", ratio <= limit)


def _sharing(found: Found) -> Iterator[Verdict]:
    """Balance and limits against the bare model; an armed hedge against a thread."""
    for form, limit in (("invoke", 1.40), ("ainvoke", 1.30)):
        for rule in ("weighted", "least busy", "fastest", "rpm", "rpm and tpm"):
            ours = f"gateway, {rule}"
            yield from _ratio(found, f"shared by four, {form}", "direct", limit, ours)
    thread = "model in a thread"
    yield from _ratio(found, "shared by four, ainvoke", thread, 1.10, "gateway, hedge")


def _scaling(found: Found) -> Iterator[Verdict]:
    few = found.get(("healthy, invoke", "gateway"))
    many = found.get(("healthy, invoke, 1,000 deployments", "gateway"))
    bare_few = found.get(("healthy, invoke", "direct"))
    bare_many = found.get(("healthy, invoke, 1,000 deployments", "direct"))
    if few and many and bare_few and bare_many:
        # The bare model's own drift between the two is the machine's.
        more = (many - bare_many) - (few - bare_few)
        target = "within 3 us of 2 deployments"
        yield Verdict("healthy, 1,000 deployments", target, f"{more:+.1f} us", more <= 3)  # noqa: PLR2004


def _batch_memory(records: Sequence[Record]) -> Iterator[Verdict]:
    batch = {
        r.contender: r for r in records if r.section == "memory" and r.work.startswith("abatch")
    }
    if "gateway" in batch and "with_fallbacks" in batch:
        ratio = batch["gateway"].over(batch["with_fallbacks"])
        target = "at most 1.00 x with_fallbacks"
        yield Verdict(f"memory, {batch['gateway'].work}", target, f"{ratio:.2f} x", ratio <= 1)
