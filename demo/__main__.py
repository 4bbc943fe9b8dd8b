"""Run with `make demo`, or `make demo LIVE=1`. Heavy imports wait until the first line is out."""

import argparse
import os
import signal
import sys

NEEDS = (3, 11)
ABOUT = "A play in three acts: real clients, three providers on loopback, and trouble on purpose."
PROXIES = ("http_proxy", "https_proxy", "all_proxy", "openai_proxy")
TRACING = ("LANGSMITH_TRACING", "LANGSMITH_TRACING_V2", "LANGCHAIN_TRACING", "LANGCHAIN_TRACING_V2")
INTERRUPTED = 130


def keep_to_this_machine(*, live: bool) -> None:
    """Upload no trace, and, unless OpenAI is to be asked, send nothing through a proxy."""
    for name in TRACING:
        os.environ[name] = "false"
    for name in list(os.environ):
        if not live and name.lower() in PROXIES:
            del os.environ[name]


def stop(*_: object) -> None:
    """End at once, whatever is under way: calls, servers, a line half drawn."""
    show_cursor = "\033[?25h" if sys.stdout.isatty() else ""
    os.write(1, ("\n" + show_cursor + "Stopped.\n").encode())
    os._exit(INTERRUPTED)


def main() -> None:
    """Play."""
    if sys.version_info < NEEDS:
        sys.exit("The demo needs Python 3.11 or later: make demo PYTHON=python3.12")
    parser = argparse.ArgumentParser(prog="python -m demo", description=ABOUT)
    parser.add_argument("--live", action="store_true", help="ask OpenAI (needs OPENAI_API_KEY)")
    live = parser.parse_args().live
    keep_to_this_machine(live=live)
    signal.signal(signal.SIGINT, stop)
    print("The providers are on their way. Ctrl-C ends it.", flush=True)
    from demo.play import play  # noqa: PLC0415 - takes a second or two

    play(live=live)


if __name__ == "__main__":
    main()
