"""Text that is safe to show: one line, bounded, nothing in it that looks like a key."""

import re
from typing import Final

MASK: Final = "[secure]"

_SECRETS: Final = re.compile(
    r"""(?ix)
    (?<=://)[^/\s@]+(?=@)                                 # user:password@ of a URL
    | (?<=\bbearer\s)[^\s"',}]+                           # Authorization: Bearer ...
    | (?<=authorization:\sbasic\s)[^\s"',}]+
    | (?<=[?&]key=)[^\s"'&]+                               # Gemini's place for it
    | (?<=api[-_\s]key[=:]\s)[^\s"',}]{6,}
    | (?<=api[-_\s]key[=:])[^\s"',}]{6,}
    | \b(?:sk|pk|rk|gsk|xai|pplx|hf|nvapi)[-_][\w*.\-]{6,}  # the providers' own prefixes
    | \bAIza[\w\-]{10,}
    | \beyJ[\w\-]{8,}\.[\w\-]+\.[\w\-]*                   # a JSON web token
    """
)


def one_line(text: str, limit: int | None = None) -> str:
    """Put `text` on one line with nothing in it that could forge another.

    Args:
        text: Any text.
        limit: The most characters to keep; the rest becomes an ellipsis.

    Returns:
        The text with whitespace runs as single spaces and unprintable characters escaped.
    """
    # Enough for what is kept: a megabyte of HTML is not worth normalising.
    text = text if limit is None else text[: 4 * limit]
    line = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in " ".join(text.split()))
    return line if limit is None or len(line) <= limit else line[: limit - 1] + "…"


def redact(text: str) -> str:
    """Mask whatever in `text` looks like a key, a token or a password."""
    return _SECRETS.sub(MASK, text)
