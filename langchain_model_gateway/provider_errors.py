"""What a provider's error holds, as each client library keeps it: status, headers, codes, words.

Read by tables; no client library is imported to recognise its errors. An exception is foreign code:
whatever it raises while it is read counts as absent, so that no error can cost a call its fallback.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

LOOKED_AT: Final = 2_000
"""The most characters of an error's text that are looked at."""

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

# As it is, whatever a subclass makes of it.
_CAUSE: Final = vars(BaseException)["__cause__"].__get__
_CONTEXT: Final = vars(BaseException)["__context__"].__get__
_IS_CONTEXT_HIDDEN: Final = vars(BaseException)["__suppress_context__"].__get__

# --- what it stands for ----------------------------------------------------------------------

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

NO_CHUNKS: Final = (
    "No generation chunks were returned",
    "No generations found in stream.",
    "Received empty stream from Fireworks",
)
"""What is said of a stream with no event at all: by LangChain, and by Fireworks' client."""

NO_CHUNKS_ERRORS: Final = ("ValueError", "FireworksError")
"""The classes of the errors that say so."""

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
        (f"({'|'.join(map(re.escape, NO_CHUNKS))})", _BAD_GATEWAY),
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


def causes(error: BaseException) -> Iterator[BaseException]:
    """`error` and what it was raised from, outermost first."""
    yield error
    seen, each = {id(error)}, _CAUSE(error) or _hidden(error)
    while isinstance(each, BaseException) and id(each) not in seen:
        seen.add(id(each))
        yield each
        each = _CAUSE(each) or _hidden(each)


def _hidden(error: BaseException) -> Any:
    """The server's answer that a client hides when it raises its own error `from None`.

    Ollama's and NVIDIA's do, whose errors have neither headers nor codes.
    """
    if (context := _CONTEXT(error)) is None or not _IS_CONTEXT_HIDDEN(error):
        return None
    is_answer = is_clients(type(context)) and http_status(context) is not None
    return context if is_answer else None


def read(holder: Any, path: str) -> Any:
    """What stands at a dotted path of attributes and keys; `None` where it cannot be read."""
    try:
        for name in path.split("."):
            is_mapping = isinstance(holder, Mapping)
            holder = holder.get(name) if is_mapping else getattr(holder, name, None)
    except Exception:  # noqa: BLE001 - foreign code
        return None
    return holder


def text_of(error: BaseException) -> str:
    """An exception's own words; none where its `__str__` fails."""
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - foreign code
        return ""


def http_status(error: BaseException) -> int | None:
    """The status of a response that is an error: one inside a stream comes with status 200."""
    for path in _STATUS_AT:
        status = read(error, path)
        if isinstance(status, int) and 400 <= status <= 599:  # noqa: PLR2004
            return int(status)
    return None


def coded_statuses(error: BaseException) -> list[int]:
    """The statuses that an error's codes, in its body or its text, stand for."""
    codes = [*_codes(_payload(error)), *(match[1] for match, _ in _sayings(error))]
    return list(filter(None, map(_code_status, codes)))


def implied_statuses(error: BaseException) -> Iterator[int]:
    """The statuses that an error without a code stands for."""
    message = read(_payload(error), "message") or read(_payload(error), "Message")
    if isinstance(message, str):
        yield from (status for begin, status in _MESSAGES.items() if message.startswith(begin))
    yield from (status for _, status in _sayings(error) if status)
    # What broke after a status of 200: -1 in Ollama's client, a ValueError's argument in OpenAI's.
    if read(error, "status_code") == -1 or isinstance(_argument(error), Mapping):
        yield _BAD_GATEWAY


def _sayings(error: BaseException) -> Iterator[tuple[re.Match[str], int]]:
    text = text_of(error)[:LOOKED_AT]
    for pattern, status in _SAYINGS:
        if match := pattern.match(text):
            yield match, status


def _code_status(code: object) -> int:
    text = str(code).lower() if isinstance(code, (str, int)) else ""
    is_status = text.isdecimal() and 400 <= int(text[:4]) <= 599  # noqa: PLR2004
    return int(text) if is_status else _CODES.get(text, 0)


def _codes(payload: Any) -> Iterator[object]:
    for name in ("code", "Code", "type", "status", "error_type"):
        yield read(payload, name)
    details = read(payload, "details")  # Gemini's
    for detail in details if isinstance(details, list) else ():
        yield read(detail, "reason")


def _payload(error: BaseException) -> Any:
    """The object in which the server says what went wrong."""
    for body in (*(read(error, path) for path in _BODY_AT), _argument(error)):
        body = _parsed(body) if isinstance(body, (str, bytes)) else body  # noqa: PLW2901
        if isinstance(body, Mapping):
            inner = read(body, "error") or read(body, "Error")
            return inner if isinstance(inner, Mapping) else body
    return None


def _argument(error: BaseException) -> Any:
    """The only argument: ChatOpenAI makes a `ValueError` of an error that came with status 200."""
    args = read(error, "args")
    return args[0] if isinstance(args, tuple) and len(args) == 1 else None


def _parsed(body: str | bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def is_one_of(error: BaseException, names: frozenset[str]) -> bool:
    """Whether its class, or one above it, has one of these names in a client library."""
    return any(c.__name__ in names and is_clients(c) for c in type(error).__mro__)


def is_clients(cls: type) -> bool:
    """Whether a class is a client library's."""
    return cls.__module__.partition(".")[0] in _CLIENT_LIBRARIES


def waits(error: BaseException) -> Iterator[tuple[Any, float]]:
    """What an exception says of waiting, the finest first, each with its unit in seconds."""
    for path in _HEADERS_AT:
        headers = read(error, path)
        yield _header(headers, "retry-after-ms"), 0.001
        yield _header(headers, "retry-after"), 1.0
    yield read(error, "retry_after"), 1.0
    details = read(_payload(error), "details")
    for detail in details if isinstance(details, list) else ():
        yield str(read(detail, "retryDelay")).removesuffix("s"), 1.0


def _header(headers: Any, name: str) -> Any:
    try:
        # A plain dict of headers, unlike httpx's, minds the case.
        return next((v for k, v in headers.items() if str(k).lower() == name), None)
    except Exception:  # noqa: BLE001 - foreign code, or no mapping
        return None
