"""What other people's exceptions mean: worth a retry? whose fault? how long to wait?

LangChain's own classification comes first. What is outside it is read by tables, here and in
`provider_errors.py`. How an exception is shown is the matter of `quoting.py`.
"""

import json
import math
import re
import sys
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final

import langchain_core.exceptions
from langchain_core.exceptions import (
    ContextOverflowError,
    ModelAuthenticationError,
    ModelError,
    ModelInvalidRequestError,
    ModelNotFoundError,
    ModelPermissionDeniedError,
    OutputParserException,
)
from pydantic import ValidationError

from langchain_model_gateway.provider_errors import (
    causes,
    coded_statuses,
    http_status,
    implied_statuses,
    is_clients,
    is_one_of,
    read,
    text_of,
    waits,
)

_RETRYABLE_STATUSES: Final = frozenset({408, 409, 429})
_REQUEST_FAULT_STATUSES: Final = frozenset({400, 413, 422})
_ACCOUNT_FAULT_STATUSES: Final = frozenset({401, 402, 403, 404})
# With these a status says less than an error's code does: out of credit comes with a 400 or 429.
_VAGUE_STATUSES: Final = frozenset({400, 429})

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
REJECTED_ANSWERS: Final = (
    OutputParserException,
    # langchain-core has it from 1.7.5 on.
    getattr(langchain_core.exceptions, "ModelRefusalError", OutputParserException),
)
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


def is_retryable(error: BaseException) -> bool:
    """Whether repeating the very same request may succeed.

    LangChain's classification (`ModelError.is_retryable`) rules. What is outside that family is
    read by its nature: timeouts and connection errors are retryable, and so is an HTTP status of
    408, 409, 429 or 5xx (the set the OpenAI and Anthropic clients retry). A matter of the account
    never is.

    Args:
        error: Any exception; what it was raised from is looked at where it says nothing itself.
    """
    if is_account_fault(error):
        return False
    for each in causes(error):
        if isinstance(declared := read(each, "is_retryable"), bool):
            return declared
        if (status := _meaning(each)) is not None:
            return status in _RETRYABLE_STATUSES or 500 <= status <= 599  # noqa: PLR2004
        if _is_connections(each):
            return True
    return False


def is_request_fault(error: BaseException) -> bool:
    """Whether the request itself is to blame, and no health of a deployment shows in it."""
    for each in causes(error):
        if isinstance(each, _REQUEST_FAULTS) or is_one_of(each, _REQUEST_ERRORS):
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
        or is_one_of(each, _CREDENTIAL_ERRORS)
        for each in causes(error)
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
    return isinstance(error, _CALLERS_MISTAKES) and not any(map(_is_servers, causes(error)))


def is_wrong_event_loop(error: BaseException) -> bool:
    """Whether a client was used in another event loop than the one it belongs to.

    Clients that are shared by the process raise it when `asyncio.run` is called twice, wrapped in
    their own connection errors.
    """
    for each in causes(error):
        if isinstance(each, RuntimeError) and _WRONG_LOOP.search(text_of(each)):
            return True
    return False


def is_context_overflow(error: BaseException) -> bool:
    """Whether the input is longer than the model's context, also where only the text says so."""
    return any(
        isinstance(each, ContextOverflowError)
        or (_meaning(each) in _REQUEST_FAULT_STATUSES and _OVERFLOWS.search(text_of(each)))
        for each in causes(error)
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
    for each in causes(error):
        if (status := http_status(each)) or (status := next(iter(coded_statuses(each)), None)):
            return status
        if _is_connections(each):  # below it, aiohttp reports a broken body with a 400 of its own
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
    for each in causes(error):
        for value, unit in waits(each):
            if (seconds := _seconds(value, now)) is not None:
                return seconds * unit
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


def _meaning(error: BaseException) -> int | None:
    """The HTTP status that says best what one exception means."""
    status = http_status(error)
    if status is not None and status not in _VAGUE_STATUSES:
        return status
    codes = [*coded_statuses(error), *implied_statuses(error)]
    account = next((code for code in codes if code in _ACCOUNT_FAULT_STATUSES), None)
    return account or status or next(iter(codes), None)


def _is_connections(error: BaseException) -> bool:
    """Whether an exception is about the connection, not about what the server said."""
    is_builtin = isinstance(error, (TimeoutError, ConnectionError))
    return is_builtin or is_one_of(error, _CONNECTION_ERRORS)


def _is_servers(error: BaseException) -> bool:
    """Whether an exception comes from a server, its answer or its client."""
    return (
        isinstance(error, (ModelError, *_BROKEN_ANSWERS))
        or any(map(is_clients, type(error).__mro__))
        or _meaning(error) is not None
    )


def _is_rejected_answer(error: BaseException) -> bool:
    return isinstance(error, REJECTED_ANSWERS) or read(error, "is_rejected_answer") is True
