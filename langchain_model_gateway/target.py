"""A deployment, ready to be asked: what its calls need, worked out once."""

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

from langchain_core.runnables import Runnable

from langchain_model_gateway import capabilities, clients
from langchain_model_gateway.admission import Admission, Closed, Moment, Outcome, Permit, Size
from langchain_model_gateway.admission.cooldown import Cooldown
from langchain_model_gateway.admission.limits import Limits
from langchain_model_gateway.admission.places import Load, Places
from langchain_model_gateway.admission.windows import Windows
from langchain_model_gateway.balance import Balance, Turn
from langchain_model_gateway.deployment import ModelDeployment
from langchain_model_gateway.errors import SkippedModel
from langchain_model_gateway.guards import Hanging
from langchain_model_gateway.listeners import CooldownNews, Listeners
from langchain_model_gateway.policies import (
    CooldownPolicy,
    HedgePolicy,
    RejectFunction,
    Rejection,
    RetryPolicy,
)
from langchain_model_gateway.secrets import secret_values
from langchain_model_gateway.state import DeploymentState
from langchain_model_gateway.timing import Clock
from langchain_model_gateway.wrappers import max_output


@dataclass(frozen=True, slots=True)
class Rules:
    """What a gateway is told to do, whoever its deployments are."""

    model_preference: str | None
    model_fallback: bool
    affinity: str | None
    exceptions_to_handle: tuple[type[BaseException], ...]
    strict_preference: bool
    retry: RetryPolicy | None
    cooldown: CooldownPolicy | None
    timeout: float | None
    reject: frozenset[Rejection | RejectFunction]
    translate_history: bool
    balance: Balance | None
    max_wait: float | None
    hedge: HedgePolicy | None


class Target:
    """A deployment, ready to be asked: what its calls need, worked out once."""

    __slots__ = (
        *("_deployment", "admissions", "client", "counts_tokens", "gates", "hanging", "has_tools"),
        *("lacks", "load", "model", "model_name", "provider", "stall_timeout", "tier", "timeout"),
        *("turn", "weight", "window"),
    )

    def __init__(
        self,
        deployment: ModelDeployment,
        rules: Rules,
        state: DeploymentState,
        clock: Clock,
        listeners: Listeners,
    ) -> None:
        self.model_name = deployment.model_name
        self.model: Runnable[Any, Any] = deployment.model
        self._deployment = deployment
        self.client = deployment.client
        self.provider = deployment.provider
        self.timeout = deployment.timeout
        self.stall_timeout = deployment.stall_timeout
        self.tier: float = deployment.tier
        self.weight = deployment.weight
        self.counts_tokens = deployment.tpm is not None
        profile = clients.profile(deployment.inner_model)
        self.lacks, self.window = capabilities.lacks(profile), capabilities.window(profile)
        self.has_tools = bool(capabilities.bound_tools(deployment.model))
        self.hanging: Hanging = state.hanging
        self.load: Load = state.load
        self.turn: Turn = state.turn
        admissions: list[Admission] = []
        if deployment.time_constraints:
            admissions.append(Windows(deployment.time_constraints))
        if rules.cooldown is not None:
            news = CooldownNews(listeners, self.provider, clock)
            admissions.append(
                Cooldown(self.model_name, state.circuit, rules.cooldown, self.timeout, news)
            )
        if deployment.rpm is not None or deployment.tpm is not None:
            most = max_output(deployment.model)
            admissions.append(Limits(state.usage, deployment.rpm, deployment.tpm, most))
        is_watched = rules.balance in {"least_busy", "fastest"} or rules.hedge is not None
        if deployment.max_concurrency is not None or is_watched:
            admissions.append(Places(state.load, deployment.max_concurrency))
        self.admissions = tuple(admissions)
        # Places without a bound only count: they close nobody out.
        is_open = is_watched and deployment.max_concurrency is None
        self.gates = self.admissions[:-1] if is_open else self.admissions

    def closed(self, at: Moment, size: Size) -> Closed | None:
        """Why it may not be asked at a moment; `None` if it may."""
        for admission in self.gates:
            if (closed := admission.closed(at, size)) is not None:
                return closed
        return None

    def enter(
        self, at: Moment, size: Size, *, is_last_resort: bool = False
    ) -> tuple[Permit, ...] | Closed:
        """Take the permits for one attempt, or learn why there are none."""
        permits: tuple[Permit, ...] = ()
        for admission in self.admissions:
            entry = admission.enter(at, size, is_last_resort=is_last_resort)
            if entry is None:
                continue
            if isinstance(entry, Closed):
                give_back_unused(permits, at)
                return entry
            permits += (entry,)
        return permits

    def in_front(self) -> "Target":
        """This one in a tier of its own, before all others."""
        target = copy(self)
        target.tier = float("-inf")
        return target

    def asked_for(self, path: str) -> "Target":
        """This one in a call that prefers `path`: a gateway inside prefers its own part of it."""
        asked = self._deployment.asked_for(path)
        if asked is self._deployment:
            return self
        target = copy(self)
        target.model = asked.model
        return target

    def secrets(self) -> tuple[str, ...]:
        """Its keys, which no text may show."""
        return secret_values(self._deployment.inner_model)

    def skip(self, closed: Closed) -> SkippedModel:
        """Why it was not asked, as it is told."""
        return SkippedModel(self.model_name, closed.reason, closed.until)


def give_back_unused(permits: Sequence[Permit], at: Moment) -> None:
    """Give back the permits for an attempt that was not made after all."""
    unused = Outcome("neutral", at.monotonic(), has_begun=False)
    for permit in permits:
        permit.give_back(unused)
