"""What a call costs beside an earlier commit: `make before COMMIT=<commit>`.

Both packages stand in one process, each under a name of its own, and are called in turns: two
processes with the same code differ by more than what is asked here.
"""

import argparse
import asyncio
import gc
import importlib
import io
import logging
import random
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any, Final

from benchmarks.backends import Backend, InstantChatModel
from benchmarks.contenders import WINDOWS
from benchmarks.guard import FORMS

ROOT: Final = Path(__file__).parents[1]
PACKAGE: Final = "langchain_model_gateway"
ROUNDS, CALLS = 1500, 4
TOLD: Final = 0.2
"""Which of the sorted rounds is told: the slower ones were disturbed, and the first were lucky."""


def stand(package: Path, copy: Path) -> ModuleType:
    """Import a copy of the package under the copy's name."""
    shutil.copytree(package, copy, ignore=shutil.ignore_patterns("__pycache__"))
    for source in copy.rglob("*.py"):
        text = source.read_text(encoding="utf-8")
        source.write_text(text.replace(PACKAGE, copy.name), encoding="utf-8")
    return importlib.import_module(copy.name)


def packages(commit: str, folder: Path) -> tuple[ModuleType, ModuleType]:
    """The package as a commit has it, and as it is here."""
    command = ["git", "archive", commit, PACKAGE]
    tree = subprocess.run(command, cwd=ROOT, check=True, capture_output=True).stdout  # noqa: S603
    with tarfile.open(fileobj=io.BytesIO(tree)) as archive:
        archive.extractall(folder / "commit", filter="data")
    sys.path.insert(0, str(folder))
    before = stand(folder / "commit" / PACKAGE, folder / "gateway_before")
    return before, stand(ROOT / PACKAGE, folder / "gateway_now")


def gateways(package: ModuleType) -> Mapping[str, Any]:
    """What is measured, with windows and a preference."""
    good = InstantChatModel(backend=Backend(chunks=5))
    bad = InstantChatModel(backend=Backend(fails="always", chunks=5))

    def over(*models: InstantChatModel, **rules: Any) -> Any:
        entries = [
            {"model_name": f"m{number}", "model": model, "time_constraints": WINDOWS}
            for number, model in enumerate(models)
        ]
        return package.GatewayRunnable(models=entries, model_preference="m0", **rules)

    policies = {
        "retry": package.RetryPolicy(max_attempts=1),
        "cooldown": package.CooldownPolicy(failure_threshold=3),
        "reject": ("empty", "content_filter", "refusal"),
    }
    return {
        "healthy": over(good, good),
        "with policies": over(good, good, **policies),
        "first fails": over(bad, good),
        "ten fail": over(*[bad] * 10, good),
    }


async def call(gateway: Any, form: str) -> None:
    """Call once, in a form."""
    if form == "invoke":
        gateway.invoke("?")
    elif form == "ainvoke":
        await gateway.ainvoke("?")
    elif form == "stream":
        for _ in gateway.stream("?"):
            pass
    else:
        async for _ in gateway.astream("?"):
            pass


async def measure(both: Mapping[str, Any], form: str, rounds: int) -> Mapping[str, float]:
    """The microseconds of one call of each."""
    taken: dict[str, list[float]] = {name: [] for name in both}
    turns = [*both.items()]
    gc.collect()
    gc.disable()  # a collection would fall on one of them by chance
    for _ in range(rounds):
        random.shuffle(turns)
        for name, gateway in turns:
            await call(gateway, form)  # what the other one has left in the caches is not told
            begun = time.perf_counter()
            for _ in range(CALLS):
                await call(gateway, form)
            taken[name].append((time.perf_counter() - begun) / CALLS * 1e6)
    gc.enable()
    return {name: sorted(times)[int(rounds * TOLD)] for name, times in taken.items()}


def main() -> None:
    """Measure, and show."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.before", description=__doc__)
    parser.add_argument("commit")
    commit = parser.parse_args().commit
    logging.disable()
    with TemporaryDirectory() as folder:
        before, now = map(gateways, packages(commit, Path(folder)))
        for work in before:
            both = {"before": before[work], "now": now[work]}
            rounds = ROUNDS // 5 if work == "ten fail" else ROUNDS
            for form in FORMS:
                times = asyncio.run(measure(both, form, rounds))
                ratio = times["now"] / times["before"]
                told = f"{times['before']:8.1f} -> {times['now']:8.1f} us  {ratio:.3f} x"
                sys.stdout.write(f"{work:14} {form:8} {told}\n")


if __name__ == "__main__":
    main()
