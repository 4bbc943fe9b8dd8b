"""A conversation as the next client takes it, whoever began it.

Clients read back what they wrote themselves: reasoning with its signature, the ids of stored
items, blocks of their own. Another client sends these on as they are, and its provider rejects
them, or it raises before anything is sent.

Pure: no input or output, and nothing is changed in place.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Final, NamedTuple, Protocol

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, convert_to_openai_messages
from langchain_core.prompt_values import ChatPromptValue

from langchain_model_gateway.answers import STAMP


class Client(NamedTuple):
    """What kind of client a deployment has.

    Attributes:
        kind: Clients of one kind read each other's messages.
        signs: What its messages may say in `response_metadata["model_provider"]`.
        marks: The cache marks it knows; `None` where that is not known.
        stores: Whether it speaks OpenAI's Responses API, whose messages refer to stored items;
            `None` where each request decides.
    """

    kind: str
    signs: frozenset[str]
    marks: frozenset[str] | None
    stores: bool | None


class Deployment(Protocol):
    """A deployment, as far as a conversation is concerned."""

    @property
    def client(self) -> Client | None:
        """What kind of client it has."""

    @property
    def model_name(self) -> str:
        """Its name."""


# Where a client keeps its mark: a keyword, a key of a content block, or a block of its own.
_ANTHROPIC_MARKS: Final = frozenset({"cache_control"})
_BEDROCK_MARKS: Final = frozenset({"cache_control", "cachePoint"})
_GOOGLE_MARKS: Final = frozenset({"cached_content"})
_OPENAI_MARKS: Final = frozenset(
    {"prompt_cache_key", "prompt_cache_retention", "prompt_cache_options"}
    | {"prompt_cache_breakpoint"}
)
_MARKS: Final = _ANTHROPIC_MARKS | _BEDROCK_MARKS | _GOOGLE_MARKS | _OPENAI_MARKS
_NO_MARKS: Final[frozenset[str]] = frozenset()

# By the name of the class, so that no client library is imported: the kind, what its messages
# say of their maker besides, and the cache marks it knows.
_CLIENTS: Final[Mapping[str, tuple[str, tuple[str, ...], frozenset[str]]]] = {
    "AzureChatOpenAI": ("azure", ("openai",), _OPENAI_MARKS),
    "BaseChatOpenAI": ("openai", (), _OPENAI_MARKS),
    "ChatAnthropic": ("anthropic", (), _ANTHROPIC_MARKS),
    "ChatBedrock": ("bedrock", (), _ANTHROPIC_MARKS),
    "ChatBedrockConverse": ("bedrock_converse", (), _BEDROCK_MARKS),
    "ChatCohere": ("cohere", (), _NO_MARKS),
    "ChatDeepSeek": ("deepseek", (), _NO_MARKS),
    "ChatFireworks": ("fireworks", (), frozenset({"prompt_cache_key"})),
    "ChatGoogleGenerativeAI": ("google_genai", ("google_vertexai",), _GOOGLE_MARKS),
    "ChatGroq": ("groq", (), _NO_MARKS),
    "ChatHuggingFace": ("huggingface", (), _NO_MARKS),
    # These pass on whatever the model behind them takes.
    "ChatLiteLLM": ("litellm", (), _MARKS),
    "ChatMistralAI": ("mistralai", (), _NO_MARKS),
    "ChatNVIDIA": ("nvidia", (), _NO_MARKS),
    "ChatOllama": ("ollama", (), _NO_MARKS),
    "ChatOpenRouter": ("openrouter", (), _MARKS),
    "ChatPerplexity": ("perplexity", (), _NO_MARKS),
    "ChatVertexAI": ("google_vertexai", ("google_genai",), _GOOGLE_MARKS),
    "ChatXAI": ("xai", (), _NO_MARKS),
}


def client_of(model: object, provider: str) -> Client | None:
    """What kind of client a model is.

    Args:
        model: A deployment's model itself.
        provider: Who serves it, as traces name it.

    Returns:
        `None` where it is none, as a gateway, which translates for its own deployments.
    """
    names = [each.__name__ for each in type(model).__mro__]
    if not isinstance(model, BaseChatModel) or "GatewayRunnable" in names:
        return None
    stores = getattr(model, "use_responses_api", None)
    for name in names:
        if name in _CLIENTS:
            kind, aliases, marks = _CLIENTS[name]
            if getattr(model, "beta_use_converse_api", False):
                kind, aliases, marks = _CLIENTS["ChatBedrockConverse"]
            return Client(kind, frozenset({kind, *aliases, provider}), marks, stores)
    return Client(names[0], frozenset({provider}), None, stores)


def translated(
    value: Any,
    keywords: dict[str, Any],
    target: Deployment,
    deployments: Mapping[str, Deployment],
) -> tuple[Any, dict[str, Any]]:
    """A call's input and keywords as a deployment's client takes them.

    Each message that another kind of client made is replaced by a copy with what every provider
    takes: text, tool calls and their ids, `name`. Cache marks go for a client that does not know
    them. All else comes back as the very same object.

    Args:
        value: A string, messages in any form, or a prompt value.
        keywords: What the call gives to every model.
        target: The deployment to be asked.
        deployments: Every deployment of the gateway by name, to read its stamps.
    """
    is_text = type(value) is str
    if (is_text and not keywords) or (client := target.client) is None:
        return value, keywords
    if keywords:
        keywords = _known(keywords, client)
    messages = value
    if type(value) is not list:  # the most frequent, and asking pydantic takes a microsecond
        messages = value.messages if not is_text and isinstance(value, ChatPromptValue) else value
        if not isinstance(messages, (list, tuple)):
            return value, keywords
    changed: dict[int, Any] = {}
    for position, message in enumerate(messages):
        is_message, is_answer = _form(message.__class__)
        if is_answer and _is_foreign(message, client, target, deployments):
            changed[position] = _plain(message, client)
            continue
        content = message.content if is_message else _content(message)
        if type(content) is list and (marks := _unknown_marks(content, client)):
            changed[position] = _with_content(message, _unmarked(content, marks))
    if not changed:
        return value, keywords
    given = (changed.get(position, message) for position, message in enumerate(messages))
    return [message for message in given if message is not None], keywords


# --- who made it ------------------------------------------------------------------------------


def _is_foreign(
    message: AIMessage,
    client: Client,
    target: Deployment,
    deployments: Mapping[str, Deployment],
) -> bool:
    """Whether another kind of client made a message; `False` where nothing tells who did."""
    metadata = message.response_metadata
    if not metadata:
        return False
    sign = metadata.get("model_provider")
    maker = _stamped(metadata, deployments)
    origin = None if maker is None else maker.client
    # A stamp that its message contradicts is another gateway's, or the name has changed hands.
    if origin is not None and (sign is None or sign in origin.signs):
        is_own = origin.kind == client.kind
    elif sign is not None:
        is_own, maker = sign in client.signs, None
    else:
        return False
    # OpenAI has two interfaces, and what one has stored or put in blocks the other cannot read.
    if not is_own or type(message.content) is str:
        return not is_own
    is_stored = metadata.get("object") == "response"
    # Where each request decides, the next will decide as the one before.
    if client.stores is None:
        stores = maker is not None and maker.model_name == target.model_name and is_stored
    else:
        stores = client.stores
    return is_stored != stores


def _stamped(
    metadata: Mapping[str, Any], deployments: Mapping[str, Deployment]
) -> Deployment | None:
    """The deployment that a message's stamp names, if it is one of these."""
    stamp = metadata.get(STAMP)
    name = stamp.get("model_name") if isinstance(stamp, dict) else None
    return deployments.get(name) if isinstance(name, str) else None


# --- what every provider takes ----------------------------------------------------------------


def _plain(message: AIMessage, client: Client) -> AIMessage | None:
    """A copy with what every provider takes; `None` where that is nothing.

    Several providers reject a message with neither text nor a tool call.
    """
    calls = [
        {"name": call["name"], "args": call["args"], "id": call["id"], "type": "tool_call"}
        for call in message.tool_calls
    ]
    text = str(message.text)
    if not text and not calls:
        return None
    plain = AIMessage(content=text, tool_calls=calls, name=message.name)
    if calls and client.kind == "nvidia":  # it reads them there only
        plain.additional_kwargs["tool_calls"] = convert_to_openai_messages(plain)["tool_calls"]
    return plain


def _known(keywords: dict[str, Any], client: Client) -> dict[str, Any]:
    """Keywords without the cache marks that a client does not know."""
    if client.marks is None or (_MARKS - client.marks).isdisjoint(keywords):
        return keywords
    return {k: v for k, v in keywords.items() if k in client.marks or k not in _MARKS}


def _unknown_marks(content: Sequence[Any], client: Client) -> frozenset[str]:
    """The cache marks in content that a client does not know."""
    if client.marks is None:
        return _NO_MARKS
    keys = (key for block in content if isinstance(block, dict) for key in block)
    return _MARKS.intersection(keys) - client.marks


def _unmarked(content: Sequence[Any], marks: frozenset[str]) -> list[Any]:
    """Content without these cache marks; a block that was nothing else goes."""
    blocks = [
        {key: value for key, value in block.items() if key not in marks}
        if isinstance(block, dict)
        else block
        for block in content
    ]
    return [block for block in blocks if block != {}]


# --- the forms of a message -------------------------------------------------------------------


@cache
def _form(kind: type) -> tuple[bool, bool]:
    """Whether a class is a message's, and an answer's."""
    return issubclass(kind, BaseMessage), issubclass(kind, AIMessage)


def _content(message: Any) -> Any:
    """The content of what is no message object: a dict, or a pair of role and content."""
    if isinstance(message, dict):
        return message.get("content")
    return message[1] if isinstance(message, tuple) and len(message) == 2 else None  # noqa: PLR2004


def _with_content(message: Any, content: list[Any]) -> Any:
    """A copy of a message of any form with other content."""
    if isinstance(message, BaseMessage):
        return message.model_copy(update={"content": content})
    return {**message, "content": content} if isinstance(message, dict) else (message[0], content)
