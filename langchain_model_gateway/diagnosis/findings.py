"""What is found, and what it is found in."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from langchain_model_gateway._text import one_line
from langchain_model_gateway.balance import Balance
from langchain_model_gateway.deployment import ModelDeployment
from langchain_model_gateway.policies import CooldownPolicy, HedgePolicy, RetryPolicy


class Finding(NamedTuple):
    """Something that would hurt in production.

    Attributes:
        code: What kind of thing, for programs.
        model_names: The deployments it is about.
        message: What it is and what it costs.
        advice: What to do.
    """

    code: str
    model_names: tuple[str, ...]
    message: str
    advice: str

    def __str__(self) -> str:
        names = ", ".join(one_line(name, 60) for name in self.model_names)
        return f"{self.code} ({names}): {self.message}. {self.advice}."


class Findings(list[Finding]):
    """A list of findings that shows itself as a table."""

    def __str__(self) -> str:
        from langchain_model_gateway.display import findings_text  # noqa: PLC0415 - only when shown

        return findings_text(self)

    def _repr_html_(self) -> str:
        from langchain_model_gateway.display import findings_html  # noqa: PLC0415 - only when shown

        return findings_html(self)


@dataclass(frozen=True, slots=True)
class Setup:
    """What is examined: the deployments, the rules for their calls, and the moment."""

    models: Sequence[ModelDeployment]
    now: datetime
    retry: RetryPolicy | None
    cooldown: CooldownPolicy | None
    timeout: float | None
    exceptions_to_handle: tuple[type[BaseException], ...]
    balance: Balance | None
    max_wait: float | None
    hedge: HedgePolicy | None
    fallback: bool
    shares_state: bool

    @property
    def names(self) -> tuple[str, ...]:
        """The deployments' names."""
        return tuple(deployment.model_name for deployment in self.models)


def about(
    models: Sequence[ModelDeployment], code: str, message: str, advice: str
) -> Iterator[Finding]:
    """One finding about all of these, if there are any."""
    if models:
        yield Finding(code, tuple(each.model_name for each in models), message, advice)
