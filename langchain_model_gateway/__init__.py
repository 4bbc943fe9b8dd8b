"""Several chat models behind one LangChain `Runnable`."""

from langchain_model_gateway.deployment import ModelDeployment
from langchain_model_gateway.errors import (
    AllModelsFailedError,
    FailedAttempt,
    ModelRouterError,
    NoModelAvailableError,
    SkippedModel,
)
from langchain_model_gateway.gateway import GatewayRunnable
from langchain_model_gateway.routing import RoutingPlan
from langchain_model_gateway.schedule import TimeWindow

__all__ = [
    "AllModelsFailedError",
    "FailedAttempt",
    "GatewayRunnable",
    "ModelDeployment",
    "ModelRouterError",
    "NoModelAvailableError",
    "RoutingPlan",
    "SkippedModel",
    "TimeWindow",
]
