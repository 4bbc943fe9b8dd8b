"""The gateway's run in a trace: one for the call, one child for each attempt.

With no handler or tracer attached, no run is created, and the same code has less to do.
"""

from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import aclosing, closing
from functools import reduce
from operator import add
from typing import Any, Final, Self

from langchain_core.callbacks import (
    adispatch_custom_event,
    dispatch_custom_event,
)
from langchain_core.messages import AIMessageChunk
from langchain_core.runnables import Runnable, RunnableConfig, ensure_config
from langchain_core.runnables.config import (
    get_async_callback_manager_for_config,
    get_callback_manager_for_config,
)

from langchain_model_gateway._compat import enclosed_by, enclosing_config, has_listeners, tapped
from langchain_model_gateway.errors import FailedAttempt
from langchain_model_gateway.guards import aclose, close

DEPLOYMENT_TAG: Final = "gateway:deployment:"
ATTEMPT_TAG: Final = "gateway:attempt:"
HEDGE_TAG: Final = "gateway:hedge"
DEPLOYMENT_METADATA: Final = "gateway_deployment"
FALLBACK_EVENT: Final = "gateway_fallback"

_OF_ONE_RUN: Final = frozenset({"run_id", "run_name"})
_END: Final = object()


class Run:
    """The run of one call. With no handler attached it is never entered, and only gives configs.

    Args:
        runnable: Whose call it is; the run has its name, unless the config has one.
        input: The call's input.
        config: The call's config.

    Attributes:
        input: The call's input.
        config: The caller's config, completed from the enclosing run's; `None` if there is neither.
        has_listeners: Whether a handler or tracer is attached, so that it has to be entered (sync
            or async).
        output: What the run is reported to have given.
    """

    __slots__ = ("_attempts", "_manager", "_runnable", "config", "has_listeners", "input", "output")

    def __init__(
        self, runnable: Runnable[Any, Any], input: Any, config: RunnableConfig | None
    ) -> None:
        self._attempts = 0
        self._manager: Any = None
        """LangChain's manager of this run, of the sync or the async kind."""
        self._runnable = runnable
        self.input = input
        self.output: Any = None
        if (enclosing := enclosing_config()) is not None:
            config = _completed(config, enclosing)
        self.config = config
        self.has_listeners = has_listeners(None if config is None else config.get("callbacks"))

    def __enter__(self) -> Self:
        config, start = self._started()
        self._manager = get_callback_manager_for_config(config).on_chain_start(**start)
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if error is None or isinstance(error, GeneratorExit):  # a reader may have had enough
            self._manager.on_chain_end(self.output)
        else:
            self._manager.on_chain_error(error)

    async def __aenter__(self) -> Self:
        config, start = self._started()
        self._manager = await get_async_callback_manager_for_config(config).on_chain_start(**start)
        return self

    async def __aexit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if error is None or isinstance(error, GeneratorExit):
            await self._manager.on_chain_end(self.output)
        else:
            await self._manager.on_chain_error(error)

    def _started(self) -> tuple[RunnableConfig, dict[str, Any]]:
        """The whole config, and how its run starts."""
        self.config = config = ensure_config(self.config)
        return config, {
            "serialized": None,
            "inputs": self.input,
            "name": config.get("run_name") or self._runnable.get_name(),
            "run_id": config.get("run_id"),
        }

    def attempt(
        self, model: Any, model_name: str, *, is_hedge: bool = False
    ) -> tuple[Any, RunnableConfig]:
        """The next attempt's model and config, where there is one; in a trace it is a child run.

        Args:
            model: The deployment's model.
            model_name: The deployment's name.
            is_hedge: Whether another attempt is under way beside it.

        Returns:
            What to call, with `invoke`, `ainvoke`, `stream` and `astream`, and the config to call
            it with: one of its own, which it may edit.
        """
        if self._manager is None:
            return model, self._copied_config()
        return _Enclosed(model), self._child_config(model_name, is_hedge=is_hedge)

    def _child_config(self, model_name: str, *, is_hedge: bool) -> RunnableConfig:
        """The config for a child run."""
        config = self._copied_config()
        self._attempts += 1
        # In the config and not in get_child(): only there they reach runs below a retry.
        tags = [DEPLOYMENT_TAG + model_name]
        if self._attempts > 1:
            tags.append(f"{ATTEMPT_TAG}{self._attempts}")
        if is_hedge:
            tags.append(HEDGE_TAG)
        config["tags"] = [*(config.get("tags") or ()), *tags]
        metadata = config.setdefault("metadata", {})
        if outer := metadata.get(DEPLOYMENT_METADATA):
            model_name = f"{outer}/{model_name}"  # a gateway within a gateway
        metadata[DEPLOYMENT_METADATA] = model_name
        return config

    def report_failure(self, failures: Sequence[FailedAttempt]) -> None:
        """Send the handlers of custom events one about the attempt that failed last."""
        if self._manager is not None:
            dispatch_custom_event(FALLBACK_EVENT, _event(failures), config=self._copied_config())

    async def areport_failure(self, failures: Sequence[FailedAttempt]) -> None:
        """`report_failure`, async."""
        if self._manager is not None:
            config = self._copied_config()
            await adispatch_custom_event(FALLBACK_EVENT, _event(failures), config=config)

    def _copied_config(self) -> RunnableConfig:
        """A copy of the config: a model must not edit the next one's."""
        own: Any = {
            key: value.copy() if isinstance(value, (list, dict)) else value
            for key, value in (self.config or {}).items()
            if key not in _OF_ONE_RUN
        }
        if self._manager is not None:
            own["callbacks"] = self._manager.get_child()
        return own  # type: ignore[no-any-return]

    def recorded(self, chunks: Generator[Any, None, None]) -> Generator[Any, None, None]:
        """Pass chunks through, showing them to the handlers; the run ends with them."""
        received: list[Any] = []
        with self:
            try:
                with closing(chunks):
                    for chunk in self._tapped(chunks, "tap_output_iter"):
                        received.append(chunk)
                        yield chunk
            finally:
                self.output = merged(received)

    async def arecorded(self, chunks: AsyncGenerator[Any, None]) -> AsyncGenerator[Any, None]:
        """`recorded`, async."""
        received: list[Any] = []
        async with self:
            try:
                async with aclosing(chunks):
                    async for chunk in self._tapped(chunks, "tap_output_aiter"):
                        received.append(chunk)
                        yield chunk
            finally:
                self.output = merged(received)

    def _tapped(self, chunks: Any, method: str) -> Any:
        return tapped(chunks, self._manager.handlers, self._manager.run_id, method)


class _Enclosed:
    """A model whose every call runs with its own config as the enclosing run's.

    Inside a chain or an agent a `RunnableBinding` prefers the enclosing run's callbacks to those it
    is given. Its run would stand beside the gateway's, not below.
    """

    def __init__(self, model: Any) -> None:
        self._model = model

    def invoke(self, input: Any, config: RunnableConfig, **kwargs: Any) -> Any:
        with enclosed_by(config):
            return self._model.invoke(input, config, **kwargs)

    async def ainvoke(self, input: Any, config: RunnableConfig, **kwargs: Any) -> Any:
        with enclosed_by(config):
            return await self._model.ainvoke(input, config, **kwargs)

    # Only while a chunk is awaited: a generator shares its context with its reader.

    def stream(
        self, input: Any, config: RunnableConfig, **kwargs: Any
    ) -> Generator[Any, None, None]:
        with enclosed_by(config):
            chunks = iter(self._model.stream(input, config, **kwargs))
        try:
            while True:
                with enclosed_by(config):
                    chunk = next(chunks, _END)
                if chunk is _END:
                    return
                yield chunk
        finally:
            close(chunks)

    async def astream(
        self, input: Any, config: RunnableConfig, **kwargs: Any
    ) -> AsyncGenerator[Any, None]:
        with enclosed_by(config):
            chunks = aiter(self._model.astream(input, config, **kwargs))
        try:
            while True:
                with enclosed_by(config):
                    chunk = await anext(chunks, _END)
                if chunk is _END:
                    return
                yield chunk
        finally:
            await aclose(chunks)


def _completed(config: RunnableConfig | None, enclosing: RunnableConfig) -> RunnableConfig:
    """The caller's config, completed from the enclosing run's as `ensure_config` does it."""
    given = {key: value for key, value in (config or {}).items() if value is not None}
    return {**enclosing, **given}  # type: ignore[typeddict-item]


def _event(failures: Sequence[FailedAttempt]) -> dict[str, Any]:
    failure = failures[-1]
    return {
        "model_name": failure.model_name,
        "provider": failure.provider,
        "error": type(failure.exception).__name__,
        "attempt": len(failures),
    }


def merged(chunks: list[Any]) -> Any:
    """Chunks as one, or the last of them where they don't add up; `None` for none."""
    if not chunks:
        return None
    first, *rest = chunks
    if isinstance(first, AIMessageChunk) and all(isinstance(c, AIMessageChunk) for c in rest):
        return first + rest
    try:
        return reduce(add, chunks)
    except TypeError:
        return chunks[-1]
