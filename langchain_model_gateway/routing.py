"""Who may be asked, and in which order; `explain()` and every call ask here.

Sans-I/O: nothing here waits or does input or output; time comes from outside.
"""

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import groupby
from operator import attrgetter, itemgetter
from typing import Any, Final, NamedTuple, TypeVar

from langchain_core.exceptions import ModelTimeoutError

from langchain_model_gateway._arguments import unknown_name
from langchain_model_gateway._logger import logger
from langchain_model_gateway.admission import Closed, Moment, Permit, Size, Then
from langchain_model_gateway.balance import draw, ranked
from langchain_model_gateway.capabilities import needs, why_not
from langchain_model_gateway.classify import is_control_flow
from langchain_model_gateway.deployment import ModelDeployment
from langchain_model_gateway.errors import EmptyStreamError, RejectedAnswerError, SkippedModel
from langchain_model_gateway.guards import Guards
from langchain_model_gateway.listeners import Listeners
from langchain_model_gateway.rejection import Rejects, is_callers_bug
from langchain_model_gateway.sharing import Exchange
from langchain_model_gateway.state import HedgeBudget, Memory
from langchain_model_gateway.target import Rules, Target
from langchain_model_gateway.timing import Clock

T = TypeVar("T")

_FAR: Final = datetime.max.replace(tzinfo=UTC)


class RoutingPlan(NamedTuple):
    """What a call would do at one moment.

    Attributes:
        order: The names of the deployments that would be tried, in that order.
        skipped: Those that would not be tried at all: who, why, and until when.
        deferred: Those in `order` that come later than their place, why, and until when.
        at: The moment.
        shares: Where a balance decides: the share of the load that each of the first ones has by
            its weight, from 0 to 1.
    """

    order: tuple[str, ...]
    skipped: tuple[SkippedModel, ...]
    deferred: tuple[SkippedModel, ...]
    at: datetime
    shares: Mapping[str, float]

    def __str__(self) -> str:
        from langchain_model_gateway.display import plan_text  # noqa: PLC0415 - only when shown

        return plan_text(self)

    def _repr_html_(self) -> str:
        from langchain_model_gateway.display import plan_html  # noqa: PLC0415 - only when shown

        return plan_html(self)


Choice = tuple[Target, tuple[Permit, ...] | Closed, bool]
"""A deployment whose turn has come; its permits, or why it may not be asked at all; and whether it
is the last resort: then its permits may say to wait."""

Enter = Callable[..., tuple[Permit, ...] | Closed]
Pick = Callable[[Sequence[Target]], Target]


@dataclass(frozen=True)
class Routing:
    """The part of a gateway that decides: its deployments, its rules and what is known of them."""

    targets: Mapping[str, Target]
    _by_path: Mapping[str, Target]
    rules: Rules
    clock: Clock
    guards: Guards
    listeners: Listeners
    hedges: HedgeBudget
    exchange: Exchange | None
    lacks: frozenset[str]
    has_vain_tools: bool
    has_gates: bool
    only_tier: float | None
    counts_calls: bool
    reject: Rejects | None
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
        listeners: Listeners,
    ) -> "Routing":
        """Compile deployments and rules."""
        targets = [
            Target(each, rules, memory[each.model_name], clock, listeners) for each in models
        ]
        by_name = {target.model_name: target for target in targets}
        paths = {path: by_name[each.model_name] for each in models for path in each.by_path()}
        tiers = {each.tier for each in targets}
        lacks = frozenset[str]().union(*(each.lacks for each in targets))
        return cls(
            by_name,
            {**paths, **by_name},
            rules,
            clock,
            guards,
            listeners,
            memory.hedges,
            memory.exchange,
            lacks=lacks,
            has_vain_tools=any(e.has_tools and "tool_calling" in e.lacks for e in targets),
            has_gates=any(each.gates for each in targets),
            only_tier=tiers.pop() if len(tiers) == 1 else None,
            counts_calls=rules.hedge is not None or memory.exchange is not None,
            reject=Rejects.of(rules.reject),
        )

    def count_call(self) -> None:
        """A call begins: it earns a part of a hedge, and other processes are to know of it."""
        if self.rules.hedge is not None:
            self.hedges.earn(self.rules.hedge.budget)
        if self.exchange is not None and not self.exchange.is_started:
            self.exchange.start(self.clock)

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

    def unable(self, value: Any, *, has_tools: bool = False) -> dict[str, SkippedModel]:
        """Those that cannot take a request, as their profiles say, and why; by name."""
        if not self.lacks:
            return {}
        needed = needs(value, has_tools=has_tools)
        found: dict[str, SkippedModel] = {}
        for name, target in self.targets.items():
            own = needed | {"tool_calling"} if target.has_tools else needed
            if (reason := why_not(own, target.lacks)) is not None:
                found[name] = SkippedModel(name, reason)
        return found

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
        first, candidates = pending[0], pending
        if first.tier != self.only_tier:
            candidates = [each for each in pending if each.tier == first.tier]
        if self.has_gates:
            candidates = [each for each in candidates if each.closed(at, size) is None]
        if self.rules.balance is None or not candidates:
            return first
        uniform, now = self.clock.uniform, at.monotonic()
        return draw(self.rules.balance, candidates, uniform, now, streams=streams, advance=advance)

    def plan(self, preference: object, at: datetime | None = None, value: Any = "") -> RoutingPlan:
        """What a call now, or at that moment, would do, if nothing else happens until then."""
        present: Moment = self.clock
        if at is not None:
            present = Then(present, (at - present.now()).total_seconds(), at.astimezone(UTC))
        behind = self.unable(value)
        deferred: list[SkippedModel] = [*behind.values()]

        def look(target: Target, at: Moment, size: Size, *, is_last_resort: bool = False) -> Any:
            closed = target.closed(at, size)
            if closed is None or closed.kind == "restricted":
                return closed or ()
            if closed.kind != "full" and is_last_resort:
                return ()
            if target.model_name not in behind:
                deferred.append(target.skip(closed))
            return closed

        def pick(pending: Sequence[Target]) -> Target:
            return self.pick(pending, present, no_size, streams=False, advance=False)

        def when_free(full: Sequence[Target]) -> Iterator[Choice]:
            return ((target, (), True) for target in full)

        order = self.order(preference)
        steps = route(order, present, no_size, look, pick=pick, when_free=when_free, behind=behind)
        choices = list(steps)
        return RoutingPlan(
            order=tuple(t.model_name for t, entry, _ in choices if not isinstance(entry, Closed)),
            skipped=tuple(t.skip(entry) for t, entry, _ in choices if isinstance(entry, Closed)),
            deferred=tuple(dict.fromkeys(deferred)),
            at=present.now() if at is None else at,
            shares=self._shares([each for each in order if each.model_name not in behind], present),
        )

    def _shares(self, order: Sequence[Target], at: Moment) -> Mapping[str, float]:
        """The shares of those between whom the next call is balanced."""
        ready = [each for each in order if each.closed(at, no_size) is None]
        if self.rules.balance is None or not ready:
            return {}
        tier = [each for each in ready if each.tier == ready[0].tier]
        total = sum(each.weight for each in tier)
        return {each.model_name: each.weight / total for each in tier}


def no_size() -> int:
    """The tokens of no input."""
    return 0


def route(
    order: Sequence[Target],
    at: Moment,
    size: Size,
    enter: Enter,
    *,
    pick: Pick | None,
    when_free: Callable[[Sequence[Target]], Iterator[T]],
    behind: Container[str] = (),
) -> Iterator[Choice | T]:
    """Yield each deployment when its turn has come.

    Lazy: the clock is looked at just before an attempt, and a call whose first choice answers looks
    at no other. After those that are open come the limited, then those in cooldown, each the
    soonest to open first; those that are full come last, as they cannot be asked at all.

    Args:
        order: The deployments, of lower tiers first.
        at: The clock, or a moment.
        size: The tokens of the call's input.
        enter: `Target.enter`, or what only looks.
        pick: Which one of those that are left is next; `None`: the first.
        when_free: What to do about those that are full.
        behind: The names of those that come after all others, as they cannot take the request;
            looked at when their turn comes.
    """
    deferred: list[tuple[bool, datetime, Target]] = []
    full: list[Target] = []
    last: list[Target] = []
    for target in order if pick is None else _picked(order, pick, behind):
        if target.model_name in behind:
            last.append(target)
            continue
        entry = enter(target, at, size) if target.admissions else ()
        if not isinstance(entry, Closed) or entry.kind == "restricted":
            yield target, entry, False
        elif entry.kind == "full":
            full.append(target)
        else:
            deferred.append((entry.kind == "cooldown", entry.until or _FAR, target))
    for _, _, target in sorted(deferred, key=itemgetter(0, 1)):
        if target.model_name in behind:
            last.append(target)
            continue
        entry = enter(target, at, size, is_last_resort=True)
        if isinstance(entry, Closed) and entry.kind == "full":
            full.append(target)
        else:
            yield target, entry, True
    if full:
        last += [each for each in full if each.model_name in behind]
        yield from when_free([each for each in full if each.model_name not in behind])
    if last:
        yield from route(last, at, size, enter, pick=pick, when_free=when_free)


def _picked(order: Sequence[Target], pick: Pick, behind: Container[str]) -> Iterator[Target]:
    """Each in its turn.

    Those behind are drawn in theirs, and not before: that would advance a round-robin.
    """
    pending = [*order]
    while pending:
        able = [each for each in pending if each.model_name not in behind] if behind else pending
        if not able:
            yield from pending
            return
        target = pick(able)
        pending.remove(target)
        yield target
