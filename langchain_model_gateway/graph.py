"""A gateway as a graph, which a notebook draws.

Imported when a graph is asked for: LangChain's own is a tenth of our import time.
"""

import re
from collections.abc import Sequence
from typing import Any, Final

from langchain_core.runnables import Runnable
from langchain_core.runnables.graph import Graph, Node, NodeStyles
from langchain_core.utils.pydantic import TypeBaseModel

from langchain_model_gateway._html import NAME_LIMIT
from langchain_model_gateway._text import one_line
from langchain_model_gateway.deployment import ModelDeployment

# Words Mermaid takes for its own where a node's name stands.
_MERMAID_WORDS: Final = frozenset(
    {"call", "class", "classdef", "click", "default", "direction", "end", "flowchart", "graph"}
    | {"href", "interpolate", "linkstyle", "style", "subgraph"}
)
# LangChain's light nodes have a dark page's light text: here the notebook's theme decides.
_STYLES: Final = NodeStyles(
    default="line-height:1.2", first="fill-opacity:0", last="line-height:1.2"
)


class GatewayGraph(Graph):
    """LangChain's graph, which a notebook draws."""

    def __repr__(self) -> str:
        # LangChain's shows the models, with all that their clients hold.
        names = [node.name for node in self.nodes.values()]
        return f"GatewayGraph(nodes={names})"

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        drawing = self.draw_mermaid(node_colors=_STYLES)
        return {"text/vnd.mermaid": drawing, "text/plain": drawing}


def gateway_graph(
    models: Sequence[ModelDeployment], takes: TypeBaseModel, gives: TypeBaseModel
) -> GatewayGraph:
    """A gateway as a graph: from the input by one branch a deployment to the output.

    The branches bear the deployments' places in list order.
    """
    graph = GatewayGraph()
    first = graph.add_node(takes)
    last = graph.add_node(gives)
    for rank, deployment in enumerate(models, start=1):
        node = _add_branch(graph, deployment.model_name, deployment.model)
        graph.add_edge(first, node, data=str(rank), conditional=True)
        graph.add_edge(node, last)
    return graph


def _add_branch(graph: Graph, name: str, model: Runnable[Any, Any]) -> Node:
    # LangChain writes names into Mermaid as they are; a colon would make a subgraph.
    safe = re.sub(r"[^\w .\-]", "_", one_line(name, NAME_LIMIT), flags=re.UNICODE)
    unique = safe
    while unique in graph.nodes or unique.lower() in _MERMAID_WORDS:
        unique += "_"
    return graph.add_node(model, id=unique)
