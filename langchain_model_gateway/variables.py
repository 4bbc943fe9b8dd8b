"""A configuration's values: variables filled in, and secrets in plain text told."""

import os
import re
from collections.abc import Mapping
from typing import Any, Final

from langchain_model_gateway._text import redact
from langchain_model_gateway.documents import MOST_DEPTH, Document, Keys
from langchain_model_gateway.secrets import plain_secrets

_IN_PLAIN_TEXT: Final = (
    "a key in plain text: put it into an environment variable, write {env: NAME}"
)
_NO_INTERPOLATION: Final = "nothing is filled into texts: write {env: NAME} for the whole value"
PLACEHOLDER: Final = "placeholder"
"""Stands for a value that is not known."""

_SECRET_KEY: Final = re.compile(
    r"""(?ix)
    (?:api|access|secret|private|subscription|auth|account|shared|master)[-_]?key(?:[-_]id)?s?$
    | ^key$ | (?:^|[-_]|api|auth|access|bearer|session)token$
    | secrets?$ | passw(?:or)?d$ | passphrase$ | ^(?:pwd|pass)$
    | authorization$ | cookies?$ | ^credentials?$ | (?:^|[-_])headers$
    """
)
_SECRET_HEADER: Final = re.compile(r"(?i)auth|key|token|secret|pass|cookie|cred|session|sign|jwt")
_INTERPOLATED: Final = re.compile(r"\$\{\w+\}|^\$[A-Z_]+$|^os\.environ/\w+$|^env[:/]\w+$", re.ASCII)
_VARIABLE: Final = re.compile(r"[A-Za-z_]\w*", re.ASCII)


class Values:
    """Fills in variables, and tells of secrets in plain text."""

    def __init__(self, document: Document, *, needs_keys: bool) -> None:
        self.document = document
        self.needs_keys = needs_keys

    def value(self, value: Any, keys: Keys, *, is_secret: bool = False) -> Any:
        """The value with variables filled in."""
        if len(keys) > MOST_DEPTH:
            return self.document.tell(keys[:1], "it is nested too deep")
        if isinstance(value, Mapping) and value.keys() == {"env"}:
            return self.variable(value["env"], keys)
        has_headers = isinstance(value, Mapping) and str(keys[-1]).lower().endswith("headers")
        if isinstance(value, (list, tuple)):
            return [self.value(v, (*keys, i), is_secret=is_secret) for i, v in enumerate(value)]
        if isinstance(value, str) and _INTERPOLATED.search(value):
            self.document.tell(keys, _NO_INTERPOLATION)
        elif _is_plain_secret(value, keys, is_secret=is_secret and not has_headers):
            self.document.tell(keys, _IN_PLAIN_TEXT)
            return PLACEHOLDER
        if isinstance(value, Mapping):
            return self.mapping(value, keys, _SECRET_HEADER if has_headers else _SECRET_KEY)
        return value

    def mapping(
        self, value: Mapping[Any, Any], keys: Keys, secret: re.Pattern[str] = _SECRET_KEY
    ) -> dict[str, Any]:
        """The same of a mapping, whose keys tell which of its values are secrets."""
        pairs = [(str(key), each) for key, each in value.items()]
        return {k: self.value(v, (*keys, k), is_secret=bool(secret.search(k))) for k, v in pairs}

    def variable(self, name: object, keys: Keys) -> str:
        """The value of an environment variable; a placeholder if it has none."""
        if not isinstance(name, str) or not _VARIABLE.fullmatch(name):
            self.document.tell(keys, "env takes the name of an environment variable: {env: NAME}")
            return PLACEHOLDER
        if value := os.environ.get(name):
            self.document.secrets.add(value)
            return value
        if self.needs_keys:
            # What does not look like a variable could be a key, in the wrong place.
            shown = f" {name}" if name.isupper() and redact(name) == name else ""
            state = "empty" if name in os.environ else "not set"
            self.document.tell(keys, f"the environment variable{shown} is {state}")
        self.document.settled.add(keys)
        return f"{PLACEHOLDER}-{name}"


def _is_plain_secret(value: object, keys: Keys, *, is_secret: bool) -> bool:
    if value is None or value == "" or isinstance(value, bool):
        return False
    if is_secret:
        return isinstance(value, (str, int, float, Mapping))
    # In a model's string, what it is like tells nothing: "huggingface:hf-internal/tiny".
    if not isinstance(value, str) or keys[-1] == "model":
        return False
    return redact(value) != value or any(plain_secrets(value))
