"""A gateway from a configuration: every mistake is found before anything is raised."""

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any, Final, TypeVar, cast, get_args

from langchain_core.runnables import Runnable, RunnablePassthrough
from pydantic import BaseModel, ValidationError

from langchain_model_gateway._arguments import MEANT, nearest, unknown_name
from langchain_model_gateway._text import one_line, redact
from langchain_model_gateway.deployment import ModelDeployment
from langchain_model_gateway.documents import Document, Keys, get, read
from langchain_model_gateway.variables import PLACEHOLDER, Values

# A gateway's class, which cannot be imported here.
G = TypeVar("G", bound=BaseModel)

KEYWORDS: Final = "with"
"""The key of a deployment under which its model's keywords stand."""

_STAND_IN: Final = "(stand-in) "

_PROVIDER: Final = re.compile(r"([A-Za-z_-]+):")
# What any chat model takes: beside `model_name`, they were meant for the model.
_OF_THE_MODEL: Final = frozenset(
    {"api_key", "base_url", "max_retries", "max_tokens", "stop", "temperature", "top_p"}
)
_OF_INIT_CHAT_MODEL: Final = frozenset({"model_provider", "configurable_fields", "config_prefix"})
# A near miss of a keyword; what is like none may be the provider's own.
_MISSPELT: Final = 0.85


def build(
    cls: type[G],
    source: object,
    overrides: Mapping[str, Any],
    inner: type[Any],
    *,
    needs_keys: bool = True,
) -> G:
    """Build a gateway from a configuration.

    Args:
        cls: The class of the gateway.
        source: The path of a YAML or TOML file, or a mapping.
        overrides: The gateway's keywords that replace what is configured.
        inner: The class of gateways inside deployments.
        needs_keys: Whether variables must be set; otherwise a placeholder stands for each that
            is not, and the gateway is good for looking at only.

    Raises:
        ConfigError: If something is wrong; tells all that is.
    """
    document = read(source)
    document.elsewhere = overrides.keys()
    values = Values(document, needs_keys=needs_keys)
    own = values.mapping({k: v for k, v in document.data.items() if k not in overrides}, ())
    gateway = _Builder(document, inner, needs_keys=needs_keys).gateway(cls, own, (), overrides)
    document.check()
    if gateway is None:  # what is a placeholder has told nothing
        document.tell((), "without the variables that are not set, it cannot be built")
        document.check()
    return cast("G", gateway)


# --- objects ---------------------------------------------------------------------------------


class _Builder:
    """Makes objects of values; a stand-in takes the place of what is wrong, to look on."""

    def __init__(self, document: Document, inner: type[Any], *, needs_keys: bool) -> None:
        self.document = document
        self.tell = document.tell
        self.inner = inner
        self.needs_keys = needs_keys

    def gateway(
        self, cls: type[G], values: Mapping[str, Any], keys: Keys, overrides: Mapping[str, Any]
    ) -> G | None:
        fields = self.known(cls, values, keys)
        if "models" not in overrides:
            fields["models"] = self.deployments(fields.get("models"), (*keys, "models"))
            self.check_preference(fields, keys)
        return self.instance(cls, {**fields, **overrides}, keys)

    def check_preference(self, fields: Mapping[str, Any], keys: Keys) -> None:
        """Tell of a preference that is no deployment's name."""
        preference = fields.get("model_preference")
        names = [name for deployment in fields["models"] for name in deployment.by_path()]
        names = [name for name in names if _STAND_IN not in name]
        if isinstance(preference, str) and preference not in names:
            self.tell((*keys, "model_preference"), unknown_name(preference, names))

    def deployments(self, entries: object, keys: Keys) -> list[ModelDeployment]:
        if not isinstance(entries, list) or not entries:
            got = "" if entries in (None, []) else f", got {type(entries).__name__}"
            self.tell(keys, f"give a list of deployments, at least one, better two{got}")
            return _stand_ins(keys)
        made: dict[str, ModelDeployment] = {}
        for i, entry in enumerate(entries):
            deployment = self.deployment(entry, (*keys, i))
            # The first of a name goes on, so that the rest is told too.
            if (name := deployment.model_name) in made:
                told = f"another has the name {name!r} already; names are unique"
                self.tell((*keys, i, "model_name"), told)
            made.setdefault(name, deployment)
        return list(made.values())

    def deployment(self, entry: object, keys: Keys) -> ModelDeployment:
        if isinstance(entry, ModelDeployment):
            return entry
        if not isinstance(entry, Mapping):
            told = "a deployment is a mapping with 'model_name' and 'model'"
            self.tell(keys, f"{told}, got {type(entry).__name__}")
            return _stand_in(None, keys)
        fields = self.known(ModelDeployment, entry, keys, KEYWORDS)
        keywords = fields.pop(KEYWORDS, None)
        if "model" in fields:
            fields["model"] = self.model(fields["model"], keywords, keys)
        made = self.instance(ModelDeployment, fields, keys)
        return made or _stand_in(entry.get("model_name"), keys)

    def instance(self, cls: type[G], fields: Mapping[str, Any], keys: Keys) -> G | None:
        """An object of a class; one without what is wrong, if it can do without."""
        with self.told(keys):
            return cls(**fields)
        if self.document.has_problems and cls is not ModelDeployment:
            return None
        depth = len(keys)
        wrong = {place[depth] for place in self.document.settled if place[:depth] == keys != place}
        wrong -= {"models", "model"}  # objects by now
        with suppress(ValidationError):
            return cls(**{key: value for key, value in fields.items() if key not in wrong})
        return None

    def known(
        self, cls: type[BaseModel], values: Mapping[str, Any], keys: Keys, *also: str
    ) -> dict[str, Any]:
        """The values under keys that a class has, all the way down; tells of the others."""
        names = [*inspect.signature(cls).parameters, *also]
        for key in (key for key in values if key not in names):
            self.tell((*keys, key), unknown_name(key, names, _meant(cls, key)))
        return {
            key: self.within(cls, key, value, (*keys, key))
            for key, value in values.items()
            if key in names
        }

    def within(self, cls: type[BaseModel], key: str, value: Any, keys: Keys) -> Any:
        """A field's value, of policies and windows only what they know."""
        field = cls.model_fields.get(key)
        part = _part(field.annotation) if field else None
        if part and isinstance(value, Mapping):
            return self.known(part, value, keys)
        if part and isinstance(value, list):
            entries = enumerate(value)
            return [
                self.known(part, v, (*keys, i)) if isinstance(v, dict) else v for i, v in entries
            ]
        return value

    @contextmanager
    def told(self, keys: Keys) -> Iterator[None]:
        """Tell of what a class complains of."""
        try:
            yield
        except ValidationError as error:
            for detail in error.errors(include_url=False, include_context=False):
                is_missing = detail["type"] == "missing"
                where = self.place((*keys, *detail["loc"]), is_missing=is_missing)
                message = "is missing" if is_missing else _message(detail["msg"])
                self.tell(where, message + _hint(detail["type"], detail["input"]))

    def place(self, keys: Keys, *, is_missing: bool) -> Keys:
        """Where in the document a complaint belongs: pydantic's own words for places left out."""
        if is_missing or not keys or keys[0] in self.document.elsewhere:
            return keys
        ends = range(len(keys), 0, -1)
        there = (end for end in ends if get(self.document.data, keys[:end]) is not None)
        return keys[: next(there, 1)]

    # --- models ------------------------------------------------------------------------------

    def model(self, value: object, keywords: object, keys: Keys) -> Runnable[Any, Any]:
        where = (*keys, "model")
        if keywords is not None and not isinstance(keywords, Mapping):
            told = "the keywords of the model are a mapping such as {temperature: 0}"
            self.tell((*keys, KEYWORDS), f"{told}, got {type(keywords).__name__}")
            keywords = None
        if isinstance(value, str) and value.strip():
            model = self.made(value, dict(keywords or {}), keys)
            return RunnablePassthrough() if model is None else model
        if keywords:
            self.tell((*keys, KEYWORDS), "only a model that is given as a string takes keywords")
        if isinstance(value, Mapping):
            return self.gateway(self.inner, value, where, {}) or RunnablePassthrough()
        if isinstance(value, Runnable):
            return value
        told = "a model is a string such as 'openai:gpt-4o-mini', or a mapping with 'models'"
        self.tell(where, f"{told}, got {type(value).__name__}")
        return RunnablePassthrough()

    def made(self, text: str, keywords: dict[str, Any], keys: Keys) -> Runnable[Any, Any] | None:
        """The model that `langchain` makes of a string; `None` if it makes none."""
        try:
            from langchain.chat_models import init_chat_model  # noqa: PLC0415 - only for strings
        except ImportError:
            told = "a model given as a string is made by langchain: pip install langchain"
            return self.tell((*keys, "model"), told)
        if unknown := _unknown_provider(text, keywords.get("model_provider")):
            return self.tell((*keys, "model"), unknown)
        try:
            model = self.called(init_chat_model, text, keywords)
        except Exception as error:  # noqa: BLE001 - any provider's own code
            self.tell_failure(error, text, keywords, keys)
            return None
        for keyword, meant in _misspelt(model, keywords):
            told = f"{type(model).__name__} has no {keyword!r}; did you mean {meant}?"
            self.tell((*keys, KEYWORDS, keyword), told)
        return model

    def called(
        self, make: Callable[..., Runnable[Any, Any]], text: str, keywords: Mapping[str, Any]
    ) -> Runnable[Any, Any]:
        try:
            return make(text, **keywords)
        except Exception:
            if not self.needs_keys and "api_key" not in keywords:
                key = f"{PLACEHOLDER}-{text.partition(':')[0]}"
                with suppress(Exception):
                    return make(text, **keywords, api_key=key)
            raise

    def tell_failure(
        self, error: Exception, text: str, keywords: Mapping[str, Any], keys: Keys
    ) -> None:
        """Tell why there is no model: of a keyword where it is one's fault."""
        details = [] if not isinstance(error, ValidationError) else error.errors(include_url=False)
        for detail in details:
            keyword = str((*detail["loc"], "")[0])
            if keyword in keywords:
                self.tell((*keys, KEYWORDS, keyword), _message(detail["msg"]))
            elif not self.is_made_up(keys):
                self.tell((*keys, "model"), _message(detail["msg"]))
        if not details and (isinstance(error, ImportError) or not self.is_made_up(keys)):
            # Its own text could hold the string, and that a key.
            told = one_line(redact(str(error).replace(text, "..."), self.document.secrets), 200)
            self.tell((*keys, "model"), f"langchain makes no model of it: {told}")

    def is_made_up(self, keys: Keys) -> bool:
        """Whether a keyword of the model is no real value."""
        prefix = (*keys, KEYWORDS)
        return any(settled[: len(prefix)] == prefix for settled in self.document.settled)


def _stand_in(name: object, keys: Keys) -> ModelDeployment:
    """A deployment in the place of one that is wrong."""
    is_name = isinstance(name, str) and name.strip()
    made_up = _STAND_IN + ".".join(map(str, keys))
    return ModelDeployment(
        model_name=str(name) if is_name else made_up, model=RunnablePassthrough()
    )


def _stand_ins(keys: Keys) -> list[ModelDeployment]:
    # Two: of a single one, a gateway warns.
    return [_stand_in(None, (*keys, i)) for i in range(2)]


def _part(annotation: Any) -> type[BaseModel] | None:
    """The policy or window class in a field's type."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return None if annotation is ModelDeployment else annotation
    return next((part for each in get_args(annotation) if (part := _part(each))), None)


def _meant(cls: type[BaseModel], key: str) -> str | None:
    """What is meant by a key that a class does not have, as a file has it."""
    if cls is ModelDeployment and key in _OF_THE_MODEL:
        return f"{KEYWORDS}: {{{key}: ...}}"
    meant = MEANT.get(cls.__name__, {}).get(key)
    return meant and re.sub(r"(\w+)=\w+\((?:(\w+)=)?\.\.\.\)", r"\1: {\2: ...}", meant)


def _message(told: str) -> str:
    return told.removeprefix("Value error, ")


def _hint(kind: str, value: object) -> str:
    """What a class cannot know of a file."""
    if kind in {"callable_type", "is_instance_of"}:
        return "; give it in code: from_config(..., key=value)"
    for each in value if isinstance(value, list) else [value]:
        if type(each) is int and 60 <= each < 24 * 60:  # noqa: PLR2004
            time = f"{each // 60}:{each % 60:02}"
            return f"; if {time} was meant, quote the time: YAML 1.1 reads it as {each}"
    return ""


@cache
def _providers() -> frozenset[str]:
    """The providers that langchain knows, as its own error lists them; none if it doesn't."""
    from langchain.chat_models import init_chat_model  # noqa: PLC0415 - only for strings

    try:
        init_chat_model("?")
    except ValueError as error:
        listed = re.search(r"Supported providers: (.+)", str(error))
        return frozenset(listed[1].split(", ")) if listed else frozenset()
    return frozenset()


def _unknown_provider(text: str, given: object) -> str | None:
    """Tell that a model's string, or the keyword beside it, names no provider."""
    known = _providers()
    name = given if isinstance(given, str) else None
    if name is None and (prefix := _PROVIDER.match(text)):
        name = prefix[1]
    is_known = name is None or not known or name in known
    if is_known or (given and str(name).replace("-", "_").lower() in known):
        return None
    near = nearest(str(name), known)
    hint = f"did you mean {near}?" if near else f"there are: {', '.join(sorted(known))}"
    return f"the provider {one_line(str(name), 60)!r} is unknown; {hint}"


def _misspelt(model: object, keywords: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The keywords that a model does not have, each with the one that is meant."""
    fields = getattr(type(model), "model_fields", {})
    aliases = {field.alias for field in fields.values() if field.alias}
    known = {*fields, *aliases, *_OF_INIT_CHAT_MODEL}
    for keyword in keywords.keys() - known:
        if fields and (meant := nearest(keyword, known, _MISSPELT)):
            yield keyword, meant
