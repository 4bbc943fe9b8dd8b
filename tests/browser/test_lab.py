"""What a real JupyterLab shows of a gateway."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from freezegun import freeze_time
from nbformat.v4 import new_code_cell, new_notebook, new_output
from playwright.sync_api import Page

from langchain_model_gateway import GatewayRunnable
from tests.browser.lab import Lab, lab
from tests.models import says

pytestmark = pytest.mark.timeout(240)

OUTAGE = """
import time
from itertools import count
from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableLambda
from langchain_model_gateway import CooldownPolicy, GatewayRunnable

calls = count()

def first(_):
    time.sleep(0.1)
    if next(calls) == 20:
        raise ConnectionError("down")
    return AIMessage("an answer")

def second(_):
    time.sleep(0.1)
    return AIMessage("an answer")

gateway = GatewayRunnable(
    models=[
        {"model_name": "first", "model": RunnableLambda(first), "rpm": 6000},
        {"model_name": "second", "model": RunnableLambda(second), "max_concurrency": 4},
    ],
    cooldown=CooldownPolicy(failure_threshold=1, duration=4),
)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("notebooks")


@pytest.fixture(scope="module")
def running(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with lab(folder, tmp_path_factory.mktemp("home")) as started:
        yield started


def notebook(path: Path, *cells: Any) -> None:
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(new_notebook(cells=[*cells], metadata={"kernelspec": kernel}), path)


def shown(path: Path, bundle: dict[str, str]) -> None:
    """Write a notebook that somebody else has run."""
    output = new_output("execute_result", data=bundle, execution_count=1)
    notebook(path, new_code_cell("gateway", outputs=[output], execution_count=1))


def box(page: Page, selector: str) -> dict[str, float]:
    found = page.locator(selector).first.bounding_box()
    assert found is not None, selector
    return dict(found)


def gateway() -> GatewayRunnable:
    window = [("06:00", "12:00")]
    models = [{"model_name": "weak", "model": says("a"), "time_constraints": window}]
    return GatewayRunnable(models=[*models, {"model_name": "strong", "model": says("b")}])


@pytest.mark.parametrize("theme", ["JupyterLab Light", "JupyterLab Dark"])
def test_a_table_that_is_not_trusted_keeps_its_bar(theme: str, running: Lab, folder: Path) -> None:
    """The restricted stretch and the present stand where they belong, in a colour that is seen."""
    with freeze_time("2026-03-04 18:00"):
        shown(folder / "table.ipynb", {"text/html": gateway()._repr_html_(), "text/plain": ""})
    running.open("table.ipynb", theme, 1280)
    page = running.page
    stretch, now = '[title="restricted 06:00 to 12:00"]', '[title="now"]'
    bar = box(page, f"span:has(> {now})")
    assert box(page, stretch)["x"] - bar["x"] == pytest.approx(bar["width"] / 4, abs=1)
    assert box(page, stretch)["width"] == pytest.approx(bar["width"] / 4, abs=1)
    assert box(page, now)["x"] - bar["x"] == pytest.approx(bar["width"] * 3 / 4, abs=1)
    assert box(page, now)["height"] > box(page, stretch)["height"] > 8
    colours = (
        "element => { const style = getComputedStyle(element); "
        "return [style.backgroundColor, style.borderLeftColor, style.color] }"
    )
    assert page.locator(stretch).evaluate(colours)[0] == "rgb(209, 73, 75)"
    _, border, text = page.locator(now).first.evaluate(colours)
    assert border == text


def test_a_graph_is_drawn(running: Lab, folder: Path) -> None:
    """The deployments are nodes of a drawing, from left to right in list order."""
    shown(folder / "graph.ipynb", gateway().get_graph()._repr_mimebundle_())
    running.open("graph.ipynb", "JupyterLab Light", 1280)
    drawing = running.page.locator(".jp-RenderedMermaid img, .jp-RenderedMermaid svg").first
    drawing.wait_for(timeout=30_000)
    assert box(running.page, ".jp-RenderedMermaid img, .jp-RenderedMermaid svg")["height"] > 100


def test_a_live_view_shows_a_cooldown_begin_and_end(running: Lab, folder: Path) -> None:
    """While a batch runs through an outage, the cooldown appears, counts down and ends."""
    cells = (
        OUTAGE,
        "view = gateway.watch()\nview",
        'gateway.batch(["x"] * 600, {"max_concurrency": 4});',
    )
    notebook(folder / "live.ipynb", *map(new_code_cell, cells))
    running.open("live.ipynb", "JupyterLab Light", 1280)
    page = running.page
    page.evaluate("void window.jupyterapp.commands.execute('notebook:run-all-cells')")
    row = page.locator("tr", has_text="first").locator("td").last
    for text in ("available", "in cooldown for", "available"):
        row.filter(has_text=text).wait_for(timeout=60_000)
        running.page.screenshot(path=folder / f"{text}.png")
    news = page.locator(".jp-OutputArea-output p").first
    assert "first has answered again: its cooldown has ended" in news.inner_text()
    assert "first failed after" in news.inner_text()
