"""What is built on chat models takes a gateway, over real HTTP."""

from typing import Any

import pytest
from langchain_core.messages import HumanMessage

from langchain_model_gateway import GatewayRunnable

from .clients import needs
from .conftest import UPSTREAM
from .dialects import Answer
from .server import Fault, Provider

pytestmark = UPSTREAM


@needs("deepagents")
@pytest.mark.parametrize("form", ["invoke", "ainvoke"])
def test_a_deep_agent_survives_an_outage(
    form: str, run: Any, client_at: Any, first: Provider, second: Provider
):
    """Its loop, which asks for a `BaseChatModel`, goes on when a provider dies in the middle."""
    from deepagents import create_deep_agent  # noqa: PLC0415 - not everywhere installed

    def weather(city: str) -> str:
        """The weather in a city."""
        first.fault = Fault("status", status=503)
        return f"Sunny in {city}"

    first.reset(Answer(tool="weather"))
    second.reset(Answer("It is sunny"))
    gateway = GatewayRunnable(
        models=[
            {"model_name": "first", "model": client_at("anthropic", first)},
            {"model_name": "second", "model": client_at("openai", second)},
        ]
    )
    agent = create_deep_agent(model=gateway.as_chat_model(), tools=[weather])
    state = getattr(agent, form)({"messages": [HumanMessage("How is the weather in Paris?")]})
    *_, answer = (run(state) if form == "ainvoke" else state)["messages"]
    assert (answer.text, second.complaints) == ("It is sunny", [])
    assert answer.response_metadata["gateway"]["model_name"] == "second"
