"""JupyterLab on a free port of this machine, and one of its pages in Chromium."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.error import URLError
from urllib.request import urlopen

from playwright.sync_api import Page, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")
SETTINGS = {
    "notebook-extension/tracker": {"windowingMode": "none", "scrollPastEnd": False},
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
}
# No look-ups of the browser's own: this may be a machine without a network.
FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
TOOLBAR = 120
"""The pixels above a notebook's cells."""


class Lab(NamedTuple):
    """A JupyterLab that runs."""

    url: str
    page: Page

    def open(self, name: str, theme: str, width: int) -> None:
        """Show a notebook alone."""
        self.page.set_viewport_size({"width": width, "height": 900})
        self.page.goto(f"{self.url}/doc/tree/{name}")
        self._ready()
        if self.page.evaluate("document.body.dataset.jpThemeName") != theme:
            self.command("apputils:change-theme", theme=theme)
            self.page.wait_for_timeout(1000)
            self.page.reload()  # a drawing keeps the colours of the theme that it was made for
            self._ready()
        self.page.wait_for_timeout(1500)

    def _ready(self) -> None:
        self.page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=60_000)

    def command(self, name: str, **arguments: Any) -> None:
        """Execute one of JupyterLab's commands, to its end."""
        run = "async ([name, args]) => { await window.jupyterapp.commands.execute(name, args) }"
        self.page.evaluate(run, [name, arguments])

    def picture(self, path: Path) -> None:
        """Take a picture of the whole notebook."""
        width = self.page.viewport_size["width"] if self.page.viewport_size else 1280
        tall = "document.querySelector('.jp-WindowedPanel-outer').scrollHeight"
        self.page.set_viewport_size(
            {"width": width, "height": min(TOOLBAR + int(self.page.evaluate(tall)), 16_000)}
        )
        self.page.wait_for_timeout(500)
        path.parent.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=path)


def chromium() -> str:
    """The browser's path; ends the program if there is none."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        sys.exit("No Chromium found. On Debian and Ubuntu: apt-get install chromium")
    return found


@contextmanager
def lab(folder: Path, home: Path) -> Iterator[Lab]:
    """Serve a folder's notebooks.

    Args:
        folder: Where the notebooks are.
        home: Where JupyterLab keeps its settings; nothing of the user's own is read.
    """
    browser = chromium()
    for name, settings in SETTINGS.items():
        path = home / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(settings), encoding="utf-8")
    url = f"http://127.0.0.1:{(port := _free_port())}"
    with _process(_arguments(port, folder), home), sync_playwright() as playwright:
        _wait_for(url)
        with playwright.chromium.launch(executable_path=browser, args=FLAGS) as running:
            yield Lab(url, running.new_page())


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def _arguments(port: int, folder: Path) -> Sequence[str]:
    return (
        *("-m", "jupyterlab", "--no-browser", "--allow-root", "--expose-app-in-browser"),
        *(f"--port={port}", f"--ServerApp.root_dir={folder}", "--IdentityProvider.token="),
        "--ServerApp.disable_check_xsrf=True",
    )


@contextmanager
def _process(arguments: Sequence[str], home: Path) -> Iterator[None]:
    own = ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")
    environment = {
        **os.environ,
        **{name: str(home / name.lower()) for name in own},
        "JUPYTERLAB_SETTINGS_DIR": str(home / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"),
    }
    log = (home / "jupyterlab.log").open("w", encoding="utf-8")
    command = [sys.executable, *arguments]
    with log, subprocess.Popen(command, env=environment, stdout=log, stderr=log) as process:
        try:
            yield
        finally:
            process.terminate()


def _wait_for(url: str, seconds: float = 60) -> None:
    ends = time.monotonic() + seconds
    while True:
        try:
            urlopen(f"{url}/api").close()
        except URLError:
            if time.monotonic() > ends:
                raise
            time.sleep(0.2)
        else:
            return


if __name__ == "__main__":
    chromium()
