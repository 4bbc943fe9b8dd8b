"""Limits, balance and hedges that do not do what they seem to."""

from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import Any, Final

from langchain_model_gateway import clients
from langchain_model_gateway.capabilities import bound_tools
from langchain_model_gateway.deployment import ModelDeployment
from langchain_model_gateway.diagnosis.findings import Finding, Setup, about
from langchain_model_gateway.diagnosis.hours import are_free_together
from langchain_model_gateway.diagnosis.processes import several
from langchain_model_gateway.diagnosis.redundancy import by_endpoint
from langchain_model_gateway.diagnosis.times import attempt_seconds
from langchain_model_gateway.secrets import models_in

_LIMITS: Final = ("rpm", "tpm", "max_concurrency")
# How the types of tools begin that OpenAI and Anthropic run themselves; Google's are keys.
_SERVER_TOOLS: Final = (
    *("web_search", "web_fetch", "file_search", "code_interpreter", "code_execution"),
    *("image_generation", "mcp", "tool_search"),
)
_GOOGLE_TOOLS: Final = frozenset(
    {"google_search", "google_search_retrieval", "google_maps", "url_context", "code_execution"}
    | {"file_search"}
)


# --- limits ----------------------------------------------------------------------------------


def unbounded_wait(setup: Setup) -> Iterator[Finding]:
    """Calls that wait for a place without an end."""
    if setup.max_wait is None and setup.timeout is None:
        full = [each for each in setup.models if each.max_concurrency is not None]
        places = sum(each.max_concurrency or 0 for each in full)
        yield from about(
            full,
            "unbounded-wait",
            f"with {places} attempts under way they are full: a call that finds no other "
            "deployment waits for a place as long as it takes, and there is no timeout",
            "Give the gateway max_wait, such as 10 seconds, or a timeout",
        )


def separate_limits(setup: Setup) -> Iterator[Finding]:
    """Limits kept one by one that the provider counts together."""
    for sharing in by_endpoint(setup.models):
        for limit, unit in (("rpm", "requests"), ("tpm", "tokens")):
            by_model: dict[str, list[ModelDeployment]] = {}
            for deployment in sharing:
                if getattr(deployment, limit) is not None:
                    by_model.setdefault(_model_id(deployment), []).append(deployment)
            for counted in by_model.values():
                total = sum(getattr(each, limit) for each in counted)
                yield from about(
                    counted if len(counted) > 1 else (),
                    "separate-limits-on-one-key",
                    f"they ask one model with one key, which the provider counts together: their "
                    f"limits allow {total:,.15g} {unit} a minute in all",
                    f"Make one deployment of them, or let their {limit} add up to the key's limit",
                )


def limits_per_process(setup: Setup) -> Iterator[Finding]:
    """Limits that each of several processes keeps for itself."""
    limited = [each for each in setup.models if any(getattr(each, n) is not None for n in _LIMITS)]
    if setup.shares_state or not limited or (found := several()) is None:
        return
    sign, processes = found
    most = f"{processes} times" if processes else "several times"
    yield from about(
        limited,
        "limits-per-process",
        f"{sign}, and each process keeps these limits by itself: together they ask up to {most} "
        "as much",
        "Share them with state=RedisState(...), or divide them by the number of processes",
    )


def tokens_not_told(setup: Setup) -> Iterator[Finding]:
    """Token limits of models that do not tell in streams what they used."""
    for deployment in setup.models:
        if deployment.tpm is not None and not _tells_usage(deployment):
            yield Finding(
                "tokens-not-told",
                (deployment.model_name,),
                "its client reports no usage in streams: what they take from the "
                f"{deployment.tpm:,.15g} tokens a minute stays an estimate and is never corrected",
                "Set stream_usage=True on the model",
            )


def _tells_usage(deployment: ModelDeployment) -> bool:
    """Whether a stream's end tells its tokens; true where the client has no such switch."""
    model, bound = deployment.inner_model, clients.bound_keywords(deployment.model)
    if "stream_usage" not in getattr(type(model), "model_fields", ()):
        return True
    if getattr(model, "use_responses_api", None):  # it always tells
        return True
    for given in (bound, getattr(model, "model_kwargs", None) or {}):
        if "stream_usage" in given:
            return bool(given["stream_usage"])
        if isinstance(options := given.get("stream_options"), Mapping):
            return bool(options.get("include_usage"))
    return bool(getattr(model, "stream_usage", None))


def client_rate_limiter(setup: Setup) -> Iterator[Finding]:
    """Rate limiters that sleep where nobody else can be asked."""
    for deployment in setup.models:
        if (limiter := _rate_limiter(deployment)) is None:
            continue
        rate = getattr(limiter, "requests_per_second", None)
        sleeps, instead = "", "rpm"
        if isinstance(rate, (int, float)) and rate > 0:
            sleeps, instead = f" {1 / rate:.3g} s for each request", f"rpm={rate * 60:.15g}"
        yield Finding(
            "client-rate-limiter",
            (deployment.model_name,),
            f"the model's rate_limiter sleeps inside the attempt{sleeps}: that counts towards its "
            "timeout, and meanwhile no other deployment is asked",
            f"Take the rate_limiter away and give the deployment {instead}",
        )


def rate_limiter_not_pickled(setup: Setup) -> Iterator[Finding]:
    """Rate limiters that stay behind where the gateway travels to another process."""
    yield from about(
        [each for each in setup.models if _rate_limiter(each) is not None],
        "rate-limiter-not-pickled",
        "LangChain does not serialize a rate_limiter: a gateway that is pickled for another "
        "process, or loaded, has none, and asks without a limit",
        "Limit the deployment with rpm, which travels with the gateway",
    )


def _rate_limiter(deployment: ModelDeployment) -> Any:
    found = (getattr(model, "rate_limiter", None) for model in models_in(deployment.model))
    return next((each for each in found if each is not None), None)


def _model_id(deployment: ModelDeployment) -> str:
    model = deployment.inner_model
    names = (getattr(model, name, None) for name in ("model_name", "model", "deployment_name"))
    return next((name for name in names if isinstance(name, str)), "")


# --- hedges and balance ----------------------------------------------------------------------


def hedge_with_server_tools(setup: Setup) -> Iterator[Finding]:
    """Tools that a hedged call runs twice."""
    if setup.hedge is None:
        return
    for deployment in setup.models:
        if names := dict.fromkeys(_server_tools(deployment)):
            yield Finding(
                "hedge-with-server-tools",
                (deployment.model_name,),
                f"its provider runs {', '.join(names)} itself: up to {setup.hedge.budget:.3g} of "
                "all calls are hedged, and run and pay them twice",
                "Bind such tools to a gateway with no hedge",
            )


def _server_tools(deployment: ModelDeployment) -> Iterator[str]:
    """What the provider runs, bound or set on the model, here or in a gateway inside."""
    for each in deployment.by_path().values():
        model = each.inner_model
        own = getattr(model, "model_kwargs", None) or {}
        given = {**own, **clients.bound_keywords(each.model)}
        tools = [*bound_tools(each.model), *(given.get("tools") or ())]
        yield from filter(None, map(_server_tool, tools))
        if given.get("mcp_servers") or getattr(model, "mcp_servers", None):  # Anthropic's
            yield "mcp"
        if given.get("web_search_options") is not None:  # OpenAI's search models
            yield "web_search"


def _server_tool(tool: Any) -> str | None:
    """The kind of a tool that the provider runs; `None` for one of the caller's."""
    if not isinstance(tool, Mapping):
        return None
    kind = tool.get("type")
    if isinstance(kind, str):
        return next((name for name in _SERVER_TOOLS if kind.startswith(name)), None)
    return min(_GOOGLE_TOOLS & tool.keys(), default=None)


def hedge_too_late(setup: Setup) -> Iterator[Finding]:
    """Hedges after an attempt has ended already."""
    if setup.hedge is None or len(setup.models) == 1:
        return
    for deployment in setup.models:
        ends = [each for each in (attempt_seconds(deployment), setup.timeout) if each is not None]
        if ends and setup.hedge.delay >= min(ends):
            when = "never hedged"
            if setup.hedge.least_delay < min(ends):  # a known latency brings the hedge forward
                when = "not hedged before its usual latency is known"
            yield Finding(
                "hedge-too-late",
                (deployment.model_name,),
                f"its attempt ends after {min(ends):g} s, another is asked beside it after "
                f"{setup.hedge.delay:g} s: one that hangs is {when}",
                "Give the hedge a delay well below the timeout",
            )


def hedge_has_no_second(setup: Setup) -> Iterator[Finding]:
    """Hedges for which there is never another deployment."""
    if setup.hedge is None:
        return
    if not setup.fallback:
        why = "with model_fallback=False no other deployment is asked"
    elif len(setup.models) == 1:
        why = "there is no other deployment to ask"
    elif not any(are_free_together(pair, setup.now) for pair in combinations(setup.models, 2)):
        why = "no two deployments may be used at the same time"
    else:
        return
    yield Finding(
        "hedge-has-no-second",
        setup.names,
        f"{why}: 0 calls are hedged",
        "Add a deployment that is free at the same time, or leave hedge out",
    )


def balance_without_effect(setup: Setup) -> Iterator[Finding]:
    """A balance with nobody to share the load with."""
    tiers = {each.tier for each in setup.models}
    if setup.balance is not None and len(tiers) == len(setup.models):
        yield Finding(
            "balance-has-no-effect",
            setup.names,
            f"{len(tiers)} tiers of one deployment each: the first of them takes all the load, "
            f"balance={setup.balance!r} or not",
            "Give those that are to share the load the same tier",
        )
