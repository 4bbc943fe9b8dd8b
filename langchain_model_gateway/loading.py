"""A gateway from data. A payload is read once, whole, before anything of it is constructed."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn, TypeVar

from langchain_core.load import InitValidator, Serializable
from langchain_core.load import load as load_beta

from langchain_model_gateway._compat import default_init_validator, suppress_beta_warning
from langchain_model_gateway._logger import logger
from langchain_model_gateway._text import one_line
from langchain_model_gateway.quoting import quote
from langchain_model_gateway.secrets import close_gaps, found_by_itself, texts

G = TypeVar("G", bound=Serializable)

# Both as LangChain's loader has them.
_ESCAPED: Final = "__lc_escaped__"
_MOST_DEPTH: Final = 200


def load(data: object, **options: Any) -> Any:
    """LangChain's `load`; that it is in beta is no news to the caller of a gateway."""
    with suppress_beta_warning():
        return load_beta(data, **options)


def is_gateway(cls: type) -> bool:
    """Whether it is one of the gateway's classes (which cannot be imported here)."""
    return hasattr(cls, "from_serialized")


def is_node(data: object, kind: str) -> bool:
    """Whether plain data stands for a LangChain object of one kind."""
    return isinstance(data, dict) and data.get("lc") == 1 and data.get("type") == kind


def nodes(data: Any, kind: str) -> Iterator[dict[str, Any]]:
    """Every node of one kind in a dump, escaped user data left out."""
    if is_node(data, kind):
        yield data
    if isinstance(data, dict) and not _is_escaped(data):
        for value in data.values():
            yield from nodes(value, kind)
    elif isinstance(data, list):
        for value in data:
            yield from nodes(value, kind)


def _is_escaped(data: Mapping[Any, Any]) -> bool:
    return data.keys() == {_ESCAPED}


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
    allowed: list[type[Serializable]] = [cls, *allowed_objects]
    reader = _Reader(allowed, secrets_map, deployment_secrets, secrets_from_env)
    arguments = reader.gateway(_root_arguments(cls, data), ("kwargs",))
    if unknown := sorted(deployment_secrets.keys() - set(reader.names)):
        raise ValueError(f"deployment_secrets names {unknown}; the payload has {reader.names}")

    def validate(path: tuple[str, ...], kwargs: dict[str, Any]) -> None:
        default_init_validator(path, kwargs)
        if init_validator is not None:
            init_validator(path, kwargs)

    def revive(value: object) -> Any:
        # Every secret is in its place by now: there is none left for the loader to look up.
        return load(
            value,
            allowed_objects=allowed,
            valid_namespaces=[each.lc_id()[0] for each in allowed],
            init_validator=validate,
        )

    for position, entry in enumerate(arguments["models"]):
        where = f"kwargs.models[{position}] ({one_line(entry['model_name'], 60)!r})"
        payload = entry["model"]
        try:
            entry["model"] = revive(payload)
        except Exception as error:
            raise ValueError(f"{where} cannot be loaded: {quote(error)}") from error
        if not secrets_from_env:
            _check_found_nothing(where, entry["model"], payload)
    try:
        root = {"lc": 1, "type": "constructor", "id": cls.lc_id(), "kwargs": arguments}
        gateway = revive(root)
    except ValueError:
        raise
    except Exception as error:
        raise ValueError(f"the payload cannot be loaded: {quote(error)}") from error
    assert isinstance(gateway, cls)  # noqa: S101
    return gateway


def _check_found_nothing(where: str, model: object, payload: object) -> None:
    """Raise if a client found a secret by itself, past what was put in its place."""
    if sources := found_by_itself(model, (text for _, text in texts(payload))):
        raise ValueError(
            f"{where} cannot be loaded: its client takes {' and '.join(sources)} by itself, and "
            "would send it to the endpoint that the payload names; load it with "
            "secrets_from_env=True if it may"
        )


def _root_arguments(cls: type[Any], data: object) -> Mapping[str, Any]:
    if not isinstance(data, Mapping):
        raise ValueError(f"a payload is a dict, got {type(data).__name__}")
    if data.get("lc") != 1 or data.get("type") != "constructor":
        raise ValueError("the payload is no LangChain object: 'lc' must be 1, 'type' 'constructor'")
    if data.get("id") != cls.lc_id():
        raise ValueError(f"the payload's 'id' must be {cls.lc_id()}")
    arguments = data.get("kwargs")
    if not isinstance(arguments, Mapping):
        raise ValueError(f"the payload's 'kwargs' must be a dict, got {type(arguments).__name__}")
    return arguments


Place = tuple[str, ...]
"""The way to a value in a payload, for messages."""
Names = tuple[str, ...]
"""A deployment's name as `"outer/inner"`, after those of the deployments around it."""


@dataclass
class _Reader:
    """The one walk over a payload.

    It understands exactly what LangChain's loader does, refuses the rest, and gives a copy in which
    each secret is filled in: where it was not given, with a placeholder.
    """

    allowed: Sequence[type[Serializable]]
    secrets_map: Mapping[str, str]
    deployment_secrets: Mapping[str, Mapping[str, str]]
    secrets_from_env: bool
    names: list[str] = field(default_factory=list)

    def gateway(self, arguments: Mapping[str, Any], at: Place, outer: Names = ()) -> dict[str, Any]:
        """The arguments of a gateway, itself inside the deployments named `outer`."""
        entries = arguments.get("models")
        if not isinstance(entries, list) or not entries:
            _refuse((*at, ".models"), "must be a list of deployments")
        models = [
            self._deployment(entry, (*at, ".models", f"[{i}]"), outer)
            for i, entry in enumerate(entries)
        ]
        plain = {key: value for key, value in arguments.items() if key != "models"}
        return {**self._items(plain, at, None), "models": models}

    def _deployment(self, entry: Any, at: Place, outer: Names) -> dict[str, Any]:
        if not isinstance(entry, dict):
            _refuse(at, f"must be a dict, got {type(entry).__name__}")
        if not isinstance(entry.get("model_name"), str):
            _refuse(at, "needs a 'model_name', a string")
        if not is_node(entry.get("model"), "constructor"):
            _refuse(at, "needs a 'model', a serialized LangChain object")
        names = (*outer, "/".join([*outer[-1:], entry["model_name"]]))
        self.names.append(names[-1])
        at = (*at, f" ({one_line(entry['model_name'], 60)!r})")
        plain = {key: value for key, value in entry.items() if key != "model"}
        model = self._read(entry["model"], (*at, ".model"), names)
        return {**self._items(plain, at, None), "model": model}

    def _items(self, data: Mapping[Any, Any], at: Place, within: Names | None) -> dict[Any, Any]:
        """A copy of a dict that is itself no object, as an object's arguments are none."""
        if "lc" in data or _is_escaped(data):
            _refuse(at, "must be a plain dict, neither escaped nor with the key 'lc'")
        return {
            key: self._read(value, (*at, f".{one_line(str(key), 60)}"), within)
            for key, value in data.items()
        }

    def _read(self, value: Any, at: Place, within: Names | None) -> Any:
        """A copy of one value; only within a deployment's model is it an object."""
        if len(at) > _MOST_DEPTH:
            _refuse(at, f"is nested more than {_MOST_DEPTH} levels deep")
        if isinstance(value, dict) and not _is_escaped(value):
            read = self._node if "lc" in value else self._items
            return read(value, at, within)
        if isinstance(value, (list, tuple)):
            return [self._read(each, (*at, f"[{i}]"), within) for i, each in enumerate(value)]
        if value is not None and not isinstance(value, (str, int, float, dict)):
            _refuse(at, f"must be plain data, got {type(value).__name__}")
        return value

    def _node(self, node: dict[str, Any], at: Place, within: Names | None) -> Any:
        if within is None:
            _refuse(at, "must be plain data, got a LangChain object")
        path = node.get("id")
        if not isinstance(path, list) or not path or not all(isinstance(p, str) for p in path):
            _refuse((*at, ".id"), "must be a list of strings")
        if is_node(node, "secret") and len(path) == 1:
            return self._secret(path[0], within)
        if not is_node(node, "constructor"):
            _refuse(at, "must have 'lc' 1 and 'type' 'constructor', or 'secret' with one name")
        arguments = self._arguments(self._class(path, at), node, (*at, ".kwargs"), within)
        return {"lc": 1, "type": "constructor", "id": path, "kwargs": arguments}

    def _class(self, path: list[str], at: Place) -> type[Serializable]:
        """The class that the loader will find for a path: by its own or an older one."""
        own = [cls for cls in self.allowed if cls.lc_id() == path]
        found = own or [cls for cls in self.allowed if cls.lc_id()[-1] == path[-1]]
        if len(set(found)) != 1:
            names = [cls.__name__ for cls in self.allowed]
            _refuse(at, f"asks for {one_line('.'.join(path), 120)}; allowed are {names}")
        return found[0]

    def _arguments(
        self, cls: type[Serializable], node: dict[str, Any], at: Place, within: Names
    ) -> dict[str, Any]:
        given = node.get("kwargs", {})
        if not isinstance(given, dict):
            _refuse(at, f"must be a dict, got {type(given).__name__}")
        if is_gateway(cls):
            return self.gateway(given, at, within)
        arguments = self._items(given, at, within)
        if not self.secrets_from_env:
            try:
                close_gaps(cls, arguments, lambda secret: _not_given(within[-1], secret))
            except ValueError as error:
                _refuse(at, str(error))
        return arguments

    def _secret(self, secret: str, within: Names) -> str | None:
        """A secret's value; an empty one is none, as a client would look for another."""
        maps = [self.deployment_secrets.get(name, {}) for name in reversed(within)]
        maps += [self.secrets_map, os.environ if self.secrets_from_env else {}]
        if value := next((each[secret] for each in maps if each.get(secret)), None):
            return value
        return None if self.secrets_from_env else _not_given(within[-1], secret)


def _not_given(deployment: str, secret: str) -> str:
    """Something in a key's place: a client that is given none would read the environment's."""
    logger.warning(
        "deployment %r got no %s: give secrets_map, deployment_secrets or secrets_from_env=True",
        one_line(deployment, 60),
        one_line(secret, 60),
    )
    return f"[{one_line(secret, 60)} was not given]"


def _refuse(at: Place, why: str) -> NoReturn:
    raise ValueError(f"the payload's {''.join(at[:12]).lstrip('.')} {why}")
