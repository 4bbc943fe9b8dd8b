"""What tracers by way of OpenTelemetry show of a call: OpenInference, OpenLLMetry and Langfuse."""

import asyncio
import json
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import wrapt
from langchain.agents import create_agent
from langchain_core.runnables import RunnableLambda
from langfuse import Langfuse
from langfuse.langchain import CallbackHandler
from openinference.instrumentation.langchain import LangChainInstrumentor
from opentelemetry.instrumentation.langchain import LangchainInstrumentor
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from .conftest import CallForm
from .models import gateway_over, says

INSTRUMENTORS = {"OpenInference": LangChainInstrumentor, "OpenLLMetry": LangchainInstrumentor}


class Trace:
    """The spans of one instrumentation, and who is below whom."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))

    @property
    def spans(self) -> list[ReadableSpan]:
        spans = self.exporter.get_finished_spans()
        return sorted(spans, key=lambda span: span.start_time or 0)

    def roots(self) -> list[str]:
        return [span.name for span in self.spans if span.parent is None]

    def below_the_gateway(self) -> list[ReadableSpan]:
        (gateway,) = [span for span in self.spans if "GatewayRunnable" in span.name]
        return [
            span
            for span in self.spans
            if span.parent and span.parent.span_id == gateway.context.span_id
        ]


@pytest.fixture(params=INSTRUMENTORS)
def trace(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Trace]:
    """An instrumentation at work, its spans kept in memory."""
    trace, instrumentor = Trace(), INSTRUMENTORS[request.param]()

    def wrap(module: str, name: str, wrapper: Any) -> Any:
        # Put back afterwards by pytest: `uninstrument` leaves some of them wrapped.
        monkeypatch.setattr(*wrapt.resolve_path(module, name))
        return wrapt.wrap_function_wrapper(module, name, wrapper)

    home = sys.modules[type(instrumentor).__module__]
    monkeypatch.setattr(home, "wrap_function_wrapper", wrap)
    instrumentor.instrument(tracer_provider=trace.provider)
    yield trace
    instrumentor.uninstrument()


def gateway(*, bound: bool = False) -> Any:
    models = [says(ConnectionError("down")), says("hi")]
    return gateway_over(*([m.bind(stop=["x"]) for m in models] if bound else models))


def deployments(spans: list[ReadableSpan]) -> list[str]:
    """What the spans' attributes say of their deployments, each in its instrumentation's way."""
    told = []
    for span in spans:
        attributes = dict(span.attributes or {})
        metadata = json.loads(str(attributes.get("metadata", "{}")))
        told.append(
            metadata.get("gateway_deployment")
            or attributes.get("traceloop.association.properties.gateway_deployment")
            or json.loads(str(attributes["langfuse.observation.metadata.gateway_deployment"]))
        )
    return told


every_way = pytest.mark.parametrize("way", ["invoke", "ainvoke", "stream", "astream"])


def ask_agent(agent: Any, way: str, config: Any = None) -> None:
    question = {"messages": [("user", "x")]}

    async def astream() -> list[Any]:
        return [part async for part in agent.astream(question, config, stream_mode="messages")]

    match way:
        case "invoke":
            agent.invoke(question, config)
        case "ainvoke":
            asyncio.run(agent.ainvoke(question, config))
        case "stream":
            list(agent.stream(question, config, stream_mode="messages"))
        case _:
            asyncio.run(astream())


def test_a_call_is_one_tree(trace: Trace, ask: CallForm) -> None:
    """Nobody gave a handler, and the attempts are the children of the gateway's span."""
    ask(gateway(), "x")
    assert len(trace.roots()) == 1
    assert trace.roots()[0].startswith("GatewayRunnable")
    assert deployments(trace.below_the_gateway()) == ["weak", "strong"]


def test_a_call_in_a_chain_is_one_tree(trace: Trace, ask: CallForm) -> None:
    """The chain's span is the root, also where the deployments are bound."""
    ask(RunnableLambda(lambda text: text) | gateway(bound=True), "x")
    assert len(trace.roots()) == 1
    assert deployments(trace.below_the_gateway()) == ["weak", "strong"]


@every_way
def test_a_call_in_an_agent_is_one_tree(trace: Trace, way: str) -> None:
    """The agent's span is the root, and the attempts are below the gateway's."""
    agent = create_agent(gateway(bound=True))
    trace.exporter.clear()  # OpenLLMetry tells of an agent's creation, too
    ask_agent(agent, way)
    assert len(trace.roots()) == 1
    assert deployments(trace.below_the_gateway()) == ["weak", "strong"]


# --- Langfuse: a handler among the caller's own ---------------------------------------------------


@pytest.fixture(scope="module")
def langfuse_trace() -> Iterator[Trace]:
    """A Langfuse, of which a process has one, that sends its spans nowhere."""
    trace = Trace()
    client = Langfuse(
        public_key="pk-test",
        secret_key="sk-test",
        base_url="http://127.0.0.1:9",
        tracer_provider=trace.provider,
        span_exporter=InMemorySpanExporter(),
    )
    yield trace
    client.shutdown()


@pytest.fixture
def langfuse(langfuse_trace: Trace) -> Trace:
    """Langfuse, with nothing left of the test before."""
    langfuse_trace.exporter.clear()
    return langfuse_trace


def test_langfuse_shows_a_call_as_one_tree(langfuse: Trace, ask: CallForm) -> None:
    """As it shows every other handler's."""
    ask(gateway(), "x", {"callbacks": [CallbackHandler(public_key="pk-test")]})
    assert langfuse.roots() == ["GatewayRunnable"]
    assert deployments(langfuse.below_the_gateway()) == ["weak", "strong"]


@every_way
def test_langfuse_shows_a_call_in_an_agent_as_one_tree(langfuse: Trace, way: str) -> None:
    """The agent's span is the root, and the attempts are below the gateway's."""
    config = {"callbacks": [CallbackHandler(public_key="pk-test")]}
    ask_agent(create_agent(gateway(bound=True)), way, config)
    assert langfuse.roots() == ["LangGraph"]
    assert deployments(langfuse.below_the_gateway()) == ["weak", "strong"]
