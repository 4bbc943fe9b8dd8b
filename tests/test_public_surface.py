"""What the package shows to the outside, and what it costs to import."""

import importlib
import inspect
import json
import pkgutil
import subprocess
import sys
from importlib.metadata import metadata, requires
from pathlib import Path
from types import ModuleType

import pytest
from langchain_core.load.serializable import Serializable
from packaging.requirements import Requirement
from packaging.version import Version

import langchain_model_gateway

PACKAGE = "langchain_model_gateway"
DISTRIBUTION = "langchain-model-gateway"

# What any package of LangChain models has imported already; it brings langsmith along.
BASE = "import langchain_core.runnables.base, langchain_core.language_models.chat_models"


def run(code: str) -> str:
    """What a fresh interpreter prints."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def modules() -> list[ModuleType]:
    found = pkgutil.iter_modules(langchain_model_gateway.__path__)
    return [importlib.import_module(f"{PACKAGE}.{each.name}") for each in found]


def test_all_is_exactly_the_public_surface() -> None:
    """`__all__` lists every public name of the root and nothing else, sorted."""
    names = {
        name
        for name, value in vars(langchain_model_gateway).items()
        if not name.startswith("_") and not isinstance(value, ModuleType)
    }
    assert set(langchain_model_gateway.__all__) == names
    assert langchain_model_gateway.__all__ == sorted(names)


def test_the_contract_names_are_there() -> None:
    """Every name the contract fixes is importable from the root."""
    assert set(langchain_model_gateway.__all__) >= {
        "AllModelsFailedError",
        "CooldownPolicy",
        "FailedAttempt",
        "Finding",
        "GatewayChatModel",
        "GatewayRunnable",
        "ModelDeployment",
        "ModelRouterError",
        "NoModelAvailableError",
        "RetryPolicy",
        "RoutingPlan",
        "TimeWindow",
    }


def test_every_error_a_user_can_meet_is_public() -> None:
    """No exception class of the package is reachable only through a module."""
    errors = {
        name
        for module in modules()
        for name, value in vars(module).items()
        if inspect.isclass(value)
        and issubclass(value, BaseException)
        and value.__module__ == module.__name__
    }
    assert errors <= set(langchain_model_gateway.__all__)


@pytest.mark.parametrize("name", langchain_model_gateway.__all__)
def test_every_public_name_is_documented(name: str) -> None:
    """Each public class, and each public method it defines, has a docstring."""
    public = getattr(langchain_model_gateway, name)
    assert public.__doc__
    assert public.__module__.startswith(PACKAGE)
    for method, value in vars(public).items():
        overrides = any(hasattr(base, method) for base in public.__mro__[1:])
        if inspect.isfunction(value) and not method.startswith("_") and not overrides:
            assert value.__doc__, f"{name}.{method}"


def test_serialized_names_are_the_roots() -> None:
    """A serialized class is named by the root, so that modules can move."""
    for name in langchain_model_gateway.__all__:
        public = getattr(langchain_model_gateway, name)
        if issubclass(public, Serializable):
            assert public.lc_id() == [PACKAGE, name]


def imported(code: str, base: str = BASE) -> set[str]:
    """The packages imported after `code`, without the standard library and what `base` imports."""
    ask = "import json, sys; print(json.dumps(list(sys.modules)))"
    before, after = (
        {name.partition(".")[0] for name in json.loads(run(f"{each}\n{ask}"))}
        for each in (base, code)
    )
    return after - before - sys.stdlib_module_names


def test_importing_brings_in_nothing_else() -> None:
    """The import brings in no provider, langgraph or anything that LangChain's base does not."""
    assert imported(f"import {PACKAGE}") == {PACKAGE}


def test_a_call_brings_in_nothing_else() -> None:
    """Neither do a call, a plan and a picture: nothing that the bare model's call does not."""
    bare = """
from langchain_core.language_models.chat_models import SimpleChatModel
class Echo(SimpleChatModel):
    @property
    def _llm_type(self):
        return "echo"
    def _call(self, messages, **kwargs):
        return messages[-1].text
Echo().invoke("Hello")
"""
    through = f"""{bare}
from {PACKAGE} import GatewayRunnable
gateway = GatewayRunnable(models=[{{"model_name": name, "model": Echo()}} for name in "ab"])
gateway.invoke("Hello")
gateway.explain()
gateway._repr_html_()
"""
    assert imported(through, bare) == {PACKAGE}


def test_each_module_can_be_imported_first() -> None:
    """No module depends on another of the package having been imported before it."""
    run(f"""
import importlib, sys
for name in {[module.__name__ for module in modules()]}:
    for loaded in [each for each in sys.modules if each.startswith("{PACKAGE}")]:
        del sys.modules[loaded]
    importlib.import_module(name)
""")


def test_importing_says_nothing_and_configures_no_log() -> None:
    """The import prints nothing and leaves logging as it was, but for a handler that is none."""
    code = f"""
import logging, {PACKAGE}
logger = logging.getLogger("{PACKAGE}")
assert not logging.root.handlers and logger.level == logging.NOTSET
assert [type(each) for each in logger.handlers] == [logging.NullHandler]
"""
    assert run(code) == ""


def test_metadata_tells_what_is_installed() -> None:
    """The distribution has a version, its licence, and needs a provider only as an extra."""
    told = metadata(DISTRIBUTION)
    assert Version(told["Version"]) >= Version("0.1.0")
    assert told["License-Expression"] == "MIT"
    assert told["Requires-Python"] == ">=3.11"
    assert told.get_all("Provides-Extra") == ["notebook", "openai", "otel", "redis"]
    needed = [Requirement(each) for each in requires(DISTRIBUTION) or []]
    always = {each.name for each in needed if not each.marker}
    assert always == {"langchain-core", "pydantic"}


def test_it_is_typed() -> None:
    """Type checkers are told to read the package's own annotations."""
    assert (Path(langchain_model_gateway.__file__).parent / "py.typed").is_file()
