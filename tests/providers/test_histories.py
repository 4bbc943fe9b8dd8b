"""A conversation goes on at another provider, whose server takes no block that it does not know."""

from contextlib import suppress
from typing import Any

import pytest
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.runnables import RunnableBinding
from langchain_core.tools import tool

from langchain_model_gateway import GatewayRunnable

from .clients import CLIENTS, INSTALLED, needs
from .conftest import FORMS, FULL, REDUCED, UPSTREAM, Ask
from .dialects import Answer
from .server import Fault, Provider

pytestmark = UPSTREAM

DOWN = Fault("status", status=503)
# Perplexity's chat models call no tools.
CALLS_TOOLS = [name for name in INSTALLED if name != "perplexity"]
# Bugs of the clients, with no gateway in between: what they themselves gave (a tool call, or text
# after reasoning; in which form, or output version) and cannot send again.
CANNOT_READ = {
    ("cohere", "text"),  # sends its own reasoning blocks as they are
    ("cohere", "call", "v1"),  # sends a list of blocks as `tool_plan`, which is a string
    ("huggingface", "call", "v1"),  # sends v1 blocks as they are,
    ("huggingface", "text", "stream", "v1"),  # a streamed one's `index` too
    ("nvidia", "call", "stream"),  # sends the calls of `additional_kwargs`: a stream has none
}
SAID = {
    "call": Answer(tool="weather", reasoning="I should look."),
    "text": Answer("It is sunny", reasoning="The tool says so."),
}
VERSIONS = (None, "v1")
HISTORY_FORMS = FORMS if FULL else REDUCED


def reads_itself(name: str, said: str, form: str, version: str | None) -> bool:
    form = form.removeprefix("a")
    ways = [(), (form,), (version,), (form, version)]
    return CANNOT_READ.isdisjoint((name, said, *way) for way in ways)


def somebody_goes_on(starter: str, finisher: str, form: str, version: str | None) -> bool:
    call = reads_itself(starter, "call", form, version)
    text = reads_itself(finisher, "text", form, version)
    return (call and text) if starter == finisher else (call or text)


CASES = [
    (starter, finisher, form, version)
    for starter in CALLS_TOOLS
    for finisher in CALLS_TOOLS
    for form in HISTORY_FORMS
    for version in VERSIONS
    if somebody_goes_on(starter, finisher, form, version)
]


@tool
def weather(city: str) -> str:
    """The weather in a city."""
    return f"Sunny in {city}"


QUESTION = HumanMessage("How is the weather in Paris?")


def with_tools(client: Any) -> Any:
    """A client, bound or not, with the tool; a binding's own keywords stay."""
    if isinstance(client, RunnableBinding):
        return client.bound.bind_tools([weather]).bind(**client.kwargs)
    return client.bind_tools([weather])


def results(call: Any) -> list[ToolMessage]:
    return [ToolMessage("Sunny", tool_call_id=each["id"]) for each in call.tool_calls]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("said", SAID)
@pytest.mark.parametrize("name", CALLS_TOOLS)
def test_who_cannot_read_what_it_wrote(
    name: str,
    said: str,
    form: str,
    version: str | None,
    ask_as: Ask,
    client_at: Any,
    first: Provider,
):
    """With no gateway, a client goes on with its own conversation, but for the bugs above."""
    first.reset(SAID[said])
    client = with_tools(client_at(name, first, version))
    answer = ask_as(form, client, [QUESTION])
    first.reset()
    with suppress(Exception):
        ask_as(form, client, [QUESTION, answer, *results(answer), HumanMessage("Thanks")])
    is_taken = len(first.requests) == 1 and not first.complaints
    assert is_taken == reads_itself(name, said, form, version)


@needs("langchain_cohere")
def test_cohere_tears_a_streamed_tool_call(ask_as: Ask, first: Provider):
    """Each piece has an id of its own, and so becomes a call; why these tests do not stream it."""
    first.reset(SAID["call"])
    client = CLIENTS["cohere"].at(first.url("cohere"), disable_streaming=False)
    names = [each["name"] for each in ask_as("stream", with_tools(client), [QUESTION]).tool_calls]
    assert names == ["weather", "", "weather"]


@pytest.mark.parametrize(("starter", "finisher", "form", "version"), CASES)
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
    first.reset(SAID["call"])
    second.reset(SAID["text"])
    gateway = GatewayRunnable(
        models=[
            {"model_name": "first", "model": client_at(starter, first, version)},
            {"model_name": "second", "model": client_at(finisher, second, version)},
        ]
    ).bind_tools([weather])

    call = ask_as(form, gateway, [QUESTION])
    history = [QUESTION, call, *results(call)]

    first.reset(fault=DOWN)
    answer = ask_as(form, gateway, history)
    assert (second.complaints, answer.text) == ([], "It is sunny")
    assert answer.response_metadata["gateway"]["model_name"] == "second"

    first.reset(Answer("You are welcome"))
    goes_on = "first" if reads_itself(starter, "call", form, version) else "second"
    thanks = ask_as(form, gateway, [*history, answer, HumanMessage("Thanks")])
    assert thanks.response_metadata["gateway"]["model_name"] == goes_on
