"""What the package does when a later langchain-core has lost one of the names it uses."""

import ast
import asyncio
import functools
import importlib
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import langchain_core.load
import pytest
from langchain_core.callbacks import BaseCallbackHandler, BaseCallbackManager
from langchain_core.language_models import BaseChatModel
from langchain_core.language_models.chat_model_stream import AsyncChatModelStream
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import RunnableLambda
from langchain_core.runnables.config import var_child_runnable_config
from langchain_core.tracers.context import collect_runs

import langchain_model_gateway

PACKAGE = "langchain_model_gateway"
SOURCES = sorted(Path(langchain_model_gateway.__path__[0]).glob("**/*.py"))

V3 = "stream_events(version='v3')"
NAMES = {
    "langchain_core.runnables.config:var_child_runnable_config": "may show attempts beside",
    "langchain_core.tracers.context:_tracing_v2_is_enabled": "10 microseconds longer",
    "langchain_core.tracers.context:_configure_hooks": "10 microseconds longer",
    "langchain_core.tracers._streaming:_StreamingCallbackHandler": "astream_events",
    "langchain_core.language_models.chat_model_stream:ChatModelStream": V3,
    "langchain_core.language_models.chat_model_stream:AsyncChatModelStream": V3,
    "langchain_core.language_models._compat_bridge:chunks_to_events": V3,
    "langchain_core.language_models._compat_bridge:achunks_to_events": V3,
    "langchain_core._api:suppress_langchain_beta_warning": "warning filters",
}
"""Every name, and what the warning says is lost with it."""


def is_our_code(depth: int) -> bool:
    return str(sys._getframe(depth + 1).f_globals.get("__name__")).startswith(f"{PACKAGE}.")


class Model(BaseChatModel):
    """A chat model that hides some of its private names from the gateway."""

    hidden: frozenset[str] = frozenset()

    @property
    def _llm_type(self) -> str:
        return "model"

    def _generate(self, messages: Any, *_: Any, **__: Any) -> ChatResult:
        if messages[0].content == "fail":
            raise ConnectionError("down")
        return ChatResult(generations=[ChatGeneration(message=AIMessage("hi"))])

    def _stream(self, messages: Any, *_: Any, **__: Any) -> Iterator[ChatGenerationChunk]:
        if messages[0].content == "fail":
            raise ConnectionError("down")
        yield ChatGenerationChunk(message=AIMessageChunk("hi"))

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("_get_ls") and name in self.hidden and is_our_code(1):
            return None  # pydantic would look again after an AttributeError
        return super().__getattribute__(name)


class Handler(BaseCallbackHandler):
    """The names of the runs begun."""

    def __init__(self) -> None:
        self.begun: list[str] = []

    def on_chain_start(self, *_: Any, name: str, **__: Any) -> None:
        self.begun.append(name)

    def on_chat_model_start(self, serialized: Any, *_: Any, **__: Any) -> None:
        self.begun.append(serialized["name"])


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Any]]:
    """Imports the package once more, and nobody else sees it."""
    for name in [each for each in sys.modules if each.partition(".")[0] == PACKAGE]:
        monkeypatch.delitem(sys.modules, name)
    yield lambda: importlib.import_module(PACKAGE)
    for name in [each for each in sys.modules if each.partition(".")[0] == PACKAGE]:
        del sys.modules[name]


@pytest.fixture
def lose(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Hides `module:name` from the package; LangChain itself still finds its own."""

    def lose(path: str) -> None:
        home, lost = path.split(":")

        class Poorer(ModuleType):
            def __getattribute__(self, name: str) -> Any:
                if name == lost and is_our_code(1):
                    raise AttributeError(name)
                return super().__getattribute__(name)

        monkeypatch.setattr(importlib.import_module(home), "__class__", Poorer)

    return lose


def gateway_of(package: Any, **fields: Any) -> Any:
    models = [{"model_name": name, "model": Model(**fields)} for name in ("weak", "strong")]
    return package.GatewayRunnable(models=models)


def call_in_every_form(gateway: Any, config: Any = None) -> list[Any]:
    async def read() -> list[Any]:
        return [chunk async for chunk in gateway.astream("x", config)]

    answers = [
        gateway.invoke("x", config),
        asyncio.run(gateway.ainvoke("x", config)),
        *gateway.stream("x", config),
        *asyncio.run(read()),
    ]
    return [answer.content for answer in answers if answer.content]


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == PACKAGE]


@pytest.mark.parametrize("path", NAMES)
def test_without_a_name_the_package_is_imported_and_called(
    fresh: Callable[[], Any],
    lose: Callable[[str], None],
    caplog: pytest.LogCaptureFixture,
    path: str,
) -> None:
    """Plain and traced calls go on in every form; if there is a warning, it tells the loss."""
    lose(path)
    gateway, handler = gateway_of(fresh()), Handler()
    assert call_in_every_form(gateway) == ["hi"] * 4
    assert call_in_every_form(gateway, {"callbacks": [handler]}) == ["hi"] * 4
    assert handler.begun == ["GatewayRunnable", "Model"] * 4
    warnings = warnings_of(caplog)
    assert len(warnings) <= 1
    assert all(path in warning and NAMES[path] in warning for warning in warnings)


@pytest.mark.parametrize("path", [path for path in NAMES if "tracers.context" in path])
def test_without_the_quick_look_listeners_are_still_found(
    fresh: Callable[[], Any],
    lose: Callable[[str], None],
    caplog: pytest.LogCaptureFixture,
    path: str,
) -> None:
    """LangChain is asked for the handlers in its public, slower way."""
    lose(path)
    gateway = gateway_of(fresh())
    with collect_runs() as collected:
        gateway.invoke("x")
    assert [run.name for run in collected.traced_runs] == ["GatewayRunnable"]
    assert len(warnings_of(caplog)) == 1


def test_without_the_context_variable_a_chain_still_hands_its_handlers_on(
    fresh: Callable[[], Any], lose: Callable[[str], None], caplog: pytest.LogCaptureFixture
) -> None:
    """The enclosing run is found in the public way, also where no config is handed on."""
    lose("langchain_core.runnables.config:var_child_runnable_config")
    gateway, handler = gateway_of(fresh()), Handler()

    def step(text: str) -> Any:
        return gateway.invoke(text)

    RunnableLambda(step).invoke("x", {"callbacks": [handler]})
    assert handler.begun == ["step", "GatewayRunnable", "Model"]
    assert len(warnings_of(caplog)) == 1
    assert var_child_runnable_config.get() is None


@pytest.mark.parametrize("path", [path for path, loss in NAMES.items() if loss == V3])
def test_without_a_part_of_typed_events_the_error_says_so(
    fresh: Callable[[], Any],
    lose: Callable[[str], None],
    caplog: pytest.LogCaptureFixture,
    path: str,
) -> None:
    """Only `stream_events(version="v3")` stops working, once with a warning."""
    lose(path)
    chat = gateway_of(fresh()).as_chat_model()
    assert call_in_every_form(chat) == ["hi"] * 4
    for _ in range(2):
        with pytest.raises(NotImplementedError, match=r"v3.*langchain-core"):
            chat.stream_events("x", version="v3")
    assert len(warnings_of(caplog)) == 1


def test_without_the_producers_place_an_async_typed_stream_still_streams(
    fresh: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The task that fills the stream is started, even where the stream has no place for it."""
    plain = AsyncChatModelStream.__init__

    def init(self: Any, **kwargs: Any) -> None:
        plain(self, **kwargs)
        del self._producer_task

    monkeypatch.setattr(AsyncChatModelStream, "__init__", init)
    chat = gateway_of(fresh()).as_chat_model()

    async def read() -> str:
        stream = await chat.astream_events("x", version="v3")
        return "".join([part async for part in stream.text])

    assert asyncio.run(read()) == "hi"


def test_without_a_providers_name_the_models_class_is_named(fresh: Callable[[], Any]) -> None:
    """An error's text needs some name for who serves the model."""
    package = fresh()
    gateway = gateway_of(package, hidden=frozenset({"_get_ls_params"}))
    with pytest.raises(package.AllModelsFailedError, match=r"weak \(Model\)"):
        gateway.invoke("fail")


def test_a_tracer_that_was_there_first_is_seen_as_long_as_it_is_there(
    fresh: Callable[[], Any],
) -> None:
    """The constructor of callback managers may be wrapped already when the package is imported."""
    handler, plain = Handler(), BaseCallbackManager.__init__

    @functools.wraps(plain)
    def init(self: BaseCallbackManager, *args: Any, **kwargs: Any) -> None:
        plain(self, *args, **kwargs)
        if handler not in self.handlers:
            self.add_handler(handler)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BaseCallbackManager, "__init__", init)
        gateway = gateway_of(fresh())
        gateway.invoke("x")
    gateway.invoke("x")
    assert handler.begun == ["GatewayRunnable", "Model"]


# --- what protects fails closed ------------------------------------------------------------------


def payload_of(package: Any) -> tuple[dict[str, Any], type]:
    """A serialized gateway, and the class of its models."""
    openai = importlib.import_module("langchain_openai").ChatOpenAI
    models = [
        {"model_name": name, "model": openai(model="m", api_key="a-test-key")}
        for name in ("weak", "strong")
    ]
    return package.GatewayRunnable(models=models).serialize(), openai


def test_without_langchains_validator_nothing_is_loaded(
    fresh: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error says what is missing; a validator of the caller's own does not stand in for it."""

    def load(data: Any, *, init_validator: Any = None, **_: Any) -> Any:
        init_validator(("a", "class"), {})
        raise AssertionError("something was constructed")

    monkeypatch.setattr(langchain_core.load, "load", load)
    package = fresh()
    payload, model = payload_of(package)
    for validator in (None, lambda *_: None):
        with pytest.raises(ValueError, match=r"nothing is loaded.*no validator"):
            package.GatewayRunnable.from_serialized(
                payload,
                allowed_objects=[model],
                secrets_map={"OPENAI_API_KEY": "a-test-key"},
                init_validator=validator,
            )


def test_langchains_own_validator_is_asked(fresh: Callable[[], Any]) -> None:
    """What it refuses, a template that executes code, is refused before the caller's is asked."""
    compat = importlib.import_module(fresh().__name__ + "._compat")
    with pytest.raises(ValueError, match="jinja2"):
        compat.default_init_validator(("a", "Template"), {"template_format": "jinja2"})


@pytest.mark.filterwarnings("error")
def test_without_the_quiet_loading_a_gateway_is_loaded_quietly(
    fresh: Callable[[], Any], lose: Callable[[str], None]
) -> None:
    """That LangChain's `load` is in beta is no news to the caller."""
    lose("langchain_core._api:suppress_langchain_beta_warning")
    package = fresh()
    payload, model = payload_of(package)
    loaded = package.GatewayRunnable.from_serialized(
        payload, allowed_objects=[model], secrets_map={"OPENAI_API_KEY": "a-test-key"}
    )
    assert loaded.model_names == ("weak", "strong")


# --- one place for them all ----------------------------------------------------------------------


def test_every_name_is_tried() -> None:
    """The table above is what the module looks up."""
    (compat,) = [source for source in SOURCES if source.name == "_compat.py"]
    nodes = list(ast.walk(ast.parse(compat.read_text())))
    texts = [str(node.value) for node in nodes if isinstance(node, ast.Constant)]
    names = {path.split(":")[1] for path in NAMES}
    assert {t.split(":")[1] for t in texts if re.fullmatch(r"[\w.]+:\w+", t)} == names


def imports_at_run_time(source: Path) -> Iterator[str]:
    """Every name that a module imports, but not what only a type checker sees."""
    tree = ast.parse(source.read_text())
    hidden = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    for node in ast.walk(tree):
        if id(node) in hidden:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.name)
def test_no_module_imports_a_private_name_of_langchain(source: Path) -> None:
    """They are looked up in `_compat`, where their loss is handled."""
    names = [name for name in imports_at_run_time(source) if name.startswith(("lang", "pydantic"))]
    ours = [name for name in names if name.startswith(PACKAGE)]
    private = [name for name in names if "._" in name and name not in ours]
    undocumented = {path.replace(":", ".") for path in NAMES} & set(names)
    assert (private, undocumented) == ([], set())
