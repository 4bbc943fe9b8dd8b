"""The shape of the package, read from its source: imports go one way, and no module grows large."""

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import langchain_model_gateway

PACKAGE = "langchain_model_gateway"
ROOT = Path(langchain_model_gateway.__path__[0])
SOURCES = sorted(ROOT.rglob("*.py"))

MOST_LINES = 370
LARGER = {
    "gateway.py": 660,  # the public class: its fields, docstrings and a Runnable's declarations
}
"""What may be larger, up to how many lines, and why."""


def name_of(source: Path) -> str:
    """The dotted name of a module of the package."""
    parts = source.relative_to(ROOT).with_suffix("").parts
    return ".".join([PACKAGE, *(part for part in parts if part != "__init__")])


MODULES = {name_of(source): source for source in SOURCES}


def imported(source: Path) -> Iterator[str]:
    """Every module and name that a module imports, also late or for types only."""
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{source.name}: imports are absolute"
            yield from (f"{node.module}.{each.name}" for each in node.names)


def module_of(name: str) -> str | None:
    """The package's module that an imported name is, or comes from."""
    parts = name.split(".")
    known = (".".join(parts[:end]) for end in range(len(parts), 0, -1))
    return next((each for each in known if each in MODULES), None)


def arrows(source: Path) -> set[str]:
    """The package's modules that one of them imports."""
    return {found for name in imported(source) if (found := module_of(name)) is not None}


def circle(graph: dict[str, set[str]]) -> list[str]:
    """A circle in a graph, if there is one."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        found: list[str] = error.args[1]
        return found
    return []


def test_imports_go_one_way() -> None:
    """No module imports, by whatever way, one that imports it: late and type-only ones count."""
    graph = {name: arrows(source) - {name} for name, source in MODULES.items()}
    assert len(graph) > 20
    assert circle(graph) == []


def test_a_circle_is_found() -> None:
    """The test above can fail."""
    assert set(circle({"a": {"b"}, "b": {"c"}, "c": {"a"}})) == {"a", "b", "c"}


def test_late_and_typed_imports_count(tmp_path: Path) -> None:
    """An import inside a function, and one for a type checker, are arrows like any other."""
    source = tmp_path / "new.py"
    source.write_text(
        "if TYPE_CHECKING:\n"
        f"    from {PACKAGE}.gateway import GatewayRunnable\n"
        "def late():\n"
        f"    from {PACKAGE} import display\n"
        f"    import {PACKAGE}.admission.windows\n"
    )
    expected = {f"{PACKAGE}.{name}" for name in ("gateway", "display", "admission.windows")}
    assert arrows(source) == expected


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: str(source.relative_to(ROOT)))
def test_no_module_grows_large(source: Path) -> None:
    """A module stays short enough to be read at a sitting."""
    limit = LARGER.get(str(source.relative_to(ROOT)), MOST_LINES)
    assert len(source.read_text(encoding="utf-8").splitlines()) <= limit


def test_the_exceptions_are_needed() -> None:
    """A module that has become small enough is no exception any more."""
    sizes = {name: len((ROOT / name).read_text(encoding="utf-8").splitlines()) for name in LARGER}
    assert [name for name, size in sizes.items() if size <= MOST_LINES] == []
