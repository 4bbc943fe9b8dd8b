"""Write the code of README and docs as modules for the type checkers, each line at its number."""

import sys
from pathlib import Path

from tests.test_readme import DOCUMENTS, blocks


def written(document: Path, folder: Path) -> Path:
    """Write one document's code below `folder`."""
    lines: list[str] = []
    for block in blocks(document):
        if not block.reason:
            lines += [""] * (block.line - 1 - len(lines)) + block.code.splitlines()
    module = folder / f"{document.stem.lower().replace('-', '_')}.py"
    module.write_text("\n".join([*lines, ""]), encoding="utf-8")
    return module


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.mkdir(parents=True, exist_ok=True)
    for each in DOCUMENTS:
        written(each, target)
