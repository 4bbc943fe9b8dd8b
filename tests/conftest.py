"""What the tests share: every form of a call, and real providers to make it to."""

import asyncio
import os
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack
from functools import reduce
from operator import add
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import certifi
import freezegun
import pytest
from langchain_openai import ChatOpenAI
from llmock.pytest_plugin import LLMock
from llmock.testing import LLMockServer

# Each real client reads all certificate authorities, a tenth of a second long; the tests use none.
_authorities = TemporaryDirectory()
_first, _end, _ = certifi.contents().partition("-----END CERTIFICATE-----")
_one = Path(_authorities.name) / "one.pem"
_one.write_text(f"{_first}{_end}\n")
os.environ.setdefault("SSL_CERT_FILE", str(_one))

# Freezing the time looks through every module that is loaded; most of them are these.
freezegun.configure(extend_ignore_list=["anthropic.types", "openai.types"])

SLOW_FILES = ("test_oracle", "test_http", "test_shared_state", "test_diagnosis", "test_demo")
STREAMS = ("stream", "astream", "transform", "atransform")
BATCHES = ("batch", "abatch", "batch_as_completed", "abatch_as_completed")
FORMS = ("invoke", "ainvoke", *BATCHES, *STREAMS, "astream_events")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the slow files, so that no process ends long after the others."""
    items.sort(key=lambda item: item.path.stem not in SLOW_FILES)


async def _aiter(value: Any) -> Any:
    yield value


def _nothing(*_: Any) -> None:
    return None


def _run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """`asyncio.run`, quiet about the tasks that a loop ended by an exit leaves unasked.

    Their complaint comes whenever they are collected, and one that comes while a module is
    compiled breaks CPython 3.11's compiler for the rest of the process (python/cpython#106905).
    """
    with asyncio.Runner() as runner:
        try:
            return runner.run(coroutine)
        except (KeyboardInterrupt, SystemExit):
            runner.get_loop().set_exception_handler(_nothing)
            raise


class BatchForm:
    """`run_batch(gateway, inputs)` gives the answers in the order of the inputs."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.is_async = name.startswith("a")

    def __call__(
        self, runnable: Any, inputs: list[Any], config: Any = None, **kwargs: Any
    ) -> list[Any]:
        answers = getattr(runnable, self.name)(inputs, config, **kwargs)
        if self.is_async:
            answers = _run(self._awaited(answers))
        if self.name.endswith("_as_completed"):
            pairs = sorted(answers, key=lambda pair: pair[0])
            assert [position for position, _ in pairs] == list(range(len(inputs)))
            return [answer for _, answer in pairs]
        return list(answers)

    async def _awaited(self, answers: Any) -> Any:
        return await answers if self.name == "abatch" else [pair async for pair in answers]


class StreamForm:
    """`ask_stream(gateway, "hi")` gives the chunks; `watch` looks at them as they come."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.is_async = name.startswith("a")

    def __call__(self, runnable: Any, value: Any, config: Any = None, **kwargs: Any) -> list[Any]:
        chunks: list[Any] = []
        self.watch(self.open(runnable, value, config, **kwargs), chunks.append)
        return chunks

    def open(self, runnable: Any, value: Any, config: Any = None, **kwargs: Any) -> Any:
        if self.name.endswith("transform"):
            value = _aiter(value) if self.is_async else iter([value])
        return getattr(runnable, self.name)(value, config, **kwargs)

    def watch(
        self,
        stream: Any,
        see: Callable[[Any], Any] = _nothing,
        limit: int | None = None,
        then: Callable[[], Any] = _nothing,
    ) -> Any:
        """Show each chunk to `see`, close after `limit` of them, and give what `then` tells.

        `then` is asked at once, before an event loop's end could close what was left open.
        """
        if self.is_async:
            return _run(self._awatch(stream, see, limit, then))
        for count, chunk in enumerate(stream, 1):
            see(chunk)
            if count == limit:
                stream.close()
                break
        return then()

    async def _awatch(self, stream: Any, see: Any, limit: int | None, then: Any) -> Any:
        count = 0
        async for chunk in stream:
            see(chunk)
            count += 1
            if count == limit:
                await stream.aclose()
                break
        return then()


class CallForm:
    """`ask(gateway, "hi")` gives the whole answer, chunks added up."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.is_async = name.startswith("a")

    def __call__(self, runnable: Any, value: Any, config: Any = None, **kwargs: Any) -> Any:
        match self.name:
            case "invoke":
                return runnable.invoke(value, config, **kwargs)
            case "ainvoke":
                return _run(runnable.ainvoke(value, config, **kwargs))
            case "astream_events":
                return _run(self._from_events(runnable, value, config, kwargs))
            case name if name in BATCHES:
                return BatchForm(name)(runnable, [value], config, **kwargs)[0]
            case name:
                return reduce(add, StreamForm(name)(runnable, value, config, **kwargs))

    async def _from_events(self, runnable: Any, value: Any, config: Any, kwargs: Any) -> Any:
        events = runnable.astream_events(value, config, version="v2", **kwargs)
        chunks = [
            event["data"]["chunk"]
            async for event in events
            if event["event"] == "on_chain_stream" and not event["parent_ids"]
        ]
        return reduce(add, chunks)


@pytest.fixture(params=FORMS)
def ask(request: pytest.FixtureRequest) -> CallForm:
    """Every way to put one question."""
    return CallForm(request.param)


@pytest.fixture(params=STREAMS)
def ask_stream(request: pytest.FixtureRequest) -> StreamForm:
    """Every way to get one answer in chunks."""
    return StreamForm(request.param)


@pytest.fixture(params=BATCHES)
def run_batch(request: pytest.FixtureRequest) -> BatchForm:
    """Every way to put many questions."""
    return BatchForm(request.param)


@pytest.fixture
def in_nepal() -> Iterator[None]:
    """The machine's own timezone is one that shares no hour with UTC."""
    if not hasattr(time, "tzset"):
        pytest.skip("this system's timezone cannot be changed for one process")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TZ", "<+0545>-5:45")
        time.tzset()
        yield
    time.tzset()


@pytest.fixture(scope="session")
def provider_servers() -> Iterator[list[LLMock]]:
    """Two providers on this machine, each a real HTTP server on a free port."""
    with ExitStack() as stack:
        yield [LLMock(stack.enter_context(LLMockServer())) for _ in range(2)]


@pytest.fixture
def providers(provider_servers: list[LLMock]) -> list[LLMock]:
    """The providers, with nothing left of the test before."""
    return [provider.reset() for provider in provider_servers]


@pytest.fixture
def weak(providers: list[LLMock]) -> LLMock:
    """The first of the providers."""
    return providers[0]


@pytest.fixture
def strong(providers: list[LLMock]) -> LLMock:
    """The second of the providers."""
    return providers[1]


@pytest.fixture(scope="session")
def chat_models(provider_servers: list[LLMock]) -> list[ChatOpenAI]:
    """A real client for each of the providers."""
    return [openai_at(provider.base_url("openai")) for provider in provider_servers]


def openai_at(base_url: str, **fields: Any) -> ChatOpenAI:
    # A connection kept alive would outlive the event loop of its test.
    headers = {"Connection": "close"}
    settings = {"model": "gpt-4o-mini", "api_key": "test-key", "max_retries": 0, **fields}
    return ChatOpenAI(base_url=base_url, default_headers=headers, **settings)
