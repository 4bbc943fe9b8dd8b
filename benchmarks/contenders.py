"""The contenders, each behind the same small adapter."""

from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.runnables import Runnable, RunnableConfig
from typing_extensions import override

from benchmarks.backends import Backend, InstantChatModel, ThreadedChatModel
from langchain_model_gateway import CooldownPolicy, GatewayRunnable, HedgePolicy, RetryPolicy

_ANOTHER_DAY = (datetime.now(UTC) + timedelta(days=3)).strftime("%a")
WINDOWS = [{"start": "09:00", "end": "17:00", "days": [_ANOTHER_DAY]}]
"""Looked at in every call, and never in the way."""


class Contender:
    """Something that answers from several backends, in the order given.

    What a library has no form for raises `NotImplementedError`, and is left out of the table.

    Attributes:
        name: What the table calls it.
        family: Its library; an overhead is told against the same library's bare model.
        is_direct: Whether it is that bare model, with only the first backend behind it.
        shares: Whether it shares calls between its backends, in place of going down a list.
        most_failures: How many failures in one call it takes in a bearable time; `None`: any.
    """

    name: ClassVar[str]
    family: ClassVar[str]
    is_direct: ClassVar[bool] = False
    shares: ClassVar[bool] = False
    most_failures: ClassVar[int | None] = None

    def __init__(self, backends: Sequence[Backend], *, has_handler: bool = False) -> None:
        raise NotImplementedError

    def call(self, text: str) -> Any:
        """Ask, and wait for the whole answer."""
        raise NotImplementedError

    async def acall(self, text: str) -> Any:
        """`call`, without blocking."""
        raise NotImplementedError

    def stream(self, text: str) -> Iterator[Any]:
        """Ask for the answer in chunks."""
        raise NotImplementedError

    def astream(self, text: str) -> AsyncIterator[Any]:
        """`stream`, without blocking."""
        raise NotImplementedError

    async def abatch(self, texts: list[str]) -> Sequence[Any]:
        """Ask many questions at once."""
        raise NotImplementedError


class _LangChain(Contender):
    family = "langchain"

    def __init__(self, backends: Sequence[Backend], *, has_handler: bool = False) -> None:
        handlers: RunnableConfig = {"callbacks": [BaseCallbackHandler()]}
        self._config = handlers if has_handler else None
        self.runnable = self._over([_chat_model(backend) for backend in backends])

    def _over(self, models: list[Runnable[Any, Any]]) -> Runnable[Any, Any]:
        raise NotImplementedError

    @override
    def call(self, text: str) -> Any:
        return self.runnable.invoke(text, self._config)

    @override
    async def acall(self, text: str) -> Any:
        return await self.runnable.ainvoke(text, self._config)

    @override
    def stream(self, text: str) -> Iterator[Any]:
        return self.runnable.stream(text, self._config)

    @override
    def astream(self, text: str) -> AsyncIterator[Any]:
        return self.runnable.astream(text, self._config)

    @override
    async def abatch(self, texts: list[str]) -> Sequence[Any]:
        return await self.runnable.abatch(texts, self._config)


def _chat_model(backend: Backend) -> Runnable[Any, Any]:
    if backend.url is None:
        return InstantChatModel(backend=backend)
    from langchain_openai import ChatOpenAI  # noqa: PLC0415 - not for models in this process

    return ChatOpenAI(model="gpt-4o-mini", base_url=backend.url, api_key="key", max_retries=0)


class Direct(_LangChain):
    """The bare chat model."""

    name = "direct"
    is_direct = True

    def _over(self, models: list[Runnable[Any, Any]]) -> Runnable[Any, Any]:
        return models[0]


class WithFallbacks(_LangChain):
    """LangChain's own."""

    name = "with_fallbacks"

    def _over(self, models: list[Runnable[Any, Any]]) -> Runnable[Any, Any]:
        return models[0].with_fallbacks(models[1:])


class Gateway(_LangChain):
    """Ours, with windows on every deployment and a preference."""

    name = "gateway"
    policies: ClassVar[dict[str, Any]] = {}

    def _over(self, models: list[Runnable[Any, Any]]) -> Runnable[Any, Any]:
        entries: list[Any] = [
            {"model_name": f"m{i}", "model": model, "time_constraints": WINDOWS}
            for i, model in enumerate(models)
        ]
        return GatewayRunnable(models=entries, model_preference="m0", **self.policies)


class GatewayWithPolicies(Gateway):
    """Ours, with everything on that is about failures."""

    # Not retried: a wait would be measured, not the work.
    name = "gateway + policies"
    policies: ClassVar[dict[str, Any]] = {
        "retry": RetryPolicy(max_attempts=1),
        "cooldown": CooldownPolicy(failure_threshold=3),
        "reject": ("empty", "content_filter", "refusal"),
    }


class _Sharing(_LangChain):
    """Ours, with a rule about traffic."""

    shares = True
    rules: ClassVar[dict[str, Any]] = {}
    limits: ClassVar[dict[str, Any]] = {}

    def _over(self, models: list[Runnable[Any, Any]]) -> Runnable[Any, Any]:
        entries: list[Any] = [
            {"model_name": f"m{i}", "model": model, **self.limits} for i, model in enumerate(models)
        ]
        return GatewayRunnable(models=entries, **self.rules)


class GatewayWeighted(_Sharing):
    """Ours, each in turn."""

    name = "gateway, weighted"
    rules: ClassVar[dict[str, Any]] = {"balance": "weighted"}


class GatewayLeastBusy(_Sharing):
    """Ours, the less busy of two."""

    name = "gateway, least busy"
    rules: ClassVar[dict[str, Any]] = {"balance": "least_busy"}


class GatewayFastest(_Sharing):
    """Ours, the quicker of two."""

    name = "gateway, fastest"
    rules: ClassVar[dict[str, Any]] = {"balance": "fastest"}


class GatewayRequests(_Sharing):
    """Ours, in list order, with a limit of requests that is never reached."""

    name = "gateway, rpm"
    limits: ClassVar[dict[str, Any]] = {"rpm": 1e9}


class GatewayTokens(_Sharing):
    """Ours, with limits of requests and tokens that are never reached."""

    name = "gateway, rpm and tpm"
    limits: ClassVar[dict[str, Any]] = {"rpm": 1e9, "tpm": 1e12}


class GatewayHedging(_Sharing):
    """Ours, ready to ask another, which is never needed."""

    name = "gateway, hedge"
    rules: ClassVar[dict[str, Any]] = {"hedge": HedgePolicy(delay=60)}

    @override
    def call(self, text: str) -> Any:
        raise NotImplementedError  # in threads of their own: another kind of work


class InAThread(_LangChain):
    """A bare model that async callers get in a thread: what an armed hedge is held against."""

    name = "model in a thread"
    shares = True

    def __init__(self, backends: Sequence[Backend], *, has_handler: bool = False) -> None:
        self._config = None
        self.runnable = ThreadedChatModel(backend=backends[0])

    @override
    def call(self, text: str) -> Any:
        raise NotImplementedError


def contenders() -> list[type[Contender]]:
    """Everybody who goes down a list; a peer whose library is not installed is none."""
    from benchmarks import peers  # noqa: PLC0415 - imports libraries that may not be there

    return [Direct, WithFallbacks, Gateway, GatewayWithPolicies, *peers.contenders()]


def sharers() -> list[type[Contender]]:
    """Everybody who shares calls between equal deployments."""
    from benchmarks import peers  # noqa: PLC0415 - as above

    balances = [GatewayWeighted, GatewayLeastBusy, GatewayFastest]
    limits = [GatewayRequests, GatewayTokens]
    return [*balances, *limits, GatewayHedging, InAThread, *peers.sharers()]
