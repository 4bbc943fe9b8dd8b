"""Gateways in LangChain agents and LangGraph graphs, asked over real HTTP."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import (
    HumanInTheLoopMiddleware,
    ModelCallLimitMiddleware,
    ModelFallbackMiddleware,
    ModelRetryMiddleware,
    SummarizationMiddleware,
    TodoListMiddleware,
    wrap_model_call,
)
from langchain.agents.structured_output import ProviderStrategy, ToolStrategy
from langchain_core.callbacks import BaseCallbackHandler, get_usage_metadata_callback
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, ToolMessage
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import StructuredTool
from langchain_core.tracers import BaseTracer
from langchain_core.tracers.schemas import Run
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import Command, interrupt
from llmock.pytest_plugin import LLMock
from pydantic import BaseModel

from langchain_model_gateway import AllModelsFailedError, CooldownPolicy, GatewayRunnable

from .conftest import openai_at
from .models import ScriptedChatModel

QUESTION = {"messages": [("user", "What is the weather in Oslo?")]}
THREAD = {"configurable": {"thread_id": "1"}}


class Weather(BaseModel):
    """The weather in a city."""

    city: str
    degrees: int


def get_weather(city: str) -> str:
    """Get the weather in a city."""
    return f"21 degrees in {city}"


@pytest.fixture
def make(weak: LLMock, strong: LLMock) -> Callable[..., GatewayRunnable]:
    def make(**fields: Any) -> GatewayRunnable:
        return GatewayRunnable(
            models=[
                {"model_name": "weak", "model": openai_at(weak.base_url())},
                {"model_name": "strong", "model": openai_at(strong.base_url(), model="gpt-4o")},
            ],
            **fields,
        )

    return make


@pytest.fixture
def gateway(make: Callable[..., GatewayRunnable]) -> GatewayRunnable:
    return make()


@pytest.fixture(params=["runnable", "chat model"])
def model(gateway: GatewayRunnable, request: pytest.FixtureRequest) -> Any:
    """A gateway in both of its forms."""
    return gateway if request.param == "runnable" else gateway.as_chat_model()


def run(graph: Any, way: str, state: Any = QUESTION, config: Any = None) -> dict[str, Any]:
    """The final state, got in one of four ways."""
    match way:
        case "invoke":
            return graph.invoke(state, config)
        case "ainvoke":
            return asyncio.run(graph.ainvoke(state, config))
        case "stream":
            return list(graph.stream(state, config, stream_mode="values"))[-1]
        case _:

            async def last() -> Any:
                values = [v async for v in graph.astream(state, config, stream_mode="values")]
                return values[-1]

            return asyncio.run(last())


def answers(state: dict[str, Any]) -> list[AIMessage]:
    return [message for message in state["messages"] if isinstance(message, AIMessage)]


def who_answered(state: dict[str, Any]) -> list[str]:
    return [each.response_metadata["gateway"]["model_name"] for each in answers(state)]


every_way = pytest.mark.parametrize("way", ["invoke", "ainvoke", "stream", "astream"])
both_ways = pytest.mark.parametrize("way", ["invoke", "ainvoke"])


# --- agents with tools ---------------------------------------------------------------------------


@every_way
def test_an_agent_calls_its_tools(model: Any, way: str):
    """A question, a tool call, its result, an answer."""
    state = run(create_agent(model, [get_weather]), way)
    kinds = [type(message) for message in state["messages"]]
    assert kinds == [HumanMessage, AIMessage, ToolMessage, AIMessage]
    assert state["messages"][2].content == "21 degrees in mock-city"
    assert who_answered(state) == ["weak", "weak"]


@every_way
def test_an_agent_goes_on_when_a_provider_dies_in_the_middle_of_a_tool_loop(
    model: Any, weak: LLMock, strong: LLMock, way: str
):
    """The other deployment gets the whole conversation, the first one's tool call included."""

    def get_weather_and_lose_the_provider(city: str) -> str:
        """Get the weather in a city."""
        weak.outage()
        return get_weather(city)

    state = run(create_agent(model, [get_weather_and_lose_the_provider]), way)
    assert who_answered(state) == ["weak", "strong"]
    failed = answers(state)[-1].response_metadata["gateway"]["failed"]
    assert [failure["model_name"] for failure in failed] == ["weak"]
    seen = strong.last_request.body["messages"]
    assert [message["role"] for message in seen] == ["user", "assistant", "tool"]
    assert seen[1]["tool_calls"][0]["id"] == seen[2]["tool_call_id"]


@both_ways
def test_an_agent_whose_models_all_fail_says_so(model: Any, weak: LLMock, strong: LLMock, way: str):
    """The error is the gateway's own, with every cause."""
    weak.outage()
    strong.outage()
    with pytest.raises(AllModelsFailedError, match=r"weak .* strong "):
        run(create_agent(model, [get_weather]), way)


def test_a_resting_deployment_is_remembered_from_one_turn_of_a_loop_to_the_next(
    make: Callable[..., GatewayRunnable], weak: LLMock
):
    """An agent binds its tools anew for every turn; they all share the gateway's health."""
    weak.outage()
    gateway = make(cooldown=CooldownPolicy(failure_threshold=1))
    state = create_agent(gateway, [get_weather]).invoke(QUESTION)
    assert who_answered(state) == ["strong", "strong"]
    assert len(weak.requests) == 1


@pytest.mark.filterwarnings("ignore:create_react_agent has been moved")
def test_create_react_agent(model: Any, weak: LLMock):
    """LangGraph's older agent takes a gateway too."""
    from langgraph.prebuilt import create_react_agent  # noqa: PLC0415 - warns at import in part

    weak.fail(500)
    state = create_react_agent(model, [get_weather]).invoke(QUESTION)
    assert who_answered(state) == ["strong", "weak"]


@pytest.mark.filterwarnings("ignore:create_react_agent has been moved")
def test_create_react_agent_with_a_response_format(gateway: GatewayRunnable, weak: LLMock):
    """It insists on a chat model here: that is what `as_chat_model()` is for."""
    from langgraph.prebuilt import create_react_agent  # noqa: PLC0415

    agent = create_react_agent(gateway.as_chat_model(), [], response_format=Weather)
    weak.reply("Nice weather.", times=2)
    assert isinstance(agent.invoke(QUESTION)["structured_response"], Weather)


@every_way
@pytest.mark.parametrize("is_gateways", [True, False], ids=["gateway", "deployments"])
def test_an_agent_over_what_was_bound_before_sends_its_own_tools(
    gateway: GatewayRunnable, weak: LLMock, strong: LLMock, is_gateways: bool, way: str
):
    """As with a chat model: the last binding wins, whoever answers."""

    def get_time(city: str) -> str:
        """Get the time in a city."""
        return f"noon in {city}"

    bound = gateway.bind_tools([get_time], tool_choice="get_time")
    if not is_gateways:
        models = [{"model_name": each.model_name, "model": each.model} for each in bound.models]
        bound = GatewayRunnable(models=models)
    weak.fail(503)
    state = run(create_agent(bound, [get_weather]), way)
    assert who_answered(state) == ["strong", "weak"]
    for request in (strong.requests[0], *weak.requests):
        assert [tool["function"]["name"] for tool in request.body["tools"]] == ["get_weather"]
        assert "tool_choice" not in request.body


@both_ways
@pytest.mark.filterwarnings("ignore:create_react_agent has been moved")
def test_create_react_agent_with_tools_and_a_response_format(
    gateway: GatewayRunnable, weak: LLMock, way: str
):
    """It asks the model it bound the tools to for the structured response, and not for tools."""
    from langgraph.prebuilt import create_react_agent  # noqa: PLC0415

    face = gateway.as_chat_model()
    state = run(create_react_agent(face, [get_weather], response_format=Weather), way)
    assert who_answered(state) == ["weak", "weak"]
    assert isinstance(state["structured_response"], Weather)
    assert "response_format" in weak.last_request.body
    assert "tools" not in weak.last_request.body


# --- structured responses ------------------------------------------------------------------------


@both_ways
@pytest.mark.parametrize("strategy", [ToolStrategy, ProviderStrategy])
def test_a_response_format(model: Any, weak: LLMock, strategy: Any, way: str):
    """Both strategies, on a deployment that stands in for another."""
    weak.fail(503)
    agent = create_agent(model, [], response_format=strategy(Weather))
    state = run(agent, way)
    assert isinstance(state["structured_response"], Weather)
    assert who_answered(state) == ["strong"]


def test_a_bare_response_format_is_the_providers_own_where_all_can(
    gateway: GatewayRunnable, weak: LLMock
):
    """`create_agent` reads the chat model's profile; a plain Runnable has none to read."""
    for model, key in ((gateway, "tools"), (gateway.as_chat_model(), "response_format")):
        state = create_agent(model, [], response_format=Weather).invoke(QUESTION)
        assert isinstance(state["structured_response"], Weather)
        assert key in weak.last_request.body


def test_a_response_format_beside_a_tool(model: Any, weak: LLMock):
    """The tool first, the structured answer in the end."""
    weak.call_tool("get_weather", {"city": "Oslo"})
    weak.call_tool("Weather", {"city": "Oslo", "degrees": 21})
    agent = create_agent(model, [get_weather], response_format=ToolStrategy(Weather))
    assert agent.invoke(QUESTION)["structured_response"] == Weather(city="Oslo", degrees=21)


# --- stock middleware ----------------------------------------------------------------------------


@both_ways
def test_retry_middleware(model: Any, weak: LLMock, strong: LLMock, way: str):
    """The gateway's error tells it whether another try is worth it."""
    weak.fail(503)
    strong.fail(503)
    retry = ModelRetryMiddleware(max_retries=1, initial_delay=0, jitter=False)
    state = run(create_agent(model, [get_weather], middleware=[retry]), way)
    assert who_answered(state) == ["weak", "weak"]


def test_retry_middleware_does_not_insist_where_waiting_cannot_help(
    model: Any, weak: LLMock, strong: LLMock
):
    """Two rejected keys stay rejected: `is_retryable` is false, and the error comes through."""
    weak.fail(401, times=None)
    strong.fail(401, times=None)
    retry = ModelRetryMiddleware(max_retries=3, initial_delay=0, jitter=False)
    with pytest.raises(AllModelsFailedError):
        create_agent(model, [], middleware=[retry]).invoke(QUESTION)
    assert len(weak.requests) == len(strong.requests) == 1


@both_ways
def test_fallback_middleware_around_a_gateway(model: Any, weak: LLMock, strong: LLMock, way: str):
    """A gateway may be what falls back, and what is fallen back to."""
    weak.outage()
    strong.fail(503)
    own_last_resort = ScriptedChatModel(replies=["from elsewhere"])
    agent = create_agent(model, [], middleware=[ModelFallbackMiddleware(own_last_resort)])
    assert run(agent, way)["messages"][-1].content == "from elsewhere"

    down = ScriptedChatModel(replies=[ConnectionError()])
    agent = create_agent(down, [], middleware=[ModelFallbackMiddleware(model)])
    assert who_answered(run(agent, way)) == ["strong"]


def test_call_limit_middleware_counts_turns_and_not_attempts(model: Any, weak: LLMock):
    """A failover is no second call of the agent's."""
    weak.fail(503)
    limit = ModelCallLimitMiddleware(run_limit=2, exit_behavior="error")
    state = create_agent(model, [get_weather], middleware=[limit]).invoke(QUESTION)
    assert who_answered(state) == ["strong", "weak"]


@both_ways
def test_human_in_the_loop_resumes_on_another_deployment(model: Any, weak: LLMock, way: str):
    """The one who proposed the tool call may be gone by the time it is approved."""
    agent = create_agent(
        model,
        [get_weather],
        middleware=[HumanInTheLoopMiddleware(interrupt_on={"get_weather": True})],
        checkpointer=InMemorySaver(),
    )
    state = run(agent, way, config=THREAD)
    assert state["__interrupt__"][0].value["action_requests"][0]["name"] == "get_weather"
    weak.outage()
    approval = Command(resume={"decisions": [{"type": "approve"}]})
    assert who_answered(run(agent, way, approval, THREAD)) == ["weak", "strong"]


@both_ways
def test_summarization_middleware(gateway: GatewayRunnable, weak: LLMock, way: str):
    """It wants a chat model; the summary itself falls back like any call."""
    summarization = SummarizationMiddleware(
        gateway.as_chat_model(), trigger=("messages", 4), keep=("messages", 1)
    )
    talk = [("user", "a"), ("ai", "b"), ("user", "c"), ("ai", "d"), ("user", "e")]
    weak.fail(503)
    state = run(create_agent(gateway, [], middleware=[summarization]), way, {"messages": talk})
    assert "summary" in state["messages"][0].content.lower()
    assert len(state["messages"]) == 3


def test_summarization_middleware_believes_the_tokens_that_a_provider_reports(
    gateway: GatewayRunnable,
):
    """The face says which provider that is, where all deployments share it."""
    summarization = SummarizationMiddleware(
        gateway.as_chat_model(), trigger=("tokens", 5000), keep=("messages", 1)
    )
    usage = {"input_tokens": 5000, "output_tokens": 1, "total_tokens": 5001}
    answer = AIMessage("b", usage_metadata=usage, response_metadata={"model_provider": "openai"})
    talk = {"messages": [("user", "a"), answer, ("user", "c")]}
    state = create_agent(gateway, [], middleware=[summarization]).invoke(talk)
    assert "summary" in state["messages"][0].content.lower()


@both_ways
def test_an_agent_whose_tool_is_an_agent_over_the_same_gateway(
    gateway: GatewayRunnable, weak: LLMock, strong: LLMock, way: str
):
    """As deep agents are built: todos, a subagent, and summaries by what the profile says."""
    face = gateway.as_chat_model()
    inner = create_agent(face, [get_weather], name="weatherman")

    def finish(state: dict[str, Any]) -> str:
        weak.outage()
        return str(state["messages"][-1].content)

    def task(description: str) -> str:
        """Give a task to the weatherman."""
        return finish(inner.invoke({"messages": [("user", description)]}))

    async def atask(description: str) -> str:
        return finish(await inner.ainvoke({"messages": [("user", description)]}))

    middleware = [
        TodoListMiddleware(),
        SummarizationMiddleware(face, trigger=("fraction", 0.85), keep=("fraction", 0.1)),
    ]
    tool = StructuredTool.from_function(task, atask)
    weak.call_tool("task", {"description": "What is the weather in Oslo?"})
    weak.call_tool("get_weather", {"city": "Oslo"})
    weak.reply("Fine in Oslo.")
    strong.reply("It is fine.")
    state = run(create_agent(face, [tool], middleware=middleware), way)
    assert who_answered(state) == ["weak", "strong"]
    assert [m.content for m in state["messages"][2:]] == ["Fine in Oslo.", "It is fine."]
    assert len(weak.requests) == 4


def test_model_settings_may_carry_a_preference(model: Any, weak: LLMock):
    """A middleware that chooses per request; no provider ever sees the keyword."""

    @wrap_model_call
    def prefer_the_strong_one(request: Any, handler: Any) -> Any:
        return handler(request.override(model_settings={"model_preference": "strong"}))

    agent = create_agent(model, [get_weather], middleware=[prefer_the_strong_one])
    assert who_answered(agent.invoke(QUESTION)) == ["strong", "strong"]
    toolless = create_agent(model, [], middleware=[prefer_the_strong_one])
    assert who_answered(toolless.invoke(QUESTION)) == ["strong"]
    assert not weak.requests


# --- in a graph's node ---------------------------------------------------------------------------


def chat_graph(model: Any, **kwargs: Any) -> Any:
    def chat(state: MessagesState) -> dict[str, Any]:
        return {"messages": [model.invoke(state["messages"])]}

    async def achat(state: MessagesState) -> dict[str, Any]:
        return {"messages": [await model.ainvoke(state["messages"])]}

    graph = StateGraph(MessagesState)
    graph.add_node("chat", RunnableLambda(chat, achat))
    graph.add_edge(START, "chat")
    return graph.compile(**kwargs)


@every_way
def test_a_preference_in_the_graphs_config_reaches_the_gateway_in_a_node(model: Any, way: str):
    """The node passes no config on: LangGraph's own is around it."""
    preferred = {"configurable": {"model_preference": "strong"}}
    for graph in (chat_graph(model), create_agent(model, [get_weather])):
        assert set(who_answered(run(graph, way, config=preferred))) == {"strong"}
        assert set(who_answered(run(graph, way))) == {"weak"}


@both_ways
def test_an_interrupt_of_a_deployment_reaches_the_graph(way: str):
    """An interrupt is no failure: no other deployment is asked, and the answer is waited for."""

    def ask_a_human(messages: Any) -> AIMessage:
        return AIMessage(interrupt("What shall I say?"))

    human = StateGraph(MessagesState)
    human.add_node("ask", lambda state: {"messages": [ask_a_human(state)]})
    human.add_edge(START, "ask")
    as_graph = (
        RunnableLambda(lambda messages: {"messages": messages})
        | human.compile()
        | (lambda state: state["messages"][-1])
    )
    for deployment in (RunnableLambda(ask_a_human), as_graph):
        backup = ScriptedChatModel()
        models = [("human", deployment), ("backup", backup)]
        gateway = GatewayRunnable(models=[{"model_name": n, "model": m} for n, m in models])
        graph = chat_graph(gateway, checkpointer=InMemorySaver())
        state = run(graph, way, config=THREAD)
        assert state["__interrupt__"][0].value == "What shall I say?"
        state = run(graph, way, Command(resume="Forty-two"), THREAD)
        assert state["messages"][-1].content == "Forty-two"
        assert who_answered(state) == ["human"]
        assert not backup.calls


@both_ways
def test_a_checkpointed_conversation_goes_on_with_another_deployment(
    model: Any, weak: LLMock, strong: LLMock, way: str
):
    """Nothing in a checkpoint ties the conversation to who began it."""
    graph = chat_graph(model, checkpointer=InMemorySaver())
    run(graph, way, config=THREAD)
    weak.outage()
    state = run(graph, way, {"messages": [("user", "And tomorrow?")]}, THREAD)
    assert who_answered(state) == ["weak", "strong"]
    assert len(strong.last_request.body["messages"]) == 3


# --- seeing it -----------------------------------------------------------------------------------


def streamed(graph: Any, is_async: bool) -> list[tuple[AIMessageChunk, dict[str, Any]]]:
    if not is_async:
        return list(graph.stream(QUESTION, stream_mode="messages"))

    async def collect() -> list[Any]:
        return [each async for each in graph.astream(QUESTION, stream_mode="messages")]

    return asyncio.run(collect())


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("is_agent", [False, True], ids=["node", "agent"])
def test_stream_mode_messages_gives_each_token_once(
    model: Any, strong: LLMock, weak: LLMock, is_agent: bool, is_async: bool
):
    """The tokens put together are the final message, and they say which deployment's they are."""
    weak.outage()
    strong.reply("one two three four", times=1)
    graph = create_agent(model, []) if is_agent else chat_graph(model)
    chunks = [(c, meta) for c, meta in streamed(graph, is_async) if not isinstance(c, HumanMessage)]
    assert "".join(chunk.content for chunk, _ in chunks) == "one two three four"
    assert len({chunk.id for chunk, _ in chunks}) == 1
    assert all("gateway:deployment:strong" in meta["tags"] for _, meta in chunks)


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_stream_mode_messages_gives_each_message_of_a_tool_loop_once(model: Any, is_async: bool):
    """Tool calls too are put together from their pieces, one message per id."""
    messages: dict[str, Any] = {}
    for chunk, _ in streamed(create_agent(model, [get_weather]), is_async):
        key = chunk.id or ""
        messages[key] = messages[key] + chunk if key in messages else chunk
    kinds = [type(message) for message in messages.values()]
    assert kinds == [AIMessageChunk, ToolMessage, AIMessageChunk]
    assert [call["args"] for call in next(iter(messages.values())).tool_calls] == [
        {"city": "mock-city"}
    ]


@every_way
def test_usage_is_counted_once(model: Any, weak: LLMock, way: str):
    """The counter's sum is the messages' own."""
    weak.fail(503)
    graph = create_agent(model, [get_weather])
    with get_usage_metadata_callback() as counter:
        state = run(graph, way)
    counted = Counter[str]()
    for message in answers(state):
        name = message.response_metadata["model_name"]
        counted[name] += message.usage_metadata["total_tokens"]
    assert {k: v["total_tokens"] for k, v in counter.usage_metadata.items()} == counted
    assert counted.keys() == {"gpt-4o", "gpt-4o-mini"}


class Tree(BaseTracer):
    """Keeps the finished root runs."""

    def __init__(self) -> None:
        super().__init__()
        self.roots: list[Run] = []

    def _persist_run(self, run: Run) -> None:
        self.roots.append(run)


def all_runs(root: Run) -> Iterator[Run]:
    yield root
    for child in root.child_runs:
        yield from all_runs(child)


@both_ways
def test_one_tree_of_runs_shows_who_was_asked(
    model: Any, gateway: GatewayRunnable, weak: LLMock, way: str
):
    """One run for the gateway, below it one for each attempt, nothing beside the graph's root."""
    weak.fail(503)
    tree = Tree()
    run(create_agent(model, []), way, config={"callbacks": [tree]})
    (root,) = tree.roots
    runs = list(all_runs(root))
    (own,) = [each for each in runs if each.name == model.get_name()]
    attempts = [each for each in runs if each.run_type == "llm"]
    assert [each.parent_run_id for each in attempts] == [own.id, own.id]
    assert [each.error is None for each in attempts] == [False, True]
    tags = [{tag for tag in each.tags if tag.startswith("gateway:")} for each in attempts]
    assert tags == [
        {"gateway:deployment:weak"},
        {"gateway:deployment:strong", "gateway:attempt:2"},
    ]


class Listener(BaseCallbackHandler):
    """Keeps the custom events."""

    def __init__(self) -> None:
        self.events: list[tuple[str, Any]] = []

    def on_custom_event(self, name: str, data: Any, **kwargs: Any) -> None:
        self.events.append((name, data))


FALLBACK = {
    "model_name": "weak",
    "provider": "openai",
    "error": "OpenAIRateLimitError",
    "attempt": 1,
}


@every_way
@pytest.mark.parametrize("streams", [False, True], ids=["plain", "tokens"])
def test_a_custom_event_tells_of_each_failed_attempt(
    model: Any, weak: LLMock, way: str, streams: bool
):
    """It carries names, no prompt and no key."""
    weak.fail(429)
    listener = Listener()

    def chat(state: MessagesState) -> dict[str, Any]:
        return {"messages": list(model.stream(state["messages"]))[:1]}

    graph = StateGraph(MessagesState).add_node(chat).add_edge(START, "chat").compile()
    run(graph if streams else chat_graph(model), way, config={"callbacks": [listener]})
    assert listener.events == [("gateway_fallback", FALLBACK)]


async def test_the_custom_event_is_among_an_agents_events(model: Any, weak: LLMock):
    """For readers of `astream_events`."""
    weak.fail(429)
    agent = create_agent(model, [get_weather])
    events = [event async for event in agent.astream_events(QUESTION, version="v2")]
    (fallback,) = [event for event in events if event["name"] == "gateway_fallback"]
    assert (fallback["event"], fallback["data"]) == ("on_custom_event", FALLBACK)


async def test_events_give_each_token_once(model: Any, weak: LLMock):
    """The deployment's model reports tokens, and nobody else does."""
    weak.reply("one two three four")
    graph = chat_graph(model)
    events = [event async for event in graph.astream_events(QUESTION, version="v2")]
    tokens = [e["data"]["chunk"].content for e in events if e["event"] == "on_chat_model_stream"]
    assert "".join(tokens) == "one two three four"
    assert [e["event"] for e in events].count("on_chat_model_end") == 1
