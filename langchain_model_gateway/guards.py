"""Calls that may take only so long, and the threads in which sync ones run.

A thread cannot be stopped. A sync call that takes too long is abandoned: its caller goes on, and it
ends by itself. So that these cannot pile up, a deployment may have a few of them at most.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator, Iterator
from concurrent.futures import Future, wait
from contextvars import copy_context
from functools import partial
from queue import SimpleQueue
from threading import TIMEOUT_MAX, Lock, Thread
from typing import Any, Final, TypeVar

from langchain_core.exceptions import ModelTimeoutError
from langchain_core.language_models import BaseChatModel
from langchain_core.runnables import Runnable, RunnableLambda

from langchain_model_gateway.wrappers import innermost

T = TypeVar("T")
Patience = Callable[[], float | None]
"""Tells how many seconds the next chunk may take; `None`: any time."""

MOST_ABANDONED: Final = 32
"""The most abandoned calls of one deployment that may still run."""

_END: Final = object()
_CLOSING: Final = 1.0
"""The most seconds to wait for a stream to close."""


class Worker:
    """A thread that does one thing after another until it is stopped.

    A daemon: an abandoned call must not keep the process from ending.
    """

    __slots__ = ("_tasks",)

    def __init__(self) -> None:
        self._tasks: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        run = copy_context().run
        Thread(target=run, args=(_work, self._tasks), name="gateway-call", daemon=True).start()

    def submit(self, function: Callable[[], T]) -> "Future[T]":
        """Have `function` called when everything before it is done."""
        future: Future[T] = Future()
        self._tasks.put((future, function))
        return future

    def stop(self) -> None:
        """End the thread when everything before is done."""
        self._tasks.put(None)


class Hanging:
    """The abandoned calls of one deployment that still run."""

    __slots__ = ("_lock", "count")

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget them: a forked process does not have their threads."""
        self.count, self._lock = 0, Lock()

    def worker(self) -> Worker:
        """A thread for one more call.

        Raises:
            ModelTimeoutError: If too many still run.
        """
        if self.count >= MOST_ABANDONED:
            raise ModelTimeoutError(f"{self.count} earlier calls are still hanging")
        return Worker()

    def submit(self, function: Callable[[], T]) -> "Future[T]":
        """Have `function` called in a thread of its own.

        Raises:
            ModelTimeoutError: If too many still run.
        """
        worker = self.worker()
        future = worker.submit(function)
        worker.stop()
        return future

    def abandon(self, future: "Future[Any]") -> None:
        """Count a call until it ends."""
        with self._lock:
            self.count += 1
        future.add_done_callback(self._ended)

    def _ended(self, _: "Future[Any]") -> None:
        with self._lock:
            self.count -= 1


class Guards:
    """The real limits. A rehearsal in virtual time puts others in their place."""

    def call(self, seconds: float, function: Callable[[], T], hanging: Hanging) -> T:
        """Call `function` in a thread, waiting at most `seconds` for its answer.

        Raises:
            ModelTimeoutError: If there is no answer in time.
        """
        return _result(hanging.submit(function), seconds, hanging)

    async def acall(self, seconds: float, awaitable: Awaitable[T]) -> T:
        """Await `awaitable`; cancel it after `seconds`.

        Raises:
            ModelTimeoutError: If there is no answer in time.
        """
        limit = asyncio.timeout(seconds)
        try:
            async with limit:
                return await awaitable
        except BaseException as error:
            # A model may turn the cancellation into an error of its own; and a cancellation that
            # is still one came from outside.
            if limit.expired() and not isinstance(error, asyncio.CancelledError):
                raise _too_late(seconds) from error
            raise
        finally:
            del limit  # it holds the task, which holds what was raised

    def stream(
        self, chunks: Iterator[T], patience: Patience, hanging: Hanging
    ) -> Generator[T, None, None]:
        """Pass chunks on, read in a thread, each when its reader asks for it.

        Raises:
            ModelTimeoutError: If a chunk does not come in time.
        """
        worker = hanging.worker()
        future: Future[Any] | None = None
        try:
            while True:
                future = worker.submit(partial(next, chunks, _END))
                if (chunk := _result(future, patience(), hanging)) is _END:
                    return
                yield chunk
        finally:
            is_free = future is None or future.done()
            del future
            closed = worker.submit(partial(close, chunks))
            worker.stop()
            if is_free:
                _result(closed, _CLOSING, hanging)

    async def astream(
        self, chunks: AsyncIterator[T], patience: Patience
    ) -> AsyncGenerator[T, None]:
        """Pass chunks on; one that comes too late is cancelled.

        Raises:
            ModelTimeoutError: If a chunk does not come in time.
        """
        try:
            while True:
                seconds, ask = patience(), anext(chunks)
                try:
                    chunk = await (ask if seconds is None else self.acall(seconds, ask))
                except StopAsyncIteration:
                    return
                yield chunk
        finally:
            await aclose(chunks)


class InThreads:
    """A model that is only sync, for async callers, in threads of the gateway's own.

    LangChain would run it in the event loop's executor: few threads, shared by everybody, that
    `asyncio.run` waits for at its end.
    """

    def __init__(self, model: Runnable[Any, Any], hanging: Hanging) -> None:
        self._model = model
        self._hanging = hanging

    async def ainvoke(self, *args: Any, **kwargs: Any) -> Any:
        """The model's `invoke`."""
        ask = partial(self._model.invoke, *args, **kwargs)
        return await self._result(self._hanging.submit(ask))

    async def astream(self, *args: Any, **kwargs: Any) -> AsyncGenerator[Any, None]:
        """The model's `stream`."""
        chunks = iter(self._model.stream(*args, **kwargs))
        worker = self._hanging.worker()
        try:
            while True:
                chunk = await self._result(worker.submit(partial(next, chunks, _END)))
                if chunk is _END:
                    return
                yield chunk
        finally:
            worker.submit(partial(close, chunks))
            worker.stop()

    async def _result(self, future: "Future[T]") -> T:
        try:
            return await asyncio.wrap_future(future)
        finally:
            if not future.done():
                self._hanging.abandon(future)
            del future  # it holds what was raised, which holds this frame


def is_sync_only(model: Runnable[Any, Any], *, streams: bool) -> bool:
    """Whether a model leaves its async calls to LangChain, which runs the sync ones in an executor.

    Args:
        model: A model, or what is around one.
        streams: Whether its stream is meant, else its plain call.
    """
    model = innermost(model)
    kind: Any = type(model)
    if isinstance(model, BaseChatModel):
        if streams and kind._stream is not BaseChatModel._stream:  # noqa: SLF001
            return kind._astream is BaseChatModel._astream  # noqa: SLF001
        return kind._agenerate is BaseChatModel._agenerate  # noqa: SLF001
    if isinstance(model, RunnableLambda):
        return not hasattr(model, "afunc")
    return kind.ainvoke is Runnable.ainvoke


def cancellations() -> int:
    """How often the running task has been cancelled, and not taken that back."""
    task = asyncio.current_task()
    return task.cancelling() if task else 0


def cancellation_behind(error: BaseException, before: int) -> BaseException:
    """The cancellation that an error stands in the place of, or the error.

    A model may turn the cancellation it was given into an error of its own. Falling back on that
    would lose the cancellation.

    Args:
        error: What a model raised.
        before: The `cancellations` when its call began.
    """
    if not isinstance(error, Exception) or cancellations() <= before:
        return error
    # The very one: anyio's cancel scopes know theirs by its arguments.
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, asyncio.CancelledError):
        cause = cause.__cause__ or cause.__context__
    return cause or asyncio.CancelledError()


def close(chunks: Any) -> None:
    """Close an iterator, if it is one that can be."""
    if (close := getattr(chunks, "close", None)) is not None:
        close()


async def aclose(chunks: Any) -> None:
    """Close an async iterator, if it is one that can be."""
    if (close := getattr(chunks, "aclose", None)) is not None:
        await close()


def _work(tasks: "SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None]") -> None:
    while (task := tasks.get()) is not None:
        future, function = task
        if future.set_running_or_notify_cancel():
            try:
                future.set_result(function())
            except BaseException as error:  # noqa: BLE001 - raised where the call was made
                future.set_exception(error)
        del task, future, function  # an idle thread holds no answer


def _result(future: "Future[T]", seconds: float | None, hanging: Hanging) -> T:
    """Wait for a result at most so long; then, or when interrupted, abandon the call."""
    try:
        limit = None if seconds is None else min(max(seconds, 0), TIMEOUT_MAX)
        wait([future], timeout=limit)
    finally:
        if not (is_done := future.done()):
            hanging.abandon(future)
    if not is_done:
        raise _too_late(seconds or 0)
    try:
        return future.result()
    finally:
        del future  # it holds what was raised, which holds this frame


def _too_late(seconds: float) -> ModelTimeoutError:
    return ModelTimeoutError(f"no answer within {seconds:.3g} s")
