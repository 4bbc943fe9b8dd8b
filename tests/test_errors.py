"""The gateway's errors: what they tell, how they travel, and what they never show."""

import contextlib
import copy
import logging
import pickle
import socket
import sys
import traceback
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2
import openai
import pytest
from freezegun import freeze_time
from langchain.agents import create_agent
from langchain.agents.middleware import SummarizationMiddleware
from langchain_core.exceptions import (
    ContextOverflowError,
    LangChainException,
    ModelAuthenticationError,
    ModelError,
    ModelInvalidRequestError,
    ModelRateLimitError,
    ModelTimeoutError,
    OutputParserException,
)
from langchain_core.messages import AIMessage, HumanMessage
from langchain_openai.chat_models.base import (
    OpenAIConnectionError,
    OpenAIContextOverflowError,
    OpenAIRateLimitError,
    OpenAITimeoutError,
)
from llmock.pytest_plugin import LLMock
from pydantic import BaseModel, SecretStr, ValidationError

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
from langchain_model_gateway.classify import is_retryable, provider_status

from .conftest import CallForm, openai_at
from .models import NEVER, ModelRefusal, ScriptedChatModel, gateway_over, says

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


def api_error(status: int) -> openai.APIStatusError:
    return openai.APIStatusError("no", response=response(status), body=None)


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
    """What no `except*` takes is raised again as the same error, with what is left of it."""
    with pytest.raises(AllModelsFailedError) as caught:
        try:
            raise failing(ValueError("one"), KeyError("two"), TimeoutError())
        except* ValueError:
            pass
    rest = caught.value
    assert [type(each) for each in rest.exceptions] == [KeyError, TimeoutError]
    assert [failure.model_name for failure in rest.failures] == ["strong", "backup"]
    assert str(rest).startswith("All 3 available models failed")
    assert rest.is_retryable
    assert str(pickle.loads(pickle.dumps(rest))) == str(rest)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="suppress() splits groups since 3.12")
def test_suppress_leaves_the_rest_what_it_is() -> None:
    """What `contextlib.suppress` does not suppress is still the gateway's error."""
    with pytest.raises(AllModelsFailedError) as caught, contextlib.suppress(KeyError):
        raise failing(ValueError("one"), KeyError("two"))
    assert [type(each) for each in caught.value.exceptions] == [ValueError]


def test_the_error_is_the_same_in_every_form(ask: CallForm) -> None:
    """No way to call turns it into a plain group, not even one that suppresses other errors."""
    with pytest.raises(AllModelsFailedError) as caught:
        ask(gateway_over(says(ValueError("one")), says(ValueError("two"))), "x")
    assert [failure.model_name for failure in caught.value.failures] == ["weak", "strong"]


def test_a_nested_gateways_error_is_split_too() -> None:
    """A part of an inner gateway's error keeps its deployment, outside and inside."""
    inner = gateway_over(says(ValueError("a")), says(KeyError("b")))
    with pytest.raises(AllModelsFailedError) as caught:
        gateway_over(inner, says(ValueError("c"))).invoke("x")
    matched, rest = caught.value.split(ValueError)
    assert isinstance(matched, AllModelsFailedError)
    assert isinstance(rest, AllModelsFailedError)
    assert [failure.model_name for failure in matched.failures] == ["weak", "strong"]
    assert [failure.model_name for failure in rest.failures] == ["weak"]
    [part] = rest.exceptions
    assert isinstance(part, AllModelsFailedError)
    assert [failure.model_name for failure in part.failures] == ["strong"]


def test_a_group_of_others_exceptions_is_a_plain_group() -> None:
    """Exceptions of no attempt cannot be told as a failure of one."""
    derived = failing(ValueError("one"), KeyError("two")).derive([OSError()])
    assert type(derived) is ExceptionGroup


# --- too long for all ------------------------------------------------------------------------


def overflow() -> OpenAIContextOverflowError:
    return OpenAIContextOverflowError("too long", response=response(400), body=None)


@pytest.mark.parametrize(
    ("errors", "expected"),
    [
        ((overflow(), ContextOverflowError()), True),
        ((overflow(), caused_by(ContextOverflowError())), True),
        ((overflow(), Exception("[400] maximum context length is 8192 tokens")), True),
        ((overflow(), ValueError()), False),
        ((ModelInvalidRequestError(), overflow()), False),
    ],
)
def test_an_overflow_of_all_is_an_overflow(errors: Any, expected: bool) -> None:
    """Where every deployment finds the input too long, and only there, so does the gateway."""
    error = failing(*errors)
    for each in (error, copy.copy(error), pickle.loads(pickle.dumps(error))):
        assert isinstance(each, AllModelsFailedError)
        assert isinstance(each, ContextOverflowError) is expected
        assert str(each) == str(error)


def test_summarization_asks_for_less_when_all_overflow(weak: LLMock, strong: LLMock) -> None:
    """LangChain's middleware shortens what it sends, as it does over a single model."""
    for provider in (weak, strong):
        provider.context_overflow()
    weak.reply("the summary")
    models = [openai_at(provider.base_url("openai")) for provider in (weak, strong)]
    summarizer = gateway_over(*models).as_chat_model()
    summary = SummarizationMiddleware(summarizer, trigger=("messages", 3), keep=("messages", 1))
    agent = create_agent(says("the answer"), middleware=[summary])
    history = [HumanMessage("a " * 999), AIMessage("b " * 999), HumanMessage("c")]
    answer = agent.invoke({"messages": history})
    assert "the summary" in answer["messages"][0].text
    assert answer["messages"][-1].text == "the answer"


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


@pytest.mark.parametrize(
    "error",
    [
        KeyError("gone"),
        ValueError("no", 5, None),
        FileNotFoundError(2, "no such file"),
        ZeroDivisionError(),
        TimeoutError("slow"),
        ModelTimeoutError("slow"),
        ContextOverflowError("long"),
        RejectedAnswerError("empty"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_built_in_and_langchains_exceptions_travel_as_themselves(error: Exception) -> None:
    """After any number of round trips they are of the very same class, with the same arguments."""
    again = failing(error, error)
    for _ in range(3):
        again = copy.deepcopy(pickle.loads(pickle.dumps(again)))
    for each in again.exceptions:
        assert type(each) is type(error)
        assert each.args == error.args
        assert str(each) == str(error)


class OddError(OSError, ValueError):
    """Has two built-in families."""


class GroupError(ExceptionGroup[Exception]):
    """A library's own group."""


@pytest.mark.parametrize(
    ("error", "families"),
    [
        (OddError("odd"), (OSError, ValueError)),
        (UnicodeDecodeError("utf-8", b"the secret answer", 0, 1, "bad"), (UnicodeDecodeError,)),
        (KeyError(("a", "tuple")), (KeyError,)),
        (GroupError("several", [KeyError("one"), ValueError("two")]), (ExceptionGroup,)),
        (rate_limited(), (ModelRateLimitError,)),
        (api_error(503), (Exception,)),
        (caused_by(TimeoutError()), (RuntimeError,)),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_others_travel_as_members_of_their_families(error: Exception, families: Any) -> None:
    """A stand-in keeps name, text, status and retryability, and any number of round trips."""
    again = failing(error, error)
    for _ in range(3):
        again = copy.deepcopy(pickle.loads(pickle.dumps(again)))
        stand_in = again.exceptions[0]
        assert type(stand_in).__name__ == type(error).__name__
        assert all(isinstance(stand_in, family) for family in families)
        assert getattr(stand_in, "status_code", None) == provider_status(error)
        assert is_retryable(stand_in) is is_retryable(error)
        assert "secret answer" not in repr(stand_in) + str(stand_in)
        copies = pickle.loads(pickle.dumps(stand_in)), copy.copy(stand_in), copy.deepcopy(stand_in)
        assert {str(each) for each in copies} == {str(stand_in)}
        assert {is_retryable(each) for each in copies} == {is_retryable(error)}


def test_a_groups_parts_travel_with_it() -> None:
    """The exceptions of a group that an attempt raised are there after a round trip."""
    group = GroupError("several", [KeyError("one"), rate_limited()])
    again = pickle.loads(pickle.dumps(failing(group, ValueError())))
    assert [type(each).__name__ for each in again.exceptions[0].exceptions] == [
        "KeyError",
        "OpenAIRateLimitError",
    ]


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
        ModelRefusal("refused: the secret answer"),
        type("ResponseValidationError", (ValueError,), {"__module__": "openrouter"})(
            "secret answer"
        ),
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


def test_hostile_classes_and_providers_cannot_forge_a_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The name of an exception's class and of a provider leave every line one line too."""
    caplog.set_level(logging.DEBUG, "langchain_model_gateway")
    error = type(HOSTILE, (Exception,), {})("no")
    model = HostileProvider(replies=[error])
    with pytest.raises(AllModelsFailedError) as caught:
        gateway_over(model, says(caused_by(error, unreachable()))).invoke("x")
    again = pickle.loads(pickle.dumps(caught.value))
    lines = [record.getMessage() for record in caplog.records]
    shown = [str(caught.value), repr(caught.value), repr(caught.value.failures), str(again)]
    for text in [*lines, *shown]:
        assert len(text.splitlines()) == 1
        assert text.isprintable()


class HostileProvider(ScriptedChatModel):
    def _get_ls_params(self, *args: Any, **kwargs: Any) -> Any:
        return {"ls_provider": HOSTILE}


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


class KeyedModel(ScriptedChatModel):
    """A model that has a key of no telling form."""

    api_key: SecretStr = SecretStr("0123456789abcdef0123456789abcdef")

    @property
    def lc_secrets(self) -> dict[str, str]:
        return {"api_key": "SOME_API_KEY"}


class OverlongError(Exception):
    """Shows a key only after much else."""

    def __str__(self) -> str:
        return " " * 790 + "0123456789abcdef0123456789abcdef is wrong"


@pytest.mark.parametrize(
    "make",
    [
        lambda key: rate_limited(f"wrong: {key}"),
        lambda key: ValueError(f"wrong: {key}"),
        KeyError,
        lambda key: ValueError("wrong", 5, key),
        lambda key: caused_by(ValueError(key), unreachable()),
        lambda key: ExceptionGroup(key, [ValueError(key)]),
        lambda key: OverlongError(),
    ],
)
def test_a_deployments_own_key_is_masked_by_its_value(
    make: Callable[[str], Exception], ask: CallForm, caplog: pytest.LogCaptureFixture
) -> None:
    """A key of any form that a provider quotes is in no message, log line, repr or pickle."""
    caplog.set_level(logging.DEBUG, "langchain_model_gateway")
    key = KeyedModel().api_key.get_secret_value()
    with pytest.raises(AllModelsFailedError) as caught:
        ask(gateway_over(KeyedModel(replies=[make(key)]), says(ValueError())), "x")
    error = caught.value
    again = pickle.loads(pickle.dumps(error))
    shown = [str(error), repr(error), str(error.failures[0]), repr(error.failures), caplog.text]
    told = [str(again), str(again.failures[0]), str(again.exceptions[0]), repr(again.exceptions[0])]
    for text in [*shown, *told, str(pickle.dumps(error)), str(pickle.dumps(error.failures[0]))]:
        assert key[:16] not in text
    assert "[secure]" in str(error)
    assert str(again) == str(error)
    assert str(again.failures[0]) == str(error.failures[0])


class LockedModel(KeyedModel):
    """Raises when it is asked for its keys."""

    @property
    def lc_secrets(self) -> dict[str, str]:
        raise RuntimeError("cannot be read")


def test_keys_are_masked_also_where_a_model_does_not_name_them(ask: CallForm) -> None:
    """A model that does not tell which of its fields are keys has them masked all the same."""
    locked = LockedModel(replies=[ValueError("wrong: 0123456789abcdef0123456789abcdef")])
    assert ask(gateway_over(locked, says(AIMessage("a"))), "x").text == "a"
    with pytest.raises(AllModelsFailedError) as caught:
        ask(gateway_over(locked, says(ValueError())), "x")
    for error in (caught.value, pickle.loads(pickle.dumps(caught.value))):
        assert "0123456789abcdef" not in str(error)
        assert "0123456789abcdef" not in str(error.exceptions[0]) or error is caught.value


@pytest.mark.parametrize("method", ["invoke", "ainvoke"])
async def test_a_bare_connection_error_shows_its_root_cause(method: str) -> None:
    """What a client tells as "Connection error." is quoted with what happened to the connection."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        model = openai_at(f"http://127.0.0.1:{taken.getsockname()[1]}/v1")
        with pytest.raises(AllModelsFailedError) as caught:
            answer = getattr(gateway_over(model, says(ValueError())), method)("x")
            await answer
    root = "All connection attempts failed" if method == "ainvoke" else "Connection refused"
    assert "OpenAIConnectionError: Connection error. (" in str(caught.value)
    assert root in str(caught.value)


def test_a_text_that_says_something_is_quoted_without_its_cause() -> None:
    """A cause is added where the error's own text says nothing, and only there."""
    message = str(
        failing(caused_by(KeyError("the cause")), caused_by(OSError("disk"), ValueError()))
    )
    assert "RuntimeError: wrapped; " in message
    assert message.endswith("ValueError: (disk)")


@pytest.mark.parametrize(
    "text",
    [
        '{"api_key": "<>"}',
        "{'x-api-key': '<>'}",
        '{\\"api_key\\": \\"<>\\"}',
        "{'Authorization': 'Basic <>'}",
        '{"Authorization": "Bearer <>"}',
        "Proxy-Authorization: Basic <>",
        "https://h/v1?access_token=<>",
        "https://h/v1?sv=1&sig=<>&se=2",
        "x-goog-api-key: <>",
        "Ocp-Apim-Subscription-Key: <>",
        "OPENAI_API_KEY=<>",
        "api-key: <>",
        "apikey=<>",
        "password=<>",
        '"client_secret": "<>"',
        "refresh_token: <>",
        "AccountKey=<>;EndpointSuffix=x",
        "aws_secret_access_key = <>",
        "Incorrect API key provided: <>.",
        "AWS4-HMAC-SHA256 Credential=<>/x, Signature=<>",
        "X-Amz-Security-Token=<>",
        "Cookie: <>",
        "bearer <>",
        "https://user:<>@h/v1",
        "https://user:p@<>@h/v1",
    ],
)
@pytest.mark.parametrize("key", ["0123456789abcdef0123456789abcdef", "Zm9vYmFyOmJhemJhemJheg=="])
def test_a_secret_is_masked_by_what_stands_before_it(text: str, key: str) -> None:
    """Whoever quotes a header, an argument or a URL shows no secret of any form."""
    message = str(failing(ValueError(text.replace("<>", key)), ValueError()))
    assert key[:12] not in message
    assert "[secure]" in message


@pytest.mark.parametrize(
    "secret",
    [
        "AKIAIOSFODNN7EXAMPLE",
        "ghp_abcdefghijklmnopqrstuvwxyz0123456789",
        "github_pat_11ABCDEFG0123456789",
        "ya29.a0AfH6SMBxyz_abc",
        "ABSKQmVkcm9ja0FQSUtleS1hYmNkZWY=",
        "csk-abcdefghijkl",
        "xoxb-12345-abcdef",
        "-----BEGIN PRIVATE KEY-----\nMIIE\nabc\n-----END PRIVATE KEY-----",
        "-----BEGIN RSA PRIVATE KEY-----\nMIIE" + "x" * 5000,
    ],
)
def test_a_secret_is_masked_by_its_form(secret: str) -> None:
    """The providers' own forms of keys are known wherever they stand."""
    message = str(failing(ValueError(f"no: {secret} was wrong"), ValueError()))
    assert secret[:8] not in message
    assert "MIIE" not in message


@pytest.mark.parametrize(
    "text",
    [
        "max_tokens: 409600 is too large",
        "Unterminated string token: position 10",
        "The api_key client option must be set either by passing api_key",
        "basic authentication required",
        "Request ID: 0123456789abcdef0123456789abcdef",
        "{'usage': {'prompt_tokens': 1234567, 'total_tokens': 12345678}}",
        "https://task-management/risk-averse",
        "Limit 30000 tokens per min (TPM): Used 29000",
    ],
)
def test_what_helps_is_not_masked(text: str) -> None:
    """Numbers of tokens, request ids and advice about keys are quoted as they are."""
    assert f"ValueError: {text};" in str(failing(ValueError(text), ValueError()))


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
