"""How a rehearsal looks: as a table, and as a picture."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from langchain_model_gateway._html import NAME_LIMIT, escaped, html_table
from langchain_model_gateway._text import one_line


class Table(NamedTuple):
    """A table of which each row has a name."""

    title: str
    header: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]

    def _safe_rows(self) -> list[list[str]]:
        return [[one_line(name, NAME_LIMIT), *cells] for name, *cells in self.rows]

    def text(self) -> str:
        """For a terminal."""
        rows = [["", *self.header], *self._safe_rows()]
        first, *widths = (max(map(len, column)) for column in zip(*rows, strict=True))
        lines = ("  ".join([row[0].ljust(first), *map(str.rjust, row[1:], widths)]) for row in rows)
        return "\n".join([self.title, *lines])

    def html(self) -> str:
        """For a notebook."""
        return html_table(
            self.title, ("", *self.header), [escaped(row) for row in self._safe_rows()]
        )


def panels(count: int) -> list[Any]:
    """Axes below each other, on the same scale.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    try:
        from matplotlib import pyplot  # noqa: PLC0415 - optional, and slow to import
    except ImportError:
        raise ImportError("plot() draws with matplotlib: pip install matplotlib") from None
    _, axes = pyplot.subplots(
        count,
        sharex=True,
        sharey=True,
        squeeze=False,
        figsize=(9, 3.2 * count),
        layout="constrained",
    )
    return [*axes.flat]


def draw(rehearsal: Any, axes: Any) -> None:
    """Draw each call of a `Rehearsal` as a dot, each cooldown as a bar, and trouble in grey."""
    for start, end in rehearsal.trouble:
        axes.axvspan(start, end, color="grey", alpha=0.15, linewidth=0)
    for rank, name in enumerate((*rehearsal.model_names, None)):
        calls = [call for call in rehearsal.calls if call.answered_by == name]
        style = {"label": "lost", "color": "black", "marker": "x"}
        if name is not None:
            style = {"label": one_line(name, NAME_LIMIT), "color": f"C{rank}", "marker": "."}
        # What took no time at all has no place on a logarithmic scale.
        points = [call.began for call in calls], [max(call.seconds, 0.001) for call in calls]
        axes.scatter(*points, s=8, linewidths=0.8, **style)
        spells = [(c.began, c.ended - c.began) for c in rehearsal.cooldowns if c.model_name == name]
        place = {"transform": axes.get_xaxis_transform(), "color": style["color"]}
        axes.broken_barh(spells, (0.01 + 0.03 * rank, 0.02), **place)
    axes.set(
        yscale="log", ylabel="latency in seconds", xlabel="seconds", xlim=(0, rehearsal.seconds)
    )
    axes.set_ylim(bottom=axes.get_ylim()[0] / 3)  # room for the bars
    axes.legend(loc="upper right", markerscale=2)
