"""Those that cannot take a request, as their profiles say, come last."""

from typing import Any

import pytest
from langchain_core.exceptions import ContextOverflowError
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.prompt_values import ChatPromptValue
from langchain_openai import ChatOpenAI

from langchain_model_gateway import AllModelsFailedError, GatewayRunnable
from langchain_model_gateway.timing import SystemClock
from tests.conftest import CallForm
from tests.models import ScriptedChatModel, gateway_over, who
from tests.test_hedging import SOON, Model

IMAGE = {"type": "image", "url": "https://example.test/a.png"}
TOO_LONG = ContextOverflowError("too long")


class ToolTaker(ScriptedChatModel):
    """Takes tools, whatever its profile says."""

    def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
        return self.bind(tools=tools, **kwargs)


def model(*replies: Any, **profile: Any) -> ScriptedChatModel:
    return ToolTaker(replies=list(replies or ["hello"]), profile=profile or None)


def asking(*blocks: Any) -> list[HumanMessage]:
    return [HumanMessage(content=[{"type": "text", "text": "see"}, *blocks])]


# --- windows ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("window", "answers"),
    [(8_192, "backup"), (8_191, "backup"), (8_193, "strong"), (None, "strong")],
)
def test_who_has_no_larger_window_comes_last(
    ask: CallForm, window: int | None, answers: str
) -> None:
    """After a context overflow, a window that is no larger is asked after all others."""
    small = model(**({"max_input_tokens": window} if window else {}))
    gateway = gateway_over(model(TOO_LONG, max_input_tokens=8_192), small, model())
    assert who(ask(gateway, "hi")) == answers


@pytest.mark.parametrize(
    ("error", "answers"),
    [
        (Exception("[400] maximum context length is 8192 tokens"), "backup"),
        (RuntimeError("down"), "strong"),
    ],
)
def test_only_an_overflow_says_something_about_windows(
    ask: CallForm, error: Exception, answers: str
) -> None:
    """What a provider's own words call an overflow counts; any other failure keeps the order."""
    gateway = gateway_over(
        model(error, max_input_tokens=8_192), model(max_input_tokens=4_096), model()
    )
    assert who(ask(gateway, "hi")) == answers


def test_an_overflow_after_another_failure_says_it_too(ask: CallForm) -> None:
    """Whoever has failed before."""
    models = {
        "a": model(RuntimeError("down")),
        "b": model(TOO_LONG, max_input_tokens=9),
        "c": model(max_input_tokens=9),
        "d": model(),
    }
    entries = [{"model_name": name, "model": each} for name, each in models.items()]
    assert who(ask(GatewayRunnable(models=entries), "hi")) == "d"


def test_a_window_that_is_not_told_puts_nobody_behind(ask: CallForm) -> None:
    """Where the one that overflowed does not tell its window, the order stays."""
    gateway = gateway_over(model(TOO_LONG), model(max_input_tokens=1), model())
    assert who(ask(gateway, "hi")) == "strong"


def test_the_last_are_asked_all_the_same(ask: CallForm) -> None:
    """Whose window is no larger is still tried when all others have failed."""
    gateway = gateway_over(
        model(TOO_LONG, max_input_tokens=9),
        model(max_input_tokens=9),
        model(RuntimeError("down")),
    )
    answer = ask(gateway, "hi")
    assert who(answer) == "strong"
    assert [each["model_name"] for each in answer.response_metadata["gateway"]["failed"]] == [
        *("weak", "backup")
    ]


def test_the_error_tells_who_was_put_last(ask: CallForm) -> None:
    """The message says who was asked last, and why."""
    gateway = gateway_over(
        model(TOO_LONG, max_input_tokens=8_192),
        model(TOO_LONG, max_input_tokens=8_192),
        model(TOO_LONG),
    )
    with pytest.raises(AllModelsFailedError) as caught:
        ask(gateway, "hi")
    assert [each.model_name for each in caught.value.failures] == ["weak", "backup", "strong"]
    assert isinstance(caught.value, ContextOverflowError)
    told = "Put last: strong (its window of 8,192 tokens is no larger)"
    assert str(caught.value).endswith(told)


def test_those_in_cooldown_come_before_those_that_cannot(ask: CallForm) -> None:
    """A deployment in cooldown may answer; one with no larger window will not."""
    gateway = gateway_over(
        model("hello", TOO_LONG, max_input_tokens=9),
        model("unused", max_input_tokens=9),
        model(RuntimeError("down"), "back"),
        cooldown={"failure_threshold": 1},
    )
    gateway.invoke("hi")
    with pytest.raises(AllModelsFailedError):
        gateway.invoke("hi", model_preference="backup", model_fallback=False)
    assert who(ask(gateway, "hi")) == "backup"


def test_among_those_in_cooldown_too(ask: CallForm) -> None:
    """Where the others are in cooldown, who has no larger window comes after them as well."""
    down = RuntimeError("down")
    gateway = gateway_over(
        model(down, "late", max_input_tokens=9),
        model(TOO_LONG, max_input_tokens=9),
        model(down, "back"),
        cooldown={"failure_threshold": 1},
    )
    for name in ("weak", "backup"):
        with pytest.raises(AllModelsFailedError):
            gateway.invoke("hi", model_preference=name, model_fallback=False)
    assert who(ask(gateway, "hi")) == "backup"


def test_among_those_that_are_full_too() -> None:
    """Where the others are full, who has no larger window comes after them as well."""
    busy = [["a", "b"], "free"]
    models = {
        "small": model(*busy, max_input_tokens=9),
        "weak": model(TOO_LONG, max_input_tokens=9),
        "large": model(*busy),
    }
    entries: list[Any] = [
        {"model_name": name, "model": each, "max_concurrency": None if name == "weak" else 1}
        for name, each in models.items()
    ]
    gateway = GatewayRunnable(models=entries, max_wait=60)
    held = [
        gateway.stream("hi", model_preference=name, model_fallback=False)
        for name in ("small", "large")
    ]
    for each in held:
        next(each)

    class Freeing(SystemClock):
        """Both become free while a call waits."""

        def sleep(self, seconds: float) -> None:
            for each in held:
                each.close()

    assert who(gateway.with_clock(Freeing()).invoke("hi")) == "large"


def test_who_is_in_cooldown_and_cannot_is_asked_all_the_same(ask: CallForm) -> None:
    """It comes after all others, and not never."""
    gateway = gateway_over(
        model(RuntimeError("down"), "back", max_input_tokens=9),
        model(TOO_LONG, max_input_tokens=9),
        model(RuntimeError("down")),
        cooldown={"failure_threshold": 1},
    )
    with pytest.raises(AllModelsFailedError):
        gateway.invoke("hi", model_preference="weak", model_fallback=False)
    answer = ask(gateway, "hi")
    assert who(answer) == "weak"
    assert len(answer.response_metadata["gateway"]["failed"]) == 2


def test_who_is_full_and_cannot_leaves_the_others_that_cannot(ask: CallForm) -> None:
    """They are asked in their order, too."""
    models = {
        "full": model(["a", "b"], max_input_tokens=9),
        "weak": model(TOO_LONG, max_input_tokens=9),
        "small": model(max_input_tokens=9),
    }
    entries: list[Any] = [
        {"model_name": name, "model": each, "max_concurrency": 1} for name, each in models.items()
    ]
    gateway = GatewayRunnable(models=entries, max_wait=0)
    held = gateway.stream("hi")
    next(held)
    assert who(ask(gateway, "hi")) == "small"


# --- what the input holds --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "block"),
    [
        ("image_inputs", IMAGE),
        ("image_inputs", {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}),
        ("image_inputs", {"type": "input_image", "image_url": "https://example.test/a.png"}),
        ("image_inputs", {"type": "media", "mime_type": "image/png", "data": "AA"}),
        ("audio_inputs", {"type": "audio", "base64": "AA", "mime_type": "audio/wav"}),
        ("audio_inputs", {"type": "input_audio", "input_audio": {"data": "AA", "format": "wav"}}),
        ("video_inputs", {"type": "video", "url": "https://example.test/a.mp4"}),
        ("pdf_inputs", {"type": "file", "base64": "AA", "mime_type": "application/pdf"}),
        ("pdf_inputs", {"type": "file", "file": {"file_data": "data:application/pdf;base64,AA"}}),
        ("pdf_inputs", {"type": "document", "source": {"media_type": "application/pdf"}}),
    ],
)
@pytest.mark.parametrize("says", [False, True, None])
def test_who_cannot_take_what_the_input_holds(key: str, block: Any, says: bool | None) -> None:
    """A profile that says no to a kind of content puts its deployment last; silence does not."""
    profile = {} if says is None else {key: says}
    gateway = gateway_over(model(**profile), model())
    assert who(gateway.invoke(asking(block))) == ("strong" if says is False else "weak")


@pytest.mark.parametrize(
    "value",
    [
        asking(IMAGE),
        asking(IMAGE)[0],
        ChatPromptValue(messages=asking(IMAGE)),
        [{"role": "user", "content": [IMAGE]}],
        [("user", [IMAGE])],
        ["hi", ToolMessage(content=[IMAGE], tool_call_id="1")],
    ],
    ids=["messages", "message", "prompt", "dicts", "pairs", "tool result"],
)
def test_every_form_of_an_input_is_read(value: Any) -> None:
    """A block counts however the message around it is written."""
    gateway = gateway_over(model(image_inputs=False), model())
    plan = gateway.explain(input=value)
    assert plan.order == ("strong", "weak")


def test_a_call_with_an_image(ask: CallForm) -> None:
    """In every form of a call, who takes no images comes last, and is not asked."""
    blind, seeing = model(image_inputs=False), model()
    assert who(ask(gateway_over(blind, seeing), asking(IMAGE))) == "strong"
    assert blind.calls == []


def test_plain_text_keeps_the_order(ask: CallForm) -> None:
    """What a profile denies does not matter to who needs none of it."""
    gateway = gateway_over(model(image_inputs=False, tool_calling=False), model())
    assert who(ask(gateway, asking())) == "weak"


@pytest.mark.parametrize("how", ["preference", "tier", "only"])
def test_a_preference_and_a_tier_come_second(how: str) -> None:
    """Who cannot take it comes last also where it is preferred; where it is the only one, first."""
    blind = model(image_inputs=False)
    gateway = GatewayRunnable(
        models=[
            {"model_name": "weak", "model": blind},
            {"model_name": "strong", "model": model(), "tier": 1 if how == "tier" else 0},
        ]
    )
    settings = {
        "preference": {"model_preference": "weak"},
        "tier": {},
        "only": {"model_preference": "weak", "model_fallback": False},
    }
    answer = gateway.invoke(asking(IMAGE), **settings[how])
    assert who(answer) == ("weak" if how == "only" else "strong")


@pytest.mark.parametrize("balance", ["weighted", "least_busy", "fastest"])
def test_a_balance_draws_among_those_that_can(balance: Any) -> None:
    """A call that one cannot take is balanced between the others, and costs that one no turn."""
    gateway = gateway_over(model(image_inputs=False), model(), model(), balance=balance)
    names = [who(gateway.invoke(asking(IMAGE))) for _ in range(20)]
    assert "weak" not in names
    if balance == "weighted":
        assert names.count("strong") == names.count("backup") == 10
        assert who(gateway.invoke("hi")) == "weak"
    plan = gateway.explain(input=asking(IMAGE))
    assert plan.order[-1] == "weak"
    assert plan.shares == {"strong": 0.5, "backup": 0.5}


@pytest.mark.parametrize("form", ["invoke", "ainvoke"])
def test_where_nobody_can_a_slow_one_is_hedged_as_ever(form: str) -> None:
    """A profile may be wrong, and then there are only such to ask."""
    slow, quick = Model("slow"), Model("quick")
    for each in (slow, quick):
        each.profile = {"image_inputs": False}
    slow.go.clear()
    try:
        answer = CallForm(form)(gateway_over(slow, quick, hedge=SOON), asking(IMAGE))
        assert who(answer) == "strong"
        assert answer.response_metadata["gateway"]["failed"] == []
    finally:
        slow.go.set()


def test_a_balance_draws_among_those_that_cannot(ask: CallForm) -> None:
    """Where nobody can, they share such calls as any other, and their limits count."""
    blind = {"model": model(image_inputs=False), "tpm": 1e6}
    gateway = GatewayRunnable(
        models=[{"model_name": name, "weight": w, **blind} for name, w in {"a": 1, "b": 3}.items()],
        balance="weighted",
    )
    assert [who(ask(gateway, asking(IMAGE))) for _ in range(4)] == ["b", "a", "b", "b"]


def test_a_place_is_waited_for_at_those_that_cannot() -> None:
    """Where nobody can and all are full; who was found full before and who was not, alike."""
    models = {name: model(["a", "b"], "free", image_inputs=False) for name in "abc"}
    entries: list[Any] = [
        {"model_name": name, "model": each, "max_concurrency": 1} for name, each in models.items()
    ]
    gateway = GatewayRunnable(models=entries, max_wait=60)
    held = {name: gateway.stream("hi", model_preference=name) for name in models}
    for stream in held.values():
        next(stream)

    class Freeing(SystemClock):
        """One becomes free while a call waits."""

        def sleep(self, seconds: float) -> None:
            held["b"].close()

    gateway = gateway.with_clock(Freeing())
    assert gateway.explain(input=asking(IMAGE)).order == ("a", "b", "c")
    assert who(gateway.invoke(asking(IMAGE))) == "b"


@pytest.mark.parametrize("form", ["invoke", "ainvoke"])
def test_nobody_is_hedged_with_who_cannot(form: str) -> None:
    """An attempt beside a slow one is not made at a deployment that cannot take the request."""
    slow, blind, third = Model("slow"), model(image_inputs=False), Model("third")
    slow.go.clear()
    gateway = gateway_over(slow, blind, third, hedge=SOON)
    try:
        assert who(CallForm(form)(gateway, asking(IMAGE))) == "backup"
        assert blind.calls == []
    finally:
        slow.go.set()


# --- tools -----------------------------------------------------------------------------------


def tool(text: str) -> str:
    """Do nothing."""
    return text


@pytest.mark.parametrize("how", ["bound", "keyword"])
def test_who_calls_no_tools(ask: CallForm, how: str) -> None:
    """With tools, bound or given with the call, who calls none comes last."""
    deaf = model(tool_calling=False)
    gateway = gateway_over(deaf, model())
    tools = [{"type": "function", "function": {"name": "tool", "parameters": {}}}]
    if how == "bound":
        assert who(ask(gateway.bind_tools([tool]), "hi")) == "strong"
    else:
        assert who(ask(gateway, "hi", tools=tools)) == "strong"
    assert deaf.calls == []
    assert who(ask(gateway, "hi")) == "weak"


def test_no_tools_are_none() -> None:
    """An empty list of tools needs nobody who calls them."""
    gateway = gateway_over(model(tool_calling=False), model())
    assert who(gateway.bind_tools([]).invoke("hi")) == "weak"
    assert who(gateway.invoke("hi", tools=[])) == "weak"


# --- explain ---------------------------------------------------------------------------------


def test_explain_tells_who_comes_last_and_why() -> None:
    """With an input, or tools that are bound, the plan has the call's order and its reasons."""
    gateway = gateway_over(model(image_inputs=False, tool_calling=False), model())
    assert gateway.explain().deferred == ()
    plan = gateway.explain(input=asking(IMAGE))
    assert plan.order == ("strong", "weak")
    assert [(each.model_name, each.reason) for each in plan.deferred] == [
        ("weak", "its profile takes no images")
    ]
    assert "last resort: its profile takes no images" in str(plan)
    bound = gateway.bind_tools([tool]).explain()  # type: ignore[attr-defined]
    assert bound.order == ("strong", "weak")
    assert [each.reason for each in bound.deferred] == ["its profile calls no tools"]


def test_explain_tells_one_reason_each() -> None:
    """Who cannot take the input and is limited too is told once."""
    entries: list[Any] = [
        {"model_name": "weak", "model": model(image_inputs=False), "rpm": 1},
        {"model_name": "strong", "model": model()},
    ]
    gateway = GatewayRunnable(models=entries)
    gateway.invoke("hi")
    assert [each.reason for each in gateway.explain().deferred] == ["limited, 1 requests a minute"]
    [told] = gateway.explain(input=asking(IMAGE)).deferred
    assert told.reason == "its profile takes no images"


def test_a_real_clients_profile() -> None:
    """The profiles that langchain-openai carries are read: gpt-4o-mini takes no audio."""
    real = ChatOpenAI(model="gpt-4o-mini", api_key="sk-none")
    gateway = gateway_over(real, model())
    audio = asking({"type": "audio", "base64": "AA", "mime_type": "audio/wav"})
    assert gateway.explain(input=audio).order == ("strong", "weak")
    assert gateway.explain(input=asking(IMAGE)).order == ("weak", "strong")


# --- what it costs ---------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["hi", [HumanMessage("hi"), AIMessage("ho"), HumanMessage("hi")]])
@pytest.mark.parametrize("is_bound", [False, True])
def test_plain_text_pays_nothing_for_profiles(value: Any, is_bound: bool) -> None:
    """A healthy call with nothing but text makes not one function call more for what is denied."""
    guard = pytest.importorskip("benchmarks.guard", reason="in the source tree only")

    def count(**profile: Any) -> int:
        gateway: Any = gateway_over(model(**profile), model(**profile))
        if is_bound:
            gateway = gateway.bind_tools([tool])
        return int(guard._count(lambda: gateway.invoke(value)))

    assert count(audio_inputs=False, tool_calling=True) == count()
