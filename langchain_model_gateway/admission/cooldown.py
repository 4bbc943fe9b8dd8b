"""Cooldown as an admission: a circuit breaker for each deployment.

Nothing here waits or does input or output; times are seconds on one monotonic clock, and come from
outside. A lock is held for a few assignments, never while a model is called.
"""

from collections import deque
from datetime import timedelta
from threading import Lock
from typing import Final, Literal, NamedTuple, Protocol

from langchain_model_gateway.admission import Closed, Moment, Outcome, Size
from langchain_model_gateway.policies import CooldownPolicy
from langchain_model_gateway.sharing import CircuitNews

_NEVER: Final = float("-inf")
_REASON: Final = "in cooldown after failures"
_HEAD_START: Final = 4
"""For how many exchanges' time one process alone may probe, when a cooldown is over."""


class Circuit:
    """What the recent attempts at one deployment say about it.

    It is closed while calls go through. It opens when failures reach the threshold: the deployment
    is in cooldown. When that time is over it is half-open: one probe at a time is let through.
    """

    __slots__ = (
        *("_cooldown", "_elsewhere_ends", "_failures", "_lock", "_probe", "_probe_ends"),
        *("generation", "opens"),
    )

    def __init__(self) -> None:
        self.generation = 0
        self.opens = _NEVER
        """When the cooldown ends."""
        self._cooldown: float | None = None
        """The length of the present cooldown in seconds; `None` while closed."""
        self._failures: deque[float] = deque()
        self._probe = 0
        self._probe_ends = _NEVER
        """When the present probe's place is free again, whatever has become of it."""
        self._elsewhere_ends = _NEVER
        """The same of another process's probe."""
        self.renew_lock()

    def renew_lock(self) -> None:
        """Make a new lock: in a forked process the old one may be held by nobody."""
        self._lock = Lock()

    @property
    def is_closed(self) -> bool:
        """Whether calls go through."""
        return self._cooldown is None

    def state(self, now: float) -> Literal["closed", "half-open", "open"]:
        """In the words of circuit breakers."""
        if self._cooldown is None:
            return "closed"
        return "open" if self.opens > now else "half-open"

    def closed_until(self, now: float) -> float | None:
        """When the next attempt may be made; `None`: now."""
        if self._cooldown is None:
            return None
        until = max(self.opens, self._probe_ends, self._elsewhere_ends)
        return until if until > now else None

    def try_acquire(
        self, now: float, lease: float, *, is_last_resort: bool
    ) -> tuple[int, int] | None:
        """Let an attempt in, if it may.

        Args:
            now: The present.
            lease: The seconds for which it holds the probe's place, if it becomes the probe.
            is_last_resort: Whether to let it in anyway.

        Returns:
            The generation, and the number of the probe that it is, 0 if it is none.
        """
        with self._lock:
            if self.closed_until(now) is not None:
                return (self.generation, 0) if is_last_resort else None
            if self._cooldown is None:
                return self.generation, 0
            self._probe += 1
            self._probe_ends = now + lease
            return self.generation, self._probe

    def record_success(self, permit: "CooldownPermit") -> bool:
        """The attempt was answered. Returns whether that has ended a cooldown."""
        if self._cooldown is None and not self._failures:
            return False
        with self._lock:
            self._release(permit)
            if permit.generation != self.generation:
                return False
            self._failures.clear()
            ended, self._cooldown = self._cooldown is not None, None
            return ended

    def record_failure(
        self, permit: "CooldownPermit", policy: CooldownPolicy, outcome: Outcome
    ) -> float:
        """The attempt failed. Returns the seconds of the cooldown that this has begun, or 0."""
        with self._lock:
            self._release(permit)
            if permit.generation != self.generation:
                return 0
            if self._cooldown is not None:
                if not permit.probe:  # a last resort proves nothing new
                    return 0
                return self._open(policy.longer(self._cooldown, outcome.retry_after), outcome.at)
            self._failures.append(outcome.at)
            while self._failures[0] < outcome.at - policy.window:
                self._failures.popleft()
            if len(self._failures) < policy.failure_threshold and not outcome.is_account_fault:
                return 0
            return self._open(policy.first(outcome.retry_after), outcome.at)

    def release(self, permit: "CooldownPermit") -> None:
        """The attempt says nothing about the deployment."""
        with self._lock:
            self._release(permit)

    def _release(self, permit: "CooldownPermit") -> None:
        """Give a probe's place back. The lock is held."""
        if permit.probe and permit.probe == self._probe:
            self._probe_ends = _NEVER

    def _open(self, seconds: float, now: float) -> float:
        """Begin a cooldown. The lock is held."""
        self.generation += 1
        self.opens = now + seconds
        self._cooldown = seconds
        self._probe_ends = _NEVER
        self._failures.clear()
        return seconds

    # --- shared with other processes -----------------------------------------------------------

    def news(self, now: float, every: float) -> CircuitNews:
        """What other processes may want to know, each so many seconds."""
        with self._lock:
            if self._cooldown is None:
                return CircuitNews(self.generation)
            # Who tells of a cooldown first probes first; the others are told in time.
            probe_ends = max(self._probe_ends, self.opens + _HEAD_START * every)
            left, probe = (max(0.0, end - now) for end in (self.opens, probe_ends))
            return CircuitNews(self.generation, self._cooldown, left, probe)

    def learn(self, known: CircuitNews, now: float) -> None:
        """What all processes know. A cooldown that is known here already stays as it is."""
        with self._lock:
            self._elsewhere_ends = now + known.probe if known.probe > 0 else _NEVER
            if (known.generation, not known.cooldown) > (self.generation, self.is_closed):
                self.generation, self._cooldown = known.generation, known.cooldown or None
                self.opens = now + known.left
                self._probe_ends = _NEVER
                self._failures.clear()


class Listener(Protocol):
    """Who wants to know of cooldowns."""

    def cooldown_started(self, model_name: str, seconds: float) -> None:
        """A deployment is in cooldown for so many seconds."""

    def cooldown_ended(self, model_name: str) -> None:
        """A deployment has answered again."""


class Cooldown:
    """One deployment's circuit under a policy.

    Args:
        model_name: The deployment's name, for the listener.
        circuit: Its circuit.
        policy: The policy.
        timeout: Seconds that one attempt may take; a probe holds its place for so long.
        listener: Who wants to know.
    """

    __slots__ = ("_lease", "circuit", "listener", "model_name", "policy")

    def __init__(
        self,
        model_name: str,
        circuit: Circuit,
        policy: CooldownPolicy,
        timeout: float | None,
        listener: Listener,
    ) -> None:
        self.model_name = model_name
        self.circuit = circuit
        self.policy = policy
        self.listener = listener
        self._lease = policy.duration if timeout is None else timeout

    def closed(self, at: Moment, size: Size) -> Closed | None:
        """The cooldown at a moment, with its end, if there is one."""
        del size
        if self.circuit.is_closed:
            return None
        present = at.monotonic()
        until = self.circuit.closed_until(present)
        if until is None:
            return None
        ends = at.now() + timedelta(seconds=until - present)
        return Closed("cooldown", _REASON, ends)

    def enter(self, at: Moment, size: Size, *, is_last_resort: bool) -> "CooldownPermit | Closed":
        """Let an attempt in: while closed, as the probe, or as the last resort."""
        circuit = self.circuit
        if circuit.is_closed:  # the usual case needs no lock: a late permit tells its age
            return CooldownPermit(self, circuit.generation)
        entry = circuit.try_acquire(at.monotonic(), self._lease, is_last_resort=is_last_resort)
        if entry is not None:
            return CooldownPermit(self, *entry)
        return self.closed(at, size) or Closed("cooldown", _REASON, at.now())


class CooldownPermit(NamedTuple):
    """Permission for one attempt, counted by its deployment's circuit.

    Attributes:
        cooldown: Whose permit it is.
        generation: The circuit's generation when the attempt began. Each opening begins a new one,
            so that what an earlier call comes to says nothing any more.
        probe: The number of the probe that it is; 0 if it is none.
        wait: It says never to wait.
    """

    cooldown: Cooldown
    generation: int
    probe: int = 0
    wait: float = 0.0

    def give_back(self, outcome: Outcome) -> None:
        """The attempt has ended."""
        cooldown, circuit = self.cooldown, self.cooldown.circuit
        match outcome.kind:
            case "answered":
                if circuit.record_success(self):
                    cooldown.listener.cooldown_ended(cooldown.model_name)
            case "failed":
                if seconds := circuit.record_failure(self, cooldown.policy, outcome):
                    cooldown.listener.cooldown_started(cooldown.model_name, seconds)
            case "neutral":
                circuit.release(self)
