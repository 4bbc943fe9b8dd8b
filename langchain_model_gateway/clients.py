"""What each client library does by itself: how often it calls, how long it waits, and whom it asks.

Measured with the real clients against a server that fails; no client library is imported. A
client that is not in the table is read by the names that most of them use.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, NamedTuple

from langchain_core.runnables import RunnableSequence, RunnableWithFallbacks
from langchain_core.runnables.base import RunnableBindingBase
from pydantic import SecretStr

Keywords = Mapping[str, Any]


class Retries(NamedTuple):
    """How often a model may really call for one attempt.

    Attributes:
        calls: The most requests; infinite where nothing but time ends them.
        settings: What to set so that it is one.
    """

    calls: float
    settings: tuple[str, ...] = ()


class _Client(NamedTuple):
    """One client library.

    Attributes:
        library: Its name.
        calls: The most requests for one call, by the model and the keywords bound to it.
        setting: What makes it one request.
        timeouts: Where its timeout stands, the first that is set.
        default: Seconds it waits where none is set; `None` if that is not known.
        unit: Seconds of one unit of its timeout.
        home: The address it asks where none is set, if it needs no key either.
    """

    library: str
    calls: Callable[[object, Keywords], float]
    setting: str = "set max_retries=0"
    timeouts: tuple[str, ...] = ("request_timeout",)
    default: float | None = math.inf
    unit: float = 1.0
    home: str = ""


def retries(model: object, keywords: Keywords | None = None) -> Retries:
    """How often `model` may really call for one attempt, wherever in it the retries are."""
    keywords = keywords or {}
    match model:
        case RunnableSequence():
            return max((retries(step) for step in model.steps), key=lambda each: each.calls)
        case RunnableWithFallbacks():
            return _one_after_the_other([retries(each, keywords) for each in model.runnables])
        case RunnableBindingBase():
            inner = retries(model.bound, {**model.kwargs, **keywords})
            # Its own field only: a binding shows the attributes of what it binds as if its own.
            if "max_attempt_number" not in type(model).model_fields:
                return inner
            attempts = int(getattr(model, "max_attempt_number", 1))
            return Retries(attempts * inner.calls, ("drop with_retry()", *inner.settings))
        case _:
            client = _client(model)
            calls = client.calls(model, keywords)
            return Retries(calls, (client.setting,) if calls > 1 else ())


def timeout(model: object) -> float | None:
    """Seconds one request may take: infinite where the client waits for ever, `None`: unknown."""
    client = _client(model)
    for path in client.timeouts:
        if (seconds := _seconds(_peek(model, path))) is not None:
            return seconds * client.unit
    return client.default


def endpoint(model: object) -> tuple[object, ...] | None:
    """What two models have in common that ask one endpoint with one key; `None`: no endpoint.

    The keys themselves are in it: compare it, never show it.
    """
    client = _client(model)
    # HuggingFace's and NVIDIA's models keep address and key in an object of their own.
    holders = (model, _peek(model, "llm"), _peek(model, "__pydantic_private__._client"))
    fields = [field for holder in holders for field in _fields(holder)]
    places = sorted(
        (name, value.rstrip("/"))
        for name, value in fields
        if isinstance(value, str) and value and name.endswith(_PLACES)
    )
    keys = [key for name, value in fields if (key := _key(name, value)) is not None]
    if not (places or keys or client.home):
        return None
    return (client.library, _provider_prefix(client, model), *places, *sorted(map(str, keys)))


def bound_keywords(model: object) -> Keywords:
    """The keywords that the bindings around a model have bound, the outermost first."""
    found: dict[str, Any] = {}
    while isinstance(model, RunnableBindingBase):
        found = {**model.kwargs, **found}
        model = model.bound
    return found


def profile(model: object) -> Mapping[str, Any]:
    """What a model says it can do; empty where it says nothing."""
    found = _peek(model, "profile")
    return found if isinstance(found, Mapping) else {}


# --- reading ---------------------------------------------------------------------------------

_PLACES: Final = (
    *("api_base", "api_url", "base_url", "endpoint", "endpoint_url", "server_url"),
    *("region_name", "location", "project"),
)
_KEYS: Final = ("api_key", "api_token", "access_key_id", "access_key", "profile_name")
_KEY_GIVERS: Final = ("api_key", "token_provider", "credentials")


def _client(model: object) -> _Client:
    names = [cls.__name__ for cls in type(model).__mro__]
    path = f"{type(model).__module__}.{names[0]}"
    return next((_CLIENTS[name] for name in names if name in _CLIENTS), _unknown(path))


def _peek(value: Any, path: str) -> Any:
    """What stands at a dotted path, or `None`; what raises when it is looked at is nothing."""
    try:
        for name in path.split("."):
            value = value.get(name) if isinstance(value, Mapping) else getattr(value, name, None)
    except Exception:  # noqa: BLE001 - foreign code
        return None
    return value


def _fields(value: object) -> Iterator[tuple[str, Any]]:
    yield from getattr(value, "__dict__", {}).items()


def _key(name: str, value: object) -> object:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, str) and name.endswith(_KEYS):
        return value or None
    # A function or an object that gives keys is as good as one.
    return id(value) if value is not None and name.endswith(_KEY_GIVERS) else None


def _provider_prefix(client: _Client, model: object) -> str:
    """The provider that LiteLLM reads off the model's name: it has no address of its own."""
    return str(_peek(model, "model")).partition("/")[0] if client.library == "litellm" else ""


def _seconds(timeout: Any) -> float | None:
    """The seconds a client waits for an answer, in whichever form its timeout is written."""
    if isinstance(timeout, (tuple, list)) and timeout:  # (connect, read, ...), as httpx takes it
        timeout = timeout[1] if len(timeout) > 1 else timeout[0]
    seconds = getattr(timeout, "read", timeout)
    return float(seconds) if isinstance(seconds, (int, float)) else None


def _one_after_the_other(branches: list[Retries]) -> Retries:
    if max(branch.calls for branch in branches) == 1:
        return Retries(1)  # each asked once: nothing is retried
    settings = dict.fromkeys(setting for branch in branches for setting in branch.settings)
    return Retries(sum(branch.calls for branch in branches), tuple(settings))


# --- the client libraries --------------------------------------------------------------------


def _number(model: object, *paths: str, default: int = 0) -> int:
    values = (_peek(model, path) for path in paths)
    return next((value for value in values if isinstance(value, int)), default)


def _retries_after_the_first(model: object, _: Keywords) -> float:
    return 1 + _number(model, "max_retries", "root_client.max_retries")


def _attempts(model: object, keywords: Keywords) -> float:
    """The libraries that call attempts retries: 0 and 1 are both one request."""
    return max(1, _number({**dict(_fields(model)), **keywords}, "max_retries"))


def _botocore(model: object, _: Keywords) -> float:
    default = _number(model, "client.meta.config.retries.total_max_attempts", default=3)
    return 1 + _number(model, "max_retries", default=default - 1)


def _litellm(model: object, keywords: Keywords) -> float:
    """Two loops, the inner one of LiteLLM's own client."""
    given = {**(_peek(model, "model_kwargs") or {}), **keywords}
    return _attempts(model, {}) * (1 + _number(given, "max_retries", default=2))


def _cohere(_: object, keywords: Keywords) -> float:
    return 1 + _number(keywords, "request_options.max_retries", default=2)


def _openrouter(_: object, keywords: Keywords) -> float:
    return 1 if "retries" in keywords and keywords["retries"] is None else math.inf


def _once(_: object, __: Keywords) -> float:
    return 1


def _unknown(path: str) -> _Client:
    timeouts = ("request_timeout", "timeout", "root_client.timeout")
    return _Client(path, _retries_after_the_first, timeouts=timeouts, default=None)


_BEDROCK: Final = _Client("bedrock", _botocore, timeouts=("client.meta.config.read_timeout",))
_CLIENTS: Final = {
    "BaseChatOpenAI": _Client(
        "openai", _retries_after_the_first, timeouts=("request_timeout", "root_client.timeout")
    ),
    "ChatAnthropic": _Client(
        "anthropic", _retries_after_the_first, timeouts=("default_request_timeout",)
    ),
    "ChatBedrock": _BEDROCK,
    "ChatBedrockConverse": _BEDROCK,
    "ChatCohere": _Client(
        *("cohere", _cohere, 'call .bind(request_options={"max_retries": 0})', ("timeout_seconds",))
    ),
    "ChatFireworks": _Client("fireworks", _retries_after_the_first),
    "ChatGoogleGenerativeAI": _Client("google", _attempts, "set max_retries=1", ("timeout",)),
    "ChatGroq": _Client("groq", _retries_after_the_first),
    "ChatHuggingFace": _Client("huggingface", _once, timeouts=("llm.timeout",)),
    "ChatLiteLLM": _Client(
        *("litellm", _litellm, 'set max_retries=1 and model_kwargs={"max_retries": 0}'), default=600
    ),
    "ChatMistralAI": _Client("mistral", _attempts, "set max_retries=1", ("timeout",)),
    "ChatNVIDIA": _Client("nvidia", _once, timeouts=("_client.timeout",), default=60),
    "ChatOllama": _Client(
        "ollama",
        _once,
        timeouts=("client_kwargs.timeout", "sync_client_kwargs.timeout"),
        home="localhost",
    ),
    "ChatOpenRouter": _Client("openrouter", _openrouter, "call .bind(retries=None)", unit=0.001),
    "ChatPerplexity": _Client(
        "perplexity", _retries_after_the_first, timeouts=("request_timeout", "client.timeout")
    ),
}
