"""Who answers in the demo: local servers that speak OpenAI's protocol, or OpenAI itself."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from langchain_openai import ChatOpenAI
from llmock.pytest_plugin import LLMock
from llmock.testing import LLMockServer

NOBODY = "http://127.0.0.1:9/v1"  # the discard port: refused at once


@dataclass
class Provider:
    """A named model and what stands behind it."""

    name: str
    model: ChatOpenAI
    server: LLMock | None = None
    _url: str | None = field(default=None, repr=False)

    def go_down(self) -> None:
        """From now on, answer every request with an error."""
        if self.server is not None:
            self.server.outage()
        else:
            self._aim_at(NOBODY)

    def come_back(self) -> None:
        """Answer again."""
        if self.server is not None:
            self.server.reset().pace(25)
        else:
            self._aim_at(self._url)

    def will_say(self, text: str) -> None:
        """The text of the next answer, where the server is ours."""
        if self.server is not None:
            self.server.reply(text)

    def _aim_at(self, url: str | None) -> None:
        """A real provider cannot be taken down: its client is aimed elsewhere."""
        client = self.model.root_client
        self._url = self._url or str(client.base_url)
        client.base_url = url or self._url


@contextmanager
def open_providers(*, live: bool) -> Iterator[list[Provider]]:
    """Three providers, served on loopback unless live."""
    models = {"cheap": "gpt-4o-mini", "strong": "gpt-4o", "backup": "gpt-4.1-mini"}
    with ExitStack() as stack:
        providers = []
        for name, model in models.items():
            if live:
                providers.append(Provider(name, ChatOpenAI(model=model, max_retries=0)))
                continue
            server = LLMock(stack.enter_context(LLMockServer())).pace(25)
            client = ChatOpenAI(
                model=model, base_url=server.base_url(), api_key="no-key-needed", max_retries=0
            )
            providers.append(Provider(name, client, server))
        yield providers
