"""One log line for each decision worth knowing about."""

import logging
from datetime import datetime

from langchain_model_gateway._logger import logger
from langchain_model_gateway._text import one_line
from langchain_model_gateway.classify import is_wrong_event_loop
from langchain_model_gateway.errors import FailedAttempt, ModelRouterError, SkippedModel
from langchain_model_gateway.listeners import Listener


class Logs(Listener):
    """What a gateway's calls tell the log."""

    __slots__ = ("_has_told_of_loops",)

    def __init__(self) -> None:
        self._has_told_of_loops = False

    def skipped(self, skip: SkippedModel, provider: str) -> None:
        """A deployment may not be asked now."""
        del provider
        logger.debug("skipped %s", skip)

    def failed(self, failure: FailedAttempt, number: int) -> None:
        """A call's attempt of that number has failed."""
        if logger.isEnabledFor(logging.DEBUG):
            logger.debug("failed attempt %d: %s", number, failure)
        # Said once: it comes with each call.
        if not self._has_told_of_loops and is_wrong_event_loop(failure.exception):
            self._has_told_of_loops = True
            logger.warning(
                "%s failed because its client belongs to another event loop: keep one loop a "
                "process, or call batch() in place of asyncio.run() again and again",
                one_line(failure.model_name, 60),
            )

    def gave_up(self, error: ModelRouterError) -> None:
        """A call has no answer."""
        logger.error("%s", error)

    def cooldown_started(
        self, model_name: str, provider: str, seconds: float, until: datetime
    ) -> None:
        """A deployment is in cooldown for so many seconds."""
        del provider, until
        logger.warning("%s is in cooldown for %.3g s", one_line(model_name, 60), seconds)

    def cooldown_ended(self, model_name: str, provider: str) -> None:
        """A deployment has answered again."""
        del provider
        logger.info("%s answers again: its cooldown has ended", one_line(model_name, 60))
