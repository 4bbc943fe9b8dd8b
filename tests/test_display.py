"""How a gateway looks: printed, in a notebook, as a graph."""

import re
from collections.abc import Callable
from copy import copy, deepcopy
from datetime import UTC, datetime
from html.parser import HTMLParser
from pprint import pformat
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from freezegun import freeze_time
from langchain_core.load import dumpd
from langchain_core.messages import AIMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.runnables import RunnableLambda, RunnableSequence
from langchain_openai import ChatOpenAI
from pydantic import TypeAdapter
from rich.console import Console

from langchain_model_gateway import (
    AllModelsFailedError,
    CooldownPolicy,
    GatewayRunnable,
    ModelDeployment,
    RetryPolicy,
)
from tests.models import NEVER, gateway_over, says

KEY, PASSWORD = "sk-proj-abcdefghijklmnop", "hunter2-secret"
NOON = datetime(2026, 3, 4, 12, tzinfo=UTC)  # a Wednesday
HOSTILE = [
    'a"];x:b|c',
    "<script>alert(1)</script>",
    "end",
    "two\nlines",
    "a --> b",
    "%%{init: {}}%%",
    "subgraph x",
    "&lt;b&gt;",
    "`code`",
    "naïve 模型",
    "x" * 500,
]


def named(*names: str) -> GatewayRunnable:
    return GatewayRunnable(models=[{"model_name": n, "model": says("hi")} for n in names])


def hours(*windows: Any) -> GatewayRunnable:
    return gateway_over(says("a"), says("b"), windows={"weak": list(windows)})


class Page(HTMLParser):
    """The tags, attributes and texts that a browser would see."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag != "br":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def rows(self) -> int:
        return sum(tag == "tr" for tag, _ in self.tags)


def bar(gateway: GatewayRunnable, position: int = 0) -> list[tuple[str, float, float | None]]:
    """What a deployment's bar shows: title, left and width (in percent) of each mark."""
    row = gateway._repr_html_().split("<tr>")[position + 2].split("</tr>")[0]
    marks = []
    for _, attributes in Page(row).tags:
        style = dict(re.findall(r"([\w-]+):([^;]+)", attributes.get("style") or ""))
        if "title" in attributes:
            width = style.get("width")
            share = float(width[:-1]) if width else None
            marks.append((str(attributes["title"]), float(style["margin-left"][:-1]), share))
    return marks


def said(html: str) -> list[list[str]]:
    """The cells of each row as text, as a code host shows them: with every style stripped."""
    rows = (re.split(r"</t[dh]>", row) for row in html.split("<tr>")[1:])
    return [[" ".join("".join(Page(c).texts).split()) for c in row[:-1]] for row in rows]


# --- a plan ----------------------------------------------------------------------------------


def test_a_plan_prints_as_a_table() -> None:
    """A line for the moment, one for each deployment in order, then those skipped and why."""
    gateway = gateway_over(
        says("a"), says("b"), says("c"), windows={"weak": [("9:00", "17:00")], "backup": NEVER}
    )
    assert str(gateway.explain(at=NOON)).splitlines() == [
        "At 2026-03-04 12:00:00 UTC, in this order:",
        "  1  strong  would be tried",
        "  -  weak    skipped: restricted 09:00-17:00 UTC, until 2026-03-04 17:00:00 UTC",
        "  -  backup  skipped: restricted 00:00-12:00 UTC, 12:00-00:00 UTC",
    ]


def test_a_plan_prints_the_preferred_first() -> None:
    """The table has the order in which a call would go."""
    lines = str(gateway_over(says("a"), says("b")).explain("strong", at=NOON)).splitlines()
    assert lines[1:] == ["  1  strong  would be tried", "  2  weak    would be tried"]


def test_a_plan_prints_who_rests() -> None:
    """A deployment in cooldown is shown as the last resort, and until when."""
    cooldown = CooldownPolicy(failure_threshold=1, duration=30)
    gateway = gateway_over(says(ConnectionError()), says("b"), cooldown=cooldown)
    with freeze_time(NOON):
        gateway.invoke("x")
        plan = gateway.explain()
    assert plan.order == ("strong", "weak")
    assert str(plan).splitlines()[2].startswith("  2  weak    last resort: in cooldown")
    assert "2026-03-04 12:00:30" in str(plan)


def test_a_plan_is_told_in_the_timezone_asked_for() -> None:
    """The moment is shown as the caller wrote it."""
    at = NOON.astimezone(ZoneInfo("Asia/Tokyo"))
    assert "2026-03-04 21:00:00 JST" in str(hours().explain(at=at))


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_cannot_break_a_printed_plan(name: str) -> None:
    """However a deployment is called, a plan keeps one short line for each."""
    gateway = named(name, "other")
    text = str(gateway.explain(at=NOON))
    assert len(text.splitlines()) == 3
    assert max(map(len, text.splitlines())) < 120
    assert text.replace("\n", "").isprintable()


def test_a_plan_shows_in_a_notebook() -> None:
    """The same table, as well-formed HTML."""
    page = Page(hours(("9:00", "17:00")).explain(at=NOON)._repr_html_())
    assert page.open == []
    assert page.rows == 3
    text = " ".join(page.texts)
    assert all(part in text for part in ("2026-03-04 12:00:00 UTC", "weak", "strong", "until"))


# --- a gateway in a notebook -----------------------------------------------------------------


@pytest.mark.parametrize(
    "shown",
    [
        lambda gateway: gateway._repr_html_(),
        lambda gateway: gateway.explain(at=NOON)._repr_html_(),
        lambda gateway: gateway.diagnose()._repr_html_(),
    ],
    ids=["gateway", "plan", "findings"],
)
def test_everything_in_a_notebook_is_escaped(shown: Callable[[Any], str]) -> None:
    """Names are text and never markup, in each of the tables."""
    name = "<script>alert('x')</script>\"><img src=x onerror=y>"
    gateway = GatewayRunnable(
        name=name,
        models=[
            {"model_name": name, "model": says("a"), "time_constraints": [("9:00", "9:00")]},
            {"model_name": name + "2", "model": says("b"), "time_constraints": NEVER},
        ],
    )
    html = shown(gateway)
    page = Page(html)
    tags = {"div", "table", "caption", "thead", "tbody", "tr", "th", "td", "span", "br", "p"}
    assert {tag for tag, _ in page.tags} <= tags
    assert {key for _, attributes in page.tags for key in attributes} <= {"style", "title"}
    assert "<script" not in html
    assert "<script>alert('x')</script>" in "".join(page.texts)
    assert page.open == []


def troubled() -> GatewayRunnable:
    """A gateway whose deployments are each in another state; call it once."""
    openai = ChatOpenAI(model="gpt-4o-mini", api_key=KEY)
    return GatewayRunnable(
        models=[
            {"model_name": "down", "model": says(ConnectionError())},
            {"model_name": "limited", "model": says("b"), "rpm": 1, "tpm": 90_000},
            {"model_name": "day", "model": openai, "time_constraints": [("9:00", "17:00")]},
            {"model_name": "never", "model": says("d"), "time_constraints": NEVER, "weight": 2.5},
            {"model_name": "inner", "model": hours(), "tier": 1, "max_concurrency": 8},
        ],
        cooldown=CooldownPolicy(failure_threshold=1, duration=30),
    )


TROUBLES = [
    ["down", "ScriptedChatModel", "", "none", "in cooldown until 12:00:30 UTC"],
    ["limited", "ScriptedChatModel", "1 rpm, 90,000 tpm", "none", "limited until 12:01:00 UTC"],
    ["day", "gpt-4o-mini (openai)", "", "09:00-17:00 UTC", "restricted until Wed 17:00 UTC"],
    [
        *("never", "ScriptedChatModel", "weight 2.5", "00:00-12:00 UTC, 12:00-00:00 UTC"),
        "always restricted",
    ],
    ["inner", "gateway of 2", "tier 1, 8 at once", "none", "available"],
]
SIGNS = ["!", "~", "✗", "✗", "✓"]


def test_a_gateway_prints_as_a_table() -> None:
    """A line for the moment, a header, and a line for each deployment with what holds of it now."""
    with freeze_time(NOON):
        gateway = troubled()
        gateway.invoke("x")
        lines = str(gateway).splitlines()
    assert lines[0] == "GatewayRunnable, Wednesday 2026-03-04 12:00 UTC"
    header = ["deployment", "model", "settings", "restricted hours", "now"]
    assert re.split(r"  +", lines[1].strip()) == header
    for rank, (line, cells) in enumerate(zip(lines[2:], TROUBLES, strict=True), start=1):
        assert re.split(r"  +", line) == [str(rank), *filter(None, cells)]


def test_a_gateways_table_in_a_notebook() -> None:
    """The same cells as text, each state with a sign beside its colour."""
    with freeze_time(NOON):
        gateway = troubled()
        gateway.invoke("x")
        header, *rows = said(gateway._repr_html_())
    assert header[1:] == [
        *("deployment", "model", "settings", "restricted hours 0h 6h 12h 18h", "now")
    ]
    assert rows == [
        [str(rank), *cells[:-1], f"{sign} {cells[-1]}"]
        for rank, (sign, cells) in enumerate(zip(SIGNS, TROUBLES, strict=True), start=1)
    ]


def test_rich_prints_a_gateway_as_a_table() -> None:
    """The same cells, wrapped where the terminal is narrow and never cut."""
    with freeze_time(NOON):
        gateway = troubled()
        gateway.invoke("x")
        wide, narrow = printed(gateway), printed(gateway, width=60)
    rows = [line for line in wide.splitlines() if re.match(r" *\d ", line)]
    for rank, (line, cells) in enumerate(zip(rows, TROUBLES, strict=True), start=1):
        assert re.split(r"  +", line.strip()) == [str(rank), *filter(None, cells)]
    assert max(map(len, narrow.splitlines())) <= 60
    assert "…" not in narrow


def test_what_no_deployment_has_is_no_column() -> None:
    """Without limits, weights and tiers there are no settings to show."""
    assert "settings" not in str(hours())
    assert "settings" not in hours()._repr_html_()


def test_the_table_says_what_a_plan_says() -> None:
    """A deployment is available in the table just where a call would try it in its turn."""
    with freeze_time(NOON) as clock:
        gateway = troubled()
        gateway.invoke("x")
        for seconds in (0, 29, 2, 30, 3600 * 5):
            clock.tick(seconds)
            plan = gateway.explain()
            closed = {each.model_name for each in (*plan.skipped, *plan.deferred)}
            shown = {line.split()[1] for line in str(gateway).splitlines() if "available" in line}
            assert shown == set(gateway) - closed


def test_a_full_deployment_is_shown_as_full() -> None:
    """While as many attempts as it may have are under way, it says so."""
    seen = []
    gateway: GatewayRunnable
    gateway = GatewayRunnable(
        models=[
            {
                "model_name": "one",
                "model": RunnableLambda(lambda _: seen.append(str(gateway)) or AIMessage("hi")),
                "max_concurrency": 1,
            },
            {"model_name": "two", "model": says("b")},
        ]
    )
    gateway.invoke("x")
    assert seen[0].splitlines()[2].endswith("  full")
    assert str(gateway).splitlines()[2].endswith("  available")


def test_a_style_survives_a_notebook_that_is_not_trusted() -> None:
    """No style is one that JupyterLab's sanitizer drops, such as rgba(), or any transform."""
    with freeze_time(NOON):
        styles = re.findall(r'style="([^"]*)"', hours(("6:00", "12:00"))._repr_html_())
    pairs = {pair for style in styles for pair in re.findall(r"([\w-]+):([^;]+)", style)}
    assert not {"transform", "left", "background"} & {name for name, _ in pairs}
    assert not [value for _, value in pairs if "(" in value or value == "currentColor"]


@pytest.mark.parametrize(
    ("windows", "stretches"),
    [
        ([], []),
        ([("6:00", "12:00")], [("restricted 06:00 to 12:00", 25, 25)]),
        (
            [("18:00", "6:00")],
            [("restricted 00:00 to 06:00", 0, 25), ("restricted 18:00 to 24:00", 75, 25)],
        ),
        ([("6:00", "9:00"), ("9:00", "12:00")], [("restricted 06:00 to 12:00", 25, 25)]),
        ([("0:00", "12:00"), ("12:00", "0:00")], [("restricted 00:00 to 24:00", 0, 100)]),
        ([("9:00", "9:00")], []),
        (
            [{"start": "3:00", "end": "9:00", "timezone": "Asia/Tokyo"}],
            [("restricted 18:00 to 24:00", 75, 25)],
        ),
        (
            [{"start": "8:00", "end": "14:00", "timezone": "America/New_York"}],
            [("restricted 13:00 to 19:00", 54.167, 25)],
        ),
        (
            [{"start": "6:00", "end": "12:00", "days": ["wed"]}],
            [("restricted 06:00 to 12:00", 25, 25)],
        ),
        ([{"start": "6:00", "end": "12:00", "days": ["thu"]}], []),
        (
            [{"start": "18:00", "end": "6:00", "days": ["tue"]}],
            [("restricted 00:00 to 06:00", 0, 25)],
        ),
        ([("9:00", "9:01")], [("restricted 09:00 to 09:01", 37.5, 0.069)]),
    ],
)
@pytest.mark.parametrize(
    ("clock", "now"), [("00:00", 0), ("06:00", 25), ("18:00", 75), ("23:59", 99.931)]
)
def test_the_bar_shows_today_and_now(windows: Any, stretches: Any, clock: str, now: float) -> None:
    """A bar goes from midnight to midnight in UTC: closed hours where they are, and the present."""
    with freeze_time(f"2026-03-04 {clock}"):
        marks = bar(hours(*windows))
    assert marks == [*stretches, ("now", now, None)]


def test_the_bar_of_the_second_deployment_is_its_own() -> None:
    """Windows of one deployment close nothing of another's bar."""
    with freeze_time(NOON):
        assert bar(hours(("6:00", "12:00")), 1) == [("now", 50, None)]


def test_the_bar_follows_a_clock_change() -> None:
    """On the day clocks change, the bar shows a repeated hour twice."""
    window = {"start": "2:00", "end": "3:00", "timezone": "Europe/Berlin"}
    with freeze_time("2026-10-25 12:00"):
        assert bar(hours(window))[0] == ("restricted 00:00 to 02:00", 0, 8.333)


def test_a_large_gateway_shows_a_part_and_says_so() -> None:
    """A thousand deployments are no thousand rows."""
    page = Page(named(*map(str, range(1000)))._repr_html_())
    assert page.rows < 100
    assert f"and {1000 - page.rows + 1} more deployments" in "".join(page.texts)


def test_findings_show_themselves() -> None:
    """What `diagnose()` gives prints and shows as a table, and says so when all is well."""
    findings: Any = hours(("9:00", "9:00")).diagnose()
    assert "window-never-applies: weak\n" in str(findings)
    assert Page(findings._repr_html_()).rows == 2
    nothing: Any = hours().diagnose()
    assert (nothing, str(nothing)) == ([], "Nothing found.")
    assert "Nothing found." in nothing._repr_html_()


# --- the graph -------------------------------------------------------------------------------

NODE = re.compile(r"^\t([^\s(]+)\((.*)\)(:::\w+)?$")
EDGE = re.compile(r"^\t([^\s(]+) (?:-->|-\. &nbsp;\d+&nbsp; \.->) ([^\s(]+);$")


def mermaid(gateway: GatewayRunnable) -> tuple[dict[str, str], list[tuple[str, str]]]:
    """The nodes and edges of a drawing; every other line must be one of Mermaid's own."""
    nodes: dict[str, str] = {}
    edges: list[tuple[str, str]] = []
    drawn = gateway.get_graph()._repr_mimebundle_()["text/vnd.mermaid"]
    assert "fill:" not in drawn  # a notebook's theme has colours that go together
    body = gateway.get_graph().draw_mermaid().split("graph TD;\n")[1]
    assert drawn.split("graph TD;\n")[1].split("\tclassDef")[0] == body.split("\tclassDef")[0]
    for line in body.splitlines():
        if match := NODE.match(line):
            assert match[1] not in nodes
            nodes[match[1]] = match[2]
        elif match := EDGE.match(line):
            edges.append((match[1], match[2]))
        else:
            assert not line or line.startswith("\tclassDef "), line
    return nodes, edges


def test_the_graph_has_the_deployments_as_branches() -> None:
    """From the input one conditional edge goes to each deployment, and one from each to the end."""
    graph = gateway_over(says("a"), says("b"), says("c")).get_graph()
    names = ["weak", "strong", "backup"]
    first, last = graph.first_node(), graph.last_node()
    assert first is not None
    assert last is not None
    assert [(e.target, e.conditional) for e in graph.edges if e.source == first.id] == [
        (name, True) for name in names
    ]
    assert [e.source for e in graph.edges if e.target == last.id] == names
    assert [e.data for e in graph.edges if e.conditional] == ["1", "2", "3"]
    assert len(graph.nodes) == 5


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_cannot_break_the_drawing(name: str) -> None:
    """However a deployment is called, it is one node with two edges, and nothing else is drawn."""
    nodes, edges = mermaid(named(name, "other"))
    assert len(nodes) == 4
    assert len(edges) == 4
    assert {end for edge in edges for end in edge} == nodes.keys()
    text = "".join(nodes.values()).replace("<p>", "").replace("</p>", "")
    assert not set(text[2:]) & set('";|<>{}`&%\n#')


@pytest.mark.parametrize("word", ["end", "graph", "style", "default"])
def test_no_node_is_called_by_a_word_of_mermaids(word: str) -> None:
    """A reserved word as a node's name would be a syntax error in the drawing."""
    nodes, _ = mermaid(named(word, "other"))
    assert word not in nodes


def test_names_that_look_alike_stay_apart() -> None:
    """Names that differ only in what a drawing cannot hold are two nodes."""
    nodes, edges = mermaid(named("a:b", "a|b", "a_b"))
    assert len(nodes) == 5
    assert len(set(edges)) == 6


def test_a_gateway_in_a_chain_is_drawn() -> None:
    """Its branches are part of the whole chain's graph."""
    drawing = (gateway_over(says("a"), says("b")) | (lambda x: x)).get_graph().draw_mermaid()
    assert "weak" in drawing
    assert "strong" in drawing


def test_a_graphs_repr_is_short() -> None:
    """It names the nodes, and shows no more of the models."""
    assert repr(named("a", "b").get_graph()) == (
        "GatewayGraph(nodes=['ScriptedChatModelInput', 'ScriptedChatModelOutput', 'a', 'b'])"
    )


# --- iterating -------------------------------------------------------------------------------


@pytest.mark.parametrize("made", [lambda g: g, lambda g: g.as_chat_model()], ids=["", "chat"])
def test_iterating_gives_names(made: Callable[[GatewayRunnable], GatewayRunnable]) -> None:
    """As with a mapping: a loop goes over the names, and `dict` gives the deployments."""
    gateway = made(hours(("9:00", "17:00")))
    assert list(gateway) == ["weak", "strong"]
    assert len(list(gateway)) == len(gateway)
    assert all(name in gateway for name in gateway)
    assert dict(gateway) == {"weak": gateway["weak"], "strong": gateway["strong"]}
    assert gateway.keys() == gateway.model_names


def test_iterating_is_no_harm_to_pydantic() -> None:
    """Copies, dumps, equality, pickles and schemas take a gateway's fields, and not its names."""
    cooldown = CooldownPolicy(duration=7)
    gateway = named("ab", "cd").model_copy(update={"cooldown": cooldown, "timeout": 5.0})
    for copied in (gateway.model_copy(), copy(gateway), deepcopy(gateway)):
        assert copied == gateway
        assert (copied.cooldown, copied.timeout) == (cooldown, 5)
    assert gateway != gateway.model_copy(update={"timeout": 6.0})
    assert set(gateway.model_dump(exclude={"models"})) >= {"cooldown", "timeout"}
    openai = GatewayRunnable(
        models=[{"model_name": n, "model": ChatOpenAI(api_key=KEY)} for n in ("ab", "cd")],
        cooldown=cooldown,
    )
    assert dumpd(openai)["kwargs"]["cooldown"] == {"duration": 7.0}
    assert TypeAdapter(GatewayRunnable).validate_python(gateway) is gateway
    assert RunnableSequence(gateway, StrOutputParser()).invoke("x") == "hi"


# --- reprs -----------------------------------------------------------------------------------


def with_secrets() -> GatewayRunnable:
    """A gateway whose clients have a key, a password in the address, and a key in a header."""
    client = ChatOpenAI(
        model="gpt-4o-mini",
        api_key=KEY,
        base_url=f"http://user:{PASSWORD}@127.0.0.1:1/v1",
        openai_proxy=f"http://user:{PASSWORD}@127.0.0.1:1",
        default_headers={"X-Key": KEY},
        max_retries=0,
    )
    return gateway_over(client, client.bind(extra_headers={"X-Key": KEY}), retry=RetryPolicy())


def printed(value: Any, width: int = 200) -> str:
    console = Console(width=width)
    with console.capture() as captured:
        console.print(value)
    return captured.get()


@pytest.mark.parametrize(
    "shown",
    [repr, str, pformat, printed, "{}".format],
    ids=["repr", "str", "pprint", "rich", "format"],
)
@pytest.mark.parametrize(
    "part",
    [
        lambda gateway: gateway,
        lambda gateway: gateway["weak"],
        lambda gateway: gateway["strong"],
        lambda gateway: gateway.models,
        lambda gateway: gateway.explain(),
        lambda gateway: gateway.diagnose(),
        lambda gateway: gateway.bind(stop=["x"]),
        lambda gateway: gateway | (lambda x: x),
        lambda gateway: gateway.as_chat_model(),
        lambda gateway: gateway.prefer("strong"),
        lambda gateway: gateway._repr_html_(),
        lambda gateway: gateway.get_graph(),
        lambda gateway: gateway.get_graph()._repr_mimebundle_(),
    ],
)
def test_nothing_shows_keys_or_passwords(
    part: Callable[[Any], Any], shown: Callable[[Any], str]
) -> None:
    """Neither a gateway nor any part of it shows a key, or the user info of an address."""
    text = shown(part(with_secrets()))
    assert KEY not in text
    assert PASSWORD not in text
    assert "user:" not in text


def test_an_error_shows_no_keys_or_passwords() -> None:
    """Nor does the error of a call that reached nobody, or any entry of it."""
    with pytest.raises(AllModelsFailedError) as caught:
        with_secrets().invoke("x")
    for value in (caught.value, caught.value.failures, caught.value.skipped):
        assert KEY not in repr(value) + str(value)
        assert PASSWORD not in repr(value) + str(value)


def test_reprs_show_names_and_settings() -> None:
    """A repr says what tells gateways apart, and stays short."""
    gateway = hours(("22:00", "6:00"))
    assert repr(gateway) == "GatewayRunnable(models=['weak', 'strong'])"
    assert repr(gateway["weak"]) == (
        "ModelDeployment(model_name='weak', model=ScriptedChatModel, "
        "time_constraints=['22:00-06:00 UTC'])"
    )
    assert repr(hours().prefer("strong")) == (
        "GatewayRunnable(models=['weak', 'strong'], model_preference='strong')"
    )


def test_a_repr_is_one_line() -> None:
    """A name with a line break leaves a repr on one line."""
    gateway = named("two\nlines\x1b[0m", "other")
    deployment = ModelDeployment(model_name="two\nlines\x1b[0m", model=says("hi"))
    for text in (repr(gateway), repr(deployment)):
        assert len(text.splitlines()) == 1
        assert text.isprintable()
