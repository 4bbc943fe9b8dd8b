"""What a stream passes on, when it is committed to a model, and that it is closed in time."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from functools import reduce
from operator import add
from typing import Any

import pytest
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.output_parsers import StrOutputParser
from langchain_core.runnables import RunnableGenerator, RunnableLambda
from langgraph.errors import GraphInterrupt

from langchain_model_gateway import AllModelsFailedError, EmptyStreamError, GatewayRunnable

from .conftest import STREAMS, StreamForm
from .models import ScriptedChatModel

Stream = StreamForm
every_stream_form = pytest.mark.parametrize("form", STREAMS)


def gateway(*models: Any, **options: Any) -> GatewayRunnable:
    names = ("weak", "strong", "backup")
    entries = [{"model_name": n, "model": m} for n, m in zip(names, models, strict=False)]
    return GatewayRunnable(models=entries, **options)


def says(*chunks: Any) -> ScriptedChatModel:
    """A model whose every stream is these chunks."""
    return ScriptedChatModel(replies=[list(chunks)])


def texts(chunks: list[Any]) -> list[str]:
    return [chunk.text for chunk in chunks if chunk.text]


def run_reader(form: str, runnable: Any, reads: int, then: Callable[[list[Any]], None]) -> None:
    """Read some chunks, close the stream and at once look at what is the case."""
    seen: list[Any] = []

    def read() -> None:
        stream = StreamForm(form).open(runnable, "x")
        seen.extend(next(stream) for _ in range(reads))
        stream.close()
        then(seen)

    async def aread() -> None:
        stream = StreamForm(form).open(runnable, "x")
        for _ in range(reads):
            seen.append(await anext(stream))
        await stream.aclose()
        then(seen)

    asyncio.run(aread()) if form.startswith("a") else read()


# --- passing on ----------------------------------------------------------------------------------


@every_stream_form
def test_chunks_are_passed_on_as_they_arrive(form: str) -> None:
    """A chunk is delivered before the model is asked for the next."""
    model = says("a", "b", "c")

    def then(seen: list[Any]) -> None:
        assert texts(seen) == ["a", "b"]
        assert model.sent == 2

    run_reader(form, gateway(model, says("z")), 2, then)


def test_every_chunk_comes_once_and_in_order(ask_stream: Stream) -> None:
    """Nothing is lost, doubled or reordered, empty chunks between others included."""
    chunks = ask_stream(gateway(says("a", "", "b", "", "c"), says("z")), "x")
    assert [chunk.content for chunk in chunks][:5] == ["a", "", "b", "", "c"]
    assert texts(chunks) == ["a", "b", "c"]


def test_only_the_first_chunk_is_marked(ask_stream: Stream) -> None:
    """The mark stands on one chunk, and the sum of all has it exactly once."""
    broken = says("", ConnectionError("down"))
    chunks = ask_stream(gateway(broken, says("", "a", "b", "c")), "x")
    marked = [i for i, chunk in enumerate(chunks) if "gateway" in chunk.response_metadata]
    assert marked == [0]
    assert reduce(add, chunks).response_metadata["gateway"] == {
        "model_name": "strong",
        "failed": [{"model_name": "weak", "error": "ConnectionError"}],
    }


def test_the_models_own_metadata_comes_through(ask_stream: Stream) -> None:
    """What the model says of its answer is in the sum beside the mark."""
    last = AIMessageChunk("", response_metadata={"finish_reason": "stop"})
    whole = reduce(add, ask_stream(gateway(says("a", last), says("z")), "x"))
    assert whole.response_metadata["finish_reason"] == "stop"


def test_the_models_chunks_are_left_as_they_are(ask_stream: Stream) -> None:
    """The marked chunk is a copy: the model's own object is unchanged."""
    own = AIMessageChunk("a", id="kept")
    (chunk,) = ask_stream(gateway(RunnableLambda(lambda _: own), says("z")), "x")
    assert own.response_metadata == {}
    assert (chunk.id, chunk.content) == ("kept", "a")


def test_all_chunks_of_an_answer_have_one_id(ask_stream: Stream) -> None:
    """After a fallback too, every chunk belongs to one message."""
    chunks = ask_stream(gateway(says("", ConnectionError()), says("a", "b")), "x")
    assert len({chunk.id for chunk in chunks}) == 1


def test_a_model_that_cannot_stream_gives_its_answer_whole(ask_stream: Stream) -> None:
    """A plain function's message is one chunk."""
    (chunk,) = ask_stream(gateway(RunnableLambda(lambda _: AIMessage("whole")), says("z")), "x")
    assert chunk.content == "whole"


def test_text_streams_too(ask_stream: Stream) -> None:
    """A chain that ends in a parser streams its text and falls back before the first of it."""
    broken, well = (m | StrOutputParser() for m in (says("", ConnectionError()), says("a", "b")))
    assert "".join(ask_stream(gateway(broken, well), "x")) == "ab"


# --- commitment ----------------------------------------------------------------------------------

TOOL_CALL = {"name": "search", "args": "", "id": "1", "index": 0}

SOMETHING = {
    "text": AIMessageChunk("a"),
    "a tool call": AIMessageChunk("", tool_call_chunks=[TOOL_CALL]),
    "a reasoning block": AIMessageChunk([{"type": "reasoning", "reasoning": "hm", "index": 0}]),
    "reasoning beside the content": AIMessageChunk("", additional_kwargs={"reasoning": "hm"}),
    "a text block": AIMessageChunk([{"type": "text", "text": "a", "index": 0}]),
    "an image block": AIMessageChunk([{"type": "image", "base64": "aGk=", "index": 0}]),
    "a text in a list": AIMessageChunk(["a"]),
}

NOTHING = {
    "a role": AIMessageChunk(""),
    "no blocks": AIMessageChunk([]),
    "an empty text block": AIMessageChunk([{"type": "text", "text": "", "index": 0}]),
    "an empty reasoning block": AIMessageChunk([{"type": "reasoning", "reasoning": ""}]),
    "usage": AIMessageChunk(
        "", usage_metadata={"input_tokens": 1, "output_tokens": 0, "total_tokens": 1}
    ),
    "metadata": AIMessageChunk("", response_metadata={"model_name": "gpt"}),
}


@pytest.mark.parametrize("chunk", SOMETHING.values(), ids=SOMETHING.keys())
@every_stream_form
def test_after_the_first_real_chunk_a_failure_is_the_callers(form: str, chunk: Any) -> None:
    """Whatever an answer begins with, no other model is asked to go on with it."""
    late, strong, seen = ConnectionError("late"), says("b"), []

    async def aread() -> None:
        async for each in StreamForm(form).open(asked, "x"):
            seen.append(each)

    asked = gateway(says(chunk, late), strong)
    with pytest.raises(ConnectionError) as caught:
        if form.startswith("a"):
            asyncio.run(aread())
        else:
            seen.extend(iter(StreamForm(form).open(asked, "x")))
    assert caught.value is late
    assert strong.calls == []
    if form.startswith("a"):
        assert [each.content for each in seen] == [chunk.content]


@pytest.mark.parametrize("chunk", NOTHING.values(), ids=NOTHING.keys())
def test_before_the_first_real_chunk_a_failure_falls_back(ask_stream: Stream, chunk: Any) -> None:
    """A chunk that carries no part of an answer is no commitment, nor does it reach the caller."""
    chunks = ask_stream(gateway(says(chunk, chunk, ConnectionError()), says("b")), "x")
    assert [each.content for each in chunks if each.chunk_position != "last"] == ["b"]
    assert "model_name" not in chunks[0].response_metadata


def test_chunks_held_back_are_delivered_once_the_answer_begins(ask_stream: Stream) -> None:
    """Holding back loses nothing: role, usage and metadata arrive, before the first text."""
    usage = {"input_tokens": 1, "output_tokens": 0, "total_tokens": 1}
    first = AIMessageChunk("", response_metadata={"system_fingerprint": "f"})
    chunks = ask_stream(gateway(says(first, AIMessageChunk("", usage_metadata=usage), "a")), "x")
    assert [chunk.content for chunk in chunks][:3] == ["", "", "a"]
    whole = reduce(add, chunks)
    assert whole.usage_metadata == usage
    assert whole.response_metadata["system_fingerprint"] == "f"


@every_stream_form
def test_the_hold_back_is_bounded(form: str) -> None:
    """A model that sends empty chunks without end does not fill the memory or hang the caller."""
    model = says(*[""] * 5_000)

    def then(seen: list[Any]) -> None:
        assert len(seen) == 1
        assert model.sent <= 100

    run_reader(form, gateway(model, says("z")), 1, then)


def test_a_stream_without_a_chunk_is_a_failure(ask_stream: Stream) -> None:
    """The next deployment is asked where one gives nothing at all."""

    def nothing(_: Iterator[Any]) -> Iterator[Any]:
        yield from ()

    async def anothing(_: AsyncIterator[Any]) -> AsyncIterator[Any]:
        for each in ():
            yield each

    chunks = ask_stream(gateway(RunnableGenerator(nothing, anothing), says("b")), "x")
    failed = [{"model_name": "weak", "error": "EmptyStreamError"}]
    assert chunks[0].response_metadata["gateway"]["failed"] == failed


def test_a_stream_of_empty_chunks_is_a_failure(ask_stream: Stream) -> None:
    """A stream that ends before anything came has given no answer."""
    with pytest.raises(AllModelsFailedError) as caught:
        ask_stream(gateway(says("", ""), says("")), "x")
    assert [type(error) for error in caught.value.exceptions] == [EmptyStreamError] * 2


def test_an_interrupt_in_a_stream_passes_through(ask_stream: Stream) -> None:
    """LangGraph's control flow is no failure of a stream, before or after it has begun."""
    strong = says("b")
    for chunks in ([GraphInterrupt()], ["a", GraphInterrupt()]):
        with pytest.raises(GraphInterrupt):
            ask_stream(gateway(says(*chunks), strong), "x")
    assert strong.calls == []


# --- closing -------------------------------------------------------------------------------------


@pytest.mark.parametrize("reads", [1, 2])
@every_stream_form
def test_closing_a_stream_closes_the_models_at_once(form: str, reads: int) -> None:
    """When `close` returns, the model's stream is closed, with no garbage collector's help."""
    broken, model = says("", ConnectionError()), says("a", "b", "c")

    def then(seen: list[Any]) -> None:
        assert len(seen) == reads
        assert (broken.closed, model.closed) == (1, 1)

    run_reader(form, gateway(broken, model), reads, then)


@every_stream_form
def test_a_stream_nobody_read_asks_nobody(form: str) -> None:
    """Opening and closing a stream makes no call."""
    model = says("a")
    run_reader(form, gateway(model, says("z")), 0, lambda _: None)
    assert model.calls == []


def test_every_stream_that_was_opened_is_closed_in_the_end(ask_stream: Stream) -> None:
    """Those that failed and the one that answered."""
    models = says(ConnectionError()), says("", ConnectionError()), says("a")
    ask_stream(gateway(*models), "x")
    assert [model.closed for model in models] == [1, 1, 1]


@pytest.mark.parametrize("form", ["astream", "atransform"])
@pytest.mark.parametrize("begun", [True, False])
def test_a_cancelled_reader_closes_the_models_stream(form: str, begun: bool) -> None:
    """A cancellation, before or after the first chunk, ends the model's stream too."""
    closed: list[bool] = []
    strong = says("b")

    async def main() -> None:
        hanging = asyncio.Event()

        async def hang(_: AsyncIterator[Any]) -> AsyncIterator[Any]:
            try:
                yield AIMessageChunk("a" if begun else "")
                hanging.set()
                await asyncio.Event().wait()
            finally:
                closed.append(True)

        async def read() -> None:
            async for _ in StreamForm(form).open(gateway(RunnableGenerator(hang), strong), "x"):
                pass

        reader = asyncio.create_task(read())
        await hanging.wait()
        reader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reader
        assert closed == [True]

    asyncio.run(main())
    assert strong.calls == []


# --- transform -----------------------------------------------------------------------------------


async def _aiter(*parts: Any) -> AsyncIterator[Any]:
    for part in parts:
        yield part


async def _alist(chunks: AsyncIterator[Any]) -> list[Any]:
    return [chunk async for chunk in chunks]


def test_transform_asks_once_with_all_of_its_input() -> None:
    """The parts of a streamed question are put together, sync and async, and asked once."""
    for isasync in (False, True):
        model = says("a")
        asked = gateway(model, says("z"))
        if isasync:
            asyncio.run(_alist(asked.atransform(_aiter("how ", "are ", "you"))))
        else:
            list(asked.transform(iter(["how ", "are ", "you"])))
        ((question,),) = model.calls
        assert question.content == "how are you"


def test_transform_of_nothing_asks_nobody() -> None:
    """Without a question there is no answer, sync and async."""
    model = says("a")
    asked = gateway(model, says("z"))
    assert list(asked.transform(iter(()))) == []
    assert asyncio.run(_alist(asked.atransform(_aiter()))) == []
    assert model.calls == []


def test_a_gateway_streams_inside_a_chain(ask_stream: Stream) -> None:
    """Steps before and after it leave its answer a stream."""
    chain = RunnableLambda(str.upper) | gateway(says(ConnectionError()), says("a", "b"))
    assert texts(ask_stream(chain, "x")) == ["a", "b"]


@pytest.mark.parametrize("calls", ["tool_calls", "invalid_tool_calls"])
def test_a_whole_message_with_a_tool_call_is_an_answer(ask_stream: Stream, calls: str) -> None:
    """A model that cannot stream gives its tool call in one piece, with no text beside it."""
    call = {"name": "search", "args": {} if calls == "tool_calls" else "{", "id": "1"}
    message = AIMessage("", **{calls: [call | ({} if calls == "tool_calls" else {"error": "x"})]})
    strong = says("b")
    whole = ScriptedChatModel(replies=[message], disable_streaming=True)
    chunks = ask_stream(gateway(whole, strong), "x")
    assert strong.calls == []
    assert [len(getattr(chunk, calls)) for chunk in chunks] == [1]
