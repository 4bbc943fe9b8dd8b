"""`GatewayEvent`: what happens in a gateway's calls, as plain data for a function of one's own."""

from collections.abc import Callable
from datetime import datetime
from functools import partial
from inspect import isasyncgenfunction, iscoroutinefunction, isgeneratorfunction
from typing import Literal, NamedTuple

from langchain_core.messages.ai import UsageMetadata

EventKind = Literal[
    "started",
    "first_chunk",
    "answered",
    "failed",
    "rejected",
    "abandoned",
    "skipped",
    "hedged",
    "cooldown_started",
    "cooldown_ended",
]


class GatewayEvent(NamedTuple):
    """One thing that has happened in a gateway's call. It holds no prompt, answer or key.

    Attributes:
        kind: What: a deployment was "started" (asked), gave its "first_chunk" or was "skipped"; a
            second one was "hedged" (asked beside it); its attempt ended as "answered", "failed",
            "rejected" (an answer that does not count) or "abandoned" (cancelled, closed, or another
            was quicker); "cooldown_started" (or still goes on after a probe), "cooldown_ended".
        model_name: The deployment's name.
        provider: Who serves it, such as "openai".
        attempt: Which attempt of its call it is, from 1 on; `None` where it is about none.
        seconds: How long the attempt took, to its end or to its first chunk.
        error: The name of the class of what was raised; never its text.
        usage: The tokens that the provider counted, as LangChain tells them.
        last_resort: Whether the attempt's turn came late, since the deployment was in cooldown,
            limited or full.
        until: When a cooldown ends, or what a deployment was skipped for; aware.
    """

    kind: EventKind
    model_name: str
    provider: str
    attempt: int | None = None
    seconds: float | None = None
    error: str | None = None
    usage: UsageMetadata | None = None
    last_resort: bool = False
    until: datetime | None = None


EventFunction = Callable[[GatewayEvent], object]
"""What `on_event` takes."""


def check_function(function: EventFunction) -> EventFunction:
    """The function, if it does something when it is called.

    Raises:
        ValueError: If it is an async one or a generator.
    """
    plain = function.func if isinstance(function, partial) else function
    for each in (plain, type(plain).__call__):
        if iscoroutinefunction(each) or isasyncgenfunction(each) or isgeneratorfunction(each):
            raise ValueError(
                "on_event takes a plain function, got an async one or a generator, which would "
                "never run: put the events into a queue and read that"
            )
    return function
