"""Make the README's pictures: a gateway's table, and the first act of the demo."""

import os
import re
import subprocess
import sys
from contextlib import suppress
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path

from langchain_openai import ChatOpenAI
from PIL import Image
from playwright.sync_api import sync_playwright
from rich.console import Console
from rich.text import Text

from langchain_model_gateway import CooldownPolicy, GatewayRunnable, ModelRouterError
from langchain_model_gateway.timing import SystemClock
from tests.browser.lab import FLAGS, chromium

IMAGES = Path(__file__).parents[2] / "docs" / "images"
WIDTH = 92
PAGE = """<!doctype html><meta charset="utf-8">
<style>
  body {{ margin: 0; background: #fff; color: #1f2328; font-family: system-ui, sans-serif }}
  body > div {{ display: inline-block; padding: 8px 16px }}
  tbody tr {{ border-top: 1px solid #d8dee4 }}
  tbody tr:nth-child(odd) {{ background: #f6f8fa }}
  p {{ margin: 8px }}
</style>{table}"""


class Noon(SystemClock):
    """A Wednesday's noon, for good."""

    def now(self) -> datetime:
        """That noon."""
        return datetime(2026, 3, 4, 12, 0, tzinfo=UTC)

    def monotonic(self) -> float:
        """No time passes."""
        return 0.0


def gateway() -> GatewayRunnable:
    """One that has something to show: one of its deployments cannot be reached."""

    def client(model: str) -> ChatOpenAI:
        nowhere = "http://127.0.0.1:1/v1"
        return ChatOpenAI(model=model, api_key="none", base_url=nowhere, max_retries=0)

    made = GatewayRunnable(
        name="support-bot",
        models=[
            {"model_name": "cheap", "model": client("gpt-4o-mini"), "rpm": 300},
            {
                "model_name": "flagship",
                "model": client("gpt-4o"),
                "time_constraints": [("09:00", "17:30")],
                "max_concurrency": 8,
            },
            {
                "model_name": "backup",
                "model": client("llama-3.3-70b"),
                "time_constraints": [("22:00", "02:00")],
                "tier": 1,
            },
        ],
        cooldown=CooldownPolicy(failure_threshold=1, duration=30),
    ).with_clock(Noon())
    with suppress(ModelRouterError):
        made.invoke("Hello", model_fallback=False)
    return made


def table(to: Path) -> None:
    """A gateway's table, as a notebook shows it."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        page = browser.new_page(device_scale_factor=2, viewport={"width": 900, "height": 600})
        page.set_content(PAGE.format(table=gateway()._repr_html_()))
        page.locator("body > div").screenshot(path=to)
        browser.close()
    # A quarter of the bytes, for colours that nobody misses.
    with Image.open(to) as full:
        small = full.quantize(64)
    small.save(to, optimize=True)


def demo(to: Path) -> None:
    """The demo's first act, as a terminal shows it."""
    coloured = {
        "COLUMNS": str(WIDTH),
        "FORCE_COLOR": "1",
        "TTY_INTERACTIVE": "0",
        "TERM": "xterm-256color",
    }
    told = subprocess.run(
        [sys.executable, "-m", "demo"],
        env={**os.environ, **coloured, "TTY_INTERACTIVE": "0"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    lines = re.sub(r"\x1b\[\?25[lh]\n?", "", told).splitlines()
    plain = [re.sub(r"\x1b\[[\d;]*m", "", line) for line in lines]
    first, last = (
        next(i for i, line in enumerate(plain) if line.startswith(f"{number}. "))
        for number in (1, 2)
    )
    console = Console(record=True, width=WIDTH, file=StringIO(), force_terminal=True)
    console.print(Text.from_ansi("\n".join(lines[first:last]).rstrip()))
    to.write_text(console.export_svg(title="make demo"), encoding="utf-8")


if __name__ == "__main__":
    IMAGES.mkdir(exist_ok=True)
    table(IMAGES / "gateway.png")
    demo(IMAGES / "demo.svg")
