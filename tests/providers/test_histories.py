"""A conversation goes on at another provider, whose server takes no block that it does not know."""

from typing import Any

import pytest
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool

from langchain_model_gateway import GatewayRunnable

from .clients import INSTALLED
from .conftest import UPSTREAM, Ask
from .dialects import Answer
from .server import Fault, Provider

pytestmark = UPSTREAM

DOWN = Fault("status", status=503)
# Perplexity's chat models call no tools.
CALLS_TOOLS = [name for name in INSTALLED if name != "perplexity"]
# Bugs of the clients: they do not send again what they themselves streamed, or gave as v1 output.
LOSES_ITS_STREAM = {"cohere", "nvidia"}
LOSES_ITS_V1 = {"cohere", "huggingface"}
LOSERS = LOSES_ITS_STREAM | LOSES_ITS_V1
PAIRS = [
    (starter, finisher)
    for starter in CALLS_TOOLS
    for finisher in CALLS_TOOLS
    if not {starter, finisher} <= LOSERS  # with nobody left to go on
]


@tool
def weather(city: str) -> str:
    """The weather in a city."""
    return f"Sunny in {city}"


@pytest.mark.parametrize("version", [None, "v1"])
@pytest.mark.parametrize("form", ["invoke", "stream"])
@pytest.mark.parametrize(("starter", "finisher"), PAIRS)
def test_a_conversation_goes_on_at_another_provider(
    starter: str,
    finisher: str,
    form: str,
    version: str | None,
    ask_as: Ask,
    client_at: Any,
    first: Provider,
    second: Provider,
):
    """One reasons, calls a tool and dies; the next answers; the one that is back goes on again."""
    first.reset(Answer(tool="weather", reasoning="I should look."))
    second.reset(Answer("It is sunny", reasoning="The tool says so."))
    gateway = GatewayRunnable(
        models=[
            {"model_name": "first", "model": client_at(starter, first, version)},
            {"model_name": "second", "model": client_at(finisher, second, version)},
        ]
    ).bind_tools([weather])

    history: list[Any] = [HumanMessage("How is the weather in Paris?")]
    call = ask_as(form, gateway, history)
    results = [ToolMessage("Sunny", tool_call_id=each["id"]) for each in call.tool_calls]
    history += [call, *results]

    first.reset(fault=DOWN)
    answer = ask_as(form, gateway, history)
    assert (second.complaints, answer.text) == ([], "It is sunny")
    assert answer.response_metadata["gateway"]["model_name"] == "second"

    first.reset(Answer("You are welcome"))
    is_lost = (form == "stream" and starter in LOSES_ITS_STREAM) or (
        version == "v1" and starter in LOSES_ITS_V1
    )
    thanks = ask_as(form, gateway, [*history, answer, HumanMessage("Thanks")])
    assert thanks.response_metadata["gateway"]["model_name"] == ("second" if is_lost else "first")
