"""Time from outside: the clock a gateway lives by, and calls that may take only so long."""

import asyncio
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator, Iterator
from concurrent.futures import Future, wait
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    aclosing,
    closing,
    nullcontext,
)
from contextvars import copy_context
from datetime import UTC, datetime
from functools import partial
from queue import Empty, Full, Queue
from threading import Event, Thread
from typing import Any, Final, TypeVar

from langchain_core.exceptions import ModelTimeoutError

T = TypeVar("T")

_END: Final = object()
_CLOSED_CHECK: Final = 0.1


class Clock:
    """The real time and chance. A rehearsal puts another in its place."""

    def now(self) -> datetime:
        """The present, aware, in UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Seconds that never run backwards."""
        return time.monotonic()

    def uniform(self, low: float, high: float) -> float:
        """A random number between two."""
        return random.uniform(low, high)  # noqa: S311 - jitter is no secret

    def sleep(self, seconds: float) -> None:
        """Wait."""
        time.sleep(seconds)

    async def asleep(self, seconds: float) -> None:
        """Wait, letting others run."""
        await asyncio.sleep(seconds)

    def call(
        self, seconds: float | None, function: Callable[..., T], /, *args: Any, **kwargs: Any
    ) -> T:
        """Call `function`, waiting at most `seconds` for its answer.

        A thread cannot be stopped: a call that takes longer is left to end by itself.

        Raises:
            ModelTimeoutError: If there is no answer in time.
        """
        if seconds is None:
            return function(*args, **kwargs)
        future: Future[T] = Future()
        _in_background(lambda: _fulfil(future, partial(function, *args, **kwargs)))
        if not wait([future], timeout=max(seconds, 0)).done:
            raise _too_late(seconds)
        return future.result()

    def acall(self, seconds: float | None, awaitable: Awaitable[T]) -> Awaitable[T]:
        """What to await in place of `awaitable`, so that it is cancelled after `seconds`.

        Raises:
            ModelTimeoutError: When awaited, if there is no answer in time.
        """
        return awaitable if seconds is None else _within(seconds, awaitable)

    def stream(
        self, chunks: Iterator[T], patience: Callable[[], float | None]
    ) -> Generator[T, None, None]:
        """Pass chunks on, waiting for each at most as long as `patience` says at that moment.

        The chunks are read in a thread. When the reader goes away, the source is closed as soon as
        it has given its next chunk.

        Raises:
            ModelTimeoutError: If a chunk does not come in time.
        """
        queue: Queue[Future[T]] = Queue(maxsize=1)
        gone = Event()
        _in_background(lambda: _pump(chunks, queue, gone))
        try:
            while True:
                seconds = patience()
                try:
                    future = queue.get(timeout=None if seconds is None else max(seconds, 0))
                except Empty:
                    raise _too_late(seconds or 0) from None
                if (chunk := future.result()) is _END:
                    return
                yield chunk
        finally:
            gone.set()

    async def astream(
        self, chunks: AsyncIterator[T], patience: Callable[[], float | None]
    ) -> AsyncGenerator[T, None]:
        """`stream`, in which a chunk that comes too late is cancelled.

        Raises:
            ModelTimeoutError: If a chunk does not come in time.
        """
        async with aclosing_if_closable(chunks):
            while True:
                try:
                    chunk = await self.acall(patience(), anext(chunks))
                except StopAsyncIteration:
                    return
                yield chunk


class Cancellation:
    """Whether the running task was cancelled since this was made.

    A model may turn the cancellation it was given into an error of its own; falling over on that
    would lose the cancellation.
    """

    __slots__ = ("_before", "_task")

    def __init__(self) -> None:
        self._task = asyncio.current_task()
        self._before = self._task.cancelling() if self._task else 0

    def check(self, error: BaseException) -> None:
        """Raise the cancellation that `error` stands in the place of, if there is one."""
        if self._task is None or not isinstance(error, Exception):
            return
        if self._task.cancelling() > self._before:
            raise asyncio.CancelledError from error


def closing_if_closable(chunks: Any) -> AbstractContextManager[Any]:
    """`closing`, also for iterators that have nothing to close."""
    return closing(chunks) if hasattr(chunks, "close") else nullcontext()


def aclosing_if_closable(chunks: Any) -> AbstractAsyncContextManager[Any]:
    """`aclosing`, also for iterators that have nothing to close."""
    return aclosing(chunks) if hasattr(chunks, "aclose") else nullcontext()


async def _within(seconds: float, awaitable: Awaitable[T]) -> T:
    limit = asyncio.timeout(seconds)
    try:
        async with limit:
            return await awaitable
    except BaseException as error:
        # A model may turn the cancellation into an error of its own; and a cancellation that is
        # still one came from outside.
        if limit.expired() and not isinstance(error, asyncio.CancelledError):
            raise _too_late(seconds) from error
        raise


def _too_late(seconds: float) -> ModelTimeoutError:
    return ModelTimeoutError(f"no answer within {seconds:.3g} s")


def _in_background(work: Callable[[], None]) -> None:
    # A daemon: an abandoned call must not keep the process from ending.
    Thread(target=copy_context().run, args=(work,), name="gateway-call", daemon=True).start()


def _fulfil(future: "Future[T]", function: Callable[[], T]) -> None:
    try:
        future.set_result(function())
    except BaseException as error:  # noqa: BLE001 - raised again where the call was made
        future.set_exception(error)


def _pump(chunks: Iterator[Any], queue: "Queue[Future[Any]]", gone: Event) -> None:
    """Read chunks into the queue until they end or the reader has gone."""
    with closing_if_closable(chunks):
        while True:
            future: Future[Any] = Future()
            _fulfil(future, lambda: next(chunks, _END))
            if not _put(queue, future, gone) or future.exception() or future.result() is _END:
                return


def _put(queue: "Queue[Future[Any]]", future: "Future[Any]", gone: Event) -> bool:
    while not gone.is_set():
        try:
            queue.put(future, timeout=_CLOSED_CHECK)
        except Full:
            continue
        return True
    return False
