"""How many instructions one healthy call takes, counted by valgrind: `make instructions`.

Unlike a time, the same on a busy machine: two runs of one program differ by less than a thousandth.
"""

import argparse
import gc
import os
import re
import shutil
import subprocess
import sys
from typing import Any

from benchmarks import contenders
from benchmarks.backends import Backend
from benchmarks.guard import FORMS, repeat
from benchmarks.guard import contenders as healthy

RULES = (
    *(contenders.GatewayWeighted, contenders.GatewayLeastBusy, contenders.GatewayFastest),
    *(contenders.GatewayRequests, contenders.GatewayTokens),
)
WARM, CALLS = 20, 100


def everybody() -> dict[str, Any]:
    """Those of the guard, and a gateway of four for each rule about traffic."""
    return healthy(2) | {kind.name: kind([Backend()] * 4).runnable for kind in RULES}


def count(contender: str, form: str) -> float:
    """The instructions of one call: what so many calls more take, divided by their number."""
    few, many = (_collected(contender, form, calls) for calls in (WARM, WARM + CALLS))
    return (many - few) / CALLS


def _collected(contender: str, form: str, calls: int) -> int:
    program = [sys.executable, "-m", "benchmarks.instructions", "--child", contender]
    valgrind = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null"]
    done = subprocess.run(  # noqa: S603
        [*valgrind, *program, "--form", form, "--calls", str(calls)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONHASHSEED": "0"},
    )
    found = re.search(r"Collected : (\d+)", done.stderr)
    assert found, done.stderr  # noqa: S101
    return int(found[1])


def main() -> None:
    """Count, and show."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.instructions", description=__doc__)
    parser.add_argument("--form", choices=FORMS, default="invoke")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--calls", type=int, default=0, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        contender = everybody()[given.child]
        gc.freeze()  # a full collection of what is there would fall on one of them by chance
        repeat(contender, given.form, given.calls)
        return
    if shutil.which("valgrind") is None:
        parser.error("needs valgrind: apt-get install valgrind, or your system's like")
    counts = {name: count(name, given.form) for name in everybody()}
    for name, instructions in counts.items():
        ratio = instructions / counts["direct"]
        sys.stdout.write(f"{name:22} {instructions:11,.0f} a healthy {given.form}  {ratio:.3f} x\n")


if __name__ == "__main__":
    main()
