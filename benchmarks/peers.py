"""Other libraries' gateways, behind the adapter; each imports its library when it is made."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator, Sequence
from importlib.util import find_spec
from typing import Any

from typing_extensions import override

from benchmarks.backends import ANSWER, Backend
from benchmarks.contenders import Contender


class _Gathering(Contender):
    @override
    async def abatch(self, texts: list[str]) -> Sequence[Any]:
        return await asyncio.gather(*map(self.acall, texts))


# --- LiteLLM ---------------------------------------------------------------------------------


def _litellm() -> Any:
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # else it asks the internet
    import litellm  # noqa: PLC0415

    class Instant(litellm.CustomLLM):
        """The backends in this process; `model` says which kind one is."""

        def _answer(self, given: dict[str, Any]) -> Any:
            fails, _ = given["model"].split("-")
            if Backend(fails=fails).does_fail(given["messages"][-1]["content"]):
                raise litellm.CustomLLMError(status_code=500, message="down")
            response = given["model_response"]
            response.choices[0].message.content = ANSWER
            response.choices[0].finish_reason = "stop"
            return response

        def completion(self, *_: Any, **given: Any) -> Any:
            return self._answer(given)

        async def acompletion(self, *_: Any, **given: Any) -> Any:
            return self._answer(given)

        def streaming(self, *_: Any, **given: Any) -> Iterator[Any]:
            chunks = int(given["model"].split("-")[1])
            for number in range(chunks):
                is_last = number == chunks - 1
                yield {
                    "text": f"{ANSWER} {number}",  # it takes the same text again for a fault
                    "tool_use": None,
                    "is_finished": is_last,
                    "finish_reason": "stop" if is_last else "",
                    "usage": None,
                    "index": 0,
                }

        async def astreaming(self, *_: Any, **given: Any) -> AsyncIterator[Any]:
            for chunk in self.streaming(**given):
                yield chunk

    if not litellm.custom_provider_map:
        litellm.suppress_debug_info = True
        litellm.telemetry = False
        litellm.custom_provider_map = [{"provider": "instant", "custom_handler": Instant()}]
    return litellm


def _litellm_params(backend: Backend) -> dict[str, Any]:
    if backend.url is None:
        return {"model": f"instant/{backend.fails}-{backend.chunks}"}
    return {"model": "openai/gpt-4o-mini", "api_base": backend.url, "api_key": "key"}


class LiteLLMDirect(_Gathering):
    """`litellm.completion`."""

    name = "litellm direct"
    family = "litellm"
    is_direct = True

    def __init__(self, backends: Sequence[Backend], *, has_handler: bool = False) -> None:
        if has_handler:
            raise NotImplementedError
        litellm = _litellm()
        self._completion, self._acompletion = litellm.completion, litellm.acompletion
        self._given: dict[str, Any] = {**_litellm_params(backends[0]), "max_retries": 0}

    @override
    def call(self, text: str) -> Any:
        return self._completion(messages=_messages(text), **self._given)

    @override
    async def acall(self, text: str) -> Any:
        return await self._acompletion(messages=_messages(text), **self._given)

    @override
    def stream(self, text: str) -> Iterator[Any]:
        return self._completion(messages=_messages(text), stream=True, **self._given)

    @override
    async def astream(self, text: str) -> AsyncIterator[Any]:
        stream = await self._acompletion(messages=_messages(text), stream=True, **self._given)
        async for chunk in stream:
            yield chunk


class LiteLLMRouter(LiteLLMDirect):
    """`litellm.Router`, with fallbacks and no cooldown."""

    name = "litellm Router"
    is_direct = False
    most_failures = 5  # the time of a call doubles with each: ten would take half a minute
    settings: dict[str, Any] = {"disable_cooldowns": True}  # noqa: RUF012

    def __init__(self, backends: Sequence[Backend], *, has_handler: bool = False) -> None:
        super().__init__(backends, has_handler=has_handler)
        names = [f"m{i}" for i in range(len(backends))]
        router = _litellm().Router(
            model_list=[
                {"model_name": name, "litellm_params": _litellm_params(backend)}
                for name, backend in zip(names, backends, strict=True)
            ],
            fallbacks=[{names[0]: names[1:]}],
            max_fallbacks=len(names),
            num_retries=0,
            **self.settings,
        )
        self._completion, self._acompletion = router.completion, router.acompletion
        self._given = {"model": names[0]}


class LiteLLMRouterWithCooldown(LiteLLMRouter):
    """`litellm.Router`, with cooldown."""

    name = "litellm Router + cooldown"
    settings = {"allowed_fails": 2, "cooldown_time": 30}  # noqa: RUF012


class _LiteLLMShared(LiteLLMDirect):
    """`litellm.Router` over equal deployments of one group; no cooldown, no fallback."""

    is_direct = False
    shares = True
    strategy = "simple-shuffle"
    limits: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self, backends: Sequence[Backend], *, has_handler: bool = False) -> None:
        super().__init__(backends, has_handler=has_handler)
        deployments = [
            {"model_name": "m", "litellm_params": {**_litellm_params(each), **self.limits}}
            for each in backends
        ]
        router = _litellm().Router(
            model_list=deployments,
            routing_strategy=self.strategy,
            num_retries=0,
            disable_cooldowns=True,
        )
        self._completion, self._acompletion = router.completion, router.acompletion
        self._given = {"model": "m"}


class LiteLLMLeastBusy(_LiteLLMShared):
    """By requests under way."""

    name = "litellm Router, least-busy"
    strategy = "least-busy"


class LiteLLMFastest(_LiteLLMShared):
    """By recent latency."""

    name = "litellm Router, latency-based"
    strategy = "latency-based-routing"


class LiteLLMUsage(_LiteLLMShared):
    """By usage in this minute, with limits that are never reached."""

    name = "litellm Router, usage-based-v2, rpm and tpm"
    strategy = "usage-based-routing-v2"
    limits = {"rpm": 10**9, "tpm": 10**12}  # noqa: RUF012


def _messages(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


# --- pydantic-ai -----------------------------------------------------------------------------


def _pydantic_ai_model(backend: Backend) -> Any:
    from pydantic_ai.exceptions import ModelHTTPError  # noqa: PLC0415
    from pydantic_ai.messages import ModelResponse, TextPart  # noqa: PLC0415

    if backend.url is not None:
        from openai import AsyncOpenAI  # noqa: PLC0415
        from pydantic_ai.models.openai import OpenAIChatModel  # noqa: PLC0415
        from pydantic_ai.providers.openai import OpenAIProvider  # noqa: PLC0415

        client = AsyncOpenAI(base_url=backend.url, api_key="key", max_retries=0)
        return OpenAIChatModel("gpt-4o-mini", provider=OpenAIProvider(openai_client=client))

    from pydantic_ai.models.function import FunctionModel  # noqa: PLC0415

    def refuse(messages: Any) -> None:
        if backend.does_fail(messages[-1].parts[-1].content):
            raise ModelHTTPError(500, "instant", "down")

    async def answer(messages: Any, _: Any) -> Any:
        refuse(messages)
        return ModelResponse(parts=[TextPart(ANSWER)])

    async def stream(messages: Any, _: Any) -> AsyncIterator[str]:
        refuse(messages)
        for _number in range(backend.chunks):
            yield ANSWER

    return FunctionModel(answer, stream_function=stream)


class PydanticAIDirect(_Gathering):
    """pydantic-ai's bare model; it is async at heart, and its sync form runs a loop."""

    name = "pydantic-ai direct"
    family = "pydantic-ai"
    is_direct = True

    def __init__(self, backends: Sequence[Backend], *, has_handler: bool = False) -> None:
        if has_handler:
            raise NotImplementedError
        from pydantic_ai import direct  # noqa: PLC0415
        from pydantic_ai.messages import ModelRequest  # noqa: PLC0415

        self._direct, self._question = direct, ModelRequest.user_text_prompt
        self._model = self._over([_pydantic_ai_model(backend) for backend in backends])

    def _over(self, models: list[Any]) -> Any:
        return models[0]

    @override
    def call(self, text: str) -> Any:
        return self._direct.model_request_sync(self._model, [self._question(text)])

    @override
    async def acall(self, text: str) -> Any:
        return await self._direct.model_request(self._model, [self._question(text)])

    @override
    async def astream(self, text: str) -> AsyncIterator[Any]:
        async with self._direct.model_request_stream(self._model, [self._question(text)]) as chunks:
            async for chunk in chunks:
                yield chunk


class PydanticAIFallback(PydanticAIDirect):
    """pydantic-ai's `FallbackModel`."""

    name = "pydantic-ai FallbackModel"
    is_direct = False

    def _over(self, models: list[Any]) -> Any:
        from pydantic_ai.models.fallback import FallbackModel  # noqa: PLC0415

        return FallbackModel(*models)


# --- msgflux ---------------------------------------------------------------------------------


def _msgflux_model(backend: Backend) -> Any:
    if backend.url is not None:
        from msgflux.models.model import Model  # noqa: PLC0415

        os.environ["OPENAI_API_KEY"] = "key"
        model = Model.chat_completion("openai/gpt-4o-mini", base_url=backend.url, retry=False)
        # Here and not by OPENAI_MAX_RETRIES: the client takes what that says for a string.
        model.client.max_retries = model.aclient.max_retries = 0
        return model

    from msgflux.models.base import BaseModel  # noqa: PLC0415

    class Instant(BaseModel):
        model_type, model_id, provider = "chat_completion", "instant", "instant"

        def _initialize(self) -> None:
            pass

        def __call__(self, messages: str) -> str:
            if backend.does_fail(messages):
                raise RuntimeError("down")
            return ANSWER

        async def acall(self, messages: str) -> str:
            return self(messages)

    return Instant()


class MsgfluxDirect(_Gathering):
    """msgflux' bare model: in this process a plain function, so its ratios look large."""

    name = "msgflux direct"
    family = "msgflux"
    is_direct = True

    def __init__(self, backends: Sequence[Backend], *, has_handler: bool = False) -> None:
        if has_handler:
            raise NotImplementedError
        self._model = self._over([_msgflux_model(backend) for backend in backends])

    def _over(self, models: list[Any]) -> Any:
        return models[0]

    @override
    def call(self, text: str) -> Any:
        return self._model(messages=text)

    @override
    async def acall(self, text: str) -> Any:
        return await self._model.acall(messages=text)


class MsgfluxGateway(MsgfluxDirect):
    """msgflux' `ModelGateway`, with windows on every deployment."""

    name = "msgflux ModelGateway"
    is_direct = False

    def _over(self, models: list[Any]) -> Any:
        from msgflux.models.gateway import ModelGateway  # noqa: PLC0415

        return ModelGateway(
            [
                {"model_name": f"m{i}", "model": model, "time_constraints": [("03:00", "03:01")]}
                for i, model in enumerate(models)
            ]
        )


def sharers() -> list[type[Contender]]:
    """LiteLLM's, if it is installed: nobody else shares calls."""
    return [LiteLLMLeastBusy, LiteLLMFastest, LiteLLMUsage] if find_spec("litellm") else []


def contenders() -> list[type[Contender]]:
    """Those whose library is installed."""
    everybody = {
        "litellm": (LiteLLMDirect, LiteLLMRouter),
        "pydantic_ai": (PydanticAIDirect, PydanticAIFallback),
        "msgflux": (MsgfluxDirect, MsgfluxGateway),
    }
    return [each for library, own in everybody.items() if find_spec(library) for each in own]
