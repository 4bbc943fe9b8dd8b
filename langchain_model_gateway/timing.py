"""Time from outside: the clock a gateway lives by, and calls that may take only so long."""

import asyncio
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator, Iterator
from concurrent.futures import Future, wait
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

    def call(self, seconds: float, function: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
        """Call `function`, waiting at most `seconds` for its answer.

        A thread cannot be stopped: a call that takes longer is left to end by itself.

        Raises:
            ModelTimeoutError: If there is no answer in time.
        """
        future: Future[T] = Future()
        _in_background(lambda: _fulfil(future, partial(function, *args, **kwargs)))
        if not wait([future], timeout=max(seconds, 0)).done:
            raise _too_late(seconds)
        return future.result()

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


def cancellations() -> int:
    """How often the running task has been cancelled, and not taken that back."""
    task = asyncio.current_task()
    return task.cancelling() if task else 0


def check_cancellation(error: BaseException, before: int) -> None:
    """Raise the cancellation that an error stands in the place of, if there is one.

    A model may turn the cancellation it was given into an error of its own; falling over on that
    would lose the cancellation.

    Args:
        error: What a model raised.
        before: The `cancellations` when its call began.
    """
    if isinstance(error, Exception) and cancellations() > before:
        raise asyncio.CancelledError from error


def close(chunks: Any) -> None:
    """Close an iterator, if it is one that can be."""
    if (close := getattr(chunks, "close", None)) is not None:
        close()


async def aclose(chunks: Any) -> None:
    """Close an async iterator, if it is one that can be."""
    if (close := getattr(chunks, "aclose", None)) is not None:
        await close()


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
    try:
        while True:
            future: Future[Any] = Future()
            _fulfil(future, lambda: next(chunks, _END))
            if not _put(queue, future, gone) or future.exception() or future.result() is _END:
                return
    finally:
        close(chunks)


def _put(queue: "Queue[Future[Any]]", future: "Future[Any]", gone: Event) -> bool:
    while not gone.is_set():
        try:
            queue.put(future, timeout=_CLOSED_CHECK)
        except Full:
            continue
        return True
    return False
