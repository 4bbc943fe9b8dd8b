"""The live view: what it counts, where it shows it, and when it ends."""

import gc
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from threading import Event, Thread
from threading import enumerate as threads_now
from typing import Any

import pytest
from langchain_openai import ChatOpenAI

from langchain_model_gateway import (
    CooldownPolicy,
    GatewayEvent,
    GatewayRunnable,
    RetryPolicy,
    SystemClock,
)
from langchain_model_gateway import watch as module
from langchain_model_gateway.listeners.stats import Counts, Stats
from tests.models import gateway_over, says

NOON = datetime(2026, 3, 4, 12, tzinfo=UTC)
KEY = "sk-proj-abcdefghijklmnop"


class Hands(SystemClock):
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def now(self) -> datetime:
        return NOON + timedelta(seconds=self.seconds)

    def monotonic(self) -> float:
        return self.seconds


def event(kind: Any, seconds: float | None = None, name: str = "weak") -> GatewayEvent:
    return GatewayEvent(kind, name, "openai", seconds=seconds)


# --- what is counted -------------------------------------------------------------------------


def test_attempts_are_counted_by_how_they_end() -> None:
    """Each deployment has its own numbers; a rejected answer counts as failed."""
    stats = Stats(Hands())
    ends = ("answered", "failed", "rejected", "abandoned")
    for kind in (*["started"] * 6, "first_chunk", "skipped", "hedged", *ends):
        stats.note(event(kind, 0.5))
    stats.note(event("started", name="strong"))
    counts = stats.snapshot().counts
    assert counts["weak"] == Counts(2, 1, 2, 1, rate=1.0, latency=0.5)
    assert counts["strong"] == Counts(in_flight=1)


def test_the_rate_is_that_of_the_last_ten_seconds() -> None:
    """Answers that are older count no more for the rate, and still for the sum."""
    stats = Stats(clock := Hands())
    for clock.seconds in (1.0, 2.0, 3.0, 4.0):
        stats.note(event("answered", 0.1))
    assert stats.snapshot().counts["weak"].rate == 1.0
    clock.seconds = 12.5
    assert stats.snapshot().counts["weak"].rate == 0.2
    clock.seconds = 60.0
    assert stats.snapshot().counts["weak"][:2] == (-4, 4)
    assert stats.snapshot().counts["weak"].rate == 0.0


def test_the_latency_is_that_of_the_last_answers() -> None:
    """Only answers count, and old ones are forgotten."""
    stats = Stats(Hands())
    stats.note(event("failed", 9.0))
    assert stats.snapshot().counts["weak"].latency is None
    for seconds in (*[5.0] * 10, *[1.0] * 10, *[2.0] * 10):
        stats.note(event("answered", seconds))
    assert stats.snapshot().counts["weak"].latency == 1.5


def test_the_news_are_the_last_events_that_matter() -> None:
    """The newest comes first, there are only a few, and what goes well is no news."""
    stats = Stats(clock := Hands())
    kinds = ["failed", "rejected", "abandoned", "hedged", "cooldown_started", "cooldown_ended"]
    for clock.seconds, kind in enumerate([*kinds, "started", "answered", "skipped", "failed"]):
        stats.note(event(kind))
    news = stats.snapshot().news
    assert [each.event.kind for each in news] == ["failed", *reversed(kinds[1:])]
    assert news[0].at == NOON + timedelta(seconds=9)


def test_no_event_is_lost_between_threads() -> None:
    """Events that come from many threads at once are all counted."""
    stats = Stats(Hands())

    def call() -> None:
        for _ in range(500):
            stats.note(event("started"))
            stats.note(event("answered", 0.1))

    threads = [Thread(target=call) for _ in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert stats.snapshot().counts["weak"][:2] == (0, 4000)


# --- in a terminal ---------------------------------------------------------------------------


def busy() -> GatewayRunnable:
    """A gateway whose first deployment fails at once and is in cooldown then."""
    cooldown = CooldownPolicy(failure_threshold=1, duration=30)
    models = [
        {"model_name": "weak", "model": says(ConnectionError("a secret")), "tpm": 1000},
        {"model_name": "strong", "model": says("an answer"), "rpm": 60, "max_concurrency": 4},
    ]
    return GatewayRunnable(models=models, cooldown=cooldown).with_clock(Hands())


def rows(text: str) -> dict[str, list[str]]:
    """The cells of each deployment's line."""
    lines = ([c.strip() for c in line.split("  ") if c.strip()] for line in text.splitlines())
    return {cells[1]: cells[2:] for cells in lines if cells and cells[0].isdigit()}


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")


def test_a_terminal_shows_the_table_and_what_went_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    """Who answered, how often and how fast; the cooldown's countdown; the room; the last events."""
    gateway = busy()
    with gateway.watch():
        for _ in range(3):
            gateway.invoke("x")
    text = capsys.readouterr().out
    weak, strong = rows(text)["weak"], rows(text)["strong"]
    assert weak == [
        *("ScriptedChatModel", "0", "0", "1", "-", "95 of 100 tokens", "in cooldown for 30 s more")
    ]
    assert strong == [
        *("ScriptedChatModel", "0", "3 (3.0/s)", "0", "0.00 s"),
        *("3 of 6 requests, 4 of 4 at once", "available"),
    ]
    assert "12:00:00 weak failed after 0.00 s: ConnectionError" in text
    assert "12:00:00 weak is in cooldown until 12:00:30 UTC" in text


def test_the_end_of_a_cooldown_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    """A deployment that answers again is shown as available, and the news say so."""
    clock = Hands()
    cooldown = CooldownPolicy(failure_threshold=1, duration=30)
    gateway = gateway_over(says(ConnectionError(), "back"), says("b"), cooldown=cooldown)
    gateway = gateway.with_clock(clock)
    with gateway.watch():
        gateway.invoke("x")
        clock.seconds = 31.0
        gateway.invoke("x")
    text = capsys.readouterr().out
    assert rows(text)["weak"][-1] == "available"
    assert "12:00:31 weak has answered again: its cooldown has ended" in text


def test_it_counts_the_calls_of_derived_gateways_too(capsys: pytest.CaptureFixture[str]) -> None:
    """What was derived before or after it was opened is the same gateway with another face."""
    gateway = gateway_over(says("a"), says("b"))
    before = gateway.prefer("strong")
    with gateway.watch():
        before.invoke("x")
        gateway.as_chat_model().invoke("x")
    assert {n: c[2][0] for n, c in rows(capsys.readouterr().out).items()} == {
        "weak": "1",
        "strong": "1",
    }


def test_no_prompt_answer_or_key_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """What was asked and answered, and what an error says, is nobody's business."""
    lost = ChatOpenAI(model="m", api_key=KEY, base_url="http://127.0.0.1:1/v1", max_retries=0)
    gateway = gateway_over(lost, says("an answer"), retry=RetryPolicy(max_attempts=1))
    with gateway.watch():
        gateway.invoke("a prompt")
    text = capsys.readouterr().out
    assert "OpenAIConnectionError" in text or "APIConnectionError" in text
    assert not [word for word in (KEY, "a prompt", "an answer", "127.0.0.1") if word in text]


# --- when it ends ----------------------------------------------------------------------------


def test_a_closed_view_is_told_nothing_more() -> None:
    """After it was closed calls are as cheap as before; to close it twice is no harm."""
    gateway = busy()
    before = gateway._listeners.all
    view = gateway.watch()
    assert gateway._listeners.of_attempts
    view.close()
    view.close()
    assert gateway._listeners.all == before
    assert gateway._listeners.of_attempts == ()


@pytest.mark.parametrize("is_notebook", [False, True], ids=["terminal", "notebook"])
def test_a_view_that_nobody_holds_ends(is_notebook: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A view that is collected ends, its thread included."""
    monkeypatch.setattr(module, "_is_notebook", lambda: is_notebook)
    gateway, threads = busy(), {*threads_now()}
    view = gateway.watch()
    own = {*threads_now()} - threads
    assert own
    del view
    gc.collect()
    assert gateway._listeners.of_attempts == ()
    for thread in own:
        thread.join(10)
        assert not thread.is_alive()


def test_an_error_of_a_call_ends_it_too(capsys: pytest.CaptureFixture[str]) -> None:
    """A block that is left by an exception closes the view and lets the exception through."""
    gateway = gateway_over(says(ConnectionError()), says(ConnectionError()))
    with pytest.raises(ExceptionGroup), gateway.watch():
        gateway.invoke("x")
    assert gateway._listeners.of_attempts == ()
    assert rows(capsys.readouterr().out)["strong"][3] == "1"


# --- in a notebook ---------------------------------------------------------------------------


@pytest.fixture
def _in_a_notebook(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(module, "_is_notebook", lambda: True)
    monkeypatch.setattr("IPython.display.display", lambda _: None)
    yield
    gc.collect()


@pytest.mark.usefixtures("_in_a_notebook")
def test_a_notebook_shows_a_widget() -> None:
    """Its state is the table's markup, kept up to date while calls run."""
    gateway = busy()
    view = gateway.watch()
    widget = view._face.widget
    assert "in cooldown for" not in widget.html
    shown = Event()
    widget.observe(lambda change: "in cooldown for" in change["new"] and shown.set(), "html")
    gateway.invoke("x")
    assert shown.wait(10)
    assert "weak is in cooldown until 12:00:30 UTC" in widget.html
    view.close()
    data, _ = view._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in data


@pytest.mark.usefixtures("_in_a_notebook")
def test_where_no_widget_is_drawn_the_table_is_shown_as_it_was() -> None:
    """A code host has the table's markup, and its text, which needs no style."""
    gateway = busy()
    with gateway.watch() as view:
        gateway.invoke("x")
        data, _ = view._repr_mimebundle_()
    assert "in cooldown for 30 s more" in data["text/html"]
    assert rows(data["text/plain"])["weak"][-1] == "in cooldown for 30 s more"
    assert "12:00:00 weak failed after 0.00 s: ConnectionError" in data["text/plain"]


@pytest.mark.usefixtures("_in_a_notebook")
def test_a_widget_shows_the_last_state_when_it_is_closed() -> None:
    """What has happened since the last renewal is shown at the end."""
    gateway = busy()
    with gateway.watch() as view:
        gateway.batch(["x"] * 3)
    assert "3 (3.0/s)" in view._face.widget.html


@pytest.mark.usefixtures("_in_a_notebook")
def test_however_many_calls_there_are_it_is_renewed_four_times_a_second(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A call renews nothing: the view's own thread does."""
    renewed = []
    overview = module._Board._overview
    monkeypatch.setattr(
        module._Board, "_overview", lambda self: renewed.append(1) or overview(self)
    )
    monkeypatch.setattr(module, "_PER_SECOND", 0.001)
    gateway = gateway_over(says("a"), says("b"))
    with gateway.watch():
        gateway.batch(["x"] * 200)
    assert len(renewed) == 2


@pytest.mark.usefixtures("_in_a_notebook")
def test_names_in_a_widget_are_text() -> None:
    """The markup that a browser gets holds no tag of a name's."""
    name = "<img src=x onerror=alert(1)>"
    models = [{"model_name": n, "model": says(ConnectionError())} for n in (name, "b")]
    gateway = GatewayRunnable(models=models, name=name)
    with pytest.raises(ExceptionGroup), gateway.watch() as view:
        gateway.invoke("x")
    assert "<img" not in view._face.widget.html
    assert view._face.widget.html.count("&lt;img") >= 3


@pytest.mark.parametrize(
    ("library", "is_notebook"), [("rich.live", False), ("anywidget", True)], ids=["rich", "any"]
)
def test_a_missing_library_is_named_with_its_extra(
    library: str, is_notebook: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error says what to install, and no listener is added."""
    monkeypatch.setitem(sys.modules, library, None)
    monkeypatch.setattr(module, "_is_notebook", lambda: is_notebook)
    module._widget_class.cache_clear()
    gateway = busy()
    with pytest.raises(ImportError, match=r"pip install 'langchain-model-gateway\[notebook\]'"):
        gateway.watch()
    assert gateway._listeners.of_attempts == ()
