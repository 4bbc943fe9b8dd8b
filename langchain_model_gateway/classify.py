"""What other people's exceptions mean: worth a retry? whose fault? how long to wait?

LangChain's own classification comes first. What is outside it is read by tables: where each client
library keeps the server's status, headers and words, and which HTTP status a provider's error code
stands for. Nothing is imported to recognise a library's errors.

An exception is a stranger's code: whatever it raises while it is read counts as absent, so that no
error can cost a call its fallback.
"""

import json
import math
import re
import sys
from collections.abc import Collection, Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final

from langchain_core.exceptions import (
    ContextOverflowError,
    ModelAuthenticationError,
    ModelError,
    ModelInvalidRequestError,
    ModelNotFoundError,
    ModelPermissionDeniedError,
    ModelRefusalError,
    OutputParserException,
)
from pydantic import ValidationError

from langchain_model_gateway._text import one_line, redact

_QUOTE_LIMIT: Final = 200
_NAME_LIMIT: Final = 80
_LOOKED_AT: Final = 10 * _QUOTE_LIMIT

# --- where it stands: dots lead into attributes and keys -------------------------------------

_STATUS_AT: Final = (
    "status_code",  # openai, anthropic, groq, fireworks, litellm, cohere, openrouter, ollama
    "response.status_code",  # httpx (so mistralai), requests, huggingface_hub
    "response.ResponseMetadata.HTTPStatusCode",  # botocore
    "code",  # google.genai, google.api_core, urllib
    "status",  # aiohttp
    "raw_response.status_code",  # speakeasy clients
)
_HEADERS_AT: Final = (
    "response.headers",  # openai, anthropic, groq, fireworks, google.genai, httpx, requests
    "headers",  # cohere, openrouter, aiohttp, urllib
    "response.ResponseMetadata.HTTPHeaders",  # botocore
    "raw_response.headers",
    "litellm_response_headers",  # litellm, whose own `response` has none
)
_BODY_AT: Final = (
    "body",  # openai, anthropic, groq, fireworks, cohere, openrouter
    "details",  # google.genai
    "response",  # botocore
    "response._content",  # httpx (so mistralai), requests; `.text` would read from the network
)

# --- what it means ---------------------------------------------------------------------------

_RETRYABLE_STATUSES: Final = frozenset({408, 409, 429})
_REQUEST_FAULT_STATUSES: Final = frozenset({400, 413, 422})
_ACCOUNT_FAULT_STATUSES: Final = frozenset({401, 402, 403, 404})
# With these a status says less than an error's code does: out of credit is told with a 400 or 429.
_VAGUE_STATUSES: Final = frozenset({400, 429})

_CODES: Final[Mapping[str, int]] = {
    # OpenAI, and those who speak its protocol
    "account_deactivated": 403,
    "billing_hard_limit_reached": 402,
    "billing_not_active": 402,
    "context_length_exceeded": 413,
    "exceeded_current_quota_error": 402,
    "insufficient_quota": 402,
    "internal_server_error": 500,
    "invalid_api_key": 401,
    "invalid_prompt": 400,
    "model_decommissioned": 404,
    "model_not_found": 404,
    "rate_limit_exceeded": 429,
    "server_error": 500,
    "service_unavailable": 503,
    "vector_store_timeout": 504,
    # Anthropic
    "api_error": 500,
    "authentication_error": 401,
    "billing_error": 402,
    "invalid_request_error": 400,
    "not_found_error": 404,
    "overloaded_error": 529,
    "permission_error": 403,
    "rate_limit_error": 429,
    "request_too_large": 413,
    "timeout_error": 504,
    # Gemini
    "api_key_invalid": 401,
    "deadline_exceeded": 504,
    "internal": 500,
    "invalid_argument": 400,
    "not_found": 404,
    "permission_denied": 403,
    "resource_exhausted": 429,
    "unauthenticated": 401,
    "unavailable": 503,
    # Bedrock
    "accessdeniedexception": 403,
    "expiredtokenexception": 403,
    "internalserverexception": 500,
    "modelerrorexception": 500,
    "modelnotreadyexception": 429,
    "modelstreamerrorexception": 500,
    "modeltimeoutexception": 408,
    "resourcenotfoundexception": 404,
    "servicequotaexceededexception": 429,
    "serviceunavailableexception": 503,
    "throttlingexception": 429,
    "unrecognizedclientexception": 403,
    "validationexception": 400,
    # Text Generation Inference
    "overloaded": 503,
}

# How the server's message begins where no code tells. Only its beginning: a server may quote the
# question further on, and nobody may send a deployment into cooldown by what they ask.
_MESSAGES: Final[Mapping[str, int]] = {
    "Your credit balance is too low": 402,  # Anthropic, with a 400
    "Insufficient Balance": 402,  # DeepSeek
    "API key not valid": 401,  # Gemini, with a 400
    "Incorrect API key": 401,  # xAI, with a 400
    "The provided model identifier is invalid": 404,  # Bedrock, with a 400
}

# How the text of an exception begins that has neither: it holds a status or a code, or stands for
# one. 502 is a server that answered, but not with an answer.
_BAD_GATEWAY: Final = 502
_SAYINGS: Final[tuple[tuple[re.Pattern[str], int], ...]] = tuple(
    (re.compile(pattern, re.DOTALL), status)
    for pattern, status in (
        (r"\[(\d{3})\] ", 0),  # NVIDIA
        # NVIDIA and LiteLLM, whose text ends with the server's answer; a question is not in it.
        (r"(?:\[429\]|litellm\.RateLimitError:) .*['\"]: ?['\"](insufficient_quota)['\"]", 0),
        (r"OpenRouter API returned an error during streaming: .*\(code: (\w+)\)$", _BAD_GATEWAY),
        (r"Received AWS exception (\w+):", _BAD_GATEWAY),
        (r"([a-z]+_[a-z_]+): ", 0),  # OpenAI's Responses API: an error event in a stream
        (r"(?:ResponseError\()?code='(\w+)'", 0),  # and a response that has failed
        (r"(Response \S+ failed\.)$", _BAD_GATEWAY),
        (r"(No generation chunks were returned|No generations found in stream)", _BAD_GATEWAY),
        (r"(Received empty stream from)", _BAD_GATEWAY),  # Fireworks
        (r"[\"']?(Response missing 'choices' key)", _BAD_GATEWAY),
        (r"(Received response with null value for 'choices')", _BAD_GATEWAY),
        (r"(Unexpected response type from OpenAI-compatible endpoint)", _BAD_GATEWAY),
        (r"('(?:str|bytes|NoneType)' object has no attribute 'model_dump')", _BAD_GATEWAY),
        (r"(No 'output' key found in the response from)", _BAD_GATEWAY),  # Bedrock
        (r"[\"']?(Could not resolve authentication|Anthropic authentication failed)", 401),
    )
)

_CLIENT_LIBRARIES: Final = frozenset(
    {"aiohttp", "anthropic", "botocore", "cohere", "fireworks", "google", "groq", "http"}
    | {"httpcore", "httpcore2", "httpx", "httpx2", "huggingface_hub", "langchain_fireworks"}
    | {"litellm", "mistralai", "ollama", "openai", "openrouter", "requests", "urllib", "urllib3"}
)
_CONNECTION_ERRORS: Final = frozenset(
    {"APIConnectionError", "ChunkedEncodingError", "ClientConnectionError", "ClientPayloadError"}
    | {"ConnectionError", "HTTPClientError", "HTTPException", "IncompleteGenerationError"}
    | {"IncompleteReadError", "NetworkError", "NoResponseError", "OverloadedError", "ParserError"}
    | {"ProtocolError", "ResponseStreamingError", "ServerTimeoutError", "Timeout"}
    | {"TimeoutException", "TransportError", "URLError", "UnknownApiResponseError"}
)
_CREDENTIAL_ERRORS: Final = frozenset(
    {"CredentialRetrievalError", "DefaultCredentialsError", "LoginError", "NoAuthTokenError"}
    | {"NoCredentialsError", "PartialCredentialsError", "RefreshError", "SSOError"}
    | {"TokenRetrievalError"}
)
_REQUEST_ERRORS: Final = frozenset({"ParamValidationError"})
# A server's answer that cannot be read. Like a parser's error, its text quotes that answer.
_UNREADABLE_ANSWERS: Final = frozenset(
    {"APIResponseValidationError", "ResponseValidationError", "UnknownApiResponseError"}
)

_CALLERS_MISTAKES: Final = (
    TypeError,
    ValueError,
    LookupError,
    AttributeError,
    AssertionError,
    NotImplementedError,
)
# `ValueError`s that are no caller's: an answer or a certificate (an `OSError`) that is not valid.
_BROKEN_ANSWERS: Final = (json.JSONDecodeError, UnicodeDecodeError, ValidationError, OSError)
_REJECTED_ANSWERS: Final = (OutputParserException, ModelRefusalError)
_ACCOUNT_FAULTS: Final = (
    ModelAuthenticationError,
    ModelPermissionDeniedError,
    ModelNotFoundError,
)
_REQUEST_FAULTS: Final = (ModelInvalidRequestError, ContextOverflowError)

_WRONG_LOOP: Final = re.compile(
    r"Event loop is closed|(?:attached|bound) to a different (?:event )?loop"
)
_OVERFLOWS: Final = re.compile(
    r"(?i)context_length_exceeded|(?:prompt|input) is too long|maximum context length"
    r"|exceeds the (?:context window|maximum number of tokens)|too large for model with"
)
# What a pickle may hold as it is.
_OWN: Final = frozenset({"langchain_model_gateway.errors"})
_NATIVE: Final = frozenset({"builtins", "langchain_core.exceptions"})
_PLAIN: Final = (str, int, float, bool, type(None))

_COHERES_HEADERS: Final = re.compile(r"^headers: \{.*?\}, (?=status_code: )", re.DOTALL)
_TEXTS_WITHOUT_A_CAUSE: Final = frozenset({"", "connection error"})


def is_retryable(error: BaseException) -> bool:
    """Whether repeating the very same request may succeed.

    LangChain's classification (`ModelError.is_retryable`) rules. What is outside that family is
    read by its nature: timeouts and connection errors are retryable, and so is an HTTP status of
    408, 409, 429 or 5xx (the set the OpenAI and Anthropic clients retry). A matter of the account
    never is.

    Args:
        error: Any exception; what it was raised from is looked at where it tells nothing itself.
    """
    if is_account_fault(error):
        return False
    for each in _causes(error):
        if isinstance(told := _at(each, "is_retryable"), bool):
            return told
        if (status := _meaning(each)) is not None:
            return status in _RETRYABLE_STATUSES or 500 <= status <= 599  # noqa: PLR2004
        if _is_connections(each):
            return True
    return False


def is_request_fault(error: BaseException) -> bool:
    """Whether the request itself is to blame, and no health of a deployment shows in it."""
    for each in _causes(error):
        if isinstance(each, _REQUEST_FAULTS) or _is_one_of(each, _REQUEST_ERRORS):
            return True
        if isinstance(each, ModelError) or _is_connections(each):
            return False
        if (status := _meaning(each)) is not None:
            return status in _REQUEST_FAULT_STATUSES
    return False


def is_account_fault(error: BaseException) -> bool:
    """Whether it is a matter of the account or of the deployment's settings.

    A wrong key (401, 403), no credit (402), a model that does not exist (404); also where the
    provider says so with a 400 or a 429.
    """
    return any(
        isinstance(each, _ACCOUNT_FAULTS)
        or _meaning(each) in _ACCOUNT_FAULT_STATUSES
        or _is_one_of(each, _CREDENTIAL_ERRORS)
        for each in _causes(error)
    )


def is_neutral(error: BaseException) -> bool:
    """Whether an error says nothing about the deployment's health.

    That is a request's own fault, a rejected answer, an event loop's end, and a caller's own
    mistake: a `TypeError`, `ValueError`, `LookupError` or the like that no client library made
    and that comes from no answer.
    """
    if isinstance(error, BaseExceptionGroup):  # a gateway's within this one
        return all(map(is_neutral, error.exceptions))
    if is_account_fault(error):
        return False
    if is_wrong_event_loop(error) or is_request_fault(error) or _is_rejected_answer(error):
        return True
    return isinstance(error, _CALLERS_MISTAKES) and not any(map(_is_servers, _causes(error)))


def is_wrong_event_loop(error: BaseException) -> bool:
    """Whether a client was used in another event loop than the one it belongs to.

    Clients that are shared by the process raise it when `asyncio.run` is called twice, wrapped in
    their own connection errors.
    """
    return any(
        isinstance(each, RuntimeError) and _WRONG_LOOP.search(_text(each))
        for each in _causes(error)
    )


def is_context_overflow(error: BaseException) -> bool:
    """Whether the input is longer than the model's context, also where only the text says so."""
    return any(
        isinstance(each, ContextOverflowError)
        or (_meaning(each) in _REQUEST_FAULT_STATUSES and _OVERFLOWS.search(_text(each)))
        for each in _causes(error)
    )


def is_control_flow(error: BaseException) -> bool:
    """Whether an exception is no failure but LangGraph steering its graph (an interrupt, say)."""
    errors = sys.modules.get("langgraph.errors")
    bubble_up = getattr(errors, "GraphBubbleUp", None)
    return bubble_up is not None and isinstance(error, bubble_up)


def provider_status(error: BaseException) -> int | None:
    """The HTTP status a provider answered with, or that its error code stands for.

    Args:
        error: Any exception; what it was raised from is looked at too.
    """
    for each in _causes(error):
        if (status := _http_status(each)) or (status := next(iter(_told(each)), None)):
            return status
        if _is_connections(each):  # below it, aiohttp tells a broken body with a 400 of its own
            break
    return None


def retry_after(error: BaseException, now: datetime) -> float | None:
    """How long the server asked to wait, in seconds.

    Reads `Retry-After` (seconds or an HTTP date, RFC 9110 section 10.2.3) and the finer
    `retry-after-ms` from a response's headers, a `retry_after` attribute, or Gemini's
    `retryDelay`. Nonsense counts as absent.

    Args:
        error: Any exception; what it was raised from is looked at too.
        now: The present, for a date.
    """
    for each in _causes(error):
        for value, unit in _waits(each):
            if (seconds := _seconds(value, now)) is not None:
                return seconds * unit
    return None


# --- showing and sending ---------------------------------------------------------------------


def quote(error: BaseException, secrets: Collection[str] | None = ()) -> str:
    """An exception as a message may show it: its type and its own words, on one short line.

    Errors that carry the model's answer in their text are told by their type only. A text as bare
    as "Connection error." is told with its root cause.

    Args:
        error: Any exception.
        secrets: What must not be shown, such as the deployment's keys; what looks like a key is
            masked besides. `None`: not known, so that no text is shown at all.
    """
    text = _quoted_text(error, secrets)
    return f"{kind(error)}: {text}" if text else kind(error)


def kind(error: BaseException) -> str:
    """The name of an exception's type, safe to show: a name can hold line breaks too."""
    return one_line(type(error).__name__, _NAME_LIMIT)


def portable(error: Exception, secrets: Collection[str] | None = ()) -> Exception:
    """A copy of `error` that pickles and carries no request, response, client or secret.

    A built-in or `langchain_core` exception with plain arguments is copied as what it is. Any
    other becomes a stand-in: of a class that has its name and derives from the nearest of those,
    with its text, `status_code` and `is_retryable`.

    Args:
        error: What an attempt raised; a gateway's own errors come back as they are.
        secrets: What must not travel, such as the deployment's keys; `None`: not known.
    """
    if _is_of(type(error), _OWN):
        return error
    bare = _native_copy(error, secrets) or _stand_in_for(error, secrets)
    if (status := provider_status(error)) is not None:
        bare.__dict__["status_code"] = status
    if is_retryable(bare) != (may_help := is_retryable(error)):
        bare.__dict__["is_retryable"] = may_help
    return bare


def _native_copy(error: Exception, secrets: Collection[str] | None) -> Exception | None:
    """A copy of a built-in or LangChain exception, if its arguments are plain."""
    cls, args = type(error), _at(error, "args")
    if not _is_of(cls, _NATIVE) or secrets is None or _holds_an_answer(error):
        return None
    if not all(type(arg) in _PLAIN for arg in args):
        return None
    masked = [redact(a, secrets, _LOOKED_AT) if isinstance(a, str) else a for a in args]
    try:
        copied = cls(*masked)
    except Exception:  # noqa: BLE001 - its constructor takes what its `args` do not hold
        return None
    return copied if type(copied) is cls and copied.args == tuple(masked) else None


def _is_of(cls: type, modules: frozenset[str]) -> bool:
    """Whether a class can be found where it says it is: a stand-in says so too."""
    home = sys.modules.get(cls.__module__) if cls.__module__ in modules else None
    return getattr(home, cls.__name__, None) is cls


def _stand_in_for(error: Exception, secrets: Collection[str] | None) -> Exception:
    cls = type(error)
    native = [c for c in cls.__mro__ if _is_of(c, _NATIVE) and issubclass(c, Exception)]
    nearest = [c for c in native if not any(o is not c and issubclass(o, c) for o in native)]
    args: tuple[Any, ...] = (_quoted_text(error, secrets),)
    if isinstance(error, ExceptionGroup):
        args += ([portable(each, secrets) for each in error.exceptions],)
    return _stand_in(cls.__name__, cls.__module__, tuple(nearest), args)


def _stand_in(
    name: str,
    module: str,
    bases: tuple[type[Exception], ...],
    args: tuple[Any, ...],
    facts: Mapping[str, Any] | None = None,
) -> Exception:
    """An exception of a class made for it, with its text as the first argument.

    A pickle of it calls this.
    """

    def tell(_: Exception) -> str:
        return str(args[0])

    def reduce(self: Exception) -> tuple[Any, ...]:
        return _stand_in, (name, module, bases, args, dict(self.__dict__))

    cls: Any = type(name, bases, {"__module__": module, "__str__": tell, "__reduce__": reduce})
    try:
        stand_in: Exception = cls(*args)
    except Exception:  # noqa: BLE001 - UnicodeDecodeError, say, takes five
        stand_in = cls.__new__(cls, *args)
    stand_in.__dict__.update(facts or {})
    return stand_in


def _quoted_text(error: BaseException, secrets: Collection[str] | None) -> str:
    if isinstance(error, ValidationError):
        return f"{error.error_count()} validation errors for {one_line(error.title, _NAME_LIMIT)}"
    if isinstance(error, OutputParserException):
        return "the answer does not parse"
    if secrets is None or _holds_an_answer(error):
        status = provider_status(error)
        return f"status {status}" if status else ""
    text = _COHERES_HEADERS.sub("", _text(error))
    if text.strip(" .").lower() in _TEXTS_WITHOUT_A_CAUSE:
        *_, root = _causes(error)
        if root is not error and (cause := _text(root) or kind(root)) != text:
            text = f"{text} ({cause})".lstrip()
    return one_line(redact(text, secrets, _LOOKED_AT), _QUOTE_LIMIT)


def _holds_an_answer(error: BaseException) -> bool:
    """Whether an exception's text may quote what the model said."""
    answers = (ValidationError, *_REJECTED_ANSWERS)
    return isinstance(error, answers) or _is_one_of(error, _UNREADABLE_ANSWERS)


# --- reading ---------------------------------------------------------------------------------


def _causes(error: BaseException) -> Iterator[BaseException]:
    """`error` and what it was raised from, outermost first."""
    seen: set[int] = set()
    each: Any = error
    while isinstance(each, BaseException) and id(each) not in seen:
        seen.add(id(each))
        yield each
        each = _at(each, "__cause__") or _hidden(each)


def _hidden(error: BaseException) -> Any:
    """The server's answer that a client hides when it raises its own error `from None`.

    Ollama's and NVIDIA's do, whose errors have neither headers nor codes.
    """
    is_hidden = _at(error, "__suppress_context__") is True
    context: Any = _at(error, "__context__") if is_hidden else None
    is_answer = _is_clients(type(context)) and _http_status(context) is not None
    return context if is_answer else None


def _at(holder: Any, path: str) -> Any:
    """What stands at a dotted path of attributes and keys; `None` where it cannot be read."""
    try:
        for name in path.split("."):
            is_mapping = isinstance(holder, Mapping)
            holder = holder.get(name) if is_mapping else getattr(holder, name, None)
    except Exception:  # noqa: BLE001 - a stranger's property
        return None
    return holder


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - a stranger's __str__
        return ""


def _meaning(error: BaseException) -> int | None:
    """The HTTP status that says best what one exception means."""
    status = _http_status(error)
    if status is not None and status not in _VAGUE_STATUSES:
        return status
    codes = [*_told(error), *_implied(error)]
    account = next((code for code in codes if code in _ACCOUNT_FAULT_STATUSES), None)
    return account or status or next(iter(codes), None)


def _http_status(error: BaseException) -> int | None:
    """The status of a response that is an error: one inside a stream comes with status 200."""
    for path in _STATUS_AT:
        status = _at(error, path)
        if isinstance(status, int) and 400 <= status <= 599:  # noqa: PLR2004
            return int(status)
    return None


def _told(error: BaseException) -> list[int]:
    """What the codes of an error, in its body or its text, stand for."""
    codes = [*_codes(_payload(error)), *(match[1] for match, _ in _sayings(error))]
    return list(filter(None, map(_code_status, codes)))


def _implied(error: BaseException) -> Iterator[int]:
    """What an error stands for that has no code."""
    message = _at(_payload(error), "message") or _at(_payload(error), "Message")
    if isinstance(message, str):
        yield from (status for begin, status in _MESSAGES.items() if message.startswith(begin))
    yield from (status for _, status in _sayings(error) if status)
    # What broke after a status of 200: -1 in Ollama's client, a ValueError's argument in OpenAI's.
    if _at(error, "status_code") == -1 or isinstance(_argument(error), Mapping):
        yield _BAD_GATEWAY


def _sayings(error: BaseException) -> Iterator[tuple[re.Match[str], int]]:
    text = _text(error)[:_LOOKED_AT]
    for pattern, status in _SAYINGS:
        if match := pattern.match(text):
            yield match, status


def _code_status(code: object) -> int:
    text = str(code).lower() if isinstance(code, (str, int)) else ""
    is_status = text.isdecimal() and 400 <= int(text[:4]) <= 599  # noqa: PLR2004
    return int(text) if is_status else _CODES.get(text, 0)


def _codes(payload: Any) -> Iterator[object]:
    for name in ("code", "Code", "type", "status", "error_type"):
        yield _at(payload, name)
    details = _at(payload, "details")  # Gemini's
    for detail in details if isinstance(details, list) else ():
        yield _at(detail, "reason")


def _payload(error: BaseException) -> Any:
    """The object in which the server says what went wrong."""
    for body in (*(_at(error, path) for path in _BODY_AT), _argument(error)):
        body = _parsed(body) if isinstance(body, (str, bytes)) else body  # noqa: PLW2901
        if isinstance(body, Mapping):
            inner = _at(body, "error") or _at(body, "Error")
            return inner if isinstance(inner, Mapping) else body
    return None


def _argument(error: BaseException) -> Any:
    """The only argument: ChatOpenAI makes a `ValueError` of an error that came with status 200."""
    args = _at(error, "args")
    return args[0] if isinstance(args, tuple) and len(args) == 1 else None


def _parsed(body: str | bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def _is_one_of(error: BaseException, names: frozenset[str]) -> bool:
    """Whether its class, or one above it, has one of these names in a client library."""
    return any(c.__name__ in names and _is_clients(c) for c in type(error).__mro__)


def _is_connections(error: BaseException) -> bool:
    """Whether an exception tells of the connection, and not of what the server said."""
    is_builtin = isinstance(error, (TimeoutError, ConnectionError))
    return is_builtin or _is_one_of(error, _CONNECTION_ERRORS)


def _is_clients(cls: type) -> bool:
    return cls.__module__.partition(".")[0] in _CLIENT_LIBRARIES


def _is_servers(error: BaseException) -> bool:
    """Whether an exception comes from a server, its answer or its client."""
    return (
        isinstance(error, (ModelError, *_BROKEN_ANSWERS))
        or any(map(_is_clients, type(error).__mro__))
        or _meaning(error) is not None
    )


def _is_rejected_answer(error: BaseException) -> bool:
    return isinstance(error, _REJECTED_ANSWERS) or _at(error, "is_rejected_answer") is True


def _waits(error: BaseException) -> Iterator[tuple[Any, float]]:
    """What an exception says of waiting, the finest first, each with its unit in seconds."""
    for path in _HEADERS_AT:
        headers = _at(error, path)
        yield _header(headers, "retry-after-ms"), 0.001
        yield _header(headers, "retry-after"), 1.0
    yield _at(error, "retry_after"), 1.0
    details = _at(_payload(error), "details")
    for detail in details if isinstance(details, list) else ():
        yield str(_at(detail, "retryDelay")).removesuffix("s"), 1.0


def _header(headers: Any, name: str) -> Any:
    try:
        # A plain dict of headers, unlike httpx's, minds the case.
        return next((v for k, v in headers.items() if str(k).lower() == name), None)
    except Exception:  # noqa: BLE001 - a stranger's mapping, or none
        return None


def _seconds(value: Any, now: datetime) -> float | None:
    """A wait in seconds from a number, its text or a date; `None` for anything else."""
    if not isinstance(value, (str, int, float)) or isinstance(value, bool):
        return None
    if isinstance(value, str) and "_" in value:  # to Python, 1_000 is a number
        return None
    try:
        seconds = float(value)
    except OverflowError:
        return None
    except ValueError:
        seconds = _seconds_to(str(value), now)
    return seconds if math.isfinite(seconds) and seconds >= 0 else None


def _seconds_to(date: str, now: datetime) -> float:
    try:
        then = parsedate_to_datetime(date)
    except (ValueError, TypeError, OverflowError):
        return math.nan
    # RFC 9110 dates are in GMT, also where the zone is left out.
    return max(0.0, (then.replace(tzinfo=then.tzinfo or UTC) - now).total_seconds())
