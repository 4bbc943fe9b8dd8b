"""Who may be tried, and in which order; `explain()` and every call ask here.

Pure: no input or output, no waiting, no await; time comes from outside.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from operator import itemgetter
from typing import Final, NamedTuple

from langchain_core.exceptions import ModelTimeoutError

from langchain_model_gateway._arguments import unknown_name
from langchain_model_gateway.answers import EmptyStreamError, RejectedAnswerError
from langchain_model_gateway.deployment import ModelDeployment
from langchain_model_gateway.errors import SkippedModel, is_control_flow
from langchain_model_gateway.health import HealthState
from langchain_model_gateway.policies import CooldownPolicy, Rejection, RetryPolicy
from langchain_model_gateway.timing import Clock

logger: Final = logging.getLogger("langchain_model_gateway")


class RoutingPlan(NamedTuple):
    """What a call would do at one moment.

    Attributes:
        order: The names of the deployments that would be tried, in that order.
        skipped: Those that would not: who, why, and until when.
        resting: Those in `order` that come last because they rest, and until when.
        at: The moment.
    """

    order: tuple[str, ...]
    skipped: tuple[SkippedModel, ...]
    resting: tuple[SkippedModel, ...]
    at: datetime

    def __str__(self) -> str:
        from langchain_model_gateway.display import plan_text  # noqa: PLC0415 - only when shown

        return plan_text(self)

    def _repr_html_(self) -> str:
        from langchain_model_gateway.display import plan_html  # noqa: PLC0415 - only when shown

        return plan_html(self)


@dataclass(frozen=True, slots=True)
class Routing:
    """The part of a gateway that decides: its deployments, its rules and their health."""

    deployments: Mapping[str, ModelDeployment]
    exceptions_to_handle: tuple[type[BaseException], ...]
    strict_preference: bool
    retry: RetryPolicy | None
    cooldown: CooldownPolicy | None
    timeout: float | None
    reject: frozenset[Rejection]
    health: HealthState
    clock: Clock
    _orders: dict[object, tuple[ModelDeployment, ...]] = field(default_factory=dict, init=False)

    def order(self, preference: object) -> tuple[ModelDeployment, ...]:
        """The deployments in the order to try them: first the one a caller asked for, if any.

        Raises:
            ValueError: If there is none of that name and preference is strict.
        """
        try:
            return self._orders[preference]
        except (KeyError, TypeError):  # not asked for before, or not even hashable
            order = tuple(self.deployments.values())
        if preference is not None:
            if (preferred := self._named(preference)) is None:
                return self.order(None)
            order = (preferred, *(each for each in order if each is not preferred))
            order = tuple(each.asked_for(str(preference)) for each in order)
        return self._orders.setdefault(preference, order)

    def _named(self, name: object) -> ModelDeployment | None:
        paths = {path: each for each in self.deployments.values() for path in each.by_path()}
        if (
            isinstance(name, str)
            and (found := (paths | {**self.deployments}).get(name)) is not None
        ):
            return found
        unknown = unknown_name(name, paths)
        if self.strict_preference:
            raise ValueError(f"model_preference: {unknown}")
        logger.warning("ignored model_preference: %s", unknown)
        return None

    def handles(self, error: Exception) -> bool:
        """Whether an attempt that raised this has failed, so that the next may be tried."""
        # A gateway's own verdicts are failures whatever else is: they are what was asked for.
        is_verdict = isinstance(error, (RejectedAnswerError, EmptyStreamError))
        if is_verdict or type(error) is ModelTimeoutError:
            return True
        return isinstance(error, self.exceptions_to_handle) and not is_control_flow(error)

    def plan(self, preference: object, at: datetime | None = None) -> RoutingPlan:
        """What a call now, or at that moment, would do, if nobody's health changes until then."""
        clock = self.clock
        moment = clock.now() if at is None else at
        ahead = (moment - clock.now()).total_seconds()
        resting: list[SkippedModel] = []

        def wakes_at(name: str) -> float | None:
            present = clock.monotonic()
            wake = self.health.wakes_at(name, present + ahead)
            if wake is not None:
                until = clock.now() + timedelta(seconds=wake - present)
                resting.append(SkippedModel(name, "resting after failures", until))
            return wake

        choices = list(route(self.order(preference), lambda: moment, wakes_at))
        return RoutingPlan(
            order=tuple(c.model_name for c in choices if isinstance(c, ModelDeployment)),
            skipped=tuple(c for c in choices if isinstance(c, SkippedModel)),
            resting=tuple(resting),
            at=moment,
        )


def route(
    order: Iterable[ModelDeployment],
    now: Callable[[], datetime],
    wakes_at: Callable[[str], float | None] | None,
) -> Iterator[ModelDeployment | SkippedModel]:
    """A way through the deployments, telling of each that it may be tried, or why not.

    Lazy: the clock is looked at when a deployment's turn has come, and a call whose first choice
    answers looks at no other. Those at rest come last, soonest to wake first.

    Args:
        order: The deployments, as long as all are awake.
        now: The clock.
        wakes_at: Tells of a deployment when its rest ends (`None`: a call may go to it); left out
            where nobody rests.
    """
    resting: list[tuple[float, ModelDeployment]] = []
    for deployment in order:
        if (skip := deployment.restriction(now())) is not None:
            yield skip
        elif wakes_at is None or (wake := wakes_at(deployment.model_name)) is None:
            yield deployment
        else:
            resting.append((wake, deployment))
    for _, deployment in sorted(resting, key=itemgetter(0)):
        yield deployment.restriction(now()) or deployment
