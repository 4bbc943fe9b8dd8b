"""A recipe as a job in a folder of its own, killed and resumed; nothing of it is left over."""

import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from shutil import copy, rmtree
from tempfile import mkdtemp
from typing import Self

from .provider import Provider

ROOT = Path(__file__).resolve().parents[2]
RECIPES = ROOT / "docs/recipes"
TICKS = os.sysconf("SC_CLK_TCK")
PR_SET_CHILD_SUBREAPER = 36


class Tree:
    """The processes below this one, orphans included (Linux)."""

    def __init__(self) -> None:
        # What an engine leaves behind when its driver is killed becomes our own child.
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        self._before = set(self._found())
        self._spent: dict[int, float] = {}
        self._lock = threading.Lock()

    def seconds(self) -> float:
        """The processor time, user and system, of all that were seen so far."""
        self.look()
        return sum(self._spent.values())

    def look(self) -> None:
        """Read the clocks of all that run."""
        with self._lock:
            self._spent.update(self._found())

    def names(self) -> dict[int, str]:
        """Each that runs, and its command line."""
        found = {}
        for pid in self._found():
            with suppress(OSError):
                line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
                if line:  # a zombie has none
                    found[pid] = line
        return found

    def end(self, patience: float = 0.0) -> dict[int, str]:
        """End what does not end by itself within so many seconds; gives what that was."""
        ends = time.monotonic() + patience
        while self.names() and time.monotonic() < ends:
            self._reap()
            time.sleep(0.1)
        left = self.names()
        while self.names():
            for pid in self.names():
                with suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
            self._reap()
            time.sleep(0.05)
        return left

    def _reap(self) -> None:
        for pid in self._found():
            with suppress(OSError):
                os.waitpid(pid, os.WNOHANG)

    def _found(self) -> dict[int, float]:
        parents: dict[int, int] = {}
        spent: dict[int, float] = {}
        for path in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError):
                fields = path.read_text().rpartition(")")[2].split()
                pid = int(path.parent.name)
                parents[pid], ticks = int(fields[1]), int(fields[11]) + int(fields[12])
                spent[pid] = ticks / TICKS
        mine = {os.getpid()}
        while more := {pid for pid, parent in parents.items() if parent in mine} - mine:
            mine |= more
        before = getattr(self, "_before", set())
        return {pid: spent[pid] for pid in mine - {os.getpid()} - before}


class Job:
    """A recipe in a folder with a `gateway.yaml` and so many prompts.

    Used as a context manager, which ends what is left of it.
    """

    def __init__(self, recipe: str, provider: Provider, rows: int) -> None:
        self.recipe, self.provider, self.rows = recipe, provider, rows
        # Short: engines put sockets below it, whose paths may have a hundred characters.
        self.folder = Path(mkdtemp(prefix="job-", dir="/tmp"))
        copy(RECIPES / "gateway.yaml", self.folder)
        lines = (json.dumps({"id": i, "prompt": f"prompt {i}"}) for i in range(rows))
        (self.folder / "prompts.jsonl").write_text("".join(f"{line}\n" for line in lines))
        self.tree = Tree()
        self.environment = {
            **os.environ,
            "OPENAI_BASE_URL": provider.url,
            "OPENAI_API_KEY": "test-key",
            "PYTHONPATH": str(ROOT),
            "HOME": str(self.folder),
            "RAY_TMPDIR": str(self.folder / "ray"),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
            "DO_NOT_TRACK": "1",
            "PYSPARK_PYTHON": sys.executable,
            "SPARK_LOCAL_IP": "127.0.0.1",
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.tree.end()
        rmtree(self.folder, ignore_errors=True)

    def start(self, arguments: Sequence[str] = ()) -> subprocess.Popen[bytes]:
        """Start it, or Python with these arguments; its output goes into a file."""
        # A session of its own: Ray, when its driver is gone, kills the driver's whole group.
        with (self.folder / "output.txt").open("ab") as output:
            return subprocess.Popen(
                [sys.executable, *(arguments or [str(RECIPES / self.recipe)])],
                cwd=self.folder,
                env=self.environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def run(self, seconds: float = 300.0) -> None:
        """Start it, and wait until it has ended well."""
        self.wait(self.start(), seconds)

    def wait(self, process: subprocess.Popen[bytes], seconds: float = 300.0) -> None:
        """Wait until it has ended well."""
        ends = time.monotonic() + seconds
        while process.poll() is None and time.monotonic() < ends:
            self.tree.look()
            time.sleep(0.05)
        status = process.poll()
        self.tree.end(patience=3)
        assert status == 0, self.output()

    def kill_after(self, answers: int, written: Path | None = None) -> None:
        """Start it, and kill the driver (SIGKILL) once so many prompts were answered.

        Where a file is given, something must have been written into it, too: a busy machine may
        answer many before the first is.
        """
        process = self.start()
        self.provider.wait_for(answers)
        ends = time.monotonic() + 60
        while written and not (written.exists() and written.stat().st_size):
            assert time.monotonic() < ends, self.output()
            time.sleep(0.01)
        self.tree.look()
        process.kill()
        process.wait(60)
        self.tree.end(patience=3)

    def output(self) -> str:
        """What it printed, the last of it."""
        return (self.folder / "output.txt").read_text(errors="replace")[-6000:]

    @property
    def asked_twice(self) -> int:
        """The prompts that were answered more than once."""
        return sum(count > 1 for count in self.provider.asked.values())

    def check(self, answers: list[tuple[int, str]]) -> None:
        """Each row has exactly one result, and it is its own."""
        assert sorted(answers) == [(i, f"answer to prompt {i}") for i in range(self.rows)]
        assert len(self.provider.asked) == self.rows


def lines(*paths: Path) -> list[tuple[int, str]]:
    """The results in files of JSON lines."""
    rows = [json.loads(line) for path in paths for line in path.read_text().splitlines()]
    return [(row["id"], row["answer"]) for row in rows]
