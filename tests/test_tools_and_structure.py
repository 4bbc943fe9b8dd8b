"""`bind_tools` and `with_structured_output`: the same gateway, each provider's own form."""

import asyncio
import logging
from typing import Any

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage
from langchain_core.output_parsers import JsonOutputParser
from langchain_core.runnables import RunnableLambda
from langchain_core.utils.function_calling import convert_to_openai_tool
from llmock.pytest_plugin import LLMock
from pydantic import BaseModel

from langchain_model_gateway import (
    AllModelsFailedError,
    CooldownPolicy,
    GatewayRunnable,
    ModelDeployment,
    RejectedAnswerError,
    RetryPolicy,
)

from .conftest import openai_at
from .models import ScriptedChatModel, gateway_over


class Weather(BaseModel):
    """The weather in a city."""

    city: str
    degrees: int


def get_weather(city: str) -> str:
    """Get the weather in a city."""
    return f"21 degrees in {city}"


def call(name: str = "Weather", **args: Any) -> AIMessage:
    return AIMessage("", tool_calls=[{"name": name, "args": args, "id": "call_1"}])


GOOD = call(city="Oslo", degrees=4)
WRONG = call(city="Oslo", degrees="mild")


class OpenAIStyle(ScriptedChatModel):
    """Binds tools as OpenAI takes them."""

    def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
        return self.bind(tools=[convert_to_openai_tool(tool) for tool in tools], **kwargs)


class OtherStyle(ScriptedChatModel):
    """Binds tools in a form of its own."""

    def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
        functions = [convert_to_openai_tool(tool)["function"] for tool in tools]
        return self.bind(functions={each["name"]: each for each in functions}, **kwargs)


def ask(runnable: Any, is_async: bool, question: str = "Weather in Oslo?", **kwargs: Any) -> Any:
    if is_async:
        return asyncio.run(runnable.ainvoke(question, **kwargs))
    return runnable.invoke(question, **kwargs)


both_ways = pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])


# --- binding -------------------------------------------------------------------------------------


def test_each_deployment_gets_its_own_providers_form():
    """Tools are converted by each model, not once for all."""
    weak, strong = OpenAIStyle(replies=[ValueError()]), OtherStyle()
    gateway_over(weak, strong).bind_tools([get_weather]).invoke("hi")
    assert weak.received[0]["tools"][0]["function"]["name"] == "get_weather"
    assert strong.received[0]["functions"].keys() == {"get_weather"}


@pytest.mark.parametrize("method", ["bind_tools", "with_structured_output"])
def test_a_derived_gateway_keeps_everything_but_the_models(method: str):
    """Names, windows, preference, policies and limits are those of the original."""
    original = GatewayRunnable(
        models=[
            ModelDeployment(
                model_name="weak",
                model=OpenAIStyle(),
                time_constraints=[("22:00", "06:00")],
                timeout=9,
                stall_timeout=3,
            ),
            ModelDeployment(model_name="strong", model=OtherStyle()),
        ],
        model_preference="strong",
        strict_preference=True,
        exceptions_to_handle=(ValueError,),
        retry=RetryPolicy(max_attempts=2),
        cooldown=CooldownPolicy(),
        timeout=60,
        reject=("empty",),
    )
    derived = getattr(original, method)([Weather] if method == "bind_tools" else Weather)
    assert type(derived) is GatewayRunnable
    assert derived.model_copy(update={"models": original.models}) == original
    for before, after in zip(original.models, derived.models, strict=True):
        assert after.model is not before.model
        assert dict(after) | {"model": None} == dict(before) | {"model": None}


@both_ways
def test_derived_gateways_share_one_health(is_async: bool):
    """What one learns of a dead deployment, all know."""
    weak, strong = OpenAIStyle(replies=[ConnectionError()]), OpenAIStyle(replies=[GOOD])
    original = gateway_over(weak, strong, cooldown=CooldownPolicy(failure_threshold=1))
    with_tools = original.bind_tools([get_weather])
    structured = original.with_structured_output(Weather)
    ask(with_tools, is_async)
    assert ask(structured, is_async) == Weather(city="Oslo", degrees=4)
    ask(original, is_async)
    assert len(weak.calls) == 1
    assert original.explain().deferred[0].model_name == "weak"


@pytest.mark.parametrize("method", ["bind_tools", "with_structured_output"])
def test_a_deployment_that_cannot_is_refused_by_name(method: str):
    """The error says which deployment, which method and which class, before any call."""
    gateway = gateway_over(OpenAIStyle(), GenericFakeChatModel(messages=iter([])))
    argument = [Weather] if method == "bind_tools" else Weather
    with pytest.raises(NotImplementedError, match=rf"'strong' cannot {method}: GenericFakeChat"):
        getattr(gateway, method)(argument)


def test_a_plain_runnable_cannot_bind_tools():
    """It could not be told of the tools, so it is refused rather than asked without them."""
    gateway = gateway_over(OpenAIStyle(), RunnableLambda(lambda _: AIMessage("hi")))
    with pytest.raises(NotImplementedError, match="'strong' cannot bind_tools: RunnableLambda"):
        gateway.bind_tools([get_weather])


@pytest.mark.parametrize("method", ["bind_tools", "with_structured_output"])
def test_a_preference_among_the_settings_is_the_gateways_own(method: str):
    """An agent's `model_settings` end up in `bind_tools`; no model ever sees the preference."""
    weak, strong = OpenAIStyle(replies=[GOOD]), OpenAIStyle(replies=[GOOD])
    argument = [Weather] if method == "bind_tools" else Weather
    bound = getattr(gateway_over(weak, strong), method)(argument, model_preference="strong")
    bound.invoke("hi")
    assert bound.model_preference == "strong"
    assert not weak.calls
    assert "model_preference" not in strong.received[0]


def test_other_settings_reach_every_model():
    """Whatever else is given to `bind_tools` is for the models."""
    weak, strong = OpenAIStyle(replies=[ValueError()]), OtherStyle()
    gateway_over(weak, strong).bind_tools([get_weather], tool_choice="any").invoke("hi")
    assert weak.received[0]["tool_choice"] == strong.received[0]["tool_choice"] == "any"


def test_prefer_survives_a_later_binding():
    """`prefer` is a default of the gateway, unlike `bind`'s keyword."""
    weak, strong = OpenAIStyle(), OpenAIStyle()
    gateway_over(weak, strong).prefer("strong").bind_tools([get_weather]).invoke("hi")
    assert (len(weak.calls), len(strong.calls)) == (0, 1)


# --- the last binding wins -----------------------------------------------------------------------


def get_time(city: str) -> str:
    """Get the time in a city."""
    return f"noon in {city}"


def tool_names(received: dict[str, Any]) -> list[str]:
    return [tool["function"]["name"] for tool in received.get("tools", [])]


BOUND_BEFORE = {
    "by the gateway": lambda model: gateway_over(model, OpenAIStyle()).bind_tools(
        [get_weather], tool_choice="get_weather"
    ),
    "by the deployment": lambda model: gateway_over(
        model.bind_tools([get_weather], tool_choice="get_weather"), OpenAIStyle()
    ),
    "by keyword": lambda model: gateway_over(
        model.bind(tools=[convert_to_openai_tool(get_weather)]), OpenAIStyle()
    ),
    "below a retry": lambda model: gateway_over(
        model.bind_tools([get_weather]).with_retry(), OpenAIStyle()
    ),
    "below fallbacks": lambda model: gateway_over(
        model.bind_tools([get_weather]).with_fallbacks([OpenAIStyle()]), OpenAIStyle()
    ),
    "in a chain": lambda model: gateway_over(
        RunnableLambda(lambda text: text) | model.bind_tools([get_weather]), OpenAIStyle()
    ),
    "in a gateway within": lambda model: gateway_over(
        gateway_over(model).bind(tools=[convert_to_openai_tool(get_weather)]), OpenAIStyle()
    ),
}
bound_before = pytest.mark.parametrize("bound", BOUND_BEFORE.values(), ids=BOUND_BEFORE)


@both_ways
@bound_before
def test_the_last_tools_win(bound: Any, is_async: bool):
    """Nothing is left of the tools that were bound before, nor of the choice among them."""
    model = OpenAIStyle()
    ask(bound(model).bind_tools([get_time]), is_async)
    assert tool_names(model.received[0]) == ["get_time"]
    assert "tool_choice" not in model.received[0]


@both_ways
@bound_before
@pytest.mark.parametrize("include_raw", [False, True], ids=["parsed", "raw"])
def test_structured_output_wins_over_tools(bound: Any, include_raw: bool, is_async: bool):
    """The model is asked for the schema, not for the tools that were bound before."""
    model = OpenAIStyle(replies=[GOOD])
    structured = bound(model).with_structured_output(Weather, include_raw=include_raw)
    answer = ask(structured, is_async)
    assert (answer["parsed"] if include_raw else answer) == Weather(city="Oslo", degrees=4)
    assert tool_names(model.received[0]) == ["Weather"]
    assert model.received[0]["tool_choice"] == "any"


class AsJSON(ScriptedChatModel):
    """Gives structured output by a keyword of its own, with no tool."""

    def with_structured_output(self, schema: Any, **kwargs: Any) -> Any:
        return self.bind(format="json") | JsonOutputParser()


@both_ways
def test_nothing_about_tools_survives_structured_output(is_async: bool):
    """What structured output sets nothing in place of is gone too; other keywords stay."""
    model = AsJSON(replies=['{"city": "Oslo"}'])
    bound = model.bind(
        tools=[{}], tool_choice="any", parallel_tool_calls=False, response_format={}, stop=["END"]
    )
    structured = gateway_over(bound, OpenAIStyle()).with_structured_output(Weather)
    assert ask(structured, is_async) == {"city": "Oslo"}
    assert model.received[0] == {"format": "json", "stop": ["END"]}


def test_what_a_later_binding_sets_replaces_the_old():
    """Also where the deployment is a gateway, whose own deployments are bound within."""
    model = OpenAIStyle()
    for deployment in (model, gateway_over(model)):
        bound = deployment.bind(parallel_tool_calls=True, seed=1, stop=["END"])
        gateway = gateway_over(bound, OpenAIStyle())
        gateway.bind_tools([get_time], parallel_tool_calls=False, seed=2).invoke("hi")
        settings = {k: v for k, v in model.received[-1].items() if k != "tools"}
        assert settings == {"parallel_tool_calls": False, "seed": 2, "stop": ["END"]}


@pytest.mark.parametrize("include_raw", [False, True], ids=["parsed", "raw"])
def test_a_bindings_other_keywords_and_config_stay(include_raw: bool):
    """`stop`, tags and a retry outlive structured output, wherever it puts the model."""
    model = OpenAIStyle(replies=[ValueError(), GOOD])
    retrying = model.with_retry(stop_after_attempt=2, wait_exponential_jitter=False)
    bound = retrying.bind(stop=["END"]).with_config(tags=["mine"])
    structured = gateway_over(bound, OpenAIStyle()).with_structured_output(
        Weather, include_raw=include_raw
    )
    tags = TagsSeen()
    structured.invoke("hi", {"callbacks": [tags]})
    assert [received["stop"] for received in model.received] == [["END"]] * 2
    assert tags.seen
    assert all("mine" in each for each in tags.seen)


class TagsSeen(BaseCallbackHandler):
    """Notes the tags of the models' runs."""

    def __init__(self) -> None:
        self.seen: list[list[str]] = []

    def on_chat_model_start(self, *args: Any, tags: Any = None, **kwargs: Any) -> None:
        self.seen.append(tags)


def test_binding_again_and_again_adds_no_layer():
    """A loop may bind anew for every turn."""
    once = gateway_over(OpenAIStyle(), OpenAIStyle()).bind_tools([get_time])
    again = once.bind_tools([get_weather]).bind_tools([get_time])
    assert again == once


@both_ways
def test_fallbacks_around_a_gateway_are_bound_with_it(is_async: bool):
    """LangChain binds what an annotation says gives a Runnable, and forgets the fallbacks else."""
    dead, spare = OpenAIStyle(replies=[ValueError()]), OpenAIStyle(replies=[GOOD])
    whole = gateway_over(dead, dead).with_fallbacks([spare])
    assert ask(whole.bind_tools([get_time]), is_async) == GOOD
    assert tool_names(spare.received[0]) == ["get_time"]
    assert ask(whole.with_structured_output(Weather), is_async).city == "Oslo"
    face = gateway_over(dead, dead).as_chat_model().with_fallbacks([spare])
    assert ask(face.bind_tools([get_time]), is_async) == GOOD


# --- what a client takes -------------------------------------------------------------------------


class Picky(ScriptedChatModel):
    """Its `bind_tools` names all it takes."""

    def bind_tools(self, tools: Any, *, tool_choice: Any = None) -> Any:
        return self.bind(tools=[convert_to_openai_tool(tool) for tool in tools])


def of_package(package: str, model_class: type[ScriptedChatModel]) -> ScriptedChatModel:
    """A model of a class that a provider's package defines."""
    return type("ChatTheirs", (model_class,), {"__module__": f"{package}.chat_models"})()


@pytest.mark.parametrize(
    ("package", "unknown"),
    [
        ("langchain_aws", {"parallel_tool_calls"}),
        ("langchain_cohere", {"parallel_tool_calls", "strict"}),
        ("langchain_google_genai", {"parallel_tool_calls"}),
        ("langchain_groq", set()),
        ("langchain_huggingface", {"parallel_tool_calls", "strict"}),
        ("langchain_mistralai", set()),
        ("langchain_ollama", {"parallel_tool_calls"}),
    ],
)
def test_a_client_is_bound_with_what_it_takes(package: str, unknown: set[str]):
    """Some take any keyword when bound and fail with it in every call."""
    model, wishes = of_package(package, OpenAIStyle), {"parallel_tool_calls": False, "strict": True}
    gateway_over(model, OpenAIStyle()).bind_tools([get_time], **wishes).invoke("hi")
    assert wishes.keys() - model.received[0].keys() == unknown


def test_a_wish_that_a_signature_does_not_take_is_left_out_with_one_debug_line(
    caplog: pytest.LogCaptureFixture,
):
    """The others get it, and the log says who went without."""
    caplog.set_level("DEBUG", "langchain_model_gateway")
    picky, free = Picky(replies=[ValueError()]), OpenAIStyle()
    bound = gateway_over(picky, free).bind_tools([get_time], parallel_tool_calls=False, strict=True)
    assert caplog.record_tuples == [
        (
            "langchain_model_gateway",
            logging.DEBUG,
            "weak is bound without parallel_tool_calls and strict: Picky does not take it",
        )
    ]
    bound.invoke("hi")
    assert tool_names(picky.received[0]) == ["get_time"]
    assert free.received[0]["strict"] is True


def test_a_keyword_that_is_no_mere_wish_is_not_left_out():
    """A typo is the caller's to see."""
    with pytest.raises(TypeError, match="tool_choise"):
        gateway_over(Picky(), Picky()).bind_tools([get_time], tool_choise="any")


# --- what a deployment may be --------------------------------------------------------------------


@pytest.mark.parametrize("method", ["bind_tools", "with_structured_output"])
def test_a_bound_deployment_keeps_its_earlier_keywords(method: str):
    """LangChain's own binding would forget `stop` here."""
    model = OpenAIStyle(replies=[GOOD])
    gateway = gateway_over(model.bind(stop=["END"]).with_config(tags=["mine"]), OpenAIStyle())
    getattr(gateway, method)([Weather] if method == "bind_tools" else Weather).invoke("hi")
    assert model.received[0]["stop"] == ["END"]
    assert model.received[0]["tools"][0]["function"]["name"] == "Weather"


def test_a_deployment_with_retry_keeps_it():
    """`with_retry()` has no `bind_tools` of its own; the retry stays around the bound model."""
    model = OpenAIStyle(replies=[ValueError(), GOOD])
    retrying = model.with_retry(stop_after_attempt=2, wait_exponential_jitter=False)
    answer = gateway_over(retrying, OpenAIStyle()).with_structured_output(Weather).invoke("hi")
    assert answer == Weather(city="Oslo", degrees=4)
    assert len(model.calls) == 2


def test_a_chain_deployment_keeps_its_earlier_steps():
    """In a chain the last step is the model, and only it gets the tools."""
    model = OpenAIStyle(replies=[GOOD])
    chain = RunnableLambda(lambda text: [HumanMessage(f"Politely: {text}")]) | model
    gateway = gateway_over(chain, OpenAIStyle())
    assert gateway.bind_tools([Weather]).invoke("hi").tool_calls[0]["name"] == "Weather"
    assert gateway.with_structured_output(Weather).invoke("hi").city == "Oslo"
    assert [messages[0].content for messages in model.calls] == ["Politely: hi"] * 2
    assert all("tools" in received for received in model.received)


def test_a_deployment_with_fallbacks_binds_each_of_them():
    """LangChain's fallbacks inside a deployment all get the tools."""
    first, second = OpenAIStyle(replies=[ValueError()]), OpenAIStyle(replies=[GOOD])
    gateway = gateway_over(first.with_fallbacks([second]), OpenAIStyle())
    assert gateway.with_structured_output(Weather).invoke("hi").degrees == 4
    assert "tools" in first.received[0]
    assert "tools" in second.received[0]


def test_a_gateway_in_a_gateway_binds_its_own_deployments():
    """A gateway is a deployment like any other."""
    first, second = OpenAIStyle(replies=[ValueError()]), OpenAIStyle(replies=[GOOD])
    outer = gateway_over(gateway_over(first, second), OpenAIStyle())
    assert outer.with_structured_output(Weather).invoke("hi").city == "Oslo"
    assert "tools" in second.received[0]


# --- output that does not do ---------------------------------------------------------------------


@both_ways
@pytest.mark.parametrize("reply", [WRONG, AIMessage("It is mild.")], ids=["wrong", "no tool call"])
def test_output_that_does_not_parse_falls_back(reply: AIMessage, is_async: bool):
    """A wrong type and a missing tool call are failures like any other."""
    weak, strong = OpenAIStyle(replies=[reply]), OpenAIStyle(replies=[GOOD])
    structured = gateway_over(weak, strong).with_structured_output(Weather)
    assert ask(structured, is_async) == Weather(city="Oslo", degrees=4)
    assert (len(weak.calls), len(strong.calls)) == (1, 1)


@both_ways
def test_when_no_output_parses_the_error_says_of_each_why(is_async: bool):
    """Both failures are in the error, and none of them quotes a model's answer."""
    models = OpenAIStyle(replies=[AIMessage("secret")]), OpenAIStyle(replies=[AIMessage("secret")])
    with pytest.raises(AllModelsFailedError) as caught:
        ask(gateway_over(*models).with_structured_output(Weather), is_async)
    assert [failure.model_name for failure in caught.value.failures] == ["weak", "strong"]
    assert all(isinstance(each, RejectedAnswerError) for each in caught.value.exceptions)
    assert "the model called no tool" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_parsers_error_does_not_leak_the_answer_into_the_message():
    """A parser quotes what it could not parse; the gateway's error must not."""
    wrong = call(city="Oslo", degrees="hunter2")
    structured = gateway_over(OpenAIStyle(replies=[wrong]), OpenAIStyle(replies=[wrong]))
    with pytest.raises(AllModelsFailedError) as caught:
        structured.with_structured_output(Weather).invoke("hi")
    assert "hunter2" not in str(caught.value)


def test_unparsable_output_is_not_held_against_a_deployments_health():
    """A model that answers, if badly, is not down."""
    weak, strong = OpenAIStyle(replies=[AIMessage("mild")]), OpenAIStyle(replies=[GOOD])
    gateway = gateway_over(weak, strong, cooldown=CooldownPolicy(failure_threshold=1))
    for _ in range(2):
        gateway.with_structured_output(Weather).invoke("hi")
    assert len(weak.calls) == 2


@both_ways
@pytest.mark.parametrize("reply", [WRONG, AIMessage("It is mild.")], ids=["wrong", "no tool call"])
def test_include_raw_falls_back_on_a_parsing_error(reply: AIMessage, is_async: bool):
    """The raw message that comes with a good answer says who gave it."""
    weak, strong = OpenAIStyle(replies=[reply]), OpenAIStyle(replies=[GOOD])
    structured = gateway_over(weak, strong).with_structured_output(Weather, include_raw=True)
    result = ask(structured, is_async)
    assert result["parsed"] == Weather(city="Oslo", degrees=4)
    assert result["parsing_error"] is None
    assert result["raw"].response_metadata["gateway"] == {
        "model_name": "strong",
        "failed": [{"model_name": "weak", "error": "RejectedAnswerError"}],
    }


def test_the_log_tells_unparsable_output_from_none(caplog: pytest.LogCaptureFixture):
    """Which of the two it was decides what to change: the schema or the prompt."""
    caplog.set_level("DEBUG", "langchain_model_gateway")
    models = OpenAIStyle(replies=[WRONG]), OpenAIStyle(replies=[AIMessage("It is mild.")])
    gateway_over(*models).with_structured_output(Weather, include_raw=True).invoke("hi")
    assert [record.levelname for record in caplog.records] == ["DEBUG", "DEBUG"]
    assert "the output does not parse (ValidationError)" in caplog.messages[0]
    assert "the model called no tool" in caplog.messages[1]


@both_ways
def test_include_raw_gives_the_last_result_when_all_fail(is_async: bool):
    """That is what `include_raw` is for: the caller wants to see it."""
    last = call(city="Rome", degrees="hot")
    structured = gateway_over(OpenAIStyle(replies=[WRONG]), OpenAIStyle(replies=[last]))
    result = ask(structured.with_structured_output(Weather, include_raw=True), is_async)
    assert result["parsed"] is None
    assert result["raw"].tool_calls[0]["args"]["city"] == "Rome"
    assert result["parsing_error"] is not None


def test_include_raw_gives_the_last_result_also_when_a_later_deployment_is_down():
    """The last result there is, not an error instead of it."""
    structured = gateway_over(OpenAIStyle(replies=[WRONG]), OpenAIStyle(replies=[ValueError()]))
    result = structured.with_structured_output(Weather, include_raw=True).invoke("hi")
    assert result["raw"].tool_calls == WRONG.tool_calls


def test_include_raw_raises_when_there_is_no_result_at_all():
    """A provider that is down gave nothing to return."""
    down = gateway_over(OpenAIStyle(replies=[ValueError()]), OpenAIStyle(replies=[ValueError()]))
    with pytest.raises(AllModelsFailedError):
        down.with_structured_output(Weather, include_raw=True).invoke("hi")


def test_a_batch_falls_back_one_by_one():
    """Each input is parsed for itself."""
    weak = OpenAIStyle(replies=[GOOD, WRONG, GOOD])
    strong = OpenAIStyle(replies=[call(city="Rome", degrees=30)])
    structured = gateway_over(weak, strong).with_structured_output(Weather)
    answers = structured.batch(["a", "b", "c"], {"max_concurrency": 1})
    assert [answer.city for answer in answers] == ["Oslo", "Rome", "Oslo"]


def streamed_call(args: str) -> AIMessageChunk:
    chunk = {"name": "Weather", "args": args, "id": "call_1", "index": 0}
    return AIMessageChunk("", tool_call_chunks=[chunk])


@pytest.mark.parametrize("reply", [["It ", "is mild."], [ValueError()]], ids=["no tool", "down"])
async def test_a_structured_stream_falls_back_until_it_has_begun(reply: list[Any]):
    """A stream that yields no data is an empty one."""
    good = [streamed_call('{"city": "Oslo", "degrees": 4}')]

    def structured() -> GatewayRunnable:
        models = OpenAIStyle(replies=[reply]), OpenAIStyle(replies=[good])
        return gateway_over(*models).with_structured_output(Weather)

    expected = Weather(city="Oslo", degrees=4)
    assert list(structured().stream("hi"))[-1] == expected
    assert [chunk async for chunk in structured().astream("hi")][-1] == expected


# --- over HTTP -----------------------------------------------------------------------------------


@pytest.fixture
def real(weak: LLMock, strong: LLMock) -> GatewayRunnable:
    clients = openai_at(weak.base_url()), openai_at(strong.base_url(), model="gpt-4o")
    return gateway_over(*clients)


@both_ways
def test_tools_travel_to_whoever_answers(
    real: GatewayRunnable, weak: LLMock, strong: LLMock, is_async: bool
):
    """The second provider is offered the same tools as the first."""
    weak.fail(503)
    strong.call_tool("get_weather", {"city": "Oslo"})
    answer = ask(real.bind_tools([get_weather]), is_async)
    assert answer.tool_calls[0]["args"] == {"city": "Oslo"}
    assert answer.response_metadata["gateway"]["model_name"] == "strong"
    offered = [api.last_request.body["tools"] for api in (weak, strong)]
    assert offered[0] == offered[1]


@both_ways
@pytest.mark.parametrize("method", ["json_schema", "function_calling", "json_mode"])
def test_every_method_of_structured_output_falls_back(
    real: GatewayRunnable, weak: LLMock, strong: LLMock, method: str, is_async: bool
):
    """Whatever way the schema goes out, prose that comes back is no answer."""
    weak.reply("It is mild.")
    if method == "function_calling":
        strong.call_tool("Weather", {"city": "Oslo", "degrees": 4})
    else:
        strong.reply('{"city": "Oslo", "degrees": 4}')
    structured = real.with_structured_output(Weather, method=method)
    assert ask(structured, is_async, "Weather in Oslo, as JSON") == Weather(city="Oslo", degrees=4)
    assert len(weak.requests) == len(strong.requests) == 1


@pytest.mark.parametrize("method", ["json_schema", "function_calling", "json_mode"])
@pytest.mark.parametrize("include_raw", [False, True], ids=["parsed", "raw"])
def test_failures_name_the_provider_and_not_the_parser(
    real: GatewayRunnable, weak: LLMock, strong: LLMock, method: str, include_raw: bool
):
    """The model at the heart of the chain that structured output is made of has failed."""
    weak.fail(401)
    strong.fail(503)
    structured = real.with_structured_output(Weather, method=method, include_raw=include_raw)
    with pytest.raises(AllModelsFailedError, match=r"weak \(openai\).*strong \(openai\)"):
        structured.invoke("Weather in Oslo, as JSON")


@both_ways
@pytest.mark.parametrize("method", ["json_schema", "function_calling", "json_mode"])
@pytest.mark.parametrize("said", ["hunter2", '{"city": "hunter2", "degrees": "hunter2"}'])
def test_no_answer_is_quoted_in_an_error_or_a_log(
    real: GatewayRunnable,
    weak: LLMock,
    strong: LLMock,
    method: str,
    said: str,
    is_async: bool,
    caplog: pytest.LogCaptureFixture,
):
    """Parsers quote what they could not parse; it may be private."""
    caplog.set_level("DEBUG", "langchain_model_gateway")
    for api in (weak, strong):
        api.reply(said)
    structured = real.with_structured_output(Weather, method=method)
    with pytest.raises(AllModelsFailedError) as caught:
        ask(structured, is_async, "Weather in Oslo, as JSON")
    assert "hunter2" not in str(caught.value)
    assert "hunter2" not in repr(caught.value.failures)
    own = [each.getMessage() for each in caplog.records if each.name.startswith("langchain_model")]
    assert own
    assert "hunter2" not in "".join(own)


@both_ways
def test_include_raw_over_http(real: GatewayRunnable, weak: LLMock, strong: LLMock, is_async: bool):
    """A broken tool call falls back; when both break, the second one comes back."""
    structured = real.with_structured_output(Weather, method="function_calling", include_raw=True)
    weak.break_tool_call()
    strong.call_tool("Weather", {"city": "Oslo", "degrees": 4})
    result = ask(structured, is_async)
    assert result["parsed"] == Weather(city="Oslo", degrees=4)
    assert result["raw"].response_metadata["gateway"]["failed"][0]["model_name"] == "weak"

    weak.reply("It is mild.")
    strong.reply("It is hot.")
    result = ask(structured, is_async)
    assert result["raw"].content == "It is hot."
    assert result["parsed"] is None


# langchain-openai dumps a parsed chunk in a way that pydantic warns about.
@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings:UserWarning")
@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
async def test_a_structured_stream_over_http(real: GatewayRunnable, weak: LLMock, method: str):
    """A provider that is down costs a streamed answer nothing but the attempt."""
    structured = real.with_structured_output(Weather, method=method)
    weak.fail(500, times=2)
    assert isinstance(list(structured.stream("hi"))[-1], Weather)
    assert isinstance([chunk async for chunk in structured.astream("hi")][-1], Weather)
