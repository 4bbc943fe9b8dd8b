"""`diagnose()`: what would hurt in production, found without a call."""

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Final

from langchain_model_gateway.balance import Balance
from langchain_model_gateway.deployment import ModelDeployment
from langchain_model_gateway.diagnosis import hours, redundancy, times, traffic
from langchain_model_gateway.diagnosis.findings import Finding, Findings, Setup
from langchain_model_gateway.policies import CooldownPolicy, HedgePolicy, RetryPolicy

_CHECKS: Final[tuple[Callable[[Setup], Iterator[Finding]], ...]] = (
    redundancy.single_deployment,
    redundancy.no_fallback,
    hours.uncovered_time,
    hours.always_restricted,
    times.no_timeout,
    times.client_retries,
    times.deadlines,
    times.hanging_threads,
    traffic.unbounded_wait,
    traffic.separate_limits,
    traffic.limits_per_process,
    traffic.tokens_not_told,
    traffic.client_rate_limiter,
    traffic.rate_limiter_not_pickled,
    traffic.hedge_with_server_tools,
    traffic.hedge_too_late,
    traffic.hedge_has_no_second,
    traffic.balance_without_effect,
    redundancy.shared_endpoints,
    redundancy.lesser_fallbacks,
    hours.instant_windows,
)


def diagnose(
    models: Sequence[ModelDeployment],
    now: datetime,
    *,
    retry: RetryPolicy | None = None,
    cooldown: CooldownPolicy | None = None,
    timeout: float | None = None,
    exceptions_to_handle: tuple[type[BaseException], ...] = (Exception,),
    balance: Balance | None = None,
    max_wait: float | None = None,
    hedge: HedgePolicy | None = None,
    fallback: bool = True,
    shares_state: bool = False,
) -> Findings:
    """What would hurt in production, the costliest first; nothing when all is well.

    Args:
        models: The deployments, in the order to try them.
        now: The aware moment from which a year is looked at.
        retry: How a deployment is retried.
        cooldown: When a deployment that keeps failing is left alone.
        timeout: Seconds for a whole call.
        exceptions_to_handle: The exceptions on which a call falls back.
        balance: How deployments of one tier share the load.
        max_wait: The most seconds to wait for room or a place.
        hedge: When another deployment is asked too.
        fallback: Whether another deployment is tried when the first choice fails.
        shares_state: Whether limits hold for several processes together.
    """
    setup = Setup(
        models=models,
        now=now,
        retry=retry,
        cooldown=cooldown,
        timeout=timeout,
        exceptions_to_handle=exceptions_to_handle,
        balance=balance,
        max_wait=max_wait,
        hedge=hedge,
        fallback=fallback,
        shares_state=shares_state,
    )
    return Findings(finding for check in _CHECKS for finding in check(setup))
