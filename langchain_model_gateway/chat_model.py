"""`GatewayChatModel`: the gateway for code that insists on a `BaseChatModel`."""

from collections.abc import Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Final, cast

from langchain_core.callbacks import (
    AsyncCallbackManagerForLLMRun,
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
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult, LLMResult
from langchain_core.runnables import Runnable, RunnableConfig
from pydantic import ConfigDict
from typing_extensions import override

from langchain_model_gateway._compat import start_producer, typed_events
from langchain_model_gateway.gateway import GatewayRunnable

if TYPE_CHECKING:
    from langchain_core.language_models.chat_model_stream import (
        AsyncChatModelStream,
        ChatModelStream,
    )

_CONFIG_ARGUMENTS: Final = ("tags", "metadata", "run_name", "run_id")


class GatewayChatModel(GatewayRunnable, BaseChatModel):
    """A gateway that is a `BaseChatModel`, for code that checks for one.

    Made by `GatewayRunnable.as_chat_model()`. All calls are the gateway's: it keeps a chain's run
    for each, and only the deployments' models report tokens and usage, so everything is counted
    once. A chat model's own `cache`, `rate_limiter` and `callbacks` belong on the deployments.

    Attributes:
        profile: What all deployments can do: the lesser limit, the shared capability. `None` if
            a deployment does not tell.
    """

    # BaseChatModel sets its profile after validation.
    model_config = ConfigDict(frozen=False)

    @property
    def _llm_type(self) -> str:
        return "gateway"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {"models": list(self.model_names)}

    @override
    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        return LangSmithParams(
            ls_provider=self._llm_type,
            ls_model_name=kwargs.get("model") or "|".join(self.model_names),
            ls_model_type="chat",
        )

    @override
    def _resolve_model_profile(self) -> ModelProfile | None:
        return shared_profile([deployment.core for deployment in self.models])

    @override
    def bind_tools(  # type: ignore[override]
        self, tools: Sequence[Any], **kwargs: Any
    ) -> Runnable[LanguageModelInput, AIMessage]:
        # Like every chat model's, a binding.
        return GatewayRunnable.bind_tools(self, tools, **kwargs).bind()

    @override
    def with_structured_output(self, schema: Any, **kwargs: Any) -> GatewayRunnable:
        # Its answers are no messages, so it is no chat model.
        return self._recast(GatewayRunnable).with_structured_output(schema, **kwargs)

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
        chunks = self.stream(input, config, **kwargs)
        events = typed.chunks_to_events(ChatGenerationChunk(message=chunk) for chunk in chunks)
        stream: ChatModelStream = typed.chat_model_stream()

        def pump() -> bool:
            try:
                stream.dispatch(next(events))
            except StopIteration:
                return False
            except BaseException as error:  # noqa: BLE001 - the reader of the stream raises it
                stream.fail(error)
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

        async def produce() -> None:
            try:
                async with aclosing(self.astream(input, config, **kwargs)) as chunks:
                    generated = (ChatGenerationChunk(message=chunk) async for chunk in chunks)
                    async for event in typed.achunks_to_events(generated):
                        stream.dispatch(event)
            except BaseException as error:
                stream.fail(error)  # for the stream's reader to raise
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
        models = (deployment.core for deployment in self.models)
        found = next((model for model in models if isinstance(model, BaseChatModel)), None)
        if found is None:
            raise NotImplementedError("no deployment is a chat model that could count tokens")
        return found


def shared_profile(models: Sequence[object]) -> ModelProfile | None:
    """What all of these models can do, as far as their profiles tell.

    Args:
        models: Chat models, gateways, or anything else.

    Returns:
        The lesser of each limit and the shared of each capability; what one of them does not tell
        is left out. `None` if one has no profile at all.
    """
    profiles: list[dict[str, Any]] = []
    for model in models:
        if isinstance(model, GatewayRunnable) and not isinstance(model, GatewayChatModel):
            profile = shared_profile([each.core for each in model.models])
        else:
            profile = getattr(model, "profile", None)
        if not profile:
            return None
        profiles.append(dict(profile))
    told_by_all = set.intersection(*(set(profile) for profile in profiles))
    shared = {key: _shared([profile[key] for profile in profiles]) for key in sorted(told_by_all)}
    return cast("ModelProfile", {key: told for key, told in shared.items() if told is not None})


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
