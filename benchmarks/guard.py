"""A guard against a slower call: counts what is executed, so no noisy machine can upset it.

`python -m benchmarks.guard` prints the counts. Both limits are ratios within one run, so that
another Python or LangChain moves both sides.
"""

import asyncio
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

from benchmarks.backends import Backend, InstantChatModel
from benchmarks.contenders import WINDOWS
from langchain_model_gateway import GatewayRunnable

FORMS = ("invoke", "ainvoke", "stream", "astream")

MOST_OF_FALLBACKS = 0.5
"""What a healthy call may add to the bare model's, of what `with_fallbacks` adds."""

MOST_FOR_MANY = 1.05
"""What a healthy call may take with 200 deployments, of what it takes with two."""

MOST_FOR_EVENTS = {"invoke": 40, "ainvoke": 40, "stream": 90, "astream": 90}
"""The functions more of a healthy call with an `on_event`; it counts the tokens of each chunk."""


def contenders(size: int) -> dict[str, Any]:
    """The bare model, `with_fallbacks` and the gateway, all healthy, with so many models."""
    models = [InstantChatModel(backend=Backend())] * size
    entries: list[Any] = [
        {"model_name": f"m{i}", "model": model, "time_constraints": WINDOWS}
        for i, model in enumerate(models)
    ]
    return {
        "direct": models[0],
        "with_fallbacks": models[0].with_fallbacks(models[1:]),
        "gateway": GatewayRunnable(models=entries, model_preference="m0"),
    }


def counts(form: str) -> dict[str, int]:
    """How many functions, Python's and C's, one healthy call goes through.

    Args:
        form: How to call; one of `FORMS`.

    Returns:
        The counts of the bare model, of `with_fallbacks`, of gateways over 2 and 200, and of one
        with an `on_event`.
    """
    everybody = contenders(2) | {"gateway of 200": contenders(200)["gateway"]}
    everybody["on_event"] = everybody["gateway"].model_copy(update={"on_event": lambda _: None})
    with asyncio.Runner() as runner:
        return {
            name: _count(lambda r=runnable: _call(r, form, runner))
            for name, runnable in everybody.items()
        }


def repeat(runnable: Any, form: str, calls: int) -> None:
    """Make so many calls, one after another."""
    with asyncio.Runner() as runner:
        for _ in range(calls):
            _call(runnable, form, runner)


def added(found: dict[str, int]) -> float:
    """What the gateway adds to the bare model's call, of what `with_fallbacks` adds."""
    bare = found["direct"]
    return (found["gateway"] - bare) / (found["with_fallbacks"] - bare)


def _call(runnable: Any, form: str, runner: asyncio.Runner) -> None:
    match form:
        case "invoke":
            runnable.invoke("hi")
        case "stream":
            for _ in runnable.stream("hi"):
                pass
        case "ainvoke":
            runner.run(runnable.ainvoke("hi"))
        case _:
            runner.run(_drain(runnable.astream("hi")))


async def _drain(chunks: Any) -> None:
    async for _ in chunks:
        pass


def _count(call: Callable[[], None]) -> int:
    for _ in range(3):  # what is cached and imported at first use is no part of a call
        call()
    return min(_count_once(call) for _ in range(3))


def _count_once(call: Callable[[], None]) -> int:
    count = 0

    def see(_: FrameType, event: str, __: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(see)
    try:
        call()
    finally:
        sys.setprofile(before)
    return count


if __name__ == "__main__":
    for each in FORMS:
        found = counts(each)
        sys.stdout.write(f"{each:8} {found}; added: {added(found):.2f} x with_fallbacks\n")
