"""A job of the documents, run as its reader would: a folder, a script, a provider."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from llmock.chaos import ChaosSettings
from llmock.testing import LLMockServer

from tests.test_readme import ROOT

ENGINES = ("ray", "dask", "dbos") if os.environ.get("ENGINES") else ()
"""Those that are installed: `make engines`."""
PART = 25
"""The rows of a file, for engines that take files."""

CONFIG = """
models:
  - {model_name: cheap, model: "openai:gpt-4o-mini", with: {max_retries: 0}}
  - {model_name: strong, model: "openai:gpt-4o", with: {max_retries: 0}}
cooldown: {}
"""
LOCAL = """
from docs_code import run
from pathlib import Path
import json
from langchain_model_gateway import GatewayRunnable
prompts = [json.loads(line)["prompt"] for line in Path("prompts.jsonl").read_text().splitlines()]
run(GatewayRunnable.from_config("gateway.yaml"), prompts, Path("answers.jsonl"))
"""


@contextmanager
def provider(latency_ms: int = 20) -> Iterator[LLMockServer]:
    """One real HTTP server that counts who asks."""
    server = LLMockServer(chaos=ChaosSettings(latency_ms=latency_ms))
    with server:
        yield server


class Job:
    """One engine's job in a folder of its own."""

    def __init__(self, engine: str, folder: Path, rows: int, base_url: str) -> None:
        self.engine, self.folder, self.rows = engine, folder, rows
        told = {"OPENAI_BASE_URL": base_url, "OPENAI_API_KEY": "none"}
        quiet = {"RAY_USAGE_STATS_ENABLED": "0", "DBOS_CONDUCTOR_KEY": ""}
        paths = os.pathsep.join([str(folder), str(ROOT)])
        self.environment = {**os.environ, **told, **quiet, "PYTHONPATH": paths}
        self._write()

    def _write(self) -> None:
        pages = [ROOT / "docs" / name for name in ("many-prompts.md", "offline-engines.md")]
        text = "".join(page.read_text("utf-8") for page in pages)
        blocks = re.findall(r"```(?:py|python)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
        (self.folder / "gateway.yaml").write_text(CONFIG)
        (self.folder / "docs_code.py").write_text(blocks[0])
        job = [each for each in blocks if each.startswith(f"# job.py for {self.engine}\n")]
        # Ray's own tasks wait for a processor each; this machine may have two.
        before = "import ray\nray.init(num_cpus=8)\n" if self.engine == "ray" else ""
        (self.folder / "job.py").write_text(before + (job[0] if job else LOCAL))
        table = [{"row": row, "prompt": f"question {row}"} for row in range(self.rows)]
        lines = [json.dumps(row) + "\n" for row in table]
        (self.folder / "prompts.jsonl").write_text("".join(lines))
        if self.engine == "dask":
            (self.folder / "prompts").mkdir()
            for first in range(0, self.rows, PART):
                part = self.folder / "prompts" / f"{first:06}.jsonl"
                part.write_text("".join(lines[first : first + PART]))
        if self.engine == "ray":
            import pyarrow  # noqa: PLC0415 - installed with the engines only
            import pyarrow.parquet  # noqa: PLC0415

            parquet = self.folder / "prompts.parquet"
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(table), parquet)

    def start(self) -> subprocess.Popen[bytes]:
        """Run the job's script."""
        with (self.folder / "log.txt").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "job.py"],
                cwd=self.folder,
                env=self.environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def finish(self) -> None:
        """Run it to its end."""
        process = self.start()
        try:
            assert process.wait(240) == 0, (self.folder / "log.txt").read_text()[-3000:]
        finally:
            self.end(process)

    def end(self, process: subprocess.Popen[bytes]) -> None:
        """Kill it, and all that it has started."""
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if self.engine == "ray":
            stop = [sys.executable, "-m", "ray.scripts.scripts", "stop", "--force"]
            subprocess.run(stop, capture_output=True, check=False)

    def answers(self) -> list[int]:
        """The rows that have an answer, each as often as it has one."""
        if self.engine == "ray":
            import pyarrow.parquet  # noqa: PLC0415

            table = pyarrow.parquet.read_table(self.folder / "answers").to_pylist()
        else:
            found = (
                sorted((self.folder / "answers").glob("*.jsonl"))
                if self.engine == "dask"
                else [self.folder / "answers.jsonl"]
            )
            table = [json.loads(line) for each in found for line in each.read_text().splitlines()]
        assert all(row["answer"] for row in table)
        return sorted(row["row"] for row in table)


def asked(server: LLMockServer) -> int:
    """How many requests came."""
    return len(server.state.journal.records())


def until_asked(server: LLMockServer, count: int, process: subprocess.Popen[bytes]) -> None:
    """Wait for so many requests."""
    ends = time.monotonic() + 120
    while asked(server) < count:
        assert process.poll() is None, "the job has ended"
        assert time.monotonic() < ends, "nothing is asked"
        time.sleep(0.01)
