"""The doing: thin drivers that carry out a `Call`'s steps, for every call form of a Runnable.

There are four, for a plain call and a stream, sync and async; everything that decides is in
`call` and `routing`, and all other call forms come down to these.
"""

import asyncio
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Generator,
    Sequence,
)
from contextlib import aclosing, asynccontextmanager
from functools import partial
from typing import Any, Final, TypeVar

from langchain_core.language_models import LanguageModelInput
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.runnables import RunnableConfig, RunnableSerializable
from langchain_core.runnables.config import ensure_config, get_config_list
from typing_extensions import override

from langchain_model_gateway._arguments import check_keywords
from langchain_model_gateway.attempt import Attempt
from langchain_model_gateway.call import Call, Wait
from langchain_model_gateway.guards import aclose, cancellation_behind, cancellations, close
from langchain_model_gateway.hedging import aopened, arace, opened, race
from langchain_model_gateway.listeners.langchain import Run, merged
from langchain_model_gateway.routing import Routing

PREFERENCE: Final = "model_preference"
FALLBACK: Final = "model_fallback"

_END: Final = object()

T = TypeVar("T")
U = TypeVar("U")


class RoutedCalls(RunnableSerializable[LanguageModelInput, AIMessage]):
    """The calls of a gateway; who is asked, and when, its routing decides."""

    model_preference: str | None = None
    model_fallback: bool = True
    translate_history: bool = True
    affinity: str | None = None

    @property
    def _routing(self) -> Routing:
        raise NotImplementedError

    def _call(self, run: Run, kwargs: dict[str, Any], *, is_stream: bool = False) -> Call:
        """Begin a call; takes the gateway's own keywords out of `kwargs`, which are the models'."""
        routing, config = self._routing, run.config
        if config is None and not kwargs:
            return Call(routing, run.input, is_stream=is_stream)
        affinity = None
        preference = _setting(PREFERENCE, config, kwargs)
        fallback = _setting(FALLBACK, config, kwargs)
        if kwargs:
            check_keywords(kwargs)
        if routing.rules.affinity is not None and config is not None:
            affinity = (config.get("configurable") or {}).get(routing.rules.affinity)
        return Call(
            routing,
            run.input,
            preference,
            fallback=fallback,
            affinity=affinity,
            is_stream=is_stream,
            has_tools=bool(kwargs.get("tools")),
        )

    @override
    def invoke(
        self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any
    ) -> AIMessage:
        run = Run(self, input, config)
        if not run.has_listeners:
            return self._invoke(run, kwargs)
        with run:
            run.output = self._invoke(run, kwargs)
        return run.output  # type: ignore[no-any-return]

    def _invoke(self, run: Run, kwargs: dict[str, Any]) -> AIMessage:
        call = self._call(run, kwargs)
        for step in call.steps():
            if isinstance(step, Wait):
                call.routing.clock.sleep(step.seconds)
                continue
            try:
                if step.hedge_after is not None:
                    ask = partial(_asking, run, kwargs, "invoke")
                    race(call, step, ask, run.report_failure)
                    continue
                asked = _asking(run, kwargs, "invoke", step)
                if step.seconds is not None:
                    guard = call.routing.guards.call
                    asked = partial(guard, step.seconds, asked, step.target.hanging)
                step.answered(asked())
            except BaseException as error:  # the attempt decides
                if not step.failed(error):
                    raise
                run.report_failure(call.failures)
        return call.answer  # type: ignore[no-any-return]

    @override
    async def ainvoke(
        self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any
    ) -> AIMessage:
        run = Run(self, input, config)
        if not run.has_listeners:
            return await self._ainvoke(run, kwargs)
        async with run:
            run.output = await self._ainvoke(run, kwargs)
        return run.output  # type: ignore[no-any-return]

    async def _ainvoke(self, run: Run, kwargs: dict[str, Any]) -> AIMessage:
        call, before = self._call(run, kwargs), cancellations()
        for step in call.steps():
            if isinstance(step, Wait):
                await call.routing.clock.async_sleep(step.seconds)
                continue
            try:
                if step.hedge_after is not None:
                    ask = partial(_asking, run, kwargs, "ainvoke")
                    await arace(call, step, ask, run.areport_failure)
                    continue
                asked = _asking(run, kwargs, "ainvoke", step)()
                if step.seconds is not None:
                    asked = call.routing.guards.acall(step.seconds, asked)
                step.answered(await asked)
            except BaseException as error:  # the attempt decides
                error = cancellation_behind(error, before)
                if not step.failed(error):
                    raise error  # noqa: TRY201 - it may be another now
                await run.areport_failure(call.failures)
        return call.answer  # type: ignore[no-any-return]

    @override
    def stream(
        self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any
    ) -> Generator[AIMessageChunk, None, None]:
        run = Run(self, input, config)
        chunks = self._chunks(run, kwargs)
        return run.recorded(chunks) if run.has_listeners else chunks

    def _chunks(self, run: Run, kwargs: dict[str, Any]) -> Generator[Any, None, None]:
        call = self._call(run, kwargs, is_stream=True)
        ask = partial(_asking, run, kwargs, "stream")
        for step in call.steps():
            if isinstance(step, Wait):
                call.routing.clock.sleep(step.seconds)
                continue
            try:
                if (found := opened(call, step, ask, run.report_failure)) is None:
                    continue
                step, ready, chunks = found  # noqa: PLW2901
                chunks = step.guarded(chunks, call.routing.guards.stream, step.target.hanging)
                try:
                    yield from ready
                    while not step.passes_through and (chunk := next(chunks, _END)) is not _END:
                        yield from step.received(chunk)
                    yield from chunks
                    step.finished()
                finally:
                    close(chunks)
            except BaseException as error:
                if not step.failed(error):
                    raise
                run.report_failure(call.failures)

    @override
    def astream(
        self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any
    ) -> AsyncGenerator[AIMessageChunk, None]:
        run = Run(self, input, config)
        chunks = self._achunks(run, kwargs)
        return run.arecorded(chunks) if run.has_listeners else chunks

    async def _achunks(self, run: Run, kwargs: dict[str, Any]) -> AsyncGenerator[Any, None]:
        call, before = self._call(run, kwargs, is_stream=True), cancellations()
        ask = partial(_asking, run, kwargs, "astream")
        for step in call.steps():
            if isinstance(step, Wait):
                await call.routing.clock.async_sleep(step.seconds)
                continue
            try:
                if (found := await aopened(call, step, ask, run.areport_failure)) is None:
                    continue
                step, ready, chunks = found  # noqa: PLW2901
                chunks = step.guarded(chunks, call.routing.guards.astream)
                try:
                    for chunk in ready:
                        yield chunk
                    while not step.passes_through and (
                        (chunk := await anext(chunks, _END)) is not _END
                    ):
                        for each in step.received(chunk):
                            yield each
                    async for chunk in chunks:
                        yield chunk
                    step.finished()
                finally:
                    await aclose(chunks)
            except BaseException as error:  # the attempt decides
                error = cancellation_behind(error, before)
                if not step.failed(error):
                    raise error  # noqa: TRY201 - it may be another now
                await run.areport_failure(call.failures)

    @override
    async def atransform(
        self,
        input: AsyncIterator[LanguageModelInput],
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[AIMessageChunk]:
        # The base class leaves the inner stream open when its reader goes away.
        parts = [part async for part in input]
        if parts:
            async with aclosing(self.astream(merged(parts), config, **kwargs)) as chunks:
                async for chunk in chunks:
                    yield chunk

    @override
    async def abatch(
        self,
        inputs: list[LanguageModelInput],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[AIMessage]:
        begun = self._begun(inputs, config, kwargs, return_exceptions=return_exceptions)
        async with begun as tasks:
            return [answer for _, answer in await asyncio.gather(*tasks)]

    @override
    async def abatch_as_completed(
        self,
        inputs: Sequence[LanguageModelInput],
        config: RunnableConfig | Sequence[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> AsyncGenerator[tuple[int, AIMessage], None]:
        begun = self._begun(inputs, config, kwargs, return_exceptions=return_exceptions)
        async with begun as tasks:
            for task in asyncio.as_completed(tasks):
                yield await task

    @asynccontextmanager
    async def _begun(
        self,
        inputs: Sequence[LanguageModelInput],
        config: RunnableConfig | Sequence[RunnableConfig] | None,
        kwargs: dict[str, Any],
        *,
        return_exceptions: bool,
    ) -> AsyncIterator[list["asyncio.Task[tuple[int, Any]]"]]:
        """A task for each input, routed by itself; unlike the base class, none is left running."""
        size = len(inputs)
        configs = [None] * size if config is None else get_config_list(config, size)

        async def answer(position: int) -> tuple[int, Any]:
            try:
                output: Any = await self.ainvoke(inputs[position], configs[position], **kwargs)
            except Exception as error:
                if not return_exceptions:
                    raise
                output = error
            return position, output

        limit = ensure_config(configs[0]).get("max_concurrency") if configs else None
        begin = _in_turn(limit, answer) if limit else answer
        tasks = [asyncio.ensure_future(begin(position)) for position in range(size)]
        try:
            yield tasks
        finally:
            unfinished = [task for task in tasks if not task.done()]
            for task in unfinished:
                task.cancel()
            await asyncio.gather(*unfinished, return_exceptions=True)


def _in_turn(limit: int, function: Callable[[T], Awaitable[U]]) -> Callable[[T], Awaitable[U]]:
    """`function`, of which at most `limit` calls run at once."""
    turn = asyncio.Semaphore(limit)

    async def in_turn(argument: T) -> U:
        async with turn:
            return await function(argument)

    return in_turn


def _asking(run: Run, kwargs: dict[str, Any], method: str, attempt: Attempt) -> Callable[[], Any]:
    """What asks an attempt's deployment; each gets lists and dicts of its own."""
    target = attempt.target
    model = attempt.async_model() if method[0] == "a" else target.model
    value, config = run.input, None
    if run.config is not None:
        model, config = run.attempt(model, target.model_name, is_hedge=attempt.is_hedge)
    ask = getattr(model, method)
    if value.__class__ is str and not kwargs:  # there is nothing to translate, nor to copy
        return partial(ask, value, config)
    value, own = attempt.given(value, kwargs)
    return partial(ask, _own(value), config, **_own(own))


def _setting(name: str, config: RunnableConfig | None, kwargs: dict[str, Any]) -> Any:
    """A setting of the gateway's own for one call: by keyword, else by config, else `None`."""
    if kwargs and (given := kwargs.pop(name, None)) is not None:
        return given
    if config is None:
        return None
    if name in config:  # LangChain takes stray keys as configurable
        return config[name]  # type: ignore[literal-required]
    configurable = config.get("configurable")
    return configurable.get(name) if configurable else None


def _own(value: Any) -> Any:
    """A copy of the lists and dicts in `value`, so that no model edits what the next one gets."""
    if type(value) is list:
        return [*map(_own, value)]
    if type(value) is dict:
        # A comprehension is a call of its own, and most calls have no keywords.
        return {key: _own(item) for key, item in value.items()} if value else {}
    return value
