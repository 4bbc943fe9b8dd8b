"""The gateway's run in a trace: one for the call, one child for each attempt.

Where nobody listens there is no run, and the same code has less to do.
"""

from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import aclosing, closing
from functools import cache, reduce
from operator import add
from typing import Any, Final, Self

from langchain_core.callbacks import (
    adispatch_custom_event,
    dispatch_custom_event,
)
from langchain_core.globals import get_debug
from langchain_core.messages import AIMessageChunk
from langchain_core.runnables import Runnable, RunnableConfig, ensure_config
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

_OF_ONE_RUN: Final = frozenset({"run_id", "run_name"})


class Run:
    """The run of one call. Where nobody listens it is never entered, and hands on the config only.

    Args:
        runnable: Whose call it is; the run has its name, unless the config has one.
        value: The call's input.
        config: The call's config.

    Attributes:
        value: The call's input.
        config: The config with what it leaves out from the run around; `None` if there is neither.
        is_heard: Whether somebody listens, so that it has to be entered (sync or async).
        output: What the run is reported to have given.
    """

    output: Any = None

    _manager: Any = None
    """LangChain's manager of this run, of the sync or the async kind."""
    _attempts = 0

    def __init__(
        self, runnable: Runnable[Any, Any], value: Any, config: RunnableConfig | None
    ) -> None:
        self._runnable = runnable
        self.value = value
        if (around := var_child_runnable_config.get()) is not None:
            config = _inherited(around, config)
        self.config = config
        self.is_heard = _somebody_listens(config)

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
            "inputs": self.value,
            "name": config.get("run_name") or self._runnable.get_name(),
            "run_id": config.get("run_id"),
        }

    def child(self, model_name: str) -> RunnableConfig | None:
        """The config for the next attempt: the caller's own, with a child run where one is kept."""
        if self.config is None:
            return None
        config = self._handed_on()
        if self._manager is not None:
            self._attempts += 1
            # In the config and not in get_child(): only there they reach runs below a retry.
            tags = [DEPLOYMENT_TAG + model_name]
            if self._attempts > 1:
                tags.append(f"{ATTEMPT_TAG}{self._attempts}")
            config["tags"] = [*(config.get("tags") or ()), *tags]
        return config

    def fell_over(self, failures: Sequence[FailedAttempt]) -> None:
        """Tell those who listen to events that an attempt failed."""
        if self._manager is not None:
            dispatch_custom_event(FALLBACK_EVENT, _event(failures), config=self._handed_on())

    async def afell_over(self, failures: Sequence[FailedAttempt]) -> None:
        """Tell those who listen to events that an attempt failed."""
        if self._manager is not None:
            await adispatch_custom_event(FALLBACK_EVENT, _event(failures), config=self._handed_on())

    def _handed_on(self) -> RunnableConfig:
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
        """Pass chunks through, letting those who listen see them, and the run end with them."""
        seen: list[Any] = []
        with self:
            try:
                with closing(chunks):
                    for chunk in self._tapped(chunks, "tap_output_iter"):
                        seen.append(chunk)
                        yield chunk
            finally:
                self.output = merged(seen)

    async def arecorded(self, chunks: AsyncGenerator[Any, None]) -> AsyncGenerator[Any, None]:
        """`recorded`, async."""
        seen: list[Any] = []
        async with self:
            try:
                async with aclosing(chunks):
                    async for chunk in self._tapped(chunks, "tap_output_aiter"):
                        seen.append(chunk)
                        yield chunk
            finally:
                self.output = merged(seen)

    def _tapped(self, chunks: Any, method: str) -> Any:
        for handler in self._manager.handlers:
            if isinstance(handler, _StreamingCallbackHandler):
                return getattr(handler, method)(self._manager.run_id, chunks)
        return chunks


def _inherited(around: RunnableConfig, config: RunnableConfig | None) -> RunnableConfig:
    """A config with what it leaves out from the run around it, as `ensure_config` has it."""
    given = {key: value for key, value in (config or {}).items() if value is not None}
    return {**around, **given}  # type: ignore[typeddict-item]


def _event(failures: Sequence[FailedAttempt]) -> dict[str, Any]:
    failure = failures[-1]
    return {
        "model_name": failure.model_name,
        "provider": failure.provider,
        "error": type(failure.exception).__name__,
        "attempt": len(failures),
    }


def _somebody_listens(config: RunnableConfig | None) -> bool:
    """Whether a callback manager for this config would have any handler, without making one."""
    callbacks: Any = None if config is None else config.get("callbacks")
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
