"""`as_chat_model()`: LangChain's own standard tests, and that all is reported once."""

import asyncio
import pickle
from collections.abc import Callable
from typing import Any
from unittest import mock

import httpx
import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import BaseCallbackHandler, get_usage_metadata_callback
from langchain_core.globals import set_llm_cache
from langchain_core.language_models import BaseChatModel
from langchain_core.load import dumpd, dumps, load
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage
from langchain_core.outputs import LLMResult
from langchain_core.prompt_values import StringPromptValue
from langchain_core.runnables import RunnableBinding, RunnableLambda
from langchain_openai import ChatOpenAI
from langchain_tests.integration_tests import ChatModelIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests
from langgraph.graph import START, MessagesState, StateGraph
from llmock.pytest_plugin import LLMock
from pydantic import BaseModel, ValidationError

from langchain_model_gateway import (
    AllModelsFailedError,
    CooldownPolicy,
    GatewayChatModel,
    GatewayRunnable,
    RetryPolicy,
)

from .conftest import openai_at
from .models import ScriptedChatModel

ENDPOINTS = ("http://127.0.0.1:9/v1", "http://127.0.0.1:10/v1")


def openai_models(endpoints: tuple[str, str] = ENDPOINTS, **fields: Any) -> list[dict[str, Any]]:
    """A weak deployment and a strong one."""
    fields = {"stream_usage": True} | fields
    names = (("weak", "gpt-4o-mini"), ("strong", "gpt-4o"))
    return [
        {"model_name": name, "model": openai_at(url, model=model, **fields)}
        for (name, model), url in zip(names, endpoints, strict=True)
    ]


def scripted(*models: Any, **fields: Any) -> GatewayChatModel:
    entries = [{"model_name": f"m{i}", "model": model} for i, model in enumerate(models)]
    return GatewayRunnable(models=entries, **fields).as_chat_model()


# --- LangChain's standard tests ------------------------------------------------------------------


class TestStandardUnit(ChatModelUnitTests):
    """A gateway's own settings are its deployments, so it takes none of a model's."""

    chat_model_class = GatewayChatModel
    standard_chat_model_params: dict[str, Any] = {}
    has_tool_choice = True

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"models": openai_models()}

    @property
    def init_from_env_params(self) -> tuple[dict[str, str], dict[str, Any], dict[str, Any]]:
        """A gateway reads no environment; its models do when they are loaded."""
        expected = {"model_names": ("weak", "strong")}
        return {"OPENAI_API_KEY": "test"}, self.chat_model_params, expected

    @pytest.fixture
    def snapshot(self) -> Callable[..., Any]:
        """Any payload will do: ChatOpenAI's fields are not ours to pin."""
        return lambda name: mock.ANY

    @pytest.mark.xfail(
        strict=True,
        raises=ValueError,
        reason='load(allowed_objects="all") refuses every class outside LangChain\'s own packages',
    )
    def test_serdes(self, model: BaseChatModel, snapshot: Any) -> None:
        super().test_serdes(model, snapshot)


# langchain-openai's own: it dumps parsed chunks, misses file names, changes a method by itself.
@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings:UserWarning")
@pytest.mark.filterwarnings("ignore:OpenAI may require a filename:UserWarning")
@pytest.mark.filterwarnings("ignore:Received a Pydantic BaseModel V1 schema:UserWarning")
class TestStandardIntegration(ChatModelIntegrationTests):
    """Over real HTTP, with all well and with the first deployment down."""

    chat_model_class = GatewayChatModel
    has_tool_choice = True
    supports_json_mode = True
    supports_image_inputs = True
    supports_image_urls = True
    supports_image_tool_message = True
    supports_pdf_inputs = True
    supports_pdf_tool_message = True
    supports_audio_inputs = True
    supports_anthropic_inputs = True
    model_override_value = "gpt-4.1"
    enable_vcr_tests = True

    # What a model would answer that understands the question.
    tool_calls = {
        "test_tool_calling": ("magic_function", {"input": 3}),
        "test_tool_calling_async": ("magic_function", {"input": 3}),
        "test_bind_runnables_as_tools": ("greeting_generator", {"answer_style": "pirate"}),
        "test_unicode_tool_call_integration": ("unicode_customer", {"customer_name": "你好 こ"}),
    }

    @pytest.fixture(autouse=True, params=[False, True], ids=["", "first down"])
    def apis(
        self,
        weak: LLMock,
        strong: LLMock,
        request: pytest.FixtureRequest,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        self.endpoints = (weak.base_url(), strong.base_url())
        name = request.node.originalname
        if request.param:
            weak.outage()
        if request.param and name in ("test_structured_output", "test_structured_output_async"):
            reason = "wants to see one model's call, and sees the failed attempt's too"
            request.applymarker(pytest.mark.xfail(strict=True, reason=reason))
        for api in (weak, strong):
            if name in self.tool_calls:
                api.call_tool(*self.tool_calls[name], times=2)
            if name == "test_json_mode":
                api.reply('{"setup": "Why?", "punchline": "Because."}', times=None)
        # The tests fetch their picture, sound and document from the network.
        monkeypatch.setattr(httpx, "get", lambda url, **_: httpx.Response(200, content=b"data"))
        monkeypatch.setenv("LANGCHAIN_TESTS_USER_AGENT", "nobody: nothing is fetched")

    @pytest.fixture
    def vcr(self) -> Any:
        """No cassette: the server is real."""
        return mock.Mock(responses=["not needed"])

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"models": openai_models(self.endpoints)}


# --- over HTTP: everything once ------------------------------------------------------------------


@pytest.fixture
def gateway(weak: LLMock, strong: LLMock) -> GatewayRunnable:
    return GatewayRunnable(models=openai_models((weak.base_url(), strong.base_url())))


@pytest.fixture
def chat(gateway: GatewayRunnable) -> GatewayChatModel:
    return gateway.as_chat_model()


class Witness(BaseCallbackHandler):
    """Notes every call, token and usage that is reported."""

    def __init__(self) -> None:
        self.starts, self.failures, self.tokens = 0, 0, ""
        self.usages: list[int] = []

    def on_chat_model_start(self, *args: Any, **kwargs: Any) -> None:
        self.starts += 1

    def on_llm_error(self, *args: Any, **kwargs: Any) -> None:
        self.failures += 1

    def on_llm_new_token(self, token: Any, **kwargs: Any) -> None:
        self.tokens += token

    def on_llm_end(self, response: LLMResult, **kwargs: Any) -> None:
        for (generation,) in response.generations:
            self.usages.append(generation.message.usage_metadata["total_tokens"])


def merge(chunks: list[AIMessageChunk]) -> AIMessageChunk:
    first, *rest = chunks
    return first + rest


async def _v3(chat: BaseChatModel, config: Any) -> AIMessage:
    stream = await chat.astream_events("hi", config, version="v3")
    return await stream.output


async def _astream(chat: BaseChatModel, config: Any) -> AIMessageChunk:
    return merge([chunk async for chunk in chat.astream("hi", config)])


async def _events(chat: BaseChatModel, config: Any) -> AIMessageChunk:
    events = [event async for event in chat.astream_events("hi", config, version="v2")]
    assert [event["event"] for event in events].count("on_chat_model_end") == 1
    return merge([e["data"]["chunk"] for e in events if e["event"] == "on_chat_model_stream"])


def of(result: LLMResult) -> AIMessage:
    return result.generations[0][0].message


HI = [HumanMessage("hi")]
PROMPT = [StringPromptValue(text="hi")]
ENTRANCES: dict[str, Callable[[BaseChatModel, Any], AIMessage]] = {
    "invoke": lambda m, c: m.invoke("hi", c),
    "ainvoke": lambda m, c: asyncio.run(m.ainvoke("hi", c)),
    "stream": lambda m, c: merge(list(m.stream("hi", c))),
    "astream": lambda m, c: asyncio.run(_astream(m, c)),
    "batch": lambda m, c: m.batch(["hi"], c)[0],
    "abatch": lambda m, c: asyncio.run(m.abatch(["hi"], c))[0],
    "generate": lambda m, c: of(m.generate([HI], **c)),
    "agenerate": lambda m, c: of(asyncio.run(m.agenerate([HI], **c))),
    "generate_prompt": lambda m, c: of(m.generate_prompt(PROMPT, **c)),
    "agenerate_prompt": lambda m, c: of(asyncio.run(m.agenerate_prompt(PROMPT, **c))),
    "stream_events v3": lambda m, c: m.stream_events("hi", c, version="v3").output,
    "astream_events v3": lambda m, c: asyncio.run(_v3(m, c)),
    "astream_events v2": lambda m, c: asyncio.run(_events(m, c)),
}
STREAMED = {"stream", "astream", "stream_events v3", "astream_events v3", "astream_events v2"}

every_entrance = pytest.mark.parametrize("entrance", ENTRANCES)


@every_entrance
@pytest.mark.parametrize("is_down", [False, True], ids=["", "first down"])
def test_each_call_token_and_usage_is_reported_once(
    chat: GatewayChatModel, weak: LLMock, strong: LLMock, entrance: str, is_down: bool
):
    """To handlers and to listeners that attach through context variables, by every entrance."""
    if is_down:
        weak.outage()
    for api in (weak, strong):
        api.reply("one two three four")
    witness = Witness()
    with get_usage_metadata_callback() as counter:
        answer = ENTRANCES[entrance](chat, {"callbacks": [witness]})
    assert answer.text == "one two three four"
    assert (witness.starts, witness.failures) == ((2, 1) if is_down else (1, 0))
    assert len(witness.usages) == 1
    if entrance in STREAMED:
        assert witness.tokens == answer.text
    (counted,) = counter.usage_metadata.values()
    assert [counted["total_tokens"]] == witness.usages
    assert len(strong.requests) == is_down


# The events of version 2 are those of the deployments' models, which know of no gateway.
@pytest.mark.parametrize("entrance", sorted(ENTRANCES.keys() - {"astream_events v2"}))
def test_the_answer_says_who_gave_it(chat: GatewayChatModel, weak: LLMock, entrance: str):
    """Whatever the entrance, it is the gateway that is called."""
    weak.fail(503)
    assert ENTRANCES[entrance](chat, {}).response_metadata["gateway"] == {
        "model_name": "strong",
        "failed": [{"model_name": "weak", "error": "OpenAIAPIError"}],
    }


@every_entrance
def test_every_entrance_raises_the_gateways_own_error(
    chat: GatewayChatModel, weak: LLMock, strong: LLMock, entrance: str
):
    """With every cause, and no other."""
    weak.outage()
    strong.outage()
    with pytest.raises(AllModelsFailedError, match=r"weak .* strong "):
        ENTRANCES[entrance](chat, {})


@every_entrance
def test_a_preference_in_the_config_is_followed(
    chat: GatewayChatModel, weak: LLMock, entrance: str
):
    """The older entrances take no config; they take the keyword."""
    if "generate" in entrance:
        answer = ENTRANCES[entrance](chat, {"model_preference": "strong"})
    else:
        answer = ENTRANCES[entrance](chat, {"configurable": {"model_preference": "strong"}})
    assert answer.text
    assert not weak.requests


def test_generate_answers_each_prompt_in_order(chat: GatewayChatModel, weak: LLMock):
    """One list of generations for each, as every chat model gives."""
    for text in ("a", "b"):
        weak.reply(text)
    result = chat.generate([HI], stop=["END"], tags=["mine"])
    assert result.generations[0][0].text == "a"
    assert weak.last_request.body["stop"] == ["END"]
    assert len(chat.generate([HI, HI, HI]).generations) == 3


def test_the_models_cache_is_filled_once_and_holds_no_stamp(chat: GatewayChatModel, weak: LLMock):
    """The deployments' models keep the cache; the gateway adds none and changes no entry."""
    cache = InMemoryCache()
    set_llm_cache(cache)
    try:
        first, second = chat.invoke("hi"), chat.invoke("hi")
    finally:
        set_llm_cache(None)
    assert len(weak.requests) == 1
    assert first.text == second.text
    ((generation,),) = cache._cache.values()
    assert "gateway" not in generation.message.response_metadata


async def test_a_v3_stream_that_is_left_early_closes_the_models():
    """The provider is not kept talking to nobody."""
    endless = ScriptedChatModel(replies=[[str(i) for i in range(1000)]])
    stream = await scripted(endless).astream_events("hi", version="v3")
    async for event in stream:
        assert event
        break
    await stream.aclose()
    assert endless.closed == 1


def test_a_sync_v3_stream_is_lazy_and_falls_back():
    """The dead deployment costs an attempt and leaves no event behind."""
    dead = ScriptedChatModel(replies=[ConnectionError()])
    good = ScriptedChatModel(replies=[["one ", "two"]])
    stream = scripted(dead, good).stream_events("hi", version="v3")
    assert not dead.calls
    assert "".join(stream.text) == "one two"
    assert stream.output.response_metadata["gateway"]["model_name"] == "m1"


# --- in a graph's own stream of events -----------------------------------------------------------


ASK = {"messages": [("user", "hi")]}


def graph_over(chat: Any, read: list[str]) -> Any:
    """A graph whose node asks for events of version 3 and notes the text it reads of them."""

    def node(state: MessagesState) -> dict[str, Any]:
        stream = chat.stream_events(state["messages"], version="v3")
        read.extend(stream.text)
        return {"messages": [stream.output]}

    async def anode(state: MessagesState) -> dict[str, Any]:
        stream = await chat.astream_events(state["messages"], version="v3")
        async for text in stream.text:
            read.append(text)
        return {"messages": [await stream.output]}

    graph = StateGraph(MessagesState).add_node("chat", RunnableLambda(node, anode))
    return graph.add_edge(START, "chat").compile()


def shown_by(graph: Any, is_async: bool, **config: Any) -> dict[str, list[Any]]:
    """The events that the graph's own stream shows, by the run they are of."""
    if is_async:
        events = asyncio.run(_aevents(graph, config))
    else:
        events = list(graph.stream_events(ASK, config, version="v3"))
    shown: dict[str, list[Any]] = {}
    for event in events:
        if event["method"] == "messages":
            payload, metadata = event["params"]["data"]
            shown.setdefault(metadata["run_id"], []).append((payload, metadata))
    return shown


async def _aevents(graph: Any, config: Any) -> list[Any]:
    return [event async for event in await graph.astream_events(ASK, config, version="v3")]


both_ways = pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
beta = pytest.mark.filterwarnings("ignore:The v3 streaming protocol on Pregel is experimental")


@beta
@both_ways
def test_its_events_show_among_a_graphs(is_async: bool):
    """Those of one message, whole, with who gave it; nothing of who failed."""
    dead = ScriptedChatModel(replies=[[AIMessageChunk(""), ConnectionError()]])
    good = ScriptedChatModel(replies=[["one ", "two"]])
    (events,) = shown_by(graph_over(scripted(dead, good), []), is_async).values()
    assert [payload["event"] for payload, _ in events] == [
        "message-start",
        "content-block-start",
        "content-block-delta",
        "content-block-delta",
        "content-block-finish",
        "message-finish",
    ]
    assert "".join(p["delta"]["text"] for p, _ in events if "delta" in p) == "one two"
    assert all("gateway:deployment:m1" in metadata["tags"] for _, metadata in events)


@beta
def test_a_node_reads_events_as_they_come():
    """That the graph shows them too makes the node wait for nothing."""
    read: list[str] = []
    before: list[list[str]] = []
    late = lambda: before.append([*read]) or "two"  # noqa: E731
    shown_by(graph_over(scripted(ScriptedChatModel(replies=[["one ", late]])), read), False)
    assert before == [["one "]]
    assert read == ["one ", "two"]


@beta
@both_ways
def test_events_in_a_graph_are_counted_once(chat: GatewayChatModel, is_async: bool):
    """Other listeners see the deployment's run as ever, and no run beside it."""
    witness = Witness()
    with get_usage_metadata_callback() as counter:
        shown = shown_by(graph_over(chat, []), is_async, callbacks=[witness])
    assert len(shown) == 1
    assert witness.starts == 1
    assert [each["total_tokens"] for each in counter.usage_metadata.values()] == witness.usages


@beta
@both_ways
def test_events_that_break_off_in_a_graph_raise(is_async: bool):
    """What was begun is not stitched, there as elsewhere."""
    cut = ScriptedChatModel(replies=[["one ", ConnectionError("cut")]])
    with pytest.raises(ConnectionError, match="cut"):
        shown_by(graph_over(scripted(cut, ScriptedChatModel()), []), is_async)


# --- what it is ----------------------------------------------------------------------------------


@pytest.mark.parametrize("is_used", [False, True])
def test_it_is_frozen_like_the_gateway(is_used: bool):
    """An assignment that a running gateway would not heed is an error."""
    chat = scripted(ScriptedChatModel(), ScriptedChatModel())
    if is_used:
        chat.invoke("hi")
    for name in ("retry", "timeout", "models", "profile"):
        with pytest.raises(ValidationError, match="frozen"):
            setattr(chat, name, None)


class Told(ScriptedChatModel):
    """Says who serves it and which model it is."""

    provider: Any = "openai"
    name_of_model: Any = "gpt-4o"

    def _get_ls_params(self, stop: Any = None, **kwargs: Any) -> Any:
        if self.provider is None:
            raise RuntimeError("cannot tell")
        return {"ls_provider": self.provider, "ls_model_name": self.name_of_model}


OPENAI, MINI, AZURE = Told(), Told(name_of_model="gpt-4o-mini"), Told(provider="azure")


@pytest.mark.parametrize(
    ("models", "provider", "model_name"),
    [
        ((OPENAI, OPENAI), "openai", "gpt-4o"),
        ((OPENAI, MINI), "openai", "m0|m1"),
        ((OPENAI, AZURE), "gateway", "gpt-4o"),
        ((OPENAI, MINI.bind(stop=["x"]), scripted(OPENAI, MINI)), "openai", "m0|m1|m2"),
        ((OPENAI, scripted(OPENAI, AZURE)), "gateway", "gpt-4o"),
        ((OPENAI, Told(provider=None)), "gateway", "m0|m1"),
        ((OPENAI, RunnableLambda(lambda _: AIMessage("hi"))), "gateway", "m0|m1"),
    ],
)
def test_it_says_the_provider_and_the_model_that_all_share(
    models: tuple[Any, ...], provider: str, model_name: str
):
    """LangChain believes reported usage where the message's provider is the model's."""
    params = scripted(*models)._get_ls_params()
    assert (params["ls_provider"], params["ls_model_name"]) == (provider, model_name)


def test_it_is_a_chat_model_and_a_gateway(gateway: GatewayRunnable, chat: GatewayChatModel):
    """The plain gateway is not: a wrapper that is one would report everything twice."""
    assert isinstance(chat, BaseChatModel)
    assert isinstance(chat, GatewayRunnable)
    assert not isinstance(gateway, BaseChatModel)
    assert chat._llm_type == "gateway"
    assert chat.model_names == gateway.model_names


def test_it_takes_over_every_setting():
    """Preference, policies, limits: the same gateway with another face."""
    original = GatewayRunnable(
        models=openai_models(),
        model_preference="strong",
        strict_preference=True,
        retry=RetryPolicy(),
        cooldown=CooldownPolicy(),
        timeout=30,
        reject=("empty",),
    )
    chat = original.as_chat_model()
    for name in GatewayRunnable.model_fields:
        assert getattr(chat, name) == getattr(original, name)


def test_health_is_shared_with_its_gateway_and_with_its_own_bindings():
    """What one face learns, all know; in both directions."""
    dead, good = ScriptedChatModel(replies=[ConnectionError()]), ScriptedChatModel()
    models = [{"model_name": "dead", "model": dead}, {"model_name": "good", "model": good}]
    gateway = GatewayRunnable(models=models, cooldown=CooldownPolicy(failure_threshold=2))
    chat = gateway.as_chat_model()
    chat.invoke("hi")
    gateway.invoke("hi")
    assert [each.model_name for each in gateway.explain().deferred] == ["dead"]
    assert [each.model_name for each in chat.explain().deferred] == ["dead"]
    chat.bind(stop=["x"]).invoke("hi")
    chat.prefer("dead").as_chat_model().invoke("hi")
    assert len(dead.calls) == 2


def test_bound_tools_are_a_binding_that_falls_back(chat: GatewayChatModel, weak: LLMock):
    """A `RunnableBinding`, as other chat models give; with the preference still to choose."""
    bound = chat.bind_tools([Joke])
    assert isinstance(bound, RunnableBinding)
    weak.fail(500)
    answer = bound.invoke("Tell me a joke")
    assert answer.tool_calls[0]["name"] == "Joke"
    assert answer.response_metadata["gateway"]["model_name"] == "strong"
    answer = bound.invoke("Tell me a joke", model_preference="strong")
    assert answer.response_metadata["gateway"]["failed"] == []


class Joke(BaseModel):
    """A joke."""

    setup: str
    punchline: str


@pytest.mark.parametrize("method", ["json_schema", "function_calling", "json_mode"])
def test_structured_output(chat: GatewayChatModel, weak: LLMock, strong: LLMock, method: str):
    """The same as the gateway's: what does not parse falls back."""
    weak.reply("I know none.")
    if method == "function_calling":
        strong.call_tool("Joke", {"setup": "a", "punchline": "b"})
    else:
        strong.reply('{"setup": "a", "punchline": "b"}')
    structured = chat.with_structured_output(Joke, method=method, include_raw=True)
    result = structured.invoke("Tell me a joke, as JSON")
    assert result["parsed"] == Joke(setup="a", punchline="b")
    assert result["raw"].response_metadata["gateway"]["model_name"] == "strong"


def test_tokens_are_counted_by_the_first_chat_model():
    """A gateway has no tokenizer of its own."""
    words = ScriptedChatModel(custom_get_token_ids=lambda text: [0] * len(text.split()))
    assert scripted(words, ScriptedChatModel()).get_num_tokens("one two three") == 3


# --- its profile ---------------------------------------------------------------------------------


def profile_of(*profiles: Any) -> Any:
    return scripted(*(ScriptedChatModel(profile=profile) for profile in profiles)).profile


def test_its_profile_is_what_all_deployments_can_do():
    """The lesser limit, the shared capability; what one does not tell is nobody's."""
    assert profile_of(
        {"max_input_tokens": 1000, "tool_calling": True, "image_inputs": True, "name": "a"},
        {"max_input_tokens": 200, "tool_calling": True, "image_inputs": False, "name": "b"},
    ) == {"max_input_tokens": 200, "tool_calling": True, "image_inputs": False}
    assert profile_of(
        {"tool_calling": True, "structured_output": True}, {"tool_calling": True}
    ) == {"tool_calling": True}


def test_a_profile_that_is_given_is_kept():
    """Who knows better than the deployments may say so."""
    model = ScriptedChatModel(profile={"max_input_tokens": 1000})
    given = {"max_input_tokens": 10}
    chat = GatewayChatModel(models=[{"model_name": "a", "model": model}], profile=given)
    assert chat.profile == given


@pytest.mark.parametrize("unknown", [None, {}])
def test_its_profile_is_unknown_where_one_deployments_is(unknown: Any):
    """Not what the others can do: that one may have to answer."""
    assert profile_of({"tool_calling": True}, unknown) is None


def test_its_profile_looks_through_bindings_chains_and_gateways():
    """A limit does not vanish because the model is wrapped."""
    small = ScriptedChatModel(profile={"max_input_tokens": 10})
    large = ScriptedChatModel(profile={"max_input_tokens": 99})
    for wrapped in (
        small.bind(stop=["x"]),
        small.with_retry(),
        (lambda text: text) | small,
        GatewayRunnable(
            models=[{"model_name": n, "model": m} for n, m in [("a", large), ("b", small)]]
        ),
        scripted(large, small),
    ):
        assert scripted(large, wrapped).profile == {"max_input_tokens": 10}


def test_its_profile_is_langchains_for_known_models():
    """Read from the deployments, so `create_agent` finds native structured output."""
    profile = GatewayRunnable(models=openai_models()).as_chat_model().profile
    assert profile["structured_output"] is True
    assert profile["max_input_tokens"] == 128_000


# --- serialization -------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:The function `load` is in beta")
def test_it_loads_as_what_it_was():
    """Named by the package's root; its key is a reference."""
    chat = GatewayRunnable(models=openai_models(api_key="sk-hidden")).as_chat_model()
    data = dumpd(chat)
    assert data["id"] == ["langchain_model_gateway", "GatewayChatModel"]
    assert "sk-hidden" not in dumps(chat)
    loaded = load(
        data,
        allowed_objects=[GatewayChatModel, ChatOpenAI],
        valid_namespaces=["langchain_model_gateway"],
        secrets_map={"OPENAI_API_KEY": "sk-hidden"},
    )
    assert type(loaded) is GatewayChatModel
    assert loaded == chat
    assert loaded.profile == chat.profile
    secrets = {"OPENAI_API_KEY": "sk-hidden"}
    again = GatewayChatModel.from_serialized(
        chat.serialize(), allowed_objects=[ChatOpenAI], secrets_map=secrets
    )
    assert again == chat


def test_it_pickles_without_its_keys(monkeypatch: pytest.MonkeyPatch):
    """It reads them from the environment where it arrives."""
    monkeypatch.setenv("OPENAI_API_KEY", "from-env")
    chat = GatewayRunnable(models=openai_models(api_key="sk-hidden")).as_chat_model()
    data = pickle.dumps(chat)
    assert b"sk-hidden" not in data
    loaded = pickle.loads(data)
    assert type(loaded) is GatewayChatModel
    assert loaded == chat
    assert loaded["weak"].model.openai_api_key.get_secret_value() == "from-env"
