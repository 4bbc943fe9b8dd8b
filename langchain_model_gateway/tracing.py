"""The gateway's run in a trace: one for the call, one child for each attempt.

Where nobody listens there is no run, and the same code has less to do.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import cache, reduce
from operator import add
from typing import Any, Final, cast

from langchain_core.callbacks import (
    AsyncCallbackManagerForChainRun,
    CallbackManagerForChainRun,
    adispatch_custom_event,
    dispatch_custom_event,
)
from langchain_core.globals import get_debug
from langchain_core.messages import AIMessageChunk
from langchain_core.runnables import Runnable, RunnableConfig, ensure_config, patch_config
from langchain_core.runnables.config import (
    get_async_callback_manager_for_config,
    get_callback_manager_for_config,
    var_child_runnable_config,
)
from langchain_core.tracers._streaming import _StreamingCallbackHandler
from langchain_core.utils.env import env_var_is_set

from langchain_model_gateway.errors import FailedAttempt

DEPLOYMENT_TAG: Final = "gateway:deployment:"
ATTEMPT_TAG: Final = "gateway:attempt:"
FALLBACK_EVENT: Final = "gateway_fallback"


class Run:
    """A call's run, or the absence of one.

    Attributes:
        output: What the run is reported to have given, for whoever listens.
    """

    __slots__ = ("_attempts", "_config", "_manager", "output")

    def __init__(
        self,
        config: RunnableConfig | None,
        manager: CallbackManagerForChainRun | AsyncCallbackManagerForChainRun | None = None,
    ) -> None:
        self._config = config
        self._manager = manager
        self._attempts = 0
        self.output: Any = None

    def child(self, model_name: str) -> RunnableConfig | None:
        """The config for the next attempt: the caller's own, with a child run where one is kept."""
        self._attempts += 1
        if self._manager is not None:
            config = patch_config(self._config, callbacks=self._manager.get_child())
            # In the config and not in get_child(): only there they reach runs below a retry.
            config["tags"] = [*(config.get("tags") or ()), DEPLOYMENT_TAG + model_name]
            if self._attempts > 1:
                config["tags"].append(f"{ATTEMPT_TAG}{self._attempts}")
            return config
        if self._config is None:
            return None
        # A model must not edit the next one's config, and a run's id and name belong to one run.
        own = {
            key: value.copy() if isinstance(value, (list, dict)) else value
            for key, value in self._config.items()
            if key not in {"run_id", "run_name"}
        }
        return cast("RunnableConfig", own)

    def fell_over(self, failures: Sequence[FailedAttempt]) -> None:
        """Tell those who listen to events that an attempt failed."""
        if self._manager is not None:
            config = patch_config(self._config, callbacks=self._manager.get_child())
            dispatch_custom_event(FALLBACK_EVENT, _event(failures), config=config)

    async def afell_over(self, failures: Sequence[FailedAttempt]) -> None:
        """Tell those who listen to events that an attempt failed."""
        if self._manager is not None:
            config = patch_config(self._config, callbacks=self._manager.get_child())
            await adispatch_custom_event(FALLBACK_EVENT, _event(failures), config=config)

    def tap(self, chunks: Iterator[Any]) -> Iterator[Any]:
        """Pass chunks through, letting those who listen see them."""
        if self._manager is None:
            return chunks
        return self._recorded(self._tapped(chunks, "tap_output_iter"))

    def atap(self, chunks: AsyncGenerator[Any, None]) -> AsyncGenerator[Any, None]:
        """Pass chunks through, letting those who listen see them."""
        if self._manager is None:
            return chunks
        return self._arecorded(self._tapped(chunks, "tap_output_aiter"))

    def _tapped(self, chunks: Any, method: str) -> Any:
        assert self._manager is not None  # noqa: S101
        for handler in self._manager.handlers:
            if isinstance(handler, _StreamingCallbackHandler):
                return getattr(handler, method)(self._manager.run_id, chunks)
        return chunks

    def _recorded(self, chunks: Iterator[Any]) -> Iterator[Any]:
        seen: list[Any] = []
        try:
            for chunk in chunks:
                seen.append(chunk)
                yield chunk
        finally:
            self.output = merged(seen)

    async def _arecorded(self, chunks: AsyncIterator[Any]) -> AsyncGenerator[Any, None]:
        seen: list[Any] = []
        try:
            async for chunk in chunks:
                seen.append(chunk)
                yield chunk
        finally:
            self.output = merged(seen)


@contextmanager
def traced(
    runnable: Runnable[Any, Any], value: Any, config: RunnableConfig | None
) -> Iterator[Run]:
    """Keep a run for the time of a call, if anybody listens.

    Args:
        runnable: Whose call it is; the run has its name, unless the config has one.
        value: The call's input.
        config: The call's config.
    """
    if not _somebody_listens(config):
        yield Run(config)
        return
    config, run_id = _own_config(config)
    manager = get_callback_manager_for_config(config).on_chain_start(
        None, value, name=config.get("run_name") or runnable.get_name(), run_id=run_id
    )
    run = Run(config, manager)
    try:
        yield run
    except GeneratorExit:  # the reader of a stream has had enough
        manager.on_chain_end(run.output)
        raise
    except BaseException as error:
        manager.on_chain_error(error)
        raise
    manager.on_chain_end(run.output)


@asynccontextmanager
async def atraced(
    runnable: Runnable[Any, Any], value: Any, config: RunnableConfig | None
) -> AsyncIterator[Run]:
    """`traced`, for async handlers."""
    if not _somebody_listens(config):
        yield Run(config)
        return
    config, run_id = _own_config(config)
    manager = await get_async_callback_manager_for_config(config).on_chain_start(
        None, value, name=config.get("run_name") or runnable.get_name(), run_id=run_id
    )
    run = Run(config, manager)
    try:
        yield run
    except GeneratorExit:
        await manager.on_chain_end(run.output)
        raise
    except BaseException as error:
        await manager.on_chain_error(error)
        raise
    await manager.on_chain_end(run.output)


def effective(config: RunnableConfig | None, key: str) -> Any:
    """A config's value, or the one inherited from the run around, as `ensure_config` has it."""
    for each in (config, var_child_runnable_config.get()):
        if each is not None and (value := each.get(key)) is not None:
            return value
    return None


def _event(failures: Sequence[FailedAttempt]) -> dict[str, Any]:
    failure = failures[-1]
    return {
        "model_name": failure.model_name,
        "provider": failure.provider,
        "error": type(failure.exception).__name__,
        "attempt": len(failures),
    }


def _own_config(config: RunnableConfig | None) -> tuple[RunnableConfig, Any]:
    own = ensure_config(config)
    return own, own.pop("run_id", None)


def _somebody_listens(config: RunnableConfig | None) -> bool:
    """Whether a callback manager for this config would have any handler, without making one."""
    callbacks = effective(config, "callbacks")
    if callbacks is not None and getattr(callbacks, "handlers", callbacks):
        return True
    tracing_is_on, hooks = _tracing()
    if tracing_is_on() or get_debug():
        return True
    for var, _, handler_class, env_var in hooks:
        if var.get() is not None or (handler_class and env_var and env_var_is_set(env_var)):
            return True
    return False


@cache
def _tracing() -> tuple[Any, Any]:
    # Imported with the first call, as LangChain does: it is a large part of what tracing costs.
    from langchain_core.tracers.context import (  # noqa: PLC0415
        _configure_hooks,
        _tracing_v2_is_enabled,
    )

    return _tracing_v2_is_enabled, _configure_hooks


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
