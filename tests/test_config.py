"""A gateway from a file or a mapping; and all that is wrong with it, told at once."""

import copy
import json
import os
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from langchain.chat_models import init_chat_model
from langchain_openai import ChatOpenAI
from llmock.pytest_plugin import LLMock
from pydantic import SecretStr, model_validator

from langchain_model_gateway import (
    ConfigError,
    ConfigProblem,
    CooldownPolicy,
    GatewayChatModel,
    GatewayRunnable,
    ModelDeployment,
    RetryPolicy,
    TimeWindow,
)
from langchain_model_gateway.wrappers import innermost
from tests.models import says, who

KEYS = {"CHEAP_KEY": "the-cheap-one-s-key", "STRONG_KEY": "the-strong-one-s-key"}

YAML = """\
timeout: 60
reject: [empty, length]
retry: {max_attempts: 2}
cooldown:
  duration: 10
exceptions_to_handle: [TimeoutError, ModelRateLimitError]
model_preference: strong
models:
  - model_name: cheap
    model: openai:gpt-4o-mini
    with: {temperature: 0, api_key: {env: CHEAP_KEY}}
    time_constraints:
      - ["22:00", "06:00"]
      - {start: "12:00", end: "13:30", timezone: America/Sao_Paulo, days: [mon, fri]}
  - model_name: strong
    model: openai:gpt-4o
    with:
      api_key:
        env: STRONG_KEY
      default_headers: {X-Title: a gateway}
    timeout: 20
"""

TOML = """\
timeout = 60
reject = ["empty", "length"]
exceptions_to_handle = ["TimeoutError", "ModelRateLimitError"]
model_preference = "strong"
retry.max_attempts = 2

[cooldown]
duration = 10

[[models]]
model_name = "cheap"
model = "openai:gpt-4o-mini"
with = {temperature = 0, api_key = {env = "CHEAP_KEY"}}
time_constraints = [
    ["22:00", "06:00"],
    {start = 12:00:00, end = "13:30", timezone = "America/Sao_Paulo", days = ["mon", "fri"]},
]

[[models]]
model_name = "strong"
model = "openai:gpt-4o"
timeout = 20

[models.with]
api_key.env = "STRONG_KEY"

[models.with.default_headers]
X-Title = "a gateway"
"""


@pytest.fixture
def _keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(autouse=True)
def _no_other_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", *KEYS):
        monkeypatch.delenv(name, raising=False)


Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(content: str | bytes, name: str = "gateway.yaml") -> Path:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else dedent(content).encode())
        return path

    return write


def in_code() -> GatewayRunnable:
    """What the files above are, built in code."""
    return GatewayRunnable(
        [
            ModelDeployment(
                model_name="cheap",
                model=ChatOpenAI(model="gpt-4o-mini", temperature=0, api_key=KEYS["CHEAP_KEY"]),
                time_constraints=[
                    ("22:00", "06:00"),
                    TimeWindow("12:00", "13:30", "America/Sao_Paulo", ["mon", "fri"]),
                ],
            ),
            ModelDeployment(
                model_name="strong",
                model=ChatOpenAI(
                    model="gpt-4o",
                    api_key=KEYS["STRONG_KEY"],
                    default_headers={"X-Title": "a gateway"},
                ),
                timeout=20,
            ),
        ],
        timeout=60,
        reject=("empty", "length"),
        retry=RetryPolicy(max_attempts=2),
        cooldown=CooldownPolicy(duration=10),
        exceptions_to_handle=["TimeoutError", "ModelRateLimitError"],  # type: ignore[list-item]
        model_preference="strong",
    )


def problems(source: Any, **overrides: Any) -> tuple[ConfigProblem, ...]:
    """What is wrong with a configuration."""
    with pytest.raises(ConfigError) as caught:
        GatewayRunnable.from_config(source, **overrides)
    return caught.value.problems


def mapping(**fields: Any) -> dict[str, Any]:
    """A configuration with one deployment that is right."""
    return {"models": [{"model_name": "right", "model": says()}], **fields}


def with_keywords(**keywords: Any) -> dict[str, Any]:
    """A configuration with one deployment with such keywords."""
    model = {"model_name": "one", "model": "openai:gpt-4o", "with": keywords}
    return {"models": [model, {"model_name": "right", "model": says()}]}


# --- what is right ---------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "name"), [(YAML, "a.yaml"), (YAML, "a.YML"), (TOML, "a.toml")])
@pytest.mark.parametrize("kind", [str, Path])
@pytest.mark.usefixtures("_keys")
def test_a_file_is_the_gateway_built_in_code(write: Write, text: str, name: str, kind: Any) -> None:
    """A YAML or TOML file gives a gateway equal to the one written out in code."""
    assert GatewayRunnable.from_config(kind(write(text, name))) == in_code()


@pytest.mark.usefixtures("_keys")
def test_a_mapping_is_the_gateway_built_in_code() -> None:
    """So does a mapping with the same keys, which is left as it is."""
    data = yaml.safe_load(YAML)
    before = copy.deepcopy(data)
    assert GatewayRunnable.from_config(data) == in_code()
    assert data == before


@pytest.mark.usefixtures("_keys")
def test_each_deployment_has_its_own_key(write: Write) -> None:
    """Two deployments of one provider have the keys of two variables."""
    gateway = GatewayRunnable.from_config(write(YAML))
    cores: list[Any] = [innermost(gateway[name].model) for name in ("cheap", "strong")]
    assert [core.openai_api_key.get_secret_value() for core in cores] == list(KEYS.values())


@pytest.mark.usefixtures("_keys")
def test_it_serializes_without_keys(write: Write) -> None:
    """What a file built is written, without its keys, and loads again, equal."""
    gateway = GatewayRunnable.from_config(write(YAML))
    data = gateway.serialize()
    assert not any(key in json.dumps(data) for key in KEYS.values())
    again = GatewayRunnable.from_serialized(
        data,
        allowed_objects=[ChatOpenAI],
        deployment_secrets={
            "cheap": {"OPENAI_API_KEY": KEYS["CHEAP_KEY"]},
            "strong": {"OPENAI_API_KEY": KEYS["STRONG_KEY"]},
        },
    )
    assert again == gateway


def test_it_answers(
    write: Write, weak: LLMock, strong: LLMock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gateway from a file asks the servers it names, and falls back."""
    monkeypatch.setenv("WEAK_URL", weak.base_url("openai"))
    monkeypatch.setenv("SOME_KEY", "a-key")
    text = f"""\
    models:
      - model_name: weak
        model: openai:gpt-4o-mini
        with: &common
          base_url: {{env: WEAK_URL}}
          api_key: {{env: SOME_KEY}}
          max_retries: 0
          default_headers: {{Connection: close}}
      - model_name: strong
        model: openai:gpt-4o
        with: {{<<: *common, base_url: "{strong.base_url("openai")}"}}
    """
    weak.outage()
    gateway = GatewayRunnable.from_config(write(text))
    assert who(gateway.invoke("Hello")) == "strong"
    assert [request.model for request in strong.requests] == ["gpt-4o"]


def test_a_chat_model_is_built_as_well() -> None:
    """A subclass's `from_config` gives one of the subclass."""
    assert type(GatewayChatModel.from_config(mapping())) is GatewayChatModel


@pytest.mark.usefixtures("_keys")
def test_overrides_win(write: Write) -> None:
    """A keyword replaces what the file says, which is then not even read."""
    text = YAML.replace("timeout: 60", "timeout: forever")
    gateway = GatewayRunnable.from_config(write(text), timeout=5, retry=None)
    assert (gateway.timeout, gateway.retry) == (5, None)
    own = [{"model_name": "strong", "model": says("mine")}]
    gateway = GatewayRunnable.from_config(write("models: none\ntimeout: 3"), models=own)
    assert gateway.invoke("Hello").text == "mine"


@pytest.mark.usefixtures("_keys")
def test_a_gateway_inside(write: Write) -> None:
    """A deployment's model may be a mapping of a gateway, and its names are paths."""
    text = """\
    model_preference: outer/second
    models:
      - model_name: outer
        model:
          retry: {max_attempts: 2}
          models:
            - {model_name: first, model: "openai:gpt-4o", with: {api_key: {env: CHEAP_KEY}}}
            - {model_name: second, model: "openai:gpt-4o", with: {api_key: {env: CHEAP_KEY}}}
      - {model_name: last, model: "openai:gpt-4o", with: {api_key: {env: STRONG_KEY}}}
    """
    gateway = GatewayRunnable.from_config(write(text))
    assert "outer/second" in gateway
    inner = gateway["outer"].model
    assert type(inner) is GatewayRunnable
    assert inner.retry == RetryPolicy(max_attempts=2)


def test_objects_of_code_in_a_mapping() -> None:
    """A mapping may hold what only code has: models, deployments, policies, secrets."""
    policy = RetryPolicy(max_attempts=2)
    ready = ModelDeployment(model_name="ready", model=says())
    keyword = {"api_key": SecretStr("a-key-of-the-vault")}
    named = {"model_name": "named", "model": "openai:gpt-4o", "with": keyword}
    gateway = GatewayRunnable.from_config(mapping(retry=policy) | {"models": [ready, named]})
    assert gateway.retry is policy
    core: Any = innermost(gateway["named"].model)
    assert core.openai_api_key.get_secret_value() == "a-key-of-the-vault"


# --- what is wrong: each with its line -------------------------------------------------------

ONE = 'models: [{model_name: one, model: "openai:gpt-4o", with: {api_key: {env: CHEAP_KEY}}}]\n'
TWO = """\
models:
  - model_name: one
    model: openai:gpt-4o
    with: {api_key: {env: CHEAP_KEY}}
"""

MISTAKES = [
    # The gateway's keys.
    (ONE + "timout: 3", 2, "timout", "did you mean timeout?"),
    (ONE + "max_retries: 3", 2, "max_retries", "did you mean retry: {max_attempts: ...}?"),
    (ONE + "timeout: soon", 2, "timeout", "valid number"),
    (ONE + "timeout: .nan", 2, "timeout", "finite"),
    (ONE + "timeout: -1", 2, "timeout", "greater than 0"),
    (ONE + "reject: [empty, lenght]", 2, "reject", "did you mean 'length'"),
    (ONE + "reject: 3", 2, "reject", "names"),
    (ONE + "exceptions_to_handle: [OSErorr]", 2, "exceptions_to_handle", "no built-in"),
    (ONE + "model_preference: on", 2, "model_preference", "valid string"),
    (ONE + "model_preference: ones", 2, "model_preference", "did you mean one?"),
    (ONE + "retry: 3", 2, "retry", "RetryPolicy(max_attempts=3)"),
    (ONE + "retry:\n  max_attempts: 0", 3, "retry.max_attempts", "greater than or equal to 1"),
    (ONE + "retry:\n  max_atempts: 1", 3, "retry.max_atempts", "did you mean max_attempts?"),
    (ONE + "cooldown:\n  cooldown_time: 1", 3, "cooldown.cooldown_time", "did you mean duration?"),
    # The deployments.
    ("timeout: 3\nmodels:", 2, "models", "give a list"),
    ("timeout: 3\nmodels: []", 2, "models", "give a list"),
    ("timeout: 3\nmodels: {one: two}", 2, "models", "got dict"),
    ("timeout: 3", None, "models", "give a list"),
    (TWO + "  - openai:gpt-4o", 5, "models[1]", "is a mapping with 'model_name'"),
    (
        TWO + "  - model: openai:gpt-4o\n    with: {api_key: {env: CHEAP_KEY}}",
        5,
        "models[1].model_name",
        "is missing",
    ),
    (TWO + "  - model_name: two", 5, "models[1].model", "is missing"),
    (TWO + "    model_name: two", 5, "models[0].model_name", "there already, in line 2"),
    (TWO + "    temperature: 0", 5, "models[0].temperature", "with: {temperature: ...}"),
    (TWO + "    modle: x", 5, "models[0].modle", "did you mean model?"),
    (TWO + "    hours: []", 5, "models[0].hours", "did you mean time_constraints?"),
    (TWO + "    timeout: 0", 5, "models[0].timeout", "greater than 0"),
    (TWO.replace("one", "1"), 2, "models[0].model_name", "a name is a string, got int"),
    (TWO.replace("one", '" "'), 2, "models[0].model_name", "not empty"),
    (TWO + TWO.removeprefix("models:\n"), 5, "models[1].model_name", "names are unique"),
    # The models.
    (TWO.replace("openai:", "opnai:"), 3, "models[0].model", "'opnai' is unknown; did you mean"),
    (TWO.replace("openai:", "mistral:"), 3, "models[0].model", "did you mean mistralai?"),
    (TWO.replace("openai:gpt-4o", "some-model"), 3, "models[0].model", "infer model provider"),
    (
        TWO.replace("openai:gpt-4o", "4"),
        3,
        "models[0].model",
        "or a mapping with 'models', got int",
    ),
    (TWO.replace("openai:gpt-4o", '""'), 3, "models[0].model", "or a mapping with 'models'"),
    (TWO.replace("openai:gpt-4o", "upstage:x"), 3, "models[0].model", "pip install langchain-upst"),
    (TWO.replace("    with:", "    # with:"), 3, "models[0].model", "OPENAI_API_KEY"),
    (
        TWO.replace("api_key: {", "temperature: warm, api_key: {"),
        4,
        "models[0].with.temperature",
        "valid number",
    ),
    pytest.param(
        TWO.replace("api_key: {", "temperatur: 1, api_key: {"),
        4,
        "models[0].with.temperatur",
        "did you mean temperature?",
        marks=pytest.mark.filterwarnings("ignore:.*temperatur is not default"),
    ),
    (
        TWO.replace("api_key: {", "model_provider: opnai, api_key: {"),
        3,
        "models[0].model",
        "did you mean openai?",
    ),
    (
        TWO.replace("{api_key: {env: CHEAP_KEY}}", "[temperature]"),
        4,
        "models[0].with",
        "a mapping such as {temperature: 0}, got list",
    ),
    (TWO.replace("openai:gpt-4o", "{models: []}"), 3, "models[0].model.models", "give a list"),
    (TWO.replace("openai:gpt-4o", "{models: []}"), 4, "models[0].with", "only a model that is"),
    # The windows.
    (TWO + "    time_constraints: 3", 5, "models[0].time_constraints", "a list of windows"),
    (TWO + '    time_constraints: ["22:00"]', 5, "models[0].time_constraints[0]", "a pair"),
    (
        TWO + '    time_constraints:\n    - ["22:00", "6h"]',
        6,
        "models[0].time_constraints[0]",
        "'6h' is not a time",
    ),
    (
        TWO + '    time_constraints:\n    - start: "22:00"\n      end: 6',
        7,
        "models[0].time_constraints[0].end",
        "a time is a string",
    ),
    (
        TWO + '    time_constraints: [{start: "1:00", end: "2:00",\n      tz: UTC}]',
        6,
        "models[0].time_constraints[0].tz",
        "did you mean timezone?",
    ),
    (
        TWO + '    time_constraints: [{start: "1:00", end: "2:00",\n      days: [no]}]',
        6,
        "models[0].time_constraints[0].days",
        "is not a weekday",
    ),
    (
        TWO
        + '    time_constraints: [{start: "1:00", end: "2:00",\n      timezone: Europe/Paaris}]',
        6,
        "models[0].time_constraints[0].timezone",
        "is not a timezone",
    ),
    # Variables.
    (TWO + "    timeout: {env: NO_SUCH}", 5, "models[0].timeout", "variable NO_SUCH is not set"),
    (TWO.replace("CHEAP_KEY", "EMPTY"), 4, "models[0].with.api_key", "variable EMPTY is empty"),
    (TWO.replace("CHEAP_KEY", "3"), 4, "models[0].with.api_key", "{env: NAME}"),
    (TWO.replace("CHEAP_KEY", "a b"), 4, "models[0].with.api_key", "{env: NAME}"),
    # YAML itself.
    (ONE + "  bad indent: x: y", 2, "", "broken YAML"),
    (ONE + "timeout: *none", 2, "", "undefined alias"),
    (ONE + "timeout: [1", 2, "", "broken YAML"),
    (ONE + "\ttimeout: 1", 2, "", "broken YAML"),
    (ONE + "---\ntimeout: 3", 2, "", "a single document"),
    (ONE + "timeout: \x07", 2, "", "broken YAML"),
    (ONE + 'name: "\\UFFFFFFFF"', None, "", "broken YAML"),
    (ONE + "timeout: 1\ntimeout: 2\ntimeout: 3", 4, "timeout", "there already, in line 2"),
    (ONE + "timeout: !env FOO", 2, "timeout", "the tag '!env' is not taken"),
    (ONE + "timeout: !!python/object/apply:os.getcwd []", 2, "timeout", "is not taken"),
    (ONE + "name: 2026-13-45", 2, "name", "quote it"),
    (ONE + "? [a, b]\n: c", 2, "", "a key is a text"),
    (ONE + "<<: 3", 2, "", "'<<' takes a mapping"),
    (ONE + "name: &a [*a]", 2, "", "nested too deep"),
    (ONE + "name: " + "[" * 500 + "]" * 500, None, "", "nested too deep"),
    ("", None, "", "empty"),
    ("# nothing", None, "", "empty"),
    ("- a\n- b", None, "", "a mapping with the key 'models', got list"),
    ("hello", None, "", "got str"),
]


@pytest.mark.parametrize(("text", "line", "key", "message"), MISTAKES)
def test_each_mistake_is_told_with_its_line(
    write: Write, monkeypatch: pytest.MonkeyPatch, text: str, line: int, key: str, message: str
) -> None:
    """Every kind of mistake in a YAML file is told with the file, its line, its key and why."""
    monkeypatch.setenv("CHEAP_KEY", KEYS["CHEAP_KEY"])
    monkeypatch.setenv("EMPTY", "")
    path = write(text)
    found = problems(path)
    assert (str(path), line, key) in [problem[:3] for problem in found]
    assert any(message in problem.message for problem in found if problem.key == key)


TOML_MISTAKES = [
    ("timeout = 3\ntimeout = 4", 2, "", "broken TOML"),
    ("timeout = ", 1, "", "broken TOML"),
    ("\n[[models]]\ntime_constraints = [[22:00, 06:00]]", 3, "", "quote a time"),
    ("a = " + "[" * 2000, None, "", ""),
    ("name = " + "9" * 5000, None, "", "broken TOML"),
    ("", None, "models", "give a list"),
    ("timout = 3", 1, "timout", "did you mean timeout?"),
    ("[retry]\n\nmax_attempts = 0", 3, "retry.max_attempts", "greater than"),
    ("retry . max_attempts = 0", 1, "retry.max_attempts", "greater than"),
    ('"retry".max_attempts = 0', 1, "retry.max_attempts", "greater than"),
    ("retry = {max_attempts = 0}", 1, "retry.max_attempts", "greater than"),
    (
        '[[models]]\n[[models]]\nmodel_name = "b"\nmodel = "opnai:x"',
        4,
        "models[1].model",
        "did you mean openai?",
    ),
    ('[[models]]\n[models.with]\napi_key = "k"', 3, "models[0].with.api_key", "plain text"),
    (
        '[[models]]\nx = """\n[[models]]\nmodel_name = 3\n"""\nmodel_name = 4',
        6,
        "models[0].model_name",
        "a name is a string",
    ),
    (
        "[[models]]\ntime_constraints = [\n['22:00'],\n['x']\n]\nmodel_name = 4",
        6,
        "models[0].model_name",
        "a name is a string",
    ),
    (
        "[[models]]\n[[models.model.models]]\n[[models.model.models]]\nmodel_name = 4",
        4,
        "models[0].model.models[1].model_name",
        "a name is a string",
    ),
]


@pytest.mark.parametrize(("text", "line", "key", "message"), TOML_MISTAKES)
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_toml_mistakes_have_lines_too(
    write: Write, text: str, line: int, key: str, message: str, newline: str
) -> None:
    """A mistake in a TOML file is told with the line of its key or of the table around it."""
    path = write(text.replace("\n", newline), "gateway.toml")
    found = [problem for problem in problems(path) if problem.key == key]
    assert [(problem.file, problem.line) for problem in found] == [(str(path), line)]
    assert message in found[0].message


def test_everything_is_told_at_once(write: Write) -> None:
    """All mistakes of a file come in one error, in the order of their lines."""
    text = """\
    timeout: soon
    retri: {}
    model_preference: thrid
    retry: {max_attempts: 0, initial_dely: 3}
    models:
      - model_name: one
        model: opnai:gpt-4o
        with: {api_key: sk-123456789, temperature: 0}
        time_constraints: [[22:00, 23:00]]
      - model_name: one
        model: openai:gpt-4o
        with:
          api_key: {env: NO_SUCH}
          temperature: warm
        colour: blue
      - model_name: third
        model:
          models:
            - {model_name: 5, model: "openai:gpt-4o"}
          coldown: {}
    """
    assert [(problem.line, problem.key) for problem in problems(write(text))] == [
        (1, "timeout"),
        (2, "retri"),
        (3, "model_preference"),
        (4, "retry.initial_dely"),
        (4, "retry.max_attempts"),
        (7, "models[0].model"),
        (8, "models[0].with.api_key"),
        (9, "models[0].time_constraints[0][0]"),
        (9, "models[0].time_constraints[0][1]"),
        (10, "models[1].model_name"),
        (13, "models[1].with.api_key"),
        (14, "models[1].with.temperature"),
        (15, "models[1].colour"),
        (19, "models[2].model.models[0].model"),
        (19, "models[2].model.models[0].model_name"),
        (20, "models[2].model.coldown"),
    ]


# --- times -----------------------------------------------------------------------------------


@pytest.mark.usefixtures("_keys")
@pytest.mark.parametrize(
    ("bare", "number"), [("22:00", 1320), ("6:30", 390), ("10:15", 615), ("1:00:00", 3600)]
)
def test_a_time_without_quotes(write: Write, bare: str, number: int) -> None:
    """A time that YAML 1.1 reads as a number is told, with the number and what to do."""
    text = f"{TWO}    time_constraints:\n      - ['01:00', '02:00']\n      - [{bare}, '06:00']"
    problem = problems(write(text))[0]
    assert (problem.line, problem.key) == (7, "models[0].time_constraints[1][0]")
    told = f'{bare} without quotes is {number} in YAML 1.1: quote the time, "{bare}"'
    assert problem.message == told


@pytest.mark.parametrize("times", ["06:00", "{start: 06:00, end: 08:00}", "[06:00, 08:00]"])
@pytest.mark.usefixtures("_keys")
def test_a_time_that_yaml_reads_as_text_needs_no_quotes(write: Write, times: str) -> None:
    """A zero in front makes a text of it in YAML, so nothing is wrong."""
    text = f"{TWO}    time_constraints: [[00:00, {times}]]" if times == "06:00" else ""
    text = text or f"{TWO}    time_constraints: [{times}]"
    GatewayRunnable.from_config(write(text))


@pytest.mark.parametrize("window", [[1320, "06:00"], {"start": 1320, "end": "06:00"}])
def test_a_time_that_became_a_number_before(window: Any) -> None:
    """In a mapping that somebody read from YAML, the number is told to be a time."""
    data = mapping()
    data["models"][0]["time_constraints"] = [window]
    assert "22:00 was meant, quote the time" in problems(data)[0].message


# --- secrets ---------------------------------------------------------------------------------

SECRETS = {
    "api_key": "hunter2",
    "openai_api_key": "hunter2",
    "aws_secret_access_key": "hunter2hunter2",
    "aws_access_key_id": "hunter2",
    "azure_ad_token": "hunter2",
    "auth_token": 12345,
    "client_secret": "hunter2",
    "password": ["hunter2"],
    "access_key": {"value": "hunter2"},
    "default_headers": {"Authorization": "hunter2"},
    "extra_headers": {"X-Api-Key": "hunter2"},
    "headers": "X-Api-Key: hunter2",
    "base_url": "https://user:hunter2@example.com/v1",
    "openai_proxy": "https://example.com/v1?api_key=hunter2hunter2",
    "anything": "sk-hunter2hunter2",
    "extra": {"deep": [{"deeper": "Bearer hunter2hunter2"}]},
}


@pytest.mark.parametrize("keyword", SECRETS)
def test_a_key_in_plain_text_is_an_error(keyword: str) -> None:
    """What is called like a secret, or looks like one, is told by its key and never shown."""
    with pytest.raises(ConfigError) as caught:
        GatewayRunnable.from_config(with_keywords(**{keyword: SECRETS[keyword]}))
    (problem,) = caught.value.problems
    assert problem.key.startswith(f"models[0].with.{keyword}")
    assert "in plain text" in problem.message
    assert "{env: NAME}" in problem.message
    assert not any(secret in str(caught.value) for secret in ("hunter2", "12345"))


def test_secrets_of_the_gateway_itself() -> None:
    """Also beside the models, a key in plain text is an error."""
    (problem, _) = problems(mapping(state={"url": "redis://:hunter2hunter2@host/0"}))
    assert "plain text" in problem.message or "unknown" in problem.message


@pytest.mark.parametrize(
    "keywords",
    [
        {"max_tokens": 100},
        {"stop": ["token"]},
        {"default_headers": {"X-Title": "mine", "anthropic-beta": "files-api-2025-04-14"}},
        {"base_url": "https://example.com/v1?version=1"},
        {"model_kwargs": {"prompt_cache_key": "mine"}},
        {"streaming": True, "api_key": {"env": "CHEAP_KEY"}},
    ],
)
@pytest.mark.usefixtures("_keys")
def test_what_is_no_secret_may_stand_there(keywords: dict[str, Any]) -> None:
    """Harmless keywords, some with names that are like a secret's, are taken."""
    GatewayRunnable.from_config(with_keywords(**({"api_key": {"env": "CHEAP_KEY"}} | keywords)))


@pytest.mark.parametrize(
    "text", ["${CHEAP_KEY}", "$CHEAP_KEY", "os.environ/CHEAP_KEY", "env:CHEAP_KEY", "a-${KEY}-b"]
)
@pytest.mark.parametrize("keyword", ["api_key", "base_url"])
@pytest.mark.usefixtures("_keys")
def test_nothing_is_filled_into_texts(keyword: str, text: str) -> None:
    """Other tools' ways to name a variable are told, not taken literally."""
    found = problems(with_keywords(**({"api_key": {"env": "CHEAP_KEY"}} | {keyword: text})))
    assert [problem.key for problem in found] == [f"models[0].with.{keyword}"]
    assert "write {env: NAME} for the whole value" in found[0].message


@pytest.mark.parametrize(
    "value", ["sk-hunter2hunter2", "sk_hunter2hunter2", "hunter2hunter2", "AKIAHUNTERHUNTER2"]
)
def test_a_key_in_the_place_of_a_variable(value: str) -> None:
    """A key that was written where a variable's name belongs is not shown."""
    (problem,) = problems(with_keywords(api_key={"env": value}))
    assert value not in str(problem)


def test_a_variable_s_value_is_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a variable holds is masked, wherever it is wrong and whoever quotes it."""
    monkeypatch.setenv("MISUSED", "Hunter2/Hunter2")
    misused = {"env": "MISUSED"}
    data = mapping(name=misused, model_preference=misused, exceptions_to_handle=[misused])
    window = {"start": misused, "end": "06:00", "timezone": misused}
    data["models"][0] |= {"time_constraints": [window], "model_name": "right"}
    data["models"].append({"model_name": "x", "model": misused})
    found = problems(data)
    assert len(found) >= 4
    assert "Hunter2" not in "".join(map(str, found))


def test_the_string_of_a_model_is_never_shown() -> None:
    """A key that was pasted in a model's place is not shown."""
    for text in ("sk-hunter2hunter2", "hunter2hunter2hunter2", "openai:sk-hunter2"):
        data = mapping()
        data["models"].append({"model_name": "two", "model": text})
        assert "hunter2" not in "".join(map(str, problems(data)))


# --- the source ------------------------------------------------------------------------------


def test_files_that_cannot_be_read(write: Write, tmp_path: Path) -> None:
    """A file that is not there, or nothing like a configuration, is a `ConfigError` too."""
    cases: list[tuple[Any, str]] = [
        (tmp_path / "none.yaml", "No such file"),
        (tmp_path, "ends in .yaml, .yml or .toml"),
        ("gateway.json", "ends in .yaml, .yml or .toml"),
        ("a: b\nc: d", "ends in .yaml, .yml or .toml"),
        ("", "ends in .yaml, .yml or .toml"),
        ("a\0b.yaml", "cannot be read"),
        (write(b"name: \xff\xfe", "bytes.yaml"), "not UTF-8"),
        (write(b"#" * 1_000_001), "more than 1,000,000 bytes"),
        (3, "a file's path or a mapping, got 3"),
        (None, "a file's path or a mapping"),
        (b"gateway.yaml", "a file's path or a mapping"),
    ]
    (tmp_path / "folder.yaml").mkdir()
    for source, message in [*cases, (tmp_path / "folder.yaml", "directory")]:
        (problem,) = problems(source)
        assert message in problem.message, source


def test_a_file_with_a_byte_order_mark(write: Write) -> None:
    """A mark that some editors write is no part of the first key."""
    (problem,) = problems(write(b"\xef\xbb\xbfmodels: []"))
    assert problem.key == "models"


def test_overrides_that_are_wrong(write: Write) -> None:
    """A keyword's mistake is told with the keyword, and not as the file's."""
    own = [{"model_name": "one", "model": says()}]
    found = problems(write("retri: {}"), models=own, timeout="soon", timout=3)
    assert {problem[:3] for problem in found} == {
        (None, None, "timeout"),
        (None, None, "timout"),
        (found[-1].file, 1, "retri"),
    }


def test_what_only_code_can_give() -> None:
    """A text where a function or an object belongs is told to be given in code."""

    class Observed(GatewayRunnable):
        on_something: Callable[..., None] | None = None

        def __init__(self, *args: Any, on_something: Any = None, **kwargs: Any) -> None:
            super(GatewayRunnable, self).__init__(*args, on_something=on_something, **kwargs)

    with pytest.raises(ConfigError, match=r"on_something: .*give it in code"):
        Observed.from_config(mapping(on_something="print"))


def test_what_a_class_says_of_the_whole() -> None:
    """What a class checks across its fields is told too, with no key of its own."""

    class Strict(GatewayRunnable):
        @model_validator(mode="after")
        def _refuse(self) -> Any:
            raise ValueError("these do not go together")

    with pytest.raises(ConfigError) as caught:
        Strict.from_config(mapping(models=[{"model_name": 3}]))
    assert [(problem.key, problem.message) for problem in caught.value.problems] == [
        ("models[0].model_name", "a name is a string, got int"),
        ("models[0].model", "is missing"),
        ("", "these do not go together"),
    ]


def test_one_deployment_twice() -> None:
    """The same object twice is a name twice."""
    ready = ModelDeployment(model_name="ready", model=says())
    (problem,) = problems({"models": [ready, ready]})
    assert problem.key == "models[1].model_name"


def test_many_values_by_aliases(write: Write) -> None:
    """A file of few lines that stands for a billion values is told to be too large, at once."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 10)]
    found = problems(write("\n".join(lines)))
    assert any("too many values" in problem.message for problem in found)


def test_a_mapping_that_holds_itself() -> None:
    """A mapping without an end is told to be nested too deep."""
    data = mapping()
    data["name"] = data
    assert "nested too deep" in str(problems(data))


# --- without langchain -----------------------------------------------------------------------


def test_without_langchain(monkeypatch: pytest.MonkeyPatch) -> None:
    """A string needs `langchain`, and the error says what to install."""
    monkeypatch.setitem(sys.modules, "langchain.chat_models", None)
    (problem,) = problems(with_keywords())
    assert problem[2:] == (
        "models[0].model",
        "a model given as a string is made by langchain: pip install langchain",
    )


def test_providers_are_those_of_langchain() -> None:
    """A model string that langchain takes is taken, with or without a provider in it."""
    for text in ("gpt-4o-mini", "openai:ft:gpt-4o:acme::1", "anthropic:claude-x"):
        key = {"api_key": SecretStr("a-key")}
        data = {"models": [{"model_name": "one", "model": text, "with": key}]}
        gateway = GatewayRunnable.from_config(data)
        assert gateway["one"] == ModelDeployment(
            model_name="one", model=init_chat_model(text, **key)
        )


# --- the error -------------------------------------------------------------------------------


def test_the_error_is_readable(write: Write) -> None:
    """One mistake is one line, several are a list, many are cut; all say where to look."""
    path = write("models: []")
    error = ConfigError(problems(path))
    assert str(error) == (f"{path}:1: models: give a list of deployments, at least one, better two")
    path = write("models: []\nname: 3\n")
    lines = str(ConfigError(problems(path))).splitlines()
    assert lines[0] == "2 mistakes in the configuration:"
    assert lines[1].startswith(f"  {path}:1: models: ")
    assert lines[2].startswith(f"  {path}:2: name: ")
    path = write("".join(f"k{i}: 1\n" for i in range(100)))
    lines = str(ConfigError(problems(path))).splitlines()
    assert len(lines) == 32
    assert lines[-1] == "  and 71 more"


def test_the_error_is_a_value_error_that_pickles() -> None:
    """It is caught as a `ValueError`, and survives a process boundary with all problems."""
    error = ConfigError(problems({"models": [], "name": 3}))
    assert isinstance(error, ValueError)
    again = pickle.loads(pickle.dumps(error))
    assert (again.problems, str(again)) == (error.problems, str(error))


# --- whatever is in the file -----------------------------------------------------------------

FUZZ = settings(
    deadline=None,
    max_examples=50,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

WORDS = st.sampled_from(
    [
        "models",
        "model_name",
        "model",
        "with",
        "env",
        "retry",
        "time_constraints",
        "timeout",
        "days",
        "start",
        "end",
        "openai:gpt-4o",
        "22:00",
        "headers",
        "api_key",
        "CHEAP_KEY",
        "reject",
        "exceptions_to_handle",
        "name",
        "state",
        "on_event",
        "strict_preference",
        "<<",
        "=",
    ]
)
SCALARS = (
    WORDS
    | st.text(max_size=6)
    | st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.dates()
    | st.binary(max_size=3)
)
DATA: st.SearchStrategy[Any] = st.deferred(
    lambda: SCALARS | st.lists(DATA, max_size=3) | st.dictionaries(WORDS, DATA, max_size=3)
)
GATEWAYS = st.dictionaries(WORDS, DATA, max_size=4).flatmap(
    lambda rest: st.lists(
        st.dictionaries(WORDS, DATA, max_size=4).map(
            lambda extra: {"model_name": "one", "model": "openai:gpt-4o"} | extra
        ),
        max_size=3,
    ).map(lambda models: {"models": models} | rest)
)


def built_or_told(source: Any) -> None:
    """A gateway, or a `ConfigError` whose problems say something."""
    try:
        assert isinstance(GatewayRunnable.from_config(source), GatewayRunnable)
    except ConfigError as caught:
        error = caught
    else:
        return
    assert error.problems
    assert all(problem.message and str(problem).isprintable() for problem in error.problems)
    assert KEYS["CHEAP_KEY"] not in str(error)


@FUZZ
@given(data=GATEWAYS | DATA)
@pytest.mark.usefixtures("_keys")
def test_any_mapping_is_built_or_told(data: Any) -> None:
    """Whatever a mapping holds, the outcome is a gateway or a `ConfigError`."""
    built_or_told(data)


@FUZZ
@given(data=GATEWAYS | DATA)
@pytest.mark.usefixtures("_keys")
def test_any_yaml_data_is_built_or_told(tmp_path: Path, data: Any) -> None:
    """Whatever well-formed YAML holds, the outcome is a gateway or a `ConfigError`."""
    path = tmp_path / "any.yaml"
    path.write_text(yaml.safe_dump(data, allow_unicode=True), encoding="utf-8", errors="replace")
    built_or_told(path)


@FUZZ
@given(content=st.binary(max_size=80) | st.text(max_size=80).map(lambda t: t.encode("utf-8")))
@pytest.mark.parametrize("name", ["any.yaml", "any.toml"])
def test_any_bytes_are_told(tmp_path: Path, content: bytes, name: str) -> None:
    """Whatever bytes a file holds, the outcome is a gateway or a `ConfigError`."""
    path = tmp_path / name
    path.write_bytes(content)
    built_or_told(path)


PIECES = st.sampled_from(
    ["", " ", "\n", "\t", "&a ", "!!int ", "? ", "\x00", "\x85", "\u2028", "\ufeff", "<<: *a"]
) | st.sampled_from(
    [
        ":",
        "-",
        "[",
        "]",
        "{",
        "}",
        '"',
        "'",
        "*a",
        "!x",
        "#",
        "|",
        ">",
        "%",
        "@",
        "`",
        "22:00",
        "0x_",
        ".inf",
        "2026-99-99",
        "\\U",
        "=",
        "~",
        '"""',
        "[[models]]",
        "\\",
        "...",
    ]
)


@FUZZ
@given(at=st.integers(0, 600), length=st.integers(0, 12), piece=PIECES)
@pytest.mark.parametrize(("text", "name"), [(YAML, "a.yaml"), (TOML, "a.toml")])
@pytest.mark.usefixtures("_keys")
def test_a_good_file_with_a_bad_place_is_built_or_told(
    tmp_path: Path, text: str, name: str, at: int, length: int, piece: str
) -> None:
    """A good file with any small damage gives a gateway or a `ConfigError`."""
    path = tmp_path / name
    path.write_text(text[:at] + piece + text[at + length :], encoding="utf-8")
    built_or_told(path)


@pytest.mark.parametrize(
    "value",
    [
        *('!!int ""', "!!int maybe", '!!float ""', "!!float maybe", '!!bool ""', "!!bool maybe"),
        *('!!timestamp ""', "!!timestamp tomorrow", "2026-02-30", "!!int [1]", "!!seq 1"),
    ],
)
@pytest.mark.usefixtures("_keys")
def test_a_value_that_is_not_of_its_tag_is_told_in_its_line(write: Write, value: str) -> None:
    """Whatever YAML's own reader raises for it."""
    text = YAML.replace("timeout: 60", f"timeout: {value}", 1)
    assert (1, "timeout") in [(each.line, each.key) for each in problems(write(text))]


@pytest.mark.parametrize("at", [0, 1, 2, 3, 5, 6, 7])
@pytest.mark.usefixtures("_keys")
def test_an_unknown_key_is_told_in_its_own_line(write: Write, at: int) -> None:
    """Wherever an unknown key is put between the lines of a good file, its line is the one told."""
    lines = YAML.splitlines()
    path = write("\n".join([*lines[:at], "timout: 1", *lines[at:]]))
    assert [(problem.line, problem.key) for problem in problems(path)] == [(at + 1, "timout")]


def test_the_environment_is_left_alone() -> None:
    """Reading a configuration changes no variable."""
    before = dict(os.environ)
    problems(with_keywords(api_key={"env": "NO_SUCH"}))
    assert dict(os.environ) == before


def test_the_documented_file_is_there() -> None:
    """The file that the documents show is the one that their code reads."""
    docs = Path(__file__).parents[1] / "docs"
    shown = (docs / "configuration.md").read_text(encoding="utf-8")
    file = (docs / "gateway.yaml").read_text(encoding="utf-8")
    assert f"```yaml\n{file}```" in shown
