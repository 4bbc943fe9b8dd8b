"""Fair numbers from a noisy machine: interleaved rounds, medians, ratios within a round."""

import gc
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from statistics import median

BASELINE = "with_fallbacks"


@dataclass
class Record:
    """What one contender took for one work.

    Attributes:
        section: The kind of work: "in-process", "http", "hanging", "import" or "memory".
        work: Which.
        contender: Who.
        family: Of which library.
        unit: Of `values`.
        values: One for each round.
        extras: What else was seen.
    """

    section: str
    work: str
    contender: str
    family: str
    unit: str
    values: list[float]
    extras: dict[str, float | str] = field(default_factory=dict)

    @property
    def median(self) -> float:
        """The typical value; `nan` where there is none."""
        return median(self.values) if self.values else float("nan")

    def over(self, other: "Record") -> float:
        """The typical ratio to another; both of a pair come from the same round."""
        pairs = zip(self.values, other.values, strict=False)
        ratios = [mine / theirs for mine, theirs in pairs if theirs]
        return median(ratios) if ratios else float("nan")

    def __sub__(self, other: "Record") -> float:
        """The typical difference to another."""
        pairs = zip(self.values, other.values, strict=False)
        return median([mine - theirs for mine, theirs in pairs])


def interleaved(
    samples: Mapping[str, Callable[[], float]], rounds: int, budget: float = 600.0
) -> dict[str, list[float]]:
    """Take one sample of everybody in each round, beginning with another each time.

    No round begins after `budget` seconds, but for the first.
    """
    ends = time.monotonic() + budget
    names = list(samples)
    values: dict[str, list[float]] = {name: [] for name in names}
    gc.collect()
    gc.freeze()  # what the libraries keep for ever is not to be looked through in each sample
    try:
        for turn in range(rounds):
            if turn and time.monotonic() > ends:
                break
            shift = turn % len(names)
            for name in names[shift:] + names[:shift]:
                gc.collect()
                values[name].append(samples[name]())
    finally:
        gc.unfreeze()
    return values
