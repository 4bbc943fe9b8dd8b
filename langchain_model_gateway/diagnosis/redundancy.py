"""Whether there is somebody to fall back to, and of what use."""

from collections.abc import Iterable, Iterator, Sequence

from langchain_model_gateway import clients
from langchain_model_gateway.deployment import ModelDeployment
from langchain_model_gateway.diagnosis.findings import Finding, Setup, about


def single_deployment(setup: Setup) -> Iterator[Finding]:
    """Nothing to fall back to."""
    if len(setup.models) == 1:
        yield Finding(
            "single-deployment",
            setup.names,
            "there is no other deployment to fall back to",
            "Add a deployment, best at another provider",
        )


def no_fallback(setup: Setup) -> Iterator[Finding]:
    """No exception that falls back."""
    if not setup.exceptions_to_handle and len(setup.models) > 1:
        yield Finding(
            "no-fallback",
            setup.names,
            "exceptions_to_handle is empty: a provider's error is raised at once, and no other "
            "deployment is tried",
            "Leave exceptions_to_handle out, or name the exceptions on which to fall back",
        )


def shared_endpoints(setup: Setup) -> Iterator[Finding]:
    """Deployments that are down together."""
    for sharing in by_endpoint(setup.models):
        if len(sharing) > 1:
            yield from about(
                sharing,
                "shared-endpoint",
                "they share one endpoint and key: when one is down or over its quota, all are",
                "Give the fallback another provider, region or key",
            )


def lesser_fallbacks(setup: Setup) -> Iterator[Finding]:
    """Fallbacks that can do less."""
    first, *others = setup.models
    best = clients.profile(first.inner_model)
    for deployment in others:
        profile = clients.profile(deployment.inner_model)
        window, wanted = profile.get("max_input_tokens"), best.get("max_input_tokens")
        if window and wanted and window < wanted:
            yield Finding(
                "smaller-context",
                (deployment.model_name,),
                f"it takes {window:,} tokens, {first.model_name!r} takes {wanted:,}: a long "
                "prompt that falls back to it fails",
                "Trim prompts to the lesser limit, or choose a fallback with a larger window",
            )
        if best.get("tool_calling") and profile.get("tool_calling") is False:
            yield Finding(
                "no-tool-calling",
                (deployment.model_name,),
                f"it cannot call tools, {first.model_name!r} can: an agent that falls back fails",
                "Choose a fallback with tool calling",
            )


def by_endpoint(models: Iterable[ModelDeployment]) -> Iterable[Sequence[ModelDeployment]]:
    """Those with an endpoint, in groups that share it and its key."""
    groups: dict[object, list[ModelDeployment]] = {}
    for deployment in models:
        if (endpoint := clients.endpoint(deployment.inner_model)) is not None:
            groups.setdefault(endpoint, []).append(deployment)
    return groups.values()
