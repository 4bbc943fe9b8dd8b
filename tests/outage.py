"""An hour with a primary that dies, flaps and recovers, compressed: `python -m tests.outage`.

1,000 calls, one every 3.6 seconds of a virtual clock; a dead primary costs its timeout. What it is
asked while dead, and what the callers wait for it, with and without a `CooldownPolicy`.
"""

import logging
from collections.abc import Iterator
from typing import Any, NamedTuple

from langchain_core.messages import AIMessage
from langchain_core.runnables import Runnable

from langchain_model_gateway import CooldownPolicy, GatewayRunnable
from tests.rehearsal import ServerError, VirtualClock, rehearsed

CALLS, HOUR, PATIENCE = 1000, 3600.0, 10.0


def is_dead(time: float) -> bool:
    """Dead from minute 10 to 30, then half of each minute until minute 40."""
    minute = time / 60
    return 10 <= minute < 30 or (30 <= minute < 40 and time % 60 < 30)


class Result(NamedTuple):
    """What an hour came to."""

    answered: int
    by_primary: int
    asked_while_dead: int
    dead_calls: int
    seconds_lost: float


class Primary(Runnable[Any, Any]):
    """Answers in a second; while dead, not before the caller gives up."""

    def __init__(self, clock: VirtualClock) -> None:
        self.clock, self.asked_while_dead = clock, 0

    def invoke(self, input: Any, config: Any = None, **kwargs: Any) -> AIMessage:
        if is_dead(self.clock.time):
            self.asked_while_dead += 1
            self.clock.spend(PATIENCE)
            raise ServerError(503, None)
        self.clock.spend(1)
        return AIMessage("primary")


class Backup(Runnable[Any, Any]):
    """Always answers, in a second."""

    def __init__(self, clock: VirtualClock) -> None:
        self.clock = clock

    def invoke(self, input: Any, config: Any = None, **kwargs: Any) -> AIMessage:
        self.clock.spend(1)
        return AIMessage("backup")


def arrivals() -> Iterator[float]:
    """When the calls are made, whatever the earlier ones have come to."""
    return (call * HOUR / CALLS for call in range(CALLS))


def hour(cooldown: CooldownPolicy | None) -> Result:
    """Live through it."""
    clock = VirtualClock()
    primary = Primary(clock)
    gateway = GatewayRunnable(
        models=[
            {"model_name": "primary", "model": primary},
            {"model_name": "backup", "model": Backup(clock)},
        ],
        cooldown=cooldown,
    )
    gateway = rehearsed(gateway, clock)
    answers, lost = [], 0.0
    for arrival in arrivals():
        clock.time = arrival
        answers.append(gateway.invoke("?").content)
        lost += clock.time - arrival - 1
    dead_calls = sum(map(is_dead, arrivals()))
    return Result(
        len(answers), answers.count("primary"), primary.asked_while_dead, dead_calls, lost
    )


def main() -> None:
    """Print the two hours."""
    without, cooled = hour(None), hour(CooldownPolicy())
    print(f"{CALLS} calls in an hour, {without.dead_calls} of them while the primary is dead")  # noqa: T201
    for name, result in (("without cooldown", without), ("with CooldownPolicy()", cooled)):
        print(  # noqa: T201
            f"{name:>21}: {result.answered} answered, {result.asked_while_dead:3} calls to the "
            f"dead primary, {result.seconds_lost:,.0f} s waited for it, "
            f"{result.by_primary} answered by it"
        )


if __name__ == "__main__":
    logging.getLogger("langchain_model_gateway").setLevel(logging.CRITICAL)
    main()
