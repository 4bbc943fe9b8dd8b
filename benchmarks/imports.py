"""What it costs to import a library, in an interpreter that has seen nothing yet."""

import os
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec

from benchmarks.measure import Record, interleaved

IMPORTS = {
    # By the classes: the packages themselves import next to nothing until they are asked.
    "langchain_core": """\
from langchain_core.runnables import RunnableSerializable
from langchain_core.language_models import BaseChatModel""",
    "gateway": "import langchain_model_gateway",
    "litellm Router": "import litellm",
    "pydantic-ai FallbackModel": "import pydantic_ai.models.fallback",
    "msgflux ModelGateway": "import msgflux.models.gateway",
}
PROGRAM = """
import os, time
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
def pages():
    with open("/proc/self/statm") as found:
        return int(found.read().split()[1])
before = pages()
began = time.process_time()
{imports}
seconds = time.process_time() - began
print(seconds, (pages() - before) * os.sysconf("SC_PAGE_SIZE"))
"""


def measure(rounds: int, say: Callable[[str], None]) -> list[Record]:
    """Import each in turn; the first time fills the caches of the disk and does not count."""
    known = {n: m for n, m in IMPORTS.items() if find_spec(m.split()[1].partition(".")[0])}
    memory: dict[str, list[float]] = {name: [] for name in known}
    # Without it, what is not installed but lies here as source would be compiled each time.
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": ""}

    def sample(name: str) -> float:
        command = [sys.executable, "-c", PROGRAM.format(imports=known[name])]
        done = subprocess.run(  # noqa: S603
            command, capture_output=True, text=True, check=True, env=environment
        )
        seconds, size = map(float, done.stdout.split()[-2:])
        memory[name].append(size / 2**20)
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
