"""What it costs to look on, in microseconds a healthy call: `python -m benchmarks.observing`.

The least of many rounds, taken in turns, so that one busy moment does not fall on one of them.
"""

import asyncio
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from benchmarks.backends import Backend, InstantChatModel
from langchain_model_gateway import GatewayRunnable
from langchain_model_gateway.otel import instrument

ROUNDS, CALLS = 40, 100


def gateways() -> Mapping[str, GatewayRunnable]:
    """The same gateway, looked at in each way."""
    model = InstantChatModel(backend=Backend())
    entries: Any = [{"model_name": name, "model": model} for name in "ab"]
    counted = GatewayRunnable(entries)
    instrument(counted)  # no SDK is set up: the API's instruments do nothing
    return {
        "off": GatewayRunnable(entries),
        "on_event": GatewayRunnable(entries, on_event=lambda _: None),
        "otel, API only": counted,
    }


def measure(call: Callable[[GatewayRunnable], None]) -> Mapping[str, float]:
    """The seconds of one call, each at its best."""
    best = dict.fromkeys(everybody := gateways(), float("inf"))
    for _ in range(ROUNDS):
        for name, gateway in everybody.items():
            begun = time.perf_counter()
            for _ in range(CALLS):
                call(gateway)
            best[name] = min(best[name], (time.perf_counter() - begun) / CALLS)
    return best


def main() -> None:
    """Measure, and show."""
    with asyncio.Runner() as runner:
        forms: Mapping[str, Callable[[GatewayRunnable], Any]] = {
            "invoke": lambda gateway: gateway.invoke("?"),
            "ainvoke": lambda gateway: runner.run(gateway.ainvoke("?")),
            "stream": lambda gateway: [*gateway.stream("?")],
        }
        for form, call in forms.items():
            best = measure(call)
            for name, seconds in best.items():
                more = (seconds - best["off"]) * 1e6
                ratio = seconds / best["off"]
                sys.stdout.write(f"{form:8} {name:15} {more:6.1f} us more  {ratio:.3f} x\n")


if __name__ == "__main__":
    main()
