"""The live view of a gateway: its table, kept up to date while calls run."""

import sys
from collections.abc import Sequence
from functools import cache
from threading import Event, Thread
from typing import TYPE_CHECKING, Any, Final, Protocol, Self
from weakref import finalize

from langchain_model_gateway._html import NAME_LIMIT
from langchain_model_gateway._text import one_line
from langchain_model_gateway.admission.limits import Limits
from langchain_model_gateway.admission.places import Places
from langchain_model_gateway.deployment import ModelDeployment
from langchain_model_gateway.events import GatewayEvent
from langchain_model_gateway.listeners import Listeners
from langchain_model_gateway.listeners.events import Events
from langchain_model_gateway.listeners.stats import Counts, Stats, Told
from langchain_model_gateway.overview import Overview
from langchain_model_gateway.routing import Routing
from langchain_model_gateway.target import Target

if TYPE_CHECKING:
    from rich.table import Table

_PER_SECOND: Final = 4
"""How often the view is renewed, however many calls there are."""

_ESM: Final = """
function render({ model, el }) {
  const draw = () => { el.innerHTML = model.get("html"); };
  model.on("change:html", draw);
  draw();
}
export default { render };
"""


class Watch:
    """A live view, made by `GatewayRunnable.watch()`.

    In a notebook it is shown as a cell's last value, or where a `with` begins; in a terminal at
    once. It costs a call what `on_event` costs. It ends when it is closed, with its `with` block,
    or when nothing refers to it any more; what it shows then stays.

    Raises:
        ImportError: If what it is shown with is not installed.
    """

    def __init__(self, name: str, models: Sequence[ModelDeployment], routing: Routing) -> None:
        stats = Stats(routing.clock)
        board = _Board(name, models, routing, stats)
        self._face: _Face = _Notebook(board) if _is_notebook() else _Terminal(board)
        listener = Events(stats.note)
        routing.listeners.add(listener)
        self._end = finalize(self, _end, routing.listeners, listener, self._face)

    def close(self) -> None:
        """End it; what it shows stays."""
        self._end()

    def __enter__(self) -> Self:
        self._face.show(self)
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        return self._face.bundle(**kwargs)


def _end(listeners: Listeners, listener: Events, face: "_Face") -> None:
    listeners.remove(listener)
    face.close()


class _Face(Protocol):
    """Where a view is shown."""

    def show(self, view: Watch) -> None:
        """Show it here, if it is not shown yet."""

    def bundle(self, **kwargs: Any) -> Any:
        """It as a notebook shows it."""

    def close(self) -> None:
        """Show the last state, and no more."""


class _Terminal:
    """In a terminal, from the beginning."""

    def __init__(self, board: "_Board") -> None:
        try:
            from rich.live import Live  # noqa: PLC0415 - optional
        except ImportError:
            raise _missing("rich") from None
        self._live = Live(get_renderable=board.rich, refresh_per_second=_PER_SECOND)
        self._live.start()

    def show(self, view: Watch) -> None:
        """It is shown already."""

    def bundle(self, **_: Any) -> dict[str, str]:
        """It has nothing to show elsewhere."""
        return {}

    def close(self) -> None:
        """Leave the last state in the terminal."""
        self._live.stop()


class _Notebook:
    """In a notebook, as a widget."""

    def __init__(self, board: "_Board") -> None:
        self._board = board
        self.widget = _widget_class()(html=board.html())
        self._is_closed = Event()
        # It keeps this face alive, and not the `Watch`, which may be collected meanwhile.
        Thread(target=self._renew, name="gateway-watch", daemon=True).start()

    def _renew(self) -> None:
        while not self._is_closed.wait(1 / _PER_SECOND):
            self.widget.html = self._board.html()

    def show(self, view: Watch) -> None:
        """Show it below the cell."""
        from IPython.display import display  # noqa: PLC0415 - there is one: this is a notebook

        display(view)  # type: ignore[no-untyped-call, unused-ignore]

    def bundle(self, **kwargs: Any) -> Any:
        """The widget's own, and what is seen where no widget is drawn."""
        data, metadata = self.widget._repr_mimebundle_(**kwargs)
        still = {"text/html": self._board.html(), "text/plain": self._board.text()}
        return {**data, **still}, metadata

    def close(self) -> None:
        """Leave the last state below the cell."""
        self._is_closed.set()
        self.widget.html = self._board.html()


def _is_notebook() -> bool:
    """Whether this process is a notebook's kernel."""
    ipython = sys.modules.get("IPython")
    return ipython is not None and hasattr(ipython.get_ipython(), "kernel")


@cache
def _widget_class() -> Any:
    try:
        from anywidget import AnyWidget  # noqa: PLC0415 - optional
        from traitlets import Unicode  # noqa: PLC0415
    except ImportError:
        raise _missing("anywidget") from None

    class GatewayWidget(AnyWidget):  # type: ignore[misc, unused-ignore]
        """Shows markup that Python keeps up to date; names in it are escaped there."""

        _esm = _ESM
        html = Unicode("").tag(sync=True)

    return GatewayWidget


def _missing(library: str) -> ImportError:
    return ImportError(
        f"watch() shows itself with {library}: pip install 'langchain-model-gateway[notebook]'"
    )


# --- what is shown ---------------------------------------------------------------------------


class _Board:
    """What a view shows, whenever it is asked."""

    def __init__(
        self, name: str, models: Sequence[ModelDeployment], routing: Routing, stats: Stats
    ) -> None:
        self._name, self._models, self._routing, self._stats = name, models, routing, stats

    def text(self) -> str:
        """In words only."""
        return self._overview().text()

    def html(self) -> str:
        """For a notebook."""
        return self._overview().html()

    def rich(self) -> "Table":
        """For a terminal."""
        return self._overview().rich()

    def _overview(self) -> Overview:
        routing, (counts, news) = self._routing, self._stats.snapshot()
        now = routing.clock.monotonic()
        live = {
            name: {**_cells(counts.get(name, Counts())), "room now": _room(target, now)}
            for name, target in routing.targets.items()
        }
        overview = Overview.of(self._name, self._models, routing)
        return overview._replace(live=live, news=[*map(_line, news)])


def _cells(counts: Counts) -> dict[str, str]:
    latency = counts.latency
    return {
        "in flight": str(counts.in_flight),
        "answered": f"{counts.answered} ({counts.rate:.1f}/s)" if counts.answered else "0",
        "failed": str(counts.failed),
        "abandoned": str(counts.abandoned or ""),
        "latency": "-" if latency is None else f"{latency:.2f} s",
    }


def _room(target: Target, now: float) -> str:
    """What may be taken of each limit now."""
    limited = (each for each in target.admissions if isinstance(each, (Limits, Places)))
    rooms = (room for admission in limited for room in admission.room(now))
    return ", ".join(f"{room:,.0f} of {most:,.0f} {what}" for what, room, most in rooms)


def _line(told: Told) -> str:
    event = told.event
    return f"{told.at:%H:%M:%S} {one_line(event.model_name, NAME_LIMIT)} {_what(event)}"


def _what(event: GatewayEvent) -> str:
    took = "" if event.seconds is None else f" after {event.seconds:.2f} s"
    match event.kind:
        case "failed" | "rejected":
            return f"{event.kind}{took}: {one_line(event.error or '', NAME_LIMIT)}"
        case "cooldown_started":
            return f"is in cooldown until {event.until:%H:%M:%S} UTC"
        case "cooldown_ended":
            return "has answered again: its cooldown has ended"
        case "hedged":
            return "is asked, too"
        case _:
            return f"{event.kind}{took}"
