"""What is known of each client library, against the real ones where they are installed."""

import importlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from freezegun import freeze_time
from pydantic import SecretStr, create_model

from langchain_model_gateway import Finding, GatewayRunnable
from tests.models import ScriptedChatModel, gateway_over, says
from tests.providers.clients import is_installed, needs

KEY = "sk-0123456789abcdef"
AWS = {"aws_access_key_id": "A" * 16, "aws_secret_access_key": "b" * 32}
MANY = 12
"""Requests after which a failing server says something that nobody retries."""


def findings(gateway: GatewayRunnable) -> list[Finding]:
    with freeze_time("2026-06-01"):
        return gateway.diagnose()


def told_calls(model: Any) -> float:
    """How many requests for one attempt the diagnosis tells."""
    found = findings(gateway_over(model, says("b"), retry={"max_attempts": 2}))
    [message] = [f.message for f in found if f.code == "client-retries"] or ["up to 1 calls"]
    if "without a bound" in message:
        return float("inf")
    return float(message.partition("up to ")[2].partition(" calls")[0])


# --- the real clients ------------------------------------------------------------------------


class Failing(ThreadingHTTPServer):
    """A provider that is down: it counts the requests, and answers each with its status."""

    daemon_threads = True
    requests = 0
    status = 500

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Failing

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("content-length") or 0))
        self.server.requests += 1
        if self.server.status == CUT:
            self.close_connection = True
            return
        status = self.server.status if self.server.requests < MANY else 401
        body = json.dumps({"error": {"message": "down", "code": status}, "message": "down"})
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.send_header("connection", "close")
        self.end_headers()
        self.wfile.write(body.encode())

    def do_GET(self) -> None:
        self.do_POST()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> Iterator[Failing]:
    """A provider that fails, and clients that do not wait between their calls."""
    monkeypatch.setattr(time, "sleep", lambda _: None)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    with Failing(("127.0.0.1", 0), Handler) as server:
        monkeypatch.setenv("PERPLEXITY_BASE_URL", server.url)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def real(module: str, name: str, url: str, fields: dict[str, Any]) -> Any:
    """A real client whose fields name the server's address as `URL`."""
    filled = {k: v.replace("URL", url) if isinstance(v, str) else v for k, v in fields.items()}
    cls = getattr(importlib.import_module(module), name)
    if name == "ChatHuggingFace":
        endpoint = importlib.import_module(module).HuggingFaceEndpoint
        return cls(llm=endpoint(task="text-generation", **filled), model_id="m")
    return cls(**filled)


KNOWN: dict[str, dict[str, Any]] = {
    "langchain_openai ChatOpenAI": {"model": "m", "api_key": KEY, "base_url": "URL/v1"},
    "langchain_openai AzureChatOpenAI": {
        "azure_deployment": "m",
        "api_version": "2024-02-01",
        "api_key": KEY,
        "azure_endpoint": "URL",
    },
    "langchain_anthropic ChatAnthropic": {"model": "m", "api_key": KEY, "base_url": "URL"},
    "langchain_deepseek ChatDeepSeek": {"model": "m", "api_key": KEY, "api_base": "URL/v1"},
    "langchain_xai ChatXAI": {"model": "m", "api_key": KEY, "xai_api_base": "URL/v1"},
    "langchain_groq ChatGroq": {"model": "m", "api_key": KEY, "base_url": "URL"},
    "langchain_fireworks ChatFireworks": {"model": "m", "api_key": KEY, "base_url": "URL"},
    "langchain_perplexity ChatPerplexity": {"model": "m", "api_key": KEY},
    "langchain_google_genai ChatGoogleGenerativeAI": {
        "model": "gemini-x",
        "google_api_key": KEY,
        "base_url": "URL",
    },
    "langchain_mistralai ChatMistralAI": {"model": "m", "api_key": KEY, "base_url": "URL/v1"},
    "langchain_ollama ChatOllama": {"model": "m", "base_url": "URL"},
    "langchain_huggingface ChatHuggingFace": {
        "endpoint_url": "URL",
        "huggingfacehub_api_token": KEY,
    },
    "langchain_litellm ChatLiteLLM": {"model": "openai/m", "api_key": KEY, "api_base": "URL/v1"},
    "langchain_cohere ChatCohere": {"model": "m", "cohere_api_key": KEY, "base_url": "URL"},
    "langchain_nvidia_ai_endpoints ChatNVIDIA": {
        "model": "m",
        "api_key": f"nvapi-{KEY}",
        "base_url": "URL/v1",
    },
    "langchain_openrouter ChatOpenRouter": {"model": "m", "api_key": KEY, "base_url": "URL"},
    "langchain_aws ChatBedrockConverse": {
        "model": "amazon.nova-lite-v1:0",
        "region_name": "us-east-1",
        "endpoint_url": "URL",
        **AWS,
    },
    "langchain_aws ChatBedrock": {
        "model": "anthropic.claude-3-haiku-20240307-v1:0",
        "region_name": "us-east-1",
        "endpoint_url": "URL",
        **AWS,
    },
}
CLIENTS = {name: fields for name, fields in KNOWN.items() if is_installed(name.split()[0])}

# Advice other than max_retries=0, as fields and as bound keywords.
ADVICE: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "ChatGoogleGenerativeAI": ({"max_retries": 1}, {}),
    "ChatMistralAI": ({"max_retries": 1}, {}),
    "ChatLiteLLM": ({"max_retries": 1, "model_kwargs": {"max_retries": 0}}, {}),
    "ChatCohere": ({}, {"request_options": {"max_retries": 0}}),
    "ChatOpenRouter": ({}, {"retries": None}),
}
NEVER_RETRIES = {"ChatOllama", "ChatHuggingFace", "ChatNVIDIA"}
CUT = 0
"""In a status' place: the connection is closed with no answer. Mistral retries nothing else."""


def requests(server: Failing, model: Any) -> int:
    server.requests = 0
    with pytest.raises(Exception):  # noqa: B017
        model.invoke("hi")
    return server.requests


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("advised", [False, True], ids=["as it comes", "as advised"])
@pytest.mark.parametrize("client", CLIENTS, ids=lambda each: each.partition(" ")[2])
def test_a_clients_calls_are_as_many_as_are_told(
    provider: Failing, client: str, advised: bool
) -> None:
    """A real client asks a failing server as often as the diagnosis says; as advised, once."""
    module, name = client.split()
    fields, keywords = ADVICE.get(name, ({"max_retries": 0}, {})) if advised else ({}, {})
    if name in NEVER_RETRIES:
        fields = {}
    model = real(module, name, provider.url, {**CLIENTS[client], **fields}).bind(**keywords)
    told = told_calls(model)
    assert told == 1 if advised or name in NEVER_RETRIES else told > 1
    provider.status = CUT if name == "ChatMistralAI" else 500
    assert requests(provider, model) == min(told, MANY)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("client", CLIENTS, ids=lambda each: each.partition(" ")[2])
def test_one_endpoint_and_key_of_each_client(client: str) -> None:
    """Two real clients share an endpoint if address and key are the same, else not."""
    module, name = client.split()
    fields = CLIENTS[client]
    first, same, elsewhere = (
        real(module, name, url, fields)
        for url in ("http://a.test", "http://a.test", "http://b.test")
    )
    assert shared(first, same)
    if "URL" in "".join(map(str, fields.values())):
        assert not shared(first, elsewhere)
    secrets = {k: "other-" + v for k, v in fields.items() if "key" in k or "token" in k}
    if secrets:
        assert not shared(first, real(module, name, "http://a.test", {**fields, **secrets}))


def shared(*models: Any) -> bool:
    return "shared-endpoint" in {each.code for each in findings(gateway_over(*models))}


@needs("langchain_aws")
def test_two_regions_are_two_endpoints() -> None:
    """Two regions of one account do not fail together."""
    check_that_it_is_told_apart(
        "langchain_aws", "ChatBedrockConverse", {"region_name": "us-east-1"}, "eu-west-1"
    )


@needs("langchain_litellm")
@pytest.mark.filterwarnings("ignore")
def test_two_providers_behind_one_client_are_two_endpoints() -> None:
    """LiteLLM has no address of its own: who is asked stands in the model's name."""
    check_that_it_is_told_apart(
        "langchain_litellm", "ChatLiteLLM", {"model": "openai/m"}, "anthropic/m"
    )


def check_that_it_is_told_apart(module: str, name: str, given: dict[str, str], other: str) -> None:
    fields = {k: v for k, v in CLIENTS[f"{module} {name}"].items() if "URL" not in str(v)}
    one, two = (real(module, name, "", {**fields, **each}) for each in (given, given))
    three = real(module, name, "", {**fields, **dict.fromkeys(given, other)})
    assert shared(one, two)
    assert not shared(one, three)


# --- stand-ins, where the real ones are not installed ----------------------------------------


def stand_in(name: str, **fields: Any) -> Any:
    """A model with a client's class name and fields: all that the diagnosis looks at."""
    declared: dict[str, Any] = {field: (Any, value) for field, value in fields.items()}
    return create_model(name, __base__=ScriptedChatModel, **declared)()


@pytest.mark.parametrize(
    ("model", "keywords", "calls"),
    [
        (lambda: stand_in("ChatAnthropic", max_retries=2), {}, 3),
        (lambda: stand_in("ChatFireworks", max_retries=None), {}, 1),
        (lambda: stand_in("ChatGoogleGenerativeAI", max_retries=6), {}, 6),
        (lambda: stand_in("ChatGoogleGenerativeAI", max_retries=0), {}, 1),
        (lambda: stand_in("ChatGoogleGenerativeAI", max_retries=6), {"max_retries": 1}, 1),
        (lambda: stand_in("ChatMistralAI", max_retries=5), {}, 5),
        (lambda: stand_in("ChatMistralAI", max_retries=1), {}, 1),
        (lambda: stand_in("ChatBedrockConverse", max_retries=None), {}, 3),
        (lambda: stand_in("ChatBedrockConverse", max_retries=0), {}, 1),
        (lambda: stand_in("ChatLiteLLM", max_retries=2, model_kwargs={}), {}, 6),
        (lambda: stand_in("ChatLiteLLM", max_retries=1), {"max_retries": 0}, 1),
        (lambda: stand_in("ChatLiteLLM", model_kwargs={"max_retries": 0}), {}, 1),
        (lambda: stand_in("ChatCohere", max_retries=0), {}, 3),
        (lambda: stand_in("ChatCohere"), {"request_options": {"max_retries": 0}}, 1),
        (lambda: stand_in("ChatOpenRouter", max_retries=0), {}, float("inf")),
        (lambda: stand_in("ChatOpenRouter"), {"retries": None}, 1),
        (lambda: stand_in("ChatOllama"), {}, 1),
        (lambda: stand_in("ChatHomeMade", max_retries=4), {}, 5),
    ],
)
def test_how_each_client_counts(
    model: Callable[[], Any], keywords: dict[str, Any], calls: float
) -> None:
    """Each library's own way to count retries is known, also where they are bound."""
    assert told_calls(model().bind(**keywords)) == calls


def test_retries_without_a_bound_hurt_without_the_gateways() -> None:
    """A client that never stops by itself is told also where the gateway does not retry."""
    [finding] = findings(gateway_over(stand_in("ChatOpenRouter", request_timeout=9_000), says("b")))
    assert finding.code == "client-retries"
    assert finding.advice == "Leave retrying to the gateway: call .bind(retries=None)"


@pytest.mark.parametrize(
    ("name", "field", "seconds"),
    [
        ("ChatAnthropic", "default_request_timeout", 30),
        ("ChatGoogleGenerativeAI", "timeout", 30),
        ("ChatCohere", "timeout_seconds", 30),
        ("ChatOllama", "client_kwargs", {"timeout": 30}),
        ("ChatOpenRouter", "request_timeout", 30_000),
        ("ChatGroq", "request_timeout", (5, 30)),
    ],
)
def test_where_each_clients_timeout_stands(name: str, field: str, seconds: Any) -> None:
    """A timeout is found by each library's own name for it; without one the client waits on."""
    bound = {"ChatOpenRouter": {"retries": None}, "ChatCohere": {"request_options": {}}}
    keywords = bound.get(name, {})
    limited = stand_in(name, max_retries=1, **{field: seconds}).bind(**keywords)
    endless = stand_in(name, max_retries=1, **{field: None}).bind(**keywords)
    assert "no-timeout" in {each.code for each in findings(gateway_over(endless, says("b")))}
    assert findings(gateway_over(limited, says("b"))) == []


def test_openrouters_timeout_is_in_milliseconds() -> None:
    """A timeout is told in seconds, whatever unit its library takes."""
    model = stand_in("ChatOpenRouter", request_timeout=30_000).bind(retries=None)
    told = " ".join(map(str, findings(gateway_over(model, says("b"), timeout=20, cooldown={}))))
    assert "one attempt may take 30 s, the whole call only 20 s" in told


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("ChatAnthropic", "anthropic_api_url"),
        ("ChatBedrockConverse", "region_name"),
        ("ChatBedrockConverse", "endpoint_url"),
        ("ChatCohere", "base_url"),
        ("ChatDeepSeek", "api_base"),
        ("ChatMistralAI", "endpoint"),
        ("ChatNVIDIA", "base_url"),
        ("ChatOllama", "base_url"),
    ],
)
def test_where_each_clients_endpoint_stands(name: str, field: str) -> None:
    """An address is found by each library's own name for it."""
    one, same, other = (
        stand_in(name, key=SecretStr(KEY), **{field: place}) for place in ("here", "here/", "there")
    )
    assert shared(one, same)
    assert not shared(one, other)
    assert not shared(one, stand_in(name, key=SecretStr("another"), **{field: "here"}))


def test_a_local_server_is_shared_without_a_key() -> None:
    """Two models of one Ollama server share it, also where no address is given."""
    assert shared(stand_in("ChatOllama", model="a"), stand_in("ChatOllama", model="b"))


def test_a_client_that_cannot_be_read_is_not_suspected() -> None:
    """A model whose attributes raise is examined like one that says nothing of itself."""

    class Closed(ScriptedChatModel):
        @property
        def max_retries(self) -> int:
            raise TypeError("no default model")

        request_timeout = timeout = profile = max_retries

    assert findings(gateway_over(Closed(), says("b"), retry={})) == []
