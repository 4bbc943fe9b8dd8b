"""The doing: thin drivers that carry out a `Call`'s steps, for every call form of a Runnable.

There are four, for a plain call and a stream, sync and async; everything that decides is in
`routing`, and all other call forms come down to these.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager, nullcontext
from typing import Any, Final

from langchain_core.language_models import LanguageModelInput
from langchain_core.runnables import RunnableConfig, RunnableSerializable
from langchain_core.runnables.config import get_config_list
from typing_extensions import override

from langchain_model_gateway.routing import Call, Routing, Wait
from langchain_model_gateway.timing import (
    Cancellation,
    aclosing_if_closable,
    closing_if_closable,
)
from langchain_model_gateway.tracing import Run, effective, merged

PREFERENCE: Final = "model_preference"


class RoutedCalls(RunnableSerializable[LanguageModelInput, Any]):
    """The calls of a gateway; who is asked, and when, its routing decides."""

    model_preference: str | None = None

    @property
    def _routing(self) -> Routing:
        raise NotImplementedError

    def _call(self, config: RunnableConfig | None, kwargs: dict[str, Any]) -> Call:
        """Begin a call; takes the preference out of `kwargs`, which are the models' own."""
        preference = kwargs.pop(PREFERENCE, None)
        if preference is None:
            preference = _configured_preference(config)
        if preference is None:
            preference = self.model_preference
        return Call(self._routing, preference)

    @override
    def invoke(
        self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any
    ) -> Any:
        call = self._call(config, kwargs)
        with Run(self, input, config) as run, call:
            for step in call.steps():
                if isinstance(step, Wait):
                    call.clock.sleep(step.seconds)
                    continue
                model, child = step.deployment.model, run.child(step.deployment.model_name)
                try:
                    answer = call.clock.call(
                        step.seconds, model.invoke, _own(input), child, **_own(kwargs)
                    )
                    call.answered(answer)
                except BaseException as error:  # the call decides
                    if not call.failed(error):
                        raise
                    run.fell_over(call.failures)
            run.output = call.answer
        return call.answer

    @override
    async def ainvoke(
        self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any
    ) -> Any:
        call = self._call(config, kwargs)
        cancellation = Cancellation()
        async with Run(self, input, config) as run:
            with call:
                for step in call.steps():
                    if isinstance(step, Wait):
                        await call.clock.asleep(step.seconds)
                        continue
                    model, child = step.deployment.model, run.child(step.deployment.model_name)
                    try:
                        ask = model.ainvoke(_own(input), child, **_own(kwargs))
                        call.answered(await call.clock.acall(step.seconds, ask))
                    except BaseException as error:
                        cancellation.check(error)
                        if not call.failed(error):
                            raise
                        await run.afell_over(call.failures)
                run.output = call.answer
        return call.answer

    @override
    def stream(
        self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any
    ) -> Iterator[Any]:
        call = self._call(config, kwargs)
        with Run(self, input, config) as run:
            yield from run.tap(self._chunks(call, run, input, kwargs))

    def _chunks(
        self, call: Call, run: Run, input: LanguageModelInput, kwargs: dict[str, Any]
    ) -> Generator[Any, None, None]:
        with call:
            for step in call.steps():
                if isinstance(step, Wait):
                    call.clock.sleep(step.seconds)
                    continue
                model, child = step.deployment.model, run.child(step.deployment.model_name)
                try:
                    given = iter(model.stream(_own(input), child, **_own(kwargs)))
                    chunks = call.watched(given, call.clock.stream)
                    with closing_if_closable(chunks):
                        for chunk in chunks:
                            yield from call.saw(chunk)
                        call.finished()
                except BaseException as error:
                    if not call.failed(error):
                        raise
                    run.fell_over(call.failures)

    @override
    async def astream(
        self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any
    ) -> AsyncGenerator[Any, None]:
        call = self._call(config, kwargs)
        async with (
            Run(self, input, config) as run,
            aclosing(run.atap(self._achunks(call, run, input, kwargs))) as chunks,
        ):
            async for chunk in chunks:
                yield chunk

    async def _achunks(
        self, call: Call, run: Run, input: LanguageModelInput, kwargs: dict[str, Any]
    ) -> AsyncGenerator[Any, None]:
        cancellation = Cancellation()
        with call:
            for step in call.steps():
                if isinstance(step, Wait):
                    await call.clock.asleep(step.seconds)
                    continue
                model, child = step.deployment.model, run.child(step.deployment.model_name)
                try:
                    given = aiter(model.astream(_own(input), child, **_own(kwargs)))
                    chunks = call.watched(given, call.clock.astream)
                    async with aclosing_if_closable(chunks):
                        async for chunk in chunks:
                            for ready in call.saw(chunk):
                                yield ready
                        call.finished()
                except BaseException as error:
                    cancellation.check(error)
                    if not call.failed(error):
                        raise
                    await run.afell_over(call.failures)

    @override
    async def atransform(
        self,
        input: AsyncIterator[LanguageModelInput],
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[Any]:
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
    ) -> list[Any]:
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
    ) -> AsyncGenerator[tuple[int, Any], None]:
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
        configs = get_config_list(config, len(inputs))
        limit = configs[0].get("max_concurrency") if configs else None
        turn = asyncio.Semaphore(limit) if limit else nullcontext()

        async def answer(position: int) -> tuple[int, Any]:
            try:
                async with turn:
                    output = await self.ainvoke(inputs[position], configs[position], **kwargs)
            except Exception as error:
                if not return_exceptions:
                    raise
                output = error
            return position, output

        tasks = [asyncio.ensure_future(answer(position)) for position in range(len(inputs))]
        try:
            yield tasks
        finally:
            unfinished = [task for task in tasks if not task.done()]
            for task in unfinished:
                task.cancel()
            await asyncio.gather(*unfinished, return_exceptions=True)


def _configured_preference(config: RunnableConfig | None) -> Any:
    if config is not None and PREFERENCE in config:  # LangChain takes stray keys as configurable
        return config[PREFERENCE]  # type: ignore[typeddict-item]
    configurable = effective(config, "configurable")
    return configurable.get(PREFERENCE) if configurable else None


def _own(value: Any) -> Any:
    """A copy of the lists and dicts in `value`, so that no model edits what the next one gets."""
    if type(value) is list:
        return [_own(item) for item in value]
    if type(value) is dict:
        return {key: _own(item) for key, item in value.items()}
    return value
