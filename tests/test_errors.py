"""The gateway's errors, and how it reads everybody else's."""

import copy
import logging
import pickle
import traceback
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import httpx
import httpx2
import openai
import pytest
from freezegun import freeze_time
from langchain_core.exceptions import (
    ContextOverflowError,
    LangChainException,
    ModelAPIError,
    ModelAuthenticationError,
    ModelConnectionError,
    ModelError,
    ModelInvalidRequestError,
    ModelNotFoundError,
    ModelPermissionDeniedError,
    ModelRateLimitError,
    ModelTimeoutError,
    OutputParserException,
)
from langchain_openai.chat_models.base import (
    OpenAIAuthenticationError,
    OpenAIConnectionError,
    OpenAIContextOverflowError,
    OpenAIInvalidRequestError,
    OpenAIRateLimitError,
    OpenAITimeoutError,
)
from pydantic import BaseModel, ValidationError

from langchain_model_gateway import (
    AllModelsFailedError,
    FailedAttempt,
    GatewayRunnable,
    ModelRouterError,
    NoModelAvailableError,
    RejectedAnswerError,
    RetryPolicy,
    SkippedModel,
)
from langchain_model_gateway.errors import is_request_fault, is_retryable, retry_after
from tests.models import NEVER, gateway_over, says

KEY = "sk-proj-abcdefghijklmnop"
NOW = datetime(2026, 3, 4, 12, tzinfo=UTC)


def response(status: int, library: Any = httpx2, **headers: str) -> Any:
    """A provider's response to a request that carried a key and a prompt."""
    request = library.Request(
        "POST",
        "https://127.0.0.1/v1/chat/completions",
        headers={"Authorization": f"Bearer {KEY}"},
        json={"messages": [{"role": "user", "content": "the secret prompt"}]},
    )
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return library.Response(status, request=request, headers=names, json={"error": "no"})


def rate_limited(text: str = "Too many requests", **headers: str) -> OpenAIRateLimitError:
    body = {"message": text, "prompt": "the secret prompt"}
    return OpenAIRateLimitError(text, response=response(429, **headers), body=body)


def unreachable() -> OpenAIConnectionError:
    return OpenAIConnectionError(request=response(200).request)


def caused_by(cause: BaseException, error: Exception | None = None) -> Exception:
    error = error or RuntimeError("wrapped")
    error.__cause__ = cause
    return error


def failing(*errors: Exception, **options: Any) -> AllModelsFailedError:
    """What a call raises when its deployments raise these."""
    gateway = gateway_over(*(says(error) for error in errors), **options)
    with pytest.raises(AllModelsFailedError) as caught:
        gateway.invoke("the secret prompt")
    return caught.value


def unavailable(**windows: Any) -> NoModelAvailableError:
    with freeze_time(NOW), pytest.raises(NoModelAvailableError) as caught:
        gateway_over(says("a"), says("b"), windows=windows).invoke("x")
    return caught.value


# --- what an error tells ---------------------------------------------------------------------


def test_the_message_tells_all() -> None:
    """Of every failure it tells the deployment, its provider, the error's type and its words."""
    assert str(failing(rate_limited(), ValueError("broken"))) == (
        "All 2 available models failed: "
        "weak (scriptedchatmodel): OpenAIRateLimitError: Too many requests; "
        "strong (scriptedchatmodel): ValueError: broken"
    )


def test_an_error_with_no_words_is_told_by_its_type() -> None:
    """Nothing stands after the type of an error that says nothing."""
    assert str(failing(ValueError(), TimeoutError())).endswith(
        "weak (scriptedchatmodel): ValueError; strong (scriptedchatmodel): TimeoutError"
    )


def test_the_message_tells_who_was_not_tried() -> None:
    """Besides the failures it tells the skipped deployment, its window and when that ends."""
    with freeze_time(NOW):
        error = failing(ValueError("no"), ValueError(), windows={"strong": [("9:00", "17:00")]})
    assert str(error) == (
        "All 1 available models failed: weak (scriptedchatmodel): ValueError: no. "
        "Not tried: strong (restricted 09:00-17:00 UTC, until 2026-03-04 17:00:00 UTC)"
    )
    assert error.skipped == [
        SkippedModel("strong", "restricted 09:00-17:00 UTC", NOW + timedelta(hours=5))
    ]


def test_the_message_when_nobody_is_available() -> None:
    """It tells when the first one is, and of each why not."""
    error = unavailable(weak=[("9:00", "17:00")], strong=NEVER)
    assert str(error).startswith(
        "No model available at this time (the first is available after 2026-03-04 17:00:00 UTC): "
        "weak (restricted 09:00-17:00 UTC, until 2026-03-04 17:00:00 UTC); strong (restricted "
    )
    assert error.available_at == NOW + timedelta(hours=5)
    assert error.failures == []
    assert error.exceptions == ()
    assert [skip.model_name for skip in error.skipped] == ["weak", "strong"]


def test_failures_are_in_the_order_tried_retries_included() -> None:
    """Each attempt leaves its own entry, with the very exception."""
    first, second, third = TimeoutError("1"), TimeoutError("2"), ValueError("3")
    retry = RetryPolicy(max_attempts=2, initial_delay=1e-6)
    gateway = gateway_over(says(first, second), says(third), retry=retry)
    with pytest.raises(AllModelsFailedError) as caught:
        gateway.invoke("x")
    error = caught.value
    assert [failure.exception for failure in error.failures] == [first, second, third]
    assert [failure.model_name for failure in error.failures] == ["weak", "weak", "strong"]
    assert {failure.provider for failure in error.failures} == {"scriptedchatmodel"}
    assert list(error.exceptions) == [first, second, third]
    assert str(error).startswith("All 2 available models failed: weak")


@pytest.mark.parametrize("kind", [NoModelAvailableError, AllModelsFailedError])
def test_the_family(kind: type[ModelRouterError]) -> None:
    """Every error of the gateway is a ModelRouterError, which is LangChain's ModelError."""
    assert issubclass(kind, ModelRouterError)
    assert issubclass(ModelRouterError, ModelError)
    assert issubclass(kind, LangChainException)
    assert issubclass(AllModelsFailedError, ExceptionGroup)


@pytest.mark.parametrize(
    ("errors", "expected"),
    [
        ((rate_limited(), ValueError()), True),
        ((ValueError(), TimeoutError()), True),
        ((ValueError(), KeyError()), False),
        ((ModelAuthenticationError(), ModelInvalidRequestError()), False),
    ],
)
def test_is_retryable_when_some_failure_was(errors: Any, expected: bool) -> None:
    """Waiting could help when it could help with one of the failures."""
    assert failing(*errors).is_retryable is expected


@pytest.mark.parametrize(
    ("hours", "expected"), [([("9:00", "17:00")], True), (NEVER, False)], ids=["ends", "endless"]
)
def test_is_retryable_when_a_window_will_end(hours: Any, expected: bool) -> None:
    """Waiting could help when a restriction ends, and not when none does."""
    assert unavailable(weak=NEVER, strong=hours).is_retryable is expected
    with freeze_time(NOW):
        assert (
            failing(ValueError(), ValueError(), windows={"strong": hours}).is_retryable is expected
        )


def test_one_error_line_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """A call that fails altogether leaves one ERROR line, which is the message."""
    error = failing(ValueError("one"), ValueError("two"))
    [record] = [r for r in caplog.records if r.levelno == logging.ERROR]
    assert record.name == "langchain_model_gateway"
    assert record.getMessage() == str(error)


# --- as a group ------------------------------------------------------------------------------


def test_except_star_finds_each_cause() -> None:
    """`except*` takes the causes apart by their types."""
    found: list[Any] = []
    try:
        raise failing(rate_limited(), ValueError("one"), KeyError("two"))
    except* OpenAIRateLimitError as group:
        found.append(group.exceptions)
    except* (ValueError, KeyError) as group:
        found.append(group.exceptions)
    assert [[type(each) for each in part] for part in found] == [
        [OpenAIRateLimitError],
        [ValueError, KeyError],
    ]


def test_except_star_passes_on_the_rest() -> None:
    """What no `except*` takes is raised again as a group."""
    with pytest.raises(ExceptionGroup) as caught:
        try:
            raise failing(ValueError("one"), KeyError("two"))
        except* ValueError:
            pass
    assert [type(each) for each in caught.value.exceptions] == [KeyError]


def test_an_except_of_the_family_takes_the_whole() -> None:
    """A plain `except ModelError` gets the error itself."""
    with pytest.raises(ModelError) as caught:
        raise failing(ValueError("one"), KeyError("two"))
    assert isinstance(caught.value, AllModelsFailedError)


def test_a_traceback_shows_every_cause() -> None:
    """Python prints each failure below the error."""
    text = "".join(traceback.format_exception(failing(ValueError("one"), KeyError("two"))))
    assert "ValueError: one" in text
    assert "KeyError: 'two'" in text


def test_a_nested_gateways_error_is_one_of_the_causes() -> None:
    """Of a gateway inside a gateway, the inner error is a failure with failures of its own."""
    inner = gateway_over(says(ValueError("a")), says(rate_limited()))
    with pytest.raises(AllModelsFailedError) as caught:
        gateway_over(inner, says(ValueError("b"))).invoke("x")
    [nested, _] = caught.value.exceptions
    assert isinstance(nested, AllModelsFailedError)
    assert caught.value.is_retryable
    again = pickle.loads(pickle.dumps(caught.value))
    assert [f.model_name for f in again.exceptions[0].failures] == ["weak", "strong"]


# --- pickle and copy -------------------------------------------------------------------------


def restricted_and_failed() -> ModelRouterError:
    with freeze_time(NOW):
        models = rate_limited(), unreachable(), ValueError("no")
        return failing(*models, windows={"backup": [("9:00", "17:00")]})


@pytest.mark.parametrize(
    "duplicate",
    [
        copy.copy,
        copy.deepcopy,
        *(
            lambda error, protocol=protocol: pickle.loads(pickle.dumps(error, protocol))
            for protocol in range(pickle.HIGHEST_PROTOCOL + 1)
        ),
    ],
)
@pytest.mark.parametrize(
    "make", [restricted_and_failed, lambda: unavailable(weak=[("9:00", "17:00")], strong=NEVER)]
)
def test_errors_pickle_and_copy(
    make: Callable[[], ModelRouterError], duplicate: Callable[[Any], Any]
) -> None:
    """A copy says all that the original says, over errors that don't pickle themselves."""
    error = make()
    again = duplicate(error)
    assert type(again) is type(error)
    assert again is not error
    assert str(again) == str(error)
    assert repr(again) == repr(error)
    assert again.is_retryable == error.is_retryable
    assert again.skipped == error.skipped
    assert list(map(str, again.failures)) == list(map(str, error.failures))
    assert [type(e).__name__ for e in again.exceptions] == [
        type(e).__name__ for e in error.exceptions
    ]
    assert again.failures is not error.failures
    if duplicate in {copy.copy, copy.deepcopy}:
        assert again.failures == error.failures


def test_copies_of_copies() -> None:
    """A pickled error pickles again, and keeps what it says."""
    error = restricted_and_failed()
    again = error
    for _ in range(3):
        again = pickle.loads(pickle.dumps(copy.deepcopy(again)))
    assert str(again) == str(error)
    assert [f.provider for f in again.failures] == [f.provider for f in error.failures]


def test_a_stand_in_keeps_its_place_in_the_family() -> None:
    """After a pickle, a rate limit is still one, for those who catch or classify it."""
    again = pickle.loads(pickle.dumps(failing(rate_limited(), OSError(), ValueError("x"))))
    [limit, _, _] = again.exceptions
    assert isinstance(limit, ModelRateLimitError)
    assert is_retryable(limit)
    assert type(limit).__name__ == "OpenAIRateLimitError"
    assert str(limit) == "Too many requests"


def test_no_key_rides_along_in_a_pickle() -> None:
    """Neither the request's headers nor its body are in the bytes, however deep they hang."""
    error = failing(
        rate_limited(f"no {KEY}"),
        unreachable(),
        caused_by(rate_limited()),
    )
    assert KEY in str(error.exceptions[0].response.request.headers["Authorization"])
    for data in (
        pickle.dumps(error),
        pickle.dumps(error.failures),
        pickle.dumps(error.failures[0]),
    ):
        assert KEY.encode() not in data
        assert b"secret prompt" not in data


def test_a_failed_attempt_pickles_alone() -> None:
    """One entry of `failures` travels like the error it comes from."""
    again = pickle.loads(pickle.dumps(failing(rate_limited(), ValueError()).failures[0]))
    assert isinstance(again, FailedAttempt)
    assert again[:2] == ("weak", "scriptedchatmodel")
    assert str(again) == "weak (scriptedchatmodel): OpenAIRateLimitError: Too many requests"


class StubbornError(Exception):
    """Takes arguments that its `args` do not hold."""

    def __init__(self, *, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.handle = lambda: code


@pytest.mark.parametrize(
    "error",
    [
        StubbornError(code=5, text="stubborn"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
        ExceptionGroup("several", [ValueError("one")]),
        OpenAITimeoutError(request=response(200).request),
        OutputParserException("no", llm_output="the answer"),
        RejectedAnswerError("empty"),
        ModelTimeoutError("slow"),
        KeyError("gone"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_any_exception_can_travel(error: Exception) -> None:
    """Whatever a model raises, the gateway's error over it pickles, with its type's name."""
    error = failing(error, error)
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == str(error)
    assert type(again.exceptions[0]).__name__ == type(error.exceptions[0]).__name__
    assert [is_retryable(e) for e in again.exceptions] == [
        is_retryable(e) for e in error.exceptions
    ]


# --- quoting ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    ["x" * 10_000, "line\n" * 500, "a\r\nERROR forged\x1b[31m\u2028b" * 50, "<html>\n" * 100_000],
)
def test_a_providers_text_is_quoted_on_one_short_line(text: str) -> None:
    """Long or many-lined text is at most 200 characters on one line, without control characters."""
    message = str(failing(rate_limited(text), rate_limited(text)))
    quoted = message.split("weak (scriptedchatmodel): OpenAIRateLimitError: ")[1]
    quoted = quoted.split("; strong (scriptedchatmodel): ")[0]
    assert 0 < len(quoted) <= 200
    assert len(message.splitlines()) == 1
    assert message.isprintable()


def test_two_hundred_characters_are_quoted_in_full() -> None:
    """Text of exactly 200 characters is not cut, of 201 it is."""
    assert f": {'x' * 200};" in str(failing(ValueError("x" * 200), ValueError()))
    assert f": {'x' * 199}…;" in str(failing(ValueError("x" * 201), ValueError()))


class Answer(BaseModel):
    number: int


def validation_error() -> ValidationError:
    with pytest.raises(ValidationError) as caught:
        Answer.model_validate({"number": "the secret answer"})
    return caught.value


@pytest.mark.parametrize(
    "error",
    [
        OutputParserException("bad: the secret answer", llm_output="the secret answer"),
        validation_error(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_parser_errors_do_not_quote_the_answer(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    """An error that carries the model's answer is told by its type only, also after a pickle."""
    caplog.set_level(logging.DEBUG, "langchain_model_gateway")
    error = failing(error, error)
    assert type(error.exceptions[0]).__name__ in str(error)
    for text in (str(error), repr(error), repr(error.failures), caplog.text):
        assert "secret answer" not in text
    assert b"secret answer" not in pickle.dumps(error)


def test_no_prompt_is_in_message_log_or_repr(caplog: pytest.LogCaptureFixture) -> None:
    """The question appears nowhere."""
    caplog.set_level(logging.DEBUG, "langchain_model_gateway")
    error = failing(rate_limited(), ValueError())
    for text in (str(error), repr(error), repr(error.failures), caplog.text):
        assert "secret prompt" not in text


HOSTILE = "weak\nERROR langchain_model_gateway forged\r\x1b[31m\u2028"


def test_hostile_names_cannot_forge_a_line(caplog: pytest.LogCaptureFixture) -> None:
    """A name with line breaks leaves every message and log line one line."""
    caplog.set_level(logging.DEBUG, "langchain_model_gateway")
    gateway = GatewayRunnable(
        models=[
            {"model_name": HOSTILE, "model": says(ValueError(HOSTILE))},
            {"model_name": HOSTILE + "2", "model": says("a"), "time_constraints": NEVER},
        ]
    )
    with pytest.raises(AllModelsFailedError) as caught:
        gateway.invoke("x", model_preference=HOSTILE + "3")
    assert len(caplog.records) >= 4
    lines = [record.getMessage() for record in caplog.records]
    for text in [*lines, str(caught.value), repr(caught.value)]:
        assert len(text.splitlines()) == 1
        assert text.isprintable()


@pytest.mark.parametrize(
    "secret",
    [
        KEY,
        "sk-ant-api03-abcdefghijkl",
        "gsk_abcdefghijkl",
        "AIzaSyA1234567890abcdef",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abcdef",
        "hf_abcdefghijkl",
    ],
)
@pytest.mark.parametrize(
    "text",
    [
        "Incorrect API key provided: {}.",
        "Authorization: Bearer {}",
        "{}",
        "at 'https://user:{}@127.0.0.1/v1'",
        "x" * 180 + " {}",
    ],
)
def test_what_looks_like_a_key_is_masked(
    text: str, secret: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A provider that quotes a key in its error does not get it into messages, logs and pickles."""
    caplog.set_level(logging.DEBUG, "langchain_model_gateway")
    error = failing(ValueError(text.format(secret)), ValueError())
    for shown in (str(error), repr(error), repr(error.failures), caplog.text):
        assert secret[:14] not in shown
    assert secret.encode() not in pickle.dumps(error)


@pytest.mark.parametrize(
    "text",
    [
        "Authorization: Bearer 0123456789abcdef",
        "Authorization: Basic dTpodW50ZXIy",
        "api_key=0123456789abcdef",
        "http://u:hunter2@h/v1",
        "https://h/v1/models/m:generateContent?alt=sse&key=0123456789abcdef",
    ],
)
def test_bearers_keys_and_passwords_are_masked_by_their_place(text: str) -> None:
    """A secret with no telling form is known by what stands before it."""
    message = str(failing(ValueError(text), ValueError()))
    assert "0123456789abcdef" not in message
    assert "hunter2" not in message
    assert "[secure]" in message


# --- reading other people's exceptions -------------------------------------------------------


def api_error(status: int, library: Any = httpx2) -> openai.APIStatusError:
    return openai.APIStatusError("no", response=response(status, library), body=None)


def http_error(status: int, library: Any = httpx) -> Exception:
    answer = response(status, library)
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
    """Only a refused request or an overlong one is the request's own fault."""
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
        (ValueError(), None),
    ],
)
def test_retry_after_elsewhere(error: Exception, expected: float | None) -> None:
    """An attribute, a plain dict of headers and a cause are read too, whatever they hold."""
    assert retry_after(error, NOW) == expected
