"""No secret is written, and none is found by a client that nobody gave it to."""

import asyncio
import copy
import json
import logging
import os
import pickle
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from langchain.chat_models import init_chat_model
from langchain_anthropic import ChatAnthropic
from langchain_core.caches import InMemoryCache
from langchain_core.rate_limiters import InMemoryRateLimiter
from langchain_core.runnables import RunnableBinding, RunnableLambda
from langchain_openai import AzureChatOpenAI, ChatOpenAI
from pydantic import Field, PrivateAttr, SecretStr

from langchain_model_gateway import AllModelsFailedError, CooldownPolicy, GatewayRunnable
from langchain_model_gateway.secrets import secret_values
from tests.models import ScriptedChatModel, gateway_over, says
from tests.providers.clients import is_installed, needs

# Google's client in an async call: as an error it would end the call before it is made.
pytestmark = pytest.mark.filterwarnings("ignore:Inheritance class Aiohttp:DeprecationWarning")

KEY, OTHER_KEY = "sk-own-abcdefghijkl", "sk-other-mnopqrstuvw"

# Whatever the clients and their libraries look for.
VARIABLES = (
    *("OPENAI_API_KEY", "OPENAI_ADMIN_KEY", "OPENAI_WEBHOOK_SECRET", "AZURE_OPENAI_API_KEY"),
    *("AZURE_OPENAI_AD_TOKEN", "ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "GOOGLE_API_KEY"),
    *("ANTHROPIC_WEBHOOK_SIGNING_KEY", "GEMINI_API_KEY", "AWS_ACCESS_KEY_ID"),
    *("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_BEARER_TOKEN_BEDROCK"),
    *("LANGSMITH_API_KEY", "LANGSMITH_GATEWAY_API_KEY", "ANTHROPIC_AWS_API_KEY", "CO_API_KEY"),
    *("SOMEBODYS_PASSWORD", "OLLAMA_API_KEY", "HF_TOKEN", "NVIDIA_API_KEY"),
)


class Listener:
    """A provider on this machine that writes down all it is sent, and answers 401."""

    def __init__(self) -> None:
        received = self.received = list[str]()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                received.append(f"{self.path}\n{self.headers}\n{body.decode('latin-1')}")
                self.send_response(401)
                self.send_header("content-length", "2")
                self.send_header("connection", "close")
                self.end_headers()
                self.wfile.write(b"{}")

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture(scope="module")
def listener() -> Iterator[Listener]:
    listener = Listener()
    thread = threading.Thread(target=listener.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield listener
    listener.server.shutdown()
    listener.server.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def _nothing_around(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*VARIABLES, "OPENAI_CUSTOM_HEADERS", "ANTHROPIC_CUSTOM_HEADERS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def sentinels(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.setenv(name, f"SENTINEL-{name}")


def openai(url: str = "http://127.0.0.1:1", key: str = KEY, **fields: Any) -> ChatOpenAI:
    return ChatOpenAI(model="m", api_key=key, base_url=url, **{"max_retries": 0, **fields})


def azure(url: str) -> Any:
    return AzureChatOpenAI(
        azure_endpoint=url, api_version="2024-10-21", api_key=SecretStr(KEY), max_retries=0
    )


def anthropic(url: str = "http://127.0.0.1:1", key: str = KEY, **fields: Any) -> Any:
    model: Any = ChatAnthropic
    return model(model="m", api_key=key, base_url=url, max_retries=0, max_tokens=9, **fields)


def gemini(url: str) -> Any:
    package: Any = import_module("langchain_google_genai")
    return package.ChatGoogleGenerativeAI(model="m", api_key=KEY, base_url=url, max_retries=1)


def bedrock(url: str) -> Any:
    package: Any = import_module("langchain_aws")
    return package.ChatBedrockConverse(
        model="anthropic.claude-3-haiku-20240307-v1:0",
        region_name="us-east-1",
        endpoint_url=url,
        aws_access_key_id=KEY,
        aws_secret_access_key=KEY,
    )


CLIENTS = [openai, azure, anthropic]
CLIENTS += [gemini] if is_installed("langchain_google_genai") else []
CLIENTS += [bedrock] if is_installed("langchain_aws") else []


def loaded(data: Any, *classes: Any, **options: Any) -> GatewayRunnable:
    allowed = [*classes, RunnableBinding]
    return GatewayRunnable.from_serialized(data, allowed_objects=allowed, **options)


def model_of(data: Any, position: int = 0) -> Any:
    return data["kwargs"]["models"][position]["model"]


def key_of(gateway: GatewayRunnable, name: str) -> str:
    model: Any = gateway[name].inner_model
    return str(model.openai_api_key.get_secret_value())


def sent_by(gateway: GatewayRunnable, listener: Listener) -> str:
    """All that the gateway's clients send in a sync and an async call."""

    async def ask() -> None:
        try:
            await gateway.ainvoke("hi")
        finally:
            for _ in range(5):  # a connection that is closing needs a few turns of its loop
                await asyncio.sleep(0)

    listener.received.clear()
    for call in (lambda: gateway.invoke("hi"), lambda: asyncio.run(ask())):
        with pytest.raises(AllModelsFailedError):
            call()
    return "\n".join(listener.received)


def outcome(data: Any, cls: Any, listener: Listener) -> tuple[str, bool]:
    """What a payload comes to: all that its clients send, and true, or its error, and false."""
    try:
        gateway = loaded(data, cls)
    except ValueError as error:
        return str(error), False
    return sent_by(gateway, listener), bool(listener.received)


# --- what a client finds by itself -----------------------------------------------------------

SIBLING = {"__lc_escaped__": 0}


def secret_id(value: Any) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        for argument in model["kwargs"].values():
            if isinstance(argument, dict) and argument.get("type") == "secret":
                argument["id"] = value

    return change


def left_out(model: Any) -> None:
    for name in [n for n, v in model["kwargs"].items() if isinstance(v, dict) and "lc" in v]:
        del model["kwargs"][name]


def without_arguments(model: Any) -> None:
    del model["kwargs"]


def escaped_arguments(model: Any) -> None:
    left_out(model)
    model["kwargs"] = {"__lc_escaped__": model["kwargs"]}


def sibling(model: Any) -> None:
    left_out(model)
    model.update(SIBLING)


CHANGES = {
    "as written": lambda _: None,
    "left out": left_out,
    "escape beside": sibling,
    "escaped arguments": escaped_arguments,
    "no arguments": without_arguments,
    **{
        f"secret {value!r}": secret_id(value)
        for value in ([0], [None], [True], "x", {"OPENAI_API_KEY": 1}, None, [], ["a", "b"])
    },
    "another's name": secret_id(["SOMEBODYS_PASSWORD"]),
}


@pytest.mark.usefixtures("sentinels")
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("make", CLIENTS)
def test_no_client_sends_what_nobody_gave_it(
    make: Callable[[str], Any],
    change: Callable[[Any], None],
    listener: Listener,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever a payload leaves out or bends, no variable of the environment reaches its URL."""
    with monkeypatch.context() as patch:
        for name in VARIABLES:
            patch.delenv(name)
        model = make(listener.url)
        data = gateway_over(model, model).serialize()
    change(model_of(data))
    before = copy.deepcopy(data)
    told, has_sent = outcome(data, type(model), listener)
    assert "SENTINEL" not in told
    assert has_sent or "loaded" in told or "payload's" in told
    assert data == before


def test_an_escape_mark_beside_an_object_is_no_escape(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loader makes an object of it all the same, so its key is filled in all the same."""
    data = gateway_over(openai(), openai()).serialize()
    sibling(model_of(data))
    monkeypatch.setenv("OPENAI_API_KEY", OTHER_KEY)
    assert key_of(loaded(data, ChatOpenAI), "weak") == "[OPENAI_API_KEY was not given]"


@pytest.mark.parametrize("variable", ["OPENAI_API_KEY", "AZURE_OPENAI_AD_TOKEN"])
def test_azure_without_a_key_gets_a_placeholder(
    variable: str, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Azure's client looks in three variables, and in none of them while it is loaded."""
    data = gateway_over(azure(listener.url), azure(listener.url)).serialize()
    left_out(model_of(data))
    monkeypatch.setenv(variable, OTHER_KEY)
    gateway = loaded(data, AzureChatOpenAI)
    assert OTHER_KEY not in sent_by(gateway, listener)
    assert "was not given" in "".join(listener.received)


@pytest.mark.parametrize("make", CLIENTS)
def test_a_missing_key_is_a_placeholder_with_an_empty_environment(
    make: Callable[[str], Any], listener: Listener, caplog: pytest.LogCaptureFixture
) -> None:
    """What stands in a key's place does not depend on what the environment holds."""
    model = make(listener.url)
    data = gateway_over(model, model).serialize()
    left_out(model_of(data))
    gateway = loaded(data, type(model))
    assert any("was not given" in each for each in secret_values(gateway["weak"].model))
    assert "'weak' got no" in caplog.text


JUNK = st.sampled_from(
    [
        *(None, "", "x", 0, True, [], {}, ["x"], {"a": 1}, SIBLING, {"__lc_escaped__": {"a": 1}}),
        *({"lc": 1, "type": "secret", "id": [name]} for name in VARIABLES),
        *({"lc": lc, "type": "secret", "id": i} for lc in (1, True, 1.0) for i in (["X"], "X", 0)),
        {"lc": 1, "type": "secret", "id": ["OPENAI_API_KEY"], **SIBLING},
    ]
).map(copy.deepcopy)  # a later step may change what an earlier one put in
NAMES = st.sampled_from(
    [
        *("api_key", "openai_api_key", "azure_ad_token", "anthropic_api_key", "google_api_key"),
        *("aws_access_key_id", "aws_secret_access_key", "bedrock_api_key", "vertexai", "project"),
        *("credentials_profile_name", "client", "async_client", "model_kwargs", "lc", "id"),
        *("openai_organization", "default_headers", "__lc_escaped__", "http_client"),
    ]
)


def containers(data: Any) -> Iterator[Any]:
    if isinstance(data, dict):
        yield data
    for child in data.values() if isinstance(data, dict) else data:
        if isinstance(child, (dict, list)):
            yield from containers(child)


@pytest.mark.usefixtures("sentinels")
@pytest.mark.parametrize("make", CLIENTS)
def test_no_payload_makes_a_client_send_what_nobody_gave_it(
    make: Callable[[str], Any], listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Payloads changed at random, in several places, never send a variable of the environment."""
    with monkeypatch.context() as patch:
        for name in VARIABLES:
            patch.delenv(name)
        model = make(listener.url)
        original = gateway_over(model.bind(stop=["x"]), model).serialize()

    # The clients of Google and AWS take a second to make.
    examples = 10 if make in {gemini, bedrock} else 30

    @settings(deadline=None, max_examples=examples, suppress_health_check=list(HealthCheck))
    @given(data=st.data())
    def attack(data: Any) -> None:
        payload = copy.deepcopy(original)
        for _ in range(data.draw(st.integers(1, 3))):
            holder = data.draw(st.sampled_from(list(containers(payload))))
            name = data.draw(NAMES | st.sampled_from([*holder, "api_key"]))
            if data.draw(st.booleans()):
                holder.pop(name, None)
            else:
                holder[name] = copy.deepcopy(data.draw(JUNK))
        assert "SENTINEL" not in outcome(payload, type(model), listener)[0]

    attack()
    assert {name: os.environ[name] for name in VARIABLES} == {
        name: f"SENTINEL-{name}" for name in VARIABLES
    }


@pytest.mark.parametrize("make", [openai, anthropic])
def test_headers_that_a_library_takes_from_the_environment_are_an_error(
    make: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What no placeholder can keep out is refused, with the variable's name and not its value."""
    model = make()
    data = gateway_over(model, model).serialize()
    variable = f"{'OPENAI' if make is openai else 'ANTHROPIC'}_CUSTOM_HEADERS"
    monkeypatch.setenv(variable, f"X-Team: search\nX-Token: {OTHER_KEY}")
    with pytest.raises(ValueError, match=rf"'weak'.*{variable}.*secrets_from_env=True") as caught:
        loaded(data, type(model))
    assert OTHER_KEY not in str(caught.value)
    monkeypatch.setenv(variable.replace("CUSTOM_HEADERS", "API_KEY"), KEY)
    assert len(loaded(data, type(model), secrets_from_env=True)) == 2
    monkeypatch.setenv(variable, "")
    assert len(loaded(data, type(model))) == 2


class Odd(ScriptedChatModel):
    """A client that reads the environment in a way of its own."""

    odd_api_key: SecretStr | None = None
    password: str = ""
    credentials: str | None = None
    max_tokens: str = "1"
    _headers: dict[str, str] = PrivateAttr()

    @classmethod
    def is_lc_serializable(cls) -> bool:
        return True

    def model_post_init(self, context: Any) -> None:
        self._headers = {"X": f"Bearer {os.environ.get('ODD_TOKEN')}"}


def odd_payload(**arguments: Any) -> Any:
    data = gateway_over(Odd(), Odd()).serialize()
    model_of(data)["kwargs"] |= arguments
    return data


def test_what_an_unknown_client_finds_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that looks around by itself is refused when it is made."""
    monkeypatch.setenv("ODD_TOKEN", OTHER_KEY)
    with pytest.raises(ValueError, match=r"models\[0\] \('weak'\).*ODD_TOKEN") as caught:
        loaded(odd_payload(), Odd)
    assert OTHER_KEY not in str(caught.value)
    assert len(loaded(odd_payload(), Odd, secrets_from_env=True)) == 2


def test_a_secret_that_was_given_may_be_in_the_environment_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Handing over what the environment has is the caller's right."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    data = gateway_over(openai(), openai()).serialize()
    secrets = {"OPENAI_API_KEY": os.environ["OPENAI_API_KEY"]}
    assert key_of(loaded(data, ChatOpenAI, secrets_map=secrets), "weak") == KEY


def test_every_field_that_is_a_secret_is_filled() -> None:
    """By its type or by its name, also where the class declares no secrets."""
    model: Any = loaded(odd_payload(), Odd)["weak"].inner_model
    assert model.odd_api_key.get_secret_value() == "[odd_api_key was not given]"
    assert model.password == "[password was not given]"
    assert model.max_tokens == "1"


def test_beside_one_secret_the_others_stay_empty() -> None:
    """A client with one key given does not get a wrong one of another kind."""
    model: Any = loaded(odd_payload(password=KEY), Odd)["weak"].inner_model
    assert (model.odd_api_key, model.password) == (None, KEY)


def test_credentials_of_the_machine_are_an_error() -> None:
    """A payload that asks for credentials which lie on the machine is refused, unless asked for."""
    with pytest.raises(ValueError, match=r"'weak'.*'credentials'.*secrets_from_env=True"):
        loaded(odd_payload(credentials="default"), Odd)
    again = loaded(odd_payload(credentials="default"), Odd, secrets_from_env=True)
    assert again["weak"].inner_model.credentials == "default"


# --- what is malformed -----------------------------------------------------------------------

SECRET = {"lc": 1, "type": "secret", "id": ["OPENAI_API_KEY"]}


@pytest.mark.parametrize(
    "place", ["model_preference", "name", "model_name", "window", "reject", "inner preference"]
)
def test_a_secret_outside_a_model_is_refused_and_not_echoed(place: str) -> None:
    """No secret can be put where it would be shown."""
    inner = gateway_over(openai(), openai())
    data = gateway_over(inner, openai()).serialize()
    match place:
        case "model_name":
            data["kwargs"]["models"][0]["model_name"] = SECRET
        case "window":
            data["kwargs"]["models"][0]["time_constraints"] = [[SECRET, "06:00"]]
        case "inner preference":
            model_of(data)["kwargs"]["model_preference"] = SECRET
        case _:
            data["kwargs"][place] = SECRET
    with pytest.raises(ValueError, match=r"kwargs\.") as caught:
        loaded(data, ChatOpenAI, secrets_map={"OPENAI_API_KEY": KEY})
    assert KEY not in str(caught.value)


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ({"lc": 1}, r"\.id must be a list of strings"),
        ({"lc": 1, "type": "x", "id": ["x"]}, "must have 'lc' 1"),
        ({"lc": 2, "type": "secret", "id": ["x"]}, "must have 'lc' 1"),
        ({"lc": 1, "type": "secret", "id": [0]}, r"\.id must be a list of strings"),
        ({"lc": 1, "type": "not_implemented", "id": ["x"], "repr": KEY}, "must have 'lc' 1"),
        ({"lc": 1, "type": "constructor", "id": ["os", "system"]}, "asks for os.system; allowed"),
        (object(), "must be plain data, got object"),
    ],
)
def test_a_malformed_object_is_named_by_its_place(value: Any, told: str) -> None:
    """The error says where in the payload, and nothing that could be a secret."""
    data = gateway_over(openai(), openai()).serialize()
    model_of(data, 1)["kwargs"]["metadata"] = [{"a": value}]
    where = r"kwargs\.models\[1\] \('strong'\)\.model\.kwargs\.metadata\[0\]\.a"
    with pytest.raises(ValueError, match=rf"{where}.*{told}") as caught:
        loaded(data, ChatOpenAI)
    assert KEY not in str(caught.value)


def test_nothing_is_constructed_of_a_payload_with_a_mistake_at_its_end() -> None:
    """The whole payload is read before anything of it is made."""
    data = gateway_over(openai(), openai()).serialize()
    model_of(data, 1)["id"] = ["os", "system"]
    made: list[Any] = []
    with pytest.raises(ValueError, match=r"models\[1\]"):
        loaded(data, ChatOpenAI, init_validator=lambda path, _: made.append(path))
    assert made == []


def test_a_deep_payload_is_a_value_error() -> None:
    """Nesting beyond what LangChain loads is refused, not a RecursionError."""
    deep: Any = []
    for _ in range(5_000):
        deep = [deep]
    data = gateway_over(openai(), openai()).serialize()
    model_of(data)["kwargs"]["metadata"] = {"deep": deep}
    with pytest.raises(ValueError, match="200 levels"):
        loaded(data, ChatOpenAI)


def test_user_data_that_looks_like_an_object_travels() -> None:
    """What LangChain escapes, and what only looks as if it were, comes back as it was."""
    node = {"lc": 1, "type": "secret", "id": ["HOME"]}
    user_data = {"a": node, "b": {"__lc_escaped__": 1}, "c": {"__lc_escaped__": 1, "d": 2}, "e": {}}
    model = openai(model_kwargs=user_data)
    data = json.loads(json.dumps(gateway_over(model, model).serialize()))
    again: Any = loaded(data, ChatOpenAI)["weak"].inner_model
    assert again.model_kwargs == user_data


def test_a_payload_that_was_no_json_yet_loads() -> None:
    """Numbers as keys, and tuples, are plain data too."""
    model = openai(logit_bias={50256: -100})
    data = gateway_over(model, model).serialize()
    model_of(data)["kwargs"]["stop"] = ("x",)
    again: Any = loaded(data, ChatOpenAI)["weak"].inner_model
    assert (again.logit_bias, again.stop) == ({50256: -100}, ["x"])


# --- gateways in gateways --------------------------------------------------------------------


def nested() -> GatewayRunnable:
    inner = gateway_over(openai("http://127.0.0.1:1"), openai("http://127.0.0.1:2", OTHER_KEY))
    return gateway_over(gateway_over(inner, openai()), openai())


def test_inner_deployments_get_their_own_keys() -> None:
    """`"outer/inner"` addresses a deployment at any depth, and comes before those around it."""
    secrets = {
        "weak": {"OPENAI_API_KEY": "key of weak"},
        "weak/weak/strong": {"OPENAI_API_KEY": "key of strong"},
    }
    again = loaded(
        nested().serialize(),
        ChatOpenAI,
        secrets_map={"OPENAI_API_KEY": KEY},
        deployment_secrets=secrets,
    )
    middle: Any = again["weak"].model
    inner: Any = middle["weak"].model
    assert key_of(again, "strong") == KEY
    assert key_of(middle, "strong") == key_of(inner, "weak") == "key of weak"
    assert key_of(inner, "strong") == "key of strong"


def test_unknown_inner_names_are_refused() -> None:
    """A misspelt inner name is an error that lists the names, inner ones too."""
    with pytest.raises(ValueError, match=r"weak/stong.*'weak/weak/strong'"):
        loaded(nested().serialize(), ChatOpenAI, deployment_secrets={"weak/stong": {}})


def test_a_slash_in_a_name_is_no_nesting() -> None:
    """The secrets of `a` are not those of a deployment that is called `a/b`."""
    gateway = GatewayRunnable(
        models=[{"model_name": name, "model": openai()} for name in ("a", "a/b")]
    )
    again = loaded(
        gateway.serialize(), ChatOpenAI, deployment_secrets={"a": {"OPENAI_API_KEY": KEY}}
    )
    assert (key_of(again, "a"), key_of(again, "a/b")) == (KEY, "[OPENAI_API_KEY was not given]")


# --- what would not come back ----------------------------------------------------------------

WRITERS = [GatewayRunnable.serialize, pickle.dumps]


def warnings_of(write: Callable[[Any], Any], gateway: Any, caplog: Any) -> list[str]:
    caplog.clear()
    write(gateway)
    assert all(record.levelno == logging.WARNING for record in caplog.records)
    return [record.getMessage() for record in caplog.records]


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize(
    ("make", "names", "secret"),
    [
        (lambda: nested()["weak"].model, ("weak/weak", "weak/strong"), "OPENAI_API_KEY"),
        (
            lambda: gateway_over(openai("http://a"), openai("http://b")),
            ("weak", "strong"),
            "OPENAI_API_KEY",
        ),
        (
            lambda: gateway_over(openai("http://a"), openai("http://a", OTHER_KEY)),
            ("weak", "strong"),
            "OPENAI_API_KEY",
        ),
        (
            lambda: gateway_over(anthropic("http://a"), anthropic("http://b", OTHER_KEY)),
            ("weak", "strong"),
            "ANTHROPIC_API_KEY",
        ),
    ],
    ids=["nested", "endpoints", "keys", "anthropic"],
)
def test_a_shared_secrets_name_is_a_warning(
    write: Any, make: Any, names: Any, secret: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Writing in either form says whose keys a load would mix up, at any depth."""
    [message] = warnings_of(write, make(), caplog)
    assert all(name in message for name in (*names, secret, "deployment_secrets"))
    assert KEY not in message
    assert OTHER_KEY not in message


@needs("langchain_aws")
@pytest.mark.parametrize("write", WRITERS)
def test_two_regions_of_bedrock_are_two_endpoints(
    write: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """A region is a part of where a model is reached."""
    model = bedrock("http://a")
    other = type(model)(
        model=model.model_id,
        region_name="eu-west-1",
        endpoint_url="http://a",
        aws_access_key_id=KEY,
        aws_secret_access_key=KEY,
    )
    assert "AWS_ACCESS_KEY_ID" in str(warnings_of(write, gateway_over(model, other), caplog))


@pytest.mark.parametrize("write", WRITERS)
def test_a_shared_endpoint_and_key_are_no_warning(
    write: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing would be lost, so nothing is said."""
    assert warnings_of(write, gateway_over(openai(), openai(temperature=0.5)), caplog) == []


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("within", [lambda model: model, lambda model: model.bind(stop=["x"])])
def test_what_langchain_leaves_out_is_a_warning(
    write: Any, within: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """A rate limiter or a cache of a model does not travel, and that is said."""
    limited = openai(rate_limiter=InMemoryRateLimiter(requests_per_second=9))
    gateway = gateway_over(within(limited), within(openai(cache=InMemoryCache())))
    first, second = warnings_of(write, gateway, caplog)
    assert "rate_limiter of deployment 'weak'" in first
    assert "cache of deployment 'strong'" in second


# --- what is not written ---------------------------------------------------------------------


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize(
    "model",
    [
        lambda: openai(default_headers={"X-Key": KEY}),
        lambda: openai(default_headers={"X-Key": OTHER_KEY}),
        lambda: openai(default_headers={"Authorization": "Bearer one-more-secret"}),
        lambda: openai(default_headers={"X-Api-Key": "one-more-secret"}),
        lambda: openai().bind(extra_headers={"X-Key": OTHER_KEY}),
        lambda: openai().bind(extra_headers={"api-key": "one-more-secret"}),
        lambda: openai("http://user:one-more-secret@127.0.0.1:1/v1"),
        lambda: openai("http://one-more-secret@127.0.0.1:1/v1"),
        lambda: openai("http://127.0.0.1:1/v1?api-key=one-more-secret"),
        lambda: openai(openai_proxy="http://user:one-more-secret@127.0.0.1:1"),
        lambda: gateway_over(openai(default_headers={"X-Key": OTHER_KEY}), openai()),
    ],
)
def test_no_secret_is_written_in_plain_text(write: Any, model: Any) -> None:
    """A payload and a pickle hold no deployment's key, nor any password: its place is named."""
    gateway = gateway_over(model(), openai(key=OTHER_KEY))
    with pytest.raises(ValueError, match=r"'weak(/weak)?' cannot be serialized") as caught:
        write(gateway)
    assert not any(s in str(caught.value) for s in (KEY, OTHER_KEY, "one-more-secret"))


class Keyed(ScriptedChatModel):
    """A model without a LangChain form that holds a key."""

    api_key: SecretStr = Field(default=SecretStr(KEY))


class Locked(ScriptedChatModel):
    """A model without a LangChain form that cannot be pickled."""

    lock: Any = Field(default_factory=threading.Lock)


@pytest.mark.parametrize(
    "model",
    [
        Keyed,
        lambda: Keyed().bind(stop=["x"]),
        lambda: init_chat_model("openai:m", configurable_fields=("model",), api_key=KEY),
        lambda: init_chat_model(configurable_fields=("model",), api_key=KEY),
    ],
    ids=["field", "bound", "configurable", "without default"],
)
@pytest.mark.parametrize("around", [lambda model: model, lambda model: gateway_over(model, says())])
def test_a_pickle_of_a_model_that_would_show_its_key_is_refused(around: Any, model: Any) -> None:
    """A model that pickles itself, key and all, is an error that names it."""
    with pytest.raises(ValueError, match=r"'weak' cannot be pickled.*key in plain text") as caught:
        pickle.dumps(gateway_over(around(model()), says()))
    assert KEY not in str(caught.value)


def test_a_model_that_does_not_pickle_is_named() -> None:
    """Where neither form exists, the error says whose model it is."""
    with pytest.raises(TypeError, match=r"'strong' cannot be pickled: Locked.*lock"):
        pickle.dumps(gateway_over(says(), Locked()))


def test_what_cloudpickle_takes_may_be_left_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A function that only cloudpickle can write is no error where cloudpickle is at work."""
    gateway = gateway_over(RunnableLambda(lambda x: x), says())
    with pytest.raises(TypeError, match="'weak'"):
        gateway.__reduce__()

    class Cloudpickle:
        dumps: ClassVar[Any] = staticmethod(lambda _: b"")

    monkeypatch.setitem(sys.modules, "cloudpickle", Cloudpickle)
    assert gateway.__reduce__()


def test_models_without_a_secret_still_pickle() -> None:
    """A gateway in a gateway over plain models comes back as it was."""
    gateway = gateway_over(gateway_over(says("a"), says("b")), says("c"), cooldown=CooldownPolicy())
    assert pickle.loads(pickle.dumps(gateway)) == gateway


# --- secrets by value ------------------------------------------------------------------------


class Raising:
    """What raises at everything."""

    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError(name)


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (openai, {KEY}),
        (lambda: openai().bind(stop=["x"]), {KEY}),
        (lambda: says("x"), set()),
        (lambda: gateway_over(openai(), openai(key=OTHER_KEY)), {KEY, OTHER_KEY}),
        (lambda: openai().with_fallbacks([openai(key=OTHER_KEY)]), {KEY, OTHER_KEY}),
        (lambda: RunnableLambda(lambda x: x) | openai(), {KEY}),
        (lambda: anthropic(default_headers={"X-Api-Key": OTHER_KEY}), {KEY, OTHER_KEY}),
        (
            lambda: openai(default_headers={"Authorization": f"Bearer {OTHER_KEY}"}),
            {KEY, OTHER_KEY},
        ),
        (lambda: openai(f"http://user:{OTHER_KEY}@h/v1"), {KEY, OTHER_KEY}),
        (lambda: openai(f"http://{OTHER_KEY}@h/v1"), {KEY, OTHER_KEY}),
        (lambda: openai(f"http://h/v1?sig={OTHER_KEY}"), {KEY, OTHER_KEY}),
        (lambda: init_chat_model(configurable_fields=("model",), api_key=KEY), {KEY}),
        (lambda: openai(key=lambda: KEY), set()),
        (Raising, set()),
        (lambda: {"a": Raising(), "api_key": KEY}, {KEY}),
        (lambda: None, set()),
        (lambda: openai(default_headers={"X-Team": "search-platform"}), {KEY}),
        (lambda: openai(key="short"), set()),
    ],
)
def test_secrets_are_found_by_value(model: Any, expected: set[str]) -> None:
    """Keys, tokens and passwords are found wherever a model keeps them, and nothing raises."""
    assert set(secret_values(model())) == expected


def test_the_longest_secret_comes_first() -> None:
    """Who masks them one after the other leaves no end of a longer one."""
    assert secret_values([{"api_key": "abcdefgh"}, {"api_key": "abcdefghij"}]) == (
        "abcdefghij",
        "abcdefgh",
    )


# --- models that a call's config chooses -----------------------------------------------------


def test_a_configurable_model_without_a_default_can_be_looked_at() -> None:
    """Where nothing can be asked of a model before a call, the gateway answers without it."""
    model = init_chat_model(configurable_fields=("model",), api_key=KEY)
    gateway = gateway_over(model, openai())
    assert isinstance(gateway.diagnose(), list)
    assert {"weak", "strong"} <= gateway.get_graph().nodes.keys()
    assert gateway.get_input_schema().model_json_schema()
    assert gateway.get_output_schema().model_json_schema()
    assert gateway.as_chat_model().profile is None
    assert gateway.explain().order == ("weak", "strong")
    with pytest.raises(ValueError, match=r"'weak' cannot be serialized.*ConfigurableModel"):
        gateway.serialize()
