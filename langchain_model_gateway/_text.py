"""Text that is safe to show: one line, bounded, nothing in it that looks like a key."""

import re
from collections.abc import Iterable
from typing import Final
from urllib.parse import quote as url_quoted

MASK: Final = "[secure]"

# What stands before a secret is kept, the secret itself is masked.
_SECRETS: Final = re.compile(
    r"""(?isx)
    (?P<before>
        (?: api[-_\s]?key | subscription-key | (?:access|secret|account|shared)[-_]?key(?:[-_]id)?
          | [-_]token | \btoken(?=[\\"'=]) | secret | passw(?:or)?d | pwd | credentials?
          | authorization | cookie
          | \bsig | signature
        )
        (?: \s+(?:provided|given|used|is) )?
        (?: [\\"']*\s*[:=]\s*[\\"']* )
        (?: (?:bearer|basic|token|apikey|aws4-hmac-sha256)\s+ )?
    )
    [^\s"'\\,;&{}\]]{6,}
    | (?P<scheme>\bbearer\s+)[^\s"'\\,}]{6,}
    | (?P<query>[?&]key=)[^\s"'&]+                        # Gemini's place for it
    | (?P<url>://)[^/\s]+(?=@)                            # user:password@ of a URL
    | -----BEGIN\ [A-Z\ ]+-----.*?(?:-----END\ [A-Z\ ]+-----|$)
    # The providers' own prefixes.
    | \b(?:[cg]?sk|pk|rk|xai|pplx|hf|nvapi|r8|tgp|fw|lsv2|glpat|xox[a-z])[-_][\w*.\-]{6,}
    | \b(?:gh[opsur]|github_pat)_\w{10,}
    | \b(?:AKIA|ASIA)[A-Z0-9]{12,}
    | \bABSK[\w+/=]{16,}                                  # Bedrock
    | \b(?:AIza|ya29\.|AQ\.)[\w\-]{10,}                    # Google
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


def redact(text: str, secrets: Iterable[str] = (), limit: int | None = None) -> str:
    """Mask the given secrets, and whatever else in `text` looks like a key or a password.

    Args:
        text: Any text.
        secrets: What must not be shown, by value, as it is or quoted for a URL.
        limit: The most characters to look at for what only looks like a secret; the rest is cut.
    """
    spellings = {spelling for secret in secrets for spelling in (secret, url_quoted(secret, ""))}
    # Before the cut, which could leave half of one; the longest first: one may contain another.
    for spelling in sorted(filter(None, spellings), key=len, reverse=True):
        text = text.replace(spelling, MASK)
    return _SECRETS.sub(_masked, text[:limit])


def _masked(match: re.Match[str]) -> str:
    return "".join(part or "" for part in match.groups()) + MASK
