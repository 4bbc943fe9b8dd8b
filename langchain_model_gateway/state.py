"""What a gateway remembers between calls, in this process's memory.

Shared by the gateways derived from one, and never serialized.
"""

import os
from threading import Lock
from typing import Final
from weakref import WeakSet

from langchain_model_gateway.admission.cooldown import Circuit
from langchain_model_gateway.admission.limits import Usage
from langchain_model_gateway.admission.places import Load
from langchain_model_gateway.balance import Turn
from langchain_model_gateway.guards import Hanging
from langchain_model_gateway.sharing import Exchange, Known, News, SharedState

_MOST_SAVED: Final = 10.0
_ROUNDING: Final = 1e-9


class DeploymentState:
    """What is remembered of one deployment."""

    __slots__ = ("circuit", "hanging", "load", "turn", "usage")

    def __init__(self) -> None:
        self.circuit = Circuit()
        self.hanging = Hanging()
        self.load = Load(self.hanging)
        self.turn = Turn()
        self.usage = Usage()

    def after_fork(self) -> None:
        """Forget the threads that a forked process does not have, and the locks they may hold."""
        self.circuit.renew_lock()
        self.hanging.reset()
        self.load.reset()
        self.usage.after_fork()

    def news(self, now: float, every: float) -> News:
        """What other processes do not know yet."""
        with self.usage.lock:
            requests, tokens = self.usage.requests.news(now), self.usage.tokens.news(now)
        return News(requests, tokens, self.circuit.news(now, every), self.load.places)

    def learn(self, known: Known, told: News, now: float, every: float) -> None:
        """What all processes know, this one's news included."""
        with self.usage.lock:
            self.usage.requests.learn(known.requests, told.requests, now, every)
            self.usage.tokens.learn(known.tokens, told.tokens, now, every)
        self.circuit.learn(known.circuit, now)
        self.load.elsewhere = known.places

    def forget_others(self, now: float) -> None:
        """The others are out of reach: count this process only."""
        with self.usage.lock:
            self.usage.requests.forget_others(now)
            self.usage.tokens.forget_others(now)
        self.load.elsewhere = 0


class HedgeBudget:
    """How many calls may be hedged now: a share of all calls, saved up."""

    __slots__ = ("_lock", "_saved")

    def __init__(self) -> None:
        self._saved = 1.0
        self.renew_lock()

    def renew_lock(self) -> None:
        """Make a new lock: in a forked process the old one may be held by nobody."""
        self._lock = Lock()

    def earn(self, share: float) -> None:
        """A call is made."""
        with self._lock:
            self._saved = min(self._saved + share, _MOST_SAVED)

    def spend(self) -> bool:
        """Hedge one call, if one may be."""
        with self._lock:
            if self._saved < 1 - _ROUNDING:
                return False
            self._saved -= 1
            return True


class Memory:
    """The state of each deployment, by name, and of what they share."""

    def __init__(self) -> None:
        self._deployments: dict[str, DeploymentState] = {}
        self.hedges = HedgeBudget()
        self.exchange: Exchange | None = None
        _memories.add(self)

    def share(self, store: SharedState) -> None:
        """Exchange news with other processes, from the first call on."""
        self.exchange = Exchange(store, self._deployments)

    def __getitem__(self, model_name: str) -> DeploymentState:
        if (state := self._deployments.get(model_name)) is None:
            state = self._deployments.setdefault(model_name, DeploymentState())
        return state

    def after_fork(self) -> None:
        """Make each deployment's state usable in a forked process."""
        self.hedges.renew_lock()
        if self.exchange is not None:
            self.exchange.after_fork()
        for state in self._deployments.values():
            state.after_fork()


_memories: "WeakSet[Memory]" = WeakSet()


def _after_fork() -> None:
    for memory in _memories:
        memory.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
