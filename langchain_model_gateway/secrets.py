"""Where a model's secrets are: by name and by value, in its objects and in its payload."""

import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from functools import cached_property, partial
from types import FunctionType, MethodType, ModuleType, UnionType
from typing import Annotated, Any, Final, Union, get_args, get_origin

from langchain_core.language_models import BaseLanguageModel
from langchain_core.load.serializable import Serializable
from pydantic import BaseModel, SecretBytes, SecretStr

# A shorter one is a placeholder, and stands in other words by chance.
_LEAST_LENGTH: Final = 8
_MOST_OBJECTS: Final = 1_000
_MOST_MEMBERS: Final = 1_000

_SECRET_NAME: Final = re.compile(
    r"""(?ix)
    (?:api|access|secret|private|subscription|auth)[-_]?key(?:_id)?$
    | (?:api|auth|authorization|access|ad|bearer|session|security|refresh)[-_]?token$
    | secret$ | passw(?:or)?d$ | authorization$ | cookie$
    """
)
_SECRET_IN_URL: Final = re.compile(
    r"""(?ix)
    ://(?:[^/\s?#@:"]*:)?([^/\s?#@"]+)@        # user:password@ or key@
    | [?&](?:[\w-]*(?:key|token|secret|password)|sig|signature)=([^&\#\s"]+)
    """
)
_SCHEME: Final = re.compile(r"(?i)^(?:bearer|basic|token)\s+")

_SECRET_VARIABLE: Final = re.compile(
    r"""(?ix)
    (?:^|_)(?:\w*KEY|TOKEN|SECRET|PASSWORD|CREDENTIALS?|AUTH|HEADERS)(?:_|$)
    (?!\w*(?:FILE|PATH|DIR|SOCK)$)
    """
)
# The SDKs read these for other APIs of theirs; no call to a chat model sends them.
_NEVER_SENT: Final = frozenset({"admin_api_key", "webhook_secret", "webhook_key"})
# What signs a client in with credentials that lie on the machine, not in the payload.
_LOCAL_CREDENTIALS: Final = re.compile(r"^(?:vertexai|project|credentials?|credentials_.*)$")


# --- in objects ------------------------------------------------------------------------------


def secret_values(model: object) -> tuple[str, ...]:
    """The values of a model's secrets, the longest first; never raises.

    Found are `SecretStr`s, what the class declares in `lc_secrets`, whatever is called a key, a
    token or a password (headers included), and passwords and keys in URLs, also in the clients
    inside and in what bindings, chains, fallbacks and gateways are made of.

    Args:
        model: A chat model, or any runnable around one.
    """
    found = {
        secret
        for name, value, is_declared in _held(model)
        if isinstance(value, str)
        for secret in _secrets_in(name, value, is_declared=is_declared)
    }
    return tuple(sorted(found, key=lambda secret: (-len(secret), secret)))


def plain_secrets(data: object) -> Iterator[str]:
    """The secrets that stand in plain text in a payload, by their names or in URLs."""
    for name, value in texts(data):
        yield from _secrets_in(name, value, is_declared=False)


def texts(data: object, name: str = "") -> Iterator[tuple[str, str]]:
    """Every text in plain data, with the name it has there; keys are texts too."""
    if isinstance(data, str):
        yield name, data
    elif isinstance(data, dict):
        for key, value in data.items():
            yield "", str(key)
            yield from texts(value, str(key))
    elif isinstance(data, (list, tuple)):
        for value in data:
            yield from texts(value, name)


def _secrets_in(name: str, text: str, *, is_declared: bool) -> Iterator[str]:
    if is_declared or _SECRET_NAME.search(name):
        found = [_SCHEME.sub("", text.strip())]
    else:
        found = ["".join(groups) for groups in _SECRET_IN_URL.findall(text)]
    # What is all asterisks is masked already.
    yield from (secret for secret in found if len(secret) >= _LEAST_LENGTH and secret.strip("*"))


def models_in(runnable: object) -> list[BaseLanguageModel[Any]]:
    """The language models inside a runnable, itself included."""
    return [value for _, value, _ in _held(runnable) if isinstance(value, BaseLanguageModel)]


def _held(
    root: object, most: int = _MOST_OBJECTS, *, build: bool = False
) -> Iterator[tuple[str, Any, bool]]:
    """Every value in an object, nearest first: its name there, and if it is declared a secret.

    Args:
        root: Where to begin.
        most: How many objects to look into.
        build: Whether to make the clients that are made at a first call.
    """
    queue = deque[tuple[str, Any, bool]]([("", root, False)])
    seen: dict[int, object] = {}  # the objects too: an id is another's once its owner is gone
    while queue and len(seen) < most:
        name, value, is_declared = queue.popleft()
        with suppress(Exception):  # foreign code, which may raise when looked at
            if isinstance(value, (SecretStr, SecretBytes)):
                value, is_declared = value.get_secret_value(), True
            if isinstance(value, bytes):
                value = value.decode("latin-1")
            if value is None or isinstance(value, (str, int, float)):
                yield name, value, is_declared
            elif id(value) not in seen and not _is_foreign(value):
                seen[id(value)] = value
                yield name, value, is_declared
                declared = _declared(value)
                for key, member in _members(value, build=build):
                    label = key or name
                    queue.append((label, member, is_declared or label in declared))


def _is_foreign(value: object) -> bool:
    """Whether what it holds is the process's, not the model's."""
    modules = {"asyncio", "logging", "threading", "ssl", "weakref"}
    return (
        value is os.environ
        or isinstance(value, (type, ModuleType))
        or type(value).__module__.partition(".")[0] in modules
    )


def _members(value: Any, *, build: bool) -> Iterable[tuple[str, Any]]:
    if isinstance(value, Mapping):
        return [(_name(k), v) for k, v in value.items()] if len(value) < _MOST_MEMBERS else []
    if isinstance(value, (list, tuple, set, frozenset)):
        return [("", each) for each in value] if len(value) < _MOST_MEMBERS else []
    if isinstance(value, partial):
        return [("", value.func), ("", value.args), ("", value.keywords)]
    if isinstance(value, MethodType):
        return [("", value.__self__)]
    if isinstance(value, FunctionType):
        cells = value.__closure__ or ()
        return list(zip(value.__code__.co_freevars, (c.cell_contents for c in cells), strict=True))
    if build and isinstance(value, BaseModel):
        _wake(value)
    slots = [n for c in type(value).__mro__ for n in getattr(c, "__slots__", ()) if n != "__dict__"]
    held = [(name, getattr(value, name, None)) for name in slots]
    return [*getattr(value, "__dict__", {}).items(), *held]


def _name(key: object) -> str:
    return key.decode("latin-1") if isinstance(key, bytes) else str(key)


def _wake(model: BaseModel) -> None:
    """Make the clients that a model makes when first asked for them."""
    for cls in type(model).__mro__:
        for name, attribute in vars(cls).items():
            if isinstance(attribute, cached_property) and "client" in name:
                with suppress(Exception):
                    getattr(model, name)


def _declared(value: object) -> Mapping[str, str]:
    """What the class of a LangChain object, or of a blank one, says its secrets are."""
    if not isinstance(value, Serializable):
        return {}
    try:
        return dict(value.lc_secrets)
    except Exception:  # noqa: BLE001 - foreign code; what cannot be read is all taken for one
        return dict.fromkeys(type(value).model_fields, "")


# --- in the environment ----------------------------------------------------------------------


def found_by_itself(model: object, given: Iterable[str]) -> list[str]:
    """Where a model got secrets from that nobody gave it.

    Args:
        model: A model that was just made.
        given: All texts of its payload, secrets filled in.

    Returns:
        The names of environment variables, and what else tells of credentials of this machine.
    """
    known = "\n".join(given)
    held = list(_held(model, 20 * _MOST_OBJECTS, build=True))
    text = "\n".join(
        value for name, value, _ in held if isinstance(value, str) and name not in _NEVER_SENT
    )
    sources = [
        variable
        for variable, value in os.environ.items()
        if _SECRET_VARIABLE.search(variable)
        and any(_stands_in(part, text) and part not in known for part in _parts(variable, value))
    ]
    if any(name == "vertexai" and value is True for name, value, _ in held):
        sources.append("Google's application default credentials")
    return sources


def _stands_in(part: str, text: str) -> bool:
    """Whether it stands in the text by itself, not by chance within a longer word."""
    return part in text and bool(re.search(rf"(?<![\w-]){re.escape(part)}(?![\w-])", text))


def _parts(variable: str, value: str) -> list[str]:
    """What of a variable's value would be seen in a client: of a list of headers, each."""
    parts = re.split(r"[\n:]", value) if "HEADERS" in variable.upper() else [value]
    return [part.strip() for part in parts if len(part.strip()) >= _LEAST_LENGTH]


# --- in constructors' arguments --------------------------------------------------------------


def close_gaps(
    cls: type[Serializable], arguments: dict[str, Any], placeholder: Callable[[str], str]
) -> None:
    """Leave no secret for a client to find by itself: one that was left out, it looks for.

    Args:
        cls: The class to be constructed.
        arguments: Its constructor's arguments, changed in place.
        placeholder: Makes what stands in the place of a secret, of its name.

    Raises:
        ValueError: If the arguments ask for credentials that lie on this machine.
    """
    for name, value in arguments.items():
        if value and name in cls.model_fields and _LOCAL_CREDENTIALS.search(name):
            raise ValueError(
                f"{name!r} makes {cls.__name__} sign in with this machine's own credentials; "
                "load it with secrets_from_env=True if it may"
            )
    spelled = {field: _spellings(cls, field) for field in _secret_fields(cls)}
    present = {s for names in spelled.values() if any(map(arguments.get, names)) for s in names}
    for field, secret in _secret_fields(cls).items():
        names = spelled[field]
        if not any(map(arguments.get, names)):
            for name in names:
                arguments.pop(name, None)
            # Beside another secret none is needed, and a wrong one would be used in its place.
            is_optional = type(None) in _types(cls.model_fields[field].annotation)
            arguments[names[0]] = None if present and is_optional else placeholder(secret)


def _secret_fields(cls: type[Serializable]) -> dict[str, str]:
    """The fields of a class that take a secret's text, each with the secret's name."""
    declared = _declared(cls.__new__(cls))  # a property of instances, though the same for all
    fields = {}
    for name, field in cls.model_fields.items():
        kinds = _types(field.annotation)
        is_secret = name in declared or SecretStr in kinds or _SECRET_NAME.search(name)
        if is_secret and kinds & {str, SecretStr}:
            fields[name] = declared.get(name, name)
    return fields


def _spellings(cls: type[Serializable], field: str) -> list[str]:
    """The names a field's argument may have, the one that counts first."""
    info = cls.model_fields[field]
    aliases = [getattr(info.validation_alias, "choices", info.validation_alias), info.alias]
    flat = [a for each in aliases for a in (each if isinstance(each, list) else [each])]
    return list(dict.fromkeys([*(a for a in flat if isinstance(a, str)), field]))


def _types(annotation: Any) -> set[Any]:
    """The types that an annotation allows, unions taken apart."""
    if get_origin(annotation) is Annotated:
        return _types(get_args(annotation)[0])
    if get_origin(annotation) in {Union, UnionType}:
        return {kind for each in get_args(annotation) for kind in _types(each)}
    return {annotation}
