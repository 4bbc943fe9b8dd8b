"""The decision: who may be tried, in which order, and what comes next.

Pure: no input or output, no waiting, no await. A driver asks a `Call` for the next attempt, makes
it, and reports back what happened; the very same code answers `explain()`.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, NamedTuple

from langchain_core.messages import BaseMessage

from langchain_model_gateway._text import one_line
from langchain_model_gateway.deployment import ModelDeployment
from langchain_model_gateway.errors import (
    FailedAttempt,
    ModelRouterError,
    SkippedModel,
    all_models_failed,
    is_control_flow,
    no_model_available,
)

logger: Final = logging.getLogger("langchain_model_gateway")

STAMP: Final = "gateway"


class RoutingPlan(NamedTuple):
    """What a call would do at one moment.

    Attributes:
        order: The names of the deployments that would be tried, in that order.
        skipped: The others: who, why, and until when.
        at: The moment.
    """

    order: tuple[str, ...]
    skipped: tuple[SkippedModel, ...]
    at: datetime

    def __str__(self) -> str:
        from langchain_model_gateway.display import plan_text  # noqa: PLC0415 - only when shown

        return plan_text(self)

    def _repr_html_(self) -> str:
        from langchain_model_gateway.display import plan_html  # noqa: PLC0415 - only when shown

        return plan_html(self)


@dataclass(frozen=True, slots=True)
class Routing:
    """The part of a gateway that decides: its deployments and its rules."""

    deployments: Mapping[str, ModelDeployment]
    exceptions_to_handle: tuple[type[BaseException], ...]
    strict_preference: bool

    def preferred(self, name: object) -> ModelDeployment | None:
        """The deployment a caller asked for.

        Raises:
            ValueError: If there is none of that name and preference is strict.
        """
        if name is None:
            return None
        if isinstance(name, str) and (deployment := self.deployments.get(name)) is not None:
            return deployment
        shown = one_line(name, 60) if isinstance(name, str) else type(name).__name__
        known = ", ".join(one_line(each, 60) for each in self.deployments)
        if self.strict_preference:
            raise ValueError(
                f"model_preference {shown!r} is no deployment's name; use one of: {known}"
            )
        logger.warning("ignored model_preference %r: the deployments are: %s", shown, known)
        return None

    def route(
        self, preferred: ModelDeployment | None, now: Callable[[], datetime]
    ) -> Iterator[ModelDeployment | SkippedModel]:
        """Go through the deployments in order and tell of each that it may be tried, or why not.

        Lazy: the clock is looked at when a deployment's turn has come, and a call whose first
        choice answers looks at no other.
        """
        if preferred is not None:
            yield preferred.restriction(now()) or preferred
        for deployment in self.deployments.values():
            if deployment is not preferred:
                yield deployment.restriction(now()) or deployment

    def plan(self, preference: object, at: datetime) -> RoutingPlan:
        """What a call at that moment would do."""
        choices = list(self.route(self.preferred(preference), lambda: at))
        return RoutingPlan(
            order=tuple(c.model_name for c in choices if isinstance(c, ModelDeployment)),
            skipped=tuple(c for c in choices if isinstance(c, SkippedModel)),
            at=at,
        )


class Call:
    """One call on its way through the deployments.

    Args:
        routing: Who there is, and the rules.
        preference: The name to try first, if any.
        now: The clock, giving aware times.
    """

    __slots__ = ("_current", "_now", "_preferred", "_routing", "failures", "skipped")

    def __init__(self, routing: Routing, preference: object, now: Callable[[], datetime]) -> None:
        self._routing = routing
        self._preferred = routing.preferred(preference)
        self._now = now
        self._current: ModelDeployment
        self.failures: list[FailedAttempt] = []
        self.skipped: list[SkippedModel] = []

    def attempts(self) -> Iterator[ModelDeployment]:
        """What to try, one after another, for as long as the caller comes back.

        Raises:
            NoModelAvailableError: If no deployment may be used now.
            AllModelsFailedError: If every one that could be tried has failed.
        """
        for choice in self._routing.route(self._preferred, self._now):
            if isinstance(choice, SkippedModel):
                self.skipped.append(choice)
                logger.debug("skipped %s", choice)
            else:
                self._current = choice
                yield choice
        raise self._give_up()

    def failed(self, error: BaseException) -> bool:
        """Take note that the current attempt raised `error`.

        Returns:
            Whether the next deployment may be tried; if not, the error is the caller's to raise.
        """
        if (
            not isinstance(error, Exception)
            or not isinstance(error, self._routing.exceptions_to_handle)
            or is_control_flow(error)
        ):
            return False
        failure = FailedAttempt(self._current.model_name, self._current.provider, error)
        self.failures.append(failure)
        if logger.isEnabledFor(logging.DEBUG):
            logger.debug("failed attempt %d: %s", len(self.failures), failure)
        return True

    def stamp(self, answer: Any) -> Any:
        """A copy of the answer (a message, or the first chunk of one) that says who gave it.

        What is no message comes back as it is, but for `include_raw=True`'s dict.
        """
        if isinstance(answer, BaseMessage):
            mark: dict[str, Any] = {
                "model_name": self._current.model_name,
                "failed": [
                    {"model_name": name, "error": type(error).__name__}
                    for name, _, error in self.failures
                ],
            }
            # A gateway inside this one has left its own.
            if (inner := answer.response_metadata.get(STAMP)) is not None:
                mark[STAMP] = inner
            metadata = {**answer.response_metadata, STAMP: mark}
            return answer.model_copy(update={"response_metadata": metadata})
        if isinstance(answer, dict) and isinstance(answer.get("raw"), BaseMessage):
            return {**answer, "raw": self.stamp(answer["raw"])}
        return answer

    def _give_up(self) -> ModelRouterError:
        error: ModelRouterError
        if self.failures:
            error = all_models_failed(self.failures, self.skipped)
        else:
            error = no_model_available(self.skipped)
        logger.error("%s", error)
        return error
