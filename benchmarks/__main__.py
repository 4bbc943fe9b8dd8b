"""Run with `make bench`, or `python -m benchmarks --quick` for a first look."""

import argparse
import asyncio
import logging
import os
import time
import warnings
from pathlib import Path

from rich.console import Console

from benchmarks import imports, in_process, over_http, report, server
from benchmarks.contenders import contenders, sharers
from benchmarks.measure import Record

SECTIONS = ("in-process", "http", "hanging", "import")
HERE = Path(__file__).parent


def main() -> None:
    """Measure, show, write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a first look, in under two minutes")
    parser.add_argument("--only", choices=SECTIONS, action="append", help="one section; may repeat")
    parser.add_argument("--ours", action="store_true", help="LangChain's contenders only")
    parser.add_argument("--json", type=Path, default=HERE / "results.json")
    parser.add_argument("--plot", type=Path, default=HERE / "results.png")
    arguments = parser.parse_args()
    _quiet()

    console = Console(width=None if Console().is_terminal else 180)
    began = time.perf_counter()

    def say(what: str) -> None:
        console.print(f"[dim]{time.perf_counter() - began:6.1f} s  {what}[/]", highlight=False)

    wanted = arguments.only or SECTIONS
    everybody, sharing = (
        [each for each in kinds if not arguments.ours or each.family == "langchain"]
        for kinds in (contenders(), sharers())
    )
    quick = bool(arguments.quick)
    calls = (
        in_process.Effort(5, 0.01, 200, 1.0) if quick else in_process.Effort(15, 0.1, 10_000, 120.0)
    )
    load = (
        over_http.Effort(1, 48, (1, 16), 0.4, 60)
        if quick
        else over_http.Effort(5, 640, (1, 16, 128), 2.0, 200)
    )

    records: list[Record] = []
    try:
        if "import" in wanted:
            records += imports.measure(1 if quick else 7, say)
        with asyncio.Runner() as runner, server.provider() as address:
            if "in-process" in wanted:
                records += in_process.measure([*everybody, *sharing], calls, runner, say)
            if "http" in wanted:
                records += over_http.measure(everybody, load, address, runner, say)
            if "hanging" in wanted:
                records += over_http.measure_hanging(everybody, load, address, runner, say)
    finally:  # half an hour's numbers are not lost with the last of them
        report.show(records, console)
        report.write(records, arguments.json, "quick" if quick else "full")
        is_plotted = report.plot(records, arguments.plot)
        say(f"wrote {arguments.json.name}" + (f" and {arguments.plot.name}" if is_plotted else ""))


def _quiet() -> None:
    """What a library logs of failures that are the work would be measured, and fill the screen."""
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    for name in [name for name in os.environ if name.startswith(("LANGSMITH_", "LANGCHAIN_"))]:
        del os.environ[name]  # a trace sent somewhere is no part of the work


if __name__ == "__main__":
    main()
