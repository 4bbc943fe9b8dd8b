"""How the package's classes take their arguments: written out for people, checked by pydantic."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from functools import lru_cache, wraps
from typing import Annotated, Any, Final, TypeVar, cast

from pydantic import BaseModel, BeforeValidator, Field, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from langchain_model_gateway._text import one_line, redact

Init = TypeVar("Init", bound=Callable[..., None])

CLASS_NOT_INSTANCE: Final = "a class, not an instance; did you forget the parentheses?"

CALL_KEYWORDS: Final = ("model_preference", "model_fallback")
"""What a call of a gateway takes besides the models' own keywords."""

_RETRY: Final = "retry=RetryPolicy(max_attempts=...)"
_COOLDOWN: Final = "cooldown=CooldownPolicy(...)"
MEANT: Final[Mapping[str, Mapping[str, str]]] = {
    "GatewayRunnable": {
        **dict.fromkeys(("max_retries", "num_retries", "retries", "max_attempts"), _RETRY),
        **dict.fromkeys(("allowed_fails", "cooldown_time", "circuit_breaker"), _COOLDOWN),
        "fallbacks": "models (they are tried in list order)",
        "preference": "model_preference",
        "tz": "timezone= of a TimeWindow",
    },
    "ModelDeployment": {
        **dict.fromkeys(
            ("max_retries", "num_retries", "retries", "retry"), f"the gateway's {_RETRY}"
        ),
        "cooldown": f"the gateway's {_COOLDOWN}",
        "name": "model_name",
        **dict.fromkeys(("llm", "chat_model", "runnable"), "model"),
        **dict.fromkeys(("hours", "windows", "restricted_hours"), "time_constraints"),
        "tz": "timezone= of a TimeWindow",
    },
    "TimeWindow": {"tz": "timezone", "zone": "timezone", "weekdays": "days"},
    "RetryPolicy": {
        **dict.fromkeys(
            ("max_retries", "retries"), "max_attempts (which counts the first one, too)"
        ),
        "backoff": "initial_delay",
    },
    "CooldownPolicy": {
        "allowed_fails": "failure_threshold",
        "cooldown_time": "duration",
        "seconds": "duration",
    },
}
"""What is meant by names that a class does not have: other libraries' names, and likely guesses."""


def _number_of_seconds(value: object) -> object:
    return value.total_seconds() if isinstance(value, timedelta) else value


AnySeconds = Annotated[float, BeforeValidator(_number_of_seconds), Field(allow_inf_nan=False)]
"""A finite number of seconds; given as a number or a `timedelta`, kept as a float."""

Seconds = Annotated[AnySeconds, Field(gt=0)]
"""A positive, finite number of seconds; given as a number or a `timedelta`, kept as a float."""


def written_out(signature: Init) -> Init:
    """A pydantic model's `__init__` with the arguments that `signature` writes out.

    An editor and a type checker see them; what is unknown, missing or malformed is pydantic's
    `ValidationError`, as with any model.
    """
    code = signature.__code__
    names = code.co_varnames[1 : code.co_argcount]

    @wraps(signature)
    def __init__(self: BaseModel, /, *args: Any, **data: Any) -> None:  # noqa: N807
        if args:
            positional = dict(zip(names, args, strict=False))
            if len(args) > len(names) or positional.keys() & data.keys():
                signature(self, *args, **data)  # raises Python's own TypeError
            data |= positional
        try:
            BaseModel.__init__(self, **data)
        except ValidationError as error:
            raise _explained(type(self), error) from None

    # Pydantic's mark of an `__init__` that only validates: nested models are made without it.
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]
    return cast("Init", __init__)


def _explained(cls: type[BaseModel], error: ValidationError) -> ValidationError:
    """The error, with what was probably meant by each key that `cls` does not have."""
    details = error.errors(include_url=False)
    unknown = [each for each in details if is_unknown_key(each)]
    for each in unknown:
        each["msg"] = unknown_key(cls, each["loc"][0])
    if not unknown:
        return error
    return ValidationError.from_exception_data(
        error.title,
        [
            {"type": PydanticCustomError(d["type"], d["msg"]), "loc": d["loc"], "input": d["input"]}
            for d in details
        ],
        hide_input=True,
    )


def is_unknown_key(detail: ErrorDetails) -> bool:
    """Whether pydantic complains of a key of the object itself that it does not have."""
    return detail["type"] == "extra_forbidden" and len(detail["loc"]) == 1


def check_keywords(keywords: Mapping[str, object]) -> None:
    """Refuse a call's keyword that is the gateway's own, misspelt; all others are the models'.

    Raises:
        TypeError: If there is one; tells which was meant.
    """
    for keyword in keywords:
        if (meant := _misspelt(keyword)) is not None:
            raise TypeError(
                f"a call has no keyword {one_line(keyword, 60)!r}; did you mean {meant}?"
            )


@lru_cache(maxsize=256)
def _misspelt(keyword: str) -> str | None:
    """The gateway's own keyword that is meant, if one is."""
    if keyword in {"preference", "prefer", "preferred", "preferred_model"}:
        return "model_preference"
    return None if keyword in CALL_KEYWORDS else nearest(keyword, CALL_KEYWORDS, 0.8)


def check_keys(cls: type[BaseModel], value: Mapping[Any, Any]) -> None:
    """Refuse keys that a class does not have.

    Raises:
        ValueError: If there is one; tells what was probably meant.
    """
    known = cls.__pydantic_fields__.keys()
    if not value.keys() <= known:
        unknown = [unknown_key(cls, key) for key in value if key not in known]
        raise ValueError("; ".join(unknown))


def unknown_key(cls: type[BaseModel], key: object) -> str:
    """Tell that a class has no such key, what was probably meant, and what it has."""
    meant = MEANT.get(cls.__name__, {}).get(key) if isinstance(key, str) else None
    return unknown_name(key, inspect.signature(cls).parameters, meant)


def unknown_name(name: object, known: Iterable[str], meant: str | None = None) -> str:
    """Tell that a name is unknown, what was probably meant, and what there is."""
    if not isinstance(name, str):
        return f"a name is a string, got {type(name).__name__}; there are: {_listed(known)}"
    guess = meant or nearest(name, known)
    hint = f"did you mean {guess}? " if guess else ""
    return f"{redact(one_line(name, 60))!r} is unknown; {hint}there are: {_listed(known)}"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(one_line(each, 60) for each in names)


def nearest(name: str, known: Iterable[str], likeness: float = 0.6) -> str | None:
    """The known name that is most like `name`, if one is at least so much."""
    from difflib import get_close_matches  # noqa: PLC0415 - only for an error

    by_lower = {each.lower(): each for each in known}
    matches = get_close_matches(name[:100].lower(), by_lower, 1, likeness)
    return one_line(by_lower[matches[0]], 60) if matches else None


def shown(value: object) -> str:
    """A value as an error may show it: short, and nothing that looks like a key."""
    if isinstance(value, str):
        return repr(redact(one_line(value, 40)))
    if isinstance(value, type):
        return CLASS_NOT_INSTANCE
    if isinstance(value, (int, float)):
        return f"{value!r} ({type(value).__name__})"
    if isinstance(value, (list, tuple)):
        kind, few = type(value).__name__, value[:4]
        more = ", ..." if len(value) > len(few) else ""
        return f"a {kind} of {len(value)}: {', '.join(map(shown, few))}{more}"
    return type(value).__name__
