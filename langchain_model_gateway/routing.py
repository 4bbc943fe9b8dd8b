"""Who may be asked, and in which order; `explain()` and every call ask here.

Sans-I/O: nothing here waits or does input or output; time comes from outside.
"""

from collections.abc import Callable, Iterator, Mapping
from copy import copy
from dataclasses import dataclass, field
from datetime import UTC, datetime
from operator import itemgetter
from typing import Any, NamedTuple

from langchain_core.exceptions import ModelTimeoutError
from langchain_core.runnables import Runnable

from langchain_model_gateway._arguments import unknown_name
from langchain_model_gateway.admission import Admission, Closed, Moment, Permit
from langchain_model_gateway.admission.cooldown import Cooldown
from langchain_model_gateway.admission.windows import Windows
from langchain_model_gateway.answers import is_callers_bug
from langchain_model_gateway.classify import is_control_flow
from langchain_model_gateway.deployment import ModelDeployment
from langchain_model_gateway.errors import EmptyStreamError, RejectedAnswerError, SkippedModel
from langchain_model_gateway.guards import Guards, Hanging
from langchain_model_gateway.logs import Logs, logger
from langchain_model_gateway.policies import CooldownPolicy, RejectFunction, Rejection, RetryPolicy
from langchain_model_gateway.secrets import secret_values
from langchain_model_gateway.state import DeploymentState, Memory
from langchain_model_gateway.timing import Clock


class RoutingPlan(NamedTuple):
    """What a call would do at one moment.

    Attributes:
        order: The names of the deployments that would be tried, in that order.
        skipped: Those that would not be tried at all: who, why, and until when.
        deferred: Those in `order` that come later than their place, why, and until when.
        at: The moment.
    """

    order: tuple[str, ...]
    skipped: tuple[SkippedModel, ...]
    deferred: tuple[SkippedModel, ...]
    at: datetime

    def __str__(self) -> str:
        from langchain_model_gateway.display import plan_text  # noqa: PLC0415 - only when shown

        return plan_text(self)

    def _repr_html_(self) -> str:
        from langchain_model_gateway.display import plan_html  # noqa: PLC0415 - only when shown

        return plan_html(self)


class Rules(NamedTuple):
    """What a gateway is told to do, whoever its deployments are."""

    exceptions_to_handle: tuple[type[BaseException], ...]
    strict_preference: bool
    retry: RetryPolicy | None
    cooldown: CooldownPolicy | None
    timeout: float | None
    reject: frozenset[Rejection | RejectFunction]
    translate_history: bool


class Target:
    """A deployment, ready to be asked: what its calls need, worked out once."""

    __slots__ = (
        *("_deployment", "admissions", "client", "hanging", "model", "model_name"),
        *("provider", "stall_timeout", "timeout"),
    )

    def __init__(
        self, deployment: ModelDeployment, rules: Rules, state: DeploymentState, listener: Logs
    ) -> None:
        self.model_name = deployment.model_name
        self.model: Runnable[Any, Any] = deployment.model
        self._deployment = deployment
        self.client = deployment.client
        self.provider = deployment.provider
        self.timeout = deployment.timeout
        self.stall_timeout = deployment.stall_timeout
        self.hanging: Hanging = state.hanging
        admissions: list[Admission] = []
        if deployment.time_constraints:
            admissions.append(Windows(deployment.time_constraints))
        if rules.cooldown is not None:
            admissions.append(
                Cooldown(self.model_name, state.circuit, rules.cooldown, self.timeout, listener)
            )
        self.admissions = tuple(admissions)

    def closed(self, at: Moment) -> Closed | None:
        """Why it may not be asked at a moment; `None` if it may."""
        found = (admission.closed(at) for admission in self.admissions)
        return next((closed for closed in found if closed is not None), None)

    def enter(self, at: Moment, *, is_last_resort: bool = False) -> tuple[Permit, ...] | Closed:
        """Take the permits for one attempt, or learn why there are none."""
        permits: tuple[Permit, ...] = ()
        for admission in self.admissions:
            entry = admission.enter(at, is_last_resort=is_last_resort)
            if isinstance(entry, Closed):
                return entry
            if entry is not None:
                permits += (entry,)
        return permits

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
        return secret_values(self._deployment.core)

    def skip(self, closed: Closed) -> SkippedModel:
        """Why it was not asked, as it is told."""
        return SkippedModel(self.model_name, closed.reason, closed.until)


class Choice(NamedTuple):
    """A deployment that may be asked now."""

    target: Target
    permits: tuple[Permit, ...]
    is_last_resort: bool


@dataclass(frozen=True)
class Routing:
    """The part of a gateway that decides: its deployments, its rules and what is known of them."""

    targets: Mapping[str, Target]
    _by_path: Mapping[str, Target]
    rules: Rules
    clock: Clock
    guards: Guards
    listener: Logs
    _orders: dict[object, tuple[Target, ...]] = field(default_factory=dict, init=False)

    @classmethod
    def of(
        cls,
        models: tuple[ModelDeployment, ...],
        rules: Rules,
        memory: Memory,
        clock: Clock,
        guards: Guards,
        listener: Logs | None = None,
    ) -> "Routing":
        """Compile deployments and rules."""
        listener = listener or Logs()
        targets = [Target(each, rules, memory[each.model_name], listener) for each in models]
        by_name = {target.model_name: target for target in targets}
        paths = {path: by_name[each.model_name] for each in models for path in each.by_path()}
        return cls(by_name, {**paths, **by_name}, rules, clock, guards, listener)

    def moment(self) -> Moment:
        """The present."""
        return Moment(self.clock.now(), self.clock.monotonic())

    def order(self, preference: object, *, is_only: bool = False) -> tuple[Target, ...]:
        """The deployments in the order to try them: first the one a caller asked for, if any.

        Args:
            preference: The name to try first.
            is_only: Whether to try no other than the one asked for.

        Raises:
            ValueError: If there is none of that name, and preference is strict or the only one.
        """
        if is_only and preference is not None:
            preferred = self._named(preference, is_strict=True)
            return () if preferred is None else (preferred.asked_for(str(preference)),)
        try:
            return self._orders[preference]
        except (KeyError, TypeError):  # not asked for before, or not even hashable
            order = tuple(self.targets.values())
        if preference is not None:
            preferred = self._named(preference, is_strict=self.rules.strict_preference)
            if preferred is None:
                return self.order(None)
            order = (preferred, *(each for each in order if each is not preferred))
            order = tuple(each.asked_for(str(preference)) for each in order)
        return self._orders.setdefault(preference, order)

    def _named(self, name: object, *, is_strict: bool) -> Target | None:
        if isinstance(name, str) and (target := self._by_path.get(name)) is not None:
            return target
        unknown = unknown_name(name, self._by_path)
        if is_strict:
            raise ValueError(f"model_preference: {unknown}")
        logger.warning("ignored model_preference: %s", unknown)
        return None

    def handles(self, error: Exception) -> bool:
        """Whether an attempt that raised this has failed, so that the next may be tried."""
        # A gateway's own verdicts are failures whatever else is: they are what was asked for.
        is_verdict = isinstance(error, (RejectedAnswerError, EmptyStreamError))
        if is_verdict or type(error) is ModelTimeoutError:
            return True
        if is_callers_bug(error):
            return False
        return isinstance(error, self.rules.exceptions_to_handle) and not is_control_flow(error)

    def plan(self, preference: object, at: datetime | None = None) -> RoutingPlan:
        """What a call now, or at that moment, would do, if nothing else happens until then."""
        present = self.moment()
        if at is not None:
            present = Moment(at, present.monotonic + (at - present.now).total_seconds())
        deferred: list[SkippedModel] = []

        def look(target: Target, at: Moment, *, is_last_resort: bool = False) -> Any:
            closed = target.closed(at)
            if closed is None or closed.is_final:
                return closed or ()
            if not is_last_resort:
                deferred.append(target.skip(closed))
                return closed
            return ()

        choices = list(route([*self.order(preference)], lambda: present, look))
        return RoutingPlan(
            order=tuple(c.target.model_name for c in choices if isinstance(c, Choice)),
            skipped=tuple(c for c in choices if isinstance(c, SkippedModel)),
            deferred=tuple(deferred),
            at=present.now,
        )


def route(
    pending: list[Target],
    moment: Callable[[], Moment],
    enter: Callable[..., tuple[Permit, ...] | Closed],
) -> Iterator[Choice | SkippedModel]:
    """Yield each deployment when its turn has come, or a `SkippedModel` if it may not be tried.

    Lazy: the clock is looked at just before an attempt, and a call whose first choice answers looks
    at no other. Those that are closed, but not for good, come last, the soonest to open first.

    Args:
        pending: The deployments in order; each is taken out when its turn has come.
        moment: The clock.
        enter: `Target.enter`, or what only looks.
    """
    deferred: list[tuple[datetime, Target]] = []
    while pending:
        target = pending.pop(0)
        entry = enter(target, moment()) if target.admissions else ()
        if not isinstance(entry, Closed):
            yield Choice(target, entry, is_last_resort=False)
        elif entry.is_final:
            yield target.skip(entry)
        else:
            deferred.append((entry.until or datetime.max.replace(tzinfo=UTC), target))
    for _, target in sorted(deferred, key=itemgetter(0)):
        entry = enter(target, moment(), is_last_resort=True)
        if isinstance(entry, Closed):
            yield target.skip(entry)
        else:
            yield Choice(target, entry, is_last_resort=True)
