"""Several chat models behind one LangChain `Runnable`."""

# First: langchain_core's parts take a fifth longer to import in the order the modules below ask.
from langchain_core.runnables import RunnableSerializable as _RunnableSerializable  # noqa: F401

from langchain_model_gateway.deployment import DeploymentDict, ModelDeployment
from langchain_model_gateway.diagnosis.findings import Finding
from langchain_model_gateway.documents import ConfigError, ConfigProblem
from langchain_model_gateway.errors import (
    AllContextsOverflowedError,
    AllModelsFailedError,
    EmptyStreamError,
    FailedAttempt,
    ModelRouterError,
    NoModelAvailableError,
    RejectedAnswerError,
    SkippedModel,
)
from langchain_model_gateway.events import GatewayEvent
from langchain_model_gateway.gateway import GatewayChatModel, GatewayRunnable
from langchain_model_gateway.policies import CooldownPolicy, HedgePolicy, RetryPolicy
from langchain_model_gateway.redis_state import RedisState
from langchain_model_gateway.routing import RoutingPlan
from langchain_model_gateway.schedule import TimeWindow, WindowDict
from langchain_model_gateway.sharing import CircuitNews, Known, LimitNews, News, SharedState
from langchain_model_gateway.timing import Clock, SystemClock

__all__ = [
    "AllContextsOverflowedError",
    "AllModelsFailedError",
    "CircuitNews",
    "Clock",
    "ConfigError",
    "ConfigProblem",
    "CooldownPolicy",
    "DeploymentDict",
    "EmptyStreamError",
    "FailedAttempt",
    "Finding",
    "GatewayChatModel",
    "GatewayEvent",
    "GatewayRunnable",
    "HedgePolicy",
    "Known",
    "LimitNews",
    "ModelDeployment",
    "ModelRouterError",
    "News",
    "NoModelAvailableError",
    "RedisState",
    "RejectedAnswerError",
    "RetryPolicy",
    "RoutingPlan",
    "SharedState",
    "SkippedModel",
    "SystemClock",
    "TimeWindow",
    "WindowDict",
]
