"""Who of several equal deployments is asked first.

Sans-I/O: chance comes from outside. Only the next one is drawn, since drawing a whole order would
advance a round-robin for those who are never asked.
"""

import math
from bisect import bisect
from collections.abc import Callable, Sequence
from hashlib import blake2b
from itertools import accumulate
from operator import attrgetter
from threading import Lock
from typing import Final, Literal, Protocol, TypeVar

from langchain_model_gateway.admission.places import Load

Balance = Literal["weighted", "least_busy", "fastest"]
"""How deployments of one tier share the load."""

_INSTANT: Final = 1e-3
"""The least latency that counts, in seconds: among unknown ones the idle one is asked."""


class Turn:
    """One deployment's credit in the round-robin."""

    __slots__ = ("credit",)

    def __init__(self) -> None:
        self.credit = 0.0


class Candidate(Protocol):
    """A deployment, as far as balance is concerned."""

    @property
    def model_name(self) -> str:
        """Its name."""

    @property
    def weight(self) -> float:
        """Its share of the load, relative to the others'."""

    @property
    def load(self) -> Load:
        """What it is busy with."""

    @property
    def turn(self) -> Turn:
        """Its credit."""


C = TypeVar("C", bound=Candidate)
Chance = Callable[[float, float], float]

_WEIGHT: Final = attrgetter("weight")

_turns: Final = Lock()


def draw(
    balance: Balance,
    candidates: Sequence[C],
    uniform: Chance,
    now: float,
    *,
    streams: bool,
    advance: bool,
) -> C:
    """The one to ask next.

    Args:
        balance: How they share the load.
        candidates: Those that may be asked now, at least one.
        uniform: A random number between two.
        now: The present, in monotonic seconds.
        streams: Whether it is asked for a stream.
        advance: Whether it will be asked, so that another's turn comes next.
    """
    if len(candidates) == 1:
        return candidates[0]
    if balance == "weighted":
        return _by_turn(candidates, advance=advance)
    others = [*candidates]
    first = others.pop(_by_weight(others, uniform))
    second = others[_by_weight(others, uniform)]
    if balance == "least_busy":
        one, other = first.load.places / first.weight, second.load.places / second.weight
    else:
        one = _expected(first, now, streams=streams)
        other = _expected(second, now, streams=streams)
    return second if other < one else first


def _by_turn(candidates: Sequence[C], *, advance: bool) -> C:
    """Smooth weighted round-robin, as nginx has it: a, a, b, a for weights of 3 and 1."""
    total, most, chosen = 0.0, -math.inf, candidates[0]
    with _turns:
        for each in candidates:
            total += each.weight
            credit = each.turn.credit + each.weight
            if credit > most:
                most, chosen = credit, each
            if advance:
                each.turn.credit = credit
        if advance:
            chosen.turn.credit -= total
    return chosen


def _by_weight(candidates: Sequence[Candidate], uniform: Chance) -> int:
    """The place of one that is drawn: the shares stand side by side, and a point falls into one."""
    ends = [*accumulate(map(_WEIGHT, candidates))]
    return bisect(ends, uniform(0.0, ends[-1]), hi=len(ends) - 1)


def _expected(candidate: Candidate, now: float, *, streams: bool) -> float:
    """What an attempt would take: its latency, for those under way and this one."""
    load = candidate.load
    latency = max(load.latencies(streams=streams).mean(now), _INSTANT)
    return latency * (load.places + 1) / candidate.weight


def ranked(candidates: Sequence[C], value: object) -> list[C]:
    """The candidates in the order that belongs to a value: always the same for the same value.

    Weighted rendezvous hashing: without one of them, the others' order stays as it is.

    Args:
        candidates: Deployments.
        value: What shall stay together, such as a thread's id.
    """
    return sorted(candidates, key=lambda each: _distance(each, str(value)))


def _distance(candidate: Candidate, value: str) -> float:
    text = f"{len(value)}:{value}{candidate.model_name}".encode()
    point = (int.from_bytes(blake2b(text, digest_size=8).digest()) + 0.5) / 2**64
    return -math.log(point) / candidate.weight
