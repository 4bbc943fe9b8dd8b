"""Results on the screen, in a file and in a picture."""

import json
import platform
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.measure import BASELINE, Record
from benchmarks.targets import verdicts

LIBRARIES = (
    "langchain-model-gateway",
    "langchain-core",
    "langchain-openai",
    "litellm",
    "pydantic-ai-slim",
    "msgflux",
)
HEADINGS = {
    "in-process": "Processor time of a call in microseconds (x the same library's bare model)",
    "http": "Loopback HTTP: milliseconds a call, all calls together (p99 of one call)",
    "hanging": "A first choice that hangs and then fails: total seconds (p99 of one call)",
    "import": "Import: milliseconds (x langchain_core)",
    "memory": "Memory: MiB",
}


def show(records: Sequence[Record], console: Console) -> None:
    """A table a section, and the targets."""
    for section, heading in HEADINGS.items():
        own = [record for record in records if record.section == section]
        if own:
            console.print(_table(heading, own))
    table = Table("work", "target", "measured", "", title="Targets", title_justify="left")
    for verdict in verdicts(records):
        mark = "[green]met[/]" if verdict.is_met else "[red]not met[/]"
        table.add_row(verdict.work, verdict.target, verdict.measured, mark)
    if table.row_count:
        console.print(table)


def write(records: Sequence[Record], path: Path, mode: str) -> None:
    """Everything, for machines."""
    found = {(r.section, r.work, r.contender): r for r in records}

    def entry(record: Record) -> dict[str, Any]:
        ratios = {
            f"over_{name}": round(record.over(other), 4)
            for name, other in (
                ("direct", _bare(record, records)),
                (BASELINE, found.get((record.section, record.work, BASELINE))),
            )
            if other is not None
        }
        return {**vars(record), "median": record.median, **ratios}

    content = {
        "mode": mode,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "libraries": {name: _version(name) for name in LIBRARIES},
        "targets": [vars(verdict) for verdict in verdicts(records)],
        "results": [entry(record) for record in records],
    }
    path.write_text(json.dumps(content, indent=1) + "\n")


def plot(records: Sequence[Record], path: Path) -> bool:
    """What each adds to a healthy call, and what a hanging first choice costs with it.

    Returns:
        Whether there is a picture: not without matplotlib.
    """
    try:
        import matplotlib as mpl  # noqa: PLC0415 - only the bench group has it
    except ImportError:
        return False
    mpl.use("agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    panels: list[tuple[str, dict[str, float], str]] = []
    for work in ("healthy, invoke", "healthy, ainvoke"):
        added = {
            record.contender: record - bare
            for record in records
            if record.work == work
            and (bare := _bare(record, records)) is not None
            and bare is not record
        }
        panels.append((f"Added to a {work.replace(',', '')}", added, "microseconds"))
    hanging = {r.contender: r.median for r in records if r.section == "hanging"}
    panels.append(("A first choice that hangs", hanging, "seconds in all"))

    panels = [panel for panel in panels if panel[1]]
    if not panels:
        return False
    figure, axes = plt.subplots(1, len(panels), figsize=(5.5 * len(panels), 3.6), squeeze=False)
    for axis, (title, values, unit) in zip(axes[0], panels, strict=True):
        names = sorted(values, key=values.__getitem__, reverse=True)
        colours = ["#2a78d6" if "gateway" in name.split() else "#b5b4ae" for name in names]
        bars = axis.barh(names, [max(values[name], 0) for name in names], color=colours)
        axis.bar_label(bars, fmt=_short, padding=3)
        axis.set_title(title, loc="left")
        axis.set_xlabel(unit)
        axis.margins(x=0.18)
        axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=150)
    plt.close(figure)
    return True


def _table(heading: str, records: Sequence[Record]) -> Table:
    names = list(dict.fromkeys(record.contender for record in records))
    table = Table("", title=heading, title_justify="left", show_lines=True)
    for name in names:
        table.add_column(name, justify="right")
    cells: dict[str, dict[str, str]] = {}
    for record in records:
        row = cells.setdefault(record.work, {})
        row[record.contender] = _cell(record, records)
    for work, row in cells.items():
        table.add_row(work, *(row.get(name, "-") for name in names))
    return table


def _cell(record: Record, records: Sequence[Record]) -> str:
    shown = _short(record.median)
    if (p99 := record.extras.get("p99_ms")) is not None:
        return f"{shown}\n[dim]{p99:,.0f} ms[/]"
    bare = _bare(record, records)
    if bare is None or bare is record:
        return shown
    return f"{shown}\n[dim]{record.over(bare):.2f} x[/]"


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:,.3g}"  # noqa: PLR2004


def _bare(record: Record, records: Sequence[Record]) -> Record | None:
    """The bare model of a contender's own library, at the same work."""
    is_bare: Callable[[Record], bool] = lambda r: r.contender.endswith("direct")  # noqa: E731
    if record.section in ("import", "memory"):
        is_bare = lambda r: r.contender == "langchain_core"  # noqa: E731
    for other in records:
        is_same = (other.section, other.work) == (record.section, record.work)
        if is_same and is_bare(other) and record.section == "import":
            return other
        if is_same and is_bare(other) and other.family == record.family:
            return other
    return None


def _version(library: str) -> str | None:
    try:
        return version(library)
    except PackageNotFoundError:
        return None
