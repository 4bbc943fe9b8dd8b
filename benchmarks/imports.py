"""What it costs to import a library, in an interpreter that has seen nothing yet."""

import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec

from benchmarks.measure import Record, interleaved

CORE = "langchain_core.runnables, langchain_core.language_models"
IMPORTS = {
    "langchain_core": CORE,
    "gateway": "langchain_model_gateway",
    "litellm Router": "litellm",
    "pydantic-ai FallbackModel": "pydantic_ai.models.fallback",
    "msgflux ModelGateway": "msgflux.models.gateway",
}
PROGRAM = """
import os, resource, time
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
began = time.process_time()
import {modules}
seconds = time.process_time() - began
print(seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def measure(rounds: int, say: Callable[[str], None]) -> list[Record]:
    """Import each in turn; the first time fills the caches of the disk and does not count."""
    known = {n: m for n, m in IMPORTS.items() if find_spec(m.partition(".")[0])}
    memory: dict[str, list[float]] = {name: [] for name in known}

    def sample(name: str) -> float:
        command = [sys.executable, "-c", PROGRAM.format(modules=known[name])]
        done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
        seconds, kilobytes = map(float, done.stdout.split()[-2:])
        memory[name].append(kilobytes / 1024)
        return seconds * 1e3

    say("imports")
    for name in known:
        sample(name)
        memory[name].clear()
    values = interleaved({name: lambda n=name: sample(n) for name in known}, rounds)
    return [
        Record(section, "import", name, name, unit, given[name])
        for section, unit, given in (("import", "ms", values), ("memory", "MiB", memory))
        for name in known
    ]
