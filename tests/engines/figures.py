"""What each engine costs a row: `make engines FIGURES=1` (Linux).

The processor time, user and system, of all processes of a job but the provider's, over loopback.
Two sizes of each job: their difference is what a row costs, the rest is what a start costs. As
every start does, a resume costs a start, and the rows that are asked twice.
"""

import sys
from pathlib import Path
from typing import NamedTuple

from .jobs import Job
from .provider import Provider

FEW, MANY, AT = 400, 2_000, 900

PLAIN = """
import asyncio, json
from pathlib import Path
from langchain_model_gateway import GatewayRunnable

gateway = GatewayRunnable.from_config("gateway.yaml")
prompts = [json.loads(line)["prompt"] for line in Path("prompts.jsonl").open()]
config = {"max_concurrency": 50}
"""
BASELINES = {
    "batch": "answers = gateway.batch(prompts, config)\n",
    "abatch": "answers = asyncio.run(gateway.abatch(prompts, config))\n",
}
RECIPES = (
    *("one_process.py", "dask_partitions.py", "spark_partitions.py", "ray_data.py"),
    "dbos_rows.py",
)


class Figures(NamedTuple):
    """What a job came to.

    Attributes:
        row: Seconds of processor time a row.
        start: Seconds of processor time of a start.
        twice: Rows that were asked twice after a kill, or `None` where nothing is kept.
    """

    row: float
    start: float
    twice: int | None


def spent(recipe: Path | str, rows: int) -> float:
    with Provider() as provider, Job(str(recipe), provider, rows) as job:
        before = job.tree.seconds()
        job.run()
        return job.tree.seconds() - before


def asked_twice(recipe: str) -> int:
    with Provider(0.02) as provider, Job(recipe, provider, MANY) as job:
        job.kill_after(AT)
        job.run()
        return job.asked_twice


def measured(recipe: Path | str, *, is_kept: bool) -> Figures:
    few, many = spent(recipe, FEW), spent(recipe, MANY)
    row = (many - few) / (MANY - FEW)
    return Figures(row, few - row * FEW, asked_twice(str(recipe)) if is_kept else None)


def main() -> None:
    out = sys.stdout
    out.write(f"{'':20}{'ms a row':>9}{'x batch':>9}{'start, s':>10}{'twice':>7}\n")
    plain = 0.0
    for name in (*BASELINES, *RECIPES):
        if name in BASELINES:
            with Provider() as provider, Job("", provider, 0) as folder:
                script = folder.folder / f"{name}.py"
                script.write_text(PLAIN + BASELINES[name])
                told = measured(script, is_kept=False)
        else:
            told = measured(name, is_kept=True)
        plain = plain or told.row
        twice = "-" if told.twice is None else told.twice
        line = f"{told.row * 1000:>9.1f}{told.row / plain:>9.1f}{told.start:>10.1f}{twice:>7}"
        out.write(f"{name:20}{line}\n")
        out.flush()


if __name__ == "__main__":
    main()
