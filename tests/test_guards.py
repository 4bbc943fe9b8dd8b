"""Calls that may take only so long: abandoned threads, sync models in async calls, cancellation."""

import asyncio
import threading
import time
from collections.abc import Iterator
from typing import Any

import anyio
import pytest
from langchain_core.exceptions import ModelTimeoutError
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.runnables import Runnable

from langchain_model_gateway import AllModelsFailedError, CooldownPolicy, GatewayRunnable

from .models import says, who

BOUND = 32
"""The most abandoned calls of one deployment that the contract allows."""

PATIENCE = 50
"""Seconds that what must happen may take: on a busy machine even a thread's start takes a while."""


class Hung(Runnable[Any, Any]):
    """A model that is only sync, and answers when it is let go."""

    def __init__(self) -> None:
        self.asked = 0
        self.go = threading.Event()

    def invoke(self, input: Any, config: Any = None, **kwargs: Any) -> AIMessage:
        self.asked += 1
        assert self.go.wait(PATIENCE)
        return AIMessage("late")

    def stream(self, input: Any, config: Any = None, **kwargs: Any) -> Iterator[AIMessageChunk]:
        yield AIMessageChunk(str(self.invoke(input).content))


@pytest.fixture
def hung() -> Iterator[Hung]:
    model = Hung()
    yield model
    model.go.set()
    for thread in threading.enumerate():
        if thread.name == "gateway-call":
            thread.join(PATIENCE)
            assert not thread.is_alive()


def over(hung: Hung, *, timeout: float = 0.01, **rules: Any) -> GatewayRunnable:
    return GatewayRunnable(
        models=[
            {"model_name": "hung", "model": hung, "timeout": timeout},
            {"model_name": "backup", "model": says("hello")},
        ],
        **rules,
    )


def ask(form: str, gateway: GatewayRunnable) -> Any:
    """One answer, or the first chunk of one."""
    match form:
        case "invoke":
            return gateway.invoke("?")
        case "stream":
            return next(iter(gateway.stream("?")))
        case "ainvoke":
            return asyncio.run(gateway.ainvoke("?"))
        case _:
            return asyncio.run(anext(gateway.astream("?")))


FORMS = ("invoke", "stream", "ainvoke", "astream")


def hang(form: str, gateway: GatewayRunnable, hung: Hung, calls: int = BOUND) -> None:
    """Ask until so many calls hang; a thread that starts too late for its caller may never do."""
    while hung.asked < calls:
        assert who(ask(form, gateway)) == "backup"


def threads() -> int:
    return sum(thread.name == "gateway-call" for thread in threading.enumerate())


@pytest.mark.parametrize("form", FORMS)
def test_calls_that_hang_do_not_pile_up(form: str, hung: Hung) -> None:
    """With 32 abandoned calls a deployment fails at once, and the backup answers every time."""
    gateway = over(hung)
    hang(form, gateway, hung)
    assert who(ask(form, gateway)) == "backup"
    assert hung.asked == BOUND
    while threads() > BOUND:  # one that never began its call is about to end
        time.sleep(0.001)
    with pytest.raises(AllModelsFailedError, match="32 earlier calls are still hanging") as told:
        gateway.invoke("?", model_preference="hung", model_fallback=False)
    assert isinstance(told.value.failures[0].exception, ModelTimeoutError)


@pytest.mark.parametrize("form", FORMS)
def test_a_deployment_is_asked_again_when_its_hanging_calls_have_ended(
    form: str, hung: Hung
) -> None:
    """The bound is on what hangs now."""
    gateway = over(hung)
    hang(form, gateway, hung)
    hung.go.set()
    for thread in threading.enumerate():
        if thread.name == "gateway-call":
            thread.join(PATIENCE)
    patient = gateway.model_copy(
        update={"models": tuple(m.model_copy(update={"timeout": 20.0}) for m in gateway.models)}
    )
    assert who(ask(form, patient)) == "hung"


def test_a_full_deployment_counts_as_failed(hung: Hung) -> None:
    """Its cooldown begins as with every timeout."""
    gateway = over(hung, cooldown=CooldownPolicy(failure_threshold=BOUND + 1))
    for _ in range(BOUND + 1):
        assert not gateway.explain().deferred
        gateway.invoke("?")
    assert [each.model_name for each in gateway.explain().deferred] == ["hung"]


@pytest.mark.parametrize("form", ["ainvoke", "astream"])
def test_sync_models_do_not_hold_up_the_event_loop(form: str, hung: Hung) -> None:
    """More hung calls than its executor has threads, and `asyncio.run` does not wait for them."""

    async def many() -> None:
        while hung.asked < 12:
            if form == "ainvoke":
                assert who(await gateway.ainvoke("?")) == "backup"
            else:
                assert who(await anext(gateway.astream("?"))) == "backup"
        assert await asyncio.wait_for(asyncio.to_thread(lambda: "free"), PATIENCE) == "free"

    gateway = over(hung)
    asyncio.run(many())
    assert threads() >= 12


async def test_a_sync_model_that_is_cancelled_is_left_to_end_by_itself(hung: Hung) -> None:
    """The caller is free at once."""
    task = asyncio.create_task(over(hung, timeout=PATIENCE).ainvoke("?"))
    while not hung.asked:
        await asyncio.sleep(0.001)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, PATIENCE)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("timeout", [1e10, 1e300])
def test_a_timeout_of_centuries_is_one_like_any_other(form: str, timeout: float) -> None:
    """More seconds than a lock can wait for."""
    model = {"model": says("hello"), "timeout": timeout, "stall_timeout": timeout}
    entries = [{"model_name": name, **model} for name in "ab"]
    assert who(ask(form, GatewayRunnable(models=entries, timeout=timeout))) == "a"


class TurnsCancellationInto(Runnable[Any, Any]):
    """A model that answers a cancellation with an error of its own."""

    def __init__(self) -> None:
        self.asked = 0

    def invoke(self, input: Any, config: Any = None, **kwargs: Any) -> AIMessage:
        raise NotImplementedError

    async def ainvoke(self, input: Any, config: Any = None, **kwargs: Any) -> AIMessage:
        self.asked += 1
        try:
            await asyncio.sleep(20)
        except asyncio.CancelledError:
            raise RuntimeError("connection lost") from None
        return AIMessage("late")

    async def astream(self, input: Any, config: Any = None, **kwargs: Any) -> Any:
        yield await self.ainvoke(input)


@pytest.mark.parametrize("form", ["ainvoke", "astream"])
@pytest.mark.parametrize("timeout", [None, 20.0])
async def test_a_cancelled_scope_knows_its_cancellation_again(
    form: str, timeout: float | None
) -> None:
    """Whatever a model made of it, `anyio.move_on_after` ends as it should."""
    model = TurnsCancellationInto()
    entries = [{"model_name": name, "model": model, "timeout": timeout} for name in "ab"]
    gateway = GatewayRunnable(models=entries)
    with anyio.move_on_after(0.01) as scope:
        if form == "ainvoke":
            await gateway.ainvoke("?")
        else:
            await anext(gateway.astream("?"))
    assert scope.cancelled_caught
    assert model.asked == 1
