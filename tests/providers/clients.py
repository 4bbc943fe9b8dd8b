"""The table of clients: how each is pointed at a server, asking once per attempt."""

import os
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.util import find_spec
from types import MappingProxyType
from typing import Any, Final, NamedTuple

# Else LiteLLM asks the network for a list of prices when it is imported.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

KEY: Final = "test-key"

Settings = Callable[[str], dict[str, Any]]


def is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # not even the package that it would be in
        return False


def needs(module: str) -> Callable[[Any], Any]:
    """A test that is there only where a module is: none is skipped, so none is forgotten."""
    return lambda test: test if is_installed(module) else None


class Client(NamedTuple):
    """A chat model of one provider package.

    Args:
        dialect: What it speaks.
        package: The module it comes from.
        kind: Its class.
        settings: Its keywords for a server's address.
        binding: What only a call's own keywords can set.
    """

    dialect: str
    package: str
    kind: str
    settings: Settings
    binding: Mapping[str, Any] = MappingProxyType({})

    def at(self, url: str, **more: Any) -> Any:
        """The client of a provider at this address."""
        model = getattr(import_module(self.package), self.kind)(**{**self.settings(url), **more})
        return model.bind(**self.binding) if self.binding else model


def _settings(url_key: str, path: str, model: str, **more: Any) -> Settings:
    """The usual settings, with the name that a client gives to its address."""
    usual = {"model": model, "api_key": KEY, "max_retries": 0, **more}
    return lambda url: {url_key: url + path, **usual}


def _bedrock(url: str) -> dict[str, Any]:
    keys = {"aws_access_key_id": KEY, "aws_secret_access_key": KEY}
    where = {"base_url": url, "region_name": "us-east-1"}
    return {"model": "anthropic.claude-sonnet-4", "max_retries": 0, **where, **keys}


def _cohere(url: str) -> dict[str, Any]:
    # It tears a streamed tool call into pieces.
    whole = {"disable_streaming": "tool_calling"}
    return {"model": "command-a-03-2025", "base_url": url, "cohere_api_key": KEY, **whole}


def _huggingface(url: str) -> dict[str, Any]:
    from langchain_huggingface import HuggingFaceEndpoint  # noqa: PLC0415

    return {"llm": HuggingFaceEndpoint(endpoint_url=f"{url}/v1", huggingfacehub_api_token=KEY)}


def _litellm(url: str) -> dict[str, Any]:
    import litellm  # noqa: PLC0415

    litellm.suppress_debug_info = True
    where = {"model": "deepseek/deepseek-chat", "api_base": f"{url}/v1", "api_key": KEY}
    return {**where, "max_retries": 0, "model_kwargs": {"max_retries": 0}}


def _nvidia(url: str) -> dict[str, Any]:
    return {"model": "m", "base_url": f"{url}/v1", "api_key": KEY}


def _ollama(url: str) -> dict[str, Any]:
    return {"model": "qwen3", "base_url": url}


def _perplexity(url: str) -> dict[str, Any]:
    from perplexity import AsyncPerplexity, Perplexity  # noqa: PLC0415

    once = {"api_key": KEY, "base_url": url, "max_retries": 0}
    clients = {"client": Perplexity(**once), "async_client": AsyncPerplexity(**once)}
    return {"model": "sonar", "api_key": KEY, **clients}


_openai = _settings("base_url", "/v1", "gpt-5")
_responses = _settings("base_url", "/v1", "gpt-5", use_responses_api=True)
_anthropic = _settings("base_url", "", "claude-test")
_gemini = _settings("base_url", "", "gemini-2.5-flash", max_retries=1)
_mistral = _settings("base_url", "/v1", "mistral-large-latest", max_retries=1)
_deepseek = _settings("api_base", "/v1", "deepseek-chat")
_fireworks = _settings("base_url", "", "accounts/fireworks/models/m")
_groq = _settings("base_url", "", "openai/gpt-oss-20b")
_openrouter = _settings("base_url", "/v1", "openai/gpt-5")
_xai = _settings("xai_api_base", "/v1", "grok-4")

_ONCE = {"request_options": {"max_retries": 0}}

CLIENTS: Final = {
    "openai": Client("openai", "langchain_openai", "ChatOpenAI", _openai),
    "responses": Client("responses", "langchain_openai", "ChatOpenAI", _responses),
    "anthropic": Client("anthropic", "langchain_anthropic", "ChatAnthropic", _anthropic),
    "gemini": Client("gemini", "langchain_google_genai", "ChatGoogleGenerativeAI", _gemini),
    "mistral": Client("mistral", "langchain_mistralai", "ChatMistralAI", _mistral),
    "ollama": Client("ollama", "langchain_ollama", "ChatOllama", _ollama),
    "bedrock": Client("bedrock", "langchain_aws", "ChatBedrockConverse", _bedrock),
    "cohere": Client("cohere", "langchain_cohere", "ChatCohere", _cohere, _ONCE),
    "deepseek": Client("compatible", "langchain_deepseek", "ChatDeepSeek", _deepseek),
    "fireworks": Client("compatible", "langchain_fireworks", "ChatFireworks", _fireworks),
    "groq": Client("groq", "langchain_groq", "ChatGroq", _groq),
    "huggingface": Client("compatible", "langchain_huggingface", "ChatHuggingFace", _huggingface),
    "litellm": Client("compatible", "langchain_litellm", "ChatLiteLLM", _litellm),
    "nvidia": Client("compatible", "langchain_nvidia_ai_endpoints", "ChatNVIDIA", _nvidia),
    "openrouter": Client(
        "openrouter", "langchain_openrouter", "ChatOpenRouter", _openrouter, {"retries": None}
    ),
    "perplexity": Client("compatible", "langchain_perplexity", "ChatPerplexity", _perplexity),
    "xai": Client("compatible", "langchain_xai", "ChatXAI", _xai),
}

CORE: Final = {"openai", "responses", "anthropic"}
"""What every run of the tests has; the others are there where their packages are."""

INSTALLED: Final = [name for name, client in CLIENTS.items() if is_installed(client.package)]
