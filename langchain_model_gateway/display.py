"""How a gateway looks: in a terminal, in a notebook, in a graph."""

import re
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from html import escape
from typing import TYPE_CHECKING, Any, Final

from langchain_core.runnables import Runnable, RunnableConfig

from langchain_model_gateway._text import one_line
from langchain_model_gateway.deployment import ModelDeployment
from langchain_model_gateway.schedule import closed_stretches

if TYPE_CHECKING:
    from langchain_core.runnables.graph import Graph, Node

    from langchain_model_gateway.diagnosis import Finding
    from langchain_model_gateway.gateway import GatewayRunnable
    from langchain_model_gateway.routing import RoutingPlan

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
_OPEN, _CLOSED, _NOW = "rgba(46,160,67,.35)", "rgba(218,54,51,.75)", "currentColor"
_TABLE: Final = "border-collapse:collapse;font-family:system-ui,sans-serif;font-size:13px"
_CELL: Final = "padding:4px 10px;text-align:left;vertical-align:middle;white-space:nowrap"
_BAR: Final = (
    f"position:relative;display:inline-block;width:300px;height:16px;background:{_OPEN};"
    "border-radius:3px;vertical-align:middle"
)


# --- text ------------------------------------------------------------------------------------


def plan_text(plan: "RoutingPlan") -> str:
    """A plan as a table for a terminal."""
    rows = list(_plan_rows(plan))
    width = max(len(name) for _, name, _ in rows)
    lines = [f"{rank:>3}  {name:<{width}}  {status}".rstrip() for rank, name, status in rows]
    return "\n".join([f"At {plan.at:%Y-%m-%d %H:%M:%S %Z}, in this order:", *lines])


def _plan_rows(plan: "RoutingPlan") -> Iterator[tuple[str, str, str]]:
    resting = {skip.model_name: skip for skip in plan.deferred}
    for rank, name in enumerate(plan.order, start=1):
        status = f"last resort: {resting[name].told()}" if name in resting else "would be tried"
        yield str(rank), one_line(name, _NAME_LIMIT), status
    for skip in plan.skipped:
        yield "-", one_line(skip.model_name, _NAME_LIMIT), f"skipped: {skip.told()}"


def findings_text(findings: Sequence["Finding"]) -> str:
    """Findings as a table for a terminal."""
    if not findings:
        return "Nothing found."
    return "\n".join(
        f"{finding.code}: {', '.join(one_line(n, _NAME_LIMIT) for n in finding.model_names)}\n"
        f"    {finding.message}\n    -> {finding.advice}"
        for finding in findings
    )


# --- notebook --------------------------------------------------------------------------------


def plan_html(plan: "RoutingPlan") -> str:
    """A plan as a table for a notebook."""
    title = f"Routing plan at {plan.at:%Y-%m-%d %H:%M:%S %Z}"
    return _table(title, ("", "deployment", "status"), [_escaped(r) for r in _plan_rows(plan)])


def gateway_html(gateway: "GatewayRunnable", now: datetime) -> str:
    """A gateway as a table: each deployment with today's hours and the present moment."""
    rows = [
        [
            *_escaped((str(rank), one_line(deployment.model_name, _NAME_LIMIT))),
            *_escaped((deployment.model_class, deployment.provider)),
            _bar(deployment, now),
            escape(_status(deployment, now)),
        ]
        for rank, deployment in enumerate(gateway.models[:_ROWS], start=1)
    ]
    title = f"{gateway.get_name()}, {now:%A %Y-%m-%d %H:%M} UTC"
    if (more := len(gateway) - _ROWS) > 0:
        title += f" (and {more} more deployments)"
    header = ("", "deployment", "model", "provider", _hours(), "now")
    return _table(title, header, rows)


def findings_html(findings: Sequence["Finding"]) -> str:
    """Findings as a table for a notebook."""
    rows = [
        _escaped((f.code, ", ".join(one_line(n, _NAME_LIMIT) for n in f.model_names)))
        + [f'<span style="white-space:normal">{escape(text)}</span>' for text in f[2:]]
        for f in findings
    ]
    if not rows:
        return "<p>Nothing found.</p>"
    return _table("Findings", ("what", "deployments", "what it costs", "what to do"), rows)


def _status(deployment: ModelDeployment, now: datetime) -> str:
    skip = deployment.restriction(now)
    if skip is None:
        return "available"
    return f"restricted until {skip.until:%a %H:%M} UTC" if skip.until else "always restricted"


def _bar(deployment: ModelDeployment, now: datetime) -> str:
    """Today in UTC, from midnight to midnight: closed stretches and where we are."""
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    stretches = "".join(
        f'<span title="restricted {start // 60:02}:{start % 60:02} to {end // 60:02}:{end % 60:02}"'
        f' style="position:absolute;top:0;height:100%;background:{_CLOSED};'
        f'left:{_share(start)};width:{_share(end - start)}"></span>'
        for start, end in (
            ((first - midnight) // _MINUTE, (last - midnight) // _MINUTE)
            for first, last in closed_stretches(
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


def gateway_graph(gateway: "GatewayRunnable", config: RunnableConfig | None) -> "Graph":
    """A gateway as a graph: from the input by one branch a deployment to the output."""
    from langchain_core.runnables.graph import Graph  # noqa: PLC0415 - a tenth of our import time

    graph = Graph()
    first = graph.add_node(gateway.get_input_schema(config))
    last = graph.add_node(gateway.get_output_schema(config))
    for deployment in gateway.models:
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
