"""What a gateway remembers between calls, in this process's memory.

Shared by the gateways derived from one, and never serialized.
"""

import os
from weakref import WeakSet

from langchain_model_gateway.admission.cooldown import Circuit
from langchain_model_gateway.guards import Hanging


class DeploymentState:
    """What is remembered of one deployment."""

    __slots__ = ("circuit", "hanging")

    def __init__(self) -> None:
        self.circuit = Circuit()
        self.hanging = Hanging()


class Memory:
    """The state of each deployment, by name."""

    def __init__(self) -> None:
        self._deployments: dict[str, DeploymentState] = {}
        _memories.add(self)

    def __getitem__(self, model_name: str) -> DeploymentState:
        return self._deployments.setdefault(model_name, DeploymentState())

    def after_fork(self) -> None:
        """Forget the threads that a forked process does not have, and the locks they may hold."""
        for state in self._deployments.values():
            state.circuit.renew_lock()
            state.hanging.reset()


_memories: "WeakSet[Memory]" = WeakSet()


def _after_fork() -> None:
    for memory in _memories:
        memory.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
