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
DOCUMENTS = [README, *sorted((ROOT / "docs").glob("**/*.md"))]

NOT_RUN_LIMIT = 2
FIRST_EXAMPLE_LIMIT = 12
README_LIMIT = 160

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


def test_the_readme_is_short() -> None:
    """The README is read in one go; what is longer has a page of its own, which it links."""
    text = README.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= README_LIMIT
    pages = {document.relative_to(ROOT).as_posix() for document in DOCUMENTS[1:]}
    linked = set(re.findall(r"\]\((docs/[^)#]+)", text))
    assert pages - linked == {"docs/mutants.md"}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_within_documents_lead_somewhere(document: Path) -> None:
    """Every relative link and every heading linked to exists."""
    text = document.read_text(encoding="utf-8")
    for path, anchor in re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]+))?\)", text):
        target = (document.parent / path).resolve() if path else document
        # The installed wheel is tested beside the README and docs only.
        if target.suffix == ".md" and target in DOCUMENTS and anchor:
            assert anchor in anchors(target), f"{document.name} links to #{anchor}"
        elif path and (ROOT / ".git").exists():
            assert target.exists(), f"{document.name} links to {path}"


def anchors(document: Path) -> set[str]:
    """The names a code host gives to the headings."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
