"""A healthy call stays cheap: counted, not timed, so that a busy machine cannot fail it."""

from collections.abc import Iterator

import pytest
from langchain_core.tracers import context

# A wheel is tested where there is no source tree.
guard = pytest.importorskip("benchmarks.guard", reason="the benchmarks are in the source tree only")


@pytest.fixture(params=guard.FORMS)
def form(request: pytest.FixtureRequest) -> str:
    """How the call is made."""
    return str(request.param)


@pytest.fixture
def counts(form: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, int]]:
    """What one healthy call goes through, by contender."""
    for name in ("LANGSMITH_TRACING", "LANGCHAIN_TRACING_V2", "LANGCHAIN_TRACING"):
        monkeypatch.delenv(name, raising=False)
    # Each `get_usage_metadata_callback()` of another test has left a hook that every call looks at.
    hooks, context._configure_hooks[:] = [*context._configure_hooks], []
    yield guard.counts(form)
    context._configure_hooks[:] = hooks


def test_a_healthy_call_adds_less_than_with_fallbacks_does(counts: dict[str, int]):
    """Windows and a preference included."""
    assert guard.added(counts) <= guard.MOST_OF_FALLBACKS, counts


def test_a_healthy_call_does_not_pay_for_those_it_does_not_ask(counts: dict[str, int]):
    """With 200 deployments it takes what it takes with two."""
    assert counts["gateway of 200"] <= guard.MOST_FOR_MANY * counts["gateway"], counts


def test_a_healthy_call_pays_little_for_events(form: str, counts: dict[str, int]):
    """With a function that does nothing."""
    assert counts["on_event"] - counts["gateway"] <= guard.MOST_FOR_EVENTS[form], counts
