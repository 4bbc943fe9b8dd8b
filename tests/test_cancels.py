"""Callers who go away at any moment: nothing of them is left, in any count."""

import asyncio
import random
from typing import Any

import pytest
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.runnables import Runnable

from langchain_model_gateway import CooldownPolicy, GatewayRunnable, HedgePolicy, RetryPolicy
from tests.oracle import ServerError

CANCELS = 2_000


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


@pytest.mark.parametrize("balance", [None, "weighted", "fastest"])
async def test_random_cancels_leave_every_count_at_zero(balance: Any) -> None:
    """Plain calls and streams, waits and hedges; and no task is left."""
    chance = random.Random(1)
    entries = [
        {"model_name": name, "model": Unsteady(chance), "max_concurrency": 3, "rpm": 1e6}
        for name in "abc"
    ]
    gateway = GatewayRunnable(
        models=entries,
        balance=balance,
        hedge=HedgePolicy(delay=0.001, least_delay=0.0005, budget=1.0),
        cooldown=CooldownPolicy(failure_threshold=5, duration=0.001),
        retry=RetryPolicy(initial_delay=0.0001, max_delay=0.0001),
    )
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
    assert [gateway._memory[name].load.places for name in "abc"] == [0, 0, 0]
