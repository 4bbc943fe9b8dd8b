"""What stands around a model (bindings, chains, fallbacks), and the one walk through it."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from langchain_core.language_models import BaseLanguageModel
from langchain_core.runnables import (
    Runnable,
    RunnableBinding,
    RunnableParallel,
    RunnableSequence,
    RunnableWithFallbacks,
)
from langchain_core.runnables.base import RunnableBindingBase

from langchain_model_gateway._logger import logger
from langchain_model_gateway._text import one_line

AnyRunnable: TypeAlias = Runnable[Any, Any]

# What an earlier binding bound and a later one ends, also where it binds nothing in its place.
_ENDED_BY: Final[Mapping[str, frozenset[str]]] = {
    "bind_tools": frozenset({"tools"}),
    "with_structured_output": frozenset(
        {"tools", "tool_choice", "parallel_tool_calls", "response_format"}
    ),
}

# What the clients call the most tokens of an answer.
_MAX_OUTPUT_KEYS: Final = (
    "max_tokens",
    "max_completion_tokens",
    "max_output_tokens",
    "num_predict",
)

# Wishes that a model can do without, and the clients whose `**kwargs` take them only to fail with
# every call: seen with langchain-aws 1.9, -cohere 0.6, -google-genai 4.4, -huggingface 1.2 and
# -ollama 1.1.
_WISHES: Final = ("parallel_tool_calls", "strict")
_UNKNOWN_TO: Final[Mapping[str, frozenset[str]]] = {
    "langchain_aws": frozenset({"parallel_tool_calls"}),
    "langchain_cohere": frozenset({"parallel_tool_calls", "strict"}),
    "langchain_google_genai": frozenset({"parallel_tool_calls"}),
    "langchain_huggingface": frozenset({"parallel_tool_calls", "strict"}),
    "langchain_ollama": frozenset({"parallel_tool_calls"}),
}


def within(runnable: AnyRunnable) -> Sequence[AnyRunnable]:
    """What a wrapper holds, in the order of its calls; nothing for what is no wrapper."""
    match runnable:
        case RunnableBindingBase():
            return (runnable.bound,)
        case RunnableSequence():
            return runnable.steps
        case RunnableParallel():
            return tuple(runnable.steps__.values())
        case RunnableWithFallbacks():
            return tuple(runnable.runnables)
        case _:
            return ()


def innermost(runnable: AnyRunnable) -> AnyRunnable:
    """The model inside all wrappers; of fallbacks the first one's, of a chain's the last."""
    found = [innermost(each) for each in within(runnable)]
    if not found:
        return runnable
    if isinstance(runnable, RunnableWithFallbacks):
        return found[0]
    models = [each for each in found if isinstance(each, BaseLanguageModel)]
    return (models or found)[-1]


def max_output(runnable: AnyRunnable) -> int | None:
    """The most tokens that a model answers with, as its bindings or the model itself say."""
    bound = runnable.kwargs if isinstance(runnable, RunnableBindingBase) else {}
    own = [bound.get(key) for key in _MAX_OUTPUT_KEYS]
    if not within(runnable):
        own += [getattr(runnable, key, None) for key in _MAX_OUTPUT_KEYS]
    found = next((each for each in own if isinstance(each, int) and each > 0), None)
    if found is not None:
        return found
    return next((most for each in within(runnable) if (most := max_output(each))), None)


@dataclass(frozen=True, slots=True)
class Adaption:
    """A model's `bind`, `bind_tools` or `with_structured_output`, made inside what is around it.

    LangChain's own wrappers forward these and lose their keywords, or don't forward them at all.

    Args:
        model_name: The deployment it is for, as the log names it.
        method: Which of the two.
        args: The method's arguments.
        kwargs: The method's keywords; wishes that a client does not take are left out for it.
    """

    model_name: str
    method: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    def of(self, runnable: AnyRunnable, keywords: Mapping[str, Any]) -> AnyRunnable:
        """The runnable with the method applied where the chat model is.

        Args:
            runnable: The model, in its wrappers.
            keywords: What the bindings around have bound; the method's own win.
        """
        match runnable:
            case RunnableBindingBase():
                bound = self.of(runnable.bound, {**self._staying(runnable.kwargs), **keywords})
                rest = runnable.model_copy(update={"bound": bound, "kwargs": {}})
                return rest if _does_something(rest) else bound
            case RunnableWithFallbacks():
                first, *others = (self.of(each, keywords) for each in runnable.runnables)
                return runnable.model_copy(update={"runnable": first, "fallbacks": others})
            case RunnableSequence():
                *before, last = runnable.steps
                chain: AnyRunnable = RunnableSequence(
                    *before, self.of(last, {}), name=runnable.name
                )
                return chain.bind(**keywords) if keywords else chain
            case _:
                return _with_keywords(self._called_on(runnable), keywords)

    def _staying(self, keywords: Mapping[str, Any]) -> dict[str, Any]:
        """What an earlier binding bound and this one leaves alone."""
        ended = _ENDED_BY.get(self.method, frozenset()) | self.kwargs.keys()
        if "tools" in keywords:
            ended |= {"tool_choice"}  # it was a choice among those
        return {key: value for key, value in keywords.items() if key not in ended}

    def _called_on(self, model: AnyRunnable) -> AnyRunnable:
        method = getattr(model, self.method)
        unknown = [key for key in _WISHES if key in self.kwargs and not _takes(model, method, key)]
        if unknown:
            logger.debug(
                "%s is bound without %s: %s does not take it",
                one_line(self.model_name, 60),
                " and ".join(unknown),
                type(model).__name__,
            )
        taken = {key: value for key, value in self.kwargs.items() if key not in unknown}
        adapted: AnyRunnable = method(*self.args, **taken)
        return adapted


def _takes(model: AnyRunnable, method: Any, keyword: str) -> bool:
    """Whether a client takes this keyword, as its signature and what is known of it tell."""
    parameters = inspect.signature(method).parameters
    if keyword in parameters:
        return True
    packages = {cls.__module__.partition(".")[0] for cls in type(model).__mro__}
    is_open = any(each.kind is each.VAR_KEYWORD for each in parameters.values())
    return is_open and not any(keyword in _UNKNOWN_TO.get(name, ()) for name in packages)


def _does_something(binding: RunnableBindingBase[Any, Any]) -> bool:
    """Whether a binding that binds no keywords has any other use."""
    types = (binding.custom_input_type, binding.custom_output_type)
    return (
        not isinstance(binding, RunnableBinding)
        or bool(binding.config or binding.config_factories)
        or any(each is not None for each in types)
    )


def _with_keywords(runnable: AnyRunnable, keywords: Mapping[str, Any]) -> AnyRunnable:
    """Bind what the model's own binding, maybe the head of a chain, has not bound itself."""
    if not keywords:
        return runnable
    match runnable:
        case RunnableBindingBase():
            return runnable.model_copy(update={"kwargs": {**keywords, **runnable.kwargs}})
        case RunnableSequence():
            first, *rest = runnable.steps
            return RunnableSequence(_with_keywords(first, keywords), *rest, name=runnable.name)
        case RunnableParallel(steps__={"raw": model, **others}):  # with `include_raw=True`
            return RunnableParallel({"raw": _with_keywords(model, keywords), **others})
        case _:
            return runnable.bind(**keywords)
