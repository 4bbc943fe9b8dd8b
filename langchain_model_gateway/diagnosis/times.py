"""How long a call can take, and how often it is made."""

import math
from collections.abc import Iterator

from langchain_model_gateway import clients
from langchain_model_gateway.deployment import ModelDeployment
from langchain_model_gateway.diagnosis.findings import Finding, Setup, about
from langchain_model_gateway.wrappers import innermost


def no_timeout(setup: Setup) -> Iterator[Finding]:
    """Clients that wait for ever."""
    if setup.timeout is None:
        unlimited = (each for each in setup.models if each.timeout is None)
        yield from about(
            [each for each in unlimited if clients.timeout(each.inner_model) == math.inf],
            "no-timeout",
            "the client has no timeout: a server that accepts a request and never answers holds "
            "the call for ever, and no other deployment is tried",
            "Give the deployment a timeout, such as 60 seconds",
        )


def client_retries(setup: Setup) -> Iterator[Finding]:
    """Clients that retry under the gateway's retries."""
    by_client: dict[int, list[ModelDeployment]] = {}
    for deployment in setup.models:
        by_client.setdefault(id(innermost(deployment.model)), []).append(deployment)
    for sharing in by_client.values():
        retrying = [each for each in sharing if _multiplies(setup, each)]
        if retrying:
            # One client in several deployments is reported once, by its worst.
            worst = max(retrying, key=lambda each: clients.retries(each.model).calls)
            settings = ", ".join(clients.retries(worst.model).settings)
            yield from about(
                retrying,
                "client-retries",
                _cost_of_retries(setup, worst),
                f"Leave retrying to the gateway: {settings}",
            )


def _multiplies(setup: Setup, deployment: ModelDeployment) -> bool:
    calls = clients.retries(deployment.model).calls
    return calls == math.inf or (calls > 1 and setup.retry is not None and _attempts(setup) > 1)


def _attempts(setup: Setup) -> int:
    return 1 if setup.retry is None else setup.retry.max_attempts


def _cost_of_retries(setup: Setup, deployment: ModelDeployment) -> str:
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


def _worst_seconds(setup: Setup, deployment: ModelDeployment) -> float | None:
    """The longest a deployment can keep a call, or `None` where that is unknown or for ever."""
    policy, attempt = setup.retry, attempt_seconds(deployment)
    if policy is None or attempt is None or attempt == math.inf:
        return setup.timeout
    # While another deployment is free, no `Retry-After` is waited out beyond `max_delay`.
    asked = min(policy.max_retry_after, policy.max_delay)
    waits = sum(max(policy.longest_delay(n), asked) for n in range(1, policy.max_attempts))
    total = policy.max_attempts * attempt + waits
    return total if setup.timeout is None else min(total, setup.timeout)


def attempt_seconds(deployment: ModelDeployment) -> float | None:
    """Seconds one attempt may take; infinite where nothing ends it, `None` if that is unknown."""
    return deployment.timeout or _clients_seconds(deployment)


def _clients_seconds(deployment: ModelDeployment) -> float | None:
    request = clients.timeout(deployment.inner_model)
    return None if request is None else request * clients.retries(deployment.model).calls


def deadlines(setup: Setup) -> Iterator[Finding]:
    """A call's time that one attempt can use up."""
    if setup.timeout is None:
        return
    for deployment in setup.models[:-1]:
        attempt = attempt_seconds(deployment)
        if attempt is not None and setup.timeout <= attempt:
            takes = "for ever" if attempt == math.inf else f"{attempt:g} s"
            yield Finding(
                "deadline-too-short",
                (deployment.model_name,),
                f"one attempt may take {takes}, the whole call only {setup.timeout:g} s: "
                "when it hangs, no other deployment has its turn",
                "Give the deployment a timeout well below the gateway's",
            )


def hanging_threads(setup: Setup) -> Iterator[Finding]:
    """Sync calls that are abandoned again and again."""
    if setup.cooldown is None:
        yield from about(
            [each for each in setup.models if _is_abandoned(setup, each)],
            "timeout-without-cooldown",
            "a sync call that hangs beyond its timeout goes on in a thread: a deployment that "
            "hangs gathers one for every call, up to 32, and costs each call the timeout",
            "Add cooldown=CooldownPolicy(), and give the client a timeout of its own below the "
            "deployment's",
        )


def _is_abandoned(setup: Setup, deployment: ModelDeployment) -> bool:
    """Whether a call can be cut short of the time its client takes."""
    limits = [limit for limit in (setup.timeout, deployment.timeout) if limit is not None]
    takes = _clients_seconds(deployment)
    return bool(limits) and (takes is None or takes > min(limits))
