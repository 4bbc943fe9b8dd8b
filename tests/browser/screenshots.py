"""Take pictures of every notebook in a real JupyterLab, to be looked at.

Each is shown light and dark, wide and narrow: as it is committed, in a browser that does not trust
it, and after a run.
"""

import argparse
import shutil
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.browser.lab import Lab, lab

THEMES = {"light": "JupyterLab Light", "dark": "JupyterLab Dark"}
WIDTHS = (1280, 720)
FOLDER = Path(__file__).parents[2]


def main() -> None:
    """Take all pictures, or those of the notebooks that are named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebooks", nargs="*", type=Path)
    parser.add_argument("--to", type=Path, default=FOLDER / "build" / "screenshots")
    given = parser.parse_args()
    notebooks = given.notebooks or sorted((FOLDER / "notebooks").glob("*.ipynb"))
    with TemporaryDirectory() as work, TemporaryDirectory() as home:
        for notebook in notebooks:
            shutil.copy(notebook, work)
        with lab(Path(work), Path(home)) as running:
            for path in pictures(running, [each.name for each in notebooks], given.to):
                print(path)  # noqa: T201


def pictures(running: Lab, names: Sequence[str], to: Path) -> Iterator[Path]:
    """Take each picture and tell where it is."""
    for name, state in product(names, ("untrusted", "run")):
        if state == "run":
            running.command("notebook:run-all-cells")
            running.command("docmanager:save")
        for (theme, title), width in product(THEMES.items(), WIDTHS):
            path = to / f"{Path(name).stem}-{state}-{theme}-{width}.png"
            running.open(name, title, width)
            running.picture(path)
            yield path


if __name__ == "__main__":
    main()
