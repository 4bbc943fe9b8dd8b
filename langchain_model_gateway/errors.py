"""The gateway's errors.

    ModelError (langchain_core)
    ├── ModelRouterError                     the gateway has no answer
    │   ├── NoModelAvailableError            nobody may be used at this time
    │   └── AllModelsFailedError             everybody failed (an ExceptionGroup too)
    │       └── AllContextsOverflowedError   since the input is too long (ContextOverflowError)
    ├── RejectedAnswerError                  a model answered, but not with what counts
    └── EmptyStreamError                     a stream ended before it carried anything

What other people's exceptions mean is read in `classify.py`.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from functools import cached_property
from typing import Any, ClassVar, Final, NamedTuple, Self

from langchain_core.exceptions import ContextOverflowError, ModelAPIError, ModelError

from langchain_model_gateway._text import one_line
from langchain_model_gateway.classify import is_context_overflow, is_retryable
from langchain_model_gateway.quoting import kind, portable, quote

_NAME_LIMIT: Final = 200


class _Attempt(NamedTuple):
    model_name: str
    provider: str
    exception: Exception


class FailedAttempt(_Attempt):
    """One attempt that failed: a tuple of three.

    Args:
        model_name: The deployment's name.
        provider: Who serves it, such as "openai".
        exception: What it raised.
        secrets: Gives the deployment's keys, which no text of this attempt may show. It is called
            when the exception is quoted, and not kept in a pickle.
    """

    _secrets: Callable[[], Iterable[str]] = tuple

    def __new__(
        cls,
        model_name: str,
        provider: str,
        exception: Exception,
        secrets: Callable[[], Iterable[str]] = tuple,
    ) -> Self:
        """Note a failure."""
        attempt = super().__new__(cls, model_name, provider, exception)
        attempt._secrets = secrets
        return attempt

    @cached_property
    def quotation(self) -> str:
        """The exception's type and words on one short line, without any of the secrets."""
        return quote(self.exception, self._known_secrets())

    def with_exception(self, exception: Exception) -> Self:
        """The same attempt, with a part of its exception."""
        return type(self)(self.model_name, self.provider, exception, self._secrets)

    def _known_secrets(self) -> tuple[str, ...] | None:
        try:
            return tuple(self._secrets())
        except Exception:  # noqa: BLE001 - foreign code
            return None

    def __repr__(self) -> str:
        return f"FailedAttempt({self.model_name!r}, {self.provider!r}, {kind(self.exception)})"

    def __str__(self) -> str:
        provider = one_line(self.provider, _NAME_LIMIT)
        return f"{one_line(self.model_name, _NAME_LIMIT)} ({provider}): {self.quotation}"

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        # Provider errors hold responses and clients: shared, as a deep copy of those would fail.
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        exception = portable(self.exception, self._known_secrets())
        return _arrived, (self.model_name, self.provider, exception, self.quotation)


def _arrived(model_name: str, provider: str, exception: Exception, quotation: str) -> FailedAttempt:
    attempt = FailedAttempt(model_name, provider, exception)
    attempt.quotation = quotation
    return attempt


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

    def describe(self) -> str:
        """The reason, and until when."""
        return self.reason + (f", until {self.until:%Y-%m-%d %H:%M:%S} UTC" if self.until else "")

    def __str__(self) -> str:
        return f"{one_line(self.model_name, _NAME_LIMIT)} ({self.describe()})"


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

    def derive(self, excs: Sequence[Any], /) -> ExceptionGroup[Any]:
        """The same error with only some of its exceptions, as `except*` and `suppress` want it."""
        left, kept = list(self.failures), []
        for exc in excs:
            origin = next((each for each in left if _is_part(exc, each.exception)), None)
            if origin is None:  # not one of ours
                return ExceptionGroup(self.story, excs)
            left.remove(origin)
            kept.append(origin.with_exception(exc))
        return type(self)(self.story, kept, self.skipped)


class AllContextsOverflowedError(AllModelsFailedError, ContextOverflowError):
    """For every deployment that could be tried, the input was too long."""


class RejectedAnswerError(ModelError):
    """A model answered, but not with what counts as an answer."""

    is_rejected_answer: ClassVar[bool] = True


class EmptyStreamError(ModelAPIError):
    """A model's stream ended before it carried anything."""


def no_model_available(skipped: Sequence[SkippedModel]) -> NoModelAvailableError:
    """The error for a moment at which every deployment is restricted."""
    error = NoModelAvailableError("", (), skipped)
    when = error.available_at
    first = f"the first is available after {when:%Y-%m-%d %H:%M:%S} UTC" if when else "no end known"
    error.story = f"No model available at this time ({first}): {_listed(skipped)}"
    return error


def all_models_failed(
    failures: Sequence[FailedAttempt],
    skipped: Sequence[SkippedModel],
    because: str = "",
    behind: Sequence[SkippedModel] = (),
) -> AllModelsFailedError:
    """The error for a call whose every attempt failed; `behind`: who was put last, and why."""
    tried = len({failure.model_name for failure in failures})
    story = f"All {tried} available models failed{because}: {_listed(failures)}"
    if skipped:
        story += f". Not tried: {_listed(skipped)}"
    if behind:
        story += f". Put last: {_listed(behind)}"
    overflowed = all(is_context_overflow(failure.exception) for failure in failures)
    kind_of_error = AllContextsOverflowedError if overflowed else AllModelsFailedError
    return kind_of_error(story, failures, skipped)


def _listed(entries: Sequence[FailedAttempt | SkippedModel]) -> str:
    return "; ".join(map(str, entries))


def _is_part(exc: BaseException, whole: BaseException) -> bool:
    """Whether `exc` is `whole`, or a group that was split off it."""
    if exc is whole or not isinstance(exc, BaseExceptionGroup):
        return exc is whole
    return not set(map(id, _leaves(exc))).isdisjoint(map(id, _leaves(whole)))


def _leaves(exc: BaseException) -> Iterator[BaseException]:
    if isinstance(exc, BaseExceptionGroup):
        for each in exc.exceptions:
            yield from _leaves(each)
    else:
        yield exc
