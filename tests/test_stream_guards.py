"""Streams that go wrong, over real HTTP: each with its outcome, and llmock's own verdict on it."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, closing
from typing import Any

import httpx
import pytest
from langchain_core.exceptions import ModelTimeoutError
from langchain_core.messages import AIMessageChunk
from langchain_openai import ChatOpenAI
from llmock.pytest_plugin import LLMock
from llmock.scenarios import Fail, Match, Reply, SlowFirstToken, StreamFault
from llmock.testing import LLMockServer

from langchain_model_gateway import (
    AllModelsFailedError,
    CooldownPolicy,
    GatewayRunnable,
    RetryPolicy,
)
from langchain_model_gateway.timing import SystemClock

PRIMARY, BACKUP = Match(model="primary"), Match(model="backup")
TEXT = "one two three four five six"
RETRY = RetryPolicy(max_attempts=3, initial_delay=0.1)


Make = Callable[..., GatewayRunnable]


class AllTheJitter(SystemClock):
    """Waits as long as it may: llmock takes a wait shorter than the last for a missing backoff."""

    def uniform(self, low: float, high: float) -> float:
        return high


@pytest.fixture(scope="module")
def server() -> Iterator[LLMockServer]:
    with LLMockServer() as server:
        yield server


@pytest.fixture
def mock(server: LLMockServer) -> LLMock:
    mock = LLMock(server).reset()
    mock.add(Reply(TEXT, times=None, match=PRIMARY), Reply("backup here", times=None, match=BACKUP))
    return mock.pace(5)


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture
def make(mock: LLMock, runner: asyncio.Runner) -> Iterator[Make]:
    """Makes gateways whose connections end with the test."""
    client, async_client = httpx.Client(), httpx.AsyncClient()

    def model(name: str) -> ChatOpenAI:
        return ChatOpenAI(
            model=name,
            api_key="test",
            base_url=mock.base_url(),
            max_retries=0,
            stream_usage=False,
            http_client=client,
            http_async_client=async_client,
        )

    def make(*, limits: dict[str, Any] | None = None, **rules: Any) -> GatewayRunnable:
        gateway = GatewayRunnable(
            models=[
                {"model_name": "primary", "model": model("primary"), **(limits or {})},
                {"model_name": "backup", "model": model("backup")},
            ],
            **rules,
        )
        return gateway.with_clock(AllTheJitter())

    yield make
    client.close()
    runner.run(async_client.aclose())


class Reader:
    """Reads a stream to its end, sync or async, and keeps what came before an error."""

    def __init__(self, runner: asyncio.Runner | None) -> None:
        self.runner = runner
        self.asked = 0
        self.chunks: list[AIMessageChunk] = []

    def read(self, gateway: GatewayRunnable, most: int | None = None) -> str:
        self.chunks = []
        self.asked += 1  # each question is another: llmock takes the same one for a retry
        if self.runner:
            self.runner.run(self._aread(gateway, most))
        else:
            with closing(gateway.stream(f"question {self.asked}")) as chunks:  # type: ignore[type-var]
                for chunk in chunks:
                    self.chunks.append(chunk)
                    if len(self.chunks) == most:
                        break
        return self.text

    async def _aread(self, gateway: GatewayRunnable, most: int | None) -> None:
        async with aclosing(gateway.astream(f"question {self.asked}")) as chunks:
            async for chunk in chunks:
                self.chunks.append(chunk)
                if len(self.chunks) == most:
                    break
        # langchain-core leaves what is below its own `astream` to the loop's next turns.
        await asyncio.sleep(0.05)

    @property
    def text(self) -> str:
        return "".join(str(chunk.content) for chunk in self.chunks)

    @property
    def mark(self) -> dict[str, Any]:
        (mark,) = [
            c.response_metadata["gateway"] for c in self.chunks if "gateway" in c.response_metadata
        ]
        return mark


@pytest.fixture(params=["sync", "async"])
def reader(request: pytest.FixtureRequest, runner: asyncio.Runner) -> Reader:
    return Reader(runner if request.param == "async" else None)


def _asked(mock: LLMock) -> list[str]:
    return [record.model for record in mock.requests]


def _is_clean(mock: LLMock, *allowed: str) -> None:
    """Llmock finds nothing wrong with the client, but for what a single attempt is to it."""
    codes = {finding.code for finding in mock.verdict().findings}
    assert codes <= {"gave_up", *allowed}, mock.verdict().render()


# --- before the first word: the next deployment answers ---------------------------------------


def test_nothing_before_the_timeout_falls_back(mock: LLMock, make: Make, reader: Reader) -> None:
    """A server that accepts and then is silent costs its timeout, no more."""
    mock.add(SlowFirstToken(3, match=Match(model="primary", stream=True)))
    began = time.monotonic()
    assert reader.read(make(limits={"timeout": 0.3})) == "backup here"
    assert time.monotonic() - began < 2.5
    assert reader.mark["failed"] == [{"model_name": "primary", "error": "ModelTimeoutError"}]
    assert _threads_end()


def test_an_error_answer_falls_back(mock: LLMock, make: Make, reader: Reader) -> None:
    """The plain case: no stream at all."""
    mock.add(Fail(503, match=PRIMARY))
    assert reader.read(make()) == "backup here"
    assert reader.mark["model_name"] == "backup"


@pytest.mark.parametrize("kind", ["disconnect", "malformed", "truncate"])
def test_a_break_behind_the_empty_first_chunk_falls_back(
    mock: LLMock, make: Make, reader: Reader, kind: Any
) -> None:
    """A role is no answer: nothing was committed to."""
    mock.add(StreamFault(kind, after_chunks=1, match=Match(model="primary", stream=True)))
    assert reader.read(make()) == "backup here"
    assert [each["model_name"] for each in reader.mark["failed"]] == ["primary"]
    assert _asked(mock) == ["primary", "backup"]


@pytest.mark.parametrize("kind", ["disconnect", "malformed", "truncate"])
def test_a_break_before_anything_falls_back(
    mock: LLMock, make: Make, reader: Reader, kind: Any
) -> None:
    """An empty stream is a failure."""
    mock.add(StreamFault(kind, after_chunks=0, match=Match(model="primary", stream=True)))
    assert reader.read(make()) == "backup here"


def test_an_empty_stream_falls_back(mock: LLMock, make: Make, reader: Reader) -> None:
    """One that ends well, and says nothing."""
    mock.reset().add(
        Reply("", times=None, match=PRIMARY), Reply("backup here", times=None, match=BACKUP)
    )
    assert reader.read(make()) == "backup here"
    assert reader.mark["failed"] == [{"model_name": "primary", "error": "EmptyStreamError"}]


@pytest.mark.parametrize("kind", ["disconnect", "truncate"])
def test_a_break_before_the_first_word_is_retried(
    mock: LLMock, make: Make, reader: Reader, kind: Any
) -> None:
    """With a `RetryPolicy`, on the same deployment."""
    mock.add(StreamFault(kind, after_chunks=1, match=Match(model="primary", stream=True)))
    assert reader.read(make(retry=RETRY, reject=("truncated",))) == TEXT
    assert _asked(mock) == ["primary", "primary"]
    _is_clean(mock)


# --- after it: the reader learns what happened ------------------------------------------------


def test_a_stall_is_raised(mock: LLMock, make: Make, reader: Reader) -> None:
    """In `stall_timeout` seconds, not in the client's ten minutes."""
    mock.add(
        StreamFault(
            "stall", after_chunks=4, stall_seconds=3, match=Match(model="primary", stream=True)
        )
    )
    began = time.monotonic()
    with pytest.raises(ModelTimeoutError):
        reader.read(make(limits={"stall_timeout": 0.3}))
    assert time.monotonic() - began < 2.5
    assert TEXT.startswith(reader.text)
    assert reader.text
    _wait_until(lambda: _asked(mock) == ["primary"])


def test_a_stall_within_the_limit_is_waited_out(mock: LLMock, make: Make, reader: Reader) -> None:
    """A pause is no failure."""
    mock.add(
        StreamFault(
            "stall", after_chunks=4, stall_seconds=0.3, match=Match(model="primary", stream=True)
        )
    )
    assert reader.read(make(limits={"stall_timeout": 5})) == TEXT


def test_a_silent_end_is_raised_where_it_is_rejected(
    mock: LLMock, make: Make, reader: Reader
) -> None:
    """Half an answer looks like a whole one to everybody else."""
    mock.truncate(after_chunks=4)
    with pytest.raises(Exception, match="truncated"):
        reader.read(make(reject=("truncated",)))
    assert TEXT.startswith(reader.text)
    assert reader.text


def test_a_silent_end_passes_where_it_is_not(mock: LLMock, make: Make, reader: Reader) -> None:
    """Policies are off unless given; this is what the one above is for."""
    mock.truncate(after_chunks=4)
    assert TEXT.startswith(reader.read(make()))
    assert [finding.code for finding in mock.verdict().errors] == ["truncated_stream_accepted"]


@pytest.mark.parametrize("kind", ["disconnect", "malformed"])
def test_a_break_in_the_middle_is_raised(
    mock: LLMock, make: Make, reader: Reader, kind: Any
) -> None:
    """Never stitched from two models; and it counts as a failure of the first."""
    mock.add(StreamFault(kind, after_chunks=4, match=Match(model="primary", stream=True)))
    gateway = make(retry=RETRY, cooldown=CooldownPolicy(failure_threshold=1))
    with pytest.raises(Exception) as broken:
        reader.read(gateway)
    assert not isinstance(broken.value, AllModelsFailedError)
    assert TEXT.startswith(reader.text)
    assert reader.text
    assert _asked(mock) == ["primary"]
    assert gateway.explain().order == ("backup", "primary")
    _is_clean(mock, "malformed_chunk_ignored")  # what was delivered cannot be retried


def test_the_deadline_ends_a_stream_that_goes_on_and_on(
    mock: LLMock, make: Make, reader: Reader
) -> None:
    """Every chunk in time, and the whole too late."""
    mock.pace(150)
    began = time.monotonic()
    with pytest.raises(AllModelsFailedError, match="timeout of"):
        reader.read(make(timeout=0.5))
    assert time.monotonic() - began < 3
    assert TEXT.startswith(reader.text)


# --- a reader who goes away -------------------------------------------------------------------


@pytest.mark.parametrize("limits", [{}, {"stall_timeout": 20.0}], ids=["untimed", "timed"])
def test_an_abandoned_stream_is_closed_at_the_server(
    mock: LLMock, make: Make, reader: Reader, limits: dict[str, Any]
) -> None:
    """At once: the tokens that nobody reads cost money. And it is nobody's failure."""
    mock.pace(100)
    gateway = make(limits=limits, cooldown=CooldownPolicy(failure_threshold=1))
    assert TEXT.startswith(reader.read(gateway, most=1))
    _wait_until(lambda: bool(mock.requests))
    (record,) = mock.requests
    assert not record.completed
    assert gateway.explain().order == ("primary", "backup")
    assert _threads_end()


# --- what llmock thinks of the client ---------------------------------------------------------


def test_the_verdict_on_a_bad_day_is_clean(mock: LLMock, make: Make, reader: Reader) -> None:
    """Rate limits, an outage, rejections and broken streams, handled as llmock would have it."""
    gateway = make(
        limits={"timeout": 5.0, "stall_timeout": 1.0},
        retry=RETRY,
        timeout=20,
        reject=("truncated",),
    )
    streaming = Match(model="primary", stream=True)
    mock.add(Fail(429, retry_after=0.4, match=PRIMARY))
    assert reader.read(gateway) == TEXT
    mock.add(Fail(503, times=3, match=PRIMARY))
    assert reader.read(gateway) == "backup here"
    mock.add(Fail(429, retry_after=100, match=PRIMARY))
    assert reader.read(gateway) == "backup here"
    for status in (400, 401, 403, 404, 422):
        mock.add(Fail(status, match=PRIMARY))
        assert reader.read(gateway) == "backup here"
    mock.add(StreamFault("truncate", after_chunks=1, match=streaming))
    assert reader.read(gateway) == TEXT
    mock.add(StreamFault("disconnect", after_chunks=1, match=streaming))
    assert reader.read(gateway) == TEXT
    _is_clean(mock)


@pytest.mark.parametrize("is_async", [False, True])
def test_the_verdict_on_plain_calls_is_clean(
    mock: LLMock, make: Make, runner: asyncio.Runner, is_async: bool
) -> None:
    """A wait that the server asked for is kept, a long one is not sat out."""
    gateway = make(retry=RETRY, cooldown=CooldownPolicy())

    def ask(question: str) -> str:
        if is_async:
            return str(runner.run(gateway.ainvoke(question)).content)
        return str(gateway.invoke(question).content)

    mock.add(Fail(429, retry_after=0.5, times=2, match=PRIMARY))
    began = time.monotonic()
    assert ask("one") == TEXT
    assert time.monotonic() - began >= 1.0
    mock.add(Fail(429, retry_after=100, match=PRIMARY))
    began = time.monotonic()
    assert ask("two") == "backup here"
    assert time.monotonic() - began < 5
    _is_clean(mock)


def test_readers_do_not_disturb_each_other(
    mock: LLMock, make: Make, runner: asyncio.Runner
) -> None:
    """Twenty streams at once: each is whole, or falls back by itself."""
    mock.add(
        StreamFault(
            "disconnect", after_chunks=1, times=5, match=Match(model="primary", stream=True)
        )
    )
    gateway = make(limits={"timeout": 10.0, "stall_timeout": 10.0})

    async def read(chunks: AsyncIterator[Any]) -> str:
        return "".join([chunk.content async for chunk in chunks])

    async def read_all() -> list[str]:
        return await asyncio.gather(*(read(gateway.astream(f"? {i}")) for i in range(20)))

    texts = runner.run(read_all())
    assert sorted(texts) == ["backup here"] * 5 + [TEXT] * 15


def _threads_end() -> bool:
    """Whether the threads of abandoned calls end by themselves."""
    _wait_until(
        lambda: (
            not any(
                thread.name == "gateway-call" and thread.is_alive()
                for thread in threading.enumerate()
            )
        )
    )
    return True


def _wait_until(condition: Callable[[], bool]) -> None:
    for _ in range(600):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("it did not come to that")
