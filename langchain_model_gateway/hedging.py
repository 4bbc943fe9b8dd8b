"""Two attempts of one call at once: where the first takes long, another deployment is asked too.

"The Tail at Scale" (Dean and Barroso, CACM 2013). Who is asked, and when, the call decides. Here
the attempts are started and waited for, and the slower one is let go.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from functools import partial
from typing import Any

from langchain_model_gateway.attempt import Attempt
from langchain_model_gateway.call import Call
from langchain_model_gateway.errors import EmptyStreamError, FailedAttempt
from langchain_model_gateway.guards import aclose, cancellation_behind, cancellations, close

Ask = Callable[[Attempt], Callable[[], Any]]
"""Gives for an attempt what asks its deployment."""

Report = Callable[[Sequence[FailedAttempt]], None]
AsyncReport = Callable[[Sequence[FailedAttempt]], Awaitable[None]]
"""Tells the handlers that an attempt has failed."""

Head = tuple[Sequence[Any], Any]
"""A stream's first chunks, up to the first real one, and the stream."""

Opened = tuple[Attempt, Sequence[Any], Any]


def race(call: Call, first: Attempt, ask: Ask, report: Report) -> Any:
    """Ask the first, and where that takes long a second; sync calls run in threads.

    Args:
        call: The call.
        first: Its attempt.
        ask: Gives for an attempt what asks its deployment.
        report: Tells the handlers that an attempt has failed.

    Returns:
        What the winner gave; `None` if nobody gave anything.

    Raises:
        BaseException: What an attempt raised that is the caller's.
    """
    legs: dict[Future[Any], Attempt] = {}
    _start(call, first, ask, legs)
    patience, is_won = first.hedge_after, False
    try:
        while legs:
            done, _ = wait(legs, patience, FIRST_COMPLETED)
            if not done:
                patience = None
                if (second := call.hedge(first)) is not None:
                    _start(call, second, ask, legs)
            while done:
                leg = legs.pop(future := done.pop())
                try:
                    given = leg.won(future.result())
                except BaseException as error:
                    if not leg.failed(error):
                        raise
                    report(call.failures)
                else:
                    is_won = True
                    return given
                finally:
                    del future  # it holds what was raised, which holds this frame
        return None
    finally:
        for future, leg in legs.items():
            _let_go(leg, is_won=is_won)
            if leg.seconds is None:  # else its guard abandons it
                leg.target.hanging.abandon(future)
            future.add_done_callback(_close)


def _start(
    call: Call,
    leg: Attempt,
    ask: Ask,
    legs: dict[Future[Any], Attempt],
) -> None:
    """Ask one in a thread of its own, under guard if it may take too long."""
    hanging = leg.target.hanging
    try:
        asked = ask(leg)
        if leg.seconds is not None:
            asked = partial(call.routing.guards.call, leg.seconds, asked, hanging)
        future = hanging.submit(asked)
    except BaseException as error:
        if not leg.failed(error):
            raise
        return
    legs[future] = leg


def _close(future: "Future[Any]") -> None:
    """Close the stream that a loser has opened after all."""
    if future.exception() is None and isinstance(head := future.result(), tuple):
        close(head[1])


async def arace(call: Call, first: Attempt, ask: Ask, report: AsyncReport) -> Any:
    """`race`, async: a loser is cancelled and awaited."""
    before = cancellations()
    legs: dict[asyncio.Task[Any], Attempt] = {}
    _astart(call, first, ask, legs)
    patience, winner, given = first.hedge_after, None, None
    try:
        while legs:
            done, _ = await asyncio.wait(
                legs, timeout=patience, return_when=asyncio.FIRST_COMPLETED
            )
            if not done:
                patience = None
                if (second := call.hedge(first)) is not None:
                    _astart(call, second, ask, legs)
            while done:
                leg = legs.pop(task := done.pop())
                try:
                    given = leg.won(task.result())
                except BaseException as error:  # the attempt decides
                    error = cancellation_behind(error, before)
                    if not leg.failed(error):
                        raise error  # noqa: TRY201 - it may be another now
                    await report(call.failures)
                else:
                    winner = leg
                    return given
                finally:
                    del task
        return None
    finally:
        await _asettle(legs, winner, given)


async def _asettle(
    legs: Mapping[asyncio.Task[Any], Attempt], winner: Attempt | None, given: Any
) -> None:
    """Cancel and await the losers; where the caller goes away meanwhile, the winner ends too."""
    for task, leg in legs.items():
        _let_go(leg, is_won=winner is not None)
        task.cancel()
    try:
        await _aclose(legs)
    except BaseException:
        if winner is not None:
            winner.end()
            if isinstance(given, tuple):
                await aclose(given[2])
        raise


def _let_go(leg: Attempt, *, is_won: bool) -> None:
    """Another has won; or nobody has, and it is the caller who goes away."""
    if is_won:
        leg.lost()
    else:
        leg.end()


async def _aclose(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """`_close`, async, once they have ended."""
    for lost in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(lost, tuple):
            await aclose(lost[1])


def _astart(
    call: Call,
    leg: Attempt,
    ask: Ask,
    legs: dict[asyncio.Task[Any], Attempt],
) -> None:
    try:
        asked = ask(leg)()
    except BaseException as error:  # before there is anything to await
        if not leg.failed(error):
            raise
        return
    if leg.seconds is not None:
        asked = call.routing.guards.acall(leg.seconds, asked)
    legs[asyncio.ensure_future(asked)] = leg


def opened(call: Call, first: Attempt, ask: Ask, report: Report) -> Opened | None:
    """Open a stream: the first's, or where it may be hedged the quicker one's.

    Returns:
        Whose it is, the chunks that were read to find that out, and the stream; `None` if nobody's.
    """
    if first.hedge_after is None:
        return first, (), iter(ask(first)())

    def head(leg: Attempt) -> Callable[[], Head]:
        return partial(_head, leg, ask(leg))

    return race(call, first, head, report)  # type: ignore[no-any-return]


async def aopened(call: Call, first: Attempt, ask: Ask, report: AsyncReport) -> Opened | None:
    """`opened`, async."""
    if first.hedge_after is None:
        return first, (), aiter(ask(first)())

    def head(leg: Attempt) -> Callable[[], Awaitable[Head]]:
        return partial(_ahead, leg, ask(leg))

    return await arace(call, first, head, report)  # type: ignore[no-any-return]


def _head(attempt: Attempt, asked: Callable[[], Any]) -> Head:
    """Read a stream up to its first real chunk."""
    chunks = iter(asked())
    try:
        for chunk in chunks:
            if ready := attempt.noted(chunk):
                return ready, chunks
        attempt.ended()
    except BaseException:
        close(chunks)
        raise
    raise EmptyStreamError("the stream ended with no event at all")


async def _ahead(attempt: Attempt, asked: Callable[[], Any]) -> Head:
    """`_head`, async."""
    chunks = aiter(asked())
    try:
        async for chunk in chunks:
            if ready := attempt.noted(chunk):
                return ready, chunks
        attempt.ended()
    except BaseException:
        await aclose(chunks)
        raise
    raise EmptyStreamError("the stream ended with no event at all")
