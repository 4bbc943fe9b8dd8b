"""A gateway as data: LangChain's `dumpd`, made safe by default, and pickle by way of it.

What is written here is read in `loading.py`.
"""

import builtins
import pickle
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, Final, NoReturn, TypeVar

import langchain_core.exceptions
from langchain_core.load import dumpd
from langchain_core.runnables import Runnable
from pydantic import BaseModel

from langchain_model_gateway._logger import logger
from langchain_model_gateway._text import one_line
from langchain_model_gateway.deployment import ModelDeployment
from langchain_model_gateway.loading import is_gateway, is_node, load, nodes
from langchain_model_gateway.quoting import quote
from langchain_model_gateway.secrets import models_in, plain_secrets, secret_values, texts

G = TypeVar("G", bound=BaseModel)

Deployments = Sequence[ModelDeployment]

_ENDPOINT_KEYS: Final = (
    *("base_url", "api_base", "api_url", "endpoint", "endpoint_url", "host", "server_url"),
    *("region", "region_name", "location"),
)


# --- writing ---------------------------------------------------------------------------------


def values(gateway: BaseModel) -> dict[str, Any]:
    """A gateway's fields by name; iterating one gives its deployments' names."""
    return dict(BaseModel.__iter__(gateway))


def plain_arguments(gateway: BaseModel) -> dict[str, Any]:
    """The constructor's arguments as plain data, each model in its own LangChain form.

    Raises:
        ValueError: If one has no serialized form, or holds a secret in plain text.
    """
    fields, arguments = type(gateway).model_fields, values(gateway)
    models: Deployments = arguments.pop("models")
    given = {
        name: _plain(value)
        for name, value in arguments.items()
        if not fields[name].exclude and value != fields[name].default
    }
    if "exceptions_to_handle" in given:
        given["exceptions_to_handle"] = list(map(_exception_name, given["exceptions_to_handle"]))
    for name, deployment in _innermost(models):
        _check_has_form(name, deployment)
    _check_no_secret(models)
    return {"models": [_plain_deployment(deployment) for deployment in models], **given}


def serialize(gateway: BaseModel) -> dict[str, Any]:
    """`dumpd(gateway)`, with a warning of what a load would not bring back."""
    data: dict[str, Any] = dumpd(gateway)
    _warn_of_losses(values(gateway)["models"])
    return data


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


def _innermost(models: Deployments, outer: str = "") -> Iterator[tuple[str, ModelDeployment]]:
    """The deployments that are no gateways, each with its name as `"outer/inner"`."""
    for deployment in models:
        name = f"{outer}{deployment.model_name}"
        if deployment.inner_deployments:
            yield from _innermost(deployment.inner_deployments, f"{name}/")
        else:
            yield name, deployment


def _form(model: Runnable[Any, Any]) -> dict[str, Any] | None:
    """A model in its LangChain form, `None` if it has none."""
    try:
        dumped: dict[str, Any] = dumpd(model)
    except ValueError:  # a gateway within that has none
        return None
    return None if any(nodes(dumped, "not_implemented")) else dumped


def _check_has_form(name: str, deployment: ModelDeployment) -> None:
    if (node := next(nodes(dumpd(deployment.model), "not_implemented"), None)) is not None:
        path = ".".join(node.get("id") or [deployment.model_class])
        _refuse(
            name,
            f"{path} has no LangChain form; give the gateway a model that has one, or build "
            "this gateway in code",
        )


def _check_no_secret(models: Deployments) -> None:
    """Raise if what would be written of a model holds a secret, its own or another's."""
    deployments = list(_innermost(models))
    secrets = {secret for _, each in deployments for secret in secret_values(each.model)}
    for name, deployment in deployments:
        dumped = _form(deployment.model)
        if dumped is None:
            continue
        if any(secret in text for _, text in texts(dumped) for secret in secrets):
            _refuse(
                name,
                "a key also stands in plain text in the model's arguments (default_headers, "
                "say, or a URL)",
            )
        if any(plain_secrets(dumped)):
            _refuse(name, "a URL or a header in the model's arguments holds a password or a key")


def _refuse(name: str, why: str) -> NoReturn:
    raise ValueError(f"deployment {one_line(name, 60)!r} cannot be serialized: {why}")


def _warn_of_losses(models: Deployments) -> None:
    """Tell of what neither a payload nor a pickle brings back."""
    users: defaultdict[str, dict[str, set[object]]] = defaultdict(dict)
    for name, deployment in _innermost(models):
        if (form := _form(deployment.model)) is None:
            continue
        for node in nodes(form, "constructor"):
            for secret in _secret_names(node):
                place = (endpoint(node), secret_values(deployment.inner_model))
                users[secret].setdefault(name, set()).add(place)
        _warn_of_left_out(name, deployment)
    for secret, places in users.items():
        if len(set().union(*places.values())) > 1:
            logger.warning(
                "%s have different endpoints or keys, but all call their key %s; load them with "
                "deployment_secrets={...}, or one gets the other's key",
                " and ".join(one_line(name, 60) for name in places),
                one_line(secret, 60),
            )


def _warn_of_left_out(name: str, deployment: ModelDeployment) -> None:
    models = models_in(deployment.model)
    for attribute in ("rate_limiter", "cache"):
        if any(getattr(model, attribute, None) is not None for model in models):
            logger.warning(
                "the %s of deployment %r is left out: LangChain does not serialize it",
                attribute,
                one_line(name, 60),
            )


def _secret_names(node: dict[str, Any]) -> set[str]:
    """The names of the secrets among a constructor's own arguments."""
    arguments = node.get("kwargs", {}).values()
    return {each["id"][0] for each in arguments if is_node(each, "secret")}


def endpoint(data: Any) -> str:
    """What a dump says of where its model is reached."""
    found = [
        f"{key}={value}"
        for node in nodes(data, "constructor")
        for key, value in node.get("kwargs", {}).items()
        if isinstance(value, str) and key.endswith(_ENDPOINT_KEYS)
    ]
    classes = [".".join(node["id"]) for node in nodes(data, "constructor")]
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


def exception_class(name: str) -> type[BaseException]:
    """The exception class a payload names.

    Raises:
        ValueError: If it is neither built in nor LangChain's.
    """
    if (found := _exception_class(name)) is None:
        raise ValueError(f"{one_line(name, 60)!r} is no built-in or langchain_core exception")
    return found


# --- pickle ----------------------------------------------------------------------------------


def picklable(gateway: BaseModel) -> dict[str, Any]:
    """The constructor's arguments for a pickle: models in their serialized form, without keys.

    A model that has none is left to pickle itself.

    Raises:
        ValueError: If a pickle would hold a secret in plain text.
        TypeError: If a model can be pickled in no way.
    """
    fields = type(gateway).model_fields
    arguments = {k: value for k, value in values(gateway).items() if not fields[k].exclude}
    models: Deployments = arguments["models"]
    _check_no_secret(models)
    _warn_of_losses(models)
    entries = [{**dict(each), "model": _picklable_model(each)} for each in models]
    return {**arguments, "models": entries}


def _picklable_model(deployment: ModelDeployment) -> object:
    if (form := _form(deployment.model)) is not None:
        return _Dumped(form)
    if not is_gateway(type(deployment.model)):
        _check_own_pickle(deployment)
    return deployment.model


def _check_own_pickle(deployment: ModelDeployment) -> None:
    name = one_line(deployment.model_name, 60)
    try:
        data = _pickled(deployment.model)
    except Exception as error:
        raise TypeError(
            f"deployment {name!r} cannot be pickled: {deployment.model_class} has no LangChain "
            f"form, and its own pickle fails: {quote(error)}"
        ) from error
    if any(secret.encode() in data for secret in secret_values(deployment.model)):
        raise ValueError(
            f"deployment {name!r} cannot be pickled: {deployment.model_class} has no LangChain "
            "form, and its own pickle holds a key in plain text; build this gateway where it "
            "is used"
        )


def _pickled(model: Runnable[Any, Any]) -> bytes:
    try:
        return pickle.dumps(model)
    except Exception:
        # Where it is loaded, it is what pickles us, and it takes what pickle does not.
        if (cloudpickle := sys.modules.get("cloudpickle")) is None:
            raise
        data: bytes = cloudpickle.dumps(model)
        return data


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
        paths = {tuple(node["id"]) for node in nodes(self.data, "constructor")}
        return load(
            self.data,
            allowed_objects="all",
            valid_namespaces=[path[0] for path in paths],
            additional_import_mappings={p: p for p in paths if p[0] != "langchain"},
            secrets_from_env=True,
        )
