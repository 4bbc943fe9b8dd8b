"""Construction: what a gateway is made of, and what it refuses."""

import inspect
import logging
import re
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from langchain_core.language_models import BaseChatModel, FakeListLLM
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableLambda
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, ValidationError

from langchain_model_gateway import (
    CooldownPolicy,
    GatewayRunnable,
    ModelDeployment,
    RetryPolicy,
    TimeWindow,
)
from tests.conftest import CallForm
from tests.models import ScriptedChatModel, gateway_over, says, who

ROOT = Path(__file__).parents[1]
KEY = "sk-proj-abcdefghijklmnop"


def refusal(models: Any, **fields: Any) -> str:
    """The message with which a gateway over `models` is refused."""
    with pytest.raises(ValidationError) as caught:
        GatewayRunnable(models=models, **fields)
    assert isinstance(caught.value, ValueError)
    return str(caught.value)


def good(name: str = "good") -> dict[str, Any]:
    return {"model_name": name, "model": says("hi")}


def second(**entry: Any) -> list[Any]:
    """Two deployments of which the second has these keys changed; `...` takes one away."""
    changed = {**good("strong"), **entry}
    return [good("weak"), {key: value for key, value in changed.items() if value is not ...}]


def windows(*entries: Any) -> list[Any]:
    return second(time_constraints=list(entries))


# --- refusals --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("models", "told"),
    [
        ([], "no deployment"),
        (None, "NoneType"),
        ("weak", "str"),
        ({"weak": says("hi")}, "dict"),
        ((good("a"), good("b")), "tuple"),
        (says("hi"), "ScriptedChatModel"),
    ],
)
def test_refuses_what_is_no_list_of_deployments(models: Any, told: str) -> None:
    """Anything but a list with a deployment in it is refused, and the message says what came."""
    message = refusal(models)
    assert "models" in message
    assert told in message


def test_refuses_no_models_argument() -> None:
    """A gateway needs its `models`."""
    with pytest.raises(ValidationError, match="models"):
        GatewayRunnable()


@pytest.mark.parametrize("entry", [None, 5, "weak", [], ("weak", says("hi")), says("hi")])
def test_refuses_an_entry_that_is_neither_dict_nor_deployment(entry: Any) -> None:
    """The message says where the entry stands and what it is."""
    message = refusal([good("weak"), entry])
    assert "models[1]" in message
    assert type(entry).__name__ in message


@pytest.mark.parametrize(
    ("models", "told"),
    [
        (second(model=...), "'model' is missing"),
        (second(model_name=...), "'model_name' is missing"),
        (second(hours=[]), "'hours' is unknown"),
        (second(**{"api\nkey": KEY}), "'api key' is unknown"),
    ],
)
def test_refuses_missing_and_unknown_keys(models: Any, told: str) -> None:
    """The message says which entry lacks which key, or has which it should not have."""
    message = refusal(models)
    assert "models[1]" in message
    assert told in message


@pytest.mark.parametrize("name", ["", " ", "\n\t"])
def test_refuses_an_empty_name(name: str) -> None:
    """A name of nothing but blanks is none, and is shown as it came."""
    message = refusal(second(model_name=name))
    assert "models[1]" in message
    assert f"not empty, got {name!r}" in message


@pytest.mark.parametrize("name", [None, 7, b"strong", ["strong"]])
def test_refuses_a_name_that_is_no_string(name: Any) -> None:
    """The message says what came instead of a string."""
    message = refusal(second(model_name=name))
    assert "models[1]" in message
    assert f"string, got {type(name).__name__}" in message


def test_refuses_a_duplicate_name() -> None:
    """The message tells the name and both positions."""
    message = refusal([good("weak"), good("strong"), good("weak")])
    assert "models[2]" in message
    assert "models[0]" in message
    assert "'weak'" in message
    assert "unique" in message


def test_names_that_differ_in_case_are_different() -> None:
    """Only an equal name is a duplicate."""
    assert GatewayRunnable(models=[good("Weak"), good("weak")]).model_names == ("Weak", "weak")


@pytest.mark.parametrize("model", [None, "", " ", 5, {"a": 1}, lambda x: x])
def test_refuses_a_model_that_is_no_runnable(model: Any) -> None:
    """The message names position, name and key, and says what came."""
    message = refusal(second(model=model))
    assert "models[1] ('strong'): model:" in message
    assert type(model).__name__ in message


@pytest.mark.parametrize(
    "models",
    [
        second(model=KEY),
        second(model=[KEY]),
        second(api_key=KEY),
        second(model=..., api_key=KEY),
        second(time_constraints={"start": KEY, "end": KEY}),
        second(timeout=[KEY]),
        second(model_name=[KEY]),
        [good("weak"), KEY],
        KEY,
    ],
)
def test_a_value_that_could_be_a_secret_is_not_echoed(models: Any) -> None:
    """A key that lands in the wrong place is in neither form of the error."""
    with pytest.raises(ValidationError) as caught:
        GatewayRunnable(models=models)
    assert KEY not in str(caught.value)
    assert KEY not in repr(caught.value)


@pytest.mark.parametrize("options", [{"api_key": KEY}, {"retry": KEY}, {"timeout": KEY}])
def test_a_secret_among_the_gateways_own_arguments_is_not_echoed(options: Any) -> None:
    """A misplaced key is refused unseen, also outside `models`."""
    assert KEY not in refusal([good("a"), good("b")], **options)


@pytest.mark.parametrize(
    "window",
    ["09:00-17:00", ("09:00",), ("09:00", "17:00", "UTC"), [], 9, None, {"start": "09:00"}],
)
def test_refuses_a_window_that_is_no_pair(window: Any) -> None:
    """The message says which window of which deployment is malformed."""
    message = refusal(windows(("01:00", "02:00"), window))
    assert "models[1] ('strong')" in message
    assert "time_constraints[1]" in message


@pytest.mark.parametrize(
    ("window", "shown"),
    [
        ("09:00-17:00", "'09:00-17:00'"),
        (("09:00",), "a tuple of 1: '09:00'"),
        (["9:00", "17:00", "UTC"], "a list of 3: '9:00', '17:00', 'UTC'"),
        ([KEY, KEY, KEY], "a list of 3: '[secure]', '[secure]', '[secure]'"),
        (9, "9 (int)"),
        (TimeWindow, "a class, not an instance; did you forget the parentheses?"),
    ],
)
def test_a_window_that_is_no_pair_is_shown(window: Any, shown: str) -> None:
    """A window that is no pair is quoted in its refusal, unless it looks like a key."""
    assert f"got {shown}" in refusal(windows(window))


def test_a_bare_pair_is_no_list_of_windows() -> None:
    """One window where a list of them belongs is refused."""
    assert "models[1] ('strong')" in refusal(second(time_constraints=("09:00", "17:00")))


@pytest.mark.parametrize("moment", [9, 9.5, datetime(2026, 1, 5, 9), None])
def test_refuses_times_that_are_no_strings(moment: Any) -> None:
    """The message says which end of which window is no string, and what it is."""
    message = refusal(windows(("08:00", moment)))
    assert "models[1] ('strong'): time_constraints[0].end" in message
    assert type(moment).__name__ in message.partition("got ")[2]


@pytest.mark.parametrize("moment", [9, 9.5])
def test_a_time_that_is_a_number_is_shown(moment: Any) -> None:
    """The refusal of a number tells the number."""
    message = refusal(windows((moment, "17:00")))
    assert f"got {moment}" in message
    assert "string 'HH:MM'" in message


MALFORMED = ["24:00", "0900", "09:00:00", " 09:00", "09:00 ", "9", "", "09:60", "-1:00", "9h00"]


@pytest.mark.parametrize("moment", MALFORMED)
@pytest.mark.parametrize("end", ["start", "end"])
def test_refuses_malformed_times(end: str, moment: str) -> None:
    """The message names position, name, window, end and value."""
    message = refusal(windows({"start": "08:00", "end": "09:00", end: moment}))
    assert f"models[1] ('strong'): time_constraints[0].{end}" in message
    assert repr(" ".join(moment.split())) in message or repr(moment) in message


@pytest.mark.parametrize(
    "zone",
    ["America", "Nowhere/Land", "", "x" * 5000, "../etc", "/etc/passwd", "UTC\0", "utc\n", 5, None],
)
def test_refuses_unknown_timezones(zone: Any) -> None:
    """Whatever is no IANA name is refused in a short message, however the database fails on it."""
    message = refusal(windows({"start": "08:00", "end": "09:00", "timezone": zone}))
    assert "models[1] ('strong'): time_constraints[0].timezone" in message
    assert len(message) < 400


@pytest.mark.parametrize(
    "days", [["monday"], ["mon", "xyz"], [], "mon", [1], 5, {"mon": 1}, [None]]
)
def test_refuses_malformed_days(days: Any) -> None:
    """Days are a list with at least one weekday of three letters."""
    message = refusal(windows({"start": "08:00", "end": "09:00", "days": days}))
    assert "models[1] ('strong'): time_constraints[0].days" in message


def test_an_unknown_weekday_is_shown() -> None:
    """The message quotes the weekday it does not know."""
    assert "'xyz'" in refusal(windows({"start": "08:00", "end": "09:00", "days": ["mon", "xyz"]}))


def test_refuses_an_unknown_key_of_a_window() -> None:
    """A misspelt key of a window is refused by its name."""
    message = refusal(windows({"start": "08:00", "end": "09:00", "tz": "UTC"}))
    assert "models[1] ('strong'): time_constraints[0]: 'tz' is unknown" in message


def completion() -> Any:
    return FakeListLLM(responses=["hi"])


@pytest.mark.parametrize(
    "llm",
    [
        completion,
        lambda: completion().bind(stop=["x"]),
        lambda: ChatPromptTemplate.from_template("{x}") | completion(),
    ],
    ids=["bare", "bound", "chain"],
)
def test_refuses_a_mix_of_chat_models_and_llms(llm: Callable[[], Any]) -> None:
    """A chat model and a text-completion LLM cannot stand in for each other, wherever they sit."""
    message = refusal(second(model=llm()))
    assert "'weak'" in message
    assert "'strong'" in message
    assert "models[1]" in message


def test_llms_alone_are_no_mix() -> None:
    """A gateway over text-completion LLMs only answers with text."""
    assert gateway_over(completion(), completion()).invoke("x") == "hi"


@pytest.mark.parametrize(
    "options",
    [
        {"timeout": 0},
        {"timeout": -1},
        {"timeout": float("nan")},
        {"timeout": float("inf")},
        {"reject": ["boring"]},
        {"reject": "boring"},
        {"reject": 5},
        {"retry": {"max_attempts": 0}},
        {"retry": {"attempts": 3}},
        {"cooldown": {"failure_threshold": 0}},
        {"cooldown": {"duration": 600, "max_duration": 300}},
        {"exceptions_to_handle": 5},
        {"exceptions_to_handle": (ValueError, "Nonsense")},
        {"exceptions_to_handle": (str,)},
        {"strict_preference": "perhaps"},
        {"fallbacks": []},
    ],
)
def test_refuses_malformed_options(options: dict[str, Any]) -> None:
    """An option out of its range or unknown is refused under its own name."""
    assert next(iter(options)) in refusal([good("a"), good("b")], **options)


@pytest.mark.parametrize("limit", ["timeout", "stall_timeout"])
@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf")])
def test_refuses_malformed_limits_of_a_deployment(limit: str, seconds: float) -> None:
    """A deployment's time limits are positive and finite."""
    assert f"models[1] ('strong'): {limit}" in refusal(second(**{limit: seconds}))


# --- errors that help ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"max_retries": 3}, "did you mean retry=RetryPolicy(max_attempts=...)?"),
        ({"fallbacks": []}, "did you mean models (they are tried in list order)?"),
        ({"tz": "UTC"}, "did you mean timezone= of a TimeWindow?"),
        ({"strict_prefrence": True}, "did you mean strict_preference?"),
        ({"colour": "red"}, "'colour' is unknown; there are: models, model_preference, "),
        ({"retry": 3}, "write RetryPolicy(max_attempts=3)"),
        ({"retry": True}, "write RetryPolicy()"),
        ({"retry": RetryPolicy}, "did you forget the parentheses?"),
        ({"retry": {"max_retries": 3}}, "did you mean max_attempts (which counts the first one"),
        ({"cooldown": 30}, "write CooldownPolicy(duration=30)"),
        ({"cooldown": timedelta(seconds=30)}, "CooldownPolicy(duration=datetime.timedelta("),
        ({"cooldown": {"durration": 30}}, "did you mean duration? there are: failure_threshold, "),
        ({"exceptions_to_handle": ValueError()}, "got ValueError (an instance)"),
    ],
    ids=str,
)
def test_a_wrong_option_is_told_the_right_one(options: dict[str, Any], told: str) -> None:
    """An option that is unknown, or given as a bare number, is answered with what is meant."""
    assert told in refusal([good("a"), good("b")], **options)


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ({"model": ScriptedChatModel}, "did you forget the parentheses?: ScriptedChatModel()"),
        ({"modle": 1}, "the key 'modle' is unknown; did you mean model? there are: model_name, "),
        ({"name": "x"}, "did you mean model_name?"),
        ({"max_retries": 3}, "did you mean the gateway's retry=RetryPolicy(max_attempts=...)?"),
        ({"hours": []}, "did you mean time_constraints?"),
        (
            {"time_constraints": [{"start": "9:00", "end": "10:00", "tz": "UTC"}]},
            "did you mean timezone? there are: start, end, timezone, days",
        ),
    ],
    ids=str,
)
def test_a_wrong_key_is_told_the_right_one(entry: dict[str, Any], told: str) -> None:
    """A deployment's unknown key is answered with the nearest and with all there are."""
    assert told in refusal(second(**entry))


@pytest.mark.parametrize(
    ("models", "told"),
    [
        ([ScriptedChatModel], "got ScriptedChatModel, a class, not an instance; did you forget"),
        ([says("hi")], 'write {"model_name": "...", "model": ScriptedChatModel(...)}'),
        (says("hi"), "got ScriptedChatModel; write a list: models=[...]"),
        (ModelDeployment, "did you forget the parentheses?"),
    ],
    ids=str,
)
def test_models_without_a_list_or_a_name_are_told_the_form(models: Any, told: str) -> None:
    """A model where a list or a deployment belongs is answered with what to write."""
    assert told in refusal(models)


@pytest.mark.parametrize(
    ("part", "arguments", "told"),
    [
        (ModelDeployment, {"model_name": "a", "modle": 1}, "did you mean model?"),
        (TimeWindow, {"start": "9:00", "end": "10:00", "tz": "UTC"}, "did you mean timezone?"),
        (RetryPolicy, {"retries": 3}, "did you mean max_attempts"),
        (CooldownPolicy, {"seconds": 3}, "did you mean duration?"),
    ],
)
def test_the_parts_by_themselves_help_too(part: Any, arguments: Any, told: str) -> None:
    """A part's constructor answers an unknown argument like the gateway's."""
    with pytest.raises(ValidationError) as caught:
        part(**arguments)
    assert told in str(caught.value)


def test_an_unknown_option_hides_no_other_fault() -> None:
    """Other malformed options are told beside the unknown one, with their places."""
    with pytest.raises(ValidationError) as caught:
        GatewayRunnable([good("a"), good("b")], timeout=-1, colour="red")  # type: ignore[call-arg]
    assert {each["loc"] for each in caught.value.errors()} == {("timeout",), ("colour",)}


@pytest.mark.parametrize(
    ("keywords", "told"),
    [
        ({"preference": "strong"}, "did you mean model_preference?"),
        ({"model_prefernce": "strong"}, "did you mean model_preference?"),
        ({"model_preferences": ["strong"]}, "did you mean model_preference?"),
    ],
)
def test_a_misspelt_keyword_of_a_call_is_an_error(
    ask: CallForm, keywords: dict[str, Any], told: str
) -> None:
    """A call's keyword that is nearly the gateway's own is a TypeError, and nobody is asked."""
    models = says("a"), says("b")
    with pytest.raises(TypeError, match=re.escape(told)):
        ask(gateway_over(*models), "x", **keywords)
    assert [model.calls for model in models] == [[], []]


def test_other_keywords_of_a_call_are_the_models(ask: CallForm) -> None:
    """No other keyword is taken for a misspelt one."""
    keywords = {"stop": ["x"], "models": ["a"], "fallback": 1, "model_kwargs": {}, "model": "m"}
    model = says("a")
    ask(gateway_over(model, says("b")), "x", **keywords)
    assert keywords.items() <= model.received[0].items()


def test_a_preference_gets_the_nearest_name(
    ask: CallForm, caplog: pytest.LogCaptureFixture
) -> None:
    """The warning about an unknown name tells the nearest and all there are."""
    ask(gateway_over(says("a"), says("b")), "x", model_preference="Strnog")
    [message] = warnings_of(caplog)
    assert "'Strnog' is unknown; did you mean strong? there are: weak, strong" in message


@pytest.mark.parametrize("at", ["2026-01-01", 5, datetime])
def test_a_plan_for_what_is_no_moment_says_what_to_give(at: Any) -> None:
    """`explain(at=...)` with anything but a datetime is a ValueError that shows it."""
    with pytest.raises(ValueError, match=r"at is an aware datetime.*got") as caught:
        gateway_over(says("a"), says("b")).explain(at=at)
    assert str(at) in str(caught.value) or "class" in str(caught.value)


def test_too_many_arguments_are_pythons_own_error() -> None:
    """Models given one by one, or twice, are a TypeError as for any function."""
    with pytest.raises(TypeError, match="takes 2 positional arguments but 3 were given"):
        GatewayRunnable([good("a")], [good("b")])  # type: ignore[misc]
    with pytest.raises(TypeError, match="multiple values for argument 'models'"):
        GatewayRunnable([good("a")], models=[good("b")])  # type: ignore[misc]


def test_all_that_is_wrong_with_an_entry_is_told_at_once() -> None:
    """One error names every fault of an entry."""
    message = refusal(second(model=5, hours=1, time_constraints=[("24:00", "01:00")]))
    assert all(part in message for part in ("model:", "'hours'", "'24:00'"))


def test_a_hostile_name_cannot_forge_a_line() -> None:
    """A refused entry's name stays on the message's one line."""
    message = refusal(second(model_name="strong\nERROR forged", model=5))
    assert "\nERROR forged" not in message


# --- what is accepted ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "model",
    [
        lambda: says("hi"),
        lambda: says("hi").bind(stop=["x"]),
        lambda: says("hi").with_config(tags=["a"]),
        lambda: says("hi").with_retry(),
        lambda: ChatPromptTemplate.from_template("{x}") | says("hi"),
        lambda: RunnableLambda(lambda x: x) | says("hi").bind(stop=["x"]),
        lambda: gateway_over(says("hi"), says("ho")),
        lambda: gateway_over(says("hi"), says("ho")).bind(model_preference="weak"),
        lambda: gateway_over(says("hi"), says("ho")).as_chat_model(),
        lambda: RunnableLambda(lambda _: says("hi").invoke("x")),
    ],
    ids=[
        *("chat model", "bound", "configured", "retrying", "prompt chain", "chain"),
        *("gateway", "bound gateway", "gateway's chat model", "function"),
    ],
)
def test_any_runnable_that_gives_a_message_is_a_model(model: Callable[[], Any]) -> None:
    """Whatever ends in a chat model can be deployed, and answers."""
    gateway = gateway_over(model(), says("strong"))
    answer = gateway.invoke({"x": "y"} if "Prompt" in repr(model()) else "x")
    assert answer.content == "hi"
    assert who(answer) == "weak"


def test_a_chain_that_ends_in_text_answers_with_text() -> None:
    """What is no message is passed on as it is."""
    gateway = gateway_over(says(ValueError()) | StrOutputParser(), says("hi") | StrOutputParser())
    assert gateway.invoke("x") == "hi"


def test_a_nested_gateway_says_who_answered_within() -> None:
    """The outer mark keeps the inner one."""
    inner = gateway_over(says(ValueError()), says("hi"))
    mark = gateway_over(inner, says("no")).invoke("x").response_metadata["gateway"]
    assert mark["model_name"] == "weak"
    assert mark["gateway"]["model_name"] == "strong"


def test_dicts_deployments_and_windows_mix() -> None:
    """A dict is accepted wherever a deployment is, and a pair wherever a window is."""
    by_dict = {**good("a"), "time_constraints": [("22:00", "06:00"), ["12:00", "13:00"]]}
    by_class = ModelDeployment(
        model_name="a",
        model=by_dict["model"],
        time_constraints=[
            TimeWindow(start="22:00", end="06:00"),
            {"start": "12:00", "end": "13:00"},
        ],
    )
    assert GatewayRunnable(models=[by_dict, good("b")])["a"] == by_class
    assert GatewayRunnable(models=[by_class, good("b")])["a"] == by_class


@pytest.mark.parametrize("model_class", [ModelDeployment, TimeWindow, RetryPolicy, CooldownPolicy])
def test_the_parts_refuse_unknown_keys(model_class: type[BaseModel]) -> None:
    """A part with a misspelt key is a ValidationError that does not show the value."""
    with pytest.raises(ValidationError) as caught:
        model_class.model_validate({"bogus": KEY})
    assert "bogus" in str(caught.value)
    assert KEY not in str(caught.value)


@pytest.mark.parametrize(
    ("part", "signature"),
    [
        (GatewayRunnable, "models, *, model_preference=None, model_fallback=True, "),
        (ModelDeployment, "*, model_name, model, time_constraints=None, timeout=None, "),
        (TimeWindow, "start, end, timezone='UTC', days=None"),
        (RetryPolicy, "*, max_attempts=3, initial_delay=0.5, max_delay=8.0, max_retry_after=30.0"),
        (CooldownPolicy, "*, failure_threshold=3, window=60.0, duration=30.0, max_duration=300.0"),
    ],
)
def test_constructors_are_written_out(part: Any, signature: str) -> None:
    """A constructor shows its arguments with their types, and no default but the field's own."""
    shown = inspect.signature(part)
    bare = [p.replace(annotation=p.empty) for p in shown.parameters.values()]
    assert str(inspect.Signature(bare))[1:].startswith(signature)
    own = {name for name in part.model_fields if not hasattr(BaseChatModel, name)}
    assert own <= set(shown.parameters) <= set(part.model_fields)
    for name, parameter in shown.parameters.items():
        assert parameter.annotation is not parameter.empty
        default = part.model_fields[name].default
        assert parameter.default in {(), None} or parameter.default in {default, parameter.empty}


def test_models_and_times_can_be_given_by_position() -> None:
    """`GatewayRunnable(models)` and `TimeWindow(start, end, ...)` mean what the names mean."""
    models = [good("a"), good("b")]
    assert GatewayRunnable(models) == GatewayRunnable(models=models)
    window = TimeWindow("22:00", "06:00", "Europe/Berlin", ["mon"])
    named = {"start": "22:00", "end": "06:00", "timezone": "Europe/Berlin", "days": ["mon"]}
    assert window == TimeWindow(**named)


def test_seconds_can_be_timedeltas() -> None:
    """Wherever seconds are taken a `timedelta` is, and what is kept and written are seconds."""
    minute = timedelta(minutes=1)
    gateway = GatewayRunnable(
        [{**good("a"), "timeout": minute, "stall_timeout": minute / 2}, good("b")],
        retry=RetryPolicy(
            initial_delay=minute / 60, max_delay=minute, max_retry_after=timedelta(0)
        ),
        cooldown=CooldownPolicy(window=minute, duration=minute, max_duration=minute * 10),
        timeout=minute * 1.5,
    )
    same = GatewayRunnable(
        [
            {"model_name": "a", "model": gateway["a"].model, "timeout": 60, "stall_timeout": 30},
            gateway["b"],
        ],
        retry=RetryPolicy(initial_delay=1, max_delay=60, max_retry_after=0),
        cooldown=CooldownPolicy(window=60, duration=60, max_duration=600),
        timeout=90,
    )
    assert gateway == same
    assert gateway.timeout == 90.0
    assert type(gateway.timeout) is float
    assert gateway.retry.model_dump_json() == same.retry.model_dump_json()


@pytest.mark.parametrize("seconds", [timedelta(0), timedelta(seconds=-1)])
def test_a_timedelta_is_as_limited_as_a_number(seconds: timedelta) -> None:
    """A `timedelta` that is not positive is refused where such a number is."""
    assert "timeout" in refusal([good("a"), good("b")], timeout=seconds)


def test_a_long_cooldown_needs_no_longer_one() -> None:
    """The longest cooldown is 300 seconds, or the duration where that is longer; a given one is."""
    assert CooldownPolicy(duration=600).max_duration == 600
    assert CooldownPolicy(duration=30).max_duration == 300
    assert CooldownPolicy.model_validate({"duration": 600}).max_duration == 600
    with pytest.raises(ValidationError, match="less than duration"):
        CooldownPolicy(duration=600, max_duration=300)


@pytest.mark.parametrize(
    ("attempts", "seconds"), [(1, 0.5), (2, 1), (3, 2), (5, 8), (100, 8), (10**6, 8)]
)
def test_the_longest_delay_doubles_up_to_its_limit(attempts: int, seconds: float) -> None:
    """However many attempts have failed, the delay is a number within `max_delay`."""
    assert RetryPolicy().longest_delay(attempts) == seconds


def test_a_delay_out_of_range_is_the_longest() -> None:
    """Doubling the largest number is no error."""
    policy = RetryPolicy(initial_delay=1e308, max_delay=1.5e308)
    assert [policy.longest_delay(n) for n in (1, 2, 3)] == [1e308, 1.5e308, 1.5e308]


# --- a model given as a string ---------------------------------------------------------------


def test_a_string_is_made_a_model_by_langchain(monkeypatch: pytest.MonkeyPatch) -> None:
    """A string such as "openai:gpt-4o-mini" is what `init_chat_model` makes of it."""
    monkeypatch.setenv("OPENAI_API_KEY", "test-key")
    gateway = GatewayRunnable([{"model_name": "a", "model": "openai:gpt-4o-mini"}, good("b")])
    assert isinstance(gateway["a"].model, ChatOpenAI)
    assert gateway["a"].model.model_name == "gpt-4o-mini"
    assert gateway["a"].provider == "openai"
    assert ModelDeployment(model_name="a", model="openai:gpt-4o-mini") == gateway["a"]


def test_without_langchain_a_string_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """`langchain` is needed for strings only, and its absence names it."""
    monkeypatch.setitem(sys.modules, "langchain.chat_models", None)
    assert "pip install langchain" in refusal(second(model="openai:gpt-4o-mini"))


def test_a_missing_provider_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A string whose provider is not installed says which package to install."""
    monkeypatch.setitem(sys.modules, "langchain_deepseek", None)
    assert "langchain-deepseek" in refusal(second(model="deepseek:deepseek-chat"))


@pytest.mark.parametrize("text", ["0123456789abcdef0123456789abcdef", "nobody:x", KEY, "k" * 900])
def test_a_string_that_is_no_model_is_not_echoed(text: str) -> None:
    """A string that makes no model says how one is written, and may have been a key."""
    message = refusal(second(model=text))
    assert "'provider:model' such as 'openai:gpt-4o-mini'" in message
    assert text not in message
    assert "k" * 100 not in message


# --- names within ----------------------------------------------------------------------------


def nested(**fields: Any) -> tuple[GatewayRunnable, dict[str, Any]]:
    """A gateway of which "outer" is a gateway over "inner" and "other"."""
    models = {name: says(name) for name in ("first", "inner", "other")}
    within = [{"model_name": name, "model": models[name]} for name in ("other", "inner")]
    entries = [
        {"model_name": "first", "model": models["first"]},
        {"model_name": "outer", "model": GatewayRunnable(within, **fields)},
    ]
    return GatewayRunnable(entries, **fields), models


def test_names_within_are_paths() -> None:
    """A gateway inside a deployment is looked into with "outer/inner", at any depth."""
    gateway, models = nested()
    outermost = GatewayRunnable([good("a"), {"model_name": "far", "model": gateway.bind(stop="x")}])
    assert gateway["outer/inner"].model is models["inner"]
    assert outermost["far/outer/inner"].model is models["inner"]
    for name in ("first", "outer", "outer/inner", "outer/other"):
        assert name in gateway
        assert f"far/{name}" in outermost
    for name in ("inner", "first/inner", "outer/", "outer/nobody", "/inner", "", None, ["outer"]):
        assert name not in gateway


def test_an_unknown_path_lists_the_paths() -> None:
    """The error for a name that is nobody's tells the names within as well."""
    with pytest.raises(KeyError, match=r"did you mean outer/inner.*first, outer, outer/other"):
        nested()[0]["outer/innr"]


@pytest.mark.parametrize("given", ["keyword", "config", "default"])
@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize(
    ("preference", "expected"),
    [
        ("outer/inner", ["outer", "inner"]),
        ("outer/other", ["outer", "other"]),
        ("outer", ["outer", "other"]),
        ("first", ["first"]),
    ],
)
def test_a_preference_reaches_within(
    ask: CallForm,
    caplog: pytest.LogCaptureFixture,
    given: str,
    strict: bool,
    preference: str,
    expected: list[str],
) -> None:
    """A path prefers outer, and inside it inner; the inner gateway is told nothing else."""
    gateway, _ = nested(strict_preference=strict)
    config = {"configurable": {"model_preference": preference}} if given == "config" else None
    kwargs = {"model_preference": preference} if given == "keyword" else {}
    if given == "default":
        gateway = gateway.prefer(preference)
    mark = ask(gateway, "x", config, **kwargs).response_metadata["gateway"]
    assert mark["model_name"] == expected[0]
    assert mark.get("gateway", {}).get("model_name") == (expected[1:] or [None])[0]
    assert warnings_of(caplog) == []


def test_a_preference_alone_reaches_within(ask: CallForm) -> None:
    """Also where no other deployment is asked; what the inner gateway does is its own matter."""
    gateway, models = nested()
    answer = ask(gateway, "x", model_preference="outer/inner", model_fallback=False)
    assert answer.response_metadata["gateway"]["gateway"]["model_name"] == "inner"
    assert not models["other"].calls


def test_an_outer_preference_leaves_the_inner_default_alone(ask: CallForm) -> None:
    """Falling back into a gateway, its own default holds, whatever the outer call prefers."""
    inner = gateway_over(says("a"), says("b")).prefer("strong")
    entries = [{"model_name": "weak", "model": says(ValueError())}, good("x")]
    entries.insert(1, {"model_name": "outer", "model": inner})
    config = {"configurable": {"model_preference": "weak"}}
    mark = ask(GatewayRunnable(entries), "x", config).response_metadata["gateway"]
    assert mark["gateway"]["model_name"] == "strong"


def test_a_call_within_shares_the_inner_state(ask: CallForm) -> None:
    """A preference for a path goes to the very same inner gateway: its cooldowns are kept."""
    down, up = says(ConnectionError()), says("up")
    inner = gateway_over(down, up, cooldown=CooldownPolicy(failure_threshold=1))
    gateway = GatewayRunnable([good("first"), {"model_name": "outer", "model": inner}])
    for _ in range(2):
        ask(gateway, "x", model_preference="outer/weak")
    assert len(down.calls) == 1


def test_a_plan_takes_a_path() -> None:
    """`explain` and `prefer` know the names within."""
    gateway, _ = nested(strict_preference=True)
    assert gateway.explain("outer/inner").order == ("outer", "first")
    assert gateway.prefer("outer/inner").explain().order == ("outer", "first")
    with pytest.raises(ValueError, match=r"'outer/nobody' is unknown.*outer/other"):
        gateway.prefer("outer/nobody")


# --- a name that cannot be read --------------------------------------------------------------


class Nameless(ScriptedChatModel):
    """A model that cannot tell who serves it."""

    name_of_provider: Any = None

    def _get_ls_params(self, stop: Any = None, **kwargs: Any) -> Any:
        if self.name_of_provider is None:
            raise RuntimeError("no name")
        return {"ls_provider": self.name_of_provider}


@pytest.mark.parametrize("name", [None, 5, ["x"], ""])
def test_a_provider_that_cannot_be_read_is_its_class(ask: CallForm, name: Any) -> None:
    """A model that does not tell its provider fails and is fallen back from like any other."""
    broken = Nameless(replies=[ValueError("down")], name_of_provider=name)
    gateway = gateway_over(broken, says("hi"))
    assert gateway["weak"].provider == "Nameless"
    assert who(ask(gateway, "x")) == "strong"
    gateway.diagnose()
    gateway._repr_html_()


def test_a_providers_name_cannot_forge_a_line() -> None:
    """A provider's name is one short line."""
    hostile = Nameless(name_of_provider="x\nERROR forged\x1b" * 50)
    provider = gateway_over(hostile, says("hi"))["weak"].provider
    assert provider.isprintable()
    assert len(provider) <= 60


# --- copies and views ------------------------------------------------------------------------


def test_the_callers_list_and_dicts_are_copied() -> None:
    """Changing them after construction changes nothing."""
    hours = [["22:00", "06:00"]]
    days = ["mon"]
    entry = {**good("weak"), "time_constraints": hours}
    other = {**good("strong"), "time_constraints": [{"start": "1:00", "end": "2:00", "days": days}]}
    models = [entry, other]
    gateway = GatewayRunnable(models=models)
    before = list(gateway.models)
    models.append(good("backup"))
    entry["model_name"] = "other"
    hours[0][0] = "01:00"
    hours.clear()
    days.append("tue")
    other["time_constraints"].clear()
    assert gateway.model_names == ("weak", "strong")
    assert list(gateway.models) == before
    assert str(gateway["weak"].time_constraints[0]) == "22:00-06:00 UTC"
    assert gateway["strong"].time_constraints[0].days == ("mon",)


def test_the_callers_dicts_are_left_alone() -> None:
    """Construction changes nothing of what it is given."""
    entry = {**good("weak"), "time_constraints": [("9:5", "10:00")]}
    before = {**entry, "time_constraints": list(entry["time_constraints"])}
    GatewayRunnable(models=[entry, good("strong")])
    assert entry == before


def test_the_views() -> None:
    """Names, length and deployments by name can be read."""
    gateway = gateway_over(says("a"), says("b"))
    assert list(gateway.model_names) == ["weak", "strong"]
    assert len(gateway) == 2
    assert isinstance(gateway["strong"], ModelDeployment)
    assert gateway["strong"].model is gateway.models[1].model


def test_an_editor_is_offered_what_is_ours() -> None:
    """`dir()` shows our names and a Runnable's, and leaves out what is only pydantic's."""
    gateway = gateway_over(says("a"), says("b"))
    shown = {name for name in dir(gateway) if not name.startswith("_")}
    assert shown >= {"models", "retry", "model_names", "explain", "prefer", "invoke", "model_copy"}
    assert not shown & {"parse_obj", "construct", "json", "model_dump", "schema", "validate"}
    assert "prefer" in dir(gateway.as_chat_model())


def test_an_unknown_name_is_a_key_error_that_lists_the_names() -> None:
    """Looking up nobody tells who there is."""
    with pytest.raises(KeyError, match=r"weak.*strong"):
        gateway_over(says("a"), says("b"))["nobody"]


@pytest.mark.parametrize(
    ("part", "field", "value"),
    [
        (lambda g: g, "models", ()),
        (lambda g: g, "model_names", ()),
        (lambda g: g, "timeout", 5),
        (lambda g: g["weak"], "model_name", "other"),
        (lambda g: g["weak"], "time_constraints", ()),
        (lambda g: g["weak"].time_constraints[0], "start", "00:00"),
        (lambda g: RetryPolicy(), "max_attempts", 5),
        (lambda g: CooldownPolicy(), "duration", 5),
    ],
)
def test_the_views_are_read_only(part: Callable[[Any], Any], field: str, value: Any) -> None:
    """Nothing of a gateway can be set after construction."""
    gateway = gateway_over(says("a"), says("b"), windows={"weak": [("22:00", "06:00")]})
    with pytest.raises((ValidationError, AttributeError)):
        setattr(part(gateway), field, value)
    with pytest.raises((TypeError, AttributeError)):
        gateway.model_names[0] = "other"
    with pytest.raises((TypeError, AttributeError)):
        gateway.models.append(good("backup"))


# --- warnings --------------------------------------------------------------------------------


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]


def test_without_a_logging_configuration_nothing_is_printed() -> None:
    """A failure that was handled prints nothing where logging was not set up."""
    code = """
from tests.models import ScriptedChatModel, gateway_over, says
gateway = gateway_over(says(ValueError("down")), says("hi"))
assert gateway.invoke("x", model_preference="nobody").content == "hi"
gateway_over(says("hi"))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_single_deployment_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    """With nothing to fall back to, one WARNING on the package's logger says so."""
    gateway_over(says("hi"))
    [record] = caplog.records
    assert (record.name, record.levelno) == ("langchain_model_gateway", logging.WARNING)
    assert "weak" in record.getMessage()


def test_two_deployments_are_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    """A gateway that can fall back is built in silence."""
    gateway_over(says("a"), says("b"), windows={"weak": [("22:00", "06:00")]})
    assert warnings_of(caplog) == []


def test_the_warning_stays_on_one_line(caplog: pytest.LogCaptureFixture) -> None:
    """A name with a line break cannot forge a log line."""
    GatewayRunnable(models=[good("weak\nERROR forged\x1b[0m")])
    [message] = warnings_of(caplog)
    assert len(message.splitlines()) == 1
    assert "\x1b" not in message


def test_a_refused_client_shows_no_key() -> None:
    """A refusal of one entry shows nothing of the models of the others."""
    client = ChatOpenAI(model="gpt-4o-mini", api_key=KEY, base_url="http://u:hunter2@127.0.0.1:1")
    message = refusal([{"model_name": "weak", "model": client}, 5])
    assert KEY not in message
    assert "hunter2" not in message
