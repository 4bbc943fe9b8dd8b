"""`diagnose()`: what would hurt in production, found without a call."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from langchain_model_gateway import clients
from langchain_model_gateway._text import one_line
from langchain_model_gateway.deployment import ModelDeployment
from langchain_model_gateway.policies import CooldownPolicy, RetryPolicy
from langchain_model_gateway.schedule import restricted_stretches
from langchain_model_gateway.wrappers import innermost

_YEAR: Final = timedelta(days=366)
_WEEK: Final = timedelta(days=7)
_MINUTE: Final = timedelta(minutes=1)

Stretch = tuple[datetime, datetime]


class Finding(NamedTuple):
    """Something that would hurt in production.

    Attributes:
        code: What kind of thing, for programs.
        model_names: The deployments it is about.
        message: What it is and what it costs.
        advice: What to do.
    """

    code: str
    model_names: tuple[str, ...]
    message: str
    advice: str

    def __str__(self) -> str:
        names = ", ".join(one_line(name, 60) for name in self.model_names)
        return f"{self.code} ({names}): {self.message}. {self.advice}."


class Findings(list[Finding]):
    """A list of findings that shows itself as a table."""

    def __str__(self) -> str:
        from langchain_model_gateway.display import findings_text  # noqa: PLC0415 - only when shown

        return findings_text(self)

    def _repr_html_(self) -> str:
        from langchain_model_gateway.display import findings_html  # noqa: PLC0415 - only when shown

        return findings_html(self)


@dataclass(frozen=True, slots=True)
class _Setup:
    """What is examined: the deployments, the rules for their calls, and the moment."""

    models: Sequence[ModelDeployment]
    now: datetime
    retry: RetryPolicy | None
    cooldown: CooldownPolicy | None
    timeout: float | None
    exceptions_to_handle: tuple[type[BaseException], ...]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(deployment.model_name for deployment in self.models)


def diagnose(
    models: Sequence[ModelDeployment],
    now: datetime,
    *,
    retry: RetryPolicy | None = None,
    cooldown: CooldownPolicy | None = None,
    timeout: float | None = None,
    exceptions_to_handle: tuple[type[BaseException], ...] = (Exception,),
) -> Findings:
    """What would hurt in production, the costliest first; nothing when all is well.

    Args:
        models: The deployments, in the order to try them.
        now: The aware moment from which a year is looked at.
        retry: How a deployment is retried.
        cooldown: When a deployment that keeps failing is left alone.
        timeout: Seconds for a whole call.
        exceptions_to_handle: The exceptions on which a call falls back.
    """
    setup = _Setup(models, now, retry, cooldown, timeout, exceptions_to_handle)
    checks: tuple[Callable[[_Setup], Iterator[Finding]], ...] = (
        _single_deployment,
        _no_fallback,
        _uncovered_time,
        _always_restricted,
        _no_timeout,
        _client_retries,
        _deadlines,
        _hanging_threads,
        _shared_endpoints,
        _lesser_fallbacks,
        _instant_windows,
    )
    return Findings(finding for check in checks for finding in check(setup))


def _single_deployment(setup: _Setup) -> Iterator[Finding]:
    if len(setup.models) == 1:
        yield Finding(
            "single-deployment",
            setup.names,
            "there is no other deployment to fall back to",
            "Add a deployment, best at another provider",
        )


def _no_fallback(setup: _Setup) -> Iterator[Finding]:
    if not setup.exceptions_to_handle and len(setup.models) > 1:
        yield Finding(
            "no-fallback",
            setup.names,
            "exceptions_to_handle is empty: a provider's error is raised at once, and no other "
            "deployment is tried",
            "Leave exceptions_to_handle out, or name the exceptions on which to fall back",
        )


# --- hours -----------------------------------------------------------------------------------


def _uncovered_time(setup: _Setup) -> Iterator[Finding]:
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


def _always_restricted(setup: _Setup) -> Iterator[Finding]:
    for deployment in setup.models:
        # A week may skip the one free hour of the others: only a full one is worth a year's look.
        if all(_is_restricted(deployment, setup.now, span) for span in (_WEEK, _YEAR)):
            yield Finding(
                "always-restricted",
                (deployment.model_name,),
                "its windows cover the whole week: it is never used",
                "Remove the deployment or a window",
            )


def _instant_windows(setup: _Setup) -> Iterator[Finding]:
    for deployment in setup.models:
        for window in deployment.time_constraints:
            if window.is_instant:
                yield Finding(
                    "window-never-applies",
                    (deployment.model_name,),
                    f"the window {window} restricts a single instant, in practice nothing",
                    "A whole day is two windows, ('00:00', '12:00') and ('12:00', '00:00')",
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


# --- time and retries ------------------------------------------------------------------------


def _no_timeout(setup: _Setup) -> Iterator[Finding]:
    if setup.timeout is None:
        unlimited = (each for each in setup.models if each.timeout is None)
        yield from _about(
            [each for each in unlimited if clients.timeout(each.inner_model) == math.inf],
            "no-timeout",
            "the client has no timeout: a server that accepts a request and never answers holds "
            "the call for ever, and no other deployment is tried",
            "Give the deployment a timeout, such as 60 seconds",
        )


def _client_retries(setup: _Setup) -> Iterator[Finding]:
    by_client: dict[int, list[ModelDeployment]] = {}
    for deployment in setup.models:
        by_client.setdefault(id(innermost(deployment.model)), []).append(deployment)
    for sharing in by_client.values():
        retrying = [each for each in sharing if _multiplies(setup, each)]
        if retrying:
            # One client in several deployments is reported once, by its worst.
            worst = max(retrying, key=lambda each: clients.retries(each.model).calls)
            settings = ", ".join(clients.retries(worst.model).settings)
            yield from _about(
                retrying,
                "client-retries",
                _cost_of_retries(setup, worst),
                f"Leave retrying to the gateway: {settings}",
            )


def _multiplies(setup: _Setup, deployment: ModelDeployment) -> bool:
    calls = clients.retries(deployment.model).calls
    return calls == math.inf or (calls > 1 and setup.retry is not None and _attempts(setup) > 1)


def _attempts(setup: _Setup) -> int:
    return 1 if setup.retry is None else setup.retry.max_attempts


def _cost_of_retries(setup: _Setup, deployment: ModelDeployment) -> str:
    calls, attempts = clients.retries(deployment.model).calls, _attempts(setup)
    if calls == math.inf:
        return (
            "the client repeats a failed call without a bound, also after another deployment has "
            "answered"
        )
    message = (
        f"the client makes up to {calls:g} calls for each of the gateway's {attempts} attempts: "
        f"{attempts * calls:g} calls for one question"
    )
    if (seconds := _worst_seconds(setup, deployment)) is None:
        return message
    return f"{message}, up to {seconds:,.0f} s before the next deployment has its turn"


def _worst_seconds(setup: _Setup, deployment: ModelDeployment) -> float | None:
    """The longest a deployment can keep a call, or `None` where that is unknown or for ever."""
    policy, attempt = setup.retry, _attempt_seconds(deployment)
    if policy is None or attempt is None or attempt == math.inf:
        return setup.timeout
    # While another deployment is free, no `Retry-After` is waited out beyond `max_delay`.
    asked = min(policy.max_retry_after, policy.max_delay)
    waits = sum(max(policy.longest_delay(n), asked) for n in range(1, policy.max_attempts))
    total = policy.max_attempts * attempt + waits
    return total if setup.timeout is None else min(total, setup.timeout)


def _attempt_seconds(deployment: ModelDeployment) -> float | None:
    """Seconds one attempt may take; infinite where nothing ends it, `None` if that is unknown."""
    return deployment.timeout or _clients_seconds(deployment)


def _clients_seconds(deployment: ModelDeployment) -> float | None:
    request = clients.timeout(deployment.inner_model)
    return None if request is None else request * clients.retries(deployment.model).calls


def _deadlines(setup: _Setup) -> Iterator[Finding]:
    if setup.timeout is None:
        return
    for deployment in setup.models[:-1]:
        attempt = _attempt_seconds(deployment)
        if attempt is not None and setup.timeout <= attempt:
            takes = "for ever" if attempt == math.inf else f"{attempt:g} s"
            yield Finding(
                "deadline-too-short",
                (deployment.model_name,),
                f"one attempt may take {takes}, the whole call only {setup.timeout:g} s: "
                "when it hangs, no other deployment has its turn",
                "Give the deployment a timeout well below the gateway's",
            )


def _hanging_threads(setup: _Setup) -> Iterator[Finding]:
    if setup.cooldown is None:
        yield from _about(
            [each for each in setup.models if _is_abandoned(setup, each)],
            "timeout-without-cooldown",
            "a sync call that hangs beyond its timeout goes on in a thread: a deployment that "
            "hangs gathers one for every call, up to 32, and costs each call the timeout",
            "Add cooldown=CooldownPolicy(), and give the client a timeout of its own below the "
            "deployment's",
        )


def _is_abandoned(setup: _Setup, deployment: ModelDeployment) -> bool:
    """Whether a call can be cut short of the time its client takes."""
    limits = [limit for limit in (setup.timeout, deployment.timeout) if limit is not None]
    takes = _clients_seconds(deployment)
    return bool(limits) and (takes is None or takes > min(limits))


# --- deployments -----------------------------------------------------------------------------


def _shared_endpoints(setup: _Setup) -> Iterator[Finding]:
    groups: dict[object, list[ModelDeployment]] = {}
    for deployment in setup.models:
        if (endpoint := clients.endpoint(deployment.inner_model)) is not None:
            groups.setdefault(endpoint, []).append(deployment)
    for sharing in groups.values():
        if len(sharing) > 1:
            yield from _about(
                sharing,
                "shared-endpoint",
                "they share one endpoint and key: when one is down or over its quota, all are",
                "Give the fallback another provider, region or key",
            )


def _lesser_fallbacks(setup: _Setup) -> Iterator[Finding]:
    first, *others = setup.models
    best = clients.profile(first.inner_model)
    for deployment in others:
        profile = clients.profile(deployment.inner_model)
        window, wanted = profile.get("max_input_tokens"), best.get("max_input_tokens")
        if window and wanted and window < wanted:
            yield Finding(
                "smaller-context",
                (deployment.model_name,),
                f"it takes {window:,} tokens, {first.model_name!r} takes {wanted:,}: a long "
                "prompt that falls back to it fails",
                "Trim prompts to the lesser limit, or choose a fallback with a larger window",
            )
        if best.get("tool_calling") and profile.get("tool_calling") is False:
            yield Finding(
                "no-tool-calling",
                (deployment.model_name,),
                f"it cannot call tools, {first.model_name!r} can: an agent that falls back fails",
                "Choose a fallback with tool calling",
            )


def _about(
    models: Sequence[ModelDeployment], code: str, message: str, advice: str
) -> Iterator[Finding]:
    """One finding about all of these, if there are any."""
    if models:
        yield Finding(code, tuple(each.model_name for each in models), message, advice)
