"""Who is asked, in which order, with what, and what the answer says of it."""

import asyncio
import logging
from datetime import UTC, datetime
from typing import Any

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.runnables import RunnableConfig, RunnableLambda
from langgraph.errors import GraphBubbleUp, GraphInterrupt
from langgraph.graph import END, START, StateGraph
from typing_extensions import TypedDict

from langchain_model_gateway import (
    AllModelsFailedError,
    GatewayRunnable,
    NoModelAvailableError,
)
from langchain_model_gateway.timing import SystemClock

from .conftest import CallForm, StreamForm
from .models import ScriptedChatModel

Ask = CallForm
# Both ends are inclusive, so these two leave no instant free.
ALWAYS = [("00:00", "12:00"), ("12:00", "00:00")]
NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)
NAMES = ("weak", "strong", "backup")


def gateway(*models: Any, closed: tuple[str, ...] = (), **options: Any) -> GatewayRunnable:
    """A gateway over the models as "weak", "strong" and "backup", some of them restricted now."""
    entries = [
        {"model_name": name, "model": model, "time_constraints": ALWAYS if name in closed else None}
        for name, model in zip(NAMES, models, strict=False)
    ]
    return GatewayRunnable(models=entries, **options)


def says(*replies: Any) -> ScriptedChatModel:
    return ScriptedChatModel(replies=list(replies))


def fails(error: BaseException | None = None) -> ScriptedChatModel:
    return says(error or ConnectionError("down"))


def mark(answer: Any) -> dict[str, Any]:
    return answer.response_metadata["gateway"]


def order_of(answer: Any) -> list[str]:
    """Everybody asked, in order."""
    told = mark(answer)
    return [*(failure["model_name"] for failure in told["failed"]), told["model_name"]]


# --- order and preference ------------------------------------------------------------------------


def test_deployments_are_asked_in_list_order_until_one_answers(ask: Ask) -> None:
    """List order decides, and after an answer nobody else is asked."""
    models = fails(), says("strong"), says("backup")
    answer = ask(gateway(*models), "x")
    assert answer.content == "strong"
    assert [len(model.calls) for model in models] == [1, 1, 0]


def test_the_preferred_is_first_and_the_rest_keep_list_order(ask: Ask) -> None:
    """A preference moves one deployment to the front and changes nothing else."""
    models = fails(), says("strong"), fails()
    answer = ask(gateway(*models), "x", model_preference="backup")
    assert order_of(answer) == ["backup", "weak", "strong"]


CONFIG = {"configurable": {"model_preference": "strong"}}


@pytest.mark.parametrize(
    ("default", "config", "keyword", "expected"),
    [
        (None, None, None, "weak"),
        (None, None, "strong", "strong"),
        (None, CONFIG, None, "strong"),
        ("strong", None, None, "strong"),
        ("backup", CONFIG, None, "strong"),
        ("backup", CONFIG, "weak", "weak"),
        ("backup", None, "weak", "weak"),
    ],
)
def test_keyword_over_config_over_default(
    ask: Ask, default: str | None, config: Any, keyword: str | None, expected: str
) -> None:
    """The preference nearest to the call wins."""
    kwargs = {"model_preference": keyword} if keyword else {}
    answer = ask(gateway(says("a"), says("b"), says("c")).prefer(default), "x", config, **kwargs)
    assert mark(answer)["model_name"] == expected


def test_a_bound_preference_is_a_keyword(ask: Ask) -> None:
    """`bind` sets the preference, also over the config's."""
    bound = gateway(says("a"), says("b"), says("c")).bind(model_preference="backup")
    assert mark(ask(bound, "x", CONFIG))["model_name"] == "backup"
    preferring = gateway(says("a"), says("b")).prefer("strong")
    assert mark(ask(preferring.bind(model_preference="weak"), "x"))["model_name"] == "weak"


def test_the_config_reaches_a_gateway_inside_a_chain(ask: Ask) -> None:
    """A caller that holds only a chain states its preference in the config."""
    chain = RunnableLambda(lambda text: text) | gateway(says("a"), says("b"))
    assert mark(ask(chain, "x", CONFIG))["model_name"] == "strong"
    assert "model_preference" in [spec.id for spec in chain.config_specs]


def test_with_config_sets_a_preference(ask: Ask) -> None:
    """`with_config` gives a gateway a preference of its own."""
    configured = gateway(says("a"), says("b")).with_config(CONFIG)
    assert mark(ask(configured, "x"))["model_name"] == "strong"


@pytest.mark.parametrize("given", ["keyword", "config", "default"])
def test_a_name_that_is_nobodys_is_ignored_with_a_warning(
    ask: Ask, caplog: pytest.LogCaptureFixture, given: str
) -> None:
    """One WARNING names the stranger and all deployments, and the call goes on in list order."""
    asked = gateway(says("a"), says("b"))
    config = {"configurable": {"model_preference": "nobody"}} if given == "config" else None
    kwargs = {"model_preference": "nobody"} if given == "keyword" else {}
    if given == "default":
        asked = GatewayRunnable(models=list(asked.models), model_preference="nobody")
    assert mark(ask(asked, "x", config, **kwargs))["model_name"] == "weak"
    (record,) = [r for r in caplog.records if r.levelno == logging.WARNING]
    assert record.name == "langchain_model_gateway"
    for name in ("nobody", "weak", "strong"):
        assert name in record.getMessage()


def test_a_preference_that_is_no_name_is_told_by_its_type(
    ask: Ask, caplog: pytest.LogCaptureFixture
) -> None:
    """It is a stranger like any other, and what it holds is not shown."""
    answer = ask(gateway(says("a"), says("b")), "x", model_preference=["strong"])
    assert mark(answer)["model_name"] == "weak"
    (record,) = [r for r in caplog.records if r.levelno == logging.WARNING]
    assert "a name is a string, got list" in record.getMessage()


def test_with_strict_preference_a_strangers_name_is_an_error(ask: Ask) -> None:
    """It is a ValueError that lists the names, and nobody is asked."""
    models = says("a"), says("b")
    with pytest.raises(ValueError, match=r"'nobody'.*weak, strong"):
        ask(gateway(*models, strict_preference=True), "x", model_preference="nobody")
    assert [model.calls for model in models] == [[], []]


def test_a_preferred_deployment_that_is_restricted_is_skipped(ask: Ask) -> None:
    """A restricted hour rules over a preference, also a strict one; that is no failure."""
    models = says("a"), says("b"), says("c")
    strict = gateway(*models, closed=("backup",), strict_preference=True)
    answer = ask(strict, "x", model_preference="backup")
    assert mark(answer) == {"model_name": "weak", "failed": []}
    assert models[2].calls == []


def test_with_everybody_restricted_nobody_is_asked(ask: Ask) -> None:
    """Nobody allowed is NoModelAvailableError, and every deployment is told with its reason."""
    models = says("a"), says("b")
    with pytest.raises(NoModelAvailableError) as caught:
        ask(gateway(*models, closed=("weak", "strong")), "x")
    assert [skip.model_name for skip in caught.value.skipped] == ["weak", "strong"]
    assert [model.calls for model in models] == [[], []]


def test_a_lambda_around_a_gateway_hands_its_config_down(ask: Ask) -> None:
    """A gateway called without a config inherits the preference of the run around it."""
    inner = gateway(says("a"), says("b"))
    outer = RunnableLambda(lambda x: inner.invoke(x))  # noqa: PLW0108 - without a config
    assert mark(ask(outer, "x", CONFIG))["model_name"] == "strong"


class State(TypedDict):
    question: str
    answer: Any


@pytest.mark.parametrize("form", ["invoke", "ainvoke"])
def test_a_graphs_node_hands_its_config_down(form: str) -> None:
    """Inside a LangGraph node a gateway inherits the preference of the graph's config."""
    inner = gateway(says("a"), says("b"))
    graph = StateGraph(State)
    if form == "invoke":
        graph.add_node("node", lambda state: {"answer": inner.invoke(state["question"])})
    else:

        async def node(state: State) -> dict[str, Any]:
            return {"answer": await inner.ainvoke(state["question"])}

        graph.add_node("node", node)
    graph.add_edge(START, "node")
    graph.add_edge("node", END)
    app = graph.compile()
    state = CallForm(form)(app, {"question": "x"}, CONFIG)
    assert mark(state["answer"])["model_name"] == "strong"


# --- what the model is given ---------------------------------------------------------------------


def test_the_preference_never_reaches_a_model_and_the_rest_does(ask: Ask) -> None:
    """Every other keyword comes through to each model asked."""
    models = fails(), says("b")
    ask(gateway(*models), "x", model_preference="weak", stop=["."], temperature=0.5)
    for model in models:
        (received,) = model.received
        assert {"stop": ["."], "temperature": 0.5}.items() <= received.items()
        assert "model_preference" not in received


def test_the_config_reaches_each_model(ask: Ask) -> None:
    """Tags, metadata and configurable values are the caller's, in every attempt."""
    seen: list[RunnableConfig] = []

    def down(_: Any, config: RunnableConfig) -> Any:
        seen.append(config)
        raise ConnectionError

    def up(_: Any, config: RunnableConfig) -> AIMessage:
        seen.append(config)
        return AIMessage("b")

    given = {"tags": ["t"], "metadata": {"m": 1}, "configurable": {"c": 2}}
    ask(gateway(RunnableLambda(down), RunnableLambda(up)), "x", given)
    assert len(seen) == 2
    for config in seen:
        assert "t" in config["tags"]
        assert config["metadata"]["m"] == 1
        assert config["configurable"]["c"] == 2
    assert given == {"tags": ["t"], "metadata": {"m": 1}, "configurable": {"c": 2}}


@pytest.mark.parametrize("kind", [list, dict])
def test_a_model_that_edits_its_input_does_not_change_the_next_ones(ask: Ask, kind: Any) -> None:
    """Lists and dicts are each attempt's own; the messages in them are the caller's."""
    message = HumanMessage("x")
    value = [message] if kind is list else {"messages": [message], "drop": 1}
    seen = []

    def edit(given: Any) -> Any:
        if kind is list:
            given.append(HumanMessage("more"))
        else:
            del given["drop"]
            given["messages"].append(HumanMessage("more"))
        raise ValueError

    def keep(given: Any) -> AIMessage:
        seen.append(given)
        return AIMessage("ok")

    ask(gateway(RunnableLambda(edit), RunnableLambda(keep)), value)
    expected = [message] if kind is list else {"messages": [message], "drop": 1}
    assert seen == [expected]
    assert value == expected
    assert (seen[0] if kind is list else seen[0]["messages"])[0] is message


def test_a_model_that_edits_a_keyword_does_not_change_the_next_ones(ask: Ask) -> None:
    """List keywords are each attempt's own."""
    stop = ["."]

    def edit(_: Any, stop: list[str]) -> Any:
        stop.append("!")
        raise ValueError

    second = says("b")
    ask(gateway(RunnableLambda(edit), second), "x", stop=stop)
    assert [received["stop"] for received in second.received] == [["."]]
    assert stop == ["."]


# --- what counts as a failure --------------------------------------------------------------------


def test_only_handled_exceptions_fall_back(ask: Ask) -> None:
    """An exception that is not among `exceptions_to_handle` is the caller's, as it is."""
    error, strong = KeyError("mine"), says("b")
    asked = gateway(fails(error), strong, exceptions_to_handle=(ValueError, ConnectionError))
    with pytest.raises(KeyError) as caught:
        ask(asked, "x")
    assert caught.value is error
    assert strong.calls == []
    listed = gateway(fails(), strong, exceptions_to_handle=(ValueError, ConnectionError))
    assert mark(ask(listed, "x"))["model_name"] == "strong"


def test_the_gateways_own_verdicts_fall_back_whatever_is_handled(ask: Ask) -> None:
    """Narrowing the exceptions does not turn a rejected answer or an empty stream into a crash."""
    narrow: dict[str, Any] = {"exceptions_to_handle": (KeyError,)}
    rejecting = gateway(says(AIMessage("")), says("b"), **narrow, reject=("empty",))
    assert mark(ask(rejecting, "x"))["model_name"] == "strong"
    empty = gateway(says(["", ""]), says("b"), **narrow)
    assert mark(next(empty.stream("x")))["model_name"] == "strong"


@pytest.mark.parametrize(
    "error",
    [KeyboardInterrupt(), SystemExit(3), GraphInterrupt(), GraphBubbleUp()],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("handled", [Exception, BaseException])
def test_what_is_no_failure_is_never_swallowed(
    ask: Ask, error: BaseException, handled: type[BaseException]
) -> None:
    """Interrupts and exits pass through, whatever is handled, and nobody else is asked."""
    strong = says("b")
    asked = gateway(fails(error), strong, exceptions_to_handle=(handled,))
    with pytest.raises(type(error)) as caught:
        ask(asked, "x")
    assert caught.value is error
    assert strong.calls == []


@pytest.mark.parametrize("disguise", [None, ValueError("disguised")])
@pytest.mark.parametrize("form", ["ainvoke", "abatch", "astream", "atransform"])
def test_a_cancellation_is_not_lost(form: str, disguise: Exception | None) -> None:
    """A cancelled call ends, also when its model makes an error of the cancellation."""
    strong = says("b")

    async def main() -> None:
        begun = asyncio.Event()

        async def hang(_: Any) -> AIMessage:
            begun.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                if disguise:
                    raise disguise from None
                raise
            return AIMessage("never")

        asked = gateway(RunnableLambda(hang), strong)
        if form in {"astream", "atransform"}:
            call = asyncio.create_task(_drained(StreamForm(form).open(asked, "x")))
        else:
            call = asyncio.create_task(getattr(asked, form)(["x"] if form == "abatch" else "x"))
        await begun.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert call.cancelled()

    asyncio.run(main())
    assert strong.calls == []


async def _drained(chunks: Any) -> None:
    async for _ in chunks:
        pass


def test_when_all_fail_every_failure_is_told_in_order(ask: Ask) -> None:
    """The error holds each failure as it was raised, in the order tried."""
    errors = ValueError("one"), KeyError("two")
    with pytest.raises(AllModelsFailedError) as caught:
        ask(gateway(*map(fails, errors)), "x", model_preference="strong")
    assert [f.model_name for f in caught.value.failures] == ["strong", "weak"]
    assert caught.value.exceptions == (errors[1], errors[0])
    told = "All 2 available models failed: strong (scriptedchatmodel): KeyError"
    assert str(caught.value).startswith(told)


# --- what the answer says ------------------------------------------------------------------------


def test_the_answer_says_exactly_who_gave_it_and_who_failed(ask: Ask) -> None:
    """The mark has two keys, error types by name, and stands beside the model's own metadata."""
    own = {"finish_reason": "stop", "model_name": "gpt"}
    answer = AIMessage("hi", response_metadata=own, id="kept")
    asked = gateway(fails(), fails(ValueError("no")), gives(answer))
    told = ask(asked, "x").response_metadata
    assert told.pop("gateway") == {
        "model_name": "backup",
        "failed": [
            {"model_name": "weak", "error": "ConnectionError"},
            {"model_name": "strong", "error": "ValueError"},
        ],
    }
    assert {key: told[key] for key in own} == own
    assert answer.response_metadata == own


def gives(message: AIMessage) -> Any:
    """A model that gives this very message, in a stream as one piece."""
    return RunnableLambda(lambda _: message)


def test_the_answers_id_is_the_models(ask: Ask) -> None:
    """The copy that carries the mark has the message's id."""
    answer = ask(gateway(gives(AIMessage("hi", id="kept")), says("b")), "x")
    assert (answer.id, answer.content) == ("kept", "hi")


@pytest.mark.parametrize("form", ["invoke", "ainvoke", "batch", "abatch"])
def test_a_cached_message_is_left_as_it_is(form: str) -> None:
    """What a model's cache holds has no mark, and each hit gets one of its own."""

    class Cache(InMemoryCache):
        """One that tells what it holds."""

        @property
        def held(self) -> list[Any]:
            return [each.message for values in self._cache.values() for each in values]

    cache = Cache()
    weak = ScriptedChatModel(replies=[ConnectionError("down"), "hello"], cache=False)
    strong = ScriptedChatModel(replies=["hello"], cache=cache)
    asked = gateway(weak, strong)
    first = CallForm(form)(asked, "x")
    again = CallForm(form)(asked, "x", model_preference="strong")
    assert len(strong.calls) == 1
    assert [message.response_metadata for message in cache.held] == [{}]
    assert len(mark(first)["failed"]) == 1
    assert mark(again) == {"model_name": "strong", "failed": []}


@pytest.mark.parametrize("form", ["invoke", "ainvoke"])
def test_an_answer_is_its_callers_own(form: str) -> None:
    """But for the mark it equals the model's message, and no edit of it reaches that."""
    kept = AIMessage("hi", id="kept", note="the model's")
    answer = CallForm(form)(gateway(RunnableLambda(lambda _: kept), says("b")), "x")
    told = answer.response_metadata
    assert answer == kept.model_copy(update={"response_metadata": told})
    assert answer.model_fields_set == kept.model_fields_set | {"response_metadata"}
    answer.note, answer.content = "the caller's", "bye"
    answer.response_metadata["more"] = True
    assert kept == AIMessage("hi", id="kept", note="the model's")


def test_a_chain_that_answers_with_text_is_a_deployment(ask: Ask) -> None:
    """What is no message passes through as it is, and falls back like any answer."""
    parsed = says("hi") | StrOutputParser()
    assert ask(gateway(fails() | StrOutputParser(), parsed), "x") == "hi"


def test_a_gateway_inside_a_gateway_tells_both_stories(ask: Ask) -> None:
    """The outer mark holds the inner one."""
    inner = gateway(fails(), says("hi"))
    answer = ask(gateway(fails(ValueError()), inner), "x")
    assert mark(answer) == {
        "model_name": "strong",
        "failed": [{"model_name": "weak", "error": "ValueError"}],
        "gateway": {
            "model_name": "strong",
            "failed": [{"model_name": "weak", "error": "ConnectionError"}],
        },
    }


def test_a_failed_inner_gateway_is_one_failure_of_the_outer(ask: Ask) -> None:
    """When an inner gateway gives up, the outer one goes on."""
    inner = gateway(fails(), fails())
    answer = ask(gateway(inner, says("hi")), "x")
    assert mark(answer)["failed"] == [{"model_name": "weak", "error": "AllModelsFailedError"}]


def test_a_healthy_first_choice_is_the_only_one_looked_at(ask: Ask) -> None:
    """No other deployment's hours are worked out when the first answers."""
    looks = []

    class Watched(SystemClock):
        def now(self) -> datetime:
            looks.append(1)
            return NOON

    evening = [("20:00", "22:00")]
    entries = [
        {"model_name": name, "model": says(name), "time_constraints": evening} for name in NAMES
    ]
    ask(GatewayRunnable(models=entries).with_clock(Watched()), "x")
    assert len(looks) == 1


# --- the first choice only ---


@pytest.mark.parametrize("by_config", [False, True])
def test_without_fallback_the_preferred_one_answers_or_nobody(ask: Ask, by_config: bool) -> None:
    """`model_fallback=False` asks the first choice only; the mark and the errors stay."""
    backup = says("hi")
    models = gateway(says("a"), fails(), backup)

    def only(name: str) -> Any:
        own = {"model_preference": name, "model_fallback": False}
        if by_config:
            return ask(models, "x", {"configurable": own})
        return ask(models, "x", **own)

    assert mark(only("weak")) == {"model_name": "weak", "failed": []}
    with pytest.raises(AllModelsFailedError) as failed:
        only("strong")
    assert [each.model_name for each in failed.value.failures] == ["strong"]
    assert backup.calls == []
    with pytest.raises(ValueError, match="weak, strong, backup"):
        only("stong")


def test_without_fallback_a_restricted_first_choice_is_an_error(ask: Ask) -> None:
    """Its window holds."""
    models = gateway(says("a"), says("b"), closed=("strong",))
    with pytest.raises(NoModelAvailableError):
        ask(models, "x", model_preference="strong", model_fallback=False)


def test_without_fallback_and_preference_the_first_that_may_be_asked_is(ask: Ask) -> None:
    """Who that is, `explain()` tells; nobody comes after it."""
    backup = says("hi")
    models = gateway(says("a"), fails(), backup, closed=("weak",))
    assert models.explain().order[0] == "strong"
    with pytest.raises(AllModelsFailedError):
        ask(models, "x", model_fallback=False)
    assert backup.calls == []


def test_the_fallback_keyword_never_reaches_a_model(ask: Ask) -> None:
    """It is the gateway's own, also where an agent's settings carry it into `bind_tools`."""
    model = says("a")
    ask(gateway(model, says("b")), "x", model_fallback=False)
    assert model.received == [{}]
    bound = gateway(fails(), says("b")).model_copy(update={"model_fallback": False})
    with pytest.raises(AllModelsFailedError):
        ask(bound, "x")
    assert ask(bound, "x", model_fallback=True).content == "b"
