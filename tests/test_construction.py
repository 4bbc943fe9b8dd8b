"""Construction: what a gateway is made of, and what it refuses."""

import logging
from collections.abc import Callable
from datetime import time
from typing import Any

import pytest
from langchain_core.language_models import FakeListLLM
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
from tests.models import ScriptedChatModel, gateway_over, says, who

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


@pytest.mark.parametrize("model", [None, "gpt-4o", 5, ScriptedChatModel, {"a": 1}, lambda x: x])
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
    ("window", "shown"), [("09:00-17:00", "'09:00-17:00'"), (("09:00",), "a tuple of 1")]
)
def test_a_window_that_is_no_pair_is_shown(window: Any, shown: str) -> None:
    """A window written as one string is quoted in its refusal, a sequence by its size."""
    assert f"got {shown}" in refusal(windows(window))


def test_a_bare_pair_is_no_list_of_windows() -> None:
    """One window where a list of them belongs is refused."""
    assert "models[1] ('strong')" in refusal(second(time_constraints=("09:00", "17:00")))


@pytest.mark.parametrize("moment", [9, 9.5, time(9), None])
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
    assert "time_constraints[0].tz" in refusal(
        windows({"start": "08:00", "end": "09:00", "tz": "UTC"})
    )


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
        {"cooldown": {"duration": 600}},
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


def test_a_single_deployment_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    """With nobody to fall over to, one WARNING on the package's logger says so."""
    gateway_over(says("hi"))
    [record] = caplog.records
    assert (record.name, record.levelno) == ("langchain_model_gateway", logging.WARNING)
    assert "weak" in record.getMessage()


def test_two_deployments_are_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    """A gateway that can fall over is built in silence."""
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
