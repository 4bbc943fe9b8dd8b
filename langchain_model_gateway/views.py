"""How a gateway shows itself: printed, in a notebook, as a graph."""

from typing import TYPE_CHECKING

from langchain_core.runnables import RunnableConfig
from typing_extensions import override

from langchain_model_gateway.drivers import RoutedCalls
from langchain_model_gateway.overview import Overview

if TYPE_CHECKING:
    from langchain_core.runnables.graph import Graph
    from rich.table import Table

    from langchain_model_gateway.deployment import ModelDeployment


class ShownCalls(RoutedCalls):
    """The calls of a gateway that shows itself."""

    if TYPE_CHECKING:
        models: tuple[ModelDeployment, ...]

    def _overview(self) -> Overview:
        return Overview.of(self.get_name(), self.models, self._routing)

    def __str__(self) -> str:
        return self._overview().text()

    def __rich__(self) -> "Table":
        return self._overview().rich()

    def _repr_html_(self) -> str:
        return self._overview().html()

    @override
    def get_graph(self, config: RunnableConfig | None = None) -> "Graph":
        from langchain_model_gateway.graph import gateway_graph  # noqa: PLC0415 - slow to import

        takes, gives = self.get_input_schema(config), self.get_output_schema(config)
        return gateway_graph(self.models, takes, gives)
