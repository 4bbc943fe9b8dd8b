"""One named model and its limits."""

import json
from collections.abc import Callable, Container, Mapping, Sequence
from datetime import time, timedelta
from typing import Annotated, Any, Literal, NotRequired, Self, TypedDict

from langchain_core.language_models import BaseChatModel, BaseLanguageModel
from langchain_core.load import dumpd
from langchain_core.runnables import Runnable, RunnableConfig, RunnableSequence
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SkipValidation,
    ValidationError,
    field_validator,
)
from typing_extensions import override

from langchain_model_gateway._arguments import (
    CLASS_NOT_INSTANCE,
    Seconds,
    is_unknown_key,
    unknown_key,
    written_out,
)
from langchain_model_gateway._compat import model_id, provider_name
from langchain_model_gateway._text import one_line, redact
from langchain_model_gateway.history import Client, client_of
from langchain_model_gateway.quoting import quote
from langchain_model_gateway.schedule import (
    TimeWindow,
    WindowDict,
)
from langchain_model_gateway.wrappers import Adaption, innermost

# Read by type checkers only: a pair may be a list, as JSON has it.
Window = TimeWindow | WindowDict | tuple[str | time, str | time] | list[str] | list[time]


class DeploymentDict(TypedDict):
    """A `ModelDeployment` as a dict with the same keys."""

    model_name: str
    model: Runnable[Any, Any] | str
    time_constraints: NotRequired[Sequence[Window] | None]
    timeout: NotRequired[float | timedelta | None]
    stall_timeout: NotRequired[float | timedelta | None]
    weight: NotRequired[float]
    tier: NotRequired[int]
    rpm: NotRequired[float | None]
    tpm: NotRequired[float | None]
    max_concurrency: NotRequired[int | None]


class ModelDeployment(BaseModel):
    """A chat model under a name, with the limits of its use.

    Args:
        model_name: What the gateway, its logs and its answers call it; unique in a gateway.
        model: Any `Runnable` that takes what a chat model takes and returns a message: a chat
            model, a bound one, a chain that ends in one, another gateway. A string such as
            "openai:gpt-4o-mini" is made one by `langchain`'s `init_chat_model`.
        time_constraints: The windows in which it is not used, as `TimeWindow`s or `(start, end)`
            pairs of "HH:MM" strings or `datetime.time`s in UTC. `None` or `[]`: never restricted.
        timeout: Seconds (or a `timedelta`) one attempt may take; in a stream, until the first real
            chunk.
        stall_timeout: Seconds (or a `timedelta`) that may pass between two chunks of a stream.
        weight: Its share of the load among the deployments of its tier, relative to theirs.
        tier: Deployments of a lower tier are tried first.
        rpm: Requests a minute that it is asked, every attempt counted; where there is no room the
            call goes to another deployment.
        tpm: Tokens a minute, of input and output; estimated ahead, corrected by what was used.
        max_concurrency: The most attempts at once.

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
    weight: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    tier: int = 0
    rpm: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    tpm: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    max_concurrency: Annotated[int, Field(ge=1)] | None = None

    @written_out
    def __init__(
        self,
        *,
        model_name: str,
        model: Runnable[Any, Any] | str,
        time_constraints: Sequence[Window] | None = None,
        timeout: float | timedelta | None = None,
        stall_timeout: float | timedelta | None = None,
        weight: float = 1.0,
        tier: int = 0,
        rpm: float | None = None,
        tpm: float | None = None,
        max_concurrency: int | None = None,
    ) -> None: ...

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
        if isinstance(value, str) and value.strip():
            return _model_from_string(value)
        if isinstance(value, type):
            raise ValueError(f"got {CLASS_NOT_INSTANCE}: {one_line(value.__name__, 60)}()")
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
                f"and 'model', got {_kind(entry)}"
            )
        name = entry.get("model_name")
        where = f"models[{position}]" + (
            f" ({one_line(name, 60)!r})" if isinstance(name, str) else ""
        )
        try:
            return cls.model_validate(dict(entry))
        except ValidationError as error:
            raise ValueError(f"{where}: {_complaints(cls, error)}") from None

    def by_path(self) -> dict[str, "ModelDeployment"]:
        """This deployment under its name, and those of a gateway inside it as "outer/inner"."""
        found = [pair for each in self.inner_deployments for pair in each.by_path().items()]
        return {self.model_name: self} | {f"{self.model_name}/{path}": d for path, d in found}

    def asked_for(self, path: str) -> Self:
        """This deployment in a call that prefers `path`.

        A gateway inside prefers its own part of the path, if there is one; it never takes the outer
        one's preference from the config for its own.
        """
        if not self.inner_deployments:
            return self
        inner = path.removeprefix(f"{self.model_name}/") if path in self.by_path() else path
        return self.adapted("bind", model_preference="" if inner == path else inner)

    def adapted(self, method: str, /, *args: Any, **kwargs: Any) -> Self:
        """This deployment with its model's `bind_tools` or `with_structured_output` applied.

        Raises:
            NotImplementedError: If the model cannot do that.
        """
        try:
            model = Adaption(self.model_name, method, args, kwargs).of(self.model, {})
        except (NotImplementedError, AttributeError) as error:
            raise NotImplementedError(
                f"deployment {one_line(self.model_name, 60)!r} cannot {method}: "
                f"{self.model_class} does not support it"
            ) from error
        return self.model_copy(update={"model": model})

    # Worked out when asked: a call uses what its gateway has compiled of these, once.

    @property
    def inner_model(self) -> Runnable[Any, Any]:
        """The model itself, without the bindings, parsers and prompts around it."""
        model = innermost(self.model)
        return model if _answers_questions(model) else ConfigurableModel(model)

    @property
    def provider(self) -> str:
        """Who serves the model, such as "openai", as traces name it."""
        return _told(provider_name, self.inner_model) or self.model_class

    @property
    def model_id(self) -> str | None:
        """What the provider calls the model, such as "gpt-4o-mini"; `None` if it does not tell."""
        return _told(model_id, self.inner_model)

    @property
    def client(self) -> Client | None:
        """What kind of client asks the model; `None` where that is another gateway's matter."""
        return client_of(self.inner_model, self.provider)

    @property
    def inner_deployments(self) -> tuple["ModelDeployment", ...]:
        """Those of the gateway that it is; `()` where it is none."""
        # Only a gateway is a container of names; it cannot be imported here.
        model = self.inner_model
        return getattr(model, "models", ()) if isinstance(model, Container) else ()

    @property
    def model_class(self) -> str:
        """The class of the model itself."""
        return type(self.inner_model).__name__

    @property
    def kind(self) -> Literal["chat", "llm"] | None:
        """Whether it answers with messages or plain text; `None` where that is unknown."""
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


def _told(tell: Callable[[BaseChatModel], str | None], model: Runnable[Any, Any]) -> str | None:
    """A name that a chat model tells; whatever goes wrong, it is not worth a call."""
    if not isinstance(model, BaseChatModel):
        return None
    try:
        name = tell(model)
    except Exception:  # noqa: BLE001 - any model's own code
        return None
    return one_line(name, 60) if isinstance(name, str) else None


def _model_from_string(text: str) -> Runnable[Any, Any]:
    """A chat model as `langchain` makes it of "openai:gpt-4o-mini".

    Raises:
        ValueError: If it cannot; says what to install, and never shows `text`, which could be
            a key.
    """
    try:
        from langchain.chat_models import init_chat_model  # noqa: PLC0415 - only for strings
    except ImportError:
        raise ValueError(
            "a model given as a string, such as 'openai:gpt-4o-mini', is made by langchain: "
            "pip install langchain"
        ) from None
    try:
        model: Runnable[Any, Any] = init_chat_model(text)
    except Exception as error:  # noqa: BLE001 - any provider's own code
        is_bare = isinstance(error, ValidationError)
        complaint = quote(error) if is_bare else redact(str(error).replace(text, "..."))
        raise ValueError(
            "langchain's init_chat_model makes no model of this string; it takes "
            f"'provider:model' such as 'openai:gpt-4o-mini': {one_line(complaint, 200)}"
        ) from None
    return model


def _kind(entry: object) -> str:
    """What came in place of a deployment."""
    if isinstance(entry, type):
        return f"{one_line(entry.__name__, 60)}, {CLASS_NOT_INSTANCE}"
    if isinstance(entry, Runnable):
        kind = type(entry).__name__
        return f'{kind} without a name; write {{"model_name": "...", "model": {kind}(...)}}'
    return type(entry).__name__


def _complaints(cls: type[BaseModel], error: ValidationError) -> str:
    """A validation error on one line: where in the entry, and what is wrong."""
    lines = []
    for detail in error.errors(include_url=False, include_context=False):
        first, *rest = detail["loc"] or ("",)
        path = str(first) + "".join(f"[{s}]" if isinstance(s, int) else f".{s}" for s in rest)
        if detail["type"] == "missing":
            lines.append(f"the key {path!r} is missing")
        elif is_unknown_key(detail):
            lines.append(f"the key {unknown_key(cls, first)}")
        else:
            lines.append(f"{path}: {detail['msg'].removeprefix('Value error, ')}")
    return "; ".join(lines)
