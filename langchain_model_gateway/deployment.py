"""One named model and its limits."""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from functools import cached_property
from typing import Any, Literal, Self

from langchain_core.language_models import BaseChatModel, BaseLanguageModel
from langchain_core.load import dumpd
from langchain_core.runnables import (
    Runnable,
    RunnableConfig,
    RunnableSequence,
    RunnableWithFallbacks,
)
from langchain_core.runnables.base import RunnableBindingBase
from pydantic import (
    BaseModel,
    ConfigDict,
    SkipValidation,
    ValidationError,
    field_validator,
)
from typing_extensions import override

from langchain_model_gateway._compat import provider_name
from langchain_model_gateway._text import one_line
from langchain_model_gateway.errors import SkippedModel
from langchain_model_gateway.history import Client, client_of
from langchain_model_gateway.policies import Seconds
from langchain_model_gateway.schedule import Timetable, TimeWindow, restricted_until, timetables


class ModelDeployment(BaseModel):
    """A chat model under a name, with the limits of its use.

    Args:
        model_name: What the gateway, its logs and its answers call it; unique in a gateway.
        model: Any `Runnable` that takes what a chat model takes and returns a message: a chat
            model, a bound one, a chain that ends in one, another gateway.
        time_constraints: The windows in which it is not used, as `TimeWindow`s or `(start, end)`
            pairs of "HH:MM" strings in UTC. `None` or `[]`: never restricted.
        timeout: Seconds one attempt may take; in a stream, until the first real chunk.
        stall_timeout: Seconds that may pass between two chunks of a stream.

    Raises:
        ValidationError: If a value is malformed or a key unknown.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", hide_input_in_errors=True, arbitrary_types_allowed=True
    )

    model_name: str
    model: SkipValidation[Runnable[Any, Any]]
    time_constraints: tuple[TimeWindow, ...] = ()
    timeout: Seconds | None = None
    stall_timeout: Seconds | None = None

    # Cached in the instance's __dict__: pydantic's private attributes take microseconds to read.
    @cached_property
    def _timetables(self) -> tuple[Timetable, ...]:
        return timetables(self.time_constraints)

    @cached_property
    def _core(self) -> Runnable[Any, Any]:
        core = innermost(self.model)
        return core if _answers_questions(core) else ConfigurableModel(core)

    @cached_property
    def _client(self) -> Client | None:
        return client_of(self._core, self._provider)

    @cached_property
    def _provider(self) -> str:
        if isinstance(self._core, BaseChatModel):
            with suppress(Exception):  # a stranger's code; a name is not worth a fallback
                return str(provider_name(self._core) or self.model_class)
        return self.model_class

    @field_validator("model_name", mode="before")
    @classmethod
    def _check_name(cls, value: object) -> str:
        if not isinstance(value, str):
            raise ValueError(f"a name is a string, got {type(value).__name__}")
        if not value.strip():
            raise ValueError(f"a name is not empty, got {value!r}")
        return value

    @field_validator("model", mode="before")
    @classmethod
    def _check_model(cls, value: object) -> Runnable[Any, Any]:
        if not isinstance(value, Runnable):
            raise ValueError(
                f"a model is a LangChain Runnable such as a chat model, got {type(value).__name__}"
            )
        return value

    @field_validator("time_constraints", mode="before")
    @classmethod
    def _check_windows(cls, value: object) -> object:
        if value is None:
            return ()
        if isinstance(value, (str, Mapping)) or not isinstance(value, Sequence):
            raise ValueError(
                "time_constraints is a list of windows such as [('22:00', '06:00')], "
                f"got {type(value).__name__}"
            )
        return tuple(value)

    @override
    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A copy with some fields changed; as with any pydantic model, `update` is trusted."""
        copied = super().model_copy(update=update, deep=deep)
        for cached in ("_timetables", "_core", "_client", "_provider"):
            copied.__dict__.pop(cached, None)
        return copied

    @classmethod
    def from_entry(cls, position: int, entry: object) -> Self:
        """Take one entry of a gateway's `models`.

        Raises:
            ValueError: If it is malformed; says where, which and why.
        """
        if isinstance(entry, cls):
            return entry
        if not isinstance(entry, Mapping):
            raise ValueError(
                f"models[{position}] is a ModelDeployment or a dict with the keys 'model_name' "
                f"and 'model', got {type(entry).__name__}"
            )
        name = entry.get("model_name")
        where = f"models[{position}]" + (
            f" ({one_line(name, 60)!r})" if isinstance(name, str) else ""
        )
        try:
            return cls.model_validate(dict(entry))
        except ValidationError as error:
            raise ValueError(f"{where}: {_complaints(error)}") from None

    def restriction(self, now: datetime) -> SkippedModel | None:
        """Why this deployment may not be used at `now`, or `None` if it may."""
        for timetable in self._timetables:
            if timetable.restricts(now):
                break
        else:
            return None
        windows = ", ".join(map(str, self.time_constraints[:3]))
        more = len(self.time_constraints) - 3
        reason = f"restricted {windows}" + (f" and {more} more windows" if more > 0 else "")
        return SkippedModel(self.model_name, reason, restricted_until(self._timetables, now))

    def adapted(self, method: str, /, *args: Any, **kwargs: Any) -> Self:
        """This deployment with its model's `bind_tools` or `with_structured_output` applied.

        Raises:
            NotImplementedError: If the model cannot do that.
        """
        try:
            model = _adapt(self.model, method, args, kwargs)
        except (NotImplementedError, AttributeError) as error:
            raise NotImplementedError(
                f"deployment {one_line(self.model_name, 60)!r} cannot {method}: "
                f"{self.model_class} does not support it"
            ) from error
        adapted = self.model_copy(update={"model": model})
        # What a structured output puts around a model hides it.
        adapted.__dict__["_core"] = self._core
        return adapted

    @property
    def provider(self) -> str:
        """Who serves the model, such as "openai", as traces name it."""
        return self._provider

    @property
    def client(self) -> Client | None:
        """What kind of client asks the model; `None` where that is another gateway's matter."""
        return self._client

    @property
    def core(self) -> Runnable[Any, Any]:
        """The model itself, without the bindings, parsers and prompts around it."""
        return self._core

    @property
    def model_class(self) -> str:
        """The class of the model itself."""
        return type(self._core).__name__

    @property
    def kind(self) -> Literal["chat", "llm"] | None:
        """Whether it answers with messages or plain text; `None` where that cannot be told."""
        last = self.model.last if isinstance(self.model, RunnableSequence) else self.model
        match innermost(last):
            case BaseChatModel():
                return "chat"
            case BaseLanguageModel():
                return "llm"
            case _:
                return None

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ModelDeployment):
            return NotImplemented
        mine, theirs = dict(self), dict(other)
        return _same_model(mine.pop("model"), theirs.pop("model")) and mine == theirs

    __hash__ = None  # type: ignore[assignment]

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        # A client holds connections and locks: a copy of the deployment shares it.
        return self.model_copy()

    def __repr_args__(self) -> list[tuple[str | None, Any]]:
        windows = [str(window) for window in self.time_constraints]
        shown = {"model_name": self.model_name, "model": _Bare(self.model_class)}
        return [*shown.items(), *([("time_constraints", windows)] if windows else [])]


class _Bare(str):
    """A string whose repr has no quotes: a class name in another's repr."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


class ConfigurableModel(Runnable[Any, Any]):
    """Stands for a model that the call's config chooses: before, nothing can be asked of it."""

    def __init__(self, model: Runnable[Any, Any]) -> None:
        self.model = model

    @override
    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        return self.model.invoke(input, config, **kwargs)


def _answers_questions(runnable: Runnable[Any, Any]) -> bool:
    """Whether attributes can be read: `init_chat_model` without a default raises at each."""
    try:
        getattr(runnable, "name", None)
    except Exception:  # noqa: BLE001 - whatever making the model raises
        return False
    return True


def innermost(runnable: Runnable[Any, Any]) -> Runnable[Any, Any]:
    """The model inside a binding, a chain or a fallback; of several, the last."""
    match runnable:
        case RunnableBindingBase():
            return innermost(runnable.bound)
        case RunnableWithFallbacks():
            return innermost(runnable.runnable)
        case RunnableSequence():
            within = [innermost(step) for step in runnable.steps]
            models = [each for each in within if isinstance(each, BaseLanguageModel)]
            return (models or within)[-1]
        case _:
            return runnable


def _adapt(
    runnable: Runnable[Any, Any], method: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Runnable[Any, Any]:
    """Apply a chat model's method where the chat model is, keeping what is around it.

    LangChain's own bindings forward it and lose their keywords, or don't forward it at all.
    """
    match runnable:
        case RunnableBindingBase():
            bound = _adapt(runnable.bound, method, args, kwargs)
            return runnable.model_copy(update={"bound": bound})
        case RunnableSequence():
            *before, last = runnable.steps
            return RunnableSequence(*before, _adapt(last, method, args, kwargs))
        case RunnableWithFallbacks():
            adapted = [_adapt(each, method, args, kwargs) for each in runnable.runnables]
            return runnable.model_copy(update={"runnable": adapted[0], "fallbacks": adapted[1:]})
        case _:
            model: Runnable[Any, Any] = getattr(runnable, method)(*args, **kwargs)
            return model


def _same_model(one: Runnable[Any, Any], other: Runnable[Any, Any]) -> bool:
    """Whether two models are configured alike; clients inside make equal ones compare unequal."""
    if one is other or one == other:
        return True
    try:
        dumped = dumpd(one)
        # A repr in place of a serialized form says nothing of what is inside.
        return dumped == dumpd(other) and '"not_implemented"' not in json.dumps(dumped)
    except ValueError:  # a gateway within that has no serialized form
        return False


def _complaints(error: ValidationError) -> str:
    """A validation error on one line: where in the entry, and what is wrong."""
    lines = []
    for detail in error.errors(include_url=False, include_context=False, include_input=False):
        first, *rest = detail["loc"] or ("",)
        path = str(first) + "".join(f"[{s}]" if isinstance(s, int) else f".{s}" for s in rest)
        match detail["type"]:
            case "missing":
                lines.append(f"the key {path!r} is missing")
            case "extra_forbidden":
                lines.append(f"the key {one_line(path, 60)!r} is unknown")
            case _:
                lines.append(f"{path}: {detail['msg'].removeprefix('Value error, ')}")
    return "; ".join(lines)
