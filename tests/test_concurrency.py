"""One gateway under many threads, many tasks and several event loops."""

import asyncio
import gc
import os
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage
from langchain_core.runnables import Runnable

from langchain_model_gateway import CooldownPolicy, GatewayRunnable
from tests.conftest import CallForm
from tests.models import ScriptedChatModel
from tests.schedules import ServerError
from tests.virtual_time import VirtualClock, rehearsed

MANY = 50
ONCE = CooldownPolicy(failure_threshold=1, duration=30)


class InterruptedByHand(BaseException):
    pass


class Gate(Runnable[Any, Any]):
    """A model whose calls stay inside until they are let go; then they end as told."""

    def __init__(self) -> None:
        self.is_dead = True
        self.asked = 0
        self.closed = 0
        self.entered = threading.Semaphore(0)
        self.go = threading.Event()
        self.go.set()

    def _answer(self) -> AIMessage:
        if self.is_dead:
            raise ServerError(503, None)
        return AIMessage("gate")

    def _enter(self) -> None:
        self.asked += 1
        self.entered.release()

    def invoke(self, input: Any, config: Any = None, **kwargs: Any) -> AIMessage:
        go = self.go
        self._enter()
        assert go.wait(20)
        return self._answer()

    async def ainvoke(self, input: Any, config: Any = None, **kwargs: Any) -> AIMessage:
        self._enter()
        while not self.go.is_set():
            await asyncio.sleep(0.005)
        return self._answer()

    def stream(self, input: Any, config: Any = None, **kwargs: Any) -> Iterator[AIMessageChunk]:
        self._enter()
        try:
            for word in "gate":
                yield AIMessageChunk(word)
                assert self.go.wait(20)
                self._answer()
        finally:
            self.closed += 1

    async def astream(
        self, input: Any, config: Any = None, **kwargs: Any
    ) -> AsyncIterator[AIMessageChunk]:
        for chunk in self.stream(input):
            yield chunk
            await asyncio.sleep(0)


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
def gateway(gate: Gate, clock: VirtualClock) -> GatewayRunnable:
    """One whose first deployment's cooldown has just ended, and which waits to be probed."""
    return _in_cooldown(gate, clock)


def _in_cooldown(gate: Gate, clock: VirtualClock, **limits: Any) -> GatewayRunnable:
    gateway = GatewayRunnable(
        models=[
            {"model_name": "gate", "model": gate, **limits},
            {"model_name": "b", "model": ScriptedChatModel()},
        ],
        cooldown=ONCE,
    )
    gateway = rehearsed(gateway, clock)
    assert gateway.invoke("?").text == "hello"
    clock.spend(30)
    gate.is_dead, gate.asked = False, 0
    gate.entered = threading.Semaphore(0)
    gate.go.clear()
    return gateway


def _is_free(gateway: GatewayRunnable) -> bool:
    return not gateway.explain().deferred


# --- one probe --------------------------------------------------------------------------------


def test_fifty_threads_make_one_probe(gateway: GatewayRunnable, gate: Gate) -> None:
    """The other 49 have their answer before the probe has its own."""
    barrier = threading.Barrier(MANY)

    def call() -> str:
        barrier.wait(20)
        return gateway.invoke("?").text

    with ThreadPoolExecutor(MANY) as pool:
        answers = [pool.submit(call) for _ in range(MANY)]
        _wait_until(lambda: sum(answer.done() for answer in answers) == MANY - 1)
        assert gate.asked == 1
        gate.go.set()
        texts = [answer.result(20) for answer in answers]
    assert sorted(texts) == ["gate"] + ["hello"] * (MANY - 1)
    assert _is_free(gateway)


async def test_fifty_tasks_make_one_probe(gateway: GatewayRunnable, gate: Gate) -> None:
    """As with threads."""
    tasks = [asyncio.create_task(gateway.ainvoke("?")) for _ in range(MANY)]
    await _until(lambda: sum(task.done() for task in tasks) == MANY - 1)
    assert gate.asked == 1
    gate.go.set()
    texts = [(await task).text for task in tasks]
    assert sorted(texts) == ["gate"] + ["hello"] * (MANY - 1)
    assert _is_free(gateway)


def test_several_event_loops_make_one_probe(gateway: GatewayRunnable, gate: Gate) -> None:
    """One gateway belongs to no loop; some of the callers are not even async."""

    async def ten() -> list[str]:
        return [
            each.text
            for each in await asyncio.gather(*(gateway.ainvoke("?") for _ in "0123456789"))
        ]

    with ThreadPoolExecutor(8) as pool:
        loops = [pool.submit(asyncio.run, ten()) for _ in range(4)]
        threads = [pool.submit(gateway.invoke, "?") for _ in range(4)]
        assert gate.entered.acquire(timeout=20)
        _wait_until(lambda: sum(each.done() for each in [*loops, *threads]) >= 7)
        gate.go.set()
        texts = [text for loop in loops for text in loop.result(20)]
        texts += [each.result(20).text for each in threads]
    assert gate.asked == 1
    assert sorted(texts) == ["gate"] + ["hello"] * 43


def test_one_event_loop_after_another() -> None:
    """Nothing of the first is left to trip over."""
    gateway = GatewayRunnable(
        models=[
            {"model_name": "a", "model": ScriptedChatModel(), "timeout": 20},
            {"model_name": "b", "model": ScriptedChatModel()},
        ],
        cooldown=ONCE,
        timeout=20,
    )
    for _ in range(3):
        assert asyncio.run(gateway.ainvoke("?")).text == "hello"


def test_a_failed_probe_sends_all_fifty_away(
    gateway: GatewayRunnable, gate: Gate, clock: VirtualClock
) -> None:
    """And the next cooldown is longer."""
    gate.is_dead = True
    gate.go.set()
    with ThreadPoolExecutor(MANY) as pool:
        texts = list(pool.map(lambda _: gateway.invoke("?").text, range(MANY)))
    assert texts == ["hello"] * MANY
    assert gate.asked == 1
    (deferred,) = gateway.explain().deferred
    assert (deferred.until - clock.now()).total_seconds() == 60


# --- who goes away ----------------------------------------------------------------------------


async def test_a_cancelled_probe_gives_its_place_back(gateway: GatewayRunnable, gate: Gate) -> None:
    """A user's impatience says nothing of the model."""
    probe = asyncio.create_task(gateway.ainvoke("?"))
    await _until(lambda: gate.asked == 1)
    assert (await gateway.ainvoke("?")).text == "hello", "the place is taken"
    probe.cancel()
    with pytest.raises(asyncio.CancelledError):
        await probe
    assert _is_free(gateway), "it may be probed"
    gate.go.set()
    assert (await gateway.ainvoke("?")).text == "gate"
    assert gate.asked == 2


async def test_a_probe_cancelled_during_a_batch_gives_its_place_back(
    gateway: GatewayRunnable, gate: Gate
) -> None:
    """An aborted batch leaves no task, and no place taken."""
    before = asyncio.all_tasks()
    batch = asyncio.create_task(gateway.abatch(["?"] * 10))
    await _until(lambda: gate.asked == 1)
    batch.cancel()
    with pytest.raises(asyncio.CancelledError):
        await batch
    assert asyncio.all_tasks() == before
    gate.go.set()
    assert (await gateway.ainvoke("?")).text == "gate"


def test_an_abandoned_stream_probe_gives_its_place_back(
    gateway: GatewayRunnable, gate: Gate
) -> None:
    """And closes the model's stream, at once."""
    chunks = gateway.stream("?")
    assert next(chunks).text == "g"
    assert gateway.invoke("?").text == "hello", "the place is taken"
    chunks.close()  # type: ignore[attr-defined]
    assert gate.closed == 1
    gate.go.set()
    assert gateway.invoke("?").text == "gate"


async def test_an_abandoned_async_stream_probe_gives_its_place_back(
    gateway: GatewayRunnable, gate: Gate
) -> None:
    """As with sync."""
    gate.go.set()
    before = asyncio.all_tasks()
    chunks = gateway.astream("?")
    assert (await anext(chunks)).text == "g"
    assert (await gateway.ainvoke("?")).text == "hello", "the place is taken"
    await chunks.aclose()
    assert asyncio.all_tasks() == before
    assert (await gateway.ainvoke("?")).text == "gate"


def test_a_probe_that_is_the_requests_own_fault_gives_its_place_back(
    gateway: GatewayRunnable, gate: Gate
) -> None:
    """It is neither a success nor a failure."""
    gate.go.set()
    gate._answer = lambda: (_ for _ in ()).throw(ServerError(422, None))  # type: ignore[method-assign]
    assert [gateway.invoke("?").text for _ in range(3)] == ["hello"] * 3
    assert gate.asked == 3


def test_an_interrupted_probe_gives_its_place_back(gateway: GatewayRunnable, gate: Gate) -> None:
    """Control-C is never swallowed, and no failure."""
    gate.go.set()
    answer = gate._answer
    gate._answer = lambda: (_ for _ in ()).throw(KeyboardInterrupt)  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        gateway.invoke("?")
    gate._answer = answer  # type: ignore[method-assign]
    assert gateway.invoke("?").text == "gate"


@pytest.mark.parametrize(("timeout", "lease"), [(None, 30), (4.0, 4)])
def test_a_probes_place_is_free_again_after_its_lease(
    gate: Gate, clock: VirtualClock, timeout: float | None, lease: float
) -> None:
    """A reader who holds the probe's stream for ever does not keep others from probing."""
    gateway = _in_cooldown(gate, clock, timeout=timeout, stall_timeout=None)
    chunks = gateway.stream("?")
    assert next(chunks).text == "g"
    clock.spend(lease - 0.25)
    assert gateway.invoke("?").text == "hello", "the place is taken"
    (held,) = gateway.explain().deferred
    assert (held.until - clock.now()).total_seconds() == 0.25
    clock.spend(0.25)
    gate.go.set()
    assert gateway.invoke("?").text == "gate"
    assert "".join(chunk.text for chunk in chunks) == "ate"
    assert _is_free(gateway)


def test_a_probe_that_outlives_its_lease_gives_no_other_probes_place_back(
    gateway: GatewayRunnable, gate: Gate, clock: VirtualClock
) -> None:
    """What an old probe comes to does not let a third in beside the second."""
    first, second = gateway.stream("?"), gateway.stream("?")
    assert next(first).text == "g"
    clock.spend(30)
    assert next(second).text == "g"
    first.close()  # type: ignore[attr-defined]
    assert not _is_free(gateway), "the place is the second's"
    assert gateway.invoke("?").text == "hello"
    second.close()  # type: ignore[attr-defined]
    gate.go.set()
    assert gateway.invoke("?").text == "gate"


def test_an_exception_between_two_steps_gives_the_probes_place_back(
    gateway: GatewayRunnable, gate: Gate
) -> None:
    """One from a signal handler, say, whose traceback is kept."""
    gate.go.set()
    answer = gate._answer

    def interrupted() -> AIMessage:
        raise InterruptedByHand

    gate._answer = interrupted  # type: ignore[method-assign]
    with pytest.raises(InterruptedByHand) as kept:
        gateway.invoke("?")
    gate._answer = answer  # type: ignore[method-assign]
    assert gateway.invoke("?").text == "gate"
    assert kept.traceback


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_process_does_not_inherit_a_held_lock(
    gateway: GatewayRunnable, gate: Gate
) -> None:
    """A fork in the middle of another thread's bookkeeping leaves the child able to call."""
    circuit = gateway._memory["gate"].circuit
    gate.go.set()
    with circuit._lock:
        child = os.fork()
        if child == 0:
            os._exit(gateway.invoke("?").text != "gate")
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0


# --- what comes late --------------------------------------------------------------------------


def _late(gateway: GatewayRunnable, gate: Gate, clock: VirtualClock, *, ends_dead: bool) -> None:
    """A call made while the deployment is free ends after others have begun its cooldown."""
    gate.go.set()
    assert gateway.invoke("?").text == "gate"
    gate.go.clear()
    gate.entered = threading.Semaphore(0)
    early = ThreadPoolExecutor(1)
    late = early.submit(gateway.invoke, "?")
    assert gate.entered.acquire(timeout=20)
    own = gate.go
    gate.go = threading.Event()
    gate.go.set()
    gate.is_dead = True
    assert gateway.invoke("?").text == "hello"
    assert not _is_free(gateway)
    gate.is_dead = ends_dead
    own.set()
    assert late.result(20).text == ("hello" if ends_dead else "gate")
    early.shutdown()


def test_a_late_success_of_an_older_call_does_not_end_the_rest(
    gateway: GatewayRunnable, gate: Gate, clock: VirtualClock
) -> None:
    """It tells of the time before."""
    _late(gateway, gate, clock, ends_dead=False)
    (deferred,) = gateway.explain().deferred
    assert (deferred.until - clock.now()).total_seconds() == 30


def test_a_late_failure_of_an_older_call_does_not_lengthen_the_rest(
    gateway: GatewayRunnable, gate: Gate, clock: VirtualClock
) -> None:
    """Fifty calls that fail together are one outage."""
    _late(gateway, gate, clock, ends_dead=True)
    (deferred,) = gateway.explain().deferred
    assert (deferred.until - clock.now()).total_seconds() == 30


# --- nothing held, nothing left ---------------------------------------------------------------


@pytest.mark.parametrize("timeout", [None, 20])
def test_no_lock_is_held_during_a_models_call(timeout: float | None) -> None:
    """A model may call the very gateway it belongs to."""
    depth = 0

    class Recursive(Runnable[Any, Any]):
        def invoke(self, input: Any, config: Any = None, **kwargs: Any) -> AIMessage:
            nonlocal depth
            depth += 1
            return gateway.invoke("?") if depth < 5 else AIMessage("deep")

    gateway = GatewayRunnable(
        models=[
            {"model_name": "a", "model": Recursive()},
            {"model_name": "b", "model": ScriptedChatModel()},
        ],
        cooldown=ONCE,
        timeout=timeout,
    )
    assert gateway.invoke("?").text == "deep"
    depth = 0
    assert asyncio.run(gateway.ainvoke("?")).text == "deep"


async def test_async_calls_leave_no_task_and_no_thread() -> None:
    """After answers, failures, timeouts and closed streams."""
    gateway = GatewayRunnable(
        models=[
            {
                "model_name": "a",
                "model": _AsyncOnly(),
                "timeout": 0.02,
                "stall_timeout": 0.02,
            },
            {"model_name": "b", "model": _AsyncOnly(seconds=0)},
        ],
        cooldown=ONCE,
        timeout=20,
    )
    await asyncio.sleep(0)
    tasks, threads = asyncio.all_tasks(), set(threading.enumerate())
    answers = await asyncio.gather(*(gateway.ainvoke("?") for _ in range(MANY)))
    assert {answer.text for answer in answers} == {"hello"}
    async for _ in gateway.astream("?"):
        break
    gc.collect()
    await asyncio.sleep(0.01)
    chunks = gateway.astream("?")
    await anext(chunks)
    await chunks.aclose()
    assert asyncio.all_tasks() == tasks
    assert threads.issuperset(threading.enumerate())  # one of before may have ended meanwhile


def test_a_closed_timed_stream_leaves_no_thread(gate: Gate) -> None:
    """The thread that reads it ends with the model's next chunk, and closes the model's stream."""
    gate.is_dead = False
    gateway = GatewayRunnable(
        models=[
            {"model_name": "gate", "model": gate, "stall_timeout": 20},
            {"model_name": "b", "model": ScriptedChatModel()},
        ],
    )
    threads = set(threading.enumerate())
    chunks = gateway.stream("?")
    assert next(chunks).text == "g"
    chunks.close()  # type: ignore[attr-defined]
    _wait_until(lambda: set(threading.enumerate()) == threads)
    assert gate.closed == 1


def test_derived_gateways_share_one_health(gateway: GatewayRunnable, gate: Gate) -> None:
    """What one found dead, the others skip."""
    gate.is_dead = True
    gate.go.set()
    assert gateway.prefer("gate").invoke("?").text == "hello"
    assert gate.asked == 1
    others: list[Runnable[Any, Any]] = [
        gateway.model_copy(),
        gateway.bind(stop=["."]),
        gateway.with_config(tags=["t"]),
        gateway.as_chat_model(),
    ]
    assert [other.invoke("?").text for other in others] == ["hello"] * 4
    assert gate.asked == 1


def test_health_counts_are_exact_under_threads(clock: VirtualClock) -> None:
    """No failure is lost and none is counted twice: the 40th of 40 begins its cooldown."""

    class Dead(Runnable[Any, Any]):
        asked = 0

        def invoke(self, input: Any, config: Any = None, **kwargs: Any) -> AIMessage:
            raise ServerError(503, None)

    gateway = GatewayRunnable(
        models=[
            {"model_name": "dead", "model": Dead()},
            {"model_name": "b", "model": ScriptedChatModel()},
        ],
        cooldown=CooldownPolicy(failure_threshold=40),
    )
    gateway = rehearsed(gateway, clock)
    with ThreadPoolExecutor(20) as pool:
        list(pool.map(lambda _: gateway.invoke("?"), range(39)))
        assert _is_free(gateway)
    gateway.invoke("?")
    assert not _is_free(gateway)


class _AsyncOnly(Runnable[Any, Any]):
    def __init__(self, seconds: float = 30) -> None:
        self.seconds = seconds

    def invoke(self, input: Any, config: Any = None, **kwargs: Any) -> AIMessage:
        raise NotImplementedError

    async def ainvoke(self, input: Any, config: Any = None, **kwargs: Any) -> AIMessage:
        await asyncio.sleep(self.seconds)
        return AIMessage("hello")

    async def astream(
        self, input: Any, config: Any = None, **kwargs: Any
    ) -> AsyncIterator[AIMessageChunk]:
        for word in ("hel", "lo"):
            await asyncio.sleep(self.seconds)
            yield AIMessageChunk(word)


def _wait_until(condition: Callable[[], bool]) -> None:
    patience = threading.Event()
    for _ in range(2000):
        if condition():
            return
        patience.wait(0.01)
    raise AssertionError("it did not come to that")


async def _until(condition: Callable[[], bool]) -> None:
    for _ in range(2000):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it did not come to that")


class PlainSync(Runnable[Any, Any]):
    """A model of its own, with nothing of LangChain's that would keep what it was given."""

    def __init__(self, *, is_down: bool = False) -> None:
        self.is_down = is_down

    def invoke(self, input: Any, config: Any = None, **kwargs: Any) -> AIMessage:
        if self.is_down:
            raise ServerError(503, None)
        return AIMessage("hello")

    def stream(self, input: Any, config: Any = None, **kwargs: Any) -> Iterator[AIMessageChunk]:
        yield AIMessageChunk(self.invoke(input).content)


class Plain(PlainSync):
    """The same, async too."""

    async def ainvoke(self, input: Any, config: Any = None, **kwargs: Any) -> AIMessage:
        return self.invoke(input)

    async def astream(
        self, input: Any, config: Any = None, **kwargs: Any
    ) -> AsyncIterator[AIMessageChunk]:
        yield AIMessageChunk(self.invoke(input).content)


@pytest.mark.parametrize("form", ["invoke", "ainvoke", "stream", "astream"])
@pytest.mark.parametrize(
    "rules",
    [
        {"cooldown": ONCE},
        {"balance": "weighted"},
        {"balance": "least_busy"},
        {"balance": "fastest", "timeout": 20},
        {"hedge": {}},
        {"hedge": {}, "timeout": 20},
        {"on_event": str},
    ],
    ids=" ".join,
)
def test_a_call_lets_go_of_its_prompt_when_it_ends(form: str, rules: dict[str, Any]) -> None:
    """At once, not when the collector comes by: a circle in every call would keep that busy."""
    let_go(Plain, form, rules)


@pytest.mark.parametrize("form", ["ainvoke", "astream"])
def test_an_async_call_of_a_sync_model_lets_go_of_its_prompt(form: str) -> None:
    """Its thread is the gateway's own where it has a timeout."""
    let_go(PlainSync, form, {"timeout": 20})


def let_go(kind: type[PlainSync], form: str, rules: dict[str, Any]) -> None:
    """Call a gateway over models of a kind; see that nothing keeps the prompts."""
    limits = {"rpm": 1e6, "tpm": 1e9, "max_concurrency": 9}
    models = {"a": kind(is_down=True), "b": kind(), "c": kind(is_down=True)}
    entries = [{"model_name": name, "model": model, **limits} for name, model in models.items()]
    gateway = GatewayRunnable(models=entries, **rules)
    gc.disable()
    try:
        for _ in range(3):  # with a balance, whoever comes first
            prompt = HumanMessage("?")
            seen = weakref.ref(prompt)
            assert CallForm(form)(gateway, [prompt]).text == "hello"
            for thread in threading.enumerate():
                if thread.name == "gateway-call":
                    thread.join()
            del prompt
            assert seen() is None
    finally:
        gc.enable()
