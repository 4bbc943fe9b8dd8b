"""Who needs `make engines`, and what is told at its end."""

import os
from typing import Any

import pytest

engines = pytest.mark.skipif(
    not os.environ.get("ENGINES"), reason="an engine in an environment of its own: make engines"
)

TOLD: list[str] = []
"""What the jobs came to, a line each."""


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if TOLD:
        terminalreporter.section("asked twice")
        for line in TOLD:
            terminalreporter.write_line(line)
