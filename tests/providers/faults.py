"""The table of faults, and what the contract promises of each; no code of the package is used."""

from typing import Final, NamedTuple

from .server import Fault

STATUSES: Final = {
    **dict.fromkeys((400, 401, 402, 403, 404, 413, 422), False),
    **dict.fromkeys((408, 429, 500, 503, 529), True),
}
"""Each HTTP status, and whether waiting could help."""


class Case(NamedTuple):
    """A fault, and what is promised to the caller.

    Args:
        fault: What the server does.
        is_retryable: Whether the same call may succeed later.
        in_streams_only: Whether a plain answer cannot have it.
        has_begun: Whether a stream has given a word by then, and so is not replaced.
    """

    fault: Fault
    is_retryable: bool = True
    in_streams_only: bool = False
    has_begun: bool = False


def _in_stream(way: str, when: str = "opening") -> Case:
    return Case(Fault(way, when), in_streams_only=True, has_begun=when == "content")


FAULTS: Final = {
    **{str(status): Case(Fault("status", status=status), can) for status, can in STATUSES.items()},
    "cut before the head": Case(Fault("cut")),
    "cut before a word": _in_stream("cut"),
    "cut in the middle": Case(Fault("cut", "content"), has_begun=True),
    "error before a word": _in_stream("error"),
    "error in the middle": _in_stream("error", "content"),
    "no event": _in_stream("empty"),
    "no finish reason": _in_stream("no_finish", "content"),
    "hangs before the head": Case(Fault("hang")),
    "hangs before a word": _in_stream("hang"),
    "hangs in the middle": Case(Fault("hang", "content"), has_begun=True),
}
