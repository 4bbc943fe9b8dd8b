"""What counts as an answer: how every provider says that one is none, and who may say so too."""

import asyncio
import logging
import pickle
from collections.abc import Sequence
from enum import Enum
from functools import partial
from typing import Any

import openai
import pytest
from langchain_core.exceptions import OutputParserException
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.output_parsers import BaseTransformOutputParser, JsonOutputParser
from langchain_core.runnables import Runnable, RunnableLambda
from langchain_core.utils.function_calling import convert_to_openai_tool
from langchain_openai.chat_models.base import OpenAIRefusalError
from openai.types.chat import ChatCompletion
from pydantic import BaseModel, ValidationError

from langchain_model_gateway import (
    AllModelsFailedError,
    CooldownPolicy,
    EmptyStreamError,
    RejectedAnswerError,
    RetryPolicy,
)

from .conftest import CallForm, StreamForm
from .models import ModelRefusal, ScriptedChatModel, gateway_over, says, who


class BlockReason(Enum):
    """As Gemini's client has it."""

    BLOCKED_REASON_UNSPECIFIED = 0
    SAFETY = 1


KINDS = ("empty", "content_filter", "length", "refusal", "error", "truncated")


# --- how the providers say it -----------------------------------------------------------------

# What each installed client puts into `response_metadata`, and which kinds that is.
FINISHES: list[tuple[str, dict[str, Any], set[str]]] = [
    *(
        (client, {"finish_reason": reason}, {kind})
        for client in ("openai", "mistralai", "groq", "fireworks", "xai", "openrouter", "nvidia")
        for reason, kind in [("length", "length"), ("content_filter", "content_filter")]
    ),
    ("azure", {"finish_reason": "content_filter"}, {"content_filter"}),
    ("mistralai", {"finish_reason": "error"}, {"error"}),
    ("mistralai", {"finish_reason": "model_length"}, {"length"}),
    ("openrouter", {"finish_reason": "error", "native_finish_reason": "x"}, {"error"}),
    ("deepseek", {"finish_reason": "insufficient_system_resource"}, {"error"}),
    ("ollama", {"done": True, "done_reason": "length"}, {"length"}),
    ("anthropic", {"stop_reason": "max_tokens", "stop_sequence": None}, {"length"}),
    ("anthropic", {"stop_reason": "model_context_window_exceeded"}, {"length"}),
    ("anthropic", {"stop_reason": "refusal", "stop_details": None}, {"refusal"}),
    ("google_genai", {"finish_reason": "MAX_TOKENS", "safety_ratings": []}, {"length"}),
    *(
        ("google_genai", {"finish_reason": reason}, {"content_filter", "refusal"})
        for reason in ("SAFETY", "PROHIBITED_CONTENT", "BLOCKLIST")
    ),
    *(
        ("google_genai", {"finish_reason": reason}, {"content_filter"})
        for reason in ("RECITATION", "SPII", "IMAGE_SAFETY", "IMAGE_PROHIBITED_CONTENT")
    ),
    *(
        ("google_genai", {"finish_reason": reason}, {"error"})
        for reason in ("MALFORMED_FUNCTION_CALL", "UNEXPECTED_TOOL_CALL", "TOO_MANY_TOOL_CALLS")
    ),
    (
        "google_genai, a blocked prompt",
        {"prompt_feedback": {"block_reason": "SAFETY", "safety_ratings": None}},
        {"content_filter", "refusal"},
    ),
    (
        "google_genai, a blocked prompt, an enum",
        {"prompt_feedback": {"block_reason": BlockReason.SAFETY}},
        {"content_filter", "refusal"},
    ),
    ("bedrock_converse", {"stopReason": "guardrail_intervened"}, {"content_filter"}),
    ("bedrock_converse", {"stopReason": "content_filtered"}, {"content_filter"}),
    ("bedrock_converse", {"stopReason": "malformed_model_output"}, {"error"}),
    ("bedrock_converse", {"stopReason": "malformed_tool_use"}, {"error"}),
    ("bedrock_converse", {"stopReason": "max_tokens"}, {"length"}),
    ("bedrock_converse", {"stopReason": "model_context_window_exceeded"}, {"length"}),
    ("cohere", {"finish_reason": "ERROR_TOXIC"}, {"content_filter"}),
    ("cohere", {"finish_reason": "ERROR_LIMIT"}, {"length"}),
    ("cohere", {"finish_reason": "MAX_TOKENS"}, {"length"}),
    ("cohere", {"finish_reason": "ERROR"}, {"error"}),
    ("cohere", {"finish_reason": "TIMEOUT"}, {"error"}),
    (
        "openai, responses",
        {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}},
        {"length"},
    ),
    (
        "openai, responses",
        {"status": "incomplete", "incomplete_details": {"reason": "content_filter"}},
        {"content_filter"},
    ),
]
# How an answer ends that is one.
GOOD: list[tuple[str, dict[str, Any]]] = [
    ("openai", {"finish_reason": "stop"}),
    ("openai", {"finish_reason": "tool_calls"}),
    ("openai, responses", {"status": "completed", "incomplete_details": None}),
    ("anthropic", {"stop_reason": "end_turn"}),
    ("anthropic", {"stop_reason": "tool_use"}),
    ("google_genai", {"finish_reason": "STOP", "prompt_feedback": {"block_reason": 0}}),
    (
        "google_genai",
        {
            "finish_reason": "STOP",
            "prompt_feedback": {"block_reason": "BLOCKED_REASON_UNSPECIFIED"},
        },
    ),
    ("bedrock_converse", {"stopReason": "end_turn"}),
    ("cohere", {"finish_reason": "COMPLETE"}),
    ("ollama", {"done_reason": "stop"}),
]


def _ended(metadata: dict[str, Any], text: str = "") -> AIMessageChunk:
    return AIMessageChunk(text, response_metadata=metadata)


@pytest.mark.parametrize(("client", "metadata", "kinds"), FINISHES)
def test_every_clients_finish_is_read(client: str, metadata: dict[str, Any], kinds: set[str]):
    """An answer whose finish says so is rejected under each kind that it is, and no other."""
    for kind in set(KINDS) - {"empty", "truncated"}:
        gateway = gateway_over(says(_ended(metadata, "half")), says("whole"), reject=(kind,))
        answer = gateway.invoke("?")
        assert answer.text == ("whole" if kind in kinds else "half"), kind


@pytest.mark.parametrize(("client", "metadata"), GOOD)
def test_a_good_finish_is_an_answer(client: str, metadata: dict[str, Any], ask: CallForm):
    """With everything rejected that can be."""
    gateway = gateway_over(says(_ended(metadata, "whole")), says("b"), reject=KINDS)
    assert ask(gateway, "?").text == "whole"


@pytest.mark.parametrize(
    "reason", [None, 0, "", "BLOCKED_REASON_UNSPECIFIED", BlockReason.BLOCKED_REASON_UNSPECIFIED]
)
def test_a_prompt_that_is_not_blocked_may_have_its_answer(reason: Any, ask: CallForm):
    """Gemini's feedback is there with every answer, in its first chunks without a finish."""
    metadata = {"prompt_feedback": {"block_reason": reason}}
    kinds = ("content_filter", "refusal")
    gateway = gateway_over(says(_ended(metadata, "whole")), says("b"), reject=kinds)
    assert ask(gateway, "?").text == "whole"


@pytest.mark.parametrize("feedback", [None, "", "SAFETY", 1])
def test_feedback_of_another_kind_is_no_verdict(feedback: Any):
    """What another client may put there."""
    message = _ended({"prompt_feedback": feedback}, "whole")
    assert gateway_over(says(message), says("b"), reject=KINDS).invoke("?").text == "whole"


@pytest.mark.parametrize(
    "content",
    [
        *("whole", ["whole"], [{"type": "text", "text": "whole"}]),
        [{"type": "reasoning", "reasoning": "so"}, {"type": "text", "text": "whole"}],
    ],
)
def test_content_in_blocks_is_an_answer(content: Any, ask: CallForm):
    """Where none of them is a refusal, and one is a text."""
    message = AIMessageChunk(content, response_metadata={"finish_reason": "stop"})
    assert ask(gateway_over(says(message), says("b"), reject=KINDS), "?").text == "whole"


def test_blocks_without_a_text_are_empty():
    """A model that has only reasoned has not answered; in a stream, its reasoning is passed on."""
    message = AIMessageChunk(
        [{"type": "reasoning", "reasoning": "so"}], response_metadata={"finish_reason": "stop"}
    )
    assert who(gateway_over(says(message), says("b"), reject=("empty",)).invoke("?")) == "strong"


@pytest.mark.parametrize(
    ("metadata", "kind", "told"),
    [
        ({"finish_reason": "MAX_TOKENS"}, "length", "'MAX_TOKENS'"),
        ({"finish_reason": None, "stop_reason": "max_tokens"}, "length", "'max_tokens'"),
        ({"finish_reason": 3, "done_reason": "length"}, "length", "'length'"),
        ({"finish_reason": "", "status": "failed"}, "error", "'failed'"),
    ],
)
def test_the_error_names_kind_and_finish(metadata: dict[str, Any], kind: str, told: str):
    """In the provider's own word, of the first key that holds one."""
    models = [says(_ended(metadata, "half")) for _ in range(2)]
    with pytest.raises(AllModelsFailedError) as failed:
        gateway_over(*models, reject=(kind,)).invoke("?")
    assert f"{kind}: the model finished with {told}" in str(failed.value)


@pytest.mark.parametrize(
    "metadata",
    [
        {"status": "incomplete", "incomplete_details": None},
        {"status": "incomplete", "incomplete_details": {"reason": None}},
        {"status": "completed", "incomplete_details": {"reason": "content_filter"}},
    ],
)
def test_details_count_where_an_answer_is_incomplete(metadata: dict[str, Any]):
    """OpenAI's Responses API tells the reason beside the status."""
    message = _ended(metadata, "whole")
    assert gateway_over(says(message), says("b"), reject=KINDS).invoke("?").text == "whole"


@pytest.mark.parametrize("kind", ["content_filter", "length", "refusal", "error"])
def test_a_finish_is_read_in_every_form(kind: str, ask: CallForm):
    """Also in a stream, while nothing of it was passed on."""
    _, metadata, _ = next(each for each in FINISHES if kind in each[2])
    gateway = gateway_over(says(_ended(metadata)), says("b"), reject=(kind,))
    assert who(ask(gateway, "?")) == "strong"


@pytest.mark.parametrize(
    "message",
    [
        AIMessage("", additional_kwargs={"refusal": "hunter2"}),
        AIMessage([{"type": "refusal", "refusal": "hunter2", "id": "msg_1"}]),
        AIMessage("", response_metadata={"finish_reason": "SAFETY", "finish_message": "hunter2"}),
        AIMessage("hunter2", response_metadata={"stop_reason": "refusal"}),
    ],
    ids=["chat", "responses", "gemini", "anthropic"],
)
def test_a_refusals_text_is_never_quoted(message: AIMessage, caplog: pytest.LogCaptureFixture):
    """Neither in the error nor in a log line."""
    caplog.set_level(logging.DEBUG, "langchain_model_gateway")
    with pytest.raises(AllModelsFailedError, match="refusal: the model") as failed:
        gateway_over(says(message), says(message), reject=("refusal",)).invoke("?")
    assert "hunter2" not in str(failed.value) + repr(failed.value.failures) + caplog.text


def test_truncated_says_what_to_do(ask_stream: StreamForm):
    """A model that never gives a finish reason fails every stream under this setting."""
    gateway = gateway_over(says(["half"]), says("b"), reject=("truncated",))
    with pytest.raises(RejectedAnswerError, match='leave "truncated" out of reject'):
        ask_stream(gateway, "?")


# --- a stream with nothing in it --------------------------------------------------------------


class Silent(ScriptedChatModel):
    """A model whose stream ends before its first event, as LangChain itself reports it."""

    def _stream(self, *_: Any, **__: Any) -> Any:
        self.sent += 1
        return iter(())

    async def _astream(self, *_: Any, **__: Any) -> Any:
        self.sent += 1
        for nothing in ():
            yield nothing


def test_a_stream_with_no_event_at_all_is_an_empty_stream(ask_stream: StreamForm):
    """LangChain raises a bare `ValueError`, which would pass for the caller's mistake."""
    gateway = gateway_over(Silent(), says("b"))
    assert ask_stream(gateway, "?")[0].response_metadata["gateway"] == {
        "model_name": "strong",
        "failed": [{"model_name": "weak", "error": "EmptyStreamError"}],
    }


def test_a_stream_with_no_event_is_worth_a_retry(ask_stream: StreamForm):
    """And names LangChain's error as its cause."""
    silent = Silent()
    retry = RetryPolicy(max_attempts=2, initial_delay=0.001)
    with pytest.raises(AllModelsFailedError) as failed:
        ask_stream(gateway_over(silent, retry=retry), "?")
    assert silent.sent == 2
    (first, _) = failed.value.exceptions
    assert isinstance(first, EmptyStreamError)
    assert type(first.__cause__) is ValueError


def test_coheres_last_chunk_is_no_answer(ask_stream: StreamForm):
    """It says in `additional_kwargs` how the stream ended: that is nothing to commit to."""
    info = {"finish_reason": "COMPLETE", "token_count": {"total_tokens": 1}}
    last = AIMessageChunk("", additional_kwargs=info, chunk_position="last")
    chunks = ask_stream(gateway_over(says([last]), says("b")), "?")
    assert chunks[0].response_metadata["gateway"]["model_name"] == "strong"


def test_reasoning_in_additional_kwargs_begins_an_answer(ask_stream: StreamForm):
    """DeepSeek, xAI and Groq stream it there."""
    thinks = AIMessageChunk("", additional_kwargs={"reasoning_content": "hm"})
    chunks = ask_stream(gateway_over(says([thinks, "a"]), says("b")), "?")
    assert chunks[0].response_metadata["gateway"]["model_name"] == "weak"


# --- functions of the answer ------------------------------------------------------------------


def is_short(answer: AIMessage) -> bool:
    return len(answer.text) < 4


class IsShort:
    def __call__(self, answer: AIMessage) -> bool:
        return is_short(answer)


def test_a_function_rejects(ask: CallForm):
    """It sees the whole answer; one that it rejects falls back, as one of a named kind does."""
    seen: list[AIMessage] = []

    def looks(answer: AIMessage) -> bool:
        seen.append(answer)
        return answer.text == "no"

    gateway = gateway_over(says("no"), says("long enough"), reject=("length", looks))
    if ask.name in {"stream", "astream", "transform", "atransform", "astream_events"}:
        with pytest.raises(RejectedAnswerError, match=r"function .*looks"):
            ask(gateway, "?")
    else:
        assert who(ask(gateway, "?")) == "strong"
    assert seen[0].text == "no"
    assert type(seen[0]) is AIMessage


def test_a_function_sees_a_stream_as_a_whole(ask_stream: StreamForm):
    """Its text, tool calls and finish added up, once, at its end."""
    seen: list[AIMessage] = []
    call = {"name": "add", "args": '{"a": 1}', "id": "1", "index": 0}
    parts = ["on", "e", AIMessageChunk("", tool_call_chunks=[call]), _ended({"finish_reason": "x"})]
    gateway = gateway_over(says(parts), reject=(lambda answer: bool(seen.append(answer)),))
    assert len(ask_stream(gateway, "?")) >= 4
    (answer,) = seen
    assert answer.text == "one"
    assert answer.tool_calls[0]["args"] == {"a": 1}
    assert answer.response_metadata["finish_reason"] == "x"


def test_a_rejected_answer_is_neither_retried_nor_counted():
    """A function's verdict is one like any other."""
    weak = says("no")
    gateway = gateway_over(
        weak,
        says("long enough"),
        reject=(is_short, "empty"),
        retry=RetryPolicy(),
        cooldown=CooldownPolicy(failure_threshold=1),
    )
    for _ in range(3):
        assert who(gateway.invoke("?")) == "strong"
    assert len(weak.calls) == 3


@pytest.mark.parametrize(
    ("function", "name"),
    [(is_short, "is_short"), (partial(is_short), "partial"), (IsShort(), "IsShort")],
)
def test_the_error_names_the_function_and_not_the_answer(function: Any, name: str):
    """So that one knows which of several it was."""
    gateway = gateway_over(says("no"), says("no"), reject=function)
    with pytest.raises(AllModelsFailedError, match=f"by the function {name}") as failed:
        gateway.invoke("?")
    assert "'no'" not in str(failed.value)


def test_a_function_that_raises_is_the_callers_bug(ask: CallForm):
    """It is raised as it is: nobody is asked twice for it, and nobody's health suffers."""
    weak, strong = says("a"), says("b")

    def broken(answer: AIMessage) -> bool:
        raise KeyError(answer.text)

    rules = {"reject": (broken,), "cooldown": CooldownPolicy(failure_threshold=1)}
    gateway = gateway_over(weak, strong, **rules)
    with pytest.raises(KeyError) as raised:
        ask(gateway, "?")
    assert "raised by a function in the gateway's reject=" in raised.value.__notes__
    assert (len(weak.calls), len(strong.calls)) == (1, 0)
    assert gateway.explain().order == ("weak", "strong")


def test_a_gateway_within_that_rejects_says_nothing_of_health():
    """All that failed in it is an answer, so the outer one does not count it either."""
    inner = gateway_over(says("no"), says("no"), reject=is_short)
    cooldown = CooldownPolicy(failure_threshold=1)
    outer = gateway_over(inner, says("b"), cooldown=cooldown)
    assert who(outer.invoke("?")) == "strong"
    assert outer.explain().order == ("weak", "strong")


async def _async(answer: AIMessage) -> bool:
    return False


class _AsyncWhenCalled:
    async def __call__(self, answer: AIMessage) -> bool:
        return False


@pytest.mark.parametrize(
    ("reject", "says_why"),
    [
        ("emtpy", "'emtpy'.*did you mean 'empty'"),
        (["empty", "boring"], "'boring'.*'content_filter'"),
        (ValueError, "got the class ValueError; exceptions belong in exceptions_to_handle"),
        ((int,), "got the class int"),
        (_async, "async"),
        (_AsyncWhenCalled(), "async"),
        (5, "got int"),
        ((None,), "got NoneType"),
    ],
)
def test_what_cannot_reject_is_refused_at_construction(reject: Any, says_why: str):
    """The error shows the value and the nearest name."""
    with pytest.raises(ValidationError, match=says_why):
        gateway_over(says("a"), says("b"), reject=reject)


def test_functions_are_not_serialized():
    """Which is said when it is written, not when it is loaded a week later."""
    gateway = gateway_over(says("a"), says("b"), reject=("empty", is_short))
    with pytest.raises(ValueError, match="reject has a function, which cannot be serialized"):
        gateway.serialize()


def test_a_function_of_a_module_travels_in_a_pickle():
    """As every function does: by its name."""
    gateway = gateway_over(says("a"), says("long enough"), reject=("empty", is_short))
    assert pickle.loads(pickle.dumps(gateway)).reject == {"empty", is_short}


# --- structured output ------------------------------------------------------------------------


class Weather(BaseModel):
    city: str
    degrees: int


class CallsTools(ScriptedChatModel):
    def bind_tools(self, tools: Sequence[Any], **kwargs: Any) -> Runnable[Any, AIMessage]:
        return self.bind(tools=[convert_to_openai_tool(tool) for tool in tools], **kwargs)


def _call(**args: Any) -> AIMessage:
    return AIMessage("", tool_calls=[{"name": "Weather", "args": args, "id": "1"}])


WRONG = _call(city="hunter2", degrees="hunter2")
HAS_REFUSALS = ModelRefusal is not OutputParserException
REFUSAL = AIMessage(
    "", additional_kwargs={"refusal": "hunter2"}, response_metadata={"model_provider": "openai"}
)
RIGHT = _call(city="Oslo", degrees=4)


def _invoke(runnable: Any, is_async: bool) -> Any:
    return asyncio.run(runnable.ainvoke("?")) if is_async else runnable.invoke("?")


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("include_raw", [False, True], ids=["parsed", "raw"])
@pytest.mark.parametrize(
    ("reply", "cause", "verdict"),
    [
        (WRONG, "ValidationError", "does not parse"),
        *[(REFUSAL, "ModelRefusalError", "refusal: the model declined")] * HAS_REFUSALS,
    ],
)
def test_output_that_does_not_parse_or_is_a_refusal_is_a_rejected_answer(
    reply: AIMessage,
    cause: str,
    verdict: str,
    include_raw: bool,
    is_async: bool,
    caplog: pytest.LogCaptureFixture,
):
    """With the parser's own error as its cause, neither retried nor counted, and never quoted."""
    caplog.set_level(logging.DEBUG, "langchain_model_gateway")
    weak = CallsTools(replies=[reply])
    rules = {"retry": RetryPolicy(), "cooldown": CooldownPolicy(failure_threshold=1)}
    gateway = gateway_over(weak, CallsTools(replies=[RIGHT, RIGHT, ValueError("down")]), **rules)
    structured = gateway.with_structured_output(Weather, include_raw=include_raw)
    for _ in range(2):
        assert _invoke(structured, is_async)
    assert len(weak.calls) == 2
    assert verdict in caplog.text
    if not include_raw:
        with pytest.raises(AllModelsFailedError) as failed:
            _invoke(structured, is_async)
        rejected = failed.value.exceptions[0]
        assert type(rejected) is RejectedAnswerError
        assert type(rejected.__cause__).__name__ == cause
        assert "hunter2" not in str(failed.value) + repr(failed.value.failures)
    assert "hunter2" not in "".join(record.getMessage() for record in caplog.records)


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (OpenAIRefusalError("hunter2"), "refusal: "),
        (openai.ContentFilterFinishReasonError(), "content_filter: "),
        (
            openai.LengthFinishReasonError(
                completion=ChatCompletion(
                    id="1", choices=[], created=1, model="hunter2", object="chat.completion"
                )
            ),
            "length: ",
        ),
    ],
    ids=lambda each: type(each).__name__,
)
def test_what_openais_client_raises_for_structured_output(
    error: Exception, verdict: str, ask: CallForm
):
    """It parses by itself, and raises in place of an answer: that is one that is rejected."""
    gateway = gateway_over(says(error), cooldown=CooldownPolicy(failure_threshold=1))
    with pytest.raises(AllModelsFailedError, match=f"RejectedAnswerError: {verdict}") as failed:
        ask(gateway, "?")
    assert failed.value.exceptions[0].__cause__ is error
    assert "hunter2" not in str(failed.value)
    assert gateway.explain().deferred == ()


def test_a_parser_of_the_callers_own_chain_rejects_too(ask: CallForm):
    """Whatever raises LangChain's `OutputParserException` says that the answer does not parse."""
    chains = [says(text) | JsonOutputParser() for text in ("no json", '{"a": 1}')]
    if "stream" in ask.name or "transform" in ask.name:
        chains[0] = says("x") | RunnableLambda(_does_not_parse)
    gateway = gateway_over(*chains, exceptions_to_handle=(KeyError,))
    assert ask(gateway, "?") == {"a": 1}


def _does_not_parse(_: Any) -> Any:
    raise OutputParserException("hunter2")


class OnlyA(BaseTransformOutputParser[str]):
    def parse(self, text: str) -> str:
        return text if text == "a" else _does_not_parse(text)


def test_a_stream_that_stops_parsing_after_its_beginning_raises_the_verdict(
    ask_stream: StreamForm,
):
    """The reader has had a part; what it is told does not quote the rest."""
    chain = says(["a", "b"]) | OnlyA()
    with pytest.raises(RejectedAnswerError, match="does not parse") as rejected:
        ask_stream(gateway_over(chain, says("c")), "?")
    assert "hunter2" not in str(rejected.value)
    assert isinstance(rejected.value.__cause__, OutputParserException)


def test_a_malformed_input_is_not_taken_for_unparsable_output():
    """A `ValidationError` outside a parser is about something else, and stays what it is."""

    def strict(value: Any) -> AIMessage:
        Weather.model_validate({})
        return AIMessage("")

    with pytest.raises(AllModelsFailedError) as failed:
        gateway_over(RunnableLambda(strict), RunnableLambda(strict)).invoke("?")
    assert all(isinstance(each, ValidationError) for each in failed.value.exceptions)
