"""The public API as a user's type checker sees it: mypy and pyright, both strict. Never run."""

from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, time, timedelta
from typing import Any, assert_type
from zoneinfo import ZoneInfo

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import Runnable, RunnableConfig
from langchain_openai import ChatOpenAI
from pydantic import BaseModel

from langchain_model_gateway import (
    AllModelsFailedError,
    Clock,
    CooldownPolicy,
    DeploymentDict,
    EmptyStreamError,
    FailedAttempt,
    Finding,
    GatewayChatModel,
    GatewayRunnable,
    ModelDeployment,
    ModelRouterError,
    NoModelAvailableError,
    RejectedAnswerError,
    RetryPolicy,
    RoutingPlan,
    SkippedModel,
    SystemClock,
    TimeWindow,
    WindowDict,
)


class Planet(BaseModel):
    """A schema."""

    name: str


def get_weather(city: str) -> str:
    """A tool."""
    return city


# --- construction: dicts, deployments, policies ---------------------------------------------

model = ChatOpenAI(model="gpt-4o-mini")
window = TimeWindow(start="22:00", end="06:00", timezone="America/Sao_Paulo", days=("mon", "fri"))
deployment = ModelDeployment(
    model_name="strong", model=model, time_constraints=(window,), timeout=20, stall_timeout=5.0
)
gateway = GatewayRunnable(
    models=[
        {"model_name": "cheap", "model": model, "time_constraints": [("22:00", "06:00")]},
        deployment,
    ],
    model_preference="strong",
    strict_preference=True,
    exceptions_to_handle=(TimeoutError, ConnectionError),
    retry=RetryPolicy(max_attempts=3, initial_delay=0.5, max_delay=8, max_retry_after=30),
    cooldown=CooldownPolicy(failure_threshold=3, window=60, duration=30, max_duration=300),
    timeout=60,
    reject=("empty", "content_filter", "length", "refusal", "truncated"),
)

# --- construction: short forms, objects of the standard library -----------------------------

night = TimeWindow("22:00", "06:00", days=["mon"])
lunch = TimeWindow(time(12), time(13, 30), ZoneInfo("Europe/Berlin"), {"sat", "sun"})
as_dict: WindowDict = {"start": "22:00", "end": "06:00", "days": ["mon"]}
entry: DeploymentDict = {
    "model_name": "cheap",
    "model": "openai:gpt-4o-mini",
    "time_constraints": [("22:00", "06:00"), (time(9), time(10)), ["12:00", "13:00"], night],
    "timeout": timedelta(seconds=20),
}
short = GatewayRunnable(
    [
        entry,
        {"model_name": "listed", "model": model, "time_constraints": [as_dict, lunch]},
        ModelDeployment(model_name="c", model="openai:gpt-4o", time_constraints=[("1:00", "2:00")]),
        ModelDeployment(model_name="nested", model=gateway, stall_timeout=timedelta(seconds=5)),
    ],
    retry=RetryPolicy(initial_delay=timedelta(seconds=1)),
    cooldown=CooldownPolicy(duration=timedelta(minutes=1)),
    timeout=timedelta(minutes=2),
    reject=["empty"],
    exceptions_to_handle=TimeoutError,
    name="answers",
)

GatewayRunnable([{"model_name": name, "model": model.bind(stop=["x"])} for name in ("a", "b")])

# What is wrong is an error before it runs (an unused "ignore" is one, too).
GatewayRunnable([entry], max_retries=3)  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]
GatewayRunnable([{"model_name": "a", "modle": model}])  # type: ignore[list-item] # pyright: ignore[reportArgumentType]
GatewayRunnable([entry], retry=3)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
TimeWindow("22:00", "06:00", tz="UTC")  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]

# --- calls -----------------------------------------------------------------------------------

config: RunnableConfig = {"configurable": {"model_preference": "strong"}, "max_concurrency": 2}
assert_type(gateway.invoke("Hello", config, model_preference="strong"), AIMessage)
assert_type(gateway.invoke([HumanMessage("Hello")]), AIMessage)
assert_type(gateway.batch(["a", "b"], config, return_exceptions=True), list[AIMessage])
chunks: Iterator[AIMessageChunk] = gateway.stream("Hello", model_preference="cheap")


async def calls() -> None:
    """The same, awaited."""
    assert_type(await gateway.ainvoke("Hello", config), AIMessage)
    assert_type(await gateway.abatch(["a", "b"], [config, config]), list[AIMessage])
    achunks: AsyncIterator[AIMessageChunk] = gateway.astream("Hello")
    async for _ in achunks:
        pass
    async for position, _ in gateway.abatch_as_completed(["a", "b"]):
        assert_type(position, int)
    async for event in gateway.astream_events("Hello"):
        event["event"]


# --- derived gateways ------------------------------------------------------------------------

assert_type(gateway.prefer("strong"), GatewayRunnable)
assert_type(gateway.prefer(None), GatewayRunnable)
clock: Clock = SystemClock()
assert_type(gateway.with_clock(clock), GatewayRunnable)
assert_type(gateway.bind_tools([get_weather], tool_choice="any"), GatewayRunnable)
structured: Runnable[Any, Any] = gateway.with_structured_output(Planet, include_raw=True)
chat_model: GatewayChatModel = gateway.as_chat_model()
base: BaseChatModel = chat_model
with_tools: Runnable[Any, AIMessage] = chat_model.bind_tools([get_weather])
chain: Runnable[dict[str, str], str] = (
    ChatPromptTemplate.from_template("{topic}") | gateway | StrOutputParser()
)

# --- looking at it ---------------------------------------------------------------------------

assert_type(gateway.model_names, tuple[str, ...])
assert_type(gateway["strong"], ModelDeployment)
assert_type(gateway["nested/strong"], ModelDeployment)
assert_type("strong" in gateway, bool)
assert_type(len(gateway), int)
assert_type(list(gateway), list[str])
assert_type(dict(gateway), dict[str, ModelDeployment])
plan = gateway.explain("strong", at=datetime.now(UTC))
assert_type(plan, RoutingPlan)
assert_type(plan.order, tuple[str, ...])
assert_type(plan.skipped, tuple[SkippedModel, ...])
assert_type(plan.deferred, tuple[SkippedModel, ...])
assert_type(plan.skipped[0].until, datetime | None)
assert_type(gateway.diagnose(), list[Finding])
for finding in gateway.diagnose():
    assert_type(finding.code, str)
    assert_type(finding.model_names, tuple[str, ...])
    assert_type(finding.message, str)
    assert_type(finding.advice, str)
with gateway.watch() as view:
    view.close()
mermaid: str = gateway.get_graph().draw_mermaid()

# --- errors ----------------------------------------------------------------------------------

try:
    gateway.invoke("Hello")
except NoModelAvailableError as nobody:
    assert_type(nobody.available_at, datetime | None)
    assert_type(nobody.skipped, list[SkippedModel])
except ModelRouterError as error:
    assert_type(error.failures, list[FailedAttempt])
    assert_type(error.is_retryable, bool)
    name, provider, exception = error.failures[0]
    assert_type(name, str)
    assert_type(provider, str)
    assert_type(exception, Exception)

try:
    gateway.invoke("Hello")
except* TimeoutError as group:
    assert_type(group.exceptions, tuple[TimeoutError | ExceptionGroup[TimeoutError], ...])

all_failed: type[ExceptionGroup[Exception]] = AllModelsFailedError
of_one_answer: tuple[type[Exception], ...] = (RejectedAnswerError, EmptyStreamError)

# --- serialization ---------------------------------------------------------------------------

data = gateway.serialize()
assert_type(data, dict[str, Any])
loaded = GatewayRunnable.from_serialized(
    data,
    allowed_objects=[ChatOpenAI],
    secrets_map={"OPENAI_API_KEY": "..."},
    deployment_secrets={"strong": {"OPENAI_API_KEY": "..."}},
    secrets_from_env=False,
    init_validator=None,
)
assert_type(loaded, GatewayRunnable)
