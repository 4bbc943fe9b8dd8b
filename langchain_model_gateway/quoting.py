"""Other people's exceptions as they may be shown and sent: quoted on one line, or made portable.

Neither holds a key, a prompt or an answer.
"""

import re
import sys
from collections.abc import Collection, Mapping
from typing import Any, Final

from langchain_core.exceptions import OutputParserException
from pydantic import ValidationError

from langchain_model_gateway._text import one_line, redact
from langchain_model_gateway.classify import REJECTED_ANSWERS, is_retryable, provider_status
from langchain_model_gateway.provider_errors import LOOKED_AT, causes, is_one_of, read, text_of

_QUOTE_LIMIT: Final = 200
_NAME_LIMIT: Final = 80

# A server's answer that cannot be read. Like a parser's error, its text quotes that answer.
_UNREADABLE_ANSWERS: Final = frozenset(
    {"APIResponseValidationError", "ResponseValidationError", "UnknownApiResponseError"}
)
# What a pickle may hold as it is.
_OWN: Final = frozenset({"langchain_model_gateway.errors"})
_NATIVE: Final = frozenset({"builtins", "langchain_core.exceptions"})
_PLAIN: Final = (str, int, float, bool, type(None))

_COHERES_HEADERS: Final = re.compile(r"^headers: \{.*?\}, (?=status_code: )", re.DOTALL)
_TEXTS_WITHOUT_A_CAUSE: Final = frozenset({"", "connection error"})


def quote(error: BaseException, secrets: Collection[str] | None = ()) -> str:
    """An exception as a message may show it: its type and its own words, on one short line.

    Errors that carry the model's answer in their text are shown by their type only. A text as bare
    as "Connection error." is shown with its root cause.

    Args:
        error: Any exception.
        secrets: What must not be shown, such as the deployment's keys; what looks like a key is
            masked besides. `None`: not known, so that no text is shown at all.
    """
    text = _quoted_text(error, secrets)
    return f"{kind(error)}: {text}" if text else kind(error)


def kind(error: BaseException) -> str:
    """The name of an exception's type, safe to show: a name can hold line breaks too."""
    return one_line(type(error).__name__, _NAME_LIMIT)


def portable(error: Exception, secrets: Collection[str] | None = ()) -> Exception:
    """A copy of `error` that pickles and carries no request, response, client or secret.

    A built-in or `langchain_core` exception with plain arguments is copied as what it is. Any
    other becomes a stand-in: of a class that has its name and derives from the nearest of those,
    with its text, `status_code` and `is_retryable`.

    Args:
        error: What an attempt raised; a gateway's own errors come back as they are.
        secrets: What must not travel, such as the deployment's keys; `None`: not known.
    """
    if _is_of(type(error), _OWN):
        return error
    bare = _native_copy(error, secrets) or _stand_in_for(error, secrets)
    if (status := provider_status(error)) is not None:
        bare.__dict__["status_code"] = status
    if is_retryable(bare) != (may_help := is_retryable(error)):
        bare.__dict__["is_retryable"] = may_help
    return bare


def _native_copy(error: Exception, secrets: Collection[str] | None) -> Exception | None:
    """A copy of a built-in or LangChain exception, if its arguments are plain."""
    cls, args = type(error), read(error, "args")
    if not _is_of(cls, _NATIVE) or secrets is None or _holds_an_answer(error):
        return None
    if not all(type(arg) in _PLAIN for arg in args):
        return None
    masked = [redact(a, secrets, LOOKED_AT) if isinstance(a, str) else a for a in args]
    try:
        copied = cls(*masked)
    except Exception:  # noqa: BLE001 - its constructor takes what its `args` do not hold
        return None
    return copied if type(copied) is cls and copied.args == tuple(masked) else None


def _is_of(cls: type, modules: frozenset[str]) -> bool:
    """Whether a class can be found where it says it is: a stand-in says so too."""
    home = sys.modules.get(cls.__module__) if cls.__module__ in modules else None
    return getattr(home, cls.__name__, None) is cls


def _stand_in_for(error: Exception, secrets: Collection[str] | None) -> Exception:
    cls = type(error)
    native = [c for c in cls.__mro__ if _is_of(c, _NATIVE) and issubclass(c, Exception)]
    nearest = [c for c in native if not any(o is not c and issubclass(o, c) for o in native)]
    args: tuple[Any, ...] = (_quoted_text(error, secrets),)
    if isinstance(error, ExceptionGroup):
        args += ([portable(each, secrets) for each in error.exceptions],)
    return _stand_in(cls.__name__, cls.__module__, tuple(nearest), args)


def _stand_in(
    name: str,
    module: str,
    bases: tuple[type[Exception], ...],
    args: tuple[Any, ...],
    facts: Mapping[str, Any] | None = None,
) -> Exception:
    """An exception of a class made for it, with its text as the first argument.

    A pickle of it calls this.
    """

    def tell(_: Exception) -> str:
        return str(args[0])

    def reduce(self: Exception) -> tuple[Any, ...]:
        return _stand_in, (name, module, bases, args, dict(self.__dict__))

    cls: Any = type(name, bases, {"__module__": module, "__str__": tell, "__reduce__": reduce})
    try:
        stand_in: Exception = cls(*args)
    except Exception:  # noqa: BLE001 - UnicodeDecodeError, say, takes five
        stand_in = cls.__new__(cls, *args)
    stand_in.__dict__.update(facts or {})
    return stand_in


def _quoted_text(error: BaseException, secrets: Collection[str] | None) -> str:
    if isinstance(error, ValidationError):
        return f"{error.error_count()} validation errors for {one_line(error.title, _NAME_LIMIT)}"
    if isinstance(error, OutputParserException):
        return "the answer does not parse"
    if secrets is None or _holds_an_answer(error):
        status = provider_status(error)
        return f"status {status}" if status else ""
    text = _COHERES_HEADERS.sub("", text_of(error))
    if text.strip(" .").lower() in _TEXTS_WITHOUT_A_CAUSE:
        *_, root = causes(error)
        if root is not error and (cause := text_of(root) or kind(root)) != text:
            text = f"{text} ({cause})".lstrip()
    return one_line(redact(text, secrets, LOOKED_AT), _QUOTE_LIMIT)


def _holds_an_answer(error: BaseException) -> bool:
    """Whether an exception's text may quote what the model said."""
    answers = (ValidationError, *REJECTED_ANSWERS)
    return isinstance(error, answers) or is_one_of(error, _UNREADABLE_ANSWERS)
