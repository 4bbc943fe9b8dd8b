"""A gateway as a table: its deployments, their hours and limits, and what holds of each now."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from html import escape
from itertools import compress
from math import ceil
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, NamedTuple, Self

from langchain_model_gateway._html import NAME_LIMIT, escaped, html_table
from langchain_model_gateway._text import one_line
from langchain_model_gateway.admission import Closed
from langchain_model_gateway.admission.windows import hours
from langchain_model_gateway.deployment import ModelDeployment
from langchain_model_gateway.routing import Routing, no_size
from langchain_model_gateway.schedule import restricted_stretches

if TYPE_CHECKING:
    from rich.table import Table

_ROWS: Final = 50
_HOURS: Final = "restricted hours"
_DAY: Final = timedelta(days=1)
_MINUTE: Final = timedelta(minutes=1)

# Names and #rrggbb only, readable on a light and on a dark page: all that survives in an output
# that is not trusted. What is free is a thin line, too, and what is not a tall block.
_GREEN, _RED, _AMBER = "#3fa45c", "#d1494b", "#c98a1b"
_BAR: Final = "position:relative;display:inline-block;width:216px;vertical-align:middle"
_SMALL: Final = "font-size:11px;font-weight:normal"


class _Sign(NamedTuple):
    """How a state is marked, beside its words."""

    symbol: str
    html_colour: str
    rich_style: str


_OPEN: Final = _Sign("✓", _GREEN, "green")
_SIGNS: Final = {
    "restricted": _Sign("✗", _RED, "red"),
    "cooldown": _Sign("!", _AMBER, "yellow"),
    "limited": _Sign("~", _AMBER, "yellow"),
    "full": _Sign("~", _AMBER, "yellow"),
}


class Overview(NamedTuple):
    """What a gateway's table shows.

    Attributes:
        name: The gateway's name.
        models: Its deployments.
        closed: Why each may not be asked now, as `explain()` has it; `None` if it may.
        now: The moment, in UTC.
        live: In a live view: more cells of each deployment, and below what is `news`.
        news: Lines for below the table.
    """

    name: str
    models: Sequence[ModelDeployment]
    closed: Mapping[str, Closed | None]
    now: datetime
    live: Mapping[str, Mapping[str, str]] = MappingProxyType({})
    news: Sequence[str] = ()

    @classmethod
    def of(cls, name: str, models: Sequence[ModelDeployment], routing: Routing) -> Self:
        """What holds at this moment."""
        now = routing.clock
        closed = {key: target.closed(now, no_size) for key, target in routing.targets.items()}
        return cls(name, models, closed, now.now())

    def text(self) -> str:
        """For a terminal, in words only: not every one can print symbols."""
        header, rows = self._table(self._cells)
        lines = [header, *rows]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        aligned = ("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)
        return "\n".join([self._title(), *aligned, *self.news])

    def html(self) -> str:
        """For a notebook; all of it can be read without any style."""
        header, rows = self._table(self._markup)
        legend = _legend(has_bars=_HOURS in header)
        header = [name + (_axis() if name == _HOURS else "") for name in header]
        news = "<br>".join(escaped(self.news))
        below = f'<p style="font-size:12px">{news}</p>' if news else ""
        return f"<div>{html_table(self._title(), header, rows)}{below}{legend}</div>"

    def rich(self) -> "Table":
        """For a terminal, with colours."""
        from rich.box import SIMPLE_HEAD  # noqa: PLC0415 - only where rich is
        from rich.table import Table  # noqa: PLC0415
        from rich.text import Text  # noqa: PLC0415

        header, rows = self._table(self._cells)
        table = Table(
            title=Text(self._title(), "bold"),
            caption=Text("\n".join(self.news)) if self.news else None,
            title_justify="left",
            caption_justify="left",
            box=SIMPLE_HEAD,
        )
        for name in header:
            table.add_column(name, overflow="fold")
        for deployment, row in zip(self.models, rows, strict=False):
            style = _sign(self.closed[deployment.model_name]).rich_style
            table.add_row(*map(Text, row[:-1]), Text(row[-1], style))
        return table

    def _title(self) -> str:
        title = f"{one_line(self.name, NAME_LIMIT)}, {self.now:%A %Y-%m-%d %H:%M} UTC"
        more = len(self.models) - _ROWS
        return title + (f" (and {more} more deployments)" if more > 0 else "")

    def _table(
        self, cells: Callable[[int, ModelDeployment], Mapping[str, str]]
    ) -> tuple[list[str], list[list[str]]]:
        """Header and rows; what no deployment has is left out."""
        shown = [cells(rank, each) for rank, each in enumerate(self.models[:_ROWS], start=1)]
        is_used = [any(row[column] for row in shown) for column in shown[0]]
        return list(compress(shown[0], is_used)), [
            list(compress(r.values(), is_used)) for r in shown
        ]

    def _cells(self, rank: int, deployment: ModelDeployment) -> dict[str, str]:
        return {
            "": str(rank),
            "deployment": one_line(deployment.model_name, NAME_LIMIT),
            "model": _model(deployment),
            "settings": "" if self.live else ", ".join(_settings(deployment)),
            _HOURS: hours(deployment.time_constraints) or ("" if self.live else "none"),
            **self.live.get(deployment.model_name, {}),
            "now": self._state(deployment),
        }

    def _markup(self, rank: int, deployment: ModelDeployment) -> dict[str, str]:
        cells = self._cells(rank, deployment)
        symbol, colour, _ = _sign(self.closed[deployment.model_name])
        marked = dict(zip(cells, escaped([*cells.values()]), strict=True))
        small = f'<span style="{_SMALL}">{marked[_HOURS]}</span>'
        return marked | {
            _HOURS: f"{_bar(deployment, self.now)}<br>{small}" if cells[_HOURS] else "",
            "now": f'<span style="color:{colour};font-weight:bold">{symbol}</span> {marked["now"]}',
        }

    def _state(self, deployment: ModelDeployment) -> str:
        match self.closed[deployment.model_name]:
            case None:
                return "available"
            case Closed("restricted", _, None):
                return "always restricted"
            case Closed("restricted", _, until):
                return f"restricted until {until:%a %H:%M} UTC"
            case Closed("cooldown", _, until):
                return f"in cooldown {self._until(until)}"
            case Closed("limited", _, until):
                return f"limited {self._until(until)}"
            case Closed():
                return "full"

    def _until(self, end: datetime | None) -> str:
        """The end of what is over soon; a live view counts down to it."""
        if end is None:
            return "for an unknown time"
        if self.live:
            return f"for {max(0, ceil((end - self.now).total_seconds()))} s more"
        return f"until {end:%H:%M:%S} UTC"


def _sign(closed: Closed | None) -> _Sign:
    return _OPEN if closed is None else _SIGNS[closed.kind]


def _model(deployment: ModelDeployment) -> str:
    """The model's own name and who serves it, or what it is."""
    if inner := deployment.inner_deployments:
        return f"gateway of {len(inner)}"
    found = deployment.model_id
    return deployment.model_class if found is None else f"{found} ({deployment.provider})"


def _settings(deployment: ModelDeployment) -> Iterator[str]:
    """Its place, its share and its limits, where they are given."""
    if deployment.tier:
        yield f"tier {deployment.tier}"
    if deployment.weight != 1:
        yield f"weight {deployment.weight:g}"
    if deployment.rpm is not None:
        yield f"{deployment.rpm:,.15g} rpm"
    if deployment.tpm is not None:
        yield f"{deployment.tpm:,.15g} tpm"
    if deployment.max_concurrency is not None:
        yield f"{deployment.max_concurrency} at once"


# --- the bar ---------------------------------------------------------------------------------


def _bar(deployment: ModelDeployment, now: datetime) -> str:
    """Today in UTC, from midnight to midnight: restricted stretches and the present."""
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    free = f'<span style="{_mark(6, 4)};width:100%;background-color:{_GREEN}"></span>'
    return (
        f'<span style="{_BAR};height:16px">{free}{"".join(_stretches(deployment, midnight))}'
        f'<span title="now" style="{_mark(0, 16)};margin-left:{_share(now - midnight)};'
        'border-left:2px solid"></span></span>'
    )


def _stretches(deployment: ModelDeployment, midnight: datetime) -> Iterator[str]:
    today = restricted_stretches([deployment.time_constraints], midnight, midnight + _DAY)
    for start, end in today:
        title = (
            f"restricted {start:%H:%M} to {'24:00' if end == midnight + _DAY else f'{end:%H:%M}'}"
        )
        yield (
            f'<span title="{title}" style="{_mark(2, 12)};margin-left:{_share(start - midnight)};'
            f'width:{_share(end - start)};background-color:{_RED}"></span>'
        )


def _mark(top: int, height: int) -> str:
    return f"position:absolute;top:{top}px;height:{height}px"


def _share(length: timedelta) -> str:
    return f"{100 * (length / _DAY):.3f}%"


def _axis() -> str:
    # With spaces between: without styles they are all that keeps the hours apart.
    labels = " ".join(
        f'<span style="position:absolute;margin-left:{_share(timedelta(hours=hour))};'
        f'border-left:1px solid;padding-left:3px">{hour}h</span>'
        for hour in (0, 6, 12, 18)
    )
    return f' <br><span style="{_BAR};height:14px;{_SMALL}">{labels}</span>'


def _legend(*, has_bars: bool) -> str:
    signs = {"available": _OPEN, **_SIGNS}
    words = {"cooldown": "in cooldown", "limited": "limited or full"}
    states = ", ".join(
        f'<span style="color:{sign.html_colour};font-weight:bold">{sign.symbol}</span> '
        f"{escape(words.get(kind, kind))}"
        for kind, sign in signs.items()
        if kind != "full"
    )
    bars = "thin line = may be used, tall block = restricted, upright line = now"
    return f'<p style="font-size:11px">{states}{f"; today in UTC: {bars}" if has_bars else ""}</p>'
