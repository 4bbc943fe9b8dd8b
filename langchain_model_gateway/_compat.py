"""LangChain's insides: every private or undocumented name that the package uses.

A later langchain-core may lose any of them. Then only what needs the name is switched off, with one
warning; importing the package and a plain call go on. What protects fails closed: without
LangChain's own validator no payload is loaded.
"""

import asyncio
import inspect
import warnings
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import cache
from importlib import import_module
from operator import attrgetter
from types import FunctionType
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from langchain_core.callbacks import CallbackManager
from langchain_core.globals import get_debug
from langchain_core.language_models import BaseLanguageModel
from langchain_core.load import load
from langchain_core.runnables import RunnableConfig, ensure_config
from langchain_core.utils.env import env_var_is_set

from langchain_model_gateway._logger import logger

if TYPE_CHECKING:
    from contextvars import ContextVar

    from langchain_core.language_models.chat_model_stream import AsyncChatModelStream


@cache
def _find(path: str, loss: str) -> Any:
    """What stands at `module:name`; if nothing does, `None` and one warning that tells the loss."""
    module, name = path.split(":")
    try:
        return attrgetter(name)(import_module(module))
    except (ImportError, AttributeError):
        logger.warning("the installed langchain-core has no %s, so %s", path, loss)
        return None


# --- the enclosing run ---------------------------------------------------------------------------

# Looked up at import: every call reads it.
_enclosing: "ContextVar[RunnableConfig | None] | None" = _find(
    "langchain_core.runnables.config:var_child_runnable_config",
    "inside a chain or an agent a trace may show attempts beside the gateway's run",
)

enclosing_config: Final[Callable[[], RunnableConfig | None]] = (
    ensure_config if _enclosing is None else _enclosing.get
)
"""The config of the enclosing run, or `None` if there is none."""


@contextmanager
def enclosed_by(config: RunnableConfig) -> Iterator[None]:
    """Make `config` the enclosing run's, for what is called within.

    Never across a `yield` to a caller, who would see it too.
    """
    if _enclosing is None:
        yield
        return
    token = _enclosing.set(config)
    try:
        yield
    finally:
        # A coroutine that a closed event loop left behind is ended in another context.
        with suppress(ValueError):
            _enclosing.reset(token)


# --- handlers ------------------------------------------------------------------------------------


def _is_langchains(function: object) -> bool:
    # A wrapper may claim the wrapped function's attributes, but not its type.
    if type(function) is not FunctionType:
        return False
    return str(function.__globals__["__name__"]).startswith("langchain_core.")


_plain_init: Final = CallbackManager.__init__ if _is_langchains(CallbackManager.__init__) else None


def has_listeners(callbacks: Any) -> bool:
    """Whether a callback manager for these callbacks would have any handler.

    It is as `bool(CallbackManager.configure(callbacks).handlers)`, in a tenth of the time.
    """
    if callbacks is not None and getattr(callbacks, "handlers", callbacks):
        return True
    # Some tracers wrap the constructor to put their handler into every manager.
    if CallbackManager.__init__ is not _plain_init and CallbackManager(handlers=[]).handlers:
        return True
    if (ambient := _ambient_handlers()) is None:
        return bool(CallbackManager.configure(callbacks).handlers)
    tracing_is_on, hooks = ambient
    if tracing_is_on() or get_debug():
        return True
    for var, _, handler_class, env_var in hooks:
        if var.get() is not None or (handler_class and env_var and env_var_is_set(env_var)):
            return True
    return False


class _Ambient(NamedTuple):
    tracing_is_on: Callable[[], Any]
    hooks: list[tuple[Any, bool, Any, str | None]]


@cache
def _ambient_handlers() -> _Ambient | None:
    # Imported with the first call, as LangChain does: it is a large part of what tracing costs.
    slow = "each call takes some 10 microseconds longer"
    tracing_is_on = _find("langchain_core.tracers.context:_tracing_v2_is_enabled", slow)
    hooks = _find("langchain_core.tracers.context:_configure_hooks", slow)
    return None if None in (tracing_is_on, hooks) else _Ambient(tracing_is_on, hooks)


def tapped(chunks: Any, handlers: list[Any], run_id: Any, method: str) -> Any:
    """A run's chunks, shown to the handler of `astream_events` or `astream_log` if there is one.

    Args:
        chunks: The iterator of chunks, sync or async.
        handlers: The handlers of the run.
        run_id: The run.
        method: The handler's `tap_output_iter` or `tap_output_aiter`.
    """
    kind = _find(
        "langchain_core.tracers._streaming:_StreamingCallbackHandler",
        "astream_events and astream_log do not show the chunks of a gateway inside a chain",
    )
    for handler in handlers:
        if kind is not None and isinstance(handler, kind):
            return getattr(handler, method)(run_id, chunks)
    return chunks


def shows_events(handler: object) -> bool:
    """Whether a handler shows the events of `stream_events(version="v3")`, as LangGraph's does."""
    kind = _find(
        "langchain_core.tracers._streaming:_V2StreamingCallbackHandler",
        "a graph's stream_events(version='v3') does not show those of a gateway's chat model",
    )
    return kind is not None and isinstance(handler, kind)


# --- models --------------------------------------------------------------------------------------


def langsmith_params(model: object, **kwargs: Any) -> dict[str, Any]:
    """What LangChain's traces say of a model, such as `ls_provider`; `{}` if it does not tell."""
    tell = getattr(model, "_get_ls_params", None)
    return dict(tell(**kwargs)) if callable(tell) else {}


def provider_name(model: BaseLanguageModel[Any]) -> str | None:
    """Who serves a model, such as "openai", as LangChain's traces name it; `None`: unknown."""
    return langsmith_params(model).get("ls_provider")


def model_id(model: BaseLanguageModel[Any]) -> str | None:
    """What a model's provider calls it, such as "gpt-4o-mini"; `None`: unknown."""
    return langsmith_params(model).get("ls_model_name")


class TypedEvents(NamedTuple):
    """What a chat model's `stream_events(version="v3")` is made of."""

    chat_model_stream: Any
    async_chat_model_stream: Any
    chunks_to_events: Any
    achunks_to_events: Any


def typed_events() -> TypedEvents:
    """The parts of `stream_events(version="v3")`.

    Raises:
        NotImplementedError: If the installed langchain-core lacks one.
    """
    loss = "stream_events(version='v3') of a gateway's chat model does not work"
    parts = [
        _find(f"langchain_core.language_models.{path}", loss)
        for path in (
            "chat_model_stream:ChatModelStream",
            "chat_model_stream:AsyncChatModelStream",
            "_compat_bridge:chunks_to_events",
            "_compat_bridge:achunks_to_events",
        )
    ]
    if None in parts:
        raise NotImplementedError(
            "stream_events(version='v3') does not work with the installed langchain-core; "
            "use version='v2' or another langchain-core"
        )
    return TypedEvents(*parts)


def start_producer(
    stream: "AsyncChatModelStream", produce: Callable[[], Coroutine[Any, Any, None]]
) -> None:
    """Start the task that fills a stream, once, where the stream's own `aclose` finds it."""
    if getattr(stream, "_producer_task", None) is None:
        stream._producer_task = asyncio.create_task(produce())  # noqa: SLF001


# --- loading -------------------------------------------------------------------------------------


def default_init_validator(path: tuple[str, ...], kwargs: dict[str, Any]) -> None:
    """LangChain's own check of what a payload constructs: the default of its `load`.

    Raises:
        ValueError: If it refuses, or the installed langchain-core has no such check.
    """
    parameter = inspect.signature(load).parameters.get("init_validator")
    if parameter is None or not callable(parameter.default):
        raise ValueError(
            "nothing is loaded: the installed langchain-core has no validator of its own for "
            "payloads (the default of load's init_validator); use another langchain-core"
        )
    parameter.default(path, kwargs)


def suppress_beta_warning() -> AbstractContextManager[None]:
    """Keep LangChain's `load` from saying that it is in beta."""
    quiet = _find(
        "langchain_core._api:suppress_langchain_beta_warning",
        "loading a gateway changes the process's warning filters for a moment",
    )
    return _without_warning() if quiet is None else quiet()


@contextmanager
def _without_warning() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*`load` is in beta")
        yield
