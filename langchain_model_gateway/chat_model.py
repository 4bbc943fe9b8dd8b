"""What a gateway needs besides its calls to be a `BaseChatModel`."""

from collections.abc import Iterator, Sequence
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING, Any, Final, Self, cast

from langchain_core.callbacks import (
    AsyncCallbackManagerForLLMRun,
    BaseCallbackHandler,
    CallbackManagerForLLMRun,
    Callbacks,
)
from langchain_core.language_models import (
    BaseChatModel,
    BaseLanguageModel,
    LangSmithParams,
    LanguageModelInput,
    ModelProfile,
)
from langchain_core.messages import AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult, LLMResult
from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.config import ensure_config, get_callback_manager_for_config
from pydantic import model_validator
from typing_extensions import override

from langchain_model_gateway._compat import (
    langsmith_params,
    shows_events,
    start_producer,
    typed_events,
)
from langchain_model_gateway.answers import STAMP
from langchain_model_gateway.deployment import ModelDeployment
from langchain_model_gateway.listeners.langchain import DEPLOYMENT_TAG

if TYPE_CHECKING:
    from langchain_core.language_models.chat_model_stream import (
        AsyncChatModelStream,
        ChatModelStream,
    )

_CONFIG_ARGUMENTS: Final = ("tags", "metadata", "run_name", "run_id")


class ChatModelFace(BaseChatModel):
    """The parts of a chat model that are more than a Runnable's calls, by way of those calls.

    Attributes:
        models: The deployments that answer.
    """

    models: tuple[ModelDeployment, ...]

    @property
    def _llm_type(self) -> str:
        return "gateway"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {"models": [each.model_name for each in self.models]}

    @override
    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        params = [_params_of(model, kwargs) for model in _models_of(self.models)]
        return LangSmithParams(
            ls_provider=_shared([each.get("ls_provider") for each in params]) or self._llm_type,
            ls_model_name=kwargs.get("model")
            or _shared([each.get("ls_model_name") for each in params])
            or "|".join(each.model_name for each in self.models),
            ls_model_type="chat",
        )

    @override
    def _resolve_model_profile(self) -> ModelProfile | None:
        return shared_profile(self.models)

    @model_validator(mode="after")
    def _set_model_profile(self) -> Self:
        # In place of BaseChatModel's, which assigns: a gateway is frozen.
        if self.profile is None:
            with suppress(Exception):
                self.__dict__["profile"] = self._resolve_model_profile()
        return self

    # --- the older entrances of a chat model, by way of the gateway's calls ------------------

    @override
    def generate(
        self,
        messages: list[list[BaseMessage]],
        stop: list[str] | None = None,
        callbacks: Callbacks = None,
        **kwargs: Any,
    ) -> LLMResult:
        config, kwargs = _as_config(callbacks, stop, kwargs)
        return _as_result(self.batch(list(messages), config, **kwargs))

    @override
    async def agenerate(
        self,
        messages: list[list[BaseMessage]],
        stop: list[str] | None = None,
        callbacks: Callbacks = None,
        **kwargs: Any,
    ) -> LLMResult:
        config, kwargs = _as_config(callbacks, stop, kwargs)
        return _as_result(await self.abatch(list(messages), config, **kwargs))

    @override
    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        _, kwargs = _as_config(None, stop, kwargs)
        return ChatResult(generations=[ChatGeneration(message=self.invoke(messages, **kwargs))])

    @override
    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        _, kwargs = _as_config(None, stop, kwargs)
        answer = await self.ainvoke(messages, **kwargs)
        return ChatResult(generations=[ChatGeneration(message=answer)])

    # --- typed event streams (`stream_events(version="v3")`) ---------------------------------

    @override
    def _chat_model_stream_v3(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> "ChatModelStream":
        _, kwargs = _as_config(None, stop, kwargs)
        typed = typed_events()
        stream: ChatModelStream = typed.chat_model_stream()
        report = _EventReport(self._convert_input(input).to_messages(), config, stream)
        chunks = self.stream(input, report.config, **kwargs)
        events = typed.chunks_to_events(map(report.generation, chunks))

        def pump() -> bool:
            try:
                report.dispatch(next(events))
            except StopIteration:
                return False
            except BaseException as error:  # noqa: BLE001 - the reader of the stream raises it
                report.fail(error)
                return False
            return True

        stream.bind_pump(pump)
        return stream

    @override
    async def _achat_model_stream_v3(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> "AsyncChatModelStream":
        _, kwargs = _as_config(None, stop, kwargs)
        typed = typed_events()
        stream: AsyncChatModelStream = typed.async_chat_model_stream()
        report = _EventReport(self._convert_input(input).to_messages(), config, stream)

        async def produce() -> None:
            try:
                answer: Any = self.astream(input, report.config, **kwargs)
                async with aclosing(answer) as chunks:
                    generated = (report.generation(chunk) async for chunk in chunks)
                    async for event in typed.achunks_to_events(generated):
                        report.dispatch(event)
            except BaseException as error:
                report.fail(error)  # for the stream's reader to raise
                if not isinstance(error, Exception):
                    raise

        async def start() -> None:
            start_producer(stream, produce)

        stream.set_start(start)
        return stream

    # --- counting tokens ---------------------------------------------------------------------

    @override
    def get_token_ids(self, text: str) -> list[int]:
        return self._tokenizer.get_token_ids(text)

    @override
    def get_num_tokens_from_messages(
        self, messages: list[BaseMessage], tools: Sequence[Any] | None = None
    ) -> int:
        return self._tokenizer.get_num_tokens_from_messages(messages, tools)

    @property
    def _tokenizer(self) -> BaseLanguageModel[Any]:
        """Whose tokens are counted: the first chat model's."""
        models = (deployment.inner_model for deployment in self.models)
        found = next((model for model in models if isinstance(model, BaseChatModel)), None)
        if found is None:
            raise NotImplementedError("no deployment is a chat model that could count tokens")
        return found


class _EventReport:
    """Reports a stream's events to those who show them, such as LangGraph's version 3.

    A model that is asked for chunks tells them of none, and its run ends before the last. So they
    get one run, the answer's, in place of those of the attempts.

    Args:
        messages: What the call asks.
        config: The call's config.
        stream: Where its reader finds the events.

    Attributes:
        config: The config for the gateway's own call.
    """

    def __init__(
        self,
        messages: list[BaseMessage],
        config: RunnableConfig | None,
        stream: "ChatModelStream | AsyncChatModelStream",
    ) -> None:
        self._messages = messages
        self._stream = stream
        self._run: CallbackManagerForLLMRun | None = None
        whole = ensure_config(config)
        self._manager = get_callback_manager_for_config(whole)
        shown_to = [handler for handler in self._manager.handlers if shows_events(handler)]
        self._manager.set_handlers(shown_to)
        self.config = {**whole, "callbacks": _without(shown_to, whole)} if shown_to else config

    def generation(self, chunk: AIMessageChunk) -> ChatGenerationChunk:
        """A chunk as what events are made of; with the first one the run begins."""
        if self._run is None and self._manager.handlers:
            name = chunk.response_metadata[STAMP]["model_name"]
            self._manager.add_tags([DEPLOYMENT_TAG + name], inherit=False)
            (self._run,) = self._manager.on_chat_model_start({}, [self._messages])
        return ChatGenerationChunk(message=chunk)

    def dispatch(self, event: Any) -> None:
        """Hand on an event to the stream's reader, and to those who show it."""
        self._stream.dispatch(event)
        if self._run is not None:
            self._run.on_stream_event(event)
            if (message := self._stream.output_message) is not None:
                result = LLMResult(generations=[[ChatGeneration(message=message)]])
                self._run.on_llm_end(result)

    def fail(self, error: BaseException) -> None:
        """The stream ends with this error, which its reader will raise."""
        self._stream.fail(error)
        if self._run is not None:
            self._run.on_llm_error(error)


def _without(handlers: Sequence[BaseCallbackHandler], config: RunnableConfig) -> Callbacks:
    """A config's callbacks but these handlers."""
    callbacks = config.get("callbacks")
    if isinstance(callbacks, list):
        return [each for each in callbacks if each not in handlers]
    if callbacks is not None:
        callbacks = callbacks.copy()
        for handler in handlers:
            callbacks.remove_handler(handler)
    return callbacks


def _models_of(deployments: Sequence[ModelDeployment]) -> Iterator[Runnable[Any, Any]]:
    """The models of all deployments, also of those that are gateways."""
    for deployment in deployments:
        if deployment.inner_deployments:
            yield from _models_of(deployment.inner_deployments)
        else:
            yield deployment.inner_model


def _params_of(model: object, kwargs: dict[str, Any]) -> dict[str, Any]:
    with suppress(Exception):  # a model's own mistake
        return langsmith_params(model, **kwargs)
    return {}


def shared_profile(deployments: Sequence[ModelDeployment]) -> ModelProfile | None:
    """What all of these can do, as far as their models' profiles tell.

    Returns:
        The lesser of each limit and the shared of each capability; what one of them does not tell
        is left out. `None` if one has no profile at all.
    """
    profiles: list[dict[str, Any]] = []
    for each in deployments:
        profile = getattr(each.inner_model, "profile", None)
        if profile is None and each.inner_deployments:
            profile = shared_profile(each.inner_deployments)
        if not profile:
            return None
        profiles.append(dict(profile))
    known_of_all = set.intersection(*(set(profile) for profile in profiles))
    shared = {key: _shared([profile[key] for profile in profiles]) for key in sorted(known_of_all)}
    return cast("ModelProfile", {key: value for key, value in shared.items() if value is not None})


def _shared(values: Sequence[Any]) -> Any:
    """The lesser limit, the shared capability, or the common label."""
    first = values[0]
    if all(isinstance(value, bool) for value in values):
        return all(values)
    if all(isinstance(value, (int, float)) for value in values):
        return min(values)
    if all(isinstance(value, list) for value in values):
        return [each for each in first if all(each in value for value in values)]
    return first if all(value == first for value in values) else None


def _as_config(
    callbacks: Callbacks, stop: list[str] | None, kwargs: dict[str, Any]
) -> tuple[RunnableConfig, dict[str, Any]]:
    """A chat model's older arguments as a Runnable's: a config, and the models' keywords."""
    config: dict[str, Any] = {"callbacks": callbacks}
    config |= {key: kwargs.pop(key) for key in _CONFIG_ARGUMENTS if key in kwargs}
    if stop is not None:
        kwargs["stop"] = stop
    given = {key: value for key, value in config.items() if value is not None}
    return RunnableConfig(**given), kwargs  # type: ignore[typeddict-item]


def _as_result(answers: Sequence[Any]) -> LLMResult:
    return LLMResult(generations=[[ChatGeneration(message=answer)] for answer in answers])
