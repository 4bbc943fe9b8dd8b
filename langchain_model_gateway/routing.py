"""Who may be asked, and in which order; `explain()` and every call ask here.

Sans-I/O: nothing here waits or does input or output; time comes from outside.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import groupby
from operator import attrgetter, itemgetter
from typing import Any, Final, NamedTuple

from langchain_core.exceptions import ModelTimeoutError
from langchain_core.runnables import Runnable

from langchain_model_gateway._arguments import unknown_name
from langchain_model_gateway._logger import logger
from langchain_model_gateway.admission import Admission, Closed, Moment, Outcome, Permit, Size
from langchain_model_gateway.admission.cooldown import Cooldown
from langchain_model_gateway.admission.limits import Limits
from langchain_model_gateway.admission.places import Load, Places
from langchain_model_gateway.admission.windows import Windows
from langchain_model_gateway.answers import is_callers_bug
from langchain_model_gateway.balance import Balance, Turn, draw, ranked
from langchain_model_gateway.classify import is_control_flow
from langchain_model_gateway.deployment import ModelDeployment
from langchain_model_gateway.errors import EmptyStreamError, RejectedAnswerError, SkippedModel
from langchain_model_gateway.guards import Guards, Hanging
from langchain_model_gateway.listeners.logs import Logs
from langchain_model_gateway.policies import (
    CooldownPolicy,
    HedgePolicy,
    RejectFunction,
    Rejection,
    RetryPolicy,
)
from langchain_model_gateway.secrets import secret_values
from langchain_model_gateway.state import DeploymentState, HedgeBudget, Memory
from langchain_model_gateway.timing import Clock
from langchain_model_gateway.wrappers import max_output

_FAR: Final = datetime.max.replace(tzinfo=UTC)


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
    balance: Balance | None
    max_wait: float | None
    hedge: HedgePolicy | None


class Target:
    """A deployment, ready to be asked: what its calls need, worked out once."""

    __slots__ = (
        *("_deployment", "admissions", "client", "counts_tokens", "hanging", "load", "model"),
        *("model_name", "provider", "stall_timeout", "tier", "timeout", "turn", "weight"),
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
        self.tier: float = deployment.tier
        self.weight = deployment.weight
        self.counts_tokens = deployment.tpm is not None
        self.hanging: Hanging = state.hanging
        self.load: Load = state.load
        self.turn: Turn = state.turn
        admissions: list[Admission] = []
        if deployment.time_constraints:
            admissions.append(Windows(deployment.time_constraints))
        if rules.cooldown is not None:
            admissions.append(
                Cooldown(self.model_name, state.circuit, rules.cooldown, self.timeout, listener)
            )
        if deployment.rpm is not None or deployment.tpm is not None:
            most = max_output(deployment.model)
            admissions.append(Limits(state.usage, deployment.rpm, deployment.tpm, most))
        is_watched = rules.balance in {"least_busy", "fastest"} or rules.hedge is not None
        if deployment.max_concurrency is not None or is_watched:
            admissions.append(Places(state.load, deployment.max_concurrency))
        self.admissions = tuple(admissions)

    def closed(self, at: Moment, size: Size) -> Closed | None:
        """Why it may not be asked at a moment; `None` if it may."""
        for admission in self.admissions:
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
            if isinstance(entry, Closed):
                unused = Outcome("neutral", at.monotonic, has_begun=False)
                for permit in permits:
                    permit.give_back(unused)
                return entry
            if entry is not None:
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


class Choice(NamedTuple):
    """A deployment that may be asked now, or after the wait that its permits say."""

    target: Target
    permits: tuple[Permit, ...]
    is_last_resort: bool


class Full(NamedTuple):
    """A deployment that may be asked when it has a place again."""

    target: Target
    closed: Closed


@dataclass(frozen=True)
class Routing:
    """The part of a gateway that decides: its deployments, its rules and what is known of them."""

    targets: Mapping[str, Target]
    _by_path: Mapping[str, Target]
    rules: Rules
    clock: Clock
    guards: Guards
    listener: Logs
    hedges: HedgeBudget
    _orders: dict[object, tuple[Target, ...]] = field(default_factory=dict, init=False)

    @classmethod
    def of(
        cls,
        models: tuple[ModelDeployment, ...],
        rules: Rules,
        memory: Memory,
        clock: Clock,
        guards: Guards,
        *,
        listener: Logs | None = None,
    ) -> "Routing":
        """Compile deployments and rules."""
        listener = listener or Logs()
        targets = [Target(each, rules, memory[each.model_name], listener) for each in models]
        by_name = {target.model_name: target for target in targets}
        paths = {path: by_name[each.model_name] for each in models for path in each.by_path()}
        return cls(by_name, {**paths, **by_name}, rules, clock, guards, listener, memory.hedges)

    def moment(self) -> Moment:
        """The present."""
        return Moment(self.clock.now(), self.clock.monotonic())

    def order(
        self, preference: object, affinity: object = None, *, is_only: bool = False
    ) -> Sequence[Target]:
        """The deployments in the order to try them: first the one a caller asked for, if any.

        Args:
            preference: The name to try first.
            affinity: What is always tried in the same order, inside each tier.
            is_only: Whether to try no other than the one asked for.

        Raises:
            ValueError: If there is none of that name, and preference is strict or the only one.
        """
        if is_only and preference is not None:
            preferred = self._named(preference, is_strict=True)
            return () if preferred is None else (preferred.asked_for(str(preference)),)
        if affinity is not None:
            tiers = groupby(self.order(preference), key=attrgetter("tier"))
            return [target for _, tier in tiers for target in ranked([*tier], affinity)]
        try:
            return self._orders[preference]
        except (KeyError, TypeError):  # not asked for before, or not even hashable
            order = tuple(sorted(self.targets.values(), key=attrgetter("tier")))
        if preference is not None:
            preferred = self._named(preference, is_strict=self.rules.strict_preference)
            if preferred is None:
                return self.order(None)
            others = (each for each in order if each is not preferred)
            order = (preferred.in_front(), *others)
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

    def pick(
        self, pending: Sequence[Target], at: Moment, size: Size, *, streams: bool, advance: bool
    ) -> Target:
        """The one of the first tier's deployments that is asked next: one that may be, if any."""
        first = pending[0]
        tier = [each for each in pending if each.tier == first.tier]
        candidates = [each for each in tier if each.closed(at, size) is None]
        if self.rules.balance is None or not candidates:
            return first
        uniform, now = self.clock.uniform, at.monotonic
        return draw(self.rules.balance, candidates, uniform, now, streams=streams, advance=advance)

    def plan(self, preference: object, at: datetime | None = None) -> RoutingPlan:
        """What a call now, or at that moment, would do, if nothing else happens until then."""
        present = self.moment()
        if at is not None:
            present = Moment(at, present.monotonic + (at - present.now).total_seconds())
        deferred: list[SkippedModel] = []

        def look(target: Target, at: Moment, *, is_last_resort: bool = False) -> Any:
            closed = target.closed(at, no_size)
            if closed is None or closed.kind == "restricted":
                return closed or ()
            if not is_last_resort:
                deferred.append(target.skip(closed))
                return closed
            return ()

        def pick(pending: Sequence[Target], at: Moment) -> Target:
            return self.pick(pending, at, no_size, streams=False, advance=False)

        choices = list(route(self.order(preference), lambda: present, look, pick))
        return RoutingPlan(
            order=tuple(c.target.model_name for c in choices if not isinstance(c, SkippedModel)),
            skipped=tuple(c for c in choices if isinstance(c, SkippedModel)),
            deferred=tuple(deferred),
            at=present.now,
        )


def no_size() -> int:
    """The tokens of no input."""
    return 0


def route(
    order: Sequence[Target],
    moment: Callable[[], Moment],
    enter: Callable[..., tuple[Permit, ...] | Closed],
    pick: Callable[[Sequence[Target], Moment], Target] | None,
) -> Iterator[Choice | SkippedModel | Full]:
    """Yield each deployment when its turn has come, or a `SkippedModel` if it may not be tried.

    Lazy: the clock is looked at just before an attempt, and a call whose first choice answers looks
    at no other. After those that are open come the limited, then those in cooldown, each the
    soonest to open first; those that are full come last, as they cannot be asked at all.

    Args:
        order: The deployments, of lower tiers first.
        moment: The clock.
        enter: `Target.enter`, or what only looks.
        pick: Which one of those that are left is next; `None`: the first.
    """
    deferred: list[tuple[bool, datetime, Target]] = []
    full: list[Full] = []
    for target in order if pick is None else _picked(order, moment, pick):
        entry = enter(target, moment()) if target.admissions else ()
        if not isinstance(entry, Closed):
            yield Choice(target, entry, is_last_resort=False)
        elif entry.kind == "restricted":
            yield target.skip(entry)
        elif entry.kind == "full":
            full.append(Full(target, entry))
        else:
            deferred.append((entry.kind == "cooldown", entry.until or _FAR, target))
    for _, _, target in sorted(deferred, key=itemgetter(0, 1)):
        entry = enter(target, moment(), is_last_resort=True)
        if not isinstance(entry, Closed):
            yield Choice(target, entry, is_last_resort=True)
        elif entry.kind == "full":
            full.append(Full(target, entry))
        else:
            yield target.skip(entry)
    yield from full


def _picked(
    order: Sequence[Target],
    moment: Callable[[], Moment],
    pick: Callable[[Sequence[Target], Moment], Target],
) -> Iterator[Target]:
    pending = [*order]
    while pending:
        target = pick(pending, moment())
        pending.remove(target)
        yield target
