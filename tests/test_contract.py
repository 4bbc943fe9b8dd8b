"""The contract, property by property, in every call form."""

import asyncio
import copy
import logging
import pickle
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2
import pytest
from freezegun import freeze_time
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.exceptions import ModelError, ModelRateLimitError, OutputParserException
from langchain_core.language_models import FakeListLLM
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.runnables import RunnableLambda
from langchain_core.tracers.context import collect_runs
from langchain_openai.chat_models.base import OpenAIRateLimitError
from langgraph.errors import GraphInterrupt

from langchain_model_gateway import (
    AllModelsFailedError,
    GatewayRunnable,
    ModelDeployment,
    ModelRouterError,
    NoModelAvailableError,
    TimeWindow,
)
from tests.models import ScriptedChatModel, says, who
from tests.models import gateway_over as gateway


async def _aiter(x: Any) -> Any:
    yield x


def test_falls_over_and_says_so(ask: Any) -> None:
    """A failed deployment is followed by the next, and the answer tells both."""
    answer = ask(gateway(says(ValueError("down")), says("hi")), "x")
    assert answer.response_metadata["gateway"] == {
        "model_name": "strong",
        "failed": [{"model_name": "weak", "error": "ValueError"}],
    }


@pytest.mark.parametrize(
    ("config", "kwargs", "expected"),
    [
        (None, {}, "weak"),
        (None, {"model_preference": "strong"}, "strong"),
        ({"configurable": {"model_preference": "strong"}}, {}, "strong"),
        ({"configurable": {"model_preference": "weak"}}, {"model_preference": "strong"}, "strong"),
    ],
)
def test_preference_comes_from_keyword_then_config(
    ask: Any, config: Any, kwargs: Any, expected: str
) -> None:
    """The keyword rules over the config, and never reaches the model."""
    models = says("a"), says("b")
    assert who(ask(gateway(*models), "x", config, **kwargs)) == expected
    assert all("model_preference" not in r for m in models for r in m.received)


def test_preference_by_prefer_and_bind() -> None:
    """prefer() sets a default which a caller's own preference overrides."""
    preferring = gateway(says("a"), says("b")).prefer("strong")
    assert who(preferring.invoke("x")) == "strong"
    assert who(preferring.bind(model_preference="weak").invoke("x")) == "weak"


def test_unknown_preference_is_a_warning_or_an_error(caplog: pytest.LogCaptureFixture) -> None:
    """An unknown name is ignored with a warning that lists the names; strict, it is an error."""
    assert who(gateway(says("a"), says("b")).invoke("x", model_preference="nobody")) == "weak"
    assert "weak, strong" in caplog.text
    with pytest.raises(ValueError, match="weak, strong"):
        gateway(says("a"), says("b"), strict_preference=True).invoke("x", model_preference="no")


def test_all_failed_tells_all(ask: Any, caplog: pytest.LogCaptureFixture) -> None:
    """When nobody is left, one error and one log line tell every failure in order."""
    with pytest.raises(AllModelsFailedError) as caught:
        ask(gateway(says(ValueError("one")), says(KeyError("two"))), "secret prompt")
    error = caught.value
    assert str(error).startswith(
        "All 2 available models failed: weak (scriptedchatmodel): ValueErr"
    )
    assert [f.model_name for f in error.failures] == ["weak", "strong"]
    assert [type(e) for e in error.exceptions] == [ValueError, KeyError]
    assert isinstance(error, ModelError)
    errors = [r for r in caplog.records if r.levelno == logging.ERROR]
    assert len(errors) == 1
    assert "secret prompt" not in caplog.text


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, GraphInterrupt])
def test_control_flow_passes_through(ask: Any, kind: type[BaseException]) -> None:
    """What is no failure is never swallowed, whatever exceptions are handled."""
    strong = says("b")
    with pytest.raises(kind):
        ask(gateway(says(kind()), strong, exceptions_to_handle=(BaseException,)), "x")
    assert strong.calls == []


@pytest.mark.parametrize("value", [[HumanMessage("x")], {"messages": [HumanMessage("x")]}])
def test_models_get_their_own_input(value: Any) -> None:
    """A model that edits its input does not change what the next one gets."""

    def spoil(given: Any) -> Any:
        (given if isinstance(given, list) else given["messages"]).clear()
        raise ValueError

    seen = []
    keep = RunnableLambda(lambda given: seen.append(given) or AIMessage("ok"))
    gateway(RunnableLambda(spoil), keep).invoke(value)
    assert seen == [value]


def test_cancellation_turned_into_an_error_is_not_lost() -> None:
    """A model that hides its cancellation behind an error of its own does not cause a fallback."""
    strong = says("b")

    async def hide(_: Any) -> Any:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            raise ValueError("hidden") from None

    async def main() -> None:
        task = asyncio.create_task(gateway(RunnableLambda(hide), strong).ainvoke("x"))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert strong.calls == []


@pytest.mark.parametrize(
    ("moment", "expected"),
    [
        ("2026-01-05 21:59:59.999999", "weak"),
        ("2026-01-05 22:00:00.000000", "strong"),
        ("2026-01-05 06:00:00.000000", "strong"),
        ("2026-01-05 06:00:00.000001", "weak"),
    ],
)
def test_windows_are_inclusive_to_the_microsecond(moment: str, expected: str) -> None:
    """Both ends of a window restrict, and not a microsecond more."""
    with freeze_time(moment):
        answer = gateway(says("a"), says("b"), windows={"weak": [("22:00", "06:00")]}).invoke("x")
    assert who(answer) == expected


def test_the_clock_is_looked_at_before_each_attempt() -> None:
    """A deployment whose window begins while the one before it fails is not tried."""
    with freeze_time("2026-01-05 11:59:00") as clock:

        def slow(_: Any) -> Any:
            clock.tick(timedelta(minutes=2))
            raise ValueError

        windows = {"strong": [("12:00", "13:00")]}
        strong = says("b")
        g = gateway(RunnableLambda(slow), strong, says("c"), windows=windows)
        assert who(g.invoke("x")) == "backup"
        assert strong.calls == []


def test_nobody_allowed_says_when(caplog: pytest.LogCaptureFixture) -> None:
    """With everybody restricted nothing is tried, and the error tells when that ends."""
    windows = {"weak": [("09:00", "17:00")], "strong": [("10:00", "12:00"), ("12:00", "13:30")]}
    with freeze_time("2026-01-05 11:00"), pytest.raises(NoModelAvailableError) as caught:
        gateway(says("a"), says("b"), windows=windows).invoke("x")
    assert caught.value.available_at == datetime(2026, 1, 5, 13, 30, tzinfo=UTC)
    assert caught.value.is_retryable
    assert caught.value.failures == []


@pytest.mark.parametrize(
    ("moment", "restricted"),
    [
        (datetime(2026, 11, 1, 5, 30, tzinfo=UTC), True),  # 01:30 EDT
        (datetime(2026, 11, 1, 6, 30, tzinfo=UTC), True),  # 01:30 EST, the hour again
        (datetime(2026, 11, 1, 7, 30, tzinfo=UTC), False),
        (datetime(2026, 11, 2, 5, 30, tzinfo=UTC), False),  # 00:30 on Monday
        (datetime(2026, 11, 2, 6, 30, tzinfo=UTC), False),  # 01:30, but a Monday
    ],
)
def test_local_windows_follow_the_wall_clock(moment: datetime, restricted: bool) -> None:
    """A repeated hour is restricted twice, and weekdays are local ones."""
    window = TimeWindow(start="01:00", end="01:59", timezone="America/New_York", days=["SUN"])
    plan = gateway(says("a"), says("b"), windows={"weak": [window]}).explain(at=moment)
    assert bool(plan.skipped) is restricted


@pytest.mark.parametrize(
    ("models", "complaint"),
    [
        ([], "no deployment"),
        (None, "list"),
        ("weak", "list"),
        ([5], r"models\[0\].*int"),
        ([{"model_name": "a"}], r"models\[0\] \('a'\).*'model' is missing"),
        ([{"model_name": "a", "model": says(), "key": 1}], "'key' is unknown"),
        ([{"model_name": " ", "model": says()}], "not empty"),
        ([{"model_name": 3, "model": says()}], "string, got int"),
        ([{"model_name": "a", "model": "sk-secret"}], "Runnable"),
        ([{"model_name": "a", "model": says()}] * 2, r"models\[1\].*'a'.*unique"),
        ([{"model_name": "a", "model": says(), "time_constraints": [("0900", "1")]}], "'0900'"),
        ([{"model_name": "a", "model": says(), "time_constraints": [("09:00",)]}], "pair"),
        ([{"model_name": "a", "model": says(), "time_constraints": [(9, 10)]}], "string 'HH:MM'"),
        (
            [
                {"model_name": "a", "model": says()},
                {"model_name": "b", "model": FakeListLLM(responses=["x"])},
            ],
            "text-completion",
        ),
    ],
)
def test_bad_input_is_refused_by_position_name_and_value(models: Any, complaint: str) -> None:
    """What is wrong is said, where, and with no secret in it."""
    with pytest.raises(ValueError, match=complaint) as caught:
        GatewayRunnable(models=models)
    assert "sk-secret" not in str(caught.value)


@pytest.mark.parametrize("zone", ["America", "Mars/Base", "", "x" * 5000, "../etc/passwd", 5, None])
def test_unknown_timezones_are_refused(zone: Any) -> None:
    """Whatever zoneinfo raises for a name, it is a clear ValueError here."""
    with pytest.raises(ValueError, match="timezone"):
        TimeWindow(start="09:00", end="10:00", timezone=zone)


def test_the_callers_lists_are_copied() -> None:
    """Changing what the gateway was built from changes nothing."""
    entries = [{"model_name": "weak", "model": says("a")}, {"model_name": "b", "model": says("b")}]
    g = GatewayRunnable(models=entries)
    entries[0]["model_name"] = "changed"
    entries.clear()
    assert g.model_names == ("weak", "b")
    assert (len(g), g["weak"].model_name) == (2, "weak")
    with pytest.raises(KeyError, match="weak"):
        g["nobody"]


@pytest.mark.parametrize("failing", [[RuntimeError("early")], ["", "", RuntimeError("early")]])
def test_a_stream_falls_over_until_something_came(failing: Any) -> None:
    """Empty chunks are no commitment."""
    chunks = list(gateway(says(failing), says(["a", "b"])).stream("x"))
    assert [c.content for c in chunks if c.content] == ["a", "b"]
    total = chunks[0]
    for chunk in chunks[1:]:
        total = total + chunk
    assert total.response_metadata["gateway"]["model_name"] == "strong"
    assert len({c.id for c in chunks}) == 1


@pytest.mark.parametrize(
    "first",
    [
        "text",
        AIMessageChunk("", tool_call_chunks=[{"name": "t", "args": "", "id": "1", "index": 0}]),
    ],
)
def test_a_stream_that_has_begun_is_never_stitched(first: Any) -> None:
    """After the first real chunk a failure is the caller's to see."""
    strong = says("b")
    stream = gateway(says([first, RuntimeError("late")]), strong).stream("x")
    with pytest.raises(RuntimeError, match="late"):
        list(stream)
    assert strong.calls == []


@pytest.mark.parametrize("form", ["stream", "astream", "transform", "atransform"])
def test_closing_a_stream_closes_the_models(form: str) -> None:
    """A reader that goes away leaves no stream open behind it."""
    model = says(["a", "b", "c"])
    g = gateway(model, says("b"))
    if form in {"stream", "transform"}:
        stream: Any = g.stream("x") if form == "stream" else g.transform(iter(["x"]))
        next(stream)
        stream.close()
        assert model.closed == 1
        return

    async def main() -> None:
        stream: Any = g.astream("x") if form == "astream" else g.atransform(_aiter("x"))
        await anext(stream)
        await stream.aclose()
        assert model.closed == 1

    asyncio.run(main())


def test_a_batch_of_200_loses_nothing() -> None:
    """With the first provider dying half-way, each input has one answer, in order."""
    count = iter(range(1000))

    def half(text: str) -> AIMessage:
        if next(count) >= 100:
            raise ConnectionError("down")
        return AIMessage(text)

    g = gateway(RunnableLambda(half), RunnableLambda(AIMessage))
    inputs = [str(i) for i in range(200)]
    assert [a.content for a in g.batch(inputs, {"max_concurrency": 8})] == inputs
    answers = asyncio.run(g.abatch(inputs))
    assert [a.content for a in answers] == inputs


def test_an_aborted_abatch_leaves_no_task() -> None:
    """The first error ends the siblings before it is raised."""

    async def main() -> None:
        async def some(text: str) -> AIMessage:
            if text == "bad":
                raise ValueError("bad")
            await asyncio.sleep(60)
            return AIMessage(text)

        g = gateway(RunnableLambda(some), RunnableLambda(some))
        with pytest.raises(AllModelsFailedError):
            await g.abatch(["1", "bad", "2"])
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())


def openai_error() -> OpenAIRateLimitError:
    request = httpx2.Request("POST", "http://x", headers={"authorization": "Bearer sk-abcdefgh123"})
    response = httpx2.Response(429, request=request, headers={"retry-after": "7"})
    return OpenAIRateLimitError("slow\ndown sk-abcdefgh123", response=response, body=None)


def test_errors_pickle_and_copy_without_keys() -> None:
    """A raw provider error neither pickles nor may ride along; a stand-in takes its place."""
    with pytest.raises(ModelRouterError) as caught:
        gateway(says(openai_error()), says(OutputParserException("no", llm_output="x"))).invoke("x")
    error = caught.value
    payload = pickle.dumps(error)
    again = pickle.loads(payload)
    assert b"sk-abcdefgh123" not in payload
    assert str(again) == str(error)
    assert "slow down [secure]" in str(error)
    assert type(again.exceptions[0]).__name__ == "OpenAIRateLimitError"
    assert isinstance(again.exceptions[0], ModelRateLimitError)
    assert again.is_retryable
    assert copy.copy(error).failures == copy.deepcopy(error).failures == error.failures


def test_one_run_for_the_call_and_a_child_for_each_attempt() -> None:
    """The trace is the gateway's run with the attempts below it, tagged."""
    with collect_runs() as collected:
        gateway(says(ValueError("x")), says("b")).invoke("x", {"run_name": "mine"})
    (root,) = collected.traced_runs
    assert root.name == "mine"
    assert [sorted(run.tags) for run in root.child_runs] == [
        ["gateway:deployment:weak"],
        ["gateway:attempt:2", "gateway:deployment:strong"],
    ]
    assert {run.parent_run_id for run in root.child_runs} == {root.id}


def test_no_run_where_nobody_listens() -> None:
    """Without a handler the gateway keeps no run: a model's own handler sees a root run."""
    parents = []

    class Handler(BaseCallbackHandler):
        def on_chat_model_start(self, *args: Any, parent_run_id: Any = None, **kw: Any) -> None:
            parents.append(parent_run_id)

    model = ScriptedChatModel(replies=["a"], callbacks=[Handler()])
    gateway(model, says("b")).invoke("x")
    assert parents == [None]


def test_names_cannot_forge_a_log_line(caplog: pytest.LogCaptureFixture) -> None:
    """A line break in a name or an error is escaped in what is logged."""
    bad = RunnableLambda(lambda _: 1 / 0)
    g = GatewayRunnable(
        models=[{"model_name": "a\nERROR forged", "model": bad}, {"model_name": "b", "model": bad}]
    )
    with pytest.raises(AllModelsFailedError):
        g.invoke("x")
    assert all("\n" not in record.getMessage() for record in caplog.records)


def test_chains_and_gateways_are_deployments_too() -> None:
    """Anything that takes a prompt and answers can be a deployment."""
    inner = gateway(says(ValueError()), says("inner"))
    outer = gateway(inner, says("b"))
    mark = outer.invoke("x").response_metadata["gateway"]
    assert (mark["model_name"], mark["gateway"]["model_name"]) == ("weak", "strong")
    assert gateway(says("text") | StrOutputParser(), says("b")).invoke("x") == "text"
    assert isinstance(gateway(says("a"), says("b"))["weak"], ModelDeployment)


def test_the_gateways_own_verdicts_fall_over_whatever_is_handled() -> None:
    """Narrowing the exceptions does not turn a rejected answer or an empty stream into a crash."""
    g = gateway(says(AIMessage("")), says("b"), exceptions_to_handle=(KeyError,), reject=("empty",))
    assert who(g.invoke("x")) == "strong"
    empty = gateway(says(["", ""]), says("b"), exceptions_to_handle=(KeyError,))
    assert who(next(empty.stream("x"))) == "strong"
    with pytest.raises(ValueError, match="not handled"):
        gateway(
            says(ValueError("not handled")), says("b"), exceptions_to_handle=(KeyError,)
        ).invoke("x")
