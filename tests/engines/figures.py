"""What each engine's job costs: `ENGINES=1 python -m tests.engines.figures`.

The processor time of a row, over loopback: what more rows take, so that starting is not counted.
Ray's workers are nobody's children, so their time cannot be told this way.
"""

import resource
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from .jobs import ENGINES, Job, provider

FEW, MANY = 200, 1700


def seconds(engine: str, rows: int) -> float:
    """The processor time of a job and of all processes that it waits for."""
    with TemporaryDirectory() as folder, provider(latency_ms=0) as server:
        job = Job(engine, Path(folder), rows, server.base_url())
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        job.finish()
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Measure, and show."""
    costs = {}
    for engine in ("local", *(each for each in ENGINES if each != "ray")):
        costs[engine] = (seconds(engine, MANY) - seconds(engine, FEW)) / (MANY - FEW)
        ratio = costs[engine] / costs["local"]
        sys.stdout.write(f"{engine:8} {costs[engine] * 1000:5.1f} ms a row  {ratio:.1f} x\n")


if __name__ == "__main__":
    main()
