"""Two providers on this machine, the real clients that ask them, and four ways to ask."""

import asyncio
import os
from collections.abc import Callable, Coroutine, Iterator
from functools import cache, reduce
from operator import add
from typing import Any

import pytest

from .clients import CLIENTS
from .server import Provider

# What the clients themselves are warned of: LiteLLM when it is imported; Google's when it makes a
# session, and when it reads the error that came instead of an answer.
UPSTREAM = [
    pytest.mark.filterwarnings("ignore:.*`ReadOnly` qualifier:UserWarning"),
    pytest.mark.filterwarnings("ignore:Inheritance class Aiohttp:DeprecationWarning"),
    # NVIDIA's, of a stream that ends with an error: aiohttp, which the gateway itself never uses.
    pytest.mark.filterwarnings("ignore:Unclosed connection:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:coroutine 'ClientResponse.json' was never:RuntimeWarning"),
]

FORMS = ("invoke", "ainvoke", "stream", "astream")
REDUCED = ("ainvoke", "stream")
FULL = bool(os.environ.get("FULL"))
"""Every combination, and not only those that say most."""

Ask = Callable[[str, Any, Any], Any]


@pytest.fixture(scope="session")
def run() -> Iterator[Callable[[Coroutine[Any, Any, Any]], Any]]:
    """One event loop for all, as the clients keep their connections' pools per process."""
    with asyncio.Runner() as runner:
        yield runner.run


@pytest.fixture(scope="session")
def ask_as(run: Any) -> Ask:
    """`ask_as("astream", gateway, "hi")` gives the whole answer, chunks added up."""

    async def gathered(chunks: Any) -> list[Any]:
        return [chunk async for chunk in chunks]

    def ask(form: str, model: Any, value: Any) -> Any:
        given = getattr(model, form)(value)
        match form:
            case "ainvoke":
                return run(given)
            case "stream":
                return reduce(add, given)
            case "astream":
                return reduce(add, run(gathered(given)))
        return given

    return ask


@pytest.fixture(scope="session")
def servers() -> Iterator[list[Provider]]:
    """Two, each on a free port."""
    with Provider() as first, Provider() as second:
        yield [first, second]


@pytest.fixture
def first(servers: list[Provider]) -> Provider:
    """The one that breaks."""
    return servers[0].reset()


@pytest.fixture
def second(servers: list[Provider]) -> Provider:
    """The one that takes over."""
    return servers[1].reset()


@pytest.fixture(scope="session")
def client_at() -> Any:
    """`client_at(name, server)` gives the one client of this name for this server."""

    @cache
    def make(name: str, url: str, version: str | None) -> Any:
        more = {"output_version": version} if version else {}
        return CLIENTS[name].at(url, **more)

    def client_at(name: str, server: Provider, version: str | None = None) -> Any:
        return make(name, server.url(CLIENTS[name].dialect), version)

    return client_at
