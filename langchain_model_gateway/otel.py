"""OpenTelemetry metrics of a gateway's calls, by OpenTelemetry's API alone.

Where no SDK is set up, its instruments do nothing. The names under `gen_ai` are OpenTelemetry's
conventions for generative AI (https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-metrics/).
"""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final
from weakref import ref

from langchain_model_gateway.admission import Outcome
from langchain_model_gateway.errors import SkippedModel
from langchain_model_gateway.gateway import GatewayRunnable
from langchain_model_gateway.listeners import Asked, Listener
from langchain_model_gateway.listeners.events import end_of

try:
    from opentelemetry.metrics import CallbackOptions, Meter, Observation, get_meter
except ImportError as error:
    raise ImportError(
        "langchain_model_gateway.otel needs OpenTelemetry's API: "
        "pip install 'langchain-model-gateway[otel]'"
    ) from error

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider

DEPLOYMENT: Final = "gateway.deployment"

_SECONDS: Final = (
    *(0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92),
)
_TOKENS: Final = tuple(4**power for power in range(14))
_STATES: Final = {"closed": 0, "half-open": 1, "open": 2}


def instrument(gateway: GatewayRunnable, meter_provider: "MeterProvider | None" = None) -> None:
    """Count a gateway's calls, and those of the gateways derived from it, in place.

    Counting twice with one provider changes nothing.

    Args:
        gateway: The gateway.
        meter_provider: Where to count; OpenTelemetry's global one if left out.
    """
    metrics = Metrics(gateway, meter_provider)
    if metrics not in gateway._listeners.all:  # noqa: SLF001
        gateway._listeners.add(metrics)  # noqa: SLF001
        metrics.begin()


class Metrics(Listener):
    """Counts what it is told.

    Args:
        gateway: Whose deployments' states are told.
        provider: Where to count.
    """

    wants_attempts = True

    def __init__(self, gateway: GatewayRunnable, provider: "MeterProvider | None") -> None:
        self._gateway = ref(gateway)
        self._provider = provider
        self._models = {each.model_name: each.model_id for each in gateway.models}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Metrics) and other._provider is self._provider

    __hash__ = None  # type: ignore[assignment]

    def begin(self) -> None:
        """Make the instruments."""
        meter: Meter = get_meter("langchain_model_gateway", meter_provider=self._provider)

        def histogram(name: str, unit: str, description: str, bounds: Iterable[float]) -> Any:
            return meter.create_histogram(
                name, unit, description, explicit_bucket_boundaries_advisory=[*bounds]
            )

        operation = "gen_ai.client.operation"
        self._duration = histogram(
            f"{operation}.duration", "s", "GenAI operation duration.", _SECONDS
        )
        self._first_chunk = histogram(
            f"{operation}.time_to_first_chunk", "s", "Time to receive the first chunk.", _SECONDS
        )
        self._tokens = histogram(
            "gen_ai.client.token.usage", "{token}", "Number of tokens used.", _TOKENS
        )
        count = meter.create_counter
        self._attempts = count("gateway.attempts", "{attempt}", "Attempts, by how they ended.")
        self._fallbacks = count("gateway.fallbacks", "{call}", "Calls that went on to another.")
        self._skips = count("gateway.skips", "{call}", "Deployments that could not be asked.")
        self._hedges = count("gateway.hedges", "{call}", "Calls that asked a second one beside.")
        meter.create_observable_gauge(
            "gateway.deployment.state",
            [self._states],
            description="0: calls go through, 1: probed, 2: in cooldown.",
        )

    def _states(self, options: "CallbackOptions") -> Iterable["Observation"]:
        del options
        if (gateway := self._gateway()) is None:
            return
        memory, now = gateway._memory, gateway._clock.monotonic()  # noqa: SLF001
        for name in gateway.model_names:
            yield Observation(_STATES[memory[name].circuit.state(now)], {DEPLOYMENT: name})

    # --- what it is told ---------------------------------------------------------------------

    def started(self, asked: Asked) -> None:
        """A deployment is asked; after another's failure that is a fallback."""
        if asked.after is not None:
            self._fallbacks.add(1, {DEPLOYMENT: asked.after})

    def hedged(self, asked: Asked) -> None:
        """A deployment is asked beside another that takes long."""
        self._hedges.add(1, {DEPLOYMENT: asked.model_name})

    def first_chunk(self, asked: Asked, seconds: float) -> None:
        """Its stream has given its first real chunk."""
        self._first_chunk.record(seconds, self._labels(asked))

    def ended(self, asked: Asked, outcome: Outcome) -> None:
        """An attempt has ended."""
        error = {} if outcome.error is None else {"error.type": type(outcome.error).__name__}
        labels = self._labels(asked)
        self._attempts.add(
            1, {DEPLOYMENT: asked.model_name, "gateway.outcome": end_of(outcome), **error}
        )
        self._duration.record(max(0.0, outcome.at - asked.begun), {**labels, **error})
        if (usage := outcome.usage) is not None:
            for kind in ("input", "output"):
                tokens = usage["input_tokens" if kind == "input" else "output_tokens"]
                self._tokens.record(tokens, {**labels, "gen_ai.token.type": kind})

    def skipped(self, skip: SkippedModel, provider: str) -> None:
        """A deployment may not be asked now."""
        del provider
        self._skips.add(1, {DEPLOYMENT: skip.model_name})

    def _labels(self, asked: Asked) -> Mapping[str, str]:
        labels = {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": asked.provider,
            DEPLOYMENT: asked.model_name,
        }
        if model := self._models.get(asked.model_name):
            labels["gen_ai.request.model"] = model
        return labels
