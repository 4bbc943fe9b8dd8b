"""`diagnose()`: what would hurt in production, found without a call."""

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from langchain_core.load import dumpd
from langchain_core.runnables import RunnableSequence
from langchain_core.runnables.base import RunnableBindingBase

from langchain_model_gateway import serialization
from langchain_model_gateway._text import one_line
from langchain_model_gateway.deployment import ModelDeployment
from langchain_model_gateway.schedule import closed_stretches
from langchain_model_gateway.secrets import secret_values

if TYPE_CHECKING:
    from langchain_model_gateway.gateway import GatewayRunnable

_YEAR = timedelta(days=366)
_WEEK = timedelta(days=7)
_MINUTE = timedelta(minutes=1)


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


def diagnose(gateway: "GatewayRunnable", now: datetime) -> Findings:
    """What would hurt in production, the costliest first; nothing when all is well."""
    checks = (
        _single_deployment,
        _uncovered_time,
        _always_restricted,
        _client_retries,
        _deadlines,
        _shared_endpoints,
        _lesser_fallbacks,
        _instant_windows,
    )
    return Findings(finding for check in checks for finding in check(gateway, now))


def _single_deployment(gateway: "GatewayRunnable", _: datetime) -> Iterator[Finding]:
    if len(gateway) == 1:
        yield Finding(
            "single-deployment",
            gateway.model_names,
            "there is nobody to fall over to",
            "Add a deployment, best at another provider",
        )


# --- hours -----------------------------------------------------------------------------------


def _uncovered_time(gateway: "GatewayRunnable", now: datetime) -> Iterator[Finding]:
    stretches = list(_uncovered(gateway.models, now, now + _YEAR))
    if not stretches:
        return
    ordinary = _minutes(stretches, now, now + _WEEK)
    worst = max(range(52), key=lambda week: _minutes(stretches, *_bounds(now, week)))
    most = _minutes(stretches, *_bounds(now, worst))
    message = f"in the coming week no deployment may be used for {ordinary} minutes"
    if ordinary:
        start, end = stretches[0]
        message += f", first from {start:%a %H:%M} to {end:%a %H:%M} UTC"
    if most != ordinary:
        start, _ = next(s for s in stretches if s[1] > _bounds(now, worst)[0])
        message += f"; at most {most} in a week, as clocks change, about {start:%Y-%m-%d %H:%M} UTC"
    yield Finding(
        "uncovered-time",
        gateway.model_names,
        message,
        "Shift a window, or add a deployment that is free then",
    )


def _always_restricted(gateway: "GatewayRunnable", now: datetime) -> Iterator[Finding]:
    for deployment in gateway.models:
        # A week may skip the one free hour of the others: only a full one is worth a year's look.
        if _is_closed([deployment], now, _WEEK) and _is_closed([deployment], now, _YEAR):
            yield Finding(
                "always-restricted",
                (deployment.model_name,),
                "its windows cover the whole week: it is never used",
                "Remove the deployment or a window",
            )


def _instant_windows(gateway: "GatewayRunnable", _: datetime) -> Iterator[Finding]:
    for deployment in gateway.models:
        for window in deployment.time_constraints:
            if window.is_instant:
                yield Finding(
                    "window-never-applies",
                    (deployment.model_name,),
                    f"the window {window} restricts a single instant, in practice nothing",
                    "A whole day is two windows, ('00:00', '12:00') and ('12:00', '00:00')",
                )


def _uncovered(
    models: Sequence[ModelDeployment], start: datetime, end: datetime
) -> Iterator[tuple[datetime, datetime]]:
    return closed_stretches([deployment.time_constraints for deployment in models], start, end)


def _is_closed(models: Sequence[ModelDeployment], now: datetime, span: timedelta) -> bool:
    return _minutes(_uncovered(models, now, now + span), now, now + span) == span // _MINUTE


def _minutes(
    stretches: Iterator[tuple[datetime, datetime]] | Sequence[tuple[datetime, datetime]],
    start: datetime,
    end: datetime,
) -> int:
    start = start.replace(second=0, microsecond=0)
    end = end.replace(second=0, microsecond=0)
    overlaps = (min(e, end) - max(s, start) for s, e in stretches)
    return sum(max(0, overlap // _MINUTE) for overlap in overlaps)


def _bounds(now: datetime, week: int) -> tuple[datetime, datetime]:
    return now + week * _WEEK, now + (week + 1) * _WEEK


# --- time and retries ------------------------------------------------------------------------


def _client_retries(gateway: "GatewayRunnable", _: datetime) -> Iterator[Finding]:
    policy = gateway.retry
    if policy is None or policy.max_attempts == 1:
        return
    for deployment in gateway.models:
        own_calls = _client_calls(deployment)
        if own_calls == 1:
            continue
        calls = policy.max_attempts * own_calls
        message = (
            f"the client makes up to {own_calls} calls for each of the gateway's "
            f"{policy.max_attempts} attempts: {calls} calls for one question"
        )
        if (seconds := _worst_seconds(gateway, deployment, own_calls)) is not None:
            message += f", up to {seconds:,.0f} s before the next deployment has its turn"
        yield Finding(
            "client-retries",
            (deployment.model_name,),
            message,
            "Build the client with max_retries=0 and leave retrying to the gateway",
        )


def _client_calls(deployment: ModelDeployment) -> int:
    """How many requests one call of the model may make."""
    model: Any = deployment.core
    retries = getattr(model, "max_retries", None)
    if retries is None:
        retries = getattr(getattr(model, "root_client", None), "max_retries", None)
    calls = 1 + (retries if isinstance(retries, int) else 0)
    return calls * _retried_around(deployment.model)


def _retried_around(runnable: Any) -> int:
    """How many times `with_retry()`, wherever it stands, may call the model within."""
    if isinstance(runnable, RunnableSequence):
        return max(map(_retried_around, runnable.steps))
    if isinstance(runnable, RunnableBindingBase):
        # Its own field only: a binding shows the attributes of what it binds as if they were its.
        own = "max_attempt_number" in type(runnable).model_fields
        calls = int(getattr(runnable, "max_attempt_number", 1)) if own else 1
        return calls * _retried_around(runnable.bound)
    return 1


def _worst_seconds(
    gateway: "GatewayRunnable", deployment: ModelDeployment, own_calls: int
) -> float | None:
    """The longest a deployment can keep a call, or `None` where a client tells no timeout."""
    policy = gateway.retry
    request = _request_timeout(deployment)
    attempt = deployment.timeout or (request * own_calls if request is not None else None)
    if policy is None or attempt is None:
        return gateway.timeout
    waits = sum(
        max(policy.longest_delay(n), policy.max_retry_after) for n in range(1, policy.max_attempts)
    )
    total = policy.max_attempts * attempt + waits
    return total if gateway.timeout is None else min(total, gateway.timeout)


def _request_timeout(deployment: ModelDeployment) -> float | None:
    """Seconds one request of the model's client may take, as far as the client tells."""
    model: Any = deployment.core
    candidates = [getattr(model, name, None) for name in ("request_timeout", "timeout")]
    candidates.append(getattr(getattr(model, "root_client", None), "timeout", None))
    return next((s for s in map(_read_seconds, candidates) if s is not None), None)


def _read_seconds(timeout: Any) -> float | None:
    """The seconds a client waits for an answer, in whichever form its timeout is written."""
    if isinstance(timeout, (tuple, list)) and timeout:  # (connect, read, ...), as httpx takes it
        timeout = timeout[1] if len(timeout) > 1 else timeout[0]
    seconds = getattr(timeout, "read", timeout)
    return float(seconds) if isinstance(seconds, (int, float)) else None


def _deadlines(gateway: "GatewayRunnable", _: datetime) -> Iterator[Finding]:
    if gateway.timeout is None:
        return
    for deployment in gateway.models[:-1]:
        attempt = deployment.timeout
        if attempt is None:
            attempt = _read_seconds(getattr(deployment.core, "request_timeout", None))
        if attempt is not None and gateway.timeout <= attempt:
            yield Finding(
                "deadline-too-short",
                (deployment.model_name,),
                f"one attempt may take {attempt:g} s, the whole call only {gateway.timeout:g} s: "
                "when it hangs, no other deployment has its turn",
                "Give the deployment a timeout well below the gateway's",
            )


# --- deployments -----------------------------------------------------------------------------


def _shared_endpoints(gateway: "GatewayRunnable", _: datetime) -> Iterator[Finding]:
    groups: dict[tuple[Any, ...], list[str]] = {}
    for deployment in gateway.models:
        secrets = secret_values(deployment.core)
        if secrets:
            dumped = dumpd(deployment.core)
            key = (*dumped.get("id", ()), serialization.endpoint(dumped), *secrets)
            groups.setdefault(key, []).append(deployment.model_name)
    for names in groups.values():
        if len(names) > 1:
            yield Finding(
                "shared-endpoint",
                tuple(names),
                "they share one endpoint and key: when one is down or over its quota, all are",
                "Give the fallback another provider, region or key",
            )


def _lesser_fallbacks(gateway: "GatewayRunnable", _: datetime) -> Iterator[Finding]:
    first, *others = gateway.models
    best = getattr(first.core, "profile", None) or {}
    for deployment in others:
        profile = getattr(deployment.core, "profile", None) or {}
        window, wanted = profile.get("max_input_tokens"), best.get("max_input_tokens")
        if window and wanted and window < wanted:
            yield Finding(
                "smaller-context",
                (deployment.model_name,),
                f"it takes {window:,} tokens, {first.model_name!r} takes {wanted:,}: a long "
                "prompt that falls over to it is refused",
                "Trim prompts to the lesser limit, or choose a fallback with a larger window",
            )
        if best.get("tool_calling") and profile.get("tool_calling") is False:
            yield Finding(
                "no-tool-calling",
                (deployment.model_name,),
                f"it cannot call tools, {first.model_name!r} can: an agent that falls over fails",
                "Choose a fallback with tool calling",
            )
