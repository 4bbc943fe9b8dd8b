"""An hour with a primary that dies, flaps and recovers: `python -m tests.outage`.

1,000 calls, one every 3.6 seconds; a dead primary costs its timeout. What it is asked while dead,
and what the callers wait for it, with and without a `CooldownPolicy`.
"""

from langchain_core.runnables import RunnableLambda

from langchain_model_gateway import CooldownPolicy, GatewayRunnable
from langchain_model_gateway.rehearsal import Provider, Rehearsal, Traffic, rehearse

TRAFFIC = Traffic(arrivals=[call * 3.6 for call in range(1000)], seconds=3600)
# Dead from minute 10 to 30, then half of each minute until minute 40.
DEAD = [(600, 1800), *((minute * 60, minute * 60 + 30) for minute in range(30, 40))]
PROVIDERS = {
    "primary": Provider(latency=1.0, outages=DEAD, error_after=10.0),
    "backup": Provider(latency=1.0),
}


def hour(cooldown: CooldownPolicy | None) -> Rehearsal:
    """Live through it."""
    model = RunnableLambda(lambda _: None)
    models = [{"model_name": name, "model": model} for name in PROVIDERS]
    return rehearse(GatewayRunnable(models, cooldown=cooldown), TRAFFIC, PROVIDERS)


def asked_while_dead(rehearsal: Rehearsal) -> int:
    """How often the dead primary was asked."""
    return rehearsal.asked["primary"] - rehearsal.answers["primary"]


def seconds_lost(rehearsal: Rehearsal) -> float:
    """What the callers waited for it."""
    return sum(call.seconds - 1 for call in rehearsal.calls)


def main() -> None:
    """Print the two hours."""
    hours = {"without cooldown": hour(None), "with CooldownPolicy()": hour(CooldownPolicy())}
    dead = len(hours["without cooldown"].in_trouble.calls)
    print(f"1,000 calls in an hour, {dead} of them while the primary is dead")  # noqa: T201
    for name, result in hours.items():
        print(  # noqa: T201
            f"{name:>21}: {result.answered} answered, {asked_while_dead(result):3} calls to the "
            f"dead primary, {seconds_lost(result):,.0f} s waited for it, "
            f"{result.answers['primary']} answered by it"
        )


if __name__ == "__main__":
    main()
