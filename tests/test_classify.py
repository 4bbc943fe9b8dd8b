"""What other people's exceptions mean, a row for each client library and fault."""

import json
import ssl
from collections.abc import Callable
from datetime import UTC, datetime
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import httpx
import httpx2
import openai
import pytest
import requests
from langchain_core.exceptions import (
    ContextOverflowError,
    ModelAPIError,
    ModelAuthenticationError,
    ModelConnectionError,
    ModelError,
    ModelInvalidRequestError,
    ModelNotFoundError,
    ModelPermissionDeniedError,
    ModelRateLimitError,
    ModelRefusalError,
    ModelTimeoutError,
    OutputParserException,
)
from langchain_core.messages import AIMessage
from langchain_openai.chat_models.base import (
    OpenAIAuthenticationError,
    OpenAIContextOverflowError,
    OpenAIInvalidRequestError,
    OpenAIRateLimitError,
    OpenAITimeoutError,
)
from llmock.pytest_plugin import LLMock

from langchain_model_gateway import (
    CooldownPolicy,
    EmptyStreamError,
    RejectedAnswerError,
    RetryPolicy,
)
from langchain_model_gateway.classify import (
    is_account_fault,
    is_context_overflow,
    is_neutral,
    is_request_fault,
    is_retryable,
    is_wrong_event_loop,
    provider_status,
    retry_after,
)
from langchain_model_gateway.quoting import portable, quote

from .conftest import CallForm, openai_at
from .models import ScriptedChatModel, gateway_over, says, who
from .providers.clients import is_installed
from .test_errors import caused_by, rate_limited, response, unreachable, validation_error

NOW = datetime(2026, 3, 4, 12, tzinfo=UTC)


def client_error(
    path: str, text: str = "no", base: type[Exception] = Exception, **attributes: Any
) -> Exception:
    """An exception of a class with this module and name, as a library that is not installed has."""
    module, _, name = path.rpartition(".")
    error: Exception = type(name, (base,), {"__module__": module})(text)
    vars(error).update(attributes)
    return error


# --- a row for each client library -----------------------------------------------------------

RETRY, REQUEST, ACCOUNT, OTHER = "retryable", "the request's fault", "the account's fault", "other"


def verdict(error: Exception) -> str:
    """What all that reads an error makes of it, which must agree."""
    says = {
        RETRY: is_retryable(error),
        REQUEST: is_neutral(error),
        ACCOUNT: is_account_fault(error),
    }
    return " and ".join(name for name, holds in says.items() if holds) or OTHER


def openai_stream(**body: Any) -> Exception:
    return openai.APIError("no", response(200).request, body=body)


def anthropic(status: int, kind: str, text: str = "no") -> Exception:
    body = {"type": "error", "error": {"type": kind, "message": text}}
    return client_error("anthropic.APIStatusError", status_code=status, body=body)


def gemini(code: int, status: str, **details: Any) -> Exception:
    inner = {"code": code, "status": status, "message": "no", "details": [details]}
    error = client_error(
        "google.genai.errors.ClientError", code=code, status=status, details={"error": inner}
    )
    return caused_by(error, client_error("langchain_google_genai.ChatGoogleGenerativeAIError"))


def bedrock(status: int | None, code: str, text: str = "no", **headers: str) -> Exception:
    said: dict[str, Any] = {"Error": {"Code": code, "Message": text}}
    if status is not None:
        said["ResponseMetadata"] = {"HTTPStatusCode": status, "HTTPHeaders": headers}
    return client_error("botocore.exceptions.ClientError", response=said)


def cohere(status: int, **headers: str) -> Exception:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return client_error(
        "cohere.errors.CohereError", status_code=status, headers=names, body={"message": "no"}
    )


def openrouter(status: int, body: str = "{}", **headers: str) -> Exception:
    answer = response(status, httpx, **headers)
    return client_error(
        "openrouter.errors.OpenRouterError",
        status_code=status,
        body=body,
        headers=answer.headers,
        raw_response=answer,
    )


def ollama(status: int) -> Exception:
    return client_error("ollama._types.ResponseError", status_code=status)


def aiohttp_cut() -> Exception:
    broken = client_error("aiohttp.http_exceptions.ContentLengthError", code=400)
    return caused_by(broken, client_error("aiohttp.client_exceptions.ClientPayloadError"))


CLIENTS: list[tuple[str, Callable[[], Exception], str]] = [
    ("openai 503", lambda: api_error(503), RETRY),
    ("openai 402", lambda: api_error(402), ACCOUNT),
    ("openai 413", lambda: api_error(413), REQUEST),
    ("openai out of credit", lambda: quota(429), ACCOUNT),
    ("openai stream: its error", lambda: openai_stream(type="server_error"), RETRY),
    ("openai stream: rate", lambda: openai_stream(code="rate_limit_exceeded"), RETRY),
    ("openai stream: code in digits", lambda: openai_stream(code=502), RETRY),
    ("openai stream: credit", lambda: openai_stream(code="insufficient_quota"), ACCOUNT),
    ("openai stream: request", lambda: openai_stream(type="invalid_request_error"), REQUEST),
    ("openai stream: says nothing", openai_stream, OTHER),
    ("responses stream: its error", lambda: ValueError("server_error: no"), RETRY),
    ("responses stream: credit", lambda: ValueError("insufficient_quota: no"), ACCOUNT),
    ("responses stream: prompt", lambda: ValueError("invalid_prompt: no"), REQUEST),
    (
        "responses failed",
        lambda: ValueError("ResponseError(code='server_error', message='no')"),
        RETRY,
    ),
    ("responses failed: rate", lambda: ValueError("code='rate_limit_exceeded' message=''"), RETRY),
    ("responses failed, no reason", lambda: ValueError("Response resp_1 failed."), RETRY),
    ("openai status 200", lambda: ValueError({"message": "no", "code": 429}), RETRY),
    ("openai status 200, no code", lambda: ValueError({"message": "no"}), RETRY),
    ("openai no choices", lambda: KeyError("Response missing 'choices' key: []"), RETRY),
    (
        "openai null choices",
        lambda: TypeError("Received response with null value for 'choices'"),
        RETRY,
    ),
    ("anthropic overloaded", lambda: anthropic(529, "overloaded_error"), RETRY),
    ("anthropic stream: overloaded", lambda: anthropic(200, "overloaded_error"), RETRY),
    ("anthropic stream: its error", lambda: anthropic(200, "api_error"), RETRY),
    ("anthropic stream: request", lambda: anthropic(200, "invalid_request_error"), REQUEST),
    ("anthropic request", lambda: anthropic(400, "invalid_request_error"), REQUEST),
    (
        "anthropic out of credit",
        lambda: anthropic(
            400, "invalid_request_error", "Your credit balance is too low to access the API"
        ),
        ACCOUNT,
    ),
    ("anthropic no key", lambda: TypeError('"Could not resolve authentication method'), ACCOUNT),
    ("anthropic html", lambda: AttributeError("'str' object has no attribute 'model_dump'"), RETRY),
    ("gemini 503", lambda: gemini(503, "UNAVAILABLE"), RETRY),
    ("gemini 429", lambda: gemini(429, "RESOURCE_EXHAUSTED"), RETRY),
    ("gemini 400", lambda: gemini(400, "INVALID_ARGUMENT"), REQUEST),
    ("gemini 413", lambda: gemini(413, "PAYLOAD_TOO_LARGE"), REQUEST),
    ("gemini 422", lambda: gemini(422, "UNPROCESSABLE"), REQUEST),
    (
        "gemini wrong key",
        lambda: gemini(400, "INVALID_ARGUMENT", reason="API_KEY_INVALID"),
        ACCOUNT,
    ),
    (
        "gemini cut",
        lambda: client_error("google.genai.errors.UnknownApiResponseError", base=ValueError),
        RETRY,
    ),
    (
        "google no credentials",
        lambda: client_error("google.auth.exceptions.DefaultCredentialsError"),
        ACCOUNT,
    ),
    ("bedrock throttles", lambda: bedrock(429, "ThrottlingException"), RETRY),
    ("bedrock 503", lambda: bedrock(503, "ServiceUnavailableException"), RETRY),
    ("bedrock request", lambda: bedrock(400, "ValidationException"), REQUEST),
    (
        "bedrock no model",
        lambda: bedrock(400, "ValidationException", "The provided model identifier is invalid."),
        ACCOUNT,
    ),
    ("bedrock access", lambda: bedrock(403, "AccessDeniedException"), ACCOUNT),
    ("bedrock stream: throttles", lambda: bedrock(None, "throttlingException"), RETRY),
    ("bedrock stream: its error", lambda: bedrock(None, "internalServerException"), RETRY),
    ("bedrock stream: request", lambda: bedrock(None, "validationException"), REQUEST),
    (
        "bedrock stream: an event",
        lambda: ValueError("Received AWS exception modelStreamErrorException:\n\n{}"),
        RETRY,
    ),
    ("bedrock stream: cut", lambda: client_error("botocore.eventstream.ParserError"), RETRY),
    ("bedrock connection", lambda: client_error("botocore.exceptions.HTTPClientError"), RETRY),
    (
        "bedrock arguments",
        lambda: client_error("botocore.exceptions.ParamValidationError"),
        REQUEST,
    ),
    (
        "bedrock no credentials",
        lambda: client_error("botocore.exceptions.NoCredentialsError"),
        ACCOUNT,
    ),
    ("cohere 500", lambda: cohere(500), RETRY),
    ("cohere 422", lambda: cohere(422), REQUEST),
    ("cohere 401", lambda: cohere(401), ACCOUNT),
    ("openrouter 502", lambda: openrouter(502), RETRY),
    ("openrouter 402", lambda: openrouter(402), ACCOUNT),
    ("openrouter 200", lambda: openrouter(200, '{"error": {"code": 429}}'), RETRY),
    (
        "openrouter stream",
        lambda: ValueError("OpenRouter API returned an error during streaming: Gone (code: 502)"),
        RETRY,
    ),
    (
        "openrouter stream: credit",
        lambda: ValueError("OpenRouter API returned an error during streaming: Gone (code: 402)"),
        ACCOUNT,
    ),
    ("nvidia 503", lambda: Exception("[503] Service Unavailable\n{}"), RETRY),
    ("nvidia 422", lambda: Exception("[422] Unprocessable\n{}"), REQUEST),
    ("nvidia 401", lambda: Exception("[401] Unauthorized\nPlease check your API key."), ACCOUNT),
    ("ollama 503", lambda: ollama(503), RETRY),
    ("ollama no model", lambda: ollama(404), ACCOUNT),
    ("ollama stream", lambda: ollama(-1), RETRY),
    ("mistral 429", lambda: http_error(429), RETRY),
    ("mistral 422", lambda: http_error(422), REQUEST),
    ("mistral out of credit", lambda: out_of_credit(429), ACCOUNT),
    (
        "litellm out of credit",
        lambda: client_error(
            "litellm.exceptions.RateLimitError",
            'litellm.RateLimitError: XException - {"error": {"code": "insufficient_quota"}}',
            status_code=429,
        ),
        ACCOUNT,
    ),
    (
        "nvidia out of credit, async",
        lambda: Exception("[429] no\n{'error': {'code': 'insufficient_quota'}, 'status': 429}"),
        ACCOUNT,
    ),
    ("nvidia out of credit", lambda: hiding(out_of_credit(429), Exception("[429] no")), ACCOUNT),
    (
        "huggingface overloaded",
        lambda: client_error("huggingface_hub.errors.OverloadedError"),
        RETRY,
    ),
    ("fireworks empty", lambda: Exception("Received empty stream from Fireworks"), RETRY),
    ("aiohttp cut", aiohttp_cut, RETRY),
    (
        "aiohttp 503",
        lambda: client_error("aiohttp.client_exceptions.ClientResponseError", status=503),
        RETRY,
    ),
    ("requests cut", lambda: requests.exceptions.ChunkedEncodingError("no"), RETRY),
    ("requests connection", lambda: requests.exceptions.ConnectionError("no"), RETRY),
    ("requests no json", lambda: requests.exceptions.JSONDecodeError("no", "", 0), OTHER),
    ("httpx cut", lambda: httpx.RemoteProtocolError("no"), RETRY),
    (
        "http.client cut",
        lambda: client_error(
            "http.client.IncompleteRead", base=__import__("http.client").client.HTTPException
        ),
        RETRY,
    ),
    ("an empty stream", lambda: ValueError("No generation chunks were returned"), RETRY),
    ("an empty stream, told", lambda: EmptyStreamError("no"), RETRY),
    ("no json", lambda: json.JSONDecodeError("no", "", 0), OTHER),
    ("no utf-8", lambda: UnicodeDecodeError("utf-8", b"\xff", 0, 1, "no"), OTHER),
    ("no answer of that shape", validation_error, OTHER),
    ("a certificate", lambda: ssl.SSLCertVerificationError("no"), OTHER),
]


@pytest.mark.parametrize(
    ("make", "expected"), [row[1:] for row in CLIENTS], ids=[row[0] for row in CLIENTS]
)
def test_each_clients_errors_are_understood(make: Callable[[], Exception], expected: str) -> None:
    """A client's error means what the server said, also wrapped, and after a pickle's copy."""
    error = make()
    assert verdict(error) == expected
    assert verdict(caused_by(error)) == expected
    assert is_retryable(portable(error)) is (expected == RETRY)


INSTALLED = [
    row
    for row in [
        (
            "botocore.exceptions.ClientError",
            lambda cls: cls(
                {
                    "Error": {"Code": "ThrottlingException", "Message": "no"},
                    "ResponseMetadata": {
                        "HTTPStatusCode": 429,
                        "HTTPHeaders": {"retry-after": "5"},
                    },
                },
                "Converse",
            ),
            RETRY,
            5,
        ),
        (
            "botocore.exceptions.EventStreamError",
            lambda cls: cls({"Error": {"Code": "throttlingException"}}, "ConverseStream"),
            RETRY,
            None,
        ),
        ("botocore.exceptions.ParamValidationError", lambda cls: cls(report="no"), REQUEST, None),
        ("botocore.exceptions.NoCredentialsError", lambda cls: cls(), ACCOUNT, None),
        ("botocore.eventstream.ChecksumMismatch", lambda cls: cls(1, 2), RETRY, None),
        (
            "cohere.core.api_error.ApiError",
            lambda cls: cls(status_code=503, headers={"retry-after": "5"}, body={}),
            RETRY,
            5,
        ),
        (
            "google.genai.errors.ClientError",
            lambda cls: cls(429, {"error": {"details": [{"retryDelay": "5s"}]}}),
            RETRY,
            5,
        ),
        ("ollama.ResponseError", lambda cls: cls("no"), RETRY, None),
        ("aiohttp.ClientPayloadError", lambda cls: cls("no"), RETRY, None),
        ("aiohttp.ServerDisconnectedError", lambda cls: cls(), RETRY, None),
        ("huggingface_hub.errors.OverloadedError", lambda cls: cls("no"), RETRY, None),
        (
            "openrouter.errors.OpenRouterError",
            lambda cls: cls("no", response(402, httpx, retry_after="5")),
            ACCOUNT,
            5,
        ),
        (
            "anthropic.APIStatusError",
            lambda cls: cls(
                "no", response=response(200), body={"error": {"type": "overloaded_error"}}
            ),
            RETRY,
            None,
        ),
        (
            "groq.APIError",
            lambda cls: cls("no", response(200, httpx).request, body={"type": "server_error"}),
            RETRY,
            None,
        ),
    ]
    if is_installed(row[0].rpartition(".")[0])
]


@pytest.mark.parametrize(
    ("path", "make", "expected", "wait"), INSTALLED, ids=[row[0] for row in INSTALLED]
)
def test_the_installed_clients_errors_are_understood(
    path: str, make: Callable[[Any], Exception], expected: str, wait: float | None
) -> None:
    """The rows above are not made up: the libraries' own classes are read the same way."""
    module, _, name = path.rpartition(".")
    error = make(getattr(import_module(module), name))
    assert (verdict(error), retry_after(error, NOW)) == (expected, wait)


def out_of_credit(status: int) -> Exception:
    """As a client without a `body` tells it: only in its response."""
    answer = httpx.Response(
        status, request=response(status, httpx).request, json={"code": "insufficient_quota"}
    )
    return httpx.HTTPStatusError("no", request=answer.request, response=answer)


def hiding(hidden: BaseException, error: Exception) -> Exception:
    """An error that was raised `from None` while another was handled."""
    try:
        try:
            raise hidden
        except BaseException:
            raise error from None
    except Exception as raised:
        return raised


def quota(status: int) -> Exception:
    body = {"message": "You exceeded your quota", "code": "insufficient_quota"}
    return OpenAIRateLimitError("no", response=response(status), body=body)


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (429, "insufficient_quota", ACCOUNT),
        (429, "rate_limit_exceeded", RETRY),
        (400, "model_not_found", ACCOUNT),
        (400, "context_length_exceeded", REQUEST),
        (402, None, ACCOUNT),
        (404, None, ACCOUNT),
        (401, None, ACCOUNT),
        (403, None, ACCOUNT),
        (422, None, REQUEST),
        (500, None, RETRY),
    ],
)
def test_what_a_real_server_says(
    weak: LLMock, ask: CallForm, status: int, code: str | None, expected: str
) -> None:
    """Over HTTP an account's fault differs from a rate limit by its code."""
    weak.fail(status, code=code, times=None)
    with pytest.raises(Exception) as caught:
        ask(openai_at(weak.base_url("openai")), "hi")
    assert verdict(caught.value) == expected
    assert provider_status(caught.value) == status


def test_what_is_asked_cannot_send_a_deployment_into_cooldown() -> None:
    """Only the beginning of a server's message counts, not a question that it quotes."""
    question = "Your credit balance is too low"
    assert verdict(anthropic(400, "invalid_request_error", f"bad input: {question}")) == REQUEST
    assert verdict(api_error(400, text=f"not valid: [401] {question}")) == REQUEST


# --- whose fault -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        TypeError("unexpected keyword"),
        ValueError("no such role"),
        KeyError("input"),
        IndexError(),
        AttributeError("no"),
        AssertionError(),
        NotImplementedError(),
        UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates"),
        type("MyMistakeError", (ValueError,), {})("mine"),
        OutputParserException("no"),
        ModelRefusalError("no"),
        RejectedAnswerError("empty"),
        ContextOverflowError(),
        ModelInvalidRequestError(),
        RuntimeError("Event loop is closed"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_neutral_errors(error: Exception) -> None:
    """A caller's mistake, a rejected answer and the request's own fault say nothing of health."""
    assert is_neutral(error)
    assert not is_account_fault(error)
    assert not is_retryable(error)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("no"),
        OSError("no"),
        ImportError("no"),
        Exception("no"),
        rate_limited(),
        ModelAPIError(),
        ModelTimeoutError(),
        ModelAuthenticationError(),
        TimeoutError(),
        caused_by(TimeoutError(), ValueError()),
        caused_by(ModelAPIError(), ValueError()),
        requests.exceptions.InvalidURL("no"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_that_count(error: Exception) -> None:
    """Whatever a server, a connection or a client says does, also wrapped in a ValueError."""
    assert not is_neutral(error)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("Event loop is closed"),
        RuntimeError("Task <Task x> got Future <Future y> attached to a different loop"),
        RuntimeError("<asyncio.locks.Lock x> is bound to a different event loop"),
        caused_by(RuntimeError("Event loop is closed"), unreachable()),
        caused_by(caused_by(RuntimeError("Event loop is closed"), unreachable()), unreachable()),
    ],
)
def test_another_event_loops_errors(error: Exception) -> None:
    """A client of another event loop says nothing of the server, however deep it is wrapped."""
    assert is_wrong_event_loop(error)
    assert is_neutral(error)
    assert not is_wrong_event_loop(unreachable())
    assert not is_wrong_event_loop(ValueError("Event loop is closed"))


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ContextOverflowError(), True),
        (OpenAIContextOverflowError("no", response=response(400), body=None), True),
        (caused_by(ContextOverflowError()), True),
        (Exception("[400] This model's maximum context length is 8192 tokens"), True),
        (bedrock(400, "ValidationException"), False),
        (ModelInvalidRequestError(), False),
        (ValueError("maximum context length"), False),
        (TimeoutError(), False),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else str(value),
)
def test_context_overflows(error: Exception, expected: bool) -> None:
    """An overflow is known by its class, or by what a rejected request's text says."""
    assert is_context_overflow(error) is expected


# --- errors that cannot be read --------------------------------------------------------------


class HostileError(Exception):
    """Raises whatever is read of it."""

    def _refuse(self, *_: Any) -> Any:
        raise RuntimeError("cannot be read")

    __str__ = __repr__ = _refuse
    status_code = response = headers = body = code = status = details = property(_refuse)
    retry_after = is_retryable = raw_response = args = __cause__ = property(_refuse)


class HostileModelError(HostileError, ModelError):
    """The same, in LangChain's family."""

    is_retryable = property(HostileError._refuse)


class HostileHeaders(dict[str, str]):
    def items(self) -> Any:
        raise RuntimeError("cannot be read")


HOSTILE = [
    HostileError(),
    HostileModelError(),
    RuntimeError("no"),
    caused_by(HostileError()),
]
HOSTILE[2].headers = HostileHeaders()  # type: ignore[attr-defined]


@pytest.mark.parametrize("error", HOSTILE, ids=["plain", "in the family", "headers", "wrapped"])
def test_an_error_that_cannot_be_read_costs_no_fallback(error: Exception, ask: CallForm) -> None:
    """Whatever an exception raises while it is read, the next deployment answers."""
    policies = {"retry": RetryPolicy(max_attempts=2), "cooldown": CooldownPolicy()}
    assert who(ask(gateway_over(says(error), says("a"), **policies), "x")) == "strong"
    for read in (is_retryable, is_neutral, is_account_fault, is_context_overflow):
        assert read(error) is False
    assert retry_after(error, NOW) is None
    assert provider_status(error) is None
    assert quote(error).startswith(type(error).__name__)
    assert type(portable(error)).__name__ == type(error).__name__


class NamelessModel(ScriptedChatModel):
    """Cannot say who serves it, when a gateway asks."""

    def _get_ls_params(self, *args: Any, **kwargs: Any) -> Any:
        if not args and not kwargs:
            raise RuntimeError("cannot be read")
        return super()._get_ls_params(*args, **kwargs)


def test_a_provider_that_cannot_be_named_costs_no_fallback(ask: CallForm) -> None:
    """A model that cannot say who serves it is told by its class."""
    nameless = NamelessModel(replies=[ValueError("no")])
    gateway = gateway_over(nameless, says(AIMessage("a")))
    assert gateway["weak"].provider == "NamelessModel"
    assert who(ask(gateway, "x")) == "strong"


# --- LangChain's classification, and by nature -----------------------------------------------


def api_error(status: int, library: Any = httpx2, text: str = "no") -> openai.APIStatusError:
    body = {"message": text}
    return openai.APIStatusError(text, response=response(status, library), body=body)


def http_error(status: int, library: Any = httpx, **headers: str) -> Exception:
    answer = response(status, library, **headers)
    return library.HTTPStatusError("no", request=answer.request, response=answer)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (TimeoutError(), True),
        (ConnectionError(), True),
        (ConnectionResetError(), True),
        (BrokenPipeError(), True),
        (ValueError(), False),
        (KeyError(), False),
        (OSError("disk"), False),
        (PermissionError(), False),
        (httpx.ConnectError("no"), True),
        (httpx.ReadTimeout("no"), True),
        (httpx.ConnectTimeout("no"), True),
        (httpx.RemoteProtocolError("no"), True),
        (httpx2.ConnectError("no"), True),
        (httpx2.ReadTimeout("no"), True),
        (httpx.InvalidURL("no"), False),
        (openai.APIConnectionError(request=response(200).request), True),
        (openai.APITimeoutError(request=response(200).request), True),
        (unreachable(), True),
        (OpenAITimeoutError(request=response(200).request), True),
        (rate_limited(), True),
        (OpenAIAuthenticationError("no", response=response(401), body=None), False),
        (OpenAIInvalidRequestError("no", response=response(400), body=None), False),
        (OpenAIContextOverflowError("no", response=response(400), body=None), False),
        (ModelRateLimitError(), True),
        (ModelAPIError(), True),
        (ModelConnectionError(), True),
        (ModelTimeoutError(), True),
        (ModelAuthenticationError(), False),
        (ModelPermissionDeniedError(), False),
        (ModelNotFoundError(), False),
        (ModelInvalidRequestError(), False),
        (ContextOverflowError(), False),
        (ModelError(), False),
        (OutputParserException("no"), False),
        (caused_by(TimeoutError()), True),
        (caused_by(caused_by(ConnectionError())), True),
        (caused_by(rate_limited()), True),
        (caused_by(ValueError()), False),
        (caused_by(TimeoutError(), ModelAuthenticationError()), False),
        (caused_by(TimeoutError(), api_error(400)), False),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else str(value),
)
def test_is_retryable_by_nature(error: Exception, expected: bool) -> None:
    """LangChain's word rules; else timeouts and connection errors are retryable, others not."""
    assert is_retryable(error) is expected


STATUSES = [
    *((status, True) for status in (408, 409, 429, 500, 502, 503, 504, 529, 599)),
    *((status, False) for status in (400, 401, 403, 404, 413, 422, 200, 302, 600)),
]


@pytest.mark.parametrize(("status", "expected"), STATUSES)
@pytest.mark.parametrize(
    "make",
    [
        api_error,
        http_error,
        lambda status: http_error(status, httpx2),
        lambda status: with_attributes(status_code=status),
        lambda status: with_attributes(response=SimpleNamespace(status_code=status)),
        lambda status: caused_by(api_error(status)),
    ],
    ids=["openai", "httpx", "httpx2", "attribute", "response", "cause"],
)
def test_is_retryable_by_status(make: Any, status: int, expected: bool) -> None:
    """An HTTP status decides, wherever the client keeps it."""
    assert is_retryable(make(status)) is expected


def with_attributes(**attributes: Any) -> Exception:
    error = RuntimeError("no")
    vars(error).update(attributes)
    return error


@pytest.mark.parametrize("status", [None, "429", object(), [429]])
def test_a_status_that_is_no_number_decides_nothing(status: Any) -> None:
    """What is no HTTP status is not taken for one."""
    assert is_retryable(with_attributes(status_code=status)) is False
    assert is_retryable(caused_by(TimeoutError(), with_attributes(status_code=status))) is True


def test_causes_that_go_in_a_circle_end() -> None:
    """A chain of causes that bites its own tail is read once."""
    first, second = ValueError(), ValueError()
    first.__cause__, second.__cause__ = second, first
    assert is_retryable(first) is False
    assert is_request_fault(first) is False
    assert retry_after(first, NOW) is None


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (api_error(400), True),
        (api_error(413), True),
        (api_error(422), True),
        (api_error(401), False),
        (api_error(403), False),
        (api_error(404), False),
        (api_error(429), False),
        (api_error(500), False),
        (http_error(422), True),
        (ContextOverflowError(), True),
        (ModelInvalidRequestError(), True),
        (OpenAIContextOverflowError("no", response=response(400), body=None), True),
        (OpenAIInvalidRequestError("no", response=response(422), body=None), True),
        (ModelAuthenticationError(), False),
        (rate_limited(), False),
        (TimeoutError(), False),
        (ValueError(), False),
        (caused_by(api_error(413)), True),
        (caused_by(ContextOverflowError()), True),
        (caused_by(api_error(400), ModelRateLimitError()), False),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else str(value),
)
def test_is_request_fault(error: Exception, expected: bool) -> None:
    """Only a rejected request or an overlong one is the request's own fault."""
    assert is_request_fault(error) is expected


NONSENSE = [
    *("", " ", "soon", "nan", "NaN", "inf", "-inf", "Infinity", "-1", "-0.5", "1e999", "0x10"),
    *("9" * 5000, "-" + "9" * 5000, "1_000", "12 Octember", "Wed, 99 Oct 2026 07:28:00 GMT"),
    f"Wed, 21 Oct {'9' * 5000} 07:28:00 GMT",
]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("0", 0.0),
        ("7", 7.0),
        ("1.5", 1.5),
        ("Wed, 04 Mar 2026 12:01:30 GMT", 90.0),
        ("Wed, 04 Mar 2026 12:01:30 -0000", 90.0),
        ("Wed, 04 Mar 2026 13:01:30 +0100", 90.0),
        ("Wed, 04 Mar 2026 11:00:00 GMT", 0.0),
        *((nonsense, None) for nonsense in NONSENSE),
    ],
    ids=lambda value: str(value)[:40],
)
def test_retry_after_header(value: str, expected: float | None) -> None:
    """`Retry-After` is seconds or a date, a past one is now, and nonsense is as if absent."""
    assert retry_after(rate_limited(retry_after=value), NOW) == expected


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"retry_after_ms": "1500"}, 1.5),
        ({"retry_after_ms": "250", "retry_after": "1"}, 0.25),
        ({"retry_after_ms": "nan", "retry_after": "1"}, 1.0),
        ({"retry_after_ms": "inf"}, None),
        ({"retry_after_ms": "-5"}, None),
        ({"retry_after_ms": "9" * 5000, "retry_after": "2"}, 2.0),
        ({"Retry_After": "3"}, 3.0),
        ({"RETRY_AFTER_MS": "3"}, 0.003),
        ({}, None),
    ],
)
def test_retry_after_milliseconds(headers: dict[str, str], expected: float | None) -> None:
    """The finer header comes first where it makes sense, and names are read in any case."""
    assert retry_after(rate_limited(**headers), NOW) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (with_attributes(retry_after=5), 5.0),
        (with_attributes(retry_after="5"), 5.0),
        (with_attributes(retry_after=float("nan")), None),
        (with_attributes(retry_after=float("inf")), None),
        (with_attributes(retry_after=-1), None),
        (with_attributes(retry_after=10**5000), None),
        (with_attributes(retry_after=True), None),
        (with_attributes(retry_after=[5]), None),
        (with_attributes(response=SimpleNamespace(headers={"Retry-After": "5"})), 5.0),
        (with_attributes(response=SimpleNamespace(headers={"RETRY-AFTER": 5})), 5.0),
        (with_attributes(response=SimpleNamespace(headers=["Retry-After", "5"])), None),
        (with_attributes(response=SimpleNamespace(headers=None)), None),
        (with_attributes(response="no"), None),
        (http_error(503), None),
        (caused_by(rate_limited(retry_after="5")), 5.0),
        (caused_by(rate_limited(retry_after="5"), with_attributes(retry_after="nan")), 5.0),
        (with_attributes(litellm_response_headers={"retry-after": "5"}), 5.0),
        # What a client raised its own error from, `from None`; not whatever else was handled then.
        (hiding(http_error(429, retry_after="5"), ollama(429)), 5.0),
        (hiding(httpx.ConnectError("no"), ollama(429)), None),
        (hiding(with_attributes(status_code=429, retry_after=5), TimeoutError()), None),
        (ValueError(), None),
    ],
)
def test_retry_after_elsewhere(error: Exception, expected: float | None) -> None:
    """An attribute, a plain dict of headers and a cause are read too, whatever they hold."""
    assert retry_after(error, NOW) == expected
