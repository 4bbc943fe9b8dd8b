"""The demo: what it tells does not depend on time, on the terminal, or on the environment."""

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.skipif(
    not (ROOT / "demo").exists(), reason="the wheel is tested without the demo"
)

WIDTHS = (60, 80, 120)
COLUMN_HEADS = ("act", "question", "by", "why")


def environment(**more: str) -> dict[str, str]:
    """This process's environment with some variables changed."""
    return {**os.environ, "PYTHONPATH": str(ROOT), **more}


def begin(**more: str) -> subprocess.Popen[str]:
    """Begin a play."""
    return subprocess.Popen(
        [sys.executable, "-m", "demo"],
        cwd=ROOT,
        env=environment(**more),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(demo: subprocess.Popen[str]) -> str:
    """What a play printed."""
    out, err = demo.communicate()
    assert (demo.returncode, err) == (0, "")
    return out


def answers(text: str) -> list[str]:
    """Who answered each question, from the closing table."""
    return re.findall(r"^│ +\d │ .*?│ (\w+) +│", text, re.MULTILINE)


@pytest.fixture(scope="module")
def plays() -> dict[int, str]:
    """One play for each width, in an environment that would lead it astray."""
    astray = {"HTTP_PROXY": "http://127.0.0.1:9", "ALL_PROXY": "socks5://127.0.0.1:9"}
    tracing = {"LANGSMITH_TRACING": "true", "LANGSMITH_API_KEY": "none"}
    begun = {width: begin(COLUMNS=str(width), **astray, **tracing) for width in WIDTHS}
    return {width: ended(demo) for width, demo in begun.items()}


def test_the_story_is_always_the_same(plays: dict[int, str]) -> None:
    """Who answers what does not depend on how long anything takes: what is back answers again."""
    told = answers(plays[120])
    assert told == [
        *["budget"] * 6,
        *["flagship"] * 6,
        *["budget"] * 4,
        *["flagship"] * 2,
        *["budget"] * 2,
        "backup",
    ]


@pytest.mark.parametrize("width", WIDTHS)
def test_it_fits_its_terminal(plays: dict[int, str], width: int) -> None:
    """No line is longer than the terminal, no code is cut, and no column vanishes."""
    text = plays[width]
    assert max(map(len, text.splitlines())) <= width
    code = re.sub(r"[│\s]", "", text)
    assert "cooldown=CooldownPolicy(failure_threshold=2,duration=30),)" in code
    head = text.partition("Who answered what")[2]
    assert all(re.search(rf"\b{name}\b", head) for name in COLUMN_HEADS)


def test_it_explains_itself(plays: dict[int, str]) -> None:
    """It says what a probe is, why who answered, and what to do next."""
    text = plays[120]
    assert "find out whether it is back: the probe" in text
    assert "budget in cooldown" in text
    assert "flagship restricted 22:00-06:00 UTC" in text
    assert "notebooks/01_quickstart.ipynb" in text.partition("What next")[2]


def test_an_interrupt_is_one_line() -> None:
    """Ctrl-C ends it with one line and the exit code 130."""
    with begin() as demo:
        assert demo.stdout is not None
        assert "Ctrl-C ends it" in demo.stdout.readline()
        demo.send_signal(signal.SIGINT)
        out, err = demo.communicate()
    assert (demo.returncode, out.splitlines()[-1], err) == (130, "Stopped.", "")


@pytest.fixture
def old_python(tmp_path: Path) -> Path:
    """An interpreter that says of itself that it is Python 3.9."""
    path = tmp_path / "python3.9"
    lie = 'import sys; sys.version_info = (3, 9, 1, \\"final\\", 0); exec(sys.argv[1])'
    path.write_text(f'#!/bin/sh\n[ "$1" = -c ] && exec {sys.executable} -c "{lie}" "$2"\n')
    path.chmod(0o755)
    return path


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    """What make says."""
    return subprocess.run(
        ["make", "demo", *arguments],
        cwd=ROOT,
        env=environment(MAKEFLAGS="", MAKELEVEL=""),
        capture_output=True,
        text=True,
        check=False,
    )


needs_make = pytest.mark.skipif(
    not (ROOT / "Makefile").exists() or shutil.which("make") is None, reason="there is no make"
)


@needs_make
def test_an_old_python_is_said_first(old_python: Path) -> None:
    """A Python that is too old is told before anything is set up, with what to do."""
    done = make(f"PYTHON={old_python}")
    assert done.returncode != 0
    assert done.stdout == ""
    assert "Python 3.11 or later is needed" in done.stderr.splitlines()[0]
    assert "PYTHON=python3.12" in done.stderr.splitlines()[0]


@needs_make
def test_a_new_environment_is_announced(tmp_path: Path) -> None:
    """Where there is no environment yet, one is set up, and it is said before."""
    done = make("--dry-run", f"VENV={tmp_path / 'new'}", f"PYTHON={sys.executable}")
    assert done.returncode == 0
    assert "First it sets up" in done.stdout.partition("-m venv")[0]
    assert "its Python is gone" not in done.stdout


@needs_make
@pytest.mark.parametrize(("interpreter", "is_made_anew"), [(sys.executable, False), ("gone", True)])
def test_a_stale_environment_is_made_anew(
    tmp_path: Path, interpreter: str, *, is_made_anew: bool
) -> None:
    """An environment whose Python is gone is made anew; one that works is kept."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/python").symlink_to(interpreter)
    for stamp in (".pip-ready", ".demo-ready"):
        (tmp_path / stamp).touch()
    done = make("--dry-run", f"VENV={tmp_path}", f"PYTHON={sys.executable}")
    assert ("-m venv --clear" in done.stdout) is is_made_anew
    assert ("its Python is gone or is not" in done.stdout) is is_made_anew
    assert ("scripts/install --editable" in done.stdout) is is_made_anew
