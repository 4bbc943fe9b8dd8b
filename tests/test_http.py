"""Real clients, real HTTP: providers that fail, break off and go down."""

import asyncio
import gc
import itertools
import pickle
import socket
import warnings
from collections.abc import Callable
from typing import Any

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessage
from langchain_openai import ChatOpenAI
from llmock.pytest_plugin import LLMock

from langchain_model_gateway import (
    AllModelsFailedError,
    CooldownPolicy,
    GatewayRunnable,
    RetryPolicy,
)

from .conftest import BatchForm, CallForm, StreamForm, openai_at
from .models import gateway_over, who

KEY = "sk-proj-0123456789abcdefghijklmnop"


@pytest.fixture
def gateway(chat_models: list[ChatOpenAI], providers: list[LLMock]) -> GatewayRunnable:
    """Two providers, nothing wrong with them yet."""
    return gateway_over(*chat_models)


def asked(provider: LLMock) -> int:
    return len(provider.requests)


def failed(answer: Any) -> list[dict[str, str]]:
    return answer.response_metadata["gateway"]["failed"]


# --- falling back --------------------------------------------------------------------------------


def test_a_healthy_provider_is_the_only_one_asked(
    ask: CallForm, gateway: GatewayRunnable, providers: list[LLMock]
):
    """One question is one request, to the first in the list."""
    providers[0].reply("from weak")
    answer = ask(gateway, "hi")
    assert (answer.content, who(answer), failed(answer)) == ("from weak", "weak", [])
    assert [asked(provider) for provider in providers] == [1, 0]


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (500, "OpenAIAPIError"),
        (429, "OpenAIRateLimitError"),
        (401, "OpenAIAuthenticationError"),
    ],
)
def test_a_provider_that_answers_with_an_error_is_replaced(
    ask: CallForm, gateway: GatewayRunnable, providers: list[LLMock], status: int, error: str
):
    """The next provider gets the same question, once, and the answer tells of the failure."""
    weak, strong = providers
    weak.fail(status)
    strong.reply("from strong")
    answer = ask(gateway, "hi")
    assert (answer.content, who(answer)) == ("from strong", "strong")
    assert failed(answer) == [{"model_name": "weak", "error": error}]
    assert [asked(provider) for provider in providers] == [1, 1]
    assert weak.last_request.body["messages"] == strong.last_request.body["messages"]


def test_a_provider_that_is_not_there_is_replaced(
    ask: CallForm, chat_models: list[ChatOpenAI], providers: list[LLMock]
):
    """A refused connection is a failure like any other."""
    with socket.socket() as nobody:
        # Bound and not listening: nobody else can take the port, and nobody answers on it.
        nobody.bind(("127.0.0.1", 0))
        gone = openai_at(f"http://127.0.0.1:{nobody.getsockname()[1]}/v1")
        answer = ask(gateway_over(gone, chat_models[1]), "hi")
    assert who(answer) == "strong"
    assert failed(answer) == [{"model_name": "weak", "error": "OpenAIConnectionError"}]


def test_settings_reach_the_provider_and_the_preference_does_not(
    ask: CallForm, gateway: GatewayRunnable, providers: list[LLMock]
):
    """What goes over the wire has the caller's settings and no trace of the gateway."""
    ask(gateway, "hi", model_preference="strong", temperature=0.5, stop=["."])
    body = providers[1].last_request.body
    assert (body["temperature"], body["stop"]) == (0.5, ["."])
    assert "model_preference" not in body


def test_retries_count_as_attempts(
    ask: CallForm, chat_models: list[ChatOpenAI], providers: list[LLMock]
):
    """A gateway's own retries are requests, and each is told; none is added by the client."""
    retry = RetryPolicy(max_attempts=2, initial_delay=0.001)
    providers[0].outage()
    answer = ask(gateway_over(*chat_models, retry=retry), "hi")
    assert [failure["model_name"] for failure in failed(answer)] == ["weak", "weak"]
    assert [asked(provider) for provider in providers] == [2, 1]


# --- streams that break off ----------------------------------------------------------------------


@pytest.mark.parametrize("after_chunks", [0, 1])
def test_a_connection_lost_before_the_first_words_falls_back(
    ask_stream: StreamForm, gateway: GatewayRunnable, providers: list[LLMock], after_chunks: int
):
    """OpenAI's first chunk has a role and no words: it commits to nothing."""
    weak, strong = providers
    weak.disconnect(after_chunks=after_chunks)
    strong.reply("all of it")
    chunks = ask_stream(gateway, "hi")
    assert "".join(chunk.text for chunk in chunks) == "all of it"
    assert who(chunks[0]) == "strong"
    assert [failure["model_name"] for failure in failed(chunks[0])] == ["weak"]
    assert len({chunk.id for chunk in chunks}) == 1


def test_a_connection_lost_after_the_first_words_is_the_callers_to_know(
    ask_stream: StreamForm, gateway: GatewayRunnable, providers: list[LLMock]
):
    """Half an answer is never completed by another provider."""
    weak, strong = providers
    weak.reply("one two three four five").disconnect(after_chunks=3)
    seen: list[Any] = []
    with pytest.raises(Exception, match=r"(?i)connection|peer closed") as caught:
        ask_stream.watch(ask_stream.open(gateway, "hi"), seen.append)
    assert not isinstance(caught.value, AllModelsFailedError)
    assert "".join(chunk.text for chunk in seen)
    assert who(seen[0]) == "weak"
    assert asked(strong) == 0


def test_a_stream_cut_off_before_its_first_words_falls_back(
    ask_stream: StreamForm, gateway: GatewayRunnable, providers: list[LLMock]
):
    """A stream that ends properly but holds nothing is a failure."""
    providers[0].truncate(after_chunks=1)
    chunks = ask_stream(gateway, "hi")
    assert who(chunks[0]) == "strong"
    assert failed(chunks[0]) == [{"model_name": "weak", "error": "EmptyStreamError"}]


@pytest.mark.parametrize("disabled", [True, "tool_calling"])
def test_a_whole_tool_call_is_an_answer_to_a_stream(
    ask_stream: StreamForm,
    chat_models: list[ChatOpenAI],
    providers: list[LLMock],
    disabled: bool | str,
):
    """A client that does not stream gives its message in one piece, with a call and no text."""
    providers[0].call_tool("get_weather", {"city": "Oslo"})
    whole = chat_models[0].model_copy(update={"disable_streaming": disabled})
    gateway = gateway_over(whole, chat_models[1]).bind_tools([get_weather])
    answer = ask_stream(gateway, "Weather in Oslo?")[0]
    assert (who(answer), answer.tool_calls[0]["args"]) == ("weak", {"city": "Oslo"})


def get_weather(city: str) -> str:
    """Get the weather in a city."""
    return f"21 degrees in {city}"


# --- many questions ------------------------------------------------------------------------------


class AtTheHundredth(BaseCallbackHandler):
    """Does something when the hundredth question is about to be put."""

    def __init__(self, action: Callable[[], Any]) -> None:
        self.action = action
        self.count = itertools.count(1)

    def on_chat_model_start(self, *_: Any, **__: Any) -> None:
        if next(self.count) == 100:
            self.action()


def questions(provider: LLMock) -> list[str]:
    return [record.body["messages"][0]["content"] for record in provider.requests]


def test_a_batch_loses_nothing_when_a_provider_goes_down_half_way(
    run_batch: BatchForm, chat_models: list[ChatOpenAI], providers: list[LLMock]
):
    """Of 200 questions each is answered once, by whoever was up, and none is sent twice."""
    weak, strong = providers
    down = AtTheHundredth(weak.outage)
    first = chat_models[0].model_copy(update={"callbacks": [down]})
    inputs = [f"question {number}" for number in range(200)]
    config = {"max_concurrency": 16}
    answers = run_batch(gateway_over(first, chat_models[1]), inputs, config)

    assert sorted(questions(weak)) == sorted(inputs)
    rescued = [text for text, answer in zip(inputs, answers, strict=True) if failed(answer)]
    assert sorted(questions(strong)) == sorted(rescued)
    assert 0 < len(rescued) <= 117  # the last hundred, and those under way at that moment
    assert {who(answer) for answer in answers} == {"weak", "strong"}


def test_a_batch_with_both_providers_down_half_way_has_an_answer_or_an_error_for_each(
    run_batch: BatchForm, chat_models: list[ChatOpenAI], providers: list[LLMock]
):
    """With `return_exceptions` nothing goes missing in an outage either."""
    weak, strong = providers
    down = AtTheHundredth(lambda: (weak.outage(), strong.outage()))
    first = chat_models[0].model_copy(update={"callbacks": [down]})
    inputs = [f"question {number}" for number in range(200)]
    answers = run_batch(
        gateway_over(first, chat_models[1]),
        inputs,
        {"max_concurrency": 16},
        return_exceptions=True,
    )
    assert {type(answer) for answer in answers} == {AIMessage, AllModelsFailedError}
    unanswered = [
        text
        for text, answer in zip(inputs, answers, strict=True)
        if isinstance(answer, AllModelsFailedError)
    ]
    assert sorted(questions(weak)) == sorted(inputs)
    assert set(unanswered) <= set(questions(strong))
    assert len(questions(strong)) == len(set(questions(strong)))


def test_answers_are_not_mixed_up(
    run_batch: BatchForm, chat_models: list[ChatOpenAI], providers: list[LLMock]
):
    """An answer stands where its question stood, whoever gave it and whenever."""

    class NotesQuestions(BaseCallbackHandler):
        """Which run has which question, and which answer."""

        def __init__(self) -> None:
            self.questions: dict[Any, str] = {}
            self.answers: dict[str, str] = {}

        def on_chat_model_start(self, _: Any, messages: Any, *, run_id: Any, **__: Any) -> None:
            self.questions[run_id] = messages[0][0].content

        def on_llm_end(self, response: Any, *, run_id: Any, **_: Any) -> None:
            message = response.generations[0][0].message
            self.answers[message.id] = self.questions[run_id]

    notes = NotesQuestions()
    providers[0].fail(503, times=20)
    inputs = [f"question {number}" for number in range(60)]
    config = {"callbacks": [notes], "max_concurrency": 8}
    answers = run_batch(gateway_over(*chat_models), inputs, config)
    assert [notes.answers[answer.id] for answer in answers] == inputs


# --- what an error tells, and what not -----------------------------------------------------------


def test_the_error_names_each_provider_and_its_error(
    ask: CallForm, gateway: GatewayRunnable, providers: list[LLMock]
):
    """The message alone is enough to act on."""
    providers[0].rate_limit()
    providers[1].fail(401, message="Incorrect API key provided.")
    with pytest.raises(AllModelsFailedError) as caught:
        ask(gateway, "hi")
    assert str(caught.value).startswith(
        "All 2 available models failed: weak (openai): OpenAIRateLimitError: "
    )
    assert "; strong (openai): OpenAIAuthenticationError: " in str(caught.value)
    assert "Incorrect API key provided." in str(caught.value)
    assert caught.value.is_retryable


def test_two_rejected_keys_are_no_reason_to_wait(gateway: GatewayRunnable, providers: list[LLMock]):
    """`is_retryable` is true only where waiting could help."""
    for provider in providers:
        provider.fail(401)
    with pytest.raises(AllModelsFailedError) as caught:
        gateway.invoke("hi")
    assert not caught.value.is_retryable


def test_a_key_is_never_told(
    ask: CallForm, providers: list[LLMock], caplog: pytest.LogCaptureFixture
):
    """Neither message, repr, log nor pickle has it, though the provider quotes it."""
    caplog.set_level("DEBUG", "langchain_model_gateway")
    for provider in providers:
        provider.fail(401, message=f"Incorrect API key provided: {KEY}. Bearer {KEY}")
    models = [openai_at(provider.base_url("openai"), api_key=KEY) for provider in providers]
    with pytest.raises(AllModelsFailedError) as caught:
        ask(gateway_over(*models), "hi")
    error = caught.value
    told = [str(error), repr(error), repr(error.failures), *caplog.messages]
    assert all(KEY not in text for text in told)
    assert KEY.encode() not in (payload := pickle.dumps(error))
    assert str(pickle.loads(payload)) == str(error)
    # The providers' own errors really have it.
    assert all(KEY in str(each) for each in error.exceptions)


# --- clients -------------------------------------------------------------------------------------


def test_one_gateway_serves_many_event_loops(gateway: GatewayRunnable, providers: list[LLMock]):
    """Nothing of a gateway belongs to the loop of its first call."""
    providers[0].outage()
    answers = [asyncio.run(gateway.ainvoke("hi")) for _ in range(3)]
    assert [who(answer) for answer in answers] == ["strong"] * 3


@pytest.mark.parametrize("cooldown", [None, CooldownPolicy(failure_threshold=1)])
def test_a_second_event_loop_is_told_once_and_held_against_nobody(
    weak: LLMock, strong: LLMock, caplog: pytest.LogCaptureFixture, cooldown: CooldownPolicy | None
) -> None:
    """A client that belongs to a loop that is gone says nothing about its provider."""
    # Of its own address: the client is cached by that, and here it keeps its connections.
    clients = [
        ChatOpenAI(
            model="m",
            api_key="k",
            base_url=each.base_url("openai"),
            timeout=19 + number + (cooldown is None) / 2,
            max_retries=0,
        )
        for number, each in enumerate((weak, strong))
    ]
    gateway = gateway_over(*clients, cooldown=cooldown)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # the old loop's connections
        answers = [asyncio.run(gateway.ainvoke("hi")) for _ in range(2)]
        gc.collect()
    assert list(map(who, answers)) == ["weak", "strong"]
    assert not gateway.explain().deferred
    told = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert len(told) == 1
    assert "weak" in told[0]
    assert "event loop" in told[0]
