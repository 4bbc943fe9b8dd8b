"""When deployments may not be used."""

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Final

from langchain_model_gateway.deployment import ModelDeployment
from langchain_model_gateway.diagnosis.findings import Finding, Setup
from langchain_model_gateway.schedule import restricted_stretches

_YEAR: Final = timedelta(days=366)
_WEEK: Final = timedelta(days=7)
_MINUTE: Final = timedelta(minutes=1)

Stretch = tuple[datetime, datetime]


def uncovered_time(setup: Setup) -> Iterator[Finding]:
    """Minutes in which no deployment may be used."""
    now = setup.now
    # From a week before, so that a gap that has begun is reported from its beginning.
    gaps = [gap for gap in _gaps(setup.models, now - _WEEK, now + _YEAR) if gap[1] > now]
    if not gaps:
        return
    ordinary = _minutes(gaps, now, now + _WEEK)
    worst = max(range(52), key=lambda week: _minutes(gaps, *_bounds(now, week)))
    most = _minutes(gaps, *_bounds(now, worst))
    message = f"in the coming week no deployment may be used for {ordinary} minutes"
    if ordinary:
        start, end = gaps[0]
        message += f", first from {start:%a %H:%M} to {end:%a %H:%M} UTC"
    if most != ordinary:
        start, _ = next(gap for gap in gaps if gap[1] > _bounds(now, worst)[0])
        message += f"; at most {most} in a week, as clocks change, about {start:%Y-%m-%d %H:%M} UTC"
    yield Finding(
        "uncovered-time",
        setup.names,
        message,
        "Shift a window, or add a deployment that is free then",
    )


def always_restricted(setup: Setup) -> Iterator[Finding]:
    """Deployments that are never used."""
    for deployment in setup.models:
        # A week may skip the one free hour of the others: only a full one is worth a year's look.
        if all(_is_restricted(deployment, setup.now, span) for span in (_WEEK, _YEAR)):
            yield Finding(
                "always-restricted",
                (deployment.model_name,),
                "its windows cover the whole week: it is never used",
                "Remove the deployment or a window",
            )


def instant_windows(setup: Setup) -> Iterator[Finding]:
    """Windows that restrict an instant."""
    for deployment in setup.models:
        for window in deployment.time_constraints:
            if window.is_instant:
                yield Finding(
                    "window-never-applies",
                    (deployment.model_name,),
                    f"the window {window} restricts a single instant, in practice nothing",
                    "A whole day is two windows, ('00:00', '12:00') and ('12:00', '00:00')",
                )


def are_free_together(pair: Sequence[ModelDeployment], now: datetime) -> bool:
    """Whether there is a minute of the year in which both may be used."""

    def restricted(models: Sequence[ModelDeployment], span: timedelta) -> int:
        return _minutes(list(_gaps(models, now, now + span)), now, now + span)

    return any(
        sum(restricted([each], span) for each in pair) - restricted(pair, span) < span // _MINUTE
        for span in (_WEEK, _YEAR)
    )


def _gaps(models: Sequence[ModelDeployment], start: datetime, end: datetime) -> Iterator[Stretch]:
    return restricted_stretches([deployment.time_constraints for deployment in models], start, end)


def _is_restricted(deployment: ModelDeployment, now: datetime, span: timedelta) -> bool:
    gaps = list(_gaps([deployment], now, now + span))
    return _minutes(gaps, now, now + span) == span // _MINUTE


def _minutes(gaps: Sequence[Stretch], start: datetime, end: datetime) -> int:
    start = start.replace(second=0, microsecond=0)
    end = end.replace(second=0, microsecond=0)
    overlaps = (min(last, end) - max(first, start) for first, last in gaps)
    return sum(max(0, overlap // _MINUTE) for overlap in overlaps)


def _bounds(now: datetime, week: int) -> Stretch:
    return now + week * _WEEK, now + (week + 1) * _WEEK
