"""How a gateway is read, as a mapping is, and how it shows itself."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from langchain_core.runnables import RunnableConfig
from typing_extensions import override

from langchain_model_gateway._arguments import unknown_name
from langchain_model_gateway.deployment import ModelDeployment
from langchain_model_gateway.drivers import RoutedCalls
from langchain_model_gateway.overview import Overview

if TYPE_CHECKING:
    from langchain_core.runnables.graph import Graph
    from rich.table import Table


class ShownCalls(RoutedCalls):
    """The calls of a gateway that is read as a mapping is, and shows itself."""

    if TYPE_CHECKING:
        models: tuple[ModelDeployment, ...]

    def _by_name(self) -> dict[str, ModelDeployment]:
        """Every deployment; one of a gateway inside another's deployment as "outer/inner"."""
        own = {deployment.model_name: deployment for deployment in self.models}
        return {**own, **dict(pair for d in self.models for pair in d.by_path().items()), **own}

    def __getitem__(self, model_name: str) -> ModelDeployment:
        known = self._by_name()
        try:
            return known[model_name]
        except (KeyError, TypeError):
            raise KeyError(unknown_name(model_name, known)) from None

    def __contains__(self, model_name: object) -> bool:
        return isinstance(model_name, str) and model_name in self._by_name()

    def __len__(self) -> int:
        return len(self.models)

    @override
    def __iter__(self) -> Iterator[str]:  # type: ignore[override]  # not pydantic's fields
        return (deployment.model_name for deployment in self.models)

    def keys(self) -> tuple[str, ...]:
        """`model_names`; with it `dict(gateway)` gives the deployments by name."""
        return tuple(self)

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
