"""A gateway as data: LangChain's `dumpd`/`load`, made safe by default, and pickle by way of it."""

import builtins
import json
import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from typing import TYPE_CHECKING, Any, Final, TypeVar

import langchain_core.exceptions
from langchain_core._api import suppress_langchain_beta_warning
from langchain_core.load import dumpd
from langchain_core.load import load as load_beta
from langchain_core.load.load import InitValidator, default_init_validator
from langchain_core.load.serializable import Serializable
from pydantic import BaseModel, SecretStr

from langchain_model_gateway._text import one_line
from langchain_model_gateway.classify import quote
from langchain_model_gateway.deployment import ModelDeployment

if TYPE_CHECKING:
    from langchain_model_gateway.gateway import GatewayRunnable

logger: Final = logging.getLogger("langchain_model_gateway")

G = TypeVar("G", bound="GatewayRunnable")

_PASSWORD_IN_URL: Final = re.compile(r"://[^/\s:@\"]*:[^/\s@\"]+@")
# A shorter one is a placeholder, and stands in other words by chance.
_LEAST_KEY_LENGTH: Final = 8
_ENDPOINT_KEYS: Final = ("base_url", "api_base", "endpoint", "host")


def plain_arguments(gateway: "GatewayRunnable") -> dict[str, Any]:
    """The constructor's arguments as plain data, each model in its own LangChain form.

    Raises:
        ValueError: If one has no serialized form.
    """
    fields = type(gateway).model_fields
    arguments = {
        name: _plain(value)
        for name, value in gateway
        if name not in {"models", "exceptions_to_handle"}
        and not fields[name].exclude
        and value != fields[name].default
    }
    if gateway.exceptions_to_handle != fields["exceptions_to_handle"].default:
        arguments["exceptions_to_handle"] = list(map(_exception_name, gateway.exceptions_to_handle))
    for deployment in gateway.models:
        _check_serializable(deployment)
    return {"models": [_plain_deployment(deployment) for deployment in gateway.models], **arguments}


def serialize(gateway: "GatewayRunnable") -> dict[str, Any]:
    """`dumpd(gateway)`, with a warning where deployments would get each other's keys."""
    data: dict[str, Any] = dumpd(gateway)
    endpoints: dict[str, dict[str, str]] = {}
    for entry in data["kwargs"]["models"]:
        for secret in _secret_names(entry["model"]):
            endpoints.setdefault(secret, {})[entry["model_name"]] = endpoint(entry["model"])
    for secret, by_name in endpoints.items():
        if len(set(by_name.values())) > 1:
            logger.warning(
                "%s have different endpoints but both call their key %s; load them with "
                "deployment_secrets={...}, or one endpoint gets the other's key",
                " and ".join(one_line(name, 60) for name in by_name),
                secret,
            )
    return data


def deserialize(
    cls: type[G],
    data: object,
    *,
    allowed_objects: Sequence[type[Serializable]],
    secrets_map: Mapping[str, str],
    deployment_secrets: Mapping[str, Mapping[str, str]],
    secrets_from_env: bool,
    init_validator: InitValidator | None,
) -> G:
    """`load` with the package's own part filled in, and each deployment its own secrets."""
    arguments, entries = _checked_payload(cls, data)
    names = [entry["model_name"] for entry in entries]
    if unknown := deployment_secrets.keys() - set(names):
        raise ValueError(f"deployment_secrets names {sorted(unknown)}; the payload has {names}")

    def validate(path: tuple[str, ...], kwargs: dict[str, Any]) -> None:
        default_init_validator(path, kwargs)
        if init_validator is not None:
            init_validator(path, kwargs)

    allowed: list[type[Serializable]] = [cls, *allowed_objects]

    def revive(value: object, secrets: Mapping[str, str]) -> Any:
        return load(
            value,
            allowed_objects=allowed,
            valid_namespaces=[each.lc_id()[0] for each in allowed],
            secrets_map=dict(secrets),
            secrets_from_env=secrets_from_env,
            init_validator=validate,
        )

    models = []
    for position, entry in enumerate(entries):
        name = entry["model_name"]
        secrets = {**secrets_map, **deployment_secrets.get(name, {})}
        model = entry["model"]
        if not secrets_from_env:
            # An empty one is none: given it, a client would look for another.
            secrets = {secret: value for secret, value in secrets.items() if value}
            missing = _secret_names(model) - secrets.keys()
            secrets |= {secret: _not_given(name, secret) for secret in missing}
            model = _without_gaps(name, model, allowed)
        try:
            model = revive(model, secrets)
        except Exception as error:
            where = f"kwargs.models[{position}] ({one_line(name, 60)!r})"
            raise ValueError(f"{where} cannot be loaded: {quote(error)}") from error
        models.append({**entry, "model": model})
    try:
        payload = {**data, "kwargs": {**arguments, "models": models}}  # type: ignore[dict-item]
        gateway = revive(payload, secrets_map)
    except ValueError:
        raise
    except Exception as error:
        raise ValueError(f"the payload cannot be loaded: {quote(error)}") from error
    assert isinstance(gateway, cls)  # noqa: S101
    return gateway


def _not_given(name: str, secret: str) -> str:
    """Something in a key's place: a client that is given none would read the environment's."""
    logger.warning(
        "deployment %r got no %s: give secrets_map, deployment_secrets or secrets_from_env=True",
        one_line(name, 60),
        one_line(secret, 60),
    )
    return f"[{one_line(secret, 60)} was not given]"


def _without_gaps(name: str, model: Any, allowed: Sequence[type[Serializable]]) -> Any:
    """A copy of a model's payload that leaves no key to be found in the environment."""
    model = deepcopy(model)
    classes = {cls.lc_id()[-1]: cls for cls in allowed}
    for node in _lc_nodes(model, "constructor"):
        node.setdefault("kwargs", {})
        match node:
            case {"id": [*_, str(cls_name)], "kwargs": dict(given)} if cls_name in classes:
                cls = classes[cls_name]
            case _:
                continue  # for the loader to refuse
        # A property of instances, though the same for all.
        for field, secret in cls.__new__(cls).lc_secrets.items():
            info = cls.model_fields.get(field)
            spellings = [field, *([info.alias] if info and info.alias else [])]
            if secret in os.environ and not any(map(given.get, spellings)):
                given |= dict.fromkeys(spellings, _not_given(name, secret))
    return model


def picklable(gateway: "GatewayRunnable") -> dict[str, Any]:
    """The constructor's arguments for a pickle: models in their serialized form, without keys.

    A model that has none is left to pickle itself.
    """
    entries = []
    for deployment in gateway.models:
        entry = dict(deployment)
        dumped = dumpd(deployment.model)
        if not any(_unserializable(dumped)):
            entry["model"] = _Dumped(dumped)
        entries.append(entry)
    return {**dict(gateway), "models": entries}


def unpickle(cls: type[G], arguments: dict[str, Any]) -> G:
    """Make a gateway of what `picklable` gave; keys come from the environment."""
    entries = [
        {**e, "model": e["model"].load() if isinstance(e["model"], _Dumped) else e["model"]}
        for e in arguments["models"]
    ]
    return cls(**{**arguments, "models": entries})


class _Dumped:
    """A model in serialized form, inside a pickle (which is trusted like the code it names)."""

    def __init__(self, data: dict[str, Any]) -> None:
        self.data = data

    def load(self) -> Any:
        paths = {tuple(node["id"]) for node in _lc_nodes(self.data, "constructor")}
        return load(
            self.data,
            allowed_objects="all",
            valid_namespaces=[path[0] for path in paths],
            additional_import_mappings={p: p for p in paths if p[0] != "langchain"},
            secrets_from_env=True,
        )


def load(data: object, **options: Any) -> Any:
    """LangChain's `load`; that it is in beta is no news to the caller of a gateway."""
    with suppress_langchain_beta_warning():
        return load_beta(data, **options)


# --- writing ---------------------------------------------------------------------------------


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", exclude_defaults=True)
    if isinstance(value, frozenset):
        if any(map(callable, value)):
            raise ValueError("reject has a function, which cannot be serialized: only names can")
        return sorted(value)
    return value


def _plain_deployment(deployment: ModelDeployment) -> dict[str, Any]:
    fields = ModelDeployment.model_fields
    entry = {"model_name": deployment.model_name, "model": deployment.model}
    for name, value in deployment:
        if name == "time_constraints":
            if value:
                entry[name] = [_plain(window) for window in value]
        elif name not in entry and value != fields[name].default:
            entry[name] = _plain(value)
    return entry


def _check_serializable(deployment: ModelDeployment) -> None:
    name = one_line(deployment.model_name, 60)
    dumped = dumpd(deployment.model)
    if (path := next(_unserializable(dumped), None)) is not None:
        raise ValueError(
            f"deployment {name!r} cannot be serialized: {path} has no LangChain form; give the "
            "gateway a model that has one, or build this gateway in code"
        )
    text = json.dumps(dumped)
    for secret in secret_values(deployment.core):
        if secret in text:
            raise ValueError(
                f"deployment {name!r} cannot be serialized: its key also stands in plain text in "
                "the model's arguments (default_headers, say)"
            )
    if _PASSWORD_IN_URL.search(text):
        raise ValueError(
            f"deployment {name!r} cannot be serialized: a URL in the model's arguments holds a "
            "password, which would be written in plain text"
        )


def _unserializable(data: Any) -> Iterator[str]:
    """The class paths of what `dumpd` could only write as a repr."""
    for node in _lc_nodes(data, "not_implemented"):
        yield ".".join(node.get("id") or ["an object"])


def _secret_names(data: Any) -> set[str]:
    ids = (node.get("id") for node in _lc_nodes(data, "secret"))
    # A malformed one is for the loader to refuse.
    return {i[0] for i in ids if isinstance(i, list) and len(i) == 1 and isinstance(i[0], str)}


def _lc_nodes(data: Any, kind: str) -> Iterator[dict[str, Any]]:
    """Every node of one kind in a dump, escaped user data left out."""
    if isinstance(data, dict):
        if "__lc_escaped__" in data:
            return
        if data.get("lc") == 1 and data.get("type") == kind:
            yield data
        for value in data.values():
            yield from _lc_nodes(value, kind)
    elif isinstance(data, list):
        for value in data:
            yield from _lc_nodes(value, kind)


def secret_values(model: object) -> Iterator[str]:
    """The values of a model's keys, as they would stand in JSON."""
    for name in getattr(model, "lc_secrets", {}):
        value = getattr(model, name, None)
        secret = value.get_secret_value() if isinstance(value, SecretStr) else value
        if isinstance(secret, str) and len(secret) >= _LEAST_KEY_LENGTH:
            yield json.dumps(secret)[1:-1]


def endpoint(data: Any) -> str:
    """What a dump says of where its model is reached."""
    found = [
        f"{key}={value}"
        for node in _lc_nodes(data, "constructor")
        for key, value in node.get("kwargs", {}).items()
        if isinstance(value, str) and key.endswith(_ENDPOINT_KEYS)
    ]
    classes = [".".join(node["id"]) for node in _lc_nodes(data, "constructor")]
    return " ".join(sorted(found) or classes)


def _exception_name(cls: type[BaseException]) -> str:
    if _exception_class(cls.__name__) is not cls:
        raise ValueError(
            f"exceptions_to_handle has {cls.__module__}.{cls.__qualname__}, which cannot be "
            "serialized: only built-in and langchain_core.exceptions classes travel by name"
        )
    return cls.__name__


def _exception_class(name: str) -> type[BaseException] | None:
    for module in (builtins, langchain_core.exceptions):
        found = getattr(module, name, None)
        if isinstance(found, type) and issubclass(found, BaseException):
            return found
    return None


# --- reading ---------------------------------------------------------------------------------


def exception_class(name: str) -> type[BaseException]:
    """The exception class a payload names.

    Raises:
        ValueError: If it is neither built in nor LangChain's.
    """
    if (found := _exception_class(name)) is None:
        raise ValueError(f"{one_line(name, 60)!r} is no built-in or langchain_core exception")
    return found


def _checked_payload(
    cls: type["GatewayRunnable"], data: object
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A payload's arguments and deployments, before anything of it is constructed."""
    if not isinstance(data, Mapping):
        raise ValueError(f"a payload is a dict, got {type(data).__name__}")
    if data.get("lc") != 1 or data.get("type") != "constructor":
        raise ValueError("the payload is no LangChain object: 'lc' must be 1, 'type' 'constructor'")
    if data.get("id") != cls.lc_id():
        raise ValueError(f"the payload's 'id' must be {cls.lc_id()}")
    arguments = data.get("kwargs")
    if not isinstance(arguments, Mapping):
        raise ValueError(f"the payload's 'kwargs' must be a dict, got {type(arguments).__name__}")
    entries = arguments.get("models")
    if not isinstance(entries, list) or not entries:
        raise ValueError("the payload's 'kwargs.models' must be a list of deployments")
    for position, entry in enumerate(entries):
        where = f"the payload's 'kwargs.models[{position}]'"
        if not isinstance(entry, Mapping):
            raise ValueError(f"{where} must be a dict, got {type(entry).__name__}")
        if not isinstance(entry.get("model_name"), str):
            raise ValueError(f"{where} needs a 'model_name', a string")
        if not isinstance(entry.get("model"), Mapping):
            raise ValueError(f"{where} needs a 'model', a serialized LangChain object")
    return dict(arguments), [dict(entry) for entry in entries]
