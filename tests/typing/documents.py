"""Write the code of README and docs as modules for the type checkers, each line at its number."""

import sys
from pathlib import Path

from tests.test_readme import DOCUMENTS, blocks

# On the line of a document's title. What LangGraph's own annotations leave open is no mistake here.
HEAD = (
    "# pyright: strict, reportUnknownMemberType=false, reportUnknownVariableType=false, "
    "reportMissingTypeStubs=false"
)


def written(document: Path, folder: Path) -> None:
    """Write one document's code below `folder`, if it has some."""
    lines = [HEAD]
    for block in blocks(document):
        if not block.reason:
            lines += [""] * (block.line - 1 - len(lines)) + block.code.splitlines()
    if len(lines) > 1:
        module = folder / f"{document.stem.lower().replace('-', '_')}.py"
        module.write_text("\n".join([*lines, ""]), encoding="utf-8")


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.mkdir(parents=True, exist_ok=True)
    for each in DOCUMENTS:
        written(each, target)
