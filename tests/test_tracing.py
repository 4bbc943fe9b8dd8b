"""What a trace, an event stream and a log show of a call."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import reduce
from operator import add
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import langsmith
import pytest
from langchain.agents import create_agent
from langchain_core.callbacks import (
    AsyncCallbackHandler,
    BaseCallbackHandler,
    BaseCallbackManager,
)
from langchain_core.globals import set_debug
from langchain_core.messages import AIMessageChunk
from langchain_core.runnables import (
    Runnable,
    RunnableConfig,
    RunnableGenerator,
    RunnableLambda,
    ensure_config,
)
from langchain_core.tracers import LangChainTracer
from langchain_core.tracers.context import collect_runs
from langgraph.errors import GraphInterrupt

from langchain_model_gateway import AllModelsFailedError, GatewayRunnable

from .conftest import FORMS, CallForm, StreamForm
from .models import NEVER, ScriptedChatModel, gateway_over, says


@dataclass
class Seen:
    """A run as a handler received it."""

    name: str
    parent: UUID | None
    tags: list[str]
    metadata: dict[str, Any]
    inputs: Any
    outputs: list[Any] = field(default_factory=list)
    errors: list[BaseException] = field(default_factory=list)

    @property
    def was_closed_once(self) -> bool:
        return len(self.outputs) + len(self.errors) == 1


class Collector(BaseCallbackHandler):
    """Keeps every run, by id, in the order begun."""

    def __init__(self) -> None:
        self.runs: dict[UUID, Seen] = {}

    def _start(self, inputs: Any, run_id: UUID, name: str, kwargs: dict[str, Any]) -> None:
        assert run_id not in self.runs
        tags, metadata = kwargs.get("tags") or [], kwargs.get("metadata") or {}
        self.runs[run_id] = Seen(name, kwargs.get("parent_run_id"), tags, metadata, inputs)

    def on_chain_start(self, _: Any, inputs: Any, *, run_id: UUID, **kwargs: Any) -> None:
        self._start(inputs, run_id, kwargs["name"], kwargs)

    def on_chat_model_start(
        self, serialized: Any, messages: Any, *, run_id: UUID, **kwargs: Any
    ) -> None:
        # A model's run has a name of its own only where the config gives it one.
        self._start(messages, run_id, kwargs.get("name") or serialized["name"], kwargs)

    def on_chain_end(self, outputs: Any, *, run_id: UUID, **_: Any) -> None:
        self.runs[run_id].outputs.append(outputs)

    def on_llm_end(self, response: Any, *, run_id: UUID, **_: Any) -> None:
        self.runs[run_id].outputs.append(response)

    def on_chain_error(self, error: BaseException, *, run_id: UUID, **_: Any) -> None:
        self.runs[run_id].errors.append(error)

    def on_llm_error(self, error: BaseException, *, run_id: UUID, **_: Any) -> None:
        self.runs[run_id].errors.append(error)

    def root(self) -> tuple[UUID, Seen]:
        ((run_id, run),) = [each for each in self.runs.items() if each[1].parent is None]
        return run_id, run

    def children(self, parent: UUID) -> list[Seen]:
        return [run for run in self.runs.values() if run.parent == parent]

    def below(self, name: str) -> list[list[str]]:
        """For each run called `name`, the names of its children."""
        return [
            [child.name for child in self.children(run_id)]
            for run_id, run in self.runs.items()
            if run.name == name
        ]


class AsyncCollector(AsyncCallbackHandler):
    """The names of the runs begun and ended, received by an async handler."""

    def __init__(self) -> None:
        self.received: list[str] = []

    async def on_chain_start(self, *_: Any, name: str, **__: Any) -> None:
        self.received.append(f"{name} began")

    async def on_chain_end(self, *_: Any, **__: Any) -> None:
        self.received.append("ended")

    async def on_chat_model_start(self, serialized: Any, *_: Any, **__: Any) -> None:
        self.received.append(f"{serialized['name']} began")


without_listeners = pytest.mark.parametrize(
    "form", [form for form in FORMS if form != "astream_events"]
)
"""All call forms but the one in which a handler is always attached."""


def down() -> ScriptedChatModel:
    return says(ConnectionError("down"))


@pytest.fixture
def collector() -> Collector:
    return Collector()


# --- runs ----------------------------------------------------------------------------------------


def test_a_call_is_one_run_with_a_child_for_each_attempt(
    ask: CallForm, collector: Collector
) -> None:
    """The gateway's run is the root, the attempts are its children, and all are closed once."""
    answer = ask(gateway_over(down(), says("hi")), "x", {"callbacks": [collector]})
    run_id, root = collector.root()
    weak, strong = collector.children(run_id)
    assert len(collector.runs) == 3
    assert all(run.was_closed_once for run in collector.runs.values())
    assert (root.name, root.inputs) == ("GatewayRunnable", "x")
    assert root.outputs[0].content == answer.content == "hi"
    assert weak.name == strong.name == "ScriptedChatModel"
    assert [type(error) for error in weak.errors] == [ConnectionError]


def test_attempts_are_tagged_with_deployment_and_number(
    ask: CallForm, collector: Collector
) -> None:
    """The first has no number; the caller's own tags and metadata come along."""
    config = {"callbacks": [collector], "tags": ["mine"], "metadata": {"user": 7}}
    ask(gateway_over(down(), down(), says("hi")), "x", config)
    run_id, root = collector.root()
    assert [set(run.tags) for run in collector.children(run_id)] == [
        {"mine", "gateway:deployment:weak"},
        {"mine", "gateway:deployment:strong", "gateway:attempt:2"},
        {"mine", "gateway:deployment:backup", "gateway:attempt:3"},
    ]
    assert root.tags == ["mine"]
    assert all(run.metadata["user"] == 7 for run in collector.runs.values())


def test_the_attempts_number_goes_by_attempts_made(ask: CallForm, collector: Collector) -> None:
    """A deployment that was skipped has no run and no number."""
    gateway = gateway_over(says("a"), says("b"), windows={"weak": NEVER})
    ask(gateway, "x", {"callbacks": [collector]})
    (only,) = collector.children(collector.root()[0])
    assert only.tags == ["gateway:deployment:strong"]


def test_tags_reach_runs_below_a_retry(ask: CallForm, collector: Collector) -> None:
    """A model wrapped in LangChain's own retry is tagged where the model itself runs."""
    wrapped = says("a").with_retry(stop_after_attempt=1)
    ask(gateway_over(wrapped, says("b")), "x", {"callbacks": [collector]})
    below = [run for run in collector.runs.values() if run.name == "ScriptedChatModel"]
    assert below
    assert all("gateway:deployment:weak" in run.tags for run in below)


def test_name_and_id_are_the_gateways_run_alone(ask: CallForm, collector: Collector) -> None:
    """`run_id` and `run_name` name one run; the children have their own."""
    mine = uuid4()
    config = {"callbacks": [collector], "run_id": mine, "run_name": "mine"}
    ask(gateway_over(down(), says("hi")), "x", config)
    run_id, root = collector.root()
    assert (run_id, root.name) == (mine, "mine")
    assert [run.name for run in collector.children(mine)] == ["ScriptedChatModel"] * 2


@without_listeners
def test_name_and_id_do_not_become_a_models_when_nobody_listens(form: str) -> None:
    """Where the gateway keeps no run, no attempt takes its name or id."""
    handler, mine = Collector(), uuid4()
    models = [ScriptedChatModel(replies=[r], callbacks=[handler]) for r in (ValueError(), "hi")]
    CallForm(form)(gateway_over(*models), "x", {"run_id": mine, "run_name": "mine"})
    assert mine not in handler.runs
    assert [run.name for run in handler.runs.values()] == ["ScriptedChatModel"] * 2


@without_listeners
def test_without_a_listener_there_is_no_run(form: str) -> None:
    """A model's own handler sees its model as a root: nothing was kept above it."""
    handler = Collector()
    CallForm(form)(gateway_over(ScriptedChatModel(callbacks=[handler]), says("b")), "x")
    assert [(r.name, r.parent) for r in handler.runs.values()] == [("ScriptedChatModel", None)]


def test_a_listener_from_the_context_is_notified(ask: CallForm) -> None:
    """`collect_runs` attaches itself by a context variable, and gets the whole tree."""
    with collect_runs() as collected:
        ask(gateway_over(down(), says("hi")), "x")
    (root,) = collected.traced_runs
    assert root.name == "GatewayRunnable"
    assert [run.run_type for run in root.child_runs] == ["llm", "llm"]
    assert {run.parent_run_id for run in root.child_runs} == {root.id}
    assert [bool(run.error) for run in (root, *root.child_runs)] == [False, True, False]
    assert all(run.end_time for run in (root, *root.child_runs))


def test_inside_a_chain_the_gateways_run_is_the_chains_child(
    ask: CallForm, collector: Collector
) -> None:
    """Nesting is kept: chain, gateway, attempt."""
    chain = RunnableLambda(lambda text: text) | gateway_over(says("a"), says("b"))
    ask(chain, "x", {"callbacks": [collector]})
    run_id, root = collector.root()
    assert root.name == "RunnableSequence"
    (gateway_id,) = [i for i, run in collector.runs.items() if run.name == "GatewayRunnable"]
    assert collector.runs[gateway_id].parent == run_id
    assert [run.name for run in collector.children(gateway_id)] == ["ScriptedChatModel"]


def test_attempts_name_their_deployment_in_their_metadata(
    ask: CallForm, collector: Collector
) -> None:
    """OpenTelemetry's tracers show no tags on a model's span; the gateway's own run names none."""
    config = {"callbacks": [collector], "metadata": {"user": 7}}
    ask(gateway_over(down(), says("hi")), "x", config)
    run_id, root = collector.root()
    children = collector.children(run_id)
    assert [run.metadata["gateway_deployment"] for run in children] == ["weak", "strong"]
    assert "gateway_deployment" not in root.metadata
    assert config["metadata"] == {"user": 7}


def test_a_deployment_in_a_gateway_in_a_gateway_has_both_names(
    ask: CallForm, collector: Collector
) -> None:
    """The metadata says "outer/inner"."""
    inner = gateway_over(down(), says("hi"))
    ask(gateway_over(inner, says("b")), "x", {"callbacks": [collector]})
    models = [run for run in collector.runs.values() if run.name == "ScriptedChatModel"]
    names = [run.metadata["gateway_deployment"] for run in models]
    assert names == ["weak/weak", "weak/strong"]


# --- one tree, also inside chains and agents -----------------------------------------------------

BOUND = {
    "bound": lambda model: model.bind(stop=["x"]),
    "retried": lambda model: model.with_retry(stop_after_attempt=1),
    "bound in a chain": lambda model: RunnableLambda(lambda text: text) | model.bind(stop=["x"]),
}
"""Models that a `RunnableBinding`, or one of its kind, holds."""


@pytest.mark.parametrize("limits", [{}, {"timeout": 9}], ids=["untimed", "timed"])
@pytest.mark.parametrize("wrapped", BOUND)
def test_inside_a_chain_a_bound_models_run_is_below_the_gateways(
    ask: CallForm, collector: Collector, wrapped: str, limits: dict[str, Any]
) -> None:
    """A binding prefers the enclosing run's callbacks, so the attempt's are the enclosing ones."""
    models = [
        {"model_name": name, "model": BOUND[wrapped](model), **limits}
        for name, model in (("weak", down()), ("strong", says("hi")))
    ]
    chain = RunnableLambda(lambda text: text) | GatewayRunnable(models=models)
    ask(chain, "x", {"callbacks": [collector]})
    names = {run.name for run in collector.runs.values()}
    (chain_id, _) = collector.root()
    assert "GatewayRunnable" in names
    assert [run.name for run in collector.children(chain_id)] == [
        "RunnableLambda",
        "GatewayRunnable",
    ]
    assert all(run.was_closed_once for run in collector.runs.values())
    assert len(collector.below("GatewayRunnable")[0]) == 2


def ask_agent(gateway: Any, way: str, config: Any = None) -> None:
    agent = create_agent(gateway)
    question = {"messages": [("user", "x")]}

    async def astream() -> list[Any]:
        modes = ["values", "messages"]
        return [part async for part in agent.astream(question, config, stream_mode=modes)]

    match way:
        case "invoke":
            agent.invoke(question, config)
        case "ainvoke":
            asyncio.run(agent.ainvoke(question, config))
        case "stream":
            list(agent.stream(question, config, stream_mode=["values", "messages"]))
        case _:
            asyncio.run(astream())


every_way = pytest.mark.parametrize("way", ["invoke", "ainvoke", "stream", "astream"])
in_both_forms = pytest.mark.parametrize("form", ["runnable", "chat model"])


def bound_gateway(form: str) -> Any:
    gateway = gateway_over(down().bind(stop=["x"]), says("hi").bind(stop=["x"]))
    return gateway if form == "runnable" else gateway.as_chat_model()


@every_way
@in_both_forms
def test_inside_an_agent_the_attempts_are_below_the_gateways_run(
    collector: Collector, way: str, form: str
) -> None:
    """Agent, node, gateway, attempts: one tree, each run once."""
    gateway = bound_gateway(form)
    ask_agent(gateway, way, {"callbacks": [collector]})
    assert collector.below(type(gateway).__name__) == [["ScriptedChatModel"] * 2]
    assert collector.root()
    assert all(run.was_closed_once for run in collector.runs.values())


@every_way
def test_langsmith_shows_one_tree_in_an_agent(way: str) -> None:
    """Its tracer is sent every attempt below the gateway, in a single trace."""
    posted: dict[Any, dict[str, Any]] = {}
    client = SimpleNamespace(
        create_run=lambda **run: posted.setdefault(run["id"], run),
        update_run=lambda **run: None,
        tracing_queue=None,
    )
    with langsmith.tracing_context(enabled=True, client=client):
        ask_agent(bound_gateway("runnable"), way, {"callbacks": [LangChainTracer(client=client)]})
    (gateway_id,) = [key for key, run in posted.items() if run["name"] == "GatewayRunnable"]
    below = [run["name"] for run in posted.values() if run.get("parent_run_id") == gateway_id]
    assert below == ["ScriptedChatModel"] * 2
    assert len({run["trace_id"] for run in posted.values()}) == 1
    assert [run["name"] for run in posted.values() if not run.get("parent_run_id")] == ["LangGraph"]


class Nosy(Runnable[Any, Any]):
    """Notes what the enclosing run's config says of the deployment, as a model's parts see it."""

    def __init__(self, *parts: Any) -> None:
        self.parts = parts
        self.seen: list[Any] = []

    def look(self) -> None:
        self.seen.append(enclosing_deployment())

    def invoke(self, input: Any, config: Any = None, **kwargs: Any) -> Any:
        self.look()
        return AIMessageChunk("hi")

    def stream(self, input: Any, config: Any = None, **kwargs: Any) -> Any:
        for part in self.parts:
            self.look()
            yield AIMessageChunk(part)

    async def astream(self, input: Any, config: Any = None, **kwargs: Any) -> Any:
        for part in self.parts:
            await asyncio.sleep(0)
            self.look()
            yield AIMessageChunk(part)


def enclosing_deployment() -> Any:
    return (ensure_config().get("metadata") or {}).get("gateway_deployment")


def test_while_a_stream_is_read_its_reader_keeps_its_own_config(
    ask_stream: StreamForm, collector: Collector
) -> None:
    """The attempt's config encloses the model alone, chunk by chunk, and never the reader."""
    model, outside = Nosy("a", "b", "c"), []
    stream = ask_stream.open(gateway_over(model, says("z")), "x", {"callbacks": [collector]})
    ask_stream.watch(stream, lambda _: outside.append(enclosing_deployment()))
    assert model.seen == ["weak"] * 3
    assert outside == [None] * 3


@pytest.mark.parametrize("limit", [1, None])
def test_after_a_call_the_config_outside_is_as_it_was(
    ask_stream: StreamForm, collector: Collector, limit: int | None
) -> None:
    """Also where the stream was closed early, or the first attempt failed."""
    models = [RunnableGenerator(_broken, _abroken), Nosy("a", "b")]
    stream = ask_stream.open(gateway_over(*models), "x", {"callbacks": [collector]})
    assert ask_stream.watch(stream, limit=limit, then=enclosing_deployment) is None


def _broken(_: Any) -> Any:
    raise ConnectionError
    yield


async def _abroken(_: Any) -> Any:
    raise ConnectionError
    yield


@pytest.mark.parametrize("form", ["invoke", "ainvoke", "batch", "abatch"])
def test_after_a_plain_call_the_config_outside_is_as_it_was(
    form: str, collector: Collector
) -> None:
    """In one chain, what comes after a gateway does not see its attempt."""
    outside: list[Any] = []
    after = RunnableLambda(lambda _: outside.append(enclosing_deployment()))
    chain = gateway_over(down(), Nosy()) | after
    CallForm(form)(chain, "x", {"callbacks": [collector]})
    assert outside == [None]


async def test_attempts_of_calls_side_by_side_do_not_see_each_other(collector: Collector) -> None:
    """Each task has its own enclosing config, also while it waits."""

    def gateway(name: str) -> tuple[GatewayRunnable, Nosy]:
        model = Nosy("a", "b", "c")
        return GatewayRunnable(
            models=[{"model_name": n, "model": model} for n in (name, "spare")]
        ), model

    async def read(gateway: GatewayRunnable) -> None:
        async for _ in gateway.astream("x", RunnableConfig(callbacks=[collector])):
            await asyncio.sleep(0)

    pairs = [gateway(name) for name in ("one", "two")]
    await asyncio.gather(*(read(each) for each, _ in pairs))
    assert [model.seen for _, model in pairs] == [["one"] * 3, ["two"] * 3]


# --- handlers that put themselves into every manager ---------------------------------------------


@pytest.fixture
def injected(monkeypatch: pytest.MonkeyPatch) -> Collector:
    """A handler that is in every callback manager, as OpenTelemetry's instrumentations do it."""
    handler, plain = Collector(), BaseCallbackManager.__init__

    def init(self: BaseCallbackManager, *args: Any, **kwargs: Any) -> None:
        plain(self, *args, **kwargs)
        if handler not in self.inheritable_handlers:
            self.add_handler(handler)

    monkeypatch.setattr(BaseCallbackManager, "__init__", init)
    return handler


@without_listeners
def test_a_handler_in_every_manager_gets_the_whole_tree(injected: Collector, form: str) -> None:
    """No config names it and no context variable holds it, and still the gateway has a run."""
    CallForm(form)(gateway_over(down(), says("hi")), "x")
    assert injected.below("GatewayRunnable") == [["ScriptedChatModel"] * 2]
    assert injected.root()[1].name == "GatewayRunnable"


@every_way
def test_a_handler_in_every_manager_gets_one_tree_in_an_agent(
    injected: Collector, way: str
) -> None:
    """As a handler that was given does."""
    ask_agent(bound_gateway("runnable"), way)
    assert injected.below("GatewayRunnable") == [["ScriptedChatModel"] * 2]
    assert injected.root()


# --- ends of a run -------------------------------------------------------------------------------


def test_when_all_fail_the_run_ends_with_the_error(ask: CallForm, collector: Collector) -> None:
    """The root run holds the error that was raised, with the same failures."""
    with pytest.raises(AllModelsFailedError) as caught:
        ask(gateway_over(down(), down()), "x", {"callbacks": [collector]})
    _, root = collector.root()
    (error,) = root.errors
    # Since Python 3.12 `suppress`, which `astream_events` goes through, derives a group anew.
    assert (type(error), error.exceptions) == (type(caught.value), caught.value.exceptions)
    assert all(run.was_closed_once for run in collector.runs.values())


@pytest.mark.parametrize("error", [GraphInterrupt(), KeyboardInterrupt()], ids=type)
def test_an_interrupt_closes_the_run(collector: Collector, error: BaseException) -> None:
    """What passes through is told to the handlers, too."""
    with pytest.raises(type(error)):
        gateway_over(says(error), says("b")).invoke("x", {"callbacks": [collector]})
    _, root = collector.root()
    assert root.errors == [error]


@pytest.mark.parametrize("form", ["ainvoke", "abatch", "astream", "atransform"])
def test_async_handlers_hear_async_calls(form: str) -> None:
    """An async handler is awaited, in order."""
    handler = AsyncCollector()
    CallForm(form)(gateway_over(says("a"), says("b")), "x", {"callbacks": [handler]})
    assert handler.received == ["GatewayRunnable began", "ScriptedChatModel began", "ended"]


def test_a_batchs_runs_are_all_closed(run_batch: Callable[..., Any], collector: Collector) -> None:
    """Each input has a run of its own, and none is left open, errors or not."""
    picky = RunnableLambda(lambda text: 1 / 0 if text == "2" else AIMessageChunk(text))
    config = {"callbacks": [collector]}
    run_batch(gateway_over(picky, picky), list("01234"), config, return_exceptions=True)
    roots = [run for run in collector.runs.values() if run.parent is None]
    assert sorted(run.inputs for run in roots) == list("01234")
    assert all(run.was_closed_once for run in collector.runs.values())
    assert [run.inputs for run in roots if run.errors] == ["2"]


# --- streams -------------------------------------------------------------------------------------


def test_a_streams_run_has_the_whole_answer(ask_stream: StreamForm, collector: Collector) -> None:
    """The run's output is the sum of the chunks its reader got, mark included."""
    gateway = gateway_over(down(), says(["a", "b"]))
    chunks = ask_stream(gateway, "x", {"callbacks": [collector]})
    (output,) = collector.root()[1].outputs
    assert output == reduce(add, chunks)


def test_closing_a_stream_early_closes_its_run(
    ask_stream: StreamForm, collector: Collector
) -> None:
    """At once, with the model's, without an error, with what was read until then."""
    model = says(["a", "b", "c"])
    stream = ask_stream.open(gateway_over(model, says("z")), "x", {"callbacks": [collector]})

    def then() -> tuple[list[Any], list[Any], int]:
        _, root = collector.root()
        return list(root.outputs), list(root.errors), model.closed

    outputs, errors, closed = ask_stream.watch(stream, limit=2, then=then)
    assert [output.content for output in outputs] == ["ab"]
    assert (errors, closed) == ([], 1)


def test_a_stream_that_breaks_closes_its_run_with_the_error(
    ask_stream: StreamForm, collector: Collector
) -> None:
    """A failure after the first words ends the gateway's run and the attempt's."""
    late = ConnectionError("late")
    with pytest.raises(ConnectionError):
        ask_stream(gateway_over(says(["a", late]), says("z")), "x", {"callbacks": [collector]})
    _, root = collector.root()
    assert root.errors == [late]
    assert all(run.was_closed_once for run in collector.runs.values())


async def test_events_show_the_gateways_stream() -> None:
    """`astream_events` has one stream event of the gateway for each chunk, and its children's."""
    gateway = gateway_over(says(["", ConnectionError()]), says(["a", "b"]))
    events = [event async for event in gateway.astream_events("x", version="v2")]
    own = [event for event in events if event["name"] == "GatewayRunnable"]
    streamed = [e["data"]["chunk"] for e in own if e["event"] == "on_chain_stream"]
    assert [chunk.content for chunk in streamed if chunk.content] == ["a", "b"]
    assert [own[0]["event"], own[-1]["event"]] == ["on_chain_start", "on_chain_end"]
    assert own[-1]["data"]["output"] == reduce(add, streamed)

    begun = [event for event in events if event["event"] == "on_chat_model_start"]
    assert [event["parent_ids"] for event in begun] == [[own[0]["run_id"]]] * 2
    assert "gateway:deployment:strong" in begun[1]["tags"]
    tokens = [e["data"]["chunk"].content for e in events if e["event"] == "on_chat_model_stream"]
    assert [token for token in tokens if token] == ["a", "b"]


async def test_events_of_a_plain_call_inside_a_chain_show_its_stream() -> None:
    """A gateway in the middle of a chain streams its chunks as events of its own run."""
    chain = RunnableLambda(lambda text: text) | gateway_over(says(["a", "b"]), says("z"))
    events = [event async for event in chain.astream_events("x", version="v2")]
    texts = [
        event["data"]["chunk"].content
        for event in events
        if event["event"] == "on_chain_stream" and event["name"] == "GatewayRunnable"
    ]
    assert [text for text in texts if text] == ["a", "b"]


# --- logs ----------------------------------------------------------------------------------------

PROMPT = "the caller's secret question"


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """What the package logs, on every level."""
    caplog.set_level(logging.DEBUG, "langchain_model_gateway")
    return caplog


def records(log: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in log.records if record.name == "langchain_model_gateway"]


def told(log: pytest.LogCaptureFixture) -> list[tuple[int, str]]:
    return [(record.levelno, record.getMessage()) for record in records(log)]


def test_a_healthy_call_logs_nothing(ask: CallForm, log: pytest.LogCaptureFixture) -> None:
    """There is nothing to tell of an answer from the first choice."""
    ask(gateway_over(says("a"), says("b")), PROMPT)
    assert told(log) == []


def test_every_skip_and_failed_attempt_is_a_debug_line(
    ask: CallForm, log: pytest.LogCaptureFixture
) -> None:
    """One line each, in the order they happen, and no louder while there is an answer."""
    gateway = gateway_over(says("a"), down(), says("hi"), windows={"weak": NEVER})
    ask(gateway, PROMPT)
    (skip_level, skip), (failure_level, failure) = told(log)
    assert skip_level == failure_level == logging.DEBUG
    assert "weak" in skip
    assert "restricted" in skip
    assert "strong" in failure
    assert "ConnectionError: down" in failure


def test_when_all_fail_there_is_one_error_line(
    ask: CallForm, log: pytest.LogCaptureFixture
) -> None:
    """It is the error's own message, once, and the failures before it are DEBUG."""
    with pytest.raises(AllModelsFailedError) as caught:
        ask(gateway_over(down(), down()), PROMPT)
    levels, messages = zip(*told(log), strict=True)
    assert levels == (logging.DEBUG, logging.DEBUG, logging.ERROR)
    assert messages[-1] == str(caught.value)


def test_no_line_has_the_prompt_or_the_answer(ask: CallForm, log: pytest.LogCaptureFixture) -> None:
    """Neither text nor arguments of a record hold what was asked or said, or a key."""
    key = "sk-proj-abcdefghijklmnop"
    rejecting = gateway_over(
        says(ValueError(f"bad key {key}")),
        says(""),
        says("the model's answer"),
        reject=("empty",),
    )
    ask(rejecting, PROMPT, model_preference="nobody")
    lines = told(log)
    assert [level for level, _ in lines] == [logging.WARNING, logging.DEBUG, logging.DEBUG]
    for _, line in lines:
        assert PROMPT not in line
        assert "the model's answer" not in line
        assert key not in line


def test_lines_are_made_of_a_template_and_arguments(log: pytest.LogCaptureFixture) -> None:
    """%-style, so that a line nobody wants is never put together and all of a kind group."""
    gateway = gateway_over(down(), down(), says("c"), windows={"backup": NEVER})
    with pytest.raises(AllModelsFailedError):
        gateway.invoke(PROMPT, model_preference="nobody")
    own = records(log)
    assert len(own) == 5
    assert all(record.args and "%" in str(record.msg) for record in own)


def test_a_line_is_one_line(ask: CallForm, log: pytest.LogCaptureFixture) -> None:
    """Line breaks and control characters in names, preferences and errors are escaped."""
    bad = says(ValueError("first\nERROR forged\x1b[2J\u2028"))
    models = [{"model_name": f"{n}\r\nERROR forged", "model": bad} for n in ("a", "b")]
    with pytest.raises(AllModelsFailedError):
        ask(GatewayRunnable(models=models), PROMPT, model_preference="x\nERROR forged")
    lines = told(log)
    assert len(lines) == 4
    assert all(line.isprintable() for _, line in lines)


def test_a_line_is_short(ask: CallForm, log: pytest.LogCaptureFixture) -> None:
    """Of a long name, a deployment's or a stranger's, a line has the beginning."""
    models = [{"model_name": name * 1000, "model": says("hi")} for name in ("a", "b")]
    ask(GatewayRunnable(models=models), PROMPT, model_preference="x" * 1000)
    ((_, line),) = told(log)
    assert len(line) < 300


def test_an_attempt_that_was_cancelled_is_no_failed_attempt(
    log: pytest.LogCaptureFixture,
) -> None:
    """Nothing is logged of a call its caller ended."""

    async def main() -> None:
        begun = asyncio.Event()

        async def hang(_: Any) -> Any:
            begun.set()
            await asyncio.Event().wait()

        call = asyncio.create_task(gateway_over(RunnableLambda(hang), says("b")).ainvoke(PROMPT))
        await begun.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call

    asyncio.run(main())
    assert told(log) == []


def test_debug_mode_is_a_listener(capsys: pytest.CaptureFixture[str]) -> None:
    """`set_debug` shows the gateway and both attempts."""
    set_debug(True)
    try:
        gateway_over(says(ValueError("down")), says("b")).invoke("x")
    finally:
        set_debug(False)
    shown = capsys.readouterr().out
    assert "[chain:GatewayRunnable]" in shown
    assert shown.count("llm:ScriptedChatModel] Entering") == 2
