"""An hour of traffic in seconds: a gateway's own rules against providers that are modelled.

The gateway's decision does no input or output, and gets its time and chance from outside. So it
can be rehearsed: thousands of concurrent callers in virtual time, with no model called, no thread
and no sleep. What decides is the very code that decides in production.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from operator import attrgetter
from random import Random

from langchain_model_gateway._arguments import unknown_name
from langchain_model_gateway.gateway import GatewayRunnable
from langchain_model_gateway.guards import Guards
from langchain_model_gateway.listeners import Listeners
from langchain_model_gateway.rehearsal.callers import Callers, Cooldowns
from langchain_model_gateway.rehearsal.providers import Latency, Provider, Service, Traffic
from langchain_model_gateway.rehearsal.report import (
    Comparison,
    Rehearsal,
    RehearsedAttempt,
    RehearsedCall,
)
from langchain_model_gateway.rehearsal.timeline import Timeline
from langchain_model_gateway.routing import Routing
from langchain_model_gateway.state import Memory

__all__ = [
    "Comparison",
    "Latency",
    "Provider",
    "Rehearsal",
    "RehearsedAttempt",
    "RehearsedCall",
    "Traffic",
    "rehearse",
]


def rehearse(
    gateway: GatewayRunnable,
    traffic: Traffic,
    providers: Mapping[str, Provider] | Provider,
    *,
    seed: int = 0,
    at: datetime | None = None,
) -> Rehearsal:
    """Rehearse traffic through a gateway, in virtual time and with no call made.

    The gateway itself is left alone: the rehearsal begins with nothing remembered, and writes no
    log. The same arguments give the same result.

    Args:
        gateway: The gateway, with the settings to try.
        traffic: Who calls it.
        providers: How each deployment behaves, by its name; or one behaviour for all.
        seed: Where chance begins, the gateway's own included.
        at: The aware moment at which it begins; now if left out. It matters where deployments
            have restricted hours.

    Returns:
        What came of every call. It prints as a table, shows as one in a notebook, and plots.

    Raises:
        ValueError: If a deployment has no provider, a provider no deployment, or `at` is naive.
        TypeError: If it is no gateway, such as a binding around one.

    Example:
        ```python
        providers = {"weak": Provider(rpm=600, outages=[(300, 600)]), "strong": Provider()}
        for cooldown in (None, CooldownPolicy()):
            tried = gateway.model_copy(update={"cooldown": cooldown})
            print(rehearse(tried, Traffic(calls_per_second=5), providers))
        ```
    """
    if not isinstance(gateway, GatewayRunnable):
        raise TypeError(f"rehearse takes a GatewayRunnable, got {type(gateway).__name__}")
    if at is not None and at.utcoffset() is None:
        raise ValueError(
            f"at={at.isoformat()} is naive; give it a timezone: datetime(..., tzinfo=UTC)"
        )

    def chance(of: str) -> Random:
        return Random(f"{seed} {of}")  # noqa: S311 - no secret

    models = _by_name(providers, gateway.model_names)
    time = Timeline(at or datetime.now(UTC), chance("the gateway"))
    cooldowns = Cooldowns(time)
    rules = gateway._routing.rules  # noqa: SLF001
    listeners = Listeners(cooldowns)
    routing = Routing.of(gateway.models, rules, Memory(), time, Guards(), listeners=listeners)
    services = {name: Service(each, traffic, chance(name)) for name, each in models.items()}
    callers = Callers(routing, traffic, services, time)
    time.begin(callers.arrive(chance("the traffic")))
    time.run()
    return Rehearsal(
        calls=tuple(sorted(callers.calls, key=attrgetter("began"))),
        cooldowns=cooldowns.all(),
        model_names=gateway.model_names,
        trouble=tuple(sorted({spell for each in models.values() for spell in each.trouble()})),
        seconds=traffic.seconds,
    )


def _by_name(
    providers: Mapping[str, Provider] | Provider, names: tuple[str, ...]
) -> Mapping[str, Provider]:
    if isinstance(providers, Provider):
        return dict.fromkeys(names, providers)
    for name in providers:
        if name not in names:
            raise ValueError(f"providers: {unknown_name(name, names)}")
    if missing := [repr(name) for name in names if name not in providers]:
        raise ValueError(f"providers has no Provider for {', '.join(missing)}")
    for name, provider in providers.items():
        if not isinstance(provider, Provider):
            raise ValueError(f"providers: {name!r} is a {type(provider).__name__}, not a Provider")
    return providers
