"""What the documents say is true: their code runs as it stands, and prints what they show."""

import logging
import re
from collections.abc import Iterator
from doctest import ELLIPSIS, NORMALIZE_WHITESPACE, OutputChecker
from pathlib import Path
from typing import NamedTuple

import pytest
from llmock.pytest_plugin import LLMock

import langchain_model_gateway

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
SITE = ROOT / "mkdocs.yml"
DOCUMENTS = [README, *sorted((ROOT / "docs").glob("**/*.md"))]

NOT_RUN_LIMIT = 2
FIRST_EXAMPLE_LIMIT = 12
README_LIMIT = 135
PAGE_LIMIT = 150

REPOSITORY = re.compile(
    r"https://(?:github\.com/langchain-model-gateway/langchain-model-gateway/(?:blob|tree)"
    r"|raw\.githubusercontent\.com/langchain-model-gateway/langchain-model-gateway)/main/"
)
"""Where this project's files are to be found on the code host."""

BLOCK = re.compile(
    r"^(?:<!-- not run: (?P<reason>[^\n]+) -->\n)?"
    r"```python\n(?P<code>.*?)^```$"
    # What it prints: a text block, with at most one line of prose in between.
    r"(?:\n\n(?:[^\n`#|<][^\n]*\n\n)?```text\n(?P<output>.*?)^```$)?",
    re.MULTILINE | re.DOTALL,
)


class Block(NamedTuple):
    """One block of Python in a document.

    Attributes:
        line: Where its code begins.
        code: The code.
        output: What the document says it prints, if it does.
        reason: Why it is not run, if it isn't.
    """

    line: int
    code: str
    output: str | None
    reason: str | None


def blocks(document: Path) -> list[Block]:
    text = document.read_text(encoding="utf-8")
    found = [
        Block(text.count("\n", 0, m.start("code")) + 1, m["code"], m["output"], m["reason"])
        for m in BLOCK.finditer(text)
    ]
    assert len(found) == text.count("```python"), "a block of Python is not recognised as one"
    return found


@pytest.fixture
def package_logger() -> Iterator[None]:
    """Put the log level back, which a document may change."""
    logger = logging.getLogger("langchain_model_gateway")
    level = logger.level
    yield
    logger.setLevel(level)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
@pytest.mark.usefixtures("llmock", "package_logger")
def test_code_runs_as_it_stands(document: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every block runs after those before it, and prints what the document shows."""
    namespace: dict[str, object] = {"__name__": document.stem}
    for block in blocks(document):
        if block.reason:
            continue
        capsys.readouterr()
        # Padded, so that a traceback names the document's own line.
        source = "\n" * (block.line - 1) + block.code
        exec(compile(source, str(document), "exec"), namespace)
        printed = capsys.readouterr().out
        if block.output is not None:
            check_output(block.output, printed, f"{document.name}:{block.line}")


def check_output(expected: str, printed: str, where: str) -> None:
    same = OutputChecker().check_output(expected, printed, ELLIPSIS | NORMALIZE_WHITESPACE)
    assert same, f"{where} shows\n{expected}\nbut prints\n{printed}"


def test_hardly_a_block_is_left_out() -> None:
    """At most two blocks in all documents are not run, and say why."""
    left_out = [block for document in DOCUMENTS for block in blocks(document) if block.reason]
    assert len(left_out) <= NOT_RUN_LIMIT


def test_there_is_code_to_run(llmock: LLMock) -> None:
    """The README's first example is a dozen lines in which the second model answers."""
    first = blocks(README)[0]
    assert len(first.code.strip().splitlines()) <= FIRST_EXAMPLE_LIMIT
    exec(first.code, {})
    assert [request.model for request in llmock.requests] == ["gpt-4o"]


@pytest.mark.parametrize("name", langchain_model_gateway.__all__)
def test_every_public_name_is_documented(name: str) -> None:
    """A reader meets every public name."""
    texts = (document.read_text(encoding="utf-8") for document in DOCUMENTS)
    assert any(re.search(rf"\b{name}\b", text) for text in texts)


@pytest.mark.parametrize("name", langchain_model_gateway.__all__)
def test_every_public_name_is_in_the_reference(name: str) -> None:
    """The reference shows every public name, from its docstring."""
    pages = (ROOT / "docs/reference").glob("*.md")
    shown = f"::: langchain_model_gateway.{name}\n"
    assert any(shown in page.read_text(encoding="utf-8") for page in pages)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_a_document_is_read_in_one_go(document: Path) -> None:
    """The README has about 120 lines, and no page is longer than three screens."""
    limit = README_LIMIT if document == README else PAGE_LIMIT
    assert len(document.read_text(encoding="utf-8").splitlines()) <= limit


@pytest.mark.skipif(not SITE.exists(), reason="the wheel is tested beside README and docs only")
def test_every_page_is_in_the_site() -> None:
    """The site's navigation leads to every page."""
    nav = SITE.read_text(encoding="utf-8").partition("\nnav:\n")[2]
    pages = {document.relative_to(ROOT / "docs").as_posix() for document in DOCUMENTS[1:]}
    assert set(re.findall(r": (\S+\.md)$", nav, re.MULTILINE)) == pages


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_within_the_project_lead_somewhere(document: Path) -> None:
    """Every link to a file of this project, and every heading linked to, exists."""
    text = document.read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        local, is_absolute = REPOSITORY.subn("", link)
        if "://" in local:
            continue
        path, _, anchor = local.partition("#")
        folder = ROOT if is_absolute else document.parent
        target = (folder / path).resolve() if path else document
        # The installed wheel is tested beside the README and docs only.
        if target.suffix == ".md" and target in DOCUMENTS and anchor:
            assert anchor in anchors(target), f"{document.name} links to #{anchor}"
        elif path and (ROOT / ".git").exists():
            assert target.exists(), f"{document.name} links to {path}"


def test_the_readme_can_be_read_elsewhere() -> None:
    """Its links and pictures work on a package index, too: all are absolute."""
    links = re.findall(r"\]\(([^)\s]+)\)", README.read_text(encoding="utf-8"))
    assert [link for link in links if not link.startswith(("https://", "#"))] == []


def anchors(document: Path) -> set[str]:
    """The names a code host gives to the headings."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
