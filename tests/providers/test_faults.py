"""Client x fault x call form: each real client falls back over real HTTP, and tells the truth."""

import copy
import os
import pickle
import re
from contextlib import suppress
from typing import Any

import pytest

from langchain_model_gateway import (
    AllModelsFailedError,
    CooldownPolicy,
    GatewayRunnable,
    RetryPolicy,
)

from .clients import CLIENTS, CORE, INSTALLED, is_installed
from .conftest import FORMS, FULL, REDUCED, UPSTREAM, Ask
from .dialects import Answer
from .faults import FAULTS, Case
from .server import Fault, Provider

pytestmark = UPSTREAM

# Providers say "all is well" over half an answer; these settings are how one finds out.
REJECT = ("error", "truncated")
# What an answer turns into that its client took for a good one.
SILENT = {"EmptyStreamError": True, "RejectedAnswerError": False}
# It makes a bare `Exception` of an answer, with no trace of the headers.
TELLS_NO_RETRY_AFTER = {("nvidia", "ainvoke"), ("nvidia", "astream")}
NO_EVENT = re.compile("No generation chunks were returned|Received empty stream")
# How a provider says with a vague status that there is no credit; the others say 402.
OUT_OF_CREDIT = {
    **dict.fromkeys(
        ("openai", "responses", "mistral", "compatible", "groq"),
        Fault("status", status=429, code="insufficient_quota"),
    ),
    "anthropic": Fault("status", status=400, message="Your credit balance is too low to go on."),
}


def streams(form: str) -> bool:
    return "stream" in form


MATRIX = [
    pytest.param(name, case, form, id=f"{name}-{fault}-{form}")
    for name in INSTALLED
    for fault, case in FAULTS.items()
    for form in (FORMS if FULL or name in CORE else REDUCED)
    if streams(form) or not case.in_streams_only
]
REPLACED = [p for p in MATRIX if not (streams(p.values[2]) and p.values[1].has_begun)]
BEGUN = [p for p in MATRIX if streams(p.values[2]) and p.values[1].has_begun]


def limits(case: Case, form: str) -> dict[str, float]:
    """What ends a hang; nothing else needs an end."""
    if case.fault.way != "hang":
        return {}
    return {"stall_timeout" if streams(form) and case.has_begun else "timeout": 0.15}


def told_by(ask_as: Ask, form: str, client: Any, case: Case) -> set[str]:
    """The class that the client alone fails with: what the gateway has to tell."""
    if case.fault.way == "hang":
        return {"ModelTimeoutError"}
    try:
        ask_as(form, client, "hi")
    except Exception as error:
        is_empty = NO_EVENT.search(str(error))
        return {"EmptyStreamError" if is_empty else type(error).__name__}
    return set(SILENT)


def test_the_clients_are_there():
    """What is to be tested is installed: the core always, all clients in a run for them."""
    if os.environ.get("ALL_PROVIDERS"):
        assert (list(CLIENTS), is_installed("deepagents")) == (INSTALLED, True)
    assert set(INSTALLED) >= CORE


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", INSTALLED)
def test_a_healthy_client_answers(
    name: str, form: str, ask_as: Ask, client_at: Any, first: Provider
):
    """With nothing wrong, each client gives its answer, complete and with a finish reason."""
    first.reset(Answer("All is well"))
    deployment = {"model_name": "first", "model": client_at(name, first)}
    gateway = GatewayRunnable(models=[deployment], reject=REJECT)
    assert ask_as(form, gateway, "hi").text == "All is well"
    assert (len(first.requests), first.complaints) == (1, [])


@pytest.mark.parametrize(("name", "case", "form"), REPLACED)
def test_a_broken_provider_is_replaced(
    name: str,
    case: Case,
    form: str,
    ask_as: Ask,
    client_at: Any,
    first: Provider,
    second: Provider,
):
    """The next one answers, the failure is told as what the client raised, and was asked once."""
    first.reset(fault=case.fault)
    second.reset(Answer("from the second"))
    client = client_at(name, first)
    expected = told_by(ask_as, form, client, case)
    first.reset(fault=case.fault)
    gateway = GatewayRunnable(
        models=[
            {"model_name": "first", "model": client, **limits(case, form)},
            {"model_name": "second", "model": client_at("openai", second)},
        ],
        reject=REJECT,
    )
    answer = ask_as(form, gateway, "hi")
    (failure,) = answer.response_metadata["gateway"]["failed"]
    assert answer.text == "from the second"
    assert failure["error"] in expected
    # A busy machine may end a hang before the request is out.
    assert len(first.requests) == 1 or case.fault.way == "hang"
    assert len(second.requests) == 1


@pytest.mark.parametrize(("name", "case", "form"), BEGUN)
def test_a_stream_that_has_begun_is_not_replaced(
    name: str,
    case: Case,
    form: str,
    ask_as: Ask,
    client_at: Any,
    first: Provider,
    second: Provider,
):
    """After the first word a failure is the caller's: nobody else is asked to go on."""
    first.reset(fault=case.fault)
    client = client_at(name, first)
    expected = told_by(ask_as, form, client, case)
    first.reset(fault=case.fault)
    gateway = GatewayRunnable(
        models=[
            {"model_name": "first", "model": client, **limits(case, form)},
            {"model_name": "second", "model": client_at("openai", second)},
        ],
        reject=REJECT,
    )
    with pytest.raises(Exception) as raised:
        ask_as(form, gateway, "hi")
    assert type(raised.value).__name__ in expected
    assert second.requests == []


@pytest.mark.parametrize(("name", "case", "form"), REPLACED)
def test_an_error_says_whether_waiting_helps(
    name: str, case: Case, form: str, ask_as: Ask, client_at: Any, first: Provider
):
    """`is_retryable` is right for every client's way to say it, also after a pickle and a copy."""
    first.reset(fault=case.fault)
    deployment = {"model_name": "first", "model": client_at(name, first), **limits(case, form)}
    with pytest.raises(AllModelsFailedError) as raised:
        ask_as(form, GatewayRunnable(models=[deployment], reject=REJECT), "hi")
    error = raised.value
    expected = SILENT.get(type(error.exceptions[0]).__name__, case.is_retryable)
    assert error.is_retryable is expected
    assert pickle.loads(pickle.dumps(error)).is_retryable is expected
    assert copy.copy(error).is_retryable is expected


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", INSTALLED)
def test_a_wait_that_the_server_asks_for_is_read(
    name: str, form: str, ask_as: Ask, client_at: Any, first: Provider
):
    """A `Retry-After` beyond the policy's patience ends the retries, wherever a client has it."""
    first.reset(fault=Fault("status", status=429, headers={"Retry-After": "60"}))
    gateway = GatewayRunnable(
        models=[{"model_name": "first", "model": client_at(name, first)}],
        retry=RetryPolicy(max_attempts=2, initial_delay=0.001, max_retry_after=30),
    )
    with suppress(AllModelsFailedError):
        ask_as(form, gateway, "hi")
    assert len(first.requests) == (2 if (name, form) in TELLS_NO_RETRY_AFTER else 1)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", [n for n in INSTALLED if CLIENTS[n].dialect in OUT_OF_CREDIT])
def test_without_credit_a_deployment_is_in_cooldown_at_once(
    name: str, form: str, ask_as: Ask, client_at: Any, first: Provider, second: Provider
):
    """It is the account's fault, also where the status is a rate limit's: waiting does not help."""
    first.reset(fault=OUT_OF_CREDIT[CLIENTS[name].dialect])
    gateway = GatewayRunnable(
        models=[
            {"model_name": "first", "model": client_at(name, first)},
            {"model_name": "second", "model": client_at("openai", second)},
        ],
        retry=RetryPolicy(max_attempts=2, initial_delay=0.001),
        cooldown=CooldownPolicy(failure_threshold=3),
    )
    ask_as(form, gateway, "hi")
    ask_as(form, gateway, "hi")
    assert (len(first.requests), len(second.requests)) == (1, 2)


@pytest.mark.parametrize("form", ["stream", "astream"])
def test_a_stored_response_that_has_failed_is_retryable(
    form: str, ask_as: Ask, client_at: Any, first: Provider
):
    """OpenAI's Responses API has a second way to end a stream: an event with the response in it."""
    first.reset(fault=Fault("failed", "opening"))
    deployment = {"model_name": "first", "model": client_at("responses", first)}
    with pytest.raises(AllModelsFailedError) as raised:
        ask_as(form, GatewayRunnable(models=[deployment]), "hi")
    assert raised.value.is_retryable
