"""What balance, limits and hedges do, rehearsed: `python -m benchmarks.traffic`.

20 calls a second come to four deployments of 600, 600, 300 and 600 requests a minute. An answer
takes 1.1 s, log-normal (sigma 0.4: 2.8 s for one in a hundred). The first deployment is six times
as slow for 5 of 15 minutes, and 0.5 % of calls hang; attempts are cut at 30 s. Means of 5 seeds.
"""

import sys
from collections.abc import Callable
from statistics import fmean
from typing import Any, Literal, get_args

from langchain_core.language_models import FakeListChatModel

from langchain_model_gateway import CooldownPolicy, GatewayRunnable, HedgePolicy
from langchain_model_gateway.rehearsal import Latency, Provider, Rehearsal, Traffic, rehearse

SEEDS = range(5)
LIMITS = (600, 600, 300, 600)
USUAL = Latency(median=1.1, p99=2.8)
Counted = Literal["bucket", "clock minute", "sliding minute", "ten seconds"]


def say(what: str, *values: str) -> None:
    """One line of the report."""
    sys.stdout.write(f"{what:34}" + "".join(f"{value:>16}" for value in values) + "\n")
    sys.stdout.flush()


def gateway(*, limited: bool = True, **rules: Any) -> GatewayRunnable:
    """Four deployments; their model is never asked."""
    model = FakeListChatModel(responses=["never asked"])
    entries: Any = [
        {"model_name": f"key {number}", "model": model, "timeout": 30}
        | ({"rpm": rpm} if limited else {})
        for number, rpm in enumerate(LIMITS, 1)
    ]
    return GatewayRunnable(entries, cooldown=CooldownPolicy(), **rules)


def trouble() -> None:
    """One deployment slows down: what its callers see."""
    providers = {
        f"key {number}": Provider(
            latency=USUAL, rpm=rpm, hang_share=0.005, slow=[(300, 600, 6)] if number == 1 else []
        )
        for number, rpm in enumerate(LIMITS, 1)
    }
    traffic = Traffic(calls_per_second=20, seconds=900)
    say("one slows down six-fold", "p99 in trouble", "429s", "lost", "hedged")
    for name, rules in {
        "list order, no limits": {"limited": False},
        "list order": {},
        "weighted": {"balance": "weighted"},
        "least_busy": {"balance": "least_busy"},
        "fastest": {"balance": "fastest"},
        "fastest, hedged": {"balance": "fastest", "hedge": HedgePolicy()},
    }.items():
        done = [rehearse(gateway(**rules), traffic, providers, seed=seed) for seed in SEEDS]
        say(
            name,
            f"{_mean(done, lambda each: each.in_trouble.p99):.1f} s",
            f"{_mean(done, lambda each: each.rate_limited):,.0f}",
            f"{_mean(done, lambda each: each.lost):.1f}",
            f"{_mean(done, lambda each: each.hedged):,.0f}",
        )


def beyond_the_limit() -> None:
    """One and a half times what one deployment allows, whichever way its provider counts."""
    say("\nat 1.5 times the limit", "429s of requests", "the same, tpm")
    for counted in get_args(Counted):
        requests = [_limited(counted, seed, rpm=600) for seed in SEEDS]
        tokens = [_limited(counted, seed, tpm=450_000) for seed in SEEDS]
        say(counted, *(f"{fmean(each):.2%}" for each in (requests, tokens)))


def _limited(counted: Counted, seed: int, **limit: float) -> float:
    model = FakeListChatModel(responses=["never asked"])
    entries: Any = [
        {"model_name": "limited", "model": model, **limit},
        {"model_name": "backup", "model": model},
    ]
    providers = {
        "limited": Provider(latency=USUAL, counted=counted, **limit),  # type: ignore[arg-type]
        "backup": Provider(latency=USUAL),
    }
    done = rehearse(
        GatewayRunnable(entries), Traffic(calls_per_second=15, seconds=900), providers, seed=seed
    )
    return done.rate_limited / max(done.asked["limited"], 1)


def _mean(done: list[Rehearsal], number: Callable[[Rehearsal], float]) -> float:
    return fmean(map(number, done))


if __name__ == "__main__":
    trouble()
    beyond_the_limit()
