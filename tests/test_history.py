"""A conversation that another provider began: what each client gets of it, and really sends."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)
from langchain_core.prompt_values import ChatPromptValue
from langchain_core.runnables import RunnableLambda
from langchain_openai import AzureChatOpenAI, ChatOpenAI

from langchain_model_gateway import GatewayRunnable
from langchain_model_gateway.history import translated

from .conftest import CallForm
from .models import ScriptedChatModel, gateway_over
from .providers.clients import CLIENTS, INSTALLED
from .providers.dialects import Answer
from .providers.server import Provider

CALLS = [{"name": "weather", "args": {"city": "Oslo"}, "id": "call_1", "type": "tool_call"}]
TEXT = "Let me look."


def _said(content: Any, provider: str | None, **fields: Any) -> AIMessage:
    metadata = fields.pop("metadata", {}) | ({"model_provider": provider} if provider else {})
    fields = {"tool_calls": CALLS, "id": "lc_run--1", "response_metadata": metadata} | fields
    return AIMessage(content, **fields)


# What each client makes of an answer that thinks, speaks and calls a tool.
MADE: dict[str, AIMessage] = {
    "openai": _said(TEXT, "openai", metadata={"id": "chatcmpl-1"}),
    "openai_v1": _said(
        [{"type": "text", "text": TEXT}, CALLS[0]], "openai", metadata={"output_version": "v1"}
    ),
    "responses": _said(
        [
            {
                "type": "reasoning",
                "id": "rs_1",
                "summary": [{"type": "summary_text", "text": "hm"}],
            },
            {"type": "text", "id": "msg_1", "text": TEXT, "annotations": []},
            {
                "type": "function_call",
                "id": "fc_1",
                "call_id": "call_1",
                "name": "weather",
                "arguments": '{"city": "Oslo"}',
            },
        ],
        "openai",
        id="resp_1",
        metadata={"id": "resp_1", "object": "response", "status": "completed"},
    ),
    "anthropic": _said(
        [
            {"type": "thinking", "thinking": "hm", "signature": "c2ln"},
            {"type": "text", "text": TEXT},
            {"type": "tool_use", "id": "call_1", "name": "weather", "input": {"city": "Oslo"}},
        ],
        "anthropic",
    ),
    "anthropic_v1": _said(
        [
            {"type": "reasoning", "reasoning": "hm", "extras": {"signature": "c2ln"}},
            {"type": "text", "text": TEXT},
            CALLS[0],
        ],
        "anthropic",
        metadata={"output_version": "v1"},
    ),
    "gemini": _said(
        [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": TEXT}],
        "google_genai",
        additional_kwargs={"__gemini_function_call_thought_signatures__": {"call_1": "c2ln"}},
    ),
    "gemini_v1": _said(
        [{"type": "reasoning", "reasoning": "hm"}, {"type": "text", "text": TEXT}, CALLS[0]],
        "google_genai",
        metadata={"output_version": "v1"},
    ),
    "bedrock": _said(
        [
            {
                "type": "reasoning_content",
                "reasoning_content": {"text": "hm", "signature": "c2ln"},
            },
            {"type": "text", "text": TEXT},
            {"type": "tool_use", "id": "call_1", "name": "weather", "input": {"city": "Oslo"}},
        ],
        "bedrock_converse",
    ),
    "mistral": _said(
        [
            {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]},
            {"type": "text", "text": TEXT},
        ],
        "mistralai",
    ),
    "deepseek": _said(TEXT, "deepseek", additional_kwargs={"reasoning_content": "hm"}),
}


def _history(answer: BaseMessage) -> list[BaseMessage]:
    return [
        HumanMessage("Weather in Oslo?"),
        answer,
        ToolMessage("4 degrees", tool_call_id="call_1"),
    ]


# --- what a deployment gets -------------------------------------------------------------------


class ChatAnthropic(ScriptedChatModel):
    """One of the kind, by its name."""


class ChatOllama(ScriptedChatModel):
    """One of another kind."""


def over(model: Any, **fields: Any) -> GatewayRunnable:
    return gateway_over(model, ScriptedChatModel(), **fields)


@pytest.mark.parametrize("maker", MADE)
def test_a_foreign_answer_keeps_what_every_provider_takes(maker: str, ask: CallForm):
    """Text, tool calls, their ids and `name`; reasoning, signatures, ids and blocks go."""
    model = ChatOllama()
    answer = MADE[maker].model_copy(update={"name": "agent"})
    history = _history(answer)
    before = answer.model_copy(deep=True)
    ask(over(model), history)
    assert model.calls[0] == [
        history[0],
        AIMessage(TEXT, tool_calls=CALLS, name="agent"),
        history[2],
    ]
    assert answer == before, "a copy, never in place"
    assert history[1] is answer


@pytest.mark.parametrize(("text", "calls"), [(TEXT, []), ("", CALLS)], ids=["text", "call"])
def test_an_answer_of_text_alone_or_a_call_alone_is_kept(text: str, calls: list[Any]):
    """It is not one with nothing left."""
    model = ChatOllama()
    over(model).invoke([HumanMessage("?"), _said(text, "anthropic", tool_calls=calls)])
    assert model.calls[0][1:] == [AIMessage(text, tool_calls=calls)]


def test_all_foreign_answers_of_a_conversation_are_translated():
    """Not the first of them alone."""
    model = ChatOllama()
    over(model).invoke([*_history(MADE["anthropic"]), *_history(MADE["gemini"])])
    assert [model.calls[0][position].content for position in (1, 4)] == [TEXT, TEXT]


def test_an_answer_of_its_own_kind_is_the_very_same_object(ask: CallForm):
    """Signatures must survive, and on the way of every call nothing is copied for nothing."""
    model = ChatAnthropic()
    history = _history(MADE["anthropic"])
    ask(over(model), history)
    assert all(got is given for got, given in zip(model.calls[0], history, strict=True))


def test_an_answer_that_nothing_tells_the_maker_of_is_left_alone():
    """A caller's own `AIMessage` is in the form that the caller chose."""
    model, answer = ChatOllama(), _said([{"type": "text", "text": "a"}], None)
    over(model).invoke(_history(answer))
    assert model.calls[0][1] is answer


@pytest.mark.parametrize("form", [tuple, lambda value: ChatPromptValue(messages=value)])
def test_every_form_of_messages_is_translated(form: Callable[[Any], Any]):
    """A tuple, and the prompt value that a prompt template gives."""
    model = ChatOllama()
    over(model).invoke(form(_history(MADE["anthropic"])))
    assert model.calls[0][1].content == TEXT


def test_messages_of_all_forms_stand_beside_a_translated_one():
    """Pairs, dicts and strings are what they were."""
    model = ChatOllama()
    over(model).invoke([("system", "Be brief."), {"role": "user", "content": "?"}, MADE["openai"]])
    assert [message.type for message in model.calls[0]] == ["system", "human", "ai"]


def test_an_answer_with_nothing_left_goes():
    """Several providers refuse a message with neither text nor a tool call."""
    model = ChatOllama()
    thought = _said([{"type": "thinking", "thinking": "hm"}], "anthropic", tool_calls=[])
    over(model).invoke([HumanMessage("a"), thought, HumanMessage("b")])
    assert [message.content for message in model.calls[0]] == ["a", "b"]


class ChatOfTheirOwn(ScriptedChatModel):
    """One of no known kind."""

    @property
    def _llm_type(self) -> str:
        return "their-own"


class ChatOfOthers(ScriptedChatModel):
    """Another one of no known kind."""


@pytest.mark.parametrize(
    ("provider", "stamp", "is_foreign"),
    [
        ("oftheirown", None, False),
        (None, "own", False),
        (None, "others", True),
        ("anthropic", None, True),
    ],
)
def test_a_client_of_no_known_kind_reads_its_own_answers(
    provider: str | None, stamp: str | None, is_foreign: bool
):
    """Its kind is its class, and its messages say its provider."""
    model = ChatOfTheirOwn()
    gateway = GatewayRunnable(
        models=[
            {"model_name": "own", "model": model},
            {"model_name": "others", "model": ChatOfOthers()},
        ]
    )
    answer = _said([{"type": "text", "text": "a"}], provider)
    answer = _stamped(answer, stamp) if stamp else answer
    gateway.invoke(_history(answer))
    assert (model.calls[0][1] is not answer) == is_foreign


def test_it_can_be_switched_off():
    """Then every message is the caller's, for every deployment."""
    model = ChatOllama()
    over(model, translate_history=False).invoke(_history(MADE["anthropic"]))
    assert model.calls[0][1] is MADE["anthropic"]


def test_the_switch_is_serialized_and_derived():
    """It is a field like any other."""
    models = ChatOpenAI(model="m", api_key="k"), ChatOpenAI(model="n", api_key="k")
    gateway = gateway_over(*models, translate_history=False)
    assert gateway.serialize()["kwargs"]["translate_history"] is False
    assert gateway.prefer("weak").translate_history is False
    assert gateway.as_chat_model().translate_history is False


def test_each_deployment_gets_the_conversation_in_its_own_form():
    """The first fails with its own messages untouched, the next gets the copy."""
    first, second = ChatAnthropic(replies=[ConnectionError()]), ChatOllama()
    gateway_over(first, second).invoke(_history(MADE["anthropic"]))
    assert first.calls[0][1] is MADE["anthropic"]
    assert second.calls[0][1].content == TEXT


def test_a_gateway_within_translates_for_its_own_deployments():
    """The outer one cannot know who will be asked."""
    first, second = ChatAnthropic(replies=[ConnectionError()]), ChatOllama()
    over(gateway_over(first, second)).invoke(_history(MADE["anthropic"]))
    assert first.calls[0][1] is MADE["anthropic"]
    assert second.calls[0][1].content == TEXT


# --- who made it ------------------------------------------------------------------------------


def _stamped(answer: AIMessage, model_name: str) -> AIMessage:
    stamp = {"model_name": model_name, "failed": []}
    metadata = {**answer.response_metadata, "gateway": stamp}
    return answer.model_copy(update={"response_metadata": metadata})


@pytest.mark.parametrize(
    ("provider", "stamp", "is_foreign"),
    [
        (None, "ollama", True),
        (None, "anthropic", False),
        (None, "nobody", False),
        ("anthropic", "anthropic", False),
        ("anthropic", "nobody", False),
        ("anthropic", "ollama", False),  # the name is another gateway's, or has changed hands
        ("openai", "anthropic", True),
    ],
)
def test_the_stamp_tells_where_the_client_does_not(
    provider: str | None, stamp: str, is_foreign: bool
):
    """Cohere's, NVIDIA's and Hugging Face's clients leave no name; a stamp may be out of date."""
    model = ChatAnthropic()
    gateway = GatewayRunnable(
        models=[
            {"model_name": "anthropic", "model": model},
            {"model_name": "ollama", "model": ChatOllama()},
        ]
    )
    answer = _stamped(_said([{"type": "text", "text": "a"}], provider), stamp)
    gateway.invoke(_history(answer))
    assert (model.calls[0][1] is not answer) == is_foreign


@pytest.mark.parametrize("stamp", [None, "x", 5, {"model_name": ["weak"]}, {}])
def test_a_stamp_that_is_none_does_no_harm(stamp: Any):
    """Metadata comes back from databases."""
    model, answer = ChatOllama(), AIMessage("a", response_metadata={"gateway": stamp})
    over(model).invoke([answer])
    assert model.calls[0][0] is answer


def _openai(**fields: Any) -> ChatOpenAI:
    return ChatOpenAI(model="m", api_key="k", **fields)


def _azure(**fields: Any) -> AzureChatOpenAI:
    return AzureChatOpenAI(
        model="m", api_key="k", azure_endpoint="http://x", api_version="2024-10-21", **fields
    )


@pytest.mark.parametrize(
    ("maker", "stamp", "target", "is_foreign"),
    [
        ("responses", None, _openai(use_responses_api=True), False),
        ("responses", None, _openai(use_responses_api=False), True),
        ("responses", None, _openai(), True),
        ("responses", "weak", _openai(), False),  # as the request decides
        ("responses", "weak", _openai(use_responses_api=False), True),
        ("responses", "other", _azure(use_responses_api=True), True),  # stored at another
        ("responses", "weak", _azure(use_responses_api=True), False),
        ("openai", None, _openai(use_responses_api=True), False),
        ("openai", None, _azure(), False),
        ("openai_v1", None, _openai(use_responses_api=True), True),
        ("openai_v1", None, _openai(), False),
        ("anthropic", None, _openai(), True),
    ],
)
def test_openais_two_interfaces_are_two_kinds(
    maker: str, stamp: str | None, target: Any, is_foreign: bool
):
    """Reasoning and ids that one has stored mean nothing to the other, nor at another address."""
    gateway = GatewayRunnable(
        models=[
            {"model_name": "weak", "model": target},
            {"model_name": "other", "model": _openai(use_responses_api=True)},
        ]
    )
    answer = MADE[maker] if stamp is None else _stamped(MADE[maker], stamp)
    history = _history(answer)
    value, _ = translated(history, {}, gateway._routing.targets["weak"], gateway._routing.targets)
    assert (value is not history) == is_foreign
    if is_foreign:
        assert value[1] == AIMessage(TEXT, tool_calls=CALLS)


@pytest.mark.parametrize(
    "value",
    [
        "hi",
        [HumanMessage("hi")],
        (("user", "hi"),),
        [MADE["openai"], {"role": "user", "content": "hi"}],
        ChatPromptValue(messages=[HumanMessage("hi")]),
        {"topic": [MADE["anthropic"]]},  # a chain's own input
    ],
)
def test_nothing_is_copied_where_nothing_is_foreign(value: Any):
    """The very same input and keywords come back: this is on the way of every call."""
    gateway, keywords = over(_openai()), {"stop": ["x"], "prompt_cache_key": "k"}
    got = translated(value, keywords, gateway._routing.targets["weak"], gateway._routing.targets)
    assert got[0] is value
    assert got[1] is keywords


# --- cache marks ------------------------------------------------------------------------------

MARKED = [{"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}]
UNMARKED = [{"type": "text", "text": "a"}]


@pytest.mark.parametrize(
    "message",
    [
        SystemMessage(MARKED),
        HumanMessage(MARKED),
        ToolMessage(MARKED, tool_call_id="call_1"),
        AIMessage(MARKED),
        ("system", MARKED),
        {"role": "user", "content": MARKED},
    ],
    ids=["system", "human", "tool", "ai", "pair", "dict"],
)
def test_cache_marks_go_for_a_client_that_does_not_know_them(message: Any, ask: CallForm):
    """In messages of every role and form; who knows them gets them."""
    knows, does_not = ChatAnthropic(replies=[ConnectionError()]), ChatOllama()
    ask(gateway_over(knows, does_not), [message, HumanMessage("b")])
    assert knows.calls[0][0].content == MARKED
    assert does_not.calls[0][0].content == UNMARKED


def test_texts_between_marked_blocks_stay():
    """A block may be a plain string."""
    model = ChatOllama()
    over(model).invoke([HumanMessage(["a", *MARKED, "b"])])
    assert model.calls[0][0].content == ["a", *UNMARKED, "b"]


def test_a_block_that_is_only_a_mark_goes():
    """Bedrock's `cachePoint` is a block of its own."""
    model = ChatOllama()
    blocks = [{"text": "a", "type": "text"}, {"cachePoint": {"type": "default"}}]
    over(model).invoke([HumanMessage(blocks)])
    assert model.calls[0][0].content == UNMARKED


def test_cache_keywords_reach_only_who_knows_them(ask: CallForm):
    """Else they kill the fallback with a `TypeError`; all other keywords reach everybody."""
    knows, does_not = ChatAnthropic(replies=[ConnectionError()]), ChatOllama()
    marks = {"cache_control": {"type": "ephemeral"}, "prompt_cache_key": "k"}
    ask(gateway_over(knows, does_not), "?", stop=["x"], seed=1, **marks)
    kept = {"cache_control": {"type": "ephemeral"}}
    assert {k: v for k, v in knows.received[0].items() if k not in {"stop", "seed"}} == kept
    assert does_not.received[0] == {"stop": ["x"], "seed": 1}


def test_a_client_of_no_known_kind_gets_every_mark():
    """Nobody can say that it does not know them."""
    model = ScriptedChatModel()
    over(model).invoke([HumanMessage(MARKED)], cache_control={"type": "ephemeral"})
    assert model.calls[0][0].content == MARKED
    assert "cache_control" in model.received[0]


def test_a_plain_function_gets_what_the_caller_gave():
    """It is no client; what it takes is its own matter."""
    seen: list[Any] = []
    over(RunnableLambda(lambda value: seen.append(value) or AIMessage("a"))).invoke(
        _history(MADE["anthropic"])
    )
    assert seen[0][1] is MADE["anthropic"]


# --- what the real clients send ---------------------------------------------------------------

# Perplexity's chat models call no tools.
PAIRS = [
    (target, maker)
    for target in INSTALLED
    for maker in MADE
    if target not in {"perplexity", maker.removesuffix("_v1")}
]


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    with Provider() as server:
        yield server


def weather(city: str) -> str:
    """The weather in a city."""
    return city


def _sent(body: Any) -> tuple[str, list[str]]:
    """The assistant's text in a request, and the kinds of all else that it is to have said."""
    text, kinds = "", []
    for message in body.get("messages") or body.get("input") or body["contents"]:
        if message.get("role") not in {"assistant", "model"}:
            kinds += (
                [message["type"]] if message.get("type") in {"reasoning", "function_call"} else []
            )
            continue
        content = message.get("content") or message.get("parts") or message.get("tool_plan") or []
        for block in [{"text": content}] if isinstance(content, str) else content:
            text += block.get("text", "")
            kinds += sorted(block.keys() - {"type", "text", "annotations"})
        kinds += ["tool_calls"] * len(message.get("tool_calls") or [])
    return text, kinds


# How one tool call stands in each API; in all others it is one of `tool_calls`.
ONE_CALL = {
    "responses": ["function_call"],
    "anthropic": ["id", "input", "name"],
    "gemini": ["functionCall"],
    "bedrock": ["toolUse"],
}


@pytest.mark.filterwarnings("ignore")  # the clients' own
@pytest.mark.parametrize(("target", "maker"), PAIRS)
def test_what_a_real_client_sends_of_a_foreign_conversation(
    target: str, maker: str, provider: Provider
):
    """Text and one tool call in its own API's form; no reasoning, signature or block of another."""
    provider.reset(Answer("ok"))
    model = CLIENTS[target].at(provider.url(CLIENTS[target].dialect))
    gateway = GatewayRunnable(models=[{"model_name": "a", "model": model}]).bind_tools([weather])
    assert gateway.invoke(_history(MADE[maker])).text == "ok"
    (asked,) = provider.requests
    text, kinds = _sent(asked.body)
    assert text == ("" if target == "mistral" else TEXT), "Mistral takes text or a tool call"
    assert [kind for kind in kinds if kind != "thoughtSignature"] == ONE_CALL.get(
        target, ["tool_calls"]
    )
    assert "c2ln" not in json.dumps(asked.body)
