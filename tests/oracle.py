"""What each call of a schedule must come to, from the contract alone.

It shares no code with the package: a checker that asks the code under test what is right finds
nothing.
"""

import math
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from typing import Any

from tests.schedules import (
    ERRORS,
    PICTURE_TOKENS,
    QUESTION_TOKENS,
    SAYS_HTTP_STATUS,
    SAYS_NOTHING_OF_HEALTH,
    WORTH_A_RETRY,
    Course,
    Deployment,
    Outcome,
    Schedule,
)
from tests.virtual_time import NOON, jitter


@dataclass
class Health:
    failed_at: list[float] = field(default_factory=list)
    cooldown: float | None = None
    cools_until: float = 0.0
    probe: "_Held | None" = None
    """A probe that is still open; for so long nobody else is let through."""
    probe_until: float = 0.0

    @property
    def closed_until(self) -> float:
        return max(self.cools_until, self.probe_until if self.probe else 0.0)


@dataclass(eq=False)
class _Held:
    """A stream that is left open: whose, for how long, and the seconds to its first word."""

    name: str
    last_call: int
    latency: float


class _Pace:
    """How long attempts took: what counts fades by a factor of e every 30 seconds.

    Less than one attempt is left of is no mean of it: the rest counts as no time at all.
    """

    def __init__(self) -> None:
        self.seconds = self.weight = self.at = 0.0

    def note(self, now: float, seconds: float) -> None:
        left = self._left(now)
        self.seconds = self.seconds * left + seconds
        self.weight = self.weight * left + 1
        self.at = now

    def mean(self, now: float) -> float:
        left = self._left(now)
        return self.seconds * left / max(1.0, self.weight * left)

    def _left(self, now: float) -> float:
        return math.exp((self.at - now) / 30)


class _Bucket:
    """What drips out evenly and holds a tenth of a minute, or five where that is less."""

    def __init__(self, per_minute: float) -> None:
        self.drip = 60 / per_minute
        self.holds = max(per_minute / 10, min(per_minute, 5))
        self.level = self.at = 0.0

    def settle(self, now: float) -> None:
        self.level = max(0.0, self.level - (now - self.at) / self.drip)
        self.at = now

    def wait(self, now: float, amount: float) -> float:
        """The seconds until so much has room; what is more than it holds goes alone."""
        level = max(0.0, self.level - (now - self.at) / self.drip)
        return max(0.0, (level + min(amount, self.holds) - self.holds) * self.drip)

    def pour(self, now: float, amount: float) -> None:
        self.settle(now)
        self.level += amount

    def fill(self, now: float, seconds: float, *, least: float) -> None:
        """Have no room for so many seconds, and then for at least so much."""
        self.settle(now)
        self.level = max(self.level, self.holds - least + seconds / self.drip)


class Over(Exception):  # noqa: N818 - no error
    """The call is over."""

    def __init__(self, *end: Any) -> None:
        self.end = end


class Oracle:
    """What each call of a schedule must come to, by the contract (4, 5, 6, 8, 11, 15, 16)."""

    def __init__(self, schedule: Schedule, *, streams: bool) -> None:
        self.rules = schedule
        self.streams = streams
        self.time = 0.0
        self.health = {each.name: Health() for each in schedule.deployments}
        self.asked = dict.fromkeys(self.health, 0)
        self.requests = {d.name: _Bucket(d.rpm) for d in schedule.deployments if d.rpm}
        self.tokens = {d.name: _Bucket(d.tpm) for d in schedule.deployments if d.tpm}
        self.usual_output = dict.fromkeys(self.health, 0)
        self.reserved = 0
        """The tokens of the attempt under way."""
        self.pace = {name: (_Pace(), _Pace()) for name in self.health}
        """Of plain calls and of streams."""
        self.held: list[_Held] = []
        self.credit = dict.fromkeys(self.health, 0.0)
        self.calls = 0
        self.is_end_open = False
        """Whether the contract leaves open when exactly the last call ends."""
        self.seen: list[str] = []
        """What traffic rules have decided."""

    def call(self, pause: float, preference: str | None, held_for: int = 0) -> Course:
        """The course of the next call.

        Args:
            pause: The seconds before it.
            preference: Whom it prefers.
            held_for: For how many more calls its stream is left open; 0: it is read to its end.
        """
        self.time += pause
        self.held_for, self.is_stream = held_for, self.streams or held_for > 0
        self.is_end_open = False
        self.thread = self.rules.threads[self.calls] if self.rules.threads else None
        self.is_last = False
        self.behind: set[str] = set()
        """Those that cannot take the call, as their models say, and come after all others."""
        self.question_tokens = QUESTION_TOKENS
        if self.rules.pictures and self.rules.pictures[self.calls]:
            self.question_tokens = PICTURE_TOKENS
            self.behind = {d.name for d in self.rules.deployments if not d.takes_pictures}
        self.calls += 1
        self.deadline = self.time + (self.rules.timeout or float("inf"))
        self.attempts: list[tuple[str, float]] = []
        self.waits: dict[int, float] = {}
        self.failures: list[tuple[str, str]] = []
        self.skipped: list[str] = []
        self.opens: list[float] = []
        try:
            self._try_all(preference)
        except Over as over:
            self._close()
            return Course(self.attempts, self.waits, over.end, self.time)
        raise AssertionError("a call has an end")

    def _wait_for(self, seconds: float) -> None:
        number = len(self.attempts)
        self.waits[number] = self.waits.get(number, 0.0) + seconds
        self.time += seconds

    def _skip(self, deployment: Deployment, opens: float) -> None:
        self.skipped.append(deployment.name)
        self.opens.append(opens)

    def _skip_restricted(self, deployment: Deployment, moment: float) -> None:
        self._skip(deployment, self._opens(deployment, moment))

    def _try_all(self, preference: str | None) -> None:
        everyone = sorted(
            self.rules.deployments,
            key=lambda each: (self._tier(each, preference), self._distance(each)),
        )
        last = self._try_each(everyone, preference, everyone)
        if last:
            self.seen.append("comes last as it cannot")
            self.behind, self.is_last = set(), True  # there are only such left
            self._try_each(last, preference, everyone)
        if self.failures:
            self._fail()
        first = NOON + timedelta(seconds=min(self.opens))
        raise Over("nobody", self.skipped, first, True)

    def _try_each(
        self, some: list[Deployment], preference: str | None, everyone: list[Deployment]
    ) -> list[Deployment]:
        """Try some; returns those that come after all others."""
        deferred, full, last = self._try_open(some, preference, everyone)
        for _, _, deployment in sorted(deferred, key=lambda each: each[:2]):
            if deployment.name in self.behind:
                last.append(deployment)
            elif self._is_restricted(deployment):
                self._skip_restricted(deployment, self.time)
            elif self._is_full(deployment):
                full.append(deployment)
            else:
                self._try(deployment, everyone, is_last_resort=True)
        last += [each for each in full if each.name in self.behind]
        self._wait_for_a_place([each for each in full if each.name not in self.behind])
        return last

    def _try_open(
        self, some: list[Deployment], preference: str | None, everyone: list[Deployment]
    ) -> tuple[list[tuple[int, float, Deployment]], list[Deployment], list[Deployment]]:
        """Try those that are open.

        Returns:
            Whom to try later, and when, those that are full, and those that come last.
        """
        untried, deferred, full = [*some], [], []
        while able := [each for each in untried if each.name not in self.behind]:
            deployment = self._next(able, preference)
            untried.remove(deployment)
            if self._is_restricted(deployment):
                self._skip_restricted(deployment, self.time)
            elif self._is_cooling(deployment):
                deferred.append((1, self.health[deployment.name].closed_until, deployment))
            elif wait := self._wait_for_room(deployment):
                self.seen.append("passed over as limited")
                deferred.append((0, self.time + wait, deployment))
            elif self._is_full(deployment):
                full.append(deployment)
            else:
                self._try(deployment, everyone, is_last_resort=False)
        return deferred, full, untried

    def _fail(self) -> None:
        may_help = any(kind in WORTH_A_RETRY for _, kind in self.failures) or bool(self.skipped)
        raise Over("failed", self.failures, self.skipped, may_help)

    def _try(
        self, deployment: Deployment, everyone: list[Deployment], *, is_last_resort: bool
    ) -> None:
        attempts = self.rules.retry["max_attempts"] if self.rules.retry else 1
        for attempt in range(1, attempts + 1):
            # As what it is let in: decided here, before it waits for room.
            has_cooldown, is_cooling = self._has_cooldown(deployment), self._is_cooling(deployment)
            self.let_in_at = self.time
            if self._waits_in_vain(deployment, is_last_resort=is_last_resort):
                return
            outcome, kind = self._attempt(
                deployment, is_probe=has_cooldown and not is_cooling, is_extra=is_cooling
            )
            if self.time >= self.deadline:
                self._fail()
            if attempt == attempts or kind not in WORTH_A_RETRY:
                return
            wait = self._wait(attempt, outcome if kind == outcome.kind else None, everyone)
            if wait is None:
                return
            # One that may not be asked by then is not waited for.
            then = self.time + wait
            if not is_last_resort and self._is_cooling(deployment, then):
                return
            if self._is_restricted(deployment, then):
                return
            is_limited = self._wait_for_room(deployment, then) > 0
            if not is_last_resort and is_limited and self._another_is_free(everyone):
                return
            self._wait_for(wait)
            if not is_last_resort and is_limited and self._another_is_free(everyone):
                return
            is_last_resort = is_last_resort or is_limited

    def _wait(
        self, attempt: int, outcome: Outcome | None, everyone: list[Deployment]
    ) -> float | None:
        rules = self.rules.retry
        assert rules
        asked = self._retry_after(outcome)
        if asked is not None and asked > rules["max_retry_after"]:
            return None
        if asked is not None and asked > rules["max_delay"] and self._another_is_free(everyone):
            return None
        longest = min(rules["max_delay"], rules["initial_delay"] * 2 ** (attempt - 1))
        wait = max(longest * jitter(self.time), asked or 0)
        return wait if self.time + wait < self.deadline else None

    def _another_is_free(self, everyone: list[Deployment]) -> bool:
        passed = {name for name, _ in self.failures} | self.behind
        return any(self._is_free(each) for each in everyone if each.name not in passed)

    def _attempt(
        self, deployment: Deployment, *, is_probe: bool, is_extra: bool
    ) -> tuple[Outcome, str]:
        """Make one attempt; returns if it failed and the call goes on."""
        name = deployment.name
        outcome = deployment.outcomes[self.asked[name] % len(deployment.outcomes)]
        self.asked[name] += 1
        self.attempts.append((name, self.time))
        begun = self.time
        kind, has_begun = self._take(deployment, outcome)
        if kind is None and self.held_for:
            self._hold(deployment, outcome.latency, is_probe=is_probe)
        self._correct(name, kind, outcome, has_begun=has_begun)
        says_nothing = kind in {*self.rules.reject, *SAYS_NOTHING_OF_HEALTH} or self.was_cut_by_call
        # To the first word, if there was one; what fails at once is not quick.
        seconds = outcome.latency if has_begun else self.time - begun
        if has_begun or not says_nothing:
            has_failed = kind is not None and not says_nothing
            self.pace[name][self.is_stream].note(
                self.time, max(seconds, 1.0) if has_failed else seconds
            )
        if kind is None:
            self.health[name] = Health()
            words = f"{name}{self.asked[name]}"
            raise Over("answer", name, words, [each for each, _ in self.failures], 1, [])
        if kind == "lookup" and not self.rules.lookup_errors_are_handled:
            raise Over("raised", kind)
        self.failures.append((name, kind))
        if kind == "overflow" and deployment.window and not self.is_last:
            self._put_behind(deployment.window)
        told = outcome if kind != "too_late" else None
        if kind == "busy" and (seconds := self._retry_after(told)):
            self._fill(name, seconds)
        if not is_extra and not says_nothing:
            self._count(name, kind, is_probe, self._retry_after(told))
        if has_begun:
            if kind == "too_late" and self.time >= self.deadline:
                self._fail()
            raise Over("raised", kind)
        return outcome, kind

    def _put_behind(self, window: int) -> None:
        """Who takes no more than what was too little comes after all others, if not tried yet."""
        tried = {name for name, _ in self.failures}
        for each in self.rules.deployments:
            if each.window and each.window <= window and each.name not in tried:
                self.behind.add(each.name)

    def _take(self, deployment: Deployment, outcome: Outcome) -> tuple[str | None, bool]:
        """Let time pass for an attempt: how it failed if it did, and whether words were given."""
        self.was_cut_by_call = False
        if self._is_too_late(outcome.latency, deployment.timeout):
            return "too_late", False
        is_error = outcome.kind in ERRORS
        rejected = outcome.kind if outcome.kind in self.rules.reject else None
        if not self.is_stream:
            if outcome.kind == "truncated":  # only a stream can be
                rejected = None
            return (outcome.kind if is_error else rejected), False
        if outcome.kind == "nothing" or (is_error and not outcome.midway):
            return outcome.kind, False
        if self.held_for:
            return None, True
        if self._is_too_late(outcome.gap, deployment.stall_timeout):
            return "too_late", True
        return (outcome.kind if is_error else rejected), True

    def _is_too_late(self, takes: float, limit: float | None) -> bool:
        """Let time pass, up to a deployment's limit or the call's, whichever is first."""
        own = self.time + (limit or float("inf"))
        end = min(own, self.deadline)
        self.time += takes
        if self.time <= end:
            return False
        self.time, self.was_cut_by_call = end, self.deadline < own
        return True

    def _count(self, name: str, kind: str, is_probe: bool, retry_after: float | None) -> None:
        rules, health = self.rules.cooldown, self.health[name]
        if rules is None:
            return
        if is_probe:
            assert health.cooldown is not None
            health.cooldown = min(max(2 * health.cooldown, retry_after or 0), rules["max_duration"])
        else:
            health.failed_at.append(self.time)
            recent = [each for each in health.failed_at if self.time - each <= rules["window"]]
            if len(recent) < rules["failure_threshold"] and kind != "denied":
                return
            asked = retry_after or rules["duration"]
            health.cooldown = min(asked, rules["max_duration"])
        health.failed_at, health.probe = [], None
        health.cools_until = self.time + health.cooldown

    def _has_cooldown(self, deployment: Deployment) -> bool:
        return self.health[deployment.name].cooldown is not None

    def _is_cooling(self, deployment: Deployment, at: float | None = None) -> bool:
        health = self.health[deployment.name]
        then = self.time if at is None else at
        return health.cooldown is not None and then < health.closed_until

    def _retry_after(self, outcome: Outcome | None) -> float | None:
        told = outcome.retry_after if outcome else None
        if told is None or told in {"-1", "nan"} or len(told) > 1000:
            return None
        if told.endswith(("0000", "GMT")):
            then = datetime.strptime(told[:25], "%a, %d %b %Y %H:%M:%S").replace(tzinfo=UTC)
            return max(0.0, (then - NOON).total_seconds() - self.time)
        return float(told)

    # --- traffic ------------------------------------------------------------------------------

    def _tier(self, deployment: Deployment, preference: str | None) -> float:
        return -1 if deployment.name == preference else deployment.tier

    def _distance(self, deployment: Deployment) -> float:
        """How far it is from the call's thread: weighted rendezvous hashing, the nearest first.

        What is hashed is not for the contract to say, but two versions of the package that run side
        by side must say the same.
        """
        if self.thread is None:
            return 0.0
        hashed = f"{len(str(self.thread))}:{self.thread}{deployment.name}".encode()
        drawn = int.from_bytes(blake2b(hashed, digest_size=8).digest(), "big")
        return -math.log((drawn + 0.5) / 2**64) / deployment.weight

    def _next(self, untried: list[Deployment], preference: str | None) -> Deployment:
        """Whose turn it is among those of the first tier that may be asked; else the first's."""
        first = self._tier(untried[0], preference)
        ready = [d for d in untried if self._tier(d, preference) == first and self._is_free(d)]
        if self.thread is not None:
            self.seen += ["stays with its own"] if len(ready) > 1 else []
            return untried[0]
        if not ready or self.rules.balance is None:
            return untried[0]
        if len(ready) == 1:
            return ready[0]
        self.seen.append(self.rules.balance)
        total = sum(each.weight for each in ready)
        if self.rules.balance != "weighted":
            first = self._drawn(ready)
            second = self._drawn([each for each in ready if each is not first])
            is_second = self._expected(second) < self._expected(first)
            self.seen += ["the quicker of two"] if is_second else []
            return second if is_second else first
        for each in ready:
            self.credit[each.name] += each.weight
        chosen = max(ready, key=lambda each: self.credit[each.name])
        self.credit[chosen.name] -= total
        return chosen

    def _drawn(self, candidates: list[Deployment]) -> Deployment:
        """One of them, by weight, as chance will have it."""
        point = sum(each.weight for each in candidates) * jitter(self.time)
        for each in candidates:
            point -= each.weight
            if point < 0:
                return each
        return candidates[-1]

    def _expected(self, deployment: Deployment) -> float:
        """How busy it would be, or how long it would take for what it is busy with and one more."""
        busy = self._places(deployment)
        if self.rules.balance == "least_busy":
            return busy / deployment.weight
        # Less than a millisecond is no difference.
        takes = max(self.pace[deployment.name][self.is_stream].mean(self.time), 1e-3)
        return takes * (busy + 1) / deployment.weight

    def _is_free(self, deployment: Deployment) -> bool:
        is_closed = self._is_restricted(deployment) or self._is_cooling(deployment)
        if is_closed or self._is_full(deployment):
            return False
        return not self._wait_for_room(deployment)

    def _wait_for_room(self, deployment: Deployment, at: float | None = None) -> float:
        if deployment.rpm is None and deployment.tpm is None:
            return 0.0
        then = self.time if at is None else at
        limits = self._limits(deployment, self._estimate(deployment))
        return max([bucket.wait(then, amount) for bucket, amount in limits], default=0.0)

    def _limits(self, deployment: Deployment, tokens: int) -> list[tuple[_Bucket, int]]:
        """A deployment's limits, and what an attempt of so many tokens takes of each."""
        name = deployment.name
        both = (self.requests.get(name), 1), (self.tokens.get(name), tokens)
        return [(bucket, amount) for bucket, amount in both if bucket]

    def _estimate(self, deployment: Deployment) -> int:
        return self.question_tokens + (deployment.max_tokens or self.usual_output[deployment.name])

    def _waits_in_vain(self, deployment: Deployment, *, is_last_resort: bool) -> bool:
        """Take room for an attempt, and as the last resort wait for it, if that is worth it.

        Returns:
            Whether a window has begun meanwhile, so that the room is given back.
        """
        wait, most = self._wait_for_room(deployment), self.rules.max_wait
        self.reserved = self._estimate(deployment)
        limits = self._limits(deployment, self.reserved)
        for bucket, amount in limits:
            bucket.pour(self.time, amount)
        is_too_long = most is None or wait > most or self.time + wait >= self.deadline
        if not is_last_resort or not wait:
            return False
        self.seen.append("asked although limited" if is_too_long else "waited for room")
        if is_too_long:
            return False
        self._wait_for(wait)
        if not self._is_restricted(deployment):
            return False
        for bucket, amount in limits:
            bucket.pour(self.time, -amount)
        self._skip_restricted(deployment, self.time)
        return True

    def _correct(self, name: str, kind: str | None, outcome: Outcome, *, has_begun: bool) -> None:
        """Charge what an attempt took in place of what was reserved for it, as far as is known."""
        bucket = self.tokens.get(name)
        if bucket is None:
            return
        if kind in SAYS_HTTP_STATUS and not has_begun:
            self.seen.append("tokens given back")
            bucket.pour(self.time, -self.reserved)
        elif (kind is None or kind in self.rules.reject) and outcome.usage:
            self.seen.append("tokens charged")
            self.usual_output[name] = outcome.usage[1]
            bucket.pour(self.time, sum(outcome.usage) - self.reserved)
        else:
            self.seen.append("tokens kept")

    def _fill(self, name: str, seconds: float) -> None:
        """Have no room in a deployment's limits before the moment that its 429 has named."""
        for bucket, least in (self.requests.get(name), 1), (self.tokens.get(name), 0):
            if bucket:
                self.seen.append("filled by a 429")
                bucket.fill(self.time, seconds, least=least)

    # --- places -------------------------------------------------------------------------------

    def _places(self, deployment: Deployment) -> int:
        """The streams of it that are open; as calls come one by one, nothing else is."""
        return sum(each.name == deployment.name for each in self.held)

    def _is_full(self, deployment: Deployment) -> bool:
        most = deployment.max_concurrency
        return most is not None and self._places(deployment) >= most

    def _wait_for_a_place(self, full: list[Deployment]) -> None:
        """Wait in vain: only other calls could close a stream, and none is under way."""
        if not full:
            return
        self.seen.append("passed over as full")
        most = float("inf") if self.rules.max_wait is None else self.rules.max_wait
        begun, end = self.time, min(self.time + most, max(self.time, self.deadline))
        minutes = [60.0 * n for n in range(int(begun // 60) + 1, int(end // 60) + 1)]
        moments = [begun, *minutes]  # at which windows begin
        for moment in moments:
            for each in [each for each in full if self._is_restricted(each, moment)]:
                full.remove(each)
                self._skip_restricted(each, moment)
            if not full:
                # Who waits looks at the windows now and then.
                self.is_end_open = moment > begun
                end = moment
                break
        if end > begun:
            self.seen.append("waited for a place")
            self._wait_for(end - begun)
        for each in full:
            self._skip(each, self.time)

    def _hold(self, deployment: Deployment, latency: float, *, is_probe: bool) -> None:
        """Leave the stream open, which says nothing of the deployment until it is closed."""
        name = deployment.name
        held = _Held(name, self.calls + self.held_for, latency)
        self.held.append(held)
        if is_probe:
            self.seen.append("holds a probe")
            assert self.rules.cooldown
            health = self.health[name]
            health.probe = held
            health.probe_until = self.let_in_at + (
                deployment.timeout or self.rules.cooldown["duration"]
            )
        words = f"{name}{self.asked[name]}"
        raise Over("answer", name, words, [each for each, _ in self.failures], 1, [])

    def _close(self) -> None:
        """Close the streams whose time has come: their tokens stay taken, as nobody knows more."""
        for held in [each for each in self.held if each.last_call <= self.calls]:
            self.held.remove(held)
            self.pace[held.name][True].note(self.time, held.latency)
            health = self.health[held.name]
            if health.probe is held:
                health.probe = None

    # --- windows ------------------------------------------------------------------------------

    def _is_restricted(self, deployment: Deployment, at: float | None = None) -> bool:
        return is_inside(deployment.windows, self.time if at is None else at)

    def _opens(self, deployment: Deployment, moment: float) -> float:
        """The last moment of the restriction under way at a moment."""
        while True:
            later = max(
                moment + (_seconds_of_day(end) - (moment + 43200)) % 86400
                for start, end in deployment.windows
                if is_inside([(start, end)], moment)
            )
            if later == moment:
                return moment
            moment = later


def _seconds_of_day(text: str) -> int:
    hours, minutes = text.split(":")
    return int(hours) * 3600 + int(minutes) * 60


def is_inside(windows: Any, time: float) -> bool:
    """Whether a moment, in seconds after noon, is inside a daily window; both ends are."""
    now = (time + 43200) % 86400
    for start, end in windows:
        first, last = _seconds_of_day(start), _seconds_of_day(end)
        if first <= now <= last if first <= last else (now >= first or now <= last):
            return True
    return False
