"""`GatewayRunnable`: what a gateway is made of, shows of itself and turns into."""

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields
from datetime import datetime, timedelta
from functools import cached_property
from os import PathLike
from typing import TYPE_CHECKING, Annotated, Any, Self, TypeVar

from langchain_core.language_models import LanguageModelInput
from langchain_core.load import InitValidator, Serializable
from langchain_core.load.serializable import SerializedConstructor
from langchain_core.messages import AIMessage
from langchain_core.runnables import ConfigurableFieldSpec, Runnable, RunnableConfig
from langchain_core.runnables.utils import get_unique_config_specs
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, field_validator, model_validator
from typing_extensions import override

from langchain_model_gateway import config as configuration
from langchain_model_gateway import diagnosis, loading, serialization
from langchain_model_gateway._arguments import (
    CLASS_NOT_INSTANCE,
    AnySeconds,
    Seconds,
    shown,
    written_out,
)
from langchain_model_gateway._logger import logger
from langchain_model_gateway._text import one_line
from langchain_model_gateway.balance import Balance
from langchain_model_gateway.chat_model import ChatModelFace
from langchain_model_gateway.deployment import DeploymentDict, ModelDeployment
from langchain_model_gateway.diagnosis.findings import Finding
from langchain_model_gateway.drivers import FALLBACK, PREFERENCE
from langchain_model_gateway.events import EventFunction, check_function
from langchain_model_gateway.guards import Guards
from langchain_model_gateway.listeners import Listeners
from langchain_model_gateway.listeners.events import Events
from langchain_model_gateway.listeners.logs import Logs
from langchain_model_gateway.policies import (
    CooldownPolicy,
    HedgePolicy,
    RejectFunction,
    Rejection,
    RetryPolicy,
    check_rejection,
)
from langchain_model_gateway.routing import Routing, RoutingPlan
from langchain_model_gateway.sharing import SharedState
from langchain_model_gateway.state import Memory
from langchain_model_gateway.target import Rules
from langchain_model_gateway.timing import Clock, SystemClock
from langchain_model_gateway.views import ShownCalls
from langchain_model_gateway.watch import Watch

if TYPE_CHECKING:
    from langchain_core.utils.pydantic import TypeBaseModel

G = TypeVar("G", bound="GatewayRunnable")


class GatewayRunnable(ShownCalls):
    """Several named chat models as one `Runnable`.

    A call goes to the caller's preferred deployment first, then to the others in list order. Those
    inside their restricted hours are skipped, and where one fails the next is tried. The answer's
    first message or chunk says who gave it in `response_metadata["gateway"]`.

    Args:
        models: The deployments in the order to try them, as `ModelDeployment`s or dicts with the
            same keys.
        model_preference: The deployment to try first where the caller names none; one of a gateway
            inside another's deployment is "outer/inner", as in all names.
        model_fallback: Whether another deployment is tried when the first choice fails.
        strict_preference: Whether a preference that is no deployment's name is a `ValueError`;
            otherwise it is ignored with a warning.
        exceptions_to_handle: The exceptions on which the next deployment is tried. Cancellation,
            `KeyboardInterrupt` and LangGraph's interrupts are never among them.
        retry: Retry a deployment on retryable errors before going to the next.
        cooldown: Do not call deployments that keep failing for a while.
        timeout: Seconds (or a `timedelta`) for a whole call, over all attempts and waits.
        reject: Answers that count as failures: any of "empty", "content_filter", "length",
            "refusal", "error" and "truncated", and functions `AIMessage -> bool` (true: rejected;
            in a stream asked at its end). What such a function raises is raised to the caller.
        translate_history: Whether messages that another kind of client made, and cache marks that
            a client does not know, are translated for it.
        balance: How deployments of one tier share the load: "weighted" (in turn), "least_busy" or
            "fastest"; if left out, list order.
        affinity: The key of `config["configurable"]` whose value, such as a thread's id, goes to
            the same deployment as long as it can.
        max_wait: The most seconds (or a `timedelta`) to wait for room in the limits where all are
            limited (if left out, none is waited for), or for a place where all are full (if left
            out, as long as it takes).
        hedge: Ask another deployment too where the first takes long.
        state: What is shared with other processes, such as `RedisState`; this process's memory if
            left out. It is not serialized.
        on_event: Called with a `GatewayEvent` for each thing that happens in a call, in the thread
            or task that makes it. What it raises is logged once. Not serialized.
        name: What its runs are called in a trace.

    Raises:
        ValidationError: If an argument is malformed.

    Example:
        ```python
        gateway = GatewayRunnable(
            models=[
                {"model_name": "weak", "model": cheap, "time_constraints": [("22:00", "06:00")]},
                {"model_name": "strong", "model": good},
            ]
        )
        gateway.invoke("Hello", model_preference="strong")
        ```
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", hide_input_in_errors=True, arbitrary_types_allowed=True
    )

    models: tuple[ModelDeployment, ...]
    strict_preference: bool = False
    exceptions_to_handle: tuple[type[BaseException], ...] = (Exception,)

    retry: RetryPolicy | None = None
    cooldown: CooldownPolicy | None = None
    timeout: Seconds | None = None
    reject: frozenset[Rejection | RejectFunction] = frozenset()

    balance: Balance | None = None
    max_wait: Annotated[AnySeconds, Field(ge=0)] | None = None
    hedge: HedgePolicy | None = None
    state: SharedState | None = Field(default=None, exclude=True, repr=False)
    on_event: EventFunction | None = Field(default=None, exclude=True, repr=False)

    _memory: Memory = PrivateAttr(default_factory=Memory)
    _clock: Clock = PrivateAttr(default_factory=SystemClock)
    _guards: Guards = PrivateAttr(default_factory=Guards)
    _listeners: Listeners = PrivateAttr(default_factory=lambda: Listeners(Logs()))

    # --- construction ------------------------------------------------------------------------

    @written_out
    def __init__(
        self,
        models: Sequence[ModelDeployment | DeploymentDict],
        *,
        model_preference: str | None = None,
        model_fallback: bool = True,
        strict_preference: bool = False,
        exceptions_to_handle: Sequence[type[BaseException]] | type[BaseException] = (Exception,),
        retry: RetryPolicy | None = None,
        cooldown: CooldownPolicy | None = None,
        timeout: float | timedelta | None = None,
        reject: Collection[Rejection | RejectFunction] | Rejection | RejectFunction = (),
        translate_history: bool = True,
        balance: Balance | None = None,
        affinity: str | None = None,
        max_wait: float | timedelta | None = None,
        hedge: HedgePolicy | None = None,
        state: SharedState | None = None,
        on_event: EventFunction | None = None,
        name: str | None = None,
    ) -> None: ...

    @field_validator("models", mode="before")
    @classmethod
    def _check_models(cls, value: object) -> tuple[ModelDeployment, ...]:
        # A tuple is how a gateway keeps its own deployments, and what a copy hands in.
        is_own = isinstance(value, tuple) and all(isinstance(e, ModelDeployment) for e in value)
        if not (isinstance(value, list) or is_own):
            raise ValueError(f"models is a list of deployments, got {_kind(value)}")
        entries: list[object] = list(value)  # type: ignore[call-overload]
        models = tuple(ModelDeployment.from_entry(i, entry) for i, entry in enumerate(entries))
        if not models:
            raise ValueError("models has no deployment; give at least one, better two")
        _refuse_duplicates(models)
        _refuse_mixed_kinds(models)
        return models

    @field_validator("reject", mode="before")
    @classmethod
    def _check_reject(cls, value: object) -> object:
        kinds = [value] if isinstance(value, str) or callable(value) else value
        if not isinstance(kinds, (list, tuple, set, frozenset)):
            raise ValueError(
                f"reject is a tuple of names and functions, got {type(value).__name__}"
            )
        for kind in kinds:
            check_rejection(kind)
        return frozenset(kinds)

    @field_validator("exceptions_to_handle", mode="before")
    @classmethod
    def _check_exceptions(cls, value: object) -> tuple[type[BaseException], ...]:
        classes = tuple(value) if isinstance(value, (list, tuple)) else (value,)
        classes = tuple(
            serialization.exception_class(each) if isinstance(each, str) else each
            for each in classes
        )
        for each in classes:
            if not (isinstance(each, type) and issubclass(each, BaseException)):
                raise ValueError(
                    "exceptions_to_handle is a tuple of exception classes, got "
                    f"{getattr(each, '__name__', type(each).__name__)}"
                    + (" (an instance)" if isinstance(each, BaseException) else "")
                )
        return classes

    @field_validator("state", mode="before")
    @classmethod
    def _check_state(cls, value: object) -> object:
        if value is None or (isinstance(value, SharedState) and not isinstance(value, type)):
            return value
        raise ValueError(f"state is a RedisState(url) or another SharedState, got {_kind(value)}")

    @field_validator("on_event")
    @classmethod
    def _check_on_event(cls, value: EventFunction | None) -> EventFunction | None:
        return None if value is None else check_function(value)

    @property
    def _events(self) -> Events | None:
        return None if self.on_event is None else Events(self.on_event)

    def _connect(self) -> None:
        if self.state is not None and self._memory.exchange is None:
            self._memory.share(self.state)
        if (events := self._events) is not None:
            self._listeners.add(events)

    @model_validator(mode="after")
    def _complete(self) -> Self:
        self._connect()
        if len(self.models) == 1:
            logger.warning(
                "the gateway has one deployment only (%s): there is nothing to fall back to",
                one_line(self.models[0].model_name, 60),
            )
        for deployment in self.models:
            for window in deployment.time_constraints:
                if window.is_instant:
                    logger.warning(
                        "the window %s of %s restricts a single instant; a whole day is two "
                        "windows, ('00:00', '12:00') and ('12:00', '00:00')",
                        window,
                        one_line(deployment.model_name, 60),
                    )
        return self

    # Cached in the instance's __dict__: pydantic's private attributes take microseconds to read.
    @cached_property
    def _routing(self) -> Routing:
        rules = Rules(**{field.name: getattr(self, field.name) for field in fields(Rules)})
        own = self._memory, self._clock, self._guards
        return Routing.of(self.models, rules, *own, listeners=self._listeners)

    def with_clock(self, clock: Clock, *, guards: Guards | None = None) -> Self:
        """A gateway that lives by another clock, with the same state.

        Args:
            clock: Its time, chance and waiting.
            guards: How attempts are kept to their limits; the real ones if left out.
        """
        copied = self.model_copy()
        copied._clock, copied._guards = clock, guards or self._guards  # noqa: SLF001
        return copied

    @override
    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A copy with some fields changed; as with any pydantic model, `update` is trusted."""
        copied = super().model_copy(update=update, deep=deep)
        copied.__dict__.pop("_routing", None)
        changed = update or {}
        if "state" in changed:
            copied._memory = Memory()  # noqa: SLF001
        if "on_event" in changed:
            others = (each for each in self._listeners.all if each != self._events)
            copied._listeners = Listeners(*others)  # noqa: SLF001
        copied._connect()  # noqa: SLF001
        return copied

    def prefer(self, model_name: str | None) -> Self:
        """A gateway that tries `model_name` first where the caller names none.

        Unlike `bind(model_preference=...)`, it survives a later `bind_tools`.
        """
        self._routing.order(model_name)
        return self.model_copy(update={PREFERENCE: model_name})

    def _adapted(self, method: str, /, *args: Any, **kwargs: Any) -> Self:
        """A gateway over adapted models, with the same state."""
        preference, fallback = kwargs.pop(PREFERENCE, None), kwargs.pop(FALLBACK, None)
        models = tuple(deployment.adapted(method, *args, **kwargs) for deployment in self.models)
        update = {"models": models} | ({} if fallback is None else {FALLBACK: fallback})
        adapted = self.model_copy(update=update)
        return adapted if preference is None else adapted.prefer(preference)

    def _recast(self, cls: type[G]) -> G:
        """This gateway as another class, with the same state."""
        other = cls(**{name: getattr(self, name) for name in GatewayRunnable.model_fields})
        other._memory, other._clock, other._guards = self._memory, self._clock, self._guards
        other._listeners = self._listeners
        return other

    def as_chat_model(self) -> "GatewayChatModel":
        """This gateway as a `BaseChatModel`, for code that checks for one."""
        return self._recast(GatewayChatModel)

    def bind_tools(self, tools: Sequence[Any], **kwargs: Any) -> "GatewayRunnable":
        """A gateway whose every deployment may call `tools`, each in its provider's own form.

        As with a chat model, the last binding wins: these tools replace those bound before.

        Args:
            tools: What a chat model's `bind_tools` takes.
            **kwargs: Passed on to each; a `model_preference` among them is the gateway's own, and
                `parallel_tool_calls` and `strict` are left out for clients that don't take them.

        Raises:
            NotImplementedError: If a deployment cannot; says which.
        """
        # Not typed `Self`: fallbacks around look for a Runnable in the annotation.
        return self._adapted("bind_tools", tools, **kwargs)

    def with_structured_output(
        self, schema: Any, **kwargs: Any
    ) -> Runnable[LanguageModelInput, Any]:
        """A gateway that answers with `schema`'s data, each deployment in its provider's own way.

        An answer that does not parse, or none, is a failure like any other. With
        `include_raw=True`, the last result is returned as it is if all fail. Tools that were bound
        before are forgotten.

        Args:
            schema: What a chat model's `with_structured_output` takes.
            **kwargs: Passed on to each; a `model_preference` among them is the gateway's own.

        Raises:
            NotImplementedError: If a deployment cannot; says which.
        """
        return self._adapted("with_structured_output", schema, **kwargs)

    # --- looking at it -----------------------------------------------------------------------

    @property
    def model_names(self) -> tuple[str, ...]:
        """The deployments' names in list order."""
        return tuple(deployment.model_name for deployment in self.models)

    def explain(
        self,
        model_preference: str | None = None,
        at: datetime | None = None,
        *,
        input: LanguageModelInput = "",
    ) -> RoutingPlan:
        """What a call would do, without making it.

        Args:
            model_preference: The deployment to try first; the gateway's own if left out.
            at: An aware moment; now if left out.
            input: The call's input: who cannot take its images, audio, video or PDF comes last.

        Returns:
            Who would be tried in which order, and who not, why and until when. It prints as a
            table and shows as one in a notebook.

        Raises:
            ValueError: If `at` is naive, or the preference unknown and preference is strict.
        """
        if at is not None and not isinstance(at, datetime):
            raise ValueError(
                f"at is an aware datetime, such as datetime(..., tzinfo=UTC), got {shown(at)}"
            )
        if at is not None and at.utcoffset() is None:
            raise ValueError(
                f"at={at.isoformat()} is naive; give it a timezone: datetime(..., tzinfo=UTC)"
            )
        preference = self.model_preference if model_preference is None else model_preference
        return self._routing.plan(preference, at, input)

    def diagnose(self) -> list[Finding]:
        """What would hurt in production, found without a call; `[]` when all is well.

        The list prints as a table and shows as one in a notebook.
        """
        return diagnosis.diagnose(
            self.models,
            self._routing.clock.now(),
            retry=self.retry,
            cooldown=self.cooldown,
            timeout=self.timeout,
            exceptions_to_handle=self.exceptions_to_handle,
            balance=self.balance,
            max_wait=self.max_wait,
            hedge=self.hedge,
            fallback=self.model_fallback,
            shares_state=self.state is not None,
        )

    def watch(self) -> Watch:
        """A live view: the table, kept up to date while calls run, and what goes wrong in them.

        Use it as a notebook cell's last value, or with `with gateway.watch(): ...`; in a terminal
        it is shown at once. The end of the block ends it, and so does its `close()`.

        Raises:
            ImportError: If the extra `notebook` is not installed.
        """
        return Watch(self.get_name(), self.models, self._routing)

    @override
    def __dir__(self) -> list[str]:
        # What an editor offers; pydantic's own names work as ever and would hide ours.
        own = vars(GatewayRunnable).keys()
        return [
            n for n in super().__dir__() if n[0] == "_" or n in own or not hasattr(BaseModel, n)
        ]

    def __repr_args__(self) -> list[tuple[str | None, Any]]:
        plain = {
            name: value
            for name, field in GatewayRunnable.model_fields.items()
            if name != "models" and field.repr and (value := getattr(self, name)) != field.default
        }
        return [("models", list(self.model_names)), *plain.items()]

    @override
    def __eq__(self, other: object) -> bool:
        # Health and other state are no part of what a gateway is.
        values = serialization.values
        return type(other) is type(self) and values(self) == values(other)

    __hash__ = None  # type: ignore[assignment]

    # --- the Runnable's own declarations -----------------------------------------------------

    @property
    @override
    def InputType(self) -> Any:
        return self.models[0].model.InputType

    @property
    @override
    def OutputType(self) -> Any:
        return self.models[0].model.OutputType

    @override
    def get_input_schema(self, config: RunnableConfig | None = None) -> "TypeBaseModel":
        with suppress(Exception):  # a model that the call's config chooses has none before
            return self.models[0].model.get_input_schema(config)
        return super().get_input_schema(config)

    @override
    def get_output_schema(self, config: RunnableConfig | None = None) -> "TypeBaseModel":
        with suppress(Exception):
            return self.models[0].model.get_output_schema(config)
        return super().get_output_schema(config)

    @property
    @override
    def config_specs(self) -> list[ConfigurableFieldSpec]:
        # The same for every gateway: two in one chain share them.
        own = [
            ConfigurableFieldSpec(
                id=PREFERENCE,
                annotation=str | None,
                name="Model preference",
                description="The deployment a gateway tries first.",
                is_shared=True,
            ),
            ConfigurableFieldSpec(
                id=FALLBACK,
                annotation=bool,
                name="Model fallback",
                description="Whether a gateway tries another when the first choice fails.",
                default=True,
                is_shared=True,
            ),
        ]
        specs = [spec for deployment in self.models for spec in deployment.model.config_specs]
        return get_unique_config_specs([*own, *specs])

    # --- serialization -----------------------------------------------------------------------

    @classmethod
    @override
    def is_lc_serializable(cls) -> bool:
        return True

    @classmethod
    @override
    def get_lc_namespace(cls) -> list[str]:
        """The package root, so that modules can move without breaking stored payloads."""
        root = __package__ or ""
        return [root] if cls.__module__.startswith(f"{root}.") else super().get_lc_namespace()

    @override
    def to_json(self) -> SerializedConstructor:
        return {
            "lc": 1,
            "type": "constructor",
            "id": self.lc_id(),
            "kwargs": serialization.plain_arguments(self),
        }

    def serialize(self) -> dict[str, Any]:
        """The gateway as JSON-able data, keys as references to secrets (LangChain's `dumpd`).

        Raises:
            ValueError: If a deployment or an exception class has no serialized form, or a key
                would be written in plain text.
        """
        return serialization.serialize(self)

    @classmethod
    def from_serialized(
        cls,
        data: Mapping[str, Any],
        *,
        allowed_objects: Sequence[type[Serializable]] = (),
        secrets_map: Mapping[str, str] | None = None,
        deployment_secrets: Mapping[str, Mapping[str, str]] | None = None,
        secrets_from_env: bool = False,
        init_validator: InitValidator | None = None,
    ) -> Self:
        """Load a gateway from what `serialize()` or `dumpd` wrote.

        A payload is executable configuration: it names endpoints and headers. Load none that you
        would not run.

        Args:
            data: The payload.
            allowed_objects: The models' own classes; nothing outside this list is constructed.
            secrets_map: Secrets by the name the payload refers to them by.
            deployment_secrets: Secrets of single deployments, by name (of one inside a deployment
                that is a gateway: `"outer/inner"`); they come first.
            secrets_from_env: Whether to read secrets left unnamed from the environment, and to let
                clients look there, and among this machine's credentials, for more. Otherwise a
                secret that is not given is filled with a placeholder.
            init_validator: Called with class path and arguments before each construction, after
                LangChain's own validator; raises to refuse.

        Raises:
            ValueError: If the payload is malformed, asks for a class that is not allowed, or holds
                a client that would find secrets by itself, whatever it is given.
        """
        return loading.deserialize(
            cls,
            data,
            allowed_objects=allowed_objects,
            secrets_map=secrets_map or {},
            deployment_secrets=deployment_secrets or {},
            secrets_from_env=secrets_from_env,
            init_validator=init_validator,
        )

    @classmethod
    def from_config(cls, source: str | PathLike[str] | Mapping[str, Any], **overrides: Any) -> Self:
        """Build a gateway from a YAML or TOML file, or a mapping.

        Its keys are this class's arguments. A model is a string as `init_chat_model` takes it, with
        its keywords under `with`, or a mapping of a gateway inside. A secret is only ever
        `{env: NAME}`.

        Args:
            source: The file's path, or the mapping.
            **overrides: This class's arguments; each replaces the key of that name, which is then
                not read.

        Raises:
            ConfigError: If something is wrong; tells all that is, with file, line and key.
        """
        return configuration.build(cls, source, overrides, GatewayRunnable)

    def __reduce__(self) -> tuple[Any, ...]:
        # With the checks of `serialize()`: a pickle holds no key either.
        return serialization.unpickle, (type(self), serialization.picklable(self))

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        # By way of the constructor, for fresh state; the models' clients are shared.
        return type(self)(**serialization.values(self))


class GatewayChatModel(GatewayRunnable, ChatModelFace):
    """A gateway that is a `BaseChatModel`, for code that checks for one.

    Made by `GatewayRunnable.as_chat_model()`. All calls are the gateway's: it keeps a chain's run
    for each, and only the deployments' models report tokens and usage, so everything is counted
    once. A chat model's own `cache`, `rate_limiter` and `callbacks` belong on the deployments.

    It inherits from both, since one that holds a gateway must hand on thirty methods by name.

    Attributes:
        profile: What all deployments can do: the lesser limit, the shared capability. `None` if
            a deployment does not tell.
    """

    @override
    def bind_tools(  # type: ignore[override]
        self, tools: Sequence[Any], **kwargs: Any
    ) -> Runnable[LanguageModelInput, AIMessage]:
        # Like every chat model's, a binding.
        return super().bind_tools(tools, **kwargs).bind()

    @override
    def with_structured_output(
        self, schema: Any, **kwargs: Any
    ) -> Runnable[LanguageModelInput, Any]:
        # Its answers are no messages, so it is no chat model.
        return self._recast(GatewayRunnable).with_structured_output(schema, **kwargs)


def _kind(value: object) -> str:
    """What came in place of a list of deployments."""
    if isinstance(value, type):
        return f"{one_line(value.__name__, 60)}, {CLASS_NOT_INSTANCE}"
    is_one = isinstance(value, (tuple, Mapping, ModelDeployment, Runnable))
    return type(value).__name__ + ("; write a list: models=[...]" if is_one else "")


def _refuse_duplicates(models: Sequence[ModelDeployment]) -> None:
    seen: dict[str, int] = {}
    for position, deployment in enumerate(models):
        first = seen.setdefault(deployment.model_name, position)
        if first != position:
            raise ValueError(
                f"models[{position}] has the name {one_line(deployment.model_name, 60)!r}, "
                f"which models[{first}] has already; names are unique"
            )


def _refuse_mixed_kinds(models: Sequence[ModelDeployment]) -> None:
    kinds = {deployment.kind: i for i, deployment in reversed(list(enumerate(models)))}
    if {"chat", "llm"} <= kinds.keys():
        chat, llm = (
            f"models[{kinds[kind]}] ({one_line(models[kinds[kind]].model_name, 60)!r})"
            for kind in ("chat", "llm")
        )
        raise ValueError(
            f"{chat} is a chat model and {llm} a text-completion LLM; their "
            "outputs differ, so one cannot stand in for the other"
        )
