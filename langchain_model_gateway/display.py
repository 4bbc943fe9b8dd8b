"""How a gateway looks: in a terminal, in a notebook, in a graph."""

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from html import escape
from typing import TYPE_CHECKING, Any, Final

from langchain_core.runnables import Runnable
from langchain_core.utils.pydantic import TypeBaseModel

from langchain_model_gateway._text import one_line
from langchain_model_gateway.deployment import ModelDeployment
from langchain_model_gateway.errors import SkippedModel
from langchain_model_gateway.schedule import restricted_stretches, restricted_until, timetables

if TYPE_CHECKING:
    from langchain_core.runnables.graph import Graph, Node

# Plain tuples: this module cannot import those who show themselves with it.
Plan = tuple[
    Sequence[str], Sequence[SkippedModel], Sequence[SkippedModel], datetime, Mapping[str, float]
]
"""A `RoutingPlan`: the order, who is skipped, who is deferred, the moment, and the shares."""
Findings = Sequence[tuple[str, tuple[str, ...], str, str]]
"""Code, deployments, message and advice of each."""

_ROWS: Final = 50
# Words Mermaid takes for its own where a node's name stands.
_MERMAID_WORDS: Final = frozenset(
    {"call", "class", "classdef", "click", "default", "direction", "end", "flowchart", "graph"}
    | {"href", "interpolate", "linkstyle", "style", "subgraph"}
)
_NAME_LIMIT: Final = 60
_DAY_MINUTES: Final = 24 * 60
_MINUTE: Final = timedelta(minutes=1)

# Colours that read on a light and on a dark page.
_FREE, _RESTRICTED, _NOW = "rgba(46,160,67,.35)", "rgba(218,54,51,.75)", "currentColor"
_TABLE: Final = "border-collapse:collapse;font-family:system-ui,sans-serif;font-size:13px"
_CELL: Final = "padding:4px 10px;text-align:left;vertical-align:middle;white-space:nowrap"
_BAR: Final = (
    f"position:relative;display:inline-block;width:300px;height:16px;background:{_FREE};"
    "border-radius:3px;vertical-align:middle"
)


# --- text ------------------------------------------------------------------------------------


def plan_text(plan: Plan) -> str:
    """A plan as a table for a terminal."""
    rows = list(_plan_rows(plan))
    at = plan[3]
    width = max(len(name) for _, name, _ in rows)
    lines = [f"{rank:>3}  {name:<{width}}  {status}".rstrip() for rank, name, status in rows]
    return "\n".join([f"At {at:%Y-%m-%d %H:%M:%S %Z}, in this order:", *lines])


def _plan_rows(plan: Plan) -> Iterator[tuple[str, str, str]]:
    order, skipped, deferred, _, shares = plan
    reasons = {skip.model_name: skip for skip in deferred}
    for rank, name in enumerate(order, start=1):
        status = _turn(reasons.get(name), shares.get(name))
        yield str(rank), one_line(name, _NAME_LIMIT), status
    for skip in skipped:
        yield "-", one_line(skip.model_name, _NAME_LIMIT), f"skipped: {skip.describe()}"


def _turn(deferred: SkippedModel | None, share: float | None) -> str:
    """When the turn of one that would be tried comes."""
    if deferred is None:
        return "would be tried" + ("" if share is None else f", {share:.0%} of the load")
    is_last = deferred.reason.startswith(("in cooldown", "its "))
    return f"{'last resort' if is_last else 'would wait'}: {deferred.describe()}"


def findings_text(findings: Findings) -> str:
    """Findings as a table for a terminal."""
    if not findings:
        return "Nothing found."
    return "\n".join(
        f"{code}: {_joined(names)}\n    {message}\n    -> {advice}"
        for code, names, message, advice in findings
    )


def _joined(names: Sequence[str]) -> str:
    return ", ".join(one_line(name, _NAME_LIMIT) for name in names)


# --- notebook --------------------------------------------------------------------------------


def plan_html(plan: Plan) -> str:
    """A plan as a table for a notebook."""
    at = plan[3]
    title = f"Routing plan at {at:%Y-%m-%d %H:%M:%S %Z}"
    return _table(title, ("", "deployment", "status"), [_escaped(r) for r in _plan_rows(plan)])


def gateway_html(name: str, models: Sequence[ModelDeployment], now: datetime) -> str:
    """A gateway as a table: each deployment with today's hours and the present moment."""
    rows = [
        [
            *_escaped((str(rank), one_line(deployment.model_name, _NAME_LIMIT))),
            *_escaped((deployment.model_class, deployment.provider)),
            _bar(deployment, now),
            escape(_status(deployment, now)),
        ]
        for rank, deployment in enumerate(models[:_ROWS], start=1)
    ]
    title = f"{name}, {now:%A %Y-%m-%d %H:%M} UTC"
    if (more := len(models) - _ROWS) > 0:
        title += f" (and {more} more deployments)"
    header = ("", "deployment", "model", "provider", _hours(), "now")
    return _table(title, header, rows)


def findings_html(findings: Findings) -> str:
    """Findings as a table for a notebook."""
    rows = [
        _escaped((code, _joined(names)))
        + [f'<span style="white-space:normal">{escape(text)}</span>' for text in texts]
        for code, names, *texts in findings
    ]
    if not rows:
        return "<p>Nothing found.</p>"
    return _table("Findings", ("what", "deployments", "what it costs", "what to do"), rows)


def _status(deployment: ModelDeployment, now: datetime) -> str:
    tables = timetables(deployment.time_constraints)
    if not any(table.restricts(now) for table in tables):
        return "available"
    until = restricted_until(tables, now)
    return f"restricted until {until:%a %H:%M} UTC" if until else "always restricted"


def _bar(deployment: ModelDeployment, now: datetime) -> str:
    """Today in UTC, from midnight to midnight: restricted stretches and the present."""
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    stretches = "".join(
        f'<span title="restricted {start // 60:02}:{start % 60:02} to {end // 60:02}:{end % 60:02}"'
        f' style="position:absolute;top:0;height:100%;background:{_RESTRICTED};'
        f'left:{_share(start)};width:{_share(end - start)}"></span>'
        for start, end in (
            ((first - midnight) // _MINUTE, (last - midnight) // _MINUTE)
            for first, last in restricted_stretches(
                [deployment.time_constraints], midnight, midnight + timedelta(days=1)
            )
        )
    )
    here = (now - midnight) / _MINUTE
    marker = (
        f'<span title="now" style="position:absolute;top:-3px;height:22px;width:2px;'
        f'background:{_NOW};left:{_share(here)}"></span>'
    )
    return f'<span style="{_BAR}">{stretches}{marker}</span>'


def _hours() -> str:
    labels = "".join(
        f'<span style="position:absolute;left:{_share(hour * 60)};transform:translateX(-50%)">'
        f"{hour:02}</span>"
        for hour in (0, 6, 12, 18, 24)
    )
    return (
        '<span style="position:relative;display:inline-block;width:300px;height:16px;'
        f'font-weight:normal">{labels}</span>'
    )


def _share(minutes: float) -> str:
    return f"{100 * minutes / _DAY_MINUTES:.3f}%"


def _escaped(texts: Sequence[str]) -> list[str]:
    return [escape(text) for text in texts]


def _table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """An HTML table of cells that are markup already."""

    def line(tag: str, cells: Sequence[str]) -> str:
        return "<tr>" + "".join(f'<{tag} style="{_CELL}">{c}</{tag}>' for c in cells) + "</tr>"

    body = "".join(line("td", row) for row in rows)
    return (
        f'<table style="{_TABLE}"><caption style="{_CELL};font-weight:bold">{escape(title)}'
        f"</caption><thead>{line('th', header)}</thead><tbody>{body}</tbody></table>"
    )


# --- graph -----------------------------------------------------------------------------------


def gateway_graph(
    models: Sequence[ModelDeployment], takes: TypeBaseModel, gives: TypeBaseModel
) -> "Graph":
    """A gateway as a graph: from the input by one branch a deployment to the output."""
    from langchain_core.runnables.graph import Graph  # noqa: PLC0415 - a tenth of our import time

    graph = Graph()
    first = graph.add_node(takes)
    last = graph.add_node(gives)
    for deployment in models:
        node = _add_branch(graph, deployment.model_name, deployment.model)
        graph.add_edge(first, node, conditional=True)
        graph.add_edge(node, last)
    return graph


def _add_branch(graph: "Graph", name: str, model: Runnable[Any, Any]) -> "Node":
    # LangChain writes names into Mermaid as they are; a colon would make a subgraph.
    safe = re.sub(r"[^\w .\-]", "_", one_line(name, _NAME_LIMIT), flags=re.UNICODE)
    unique = safe
    while unique in graph.nodes or unique.lower() in _MERMAID_WORDS:
        unique += "_"
    return graph.add_node(model, id=unique)
