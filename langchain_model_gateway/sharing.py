"""What processes tell one another of their deployments: tell, don't ask.

Each process decides alone, from what it knows. A thread of its own exchanges news with a store that
they share, so no call ever waits for it. Times travel as seconds from now: processes agree on no
clock.
"""

import os
import weakref
from collections.abc import Iterable, Mapping
from threading import Event, Lock, Thread
from typing import Final, NamedTuple, Protocol, runtime_checkable

from langchain_model_gateway._logger import logger
from langchain_model_gateway.admission import Moment

_MOST_BACKOFF: Final = 5.0


class LimitNews(NamedTuple):
    """News of one limit, in seconds in which what was taken flows off.

    Attributes:
        taken: What was taken since the last exchange; less than 0 if more was paid back.
        least: What is taken at least, because the provider said so; 0 if it did not.
    """

    taken: float = 0.0
    least: float = 0.0


class CircuitNews(NamedTuple):
    """What is known of a deployment's cooldown.

    The higher generation wins; of the same, the end of a cooldown wins.

    Attributes:
        generation: How many cooldowns there were.
        cooldown: The seconds of the present one; 0 if there is none.
        left: The seconds until it ends.
        probe: The seconds for which one process alone may probe; 0 if any may. It is the first to
            ask for it: who probes, or began the cooldown. So not all probe when it is over.
    """

    generation: int = 0
    cooldown: float = 0.0
    left: float = 0.0
    probe: float = 0.0


class News(NamedTuple):
    """What one process tells of one deployment.

    Attributes:
        requests: News of its limit of requests.
        tokens: News of its limit of tokens.
        circuit: Its cooldown; with the right to probe, if this process asks for it.
        places: The attempts that this process has under way.
    """

    requests: LimitNews = LimitNews()
    tokens: LimitNews = LimitNews()
    circuit: CircuitNews = CircuitNews()
    places: int = 0


class Known(NamedTuple):
    """What all processes know of one deployment.

    Attributes:
        requests: The seconds until all requests that were taken have flowed off.
        tokens: The same of tokens.
        circuit: Its cooldown; with the right to probe, if another process has it.
        places: The attempts that the other processes have under way.
    """

    requests: float = 0.0
    tokens: float = 0.0
    circuit: CircuitNews = CircuitNews()
    places: int = 0


@runtime_checkable
class SharedState(Protocol):
    """A store that processes share. Another one is one class with these two.

    Attributes:
        every: The seconds between two exchanges.
    """

    every: float

    def exchange(self, process: str, news: Mapping[str, News]) -> Mapping[str, Known]:
        """Tell what is new, and learn what all know; in one step that no other comes between.

        Called by one thread of a process, never by a call. Whatever it raises means that the store
        is out of reach; it is tried again later.

        Args:
            process: Who tells. Its places count for 3 seconds.
            news: What is new of each deployment, by name.

        Returns:
            What is known of each of them now, the news included.
        """


class Teller(Protocol):
    """Who has something to tell of one deployment, and wants to know what the others tell."""

    def news(self, now: float, every: float) -> News:
        """What is new, each so many seconds; it counts as told when `learn` gets it back."""

    def learn(self, known: Known, told: News, now: float, every: float) -> None:
        """What all know, after being told that; for so many seconds."""

    def forget_others(self, now: float) -> None:
        """The store is out of reach: what the others do is not known any more."""


class Exchange:
    """One process's exchange of news with a store, by a thread of its own.

    Args:
        store: What the processes share.
        tellers: Who tells, by the deployment's name; it may grow as deployments are used.
    """

    def __init__(self, store: SharedState, tellers: Mapping[str, Teller]) -> None:
        self._store = store
        self._is_lost = False
        self._pause = 0.0
        self._tellers = tellers
        self.after_fork()

    def after_fork(self) -> None:
        """A forked process is another one, and has no thread yet."""
        self.process = os.urandom(8).hex()
        self.is_started = False
        self._lock = Lock()

    def start(self, clock: Moment) -> None:
        """Begin to listen; at a process's first call."""
        with self._lock:
            if self.is_started:
                return
            self.is_started = True
        ended = Event()
        weakref.finalize(self, ended.set)
        arguments = (weakref.ref(self), clock, ended)
        thread = Thread(target=_listen, args=arguments, name="gateway-state", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # there are too many, or the process is about to end
            self._lost(error, (), 0.0)

    def step(self, clock: Moment) -> float:
        """Exchange news once. Returns the seconds until the next time."""
        tellers, every, now = [*self._tellers.items()], self._store.every, clock.monotonic()
        news = {name: teller.news(now, every) for name, teller in tellers}
        try:
            known = self._store.exchange(self.process, news)
            now = clock.monotonic()
            for name, teller in tellers:
                if name in known:
                    teller.learn(known[name], news[name], now, every)
        except Exception as error:  # noqa: BLE001 - whatever it is, the calls go on
            return self._lost(error, (teller for _, teller in tellers), clock.monotonic())
        if self._is_lost:
            self._is_lost, self._pause = False, 0.0
            logger.info("the shared state is back")
        return every

    def _lost(self, error: Exception, tellers: Iterable[Teller], now: float) -> float:
        if not self._is_lost:
            self._is_lost = True
            logger.warning(
                "the shared state is lost (%s): this process decides alone until it is back",
                type(error).__name__,
            )
        for teller in tellers:
            teller.forget_others(now)
        self._pause = min(max(2 * self._pause, self._store.every), _MOST_BACKOFF)
        return self._pause


def _listen(exchange: "weakref.ref[Exchange]", clock: Moment, ended: Event) -> None:
    """What the thread does; it holds no reference, so that it ends with the last gateway."""
    pause = 0.0
    while not ended.wait(pause):
        if (alive := exchange()) is None:
            return
        pause = alive.step(clock)
        del alive
