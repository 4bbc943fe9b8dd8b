"""How a plan and findings look: in a terminal and in a notebook."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime

from langchain_model_gateway._html import NAME_LIMIT, escaped, html_table
from langchain_model_gateway._text import one_line
from langchain_model_gateway.errors import SkippedModel

# Plain tuples: this module cannot import those who show themselves with it.
Plan = tuple[
    Sequence[str], Sequence[SkippedModel], Sequence[SkippedModel], datetime, Mapping[str, float]
]
"""A `RoutingPlan`: the order, who is skipped, who is deferred, the moment, and the shares."""
Findings = Sequence[tuple[str, tuple[str, ...], str, str]]
"""Code, deployments, message and advice of each."""


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
        yield str(rank), one_line(name, NAME_LIMIT), status
    for skip in skipped:
        yield "-", one_line(skip.model_name, NAME_LIMIT), f"skipped: {skip.describe()}"


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
    return ", ".join(one_line(name, NAME_LIMIT) for name in names)


# --- notebook --------------------------------------------------------------------------------


def plan_html(plan: Plan) -> str:
    """A plan as a table for a notebook."""
    at = plan[3]
    title = f"Routing plan at {at:%Y-%m-%d %H:%M:%S %Z}"
    return html_table(title, ("", "deployment", "status"), [escaped(r) for r in _plan_rows(plan)])


def findings_html(findings: Findings) -> str:
    """Findings as a table for a notebook."""
    rows = [escaped((code, _joined(names), *texts)) for code, names, *texts in findings]
    if not rows:
        return "<p>Nothing found.</p>"
    return html_table("Findings", ("what", "deployments", "what it costs", "what to do"), rows)
