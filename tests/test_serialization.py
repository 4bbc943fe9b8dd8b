"""A gateway as data: `dumpd`, `load`, pickle and copies, over real clients."""

import builtins
import copy
import json
import logging
import pickle
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import langchain_core.exceptions
import pytest
from freezegun import freeze_time
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.exceptions import ModelRateLimitError
from langchain_core.load import dumpd, dumps, load
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate, HumanMessagePromptTemplate, PromptTemplate
from langchain_core.runnables import RunnableBinding, RunnableLambda, RunnableSequence
from langchain_openai import AzureChatOpenAI, ChatOpenAI
from pydantic import SecretStr

from langchain_model_gateway import (
    AllModelsFailedError,
    CooldownPolicy,
    GatewayRunnable,
    HedgePolicy,
    ModelDeployment,
    RetryPolicy,
    TimeWindow,
)
from tests.models import gateway_over, says

WEAK_KEY, STRONG_KEY = "sk-weak-abcdefghijkl", "sk-strong-mnopqrstuvw"
SECRET = {"OPENAI_API_KEY": WEAK_KEY}
ID = ["langchain_model_gateway", "GatewayRunnable"]


@pytest.fixture(autouse=True)
def _no_keys_around(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def client(port: int = 1, key: str = WEAK_KEY, **fields: Any) -> ChatOpenAI:
    settings = {"base_url": f"http://127.0.0.1:{port}/v1", "max_retries": 0, **fields}
    return ChatOpenAI(model="gpt-4o-mini", api_key=key, **settings)


def two_clients(**options: Any) -> GatewayRunnable:
    return gateway_over(client(1, WEAK_KEY), client(2, STRONG_KEY), **options)


def one_endpoint(**options: Any) -> GatewayRunnable:
    """Two clients that share endpoint and key."""
    return gateway_over(client(), client(temperature=0.5), **options)


def full() -> GatewayRunnable:
    """A gateway with everything that can be set."""
    return GatewayRunnable(
        name="front",
        models=[
            ModelDeployment(
                model_name="weak",
                model=client(),
                time_constraints=[
                    ("22:00", "06:00"),
                    TimeWindow(start="9:0", end="17:00", timezone="Asia/Tokyo", days=["mon"]),
                ],
                timeout=5,
                stall_timeout=2.5,
            ),
            {"model_name": "strong", "model": client().bind(stop=["x"])},
        ],
        model_preference="strong",
        strict_preference=True,
        exceptions_to_handle=(ValueError, ModelRateLimitError),
        retry=RetryPolicy(max_attempts=5, initial_delay=0.25),
        cooldown=CooldownPolicy(duration=5),
        timeout=60,
        reject=("empty", "length"),
    )


def key_of(gateway: GatewayRunnable, name: str) -> str:
    model: Any = gateway[name].inner_model
    return str(model.openai_api_key.get_secret_value())


def revived(data: Any, **options: Any) -> GatewayRunnable:
    settings = {"allowed_objects": [ChatOpenAI, RunnableBinding], "secrets_map": SECRET, **options}
    return GatewayRunnable.from_serialized(data, **settings)


def plainly_loaded(data: Any, *classes: Any, **options: Any) -> Any:
    """What LangChain's own `load` makes of it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is in beta
        return load(
            data,
            allowed_objects=[GatewayRunnable, ChatOpenAI, *classes],
            valid_namespaces=["langchain_model_gateway"],
            **{"secrets_map": SECRET, **options},
        )


def nodes(data: Any) -> Iterator[Any]:
    """A payload's values, at every depth."""
    yield data
    children = data.values() if isinstance(data, dict) else data
    for child in children if isinstance(data, (dict, list)) else ():
        yield from nodes(child)


# --- the round trip --------------------------------------------------------------------------

GATEWAYS = [
    pytest.param(one_endpoint, id="plain"),
    pytest.param(full, id="full"),
    pytest.param(lambda: gateway_over(client().bind(stop=["x"]), client()), id="bound"),
    pytest.param(lambda: one_endpoint().prefer("strong"), id="preferring"),
    pytest.param(lambda: gateway_over(one_endpoint(), client()), id="nested"),
]


@pytest.mark.parametrize("make", GATEWAYS)
def test_dumpd_and_load_give_an_equal_gateway(make: Callable[[], GatewayRunnable]) -> None:
    """The gateway's and the models' own classes are all the allow-list needs."""
    gateway = make()
    again = plainly_loaded(dumpd(gateway), RunnableBinding)
    assert type(again) is GatewayRunnable
    assert again == gateway
    assert dumpd(again) == dumpd(gateway)


@pytest.mark.parametrize("make", GATEWAYS)
def test_serialize_and_from_serialized_give_an_equal_gateway(
    make: Callable[[], GatewayRunnable],
) -> None:
    """So do the gateway's own two, by way of JSON, with the package's part filled in."""
    gateway = make()
    again = revived(json.loads(json.dumps(gateway.serialize())))
    assert again == gateway
    assert again.serialize() == gateway.serialize()
    assert key_of(again, "strong") == WEAK_KEY


def test_serialize_is_dumpd() -> None:
    """Both write the same, and so does `dumps`."""
    gateway = full()
    assert gateway.serialize() == dumpd(gateway) == json.loads(dumps(gateway))


def test_a_chain_is_a_deployment_that_travels() -> None:
    """A chain of serializable parts comes back as that chain."""
    chain = ChatPromptTemplate.from_template("{x}") | client()
    gateway = gateway_over(chain, client())
    again = revived(
        gateway.serialize(),
        allowed_objects=[
            *(ChatOpenAI, RunnableSequence, ChatPromptTemplate),
            *(HumanMessagePromptTemplate, PromptTemplate),
        ],
    )
    assert again == gateway
    assert again["weak"].model.first.input_variables == ["x"]


def test_a_gateway_in_a_chain_travels() -> None:
    """LangChain writes and reads a chain with a gateway in it."""
    chain = one_endpoint() | StrOutputParser()
    again = plainly_loaded(dumpd(chain), RunnableSequence, StrOutputParser)
    assert again.first == chain.first


def test_a_chat_model_face_travels() -> None:
    """`as_chat_model()` is written under its own name and comes back as one."""
    face = one_endpoint().as_chat_model()
    data = face.serialize()
    assert data["id"] == ["langchain_model_gateway", "GatewayChatModel"]
    again = type(face).from_serialized(data, allowed_objects=[ChatOpenAI], secrets_map=SECRET)
    assert type(again) is type(face)
    assert again == face


class OwnGateway(GatewayRunnable):
    """A subclass with a field of its own."""

    team: str = "core"


def test_a_subclass_travels() -> None:
    """A subclass is named by its own module, and comes back with its own fields."""
    gateway = OwnGateway(models=list(one_endpoint().models), team="search")
    data = gateway.serialize()
    assert data["id"] == [*__name__.split("."), "OwnGateway"]
    again = OwnGateway.from_serialized(data, allowed_objects=[ChatOpenAI], secrets_map=SECRET)
    assert type(again) is OwnGateway
    assert again == gateway
    assert again != one_endpoint()


# --- what is written -------------------------------------------------------------------------


def test_a_payload_is_plain_json_that_names_the_package_root() -> None:
    """Each deployment is plain data, its model in LangChain's form, defaults left out."""
    data = full().serialize()
    assert json.loads(json.dumps(data)) == data
    assert data["id"] == ID
    weak, strong = data["kwargs"]["models"]
    assert weak["model_name"] == "weak"
    assert weak["model"]["id"][-1] == "ChatOpenAI"
    assert weak["time_constraints"] == [
        {"start": "22:00", "end": "06:00"},
        {"start": "09:00", "end": "17:00", "timezone": "Asia/Tokyo", "days": ["mon"]},
    ]
    assert (weak["timeout"], weak["stall_timeout"]) == (5, 2.5)
    assert strong.keys() == {"model_name", "model"}
    assert data["kwargs"]["retry"] == {"max_attempts": 5, "initial_delay": 0.25}
    assert data["kwargs"]["exceptions_to_handle"] == ["ValueError", "ModelRateLimitError"]
    assert data["kwargs"]["reject"] == ["empty", "length"]
    assert one_endpoint().serialize()["kwargs"].keys() == {"models"}


@pytest.mark.parametrize("make", [p.values[0] for p in GATEWAYS])
def test_a_payload_has_no_keys_and_nothing_that_does_not_load(
    make: Callable[[], GatewayRunnable],
) -> None:
    """Keys are references, and no object is written as a repr."""
    data = make().serialize()
    assert WEAK_KEY not in json.dumps(data)
    kinds = {node["type"] for node in nodes(data) if isinstance(node, dict) and "lc" in node}
    assert kinds == {"constructor", "secret"}


def test_a_payload_is_a_copy() -> None:
    """Editing a payload does not change the gateway it was written from."""
    gateway = full()
    before = gateway.serialize()
    data = gateway.serialize()
    for node in list(nodes(data)):
        if isinstance(node, dict):
            node.clear()
    assert gateway.serialize() == before


@pytest.mark.parametrize(
    "model",
    [
        lambda: client(default_headers={"X-Key": WEAK_KEY}),
        lambda: client(default_headers={"Authorization": f"Bearer {WEAK_KEY}"}),
        lambda: client(model_kwargs={"extra_headers": {"X-Key": WEAK_KEY}}),
        lambda: client(default_query={"key": WEAK_KEY}),
        lambda: client().bind(extra_headers={"X-Key": WEAK_KEY}),
        lambda: client().with_config(metadata={"key": WEAK_KEY}),
        lambda: client(key='sk-"quoted"\\é-key', default_headers={"X": 'sk-"quoted"\\é-key'}),
    ],
    ids=["header", "bearer", "model_kwargs", "query", "bound", "metadata", "escaped"],
)
def test_a_key_in_plain_text_is_refused(model: Callable[[], Any]) -> None:
    """A key that also stands in the arguments is refused: the deployment is named, not the key."""
    with pytest.raises(ValueError, match=r"'strong'.*default_headers") as caught:
        gateway_over(client(2, STRONG_KEY), model()).serialize()
    assert WEAK_KEY not in str(caught.value)
    assert "quoted" not in str(caught.value)


@pytest.mark.parametrize(
    "model",
    [
        lambda: client(base_url="http://user:hunter2-secret@127.0.0.1:1/v1"),
        lambda: client(openai_proxy="http://user:hunter2-secret@127.0.0.1:1"),
    ],
    ids=["base_url", "proxy"],
)
def test_no_password_of_a_url_is_written(model: Callable[[], Any]) -> None:
    """A password in an endpoint's URL is a secret: refused or masked, but never written."""
    gateway = gateway_over(client(), model())
    with suppress(ValueError):
        assert "hunter2" not in json.dumps(gateway.serialize())


@pytest.mark.parametrize(
    "model",
    [
        lambda: says("hi"),
        lambda: says("hi").bind(stop=["x"]),
        lambda: client().with_fallbacks([client()]),
        lambda: client().bind(callbacks=object()),
        lambda: RunnableLambda(lambda x: x) | client(),
        lambda: gateway_over(says("a"), says("b")),
    ],
    ids=["own model", "bound", "fallbacks", "bound object", "function", "nested"],
)
def test_what_cannot_be_serialized_is_named(model: Callable[[], Any]) -> None:
    """A deployment with no LangChain form is an error when written, not when loaded."""
    gateway = gateway_over(client(), model())
    for write in (GatewayRunnable.serialize, dumpd):
        with pytest.raises(ValueError, match=r"'(strong|weak|strong/weak)'.*cannot be serialized"):
            write(gateway)


def test_the_refusal_shows_no_repr() -> None:
    """The error about a model that has no form shows nothing of what is in it."""
    with pytest.raises(ValueError) as caught:
        gateway_over(client(), says(WEAK_KEY)).serialize()
    assert WEAK_KEY not in str(caught.value)


def test_different_endpoints_with_one_secrets_name_are_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """`serialize()` says that a load would mix up the keys, and how to keep them apart."""
    two_clients().serialize()
    [record] = caplog.records
    assert (record.name, record.levelno) == ("langchain_model_gateway", logging.WARNING)
    message = record.getMessage()
    assert all(
        part in message for part in ("weak", "strong", "OPENAI_API_KEY", "deployment_secrets")
    )
    assert WEAK_KEY not in message


def test_one_endpoint_is_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    """Deployments that share an endpoint may share its key."""
    one_endpoint().serialize()
    assert caplog.records == []


# --- secrets ---------------------------------------------------------------------------------


def test_each_deployment_gets_its_own_key() -> None:
    """`deployment_secrets` come before `secrets_map`, deployment by deployment."""
    data = two_clients().serialize()
    secrets = {"strong": {"OPENAI_API_KEY": STRONG_KEY}}
    again = revived(data, deployment_secrets=secrets)
    assert (key_of(again, "weak"), key_of(again, "strong")) == (WEAK_KEY, STRONG_KEY)
    secrets["weak"] = {"OPENAI_API_KEY": "sk-other"}
    again = revived(data, deployment_secrets=secrets)
    assert (key_of(again, "weak"), key_of(again, "strong")) == ("sk-other", STRONG_KEY)
    again = revived(data, deployment_secrets=secrets, secrets_map=None)
    assert (key_of(again, "weak"), key_of(again, "strong")) == ("sk-other", STRONG_KEY)
    assert str(again["strong"].inner_model.openai_api_base).endswith(":2/v1")


def test_a_bound_models_key_is_its_deployments() -> None:
    """Also below a binding, a deployment's own secret is used."""
    data = gateway_over(client(1), client(2).bind(stop=["x"])).serialize()
    again = revived(data, deployment_secrets={"strong": {"OPENAI_API_KEY": STRONG_KEY}})
    assert (key_of(again, "weak"), key_of(again, "strong")) == (WEAK_KEY, STRONG_KEY)


def test_secrets_of_nobody_are_refused() -> None:
    """A misspelt deployment among the secrets is an error that lists the names."""
    with pytest.raises(ValueError, match=r"stong.*weak.*strong") as caught:
        revived(two_clients().serialize(), deployment_secrets={"stong": SECRET})
    assert WEAK_KEY not in str(caught.value)


def renamed_secret(name: str) -> Any:
    """A payload whose secrets have another name."""
    text = json.dumps(one_endpoint().serialize())
    return json.loads(text.replace("OPENAI_API_KEY", name))


def test_the_environment_is_not_read_unless_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A payload that names a variable gets its value only with `secrets_from_env=True`."""
    monkeypatch.setenv("SOMEBODYS_PASSWORD", STRONG_KEY)
    data = renamed_secret("SOMEBODYS_PASSWORD")
    with suppress(ValueError):  # as good: a client with no key is refused
        assert key_of(revived(data), "weak") != STRONG_KEY
    assert key_of(revived(data, secrets_from_env=True), "weak") == STRONG_KEY


def test_a_clients_own_variable_is_not_read_unless_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The key around is not sent to the endpoint of a payload that no secret was given for."""
    monkeypatch.setenv("OPENAI_API_KEY", STRONG_KEY)
    data = one_endpoint().serialize()
    with suppress(ValueError):
        model: Any = revived(data, secrets_map=None)["weak"].inner_model
        assert model.root_client.api_key != STRONG_KEY
    assert key_of(revived(data, secrets_map=None, secrets_from_env=True), "weak") == STRONG_KEY


@pytest.mark.parametrize("key", [..., None, ""])
@pytest.mark.parametrize("spelling", ["openai_api_key", "api_key"])
def test_a_payload_that_leaves_its_key_out_gets_none(
    spelling: str, key: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Taking the reference out of a payload does not send the key around to its endpoint."""
    monkeypatch.setenv("OPENAI_API_KEY", STRONG_KEY)
    data = gateway_over(client(1).bind(stop=["x"]), client(2)).serialize()
    arguments = data["kwargs"]["models"][0]["model"]["kwargs"]["bound"]["kwargs"]
    del arguments["openai_api_key"]
    if key is not ...:
        arguments[spelling] = key
    before = copy.deepcopy(data)
    again = revived(data)
    model: Any = again["weak"].inner_model
    assert "was not given" in model.root_client.api_key
    assert STRONG_KEY not in model.root_client.api_key
    assert "'weak' got no OPENAI_API_KEY" in caplog.text
    assert data == before


@pytest.mark.parametrize("given", [None, ""])
def test_a_secret_given_as_nothing_is_not_given(
    given: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lookup that found nothing does not let the client look for itself."""
    monkeypatch.setenv("OPENAI_API_KEY", STRONG_KEY)
    again = revived(one_endpoint().serialize(), secrets_map={"OPENAI_API_KEY": given})
    model: Any = again["weak"].inner_model
    assert STRONG_KEY not in model.root_client.api_key


def azure_payload(**settings: Any) -> Any:
    """A gateway over Azure, as data."""
    azure = AzureChatOpenAI(
        azure_endpoint="http://127.0.0.1:1", api_version="2024-10-21", **settings
    )
    return gateway_over(azure, azure).serialize()


def test_a_key_of_the_other_kind_is_not_found_either(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client with two kinds of key does not take the second from the environment."""
    monkeypatch.delenv("AZURE_OPENAI_AD_TOKEN", raising=False)
    data = azure_payload(api_key=SecretStr(WEAK_KEY))
    options: dict[str, Any] = {"allowed_objects": [AzureChatOpenAI]}
    options["secrets_map"] = {"AZURE_OPENAI_API_KEY": WEAK_KEY}
    model: Any = GatewayRunnable.from_serialized(data, **options)["weak"].inner_model
    assert model.root_client._azure_ad_token is None  # it goes on with its one key
    assert model.root_client.api_key == WEAK_KEY
    monkeypatch.setenv("AZURE_OPENAI_AD_TOKEN", STRONG_KEY)
    model = GatewayRunnable.from_serialized(data, **options)["weak"].inner_model
    assert STRONG_KEY not in f"{model.root_client._azure_ad_token}{model.root_client.api_key}"


def test_the_map_comes_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A secret that is given is not looked up."""
    monkeypatch.setenv("OPENAI_API_KEY", STRONG_KEY)
    data = one_endpoint().serialize()
    assert key_of(revived(data, secrets_from_env=True), "weak") == WEAK_KEY


# --- what may be constructed -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "allowed"),
    [
        (one_endpoint, []),
        (one_endpoint, [RunnableBinding]),
        (full, [ChatOpenAI]),
        (
            lambda: gateway_over(client(), ChatPromptTemplate.from_template("x") | client()),
            [ChatOpenAI],
        ),
    ],
)
def test_nothing_outside_the_list_is_constructed(
    make: Callable[[], GatewayRunnable], allowed: list[Any]
) -> None:
    """A class that is not allowed is refused in an error that says which deployment wants it."""
    with pytest.raises(ValueError, match=r"kwargs.models\[\d\] \('(weak|strong)'\)"):
        revived(make().serialize(), allowed_objects=allowed)


@pytest.mark.parametrize("place", ["model", "time_constraints", "timeout", "retry", "name"])
def test_a_smuggled_constructor_is_refused(place: str) -> None:
    """No argument of a payload, wherever it is, can name a class that is not allowed."""
    smuggled = dumpd(ChatPromptTemplate.from_template("x"))
    data = full().serialize()
    holder = data["kwargs"] if place in {"retry", "name"} else data["kwargs"]["models"][0]
    holder[place] = [smuggled] if place == "time_constraints" else smuggled
    seen: list[Any] = []
    with pytest.raises(ValueError):
        revived(data, init_validator=lambda path, _: seen.append(path[-1]))
    assert "ChatPromptTemplate" not in seen


def test_the_init_validator_sees_every_construction() -> None:
    """It is called with the path and the arguments before each object is made."""
    seen: list[tuple[str, Any]] = []
    data = full().serialize()
    revived(data, init_validator=lambda path, kwargs: seen.append((path[-1], dict(kwargs))))
    assert [name for name, _ in seen] == [
        *("ChatOpenAI", "ChatOpenAI", "RunnableBinding", "GatewayRunnable"),
    ]
    assert seen[0][1]["openai_api_base"] == "http://127.0.0.1:1/v1"


def test_the_init_validator_may_refuse() -> None:
    """What it raises refuses the payload, before the model is made."""

    def only_at_home(path: tuple[str, ...], kwargs: dict[str, Any]) -> None:
        if ":2/" in kwargs.get("openai_api_base", ""):
            raise ValueError("a foreign endpoint")

    with pytest.raises(ValueError, match=r"'strong'.*a foreign endpoint"):
        revived(two_clients().serialize(), init_validator=only_at_home)


def test_the_init_validator_comes_after_langchains_own() -> None:
    """A validator of one's own does not put LangChain's out of action."""
    data = one_endpoint().serialize()
    data["kwargs"]["models"][0]["model"]["kwargs"]["template_format"] = "jinja2"
    seen: list[Any] = []
    with pytest.raises(ValueError, match=r"(?i)jinja2"):
        revived(data, init_validator=lambda path, _: seen.append(path))
    assert seen == []


# --- malformed payloads ----------------------------------------------------------------------


def without(path: str) -> Any:
    return changed(path, ...)


def changed(path: str, value: Any) -> Any:
    """A payload in which the value at a dotted path is another, or gone for `...`."""
    data = full().serialize()
    holder: Any = data
    *way, last = (int(part) if part.isdigit() else part for part in path.split("."))
    for part in way:
        holder = holder[part]
    if value is ...:
        del holder[last]
    else:
        holder[last] = value
    return data


MALFORMED = [
    (None, "NoneType"),
    ("text", "str"),
    ([], "list"),
    (5, "int"),
    ({}, "'lc'"),
    (without("lc"), "'lc'"),
    (changed("lc", 2), "'lc'"),
    (without("type"), "'type'"),
    (changed("type", "secret"), "'type'"),
    (changed("type", "not_implemented"), "'type'"),
    (without("id"), "'id'"),
    (changed("id", []), "'id'"),
    (changed("id", 5), "'id'"),
    (changed("id", "GatewayRunnable"), "'id'"),
    (changed("id", ["langchain_model_gateway", "ModelDeployment"]), "'id'"),
    (changed("id", ["os", "system"]), "'id'"),
    (without("kwargs"), "'kwargs'"),
    (changed("kwargs", None), "'kwargs'"),
    (changed("kwargs", []), "'kwargs'"),
    (changed("kwargs", {}), "models"),
    (without("kwargs.models"), "models"),
    (changed("kwargs.models", None), "models"),
    (changed("kwargs.models", []), "models"),
    (changed("kwargs.models", {}), "models"),
    (changed("kwargs.models.1", None), "models[1]"),
    (changed("kwargs.models.1", "strong"), "models[1]"),
    (changed("kwargs.models.1", {}), "models[1]"),
    (without("kwargs.models.1.model_name"), "model_name"),
    (changed("kwargs.models.1.model_name", 5), "model_name"),
    (changed("kwargs.models.1.model_name", ""), "models[1]"),
    (changed("kwargs.models.1.model_name", "weak"), "'weak'"),
    (without("kwargs.models.1.model"), "models[1]"),
    (changed("kwargs.models.1.model", None), "models[1]"),
    (changed("kwargs.models.1.model", "gpt"), "models[1]"),
    (changed("kwargs.models.1.model", {}), "models[1]"),
    (changed("kwargs.models.1.model", {"lc": 1}), "models[1]"),
    (changed("kwargs.models.1.model", {"lc": 1, "type": "constructor"}), "models[1]"),
    (changed("kwargs.models.1.model.id", []), "models[1]"),
    (changed("kwargs.models.1.model.id", 5), "models[1]"),
    (changed("kwargs.models.1.model.id", ["langchain", "ChatOpenAI"]), "models[1]"),
    (changed("kwargs.models.1.model.type", "not_implemented"), "models[1]"),
    (changed("kwargs.models.1.model.kwargs", []), "models[1]"),
    (changed("kwargs.models.1.model.kwargs", {"bound": 5}), "models[1]"),
    (changed("kwargs.models.1.model.kwargs.bound.kwargs.temperature", "hot"), "models[1]"),
    (changed("kwargs.models.0.model.kwargs.openai_api_key", {"lc": 1, "type": "secret"}), "[0]"),
    (changed("kwargs.models.0.model.kwargs.openai_api_key.id", []), "[0]"),
    (changed("kwargs.models.0.model.kwargs.openai_api_key.id", [[5]]), "[0]"),
    (changed("kwargs.models.0.time_constraints", 5), "time_constraints"),
    (changed("kwargs.models.0.time_constraints", [["22:00"]]), "time_constraints"),
    (changed("kwargs.models.0.time_constraints.0.start", "24:00"), "'24:00'"),
    (changed("kwargs.models.0.time_constraints.0", {"lc": 1, "type": "constructor"}), ""),
    (changed("kwargs.models.0.timeout", "soon"), "timeout"),
    (changed("kwargs.models.0.hours", []), "'hours'"),
    (changed("kwargs.retry", 5), "retry"),
    (changed("kwargs.retry", {"max_attempts": "many"}), "max_attempts"),
    (changed("kwargs.retry", {"lc": 1, "type": "constructor"}), ""),
    (changed("kwargs.retry", {"lc": 1, "type": "constructor", "id": ID, "kwargs": None}), ""),
    (changed("kwargs.retry", {"lc": 1, "type": "secret"}), ""),
    (changed("kwargs.retry", {"lc": 1, "type": "secret", "id": []}), ""),
    (changed("kwargs.cooldown", []), "cooldown"),
    (changed("kwargs.reject", ["boring"]), "reject"),
    (changed("kwargs.reject", [{}]), "reject"),
    (changed("kwargs.timeout", {"lc": 1, "type": "not_implemented"}), ""),
    (changed("kwargs.exceptions_to_handle", ["os.system"]), "os.system"),
    (changed("kwargs.exceptions_to_handle", ["print"]), "print"),
    (changed("kwargs.exceptions_to_handle", [5]), "exceptions_to_handle"),
    (changed("kwargs.exceptions_to_handle", {}), "exceptions_to_handle"),
    (changed("kwargs.fallbacks", []), "fallbacks"),
]


@pytest.mark.parametrize(("data", "told"), MALFORMED, ids=range(len(MALFORMED)))
def test_a_malformed_payload_is_a_clear_value_error(data: Any, told: str) -> None:
    """It says what is wrong where, and is never a bare KeyError or AttributeError."""
    before = copy.deepcopy(data)
    with pytest.raises(ValueError) as caught:
        revived(data)
    assert told in str(caught.value)
    assert WEAK_KEY not in str(caught.value)
    assert data == before


JUNK = st.sampled_from(
    [
        *(None, 0, -1, 1.5, True, "", "x", [], {}, [[]], [None], {"": None}, {"lc": 1}),
        *({"lc": 1, "type": kind} for kind in ("constructor", "secret", "not_implemented", "x")),
        *({"lc": 1, "type": "constructor", "id": i} for i in ([], 5, ["x"], ID, [None, None])),
        *({"lc": 1, "type": "secret", "id": i} for i in ([], 5, ["NOBODY"], ["a", "b"])),
        *({"lc": 1, "type": "constructor", "id": ID, "kwargs": k} for k in (None, 5, {}, [])),
        *({"__lc_escaped__": v} for v in (None, {}, 5)),
    ]
)


@settings(deadline=None, max_examples=150)
@given(data=st.data(), junk=JUNK)
def test_junk_anywhere_in_a_payload_loads_or_is_a_value_error(data: Any, junk: Any) -> None:
    """Whatever stands wherever in a payload, it is a gateway or a ValueError, nothing else."""
    payload = full().serialize()
    holders = [node for node in nodes(payload) if isinstance(node, (dict, list)) and node]
    holder = data.draw(st.sampled_from(holders))
    holder[data.draw(st.sampled_from(sorted(holder) if isinstance(holder, dict) else [0]))] = junk
    with suppress(ValueError):
        assert isinstance(revived(payload), GatewayRunnable)


# --- exceptions by name ----------------------------------------------------------------------

NAMED = [Exception, BaseException, ValueError, TimeoutError, OSError, KeyError, ModelRateLimitError]


@pytest.mark.parametrize("kind", NAMED)
def test_exceptions_travel_by_name(kind: type[BaseException]) -> None:
    """A built-in or LangChain's own class is written by its name and comes back as itself."""
    gateway = one_endpoint(exceptions_to_handle=(kind,))
    again = revived(gateway.serialize())
    assert again.exceptions_to_handle == (kind,)
    assert again == gateway


def test_langchains_exceptions_all_have_a_name_of_their_own() -> None:
    """None of LangChain's model errors is hidden behind a built-in class of the same name."""
    names = [n for n in vars(langchain_core.exceptions) if n.startswith("Model")]
    assert not any(hasattr(builtins, name) for name in names)
    kinds = tuple(getattr(langchain_core.exceptions, name) for name in names)
    assert (
        revived(one_endpoint(exceptions_to_handle=kinds).serialize()).exceptions_to_handle == kinds
    )


class OwnError(Exception):
    """No built-in."""


@pytest.mark.parametrize("kind", [OwnError, type("ValueError", (Exception,), {})])
def test_other_exceptions_are_an_error_when_written(kind: type[Exception]) -> None:
    """A class that cannot travel by name is refused by `serialize()`, which says why."""
    gateway = one_endpoint(exceptions_to_handle=(ValueError, kind))
    with pytest.raises(ValueError, match=rf"exceptions_to_handle.*{kind.__qualname__}"):
        gateway.serialize()
    assert copy.deepcopy(gateway) == gateway


# --- pickle and copies -----------------------------------------------------------------------


def pickled(value: Any) -> Any:
    return pickle.loads(pickle.dumps(value))


@pytest.mark.parametrize("duplicate", [pickled, copy.copy, copy.deepcopy])
@pytest.mark.parametrize("make", GATEWAYS)
def test_pickle_and_copies_give_an_equal_gateway(
    make: Callable[[], GatewayRunnable],
    duplicate: Callable[[Any], Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Real clients hold locks; the gateway over them travels and copies all the same."""
    monkeypatch.setenv("OPENAI_API_KEY", WEAK_KEY)
    gateway = make()
    again = duplicate(gateway)
    assert again is not gateway
    assert again == gateway


def test_a_pickle_has_no_keys_and_reads_them_where_it_arrives(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The bytes hold no key; the environment of the process that reads them does."""
    data = pickle.dumps(one_endpoint())
    assert WEAK_KEY.encode() not in data
    monkeypatch.setenv("OPENAI_API_KEY", STRONG_KEY)
    assert key_of(pickle.loads(data), "weak") == STRONG_KEY


def test_a_bound_gateway_pickles(monkeypatch: pytest.MonkeyPatch) -> None:
    """A binding around a gateway and tools inside it travel too."""
    monkeypatch.setenv("OPENAI_API_KEY", WEAK_KEY)
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    gateway = one_endpoint().bind_tools([tool])
    assert pickled(gateway) == gateway
    bound = gateway.bind(model_preference="strong")
    assert pickled(bound).kwargs == {"model_preference": "strong"}


def test_models_that_have_no_langchain_form_pickle_themselves() -> None:
    """Pickling asks less than serializing: such a model travels by its own pickle."""
    gateway = gateway_over(says("a"), says("b"), exceptions_to_handle=(OwnError,))
    again = pickled(gateway)
    assert again == gateway
    assert again.exceptions_to_handle == (OwnError,)
    assert again.invoke("x").content == "a"


@pytest.mark.parametrize(
    ("duplicate", "is_fresh"),
    [(pickled, True), (copy.deepcopy, True), (GatewayRunnable.model_copy, False)],
)
def test_pickled_and_deep_copied_gateways_start_with_fresh_health(
    duplicate: Callable[[Any], Any], is_fresh: bool
) -> None:
    """What one gateway has learnt of its deployments stays with it and its derived ones."""
    cooldown = CooldownPolicy(failure_threshold=1)
    with freeze_time("2026-03-04 12:00"):
        gateway = gateway_over(says(ConnectionError()), says("b"), cooldown=cooldown)
        gateway.invoke("x")
        assert gateway.explain().order == ("strong", "weak")
        order = duplicate(gateway).explain().order
    assert order == (("weak", "strong") if is_fresh else ("strong", "weak"))


def test_copies_do_not_share_what_is_changed() -> None:
    """A `model_copy` with changes leaves the original as it was."""
    gateway = one_endpoint()
    other = gateway.model_copy(update={"timeout": 5.0})
    assert gateway.timeout is None
    assert other != gateway
    assert other.serialize() != gateway.serialize()


# --- equality --------------------------------------------------------------------------------


def test_equal_gateways_are_equal_and_not_hashable() -> None:
    """Gateways built alike are equal whatever they have been through, as pydantic models are."""
    gateway, other = full(), full()
    assert gateway == other
    assert gateway != 5
    assert gateway != gateway.as_chat_model()
    with pytest.raises(TypeError):
        hash(gateway)


@pytest.mark.parametrize(
    "other",
    [
        lambda: gateway_over(client(), client()),
        lambda: gateway_over(client(), client(port=2, temperature=0.5)),
        lambda: gateway_over(client(temperature=0.5), client()),
        lambda: gateway_over(client(), client(temperature=0.5), client()),
        lambda: one_endpoint(windows={"weak": [("22:00", "06:00")]}),
        lambda: one_endpoint(timeout=5),
        lambda: one_endpoint(retry=RetryPolicy()),
        lambda: one_endpoint(reject=["empty"]),
        lambda: one_endpoint().prefer("weak"),
        lambda: one_endpoint(exceptions_to_handle=(ValueError,)),
    ],
)
def test_gateways_that_differ_are_unequal(other: Callable[[], GatewayRunnable]) -> None:
    """A difference in any setting, order or model shows."""
    assert one_endpoint() != other()


def adder(number: int) -> Any:
    return RunnableLambda(lambda _: number)


def test_different_functions_are_different_models() -> None:
    """Two functions that merely look alike in a repr do not make equal gateways."""
    one, two = adder(1), adder(2)
    assert gateway_over(one, says("a")) != gateway_over(two, says("a"))


def test_models_with_different_replies_are_different() -> None:
    """Models without a LangChain form compare as they do themselves."""
    assert gateway_over(says("a"), says("b")) == gateway_over(says("a"), says("b"))
    assert gateway_over(says("a"), says("b")) != gateway_over(says("a"), says("c"))


def test_a_loaded_gateway_calls(providers: list[Any]) -> None:
    """What comes back is a working gateway, that calls its endpoints in their order."""
    urls = [provider.base_url("openai") for provider in providers]
    header = {"Connection": "close"}
    gateway = gateway_over(
        *(client(base_url=url, default_headers=header, timeout=5) for url in urls)
    )
    answer = revived(gateway.serialize()).invoke("hi")
    assert answer.response_metadata["gateway"] == {"model_name": "weak", "failed": []}


def test_a_loaded_gateway_raises_errors_that_travel() -> None:
    """A real client that cannot connect fails a call with an error that pickles."""
    with pytest.raises(AllModelsFailedError) as caught:
        revived(one_endpoint().serialize()).invoke("hi")
    data = pickle.dumps(caught.value)
    assert WEAK_KEY.encode() not in data
    assert str(pickle.loads(data)) == str(caught.value)


def test_every_traffic_setting_survives() -> None:
    """Balance, limits and hedging are plain data, in a payload and in a pickle."""
    limits = {"weight": 2.0, "tier": 1, "rpm": 60.0, "tpm": 1000.0, "max_concurrency": 3}
    entries = [
        {"model_name": name, "model": ChatOpenAI(model="m", api_key="a-test-key"), **limits}
        for name in ("weak", "strong")
    ]
    gateway = GatewayRunnable(
        models=entries,
        balance="fastest",
        affinity="thread_id",
        max_wait=5,
        hedge=HedgePolicy(delay=1.0, budget=0.1),
        model_fallback=False,
        translate_history=False,
    )
    data = json.loads(json.dumps(gateway.serialize()))
    again = GatewayRunnable.from_serialized(
        data, allowed_objects=[ChatOpenAI], secrets_map={"OPENAI_API_KEY": "a-test-key"}
    )
    assert again == gateway
    assert again["weak"].rpm == 60
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENAI_API_KEY", "a-test-key")
        assert pickle.loads(pickle.dumps(gateway)) == gateway
