"""OpenTelemetry metrics, read by its SDK and scraped as Prometheus does it."""

import json
import re
import sys
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from llmock.pytest_plugin import LLMock
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.parser import text_string_to_metric_families

from langchain_model_gateway import AllModelsFailedError, CooldownPolicy, GatewayRunnable
from langchain_model_gateway.otel import instrument
from tests.conftest import CallForm, openai_at
from tests.models import NEVER, gateway_over, says
from tests.test_readme import ROOT
from tests.virtual_time import VirtualClock, rehearsed


class Meter:
    """A provider of instruments, and what they have counted."""

    def __init__(self) -> None:
        self._reader = InMemoryMetricReader()
        self.provider = MeterProvider([self._reader])

    def points(self, name: str) -> list[tuple[dict[str, Any], Any]]:
        """Each point's attributes and its value; of a histogram, how often and how much."""
        data = self._reader.get_metrics_data()
        metrics = data.resource_metrics[0].scope_metrics[0].metrics if data else ()
        return [
            (dict(point.attributes or {}), getattr(point, "value", None) or _sum(point))
            for metric in metrics
            if metric.name == name
            for point in metric.data.data_points
        ]


def _sum(point: Any) -> Any:
    return (point.count, point.sum) if hasattr(point, "count") else point.value


@pytest.fixture
def meter() -> Iterator[Meter]:
    meter = Meter()
    yield meter
    meter.provider.shutdown()


def down() -> Any:
    return says(ConnectionError("SENTINEL"))


def test_a_call_that_falls_back(meter: Meter, ask: CallForm) -> None:
    """Attempts by outcome and error, the fallback, and durations, each by deployment."""
    gateway = gateway_over(down(), says("yes"))
    instrument(gateway, meter.provider)
    ask(gateway, "?")
    assert meter.points("gateway.attempts") == [
        (
            {
                "gateway.deployment": "weak",
                "gateway.outcome": "failed",
                "error.type": "ConnectionError",
            },
            1,
        ),
        ({"gateway.deployment": "strong", "gateway.outcome": "answered"}, 1),
    ]
    assert meter.points("gateway.fallbacks") == [({"gateway.deployment": "weak"}, 1)]
    durations = meter.points("gen_ai.client.operation.duration")
    assert [(each["gateway.deployment"], each.get("error.type")) for each, _ in durations] == [
        ("weak", "ConnectionError"),
        ("strong", None),
    ]
    assert durations[0][0]["gen_ai.operation.name"] == "chat"
    assert durations[0][0]["gen_ai.provider.name"] == "scriptedchatmodel"


def test_a_retry_is_no_fallback(meter: Meter) -> None:
    """Only another deployment is one; the last of a call in vain is none."""
    gateway = gateway_over(down(), down())
    instrument(gateway, meter.provider)
    with pytest.raises(AllModelsFailedError):
        gateway.invoke("?")
    assert meter.points("gateway.fallbacks") == [({"gateway.deployment": "weak"}, 1)]


def test_skips(meter: Meter, ask: CallForm) -> None:
    """Restricted hours are counted."""
    gateway = gateway_over(says("no"), says("yes"), windows={"weak": NEVER})
    instrument(gateway, meter.provider)
    ask(gateway, "?")
    assert meter.points("gateway.skips") == [({"gateway.deployment": "weak"}, 1)]


def test_the_state_of_a_deployment(meter: Meter) -> None:
    """Closed, open, half-open: 0, 2, 1."""
    clock, policy = VirtualClock(), CooldownPolicy(failure_threshold=1, duration=10)
    gateway = rehearsed(gateway_over(down(), says("yes"), cooldown=policy), clock)
    instrument(gateway, meter.provider)
    states = []
    for pause in (0, 0, 10):
        clock.spend(pause)
        points = meter.points("gateway.deployment.state")
        states.append({each["gateway.deployment"]: value for each, value in points})
        gateway.invoke("?")
    assert states == [
        {"weak": 0, "strong": 0},
        {"weak": 2, "strong": 0},
        {"weak": 1, "strong": 0},
    ]


def test_counting_twice_counts_once(meter: Meter) -> None:
    """Also of a gateway derived from one that is counted."""
    gateway = gateway_over(says("yes"), says("no"))
    for each in (gateway, gateway, gateway.prefer("weak")):
        instrument(each, meter.provider)
    gateway.invoke("?")
    assert [value for _, value in meter.points("gateway.attempts")] == [1]
    assert len(meter.points("gateway.deployment.state")) == 2


def test_a_gateway_that_is_gone_has_no_state(meter: Meter) -> None:
    """Its instruments do not keep it."""
    instrument(gateway_over(says("yes"), says("no")), meter.provider)
    assert meter.points("gateway.deployment.state") == []


def test_it_is_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without OpenTelemetry's API the error says what to install."""
    monkeypatch.delitem(sys.modules, "langchain_model_gateway.otel")
    monkeypatch.setitem(sys.modules, "opentelemetry.metrics", None)
    with pytest.raises(ImportError, match=r"langchain-model-gateway\[otel\]"):
        import langchain_model_gateway.otel  # noqa: F401, PLC0415


def test_as_prometheus_sees_it(weak: LLMock, strong: LLMock) -> None:
    """Real clients over HTTP, scraped over HTTP: tokens, models and streams, and no prompt."""
    registry = CollectorRegistry()
    reader = PrometheusMetricReader()
    registry.register(reader._collector)
    provider = MeterProvider([reader])
    server, thread = start_http_server(0, "127.0.0.1", registry)
    models: Any = [
        {"model_name": name, "model": openai_at(mock.base_url(), stream_usage=True)}
        for name, mock in (("weak", weak), ("strong", strong))
    ]
    gateway = GatewayRunnable(models, cooldown=CooldownPolicy(failure_threshold=1))
    instrument(gateway, provider)
    weak.fail(503)
    gateway.invoke("SENTINEL")
    list(gateway.stream("SENTINEL"))
    try:
        address = f"http://127.0.0.1:{server.server_port}/metrics"
        with urllib.request.urlopen(address, timeout=10) as response:
            text = response.read().decode()
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
        provider.shutdown()
    assert "SENTINEL" not in text
    samples = [
        sample for family in text_string_to_metric_families(text) for sample in family.samples
    ]

    def value(name: str, **labels: str) -> list[float]:
        return [
            each.value
            for each in samples
            if each.name == name and labels.items() <= each.labels.items()
        ]

    assert value("gateway_deployment_state", gateway_deployment="weak") == [2]
    assert value("gateway_fallbacks_total", gateway_deployment="weak") == [1]
    assert value("gateway_attempts_total", gateway_outcome="answered") == [2]
    assert value("gateway_attempts_total", error_type="OpenAIAPIError") == [1]
    told = {"gen_ai_provider_name": "openai", "gen_ai_request_model": "gpt-4o-mini"}
    for kind in ("input", "output"):
        assert value("gen_ai_client_token_usage_count", gen_ai_token_type=kind, **told) == [2]
    assert value("gen_ai_client_operation_time_to_first_chunk_seconds_count", **told) == [1]
    assert asked_by_the_dashboard() <= {each.name for each in samples} | NOT_YET


NOT_YET = {"gateway_hedges_total", "gateway_skips_total"}
"""What has not happened in the test is not there."""


def asked_by_the_dashboard() -> set[str]:
    """The metrics that the documents' dashboard and alerts ask for."""
    dashboard = json.loads((ROOT / "docs" / "grafana-dashboard.json").read_text("utf-8"))
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    page = (ROOT / "docs" / "observing.md").read_text("utf-8")
    asked += re.findall(r"```promql\n(.*?)```", page, re.DOTALL)
    assert len(asked) >= 9
    return {
        name for each in asked for name in re.findall(r"\b(?:gateway|gen_ai)_\w+(?=\{|\[)", each)
    }
