"""Callers who go away at any moment: nothing of them is left, in any count.

`CANCELS=10000` in the environment makes more of them.
"""

import asyncio
import os
import random
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from typing import Any

import pytest
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.runnables import Runnable

from langchain_model_gateway import (
    CooldownPolicy,
    GatewayRunnable,
    HedgePolicy,
    ModelRouterError,
    RetryPolicy,
)
from tests.schedules import ServerError

CANCELS = int(os.environ.get("CANCELS", "2000"))


class Unsteady(Runnable[Any, Any]):
    """Answers after some turns of the event loop, or fails."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance

    def invoke(self, input: Any, config: Any = None, **kwargs: Any) -> AIMessage:
        raise NotImplementedError

    async def _turns(self) -> None:
        for _ in range(self.chance.randrange(20)):
            await asyncio.sleep(0)
        if self.chance.random() < 0.3:
            raise ServerError(self.chance.choice([429, 500, 400]), None)

    async def ainvoke(self, input: Any, config: Any = None, **kwargs: Any) -> AIMessage:
        await self._turns()
        return AIMessage("hi")

    async def astream(self, input: Any, config: Any = None, **kwargs: Any) -> Any:
        for _ in range(3):
            await self._turns()
            yield AIMessageChunk("hi")

    def stream(self, input: Any, config: Any = None, **kwargs: Any) -> Iterator[AIMessageChunk]:
        for _ in range(3):
            time.sleep(self.chance.random() / 500)
            if self.chance.random() < 0.2:
                raise ServerError(self.chance.choice([429, 500, 400]), None)
            yield AIMessageChunk("hi")


def over_three(chance: random.Random, balance: Any) -> GatewayRunnable:
    """A gateway with everything on that takes a place, a turn or a permit."""
    entries = [
        {"model_name": name, "model": Unsteady(chance), "max_concurrency": 8, "rpm": 1e6}
        for name in "abc"
    ]
    return GatewayRunnable(
        models=entries,
        balance=balance,
        hedge=HedgePolicy(delay=0.0001, least_delay=0.0001, budget=1.0),
        cooldown=CooldownPolicy(duration=0.001, max_duration=0.001),
        retry=RetryPolicy(initial_delay=0.0001, max_delay=0.0001),
    )


def places(gateway: GatewayRunnable) -> list[int]:
    """The attempts that each deployment is thought to have under way."""
    return [gateway._memory[name].load.places for name in gateway.model_names]


@pytest.mark.parametrize("balance", [None, "weighted", "fastest"])
async def test_random_cancels_leave_every_count_at_zero(balance: Any) -> None:
    """Plain calls and streams, waits and hedges; and no task is left."""
    chance = random.Random(1)
    gateway = over_three(chance, balance)
    before = asyncio.all_tasks()

    async def read() -> None:
        stream = gateway.astream("?")
        try:
            async for _ in stream:
                await asyncio.sleep(0)
        finally:
            await stream.aclose()

    for _ in range(CANCELS // 20):
        calls = [gateway.ainvoke("?") if chance.random() < 0.5 else read() for _ in range(20)]
        tasks = [asyncio.ensure_future(call) for call in calls]
        for _ in range(chance.randrange(30)):
            await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    assert asyncio.all_tasks() == before
    assert places(gateway) == [0, 0, 0]


@pytest.mark.parametrize("balance", [None, "fastest"])
def test_streams_closed_at_random_leave_every_count_at_zero(balance: Any) -> None:
    """The sync form, in threads: what was abandoned ends by itself, and is counted off."""
    chance = random.Random(1)
    gateway = over_three(chance, balance)

    def read() -> None:
        for _ in range(CANCELS // 16):
            with suppress(ModelRouterError, ServerError), closing(gateway.stream("?")) as stream:
                for _, _chunk in zip(range(chance.randrange(3)), stream, strict=False):
                    pass

    readers = [threading.Thread(target=read) for _ in range(8)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    ends = time.monotonic() + 5
    while any(places(gateway)) and time.monotonic() < ends:
        time.sleep(0.01)
    assert places(gateway) == [0, 0, 0]
