"""The gateway's errors, and how it reads everybody else's.

    ModelError (langchain_core)
    └── ModelRouterError
        ├── NoModelAvailableError      nobody may be used at this time
        └── AllModelsFailedError       everybody failed (also an ExceptionGroup)

What an exception means (worth a retry? the request's own fault? how long to wait?) is decided here
and nowhere else.
"""

import math
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final, NamedTuple, Self

from langchain_core.exceptions import (
    ContextOverflowError,
    ModelError,
    ModelInvalidRequestError,
    OutputParserException,
)
from pydantic import ValidationError

from langchain_model_gateway._text import one_line, redact

_QUOTE_LIMIT: Final = 200
_RETRYABLE_STATUSES: Final = frozenset({408, 409, 429})
_REQUEST_FAULT_STATUSES: Final = frozenset({400, 413, 422})
# By name, so that no client library is imported to recognise its errors.
_CLIENT_LIBRARIES: Final = frozenset(
    {"aiohttp", "anthropic", "botocore", "groq", "httpcore", "httpcore2", "httpx", "httpx2"}
    | {"mistralai", "openai", "requests", "urllib3"}
)
_CONNECTION_ERRORS: Final = frozenset(
    {"APIConnectionError", "ClientConnectionError", "ConnectionError", "HTTPClientError"}
    | {"NetworkError", "ProtocolError", "ServerTimeoutError", "Timeout", "TimeoutException"}
    | {"TransportError"}
)


class FailedAttempt(NamedTuple):
    """One attempt that failed.

    Attributes:
        model_name: The deployment's name.
        provider: Who serves it, such as "openai".
        exception: What it raised.
    """

    model_name: str
    provider: str
    exception: Exception

    def __repr__(self) -> str:
        return f"FailedAttempt({self.model_name!r}, {self.provider!r}, {_kind(self.exception)})"

    def __reduce__(self) -> tuple[Any, ...]:
        return FailedAttempt, (self.model_name, self.provider, portable(self.exception))

    def __str__(self) -> str:
        name = one_line(self.model_name, _QUOTE_LIMIT)
        return f"{name} ({self.provider}): {quote(self.exception)}"


class SkippedModel(NamedTuple):
    """One deployment that was not tried.

    Attributes:
        model_name: The deployment's name.
        reason: Why, in words.
        until: The last moment this holds, in UTC; `None` if no end is in sight.
    """

    model_name: str
    reason: str
    until: datetime | None = None

    def told(self) -> str:
        """The reason, and until when."""
        return self.reason + (f", until {self.until:%Y-%m-%d %H:%M:%S} UTC" if self.until else "")

    def __str__(self) -> str:
        return f"{one_line(self.model_name, _QUOTE_LIMIT)} ({self.told()})"


class ModelRouterError(ModelError):
    """The gateway has no answer.

    Args:
        message: The whole story on one line.
        failures: Every failed attempt in the order made, retries included.
        skipped: Every deployment that was not tried, and why.

    Attributes:
        is_retryable: Whether the same call may succeed later: some failure was retryable, or a
            deployment that was skipped becomes available again.
    """

    def __init__(
        self,
        message: str,
        failures: Sequence[FailedAttempt] = (),
        skipped: Sequence[SkippedModel] = (),
    ) -> None:
        super().__init__(message)
        self._tell(message, failures, skipped)

    def _tell(
        self, story: str, failures: Sequence[FailedAttempt], skipped: Sequence[SkippedModel]
    ) -> None:
        self.story = story
        self.failures = list(failures)
        self.skipped = list(skipped)
        self.is_retryable = any(is_retryable(failure.exception) for failure in failures) or any(
            skip.until is not None for skip in skipped
        )

    @property
    def exceptions(self) -> tuple[Exception, ...]:
        """What the failed attempts raised, in the order made."""
        return tuple(failure.exception for failure in self.failures)

    def __str__(self) -> str:
        return self.story

    def __repr__(self) -> str:
        # Not the group's own, which shows the causes as their providers wrote them.
        return f"{type(self).__name__}({self.story!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.story, self.failures, self.skipped)

    def __copy__(self) -> Self:
        return type(self)(self.story, self.failures, self.skipped)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        # Provider errors hold responses and clients: shared, as a deep copy of those would fail.
        return self.__copy__()


class NoModelAvailableError(ModelRouterError):
    """No deployment may be used at this time; nothing was tried.

    Attributes:
        available_at: When the first one becomes available again (UTC), if that is known.
    """

    @property
    def available_at(self) -> datetime | None:
        """When the first deployment becomes available again (UTC), if that is known."""
        return min((skip.until for skip in self.skipped if skip.until), default=None)


class AllModelsFailedError(ModelRouterError, ExceptionGroup[Exception]):
    """Every deployment that could be tried has failed.

    It is an `ExceptionGroup` of all the causes, so a traceback shows each and `except*` works.
    """

    def __new__(
        cls,
        message: str,
        failures: Sequence[FailedAttempt],
        skipped: Sequence[SkippedModel] = (),
    ) -> Self:
        """Make the group of the failures' exceptions."""
        return super().__new__(cls, message, [failure.exception for failure in failures])

    def __init__(
        self,
        message: str,
        failures: Sequence[FailedAttempt],
        skipped: Sequence[SkippedModel] = (),
    ) -> None:
        # The group's own arguments were taken by __new__.
        self._tell(message, failures, skipped)


def no_model_available(skipped: Sequence[SkippedModel]) -> NoModelAvailableError:
    """The error for a moment at which every deployment is restricted."""
    error = NoModelAvailableError("", (), skipped)
    when = error.available_at
    first = f"the first is available after {when:%Y-%m-%d %H:%M:%S} UTC" if when else "no end known"
    error.story = f"No model available at this time ({first}): {_listed(skipped)}"
    return error


def all_models_failed(
    failures: Sequence[FailedAttempt], skipped: Sequence[SkippedModel], because: str = ""
) -> AllModelsFailedError:
    """The error for a call whose every attempt failed."""
    tried = len({failure.model_name for failure in failures})
    story = f"All {tried} available models failed{because}: {_listed(failures)}"
    if skipped:
        story += f". Not tried: {_listed(skipped)}"
    return AllModelsFailedError(story, failures, skipped)


def _listed(entries: Sequence[FailedAttempt | SkippedModel]) -> str:
    return "; ".join(map(str, entries))


# --- reading other people's exceptions -------------------------------------------------------


def is_retryable(error: BaseException) -> bool:
    """Whether repeating the very same request may succeed.

    LangChain's classification (`ModelError.is_retryable`) rules. What is outside that family is
    read by its nature: timeouts and connection errors are retryable, and so is an HTTP status of
    408, 409, 429 or 5xx (the set the OpenAI and Anthropic clients retry).

    Args:
        error: Any exception; what it was raised from is looked at where it tells nothing itself.
    """
    for each in _causes(error):
        if isinstance(each, ModelError):
            return bool(each.is_retryable)
        if (status := _status(each)) is not None:
            return status in _RETRYABLE_STATUSES or 500 <= status <= 599  # noqa: PLR2004
        if isinstance(each, (TimeoutError, ConnectionError)) or _is_connection_error(each):
            return True
    return False


def is_request_fault(error: BaseException) -> bool:
    """Whether the request itself is to blame, and no health of a deployment shows in it."""
    for each in _causes(error):
        if isinstance(each, (ModelInvalidRequestError, ContextOverflowError)):
            return True
        if isinstance(each, ModelError):
            return False
        if (status := _status(each)) is not None:
            return status in _REQUEST_FAULT_STATUSES
    return False


def retry_after(error: BaseException, now: datetime) -> float | None:
    """How long the server asked to wait, in seconds.

    Reads `Retry-After` (seconds or an HTTP date, RFC 9110 section 10.2.3) and the finer
    `retry-after-ms` from a response's headers, or a `retry_after` attribute. Nonsense counts as
    absent.

    Args:
        error: Any exception; what it was raised from is looked at too.
        now: The present, for a date.
    """
    for each in _causes(error):
        headers = getattr(getattr(each, "response", None), "headers", None) or {}
        candidates = (
            (_header(headers, "retry-after-ms"), 0.001),
            (_header(headers, "retry-after"), 1.0),
            (getattr(each, "retry_after", None), 1.0),
        )
        for value, unit in candidates:
            seconds = _seconds(value, now)
            if seconds is not None:
                return seconds * unit
    return None


def is_control_flow(error: BaseException) -> bool:
    """Whether an exception is no failure but LangGraph steering its graph (an interrupt, say)."""
    errors = sys.modules.get("langgraph.errors")
    bubble_up = getattr(errors, "GraphBubbleUp", None)
    return bubble_up is not None and isinstance(error, bubble_up)


def quote(error: BaseException) -> str:
    """An exception as a message may show it: its type and its own words, on one short line.

    Parser and validation errors carry the model's answer in their text; only their type is told.
    """
    kind = _kind(error)
    if isinstance(error, ValidationError):
        return f"{kind}: {error.error_count()} validation errors for {error.title}"
    if isinstance(error, OutputParserException):
        return f"{kind}: the answer does not parse"
    text = one_line(redact(str(error)[: 10 * _QUOTE_LIMIT]), _QUOTE_LIMIT)
    return f"{kind}: {text}" if text else kind


def portable(error: Exception) -> Exception:
    """A stand-in for `error` that pickles and carries no request, response or client.

    It keeps the type's name, the text and its place in LangChain's family of model errors.
    """
    if isinstance(error, ModelRouterError):
        return error
    kind = type(error)
    bases = (ModelError, TimeoutError, ConnectionError)
    native = (c for c in kind.__mro__ if c.__module__ in {"langchain_core.exceptions", "builtins"})
    base = next((c for c in native if issubclass(c, bases)), Exception)
    facts: dict[str, Any] = {"__module__": kind.__module__}
    if isinstance(error, ModelError):
        facts["is_retryable"] = bool(error.is_retryable)
    if (status := _status(error)) is not None:
        facts["status_code"] = status
    _, _, text = quote(error).partition(": ")
    return _stand_in(kind.__name__, base, facts, text)


def _stand_in(name: str, base: type[Exception], facts: dict[str, Any], text: str) -> Exception:
    def reduce(_: Exception) -> tuple[Any, ...]:
        return _stand_in, (name, base, facts, text)

    stand_in: Exception = type(name, (base,), {**facts, "__reduce__": reduce})(text)
    return stand_in


def _kind(error: BaseException) -> str:
    return type(error).__name__


def _causes(error: BaseException) -> Iterator[BaseException]:
    """`error` and what it was raised from, outermost first."""
    seen: set[int] = set()
    each: BaseException | None = error
    while each is not None and id(each) not in seen:
        seen.add(id(each))
        yield each
        each = each.__cause__


def _status(error: BaseException) -> int | None:
    for holder in (error, getattr(error, "response", None)):
        status = getattr(holder, "status_code", None)
        if isinstance(status, int):
            return int(status)
    return None


def _is_connection_error(error: BaseException) -> bool:
    return any(
        c.__name__ in _CONNECTION_ERRORS and c.__module__.partition(".")[0] in _CLIENT_LIBRARIES
        for c in type(error).__mro__
    )


def _header(headers: Any, name: str) -> Any:
    try:
        # A plain dict of headers, unlike httpx's, minds the case.
        return next((v for k, v in headers.items() if str(k).lower() == name), None)
    except (AttributeError, TypeError, ValueError):
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
