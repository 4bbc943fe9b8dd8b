"""The providers: three servers on this machine that break on cue, or OpenAI itself."""

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from langchain_openai import ChatOpenAI
from llmock.chaos import ChaosSettings, StreamChaos
from llmock.simulation import MockResponseSettings
from llmock.testing import LLMockServer

# Name, model, and the milliseconds it takes to answer.
LOCAL = (("budget", "small-1", 450), ("flagship", "large-1", 650), ("backup", "other-1", 800))
DEAD_ADDRESS = "http://127.0.0.1:9/v1"


@dataclass(frozen=True)
class Provider:
    """A chat model, where it is served, and its server if that is one of ours."""

    name: str
    model: ChatOpenAI
    address: str
    server: LLMockServer | None = None


@contextmanager
def providers(*, live: bool) -> Iterator[list[Provider]]:
    """Open the three providers for the time of the play."""
    with ExitStack() as stack:
        yield _real() if live else [_local(stack, *each) for each in LOCAL]


def _local(stack: ExitStack, name: str, model: str, latency: int) -> Provider:
    server = LLMockServer(
        chaos=ChaosSettings(latency_ms=latency), responses=MockResponseSettings("static")
    )
    stack.enter_context(server)
    server.state.stream_chaos = StreamChaos(chunk_delay_ms=60)
    address = server.base_url()
    client = ChatOpenAI(model=model, base_url=address, api_key="none needed", max_retries=0)
    return Provider(name, client, address, server)


def _real() -> list[Provider]:
    """Two models of OpenAI's, behind one that cannot be reached."""
    if not os.environ.get("OPENAI_API_KEY"):
        sys.exit("LIVE=1 needs OPENAI_API_KEY.")
    dead = ChatOpenAI(model="small-1", base_url=DEAD_ADDRESS, api_key="none", max_retries=0)
    flagship = ChatOpenAI(model="gpt-4.1", max_retries=0)
    backup = ChatOpenAI(model="gpt-4.1-mini", max_retries=0)
    return [
        Provider("budget", dead, f"{DEAD_ADDRESS} (no server there)"),
        Provider("flagship", flagship, "OpenAI"),
        Provider("backup", backup, "OpenAI"),
    ]
