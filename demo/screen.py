"""What the play looks like."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from rich.box import HEAVY_HEAD
from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.progress import Progress, ProgressColumn, Task, TaskID, TextColumn
from rich.rule import Rule
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from demo.providers import Provider

NARROW, WIDE = 76, 96
COLOURS = {"budget": "cyan", "flagship": "magenta", "backup": "yellow"}

console = Console(highlight=False)


class Row(NamedTuple):
    """One question's story in the closing table."""

    act: int
    question: str
    answered_by: str
    why: str


def opening(cast: Sequence[Provider], **recipe: Callable[..., Any]) -> None:
    """Say what this is and who plays, and show the very code that is about to run."""
    where = (
        "Here, three providers run on this machine (no key, no network) and break on cue. The "
        "clients are real: langchain-openai, over HTTP."
        if cast[0].server
        else "Here, two providers are OpenAI with your key, and a third cannot be reached."
    )
    console.print(
        Panel(
            "[bold]Several chat models, one Runnable to call.[/] It tries them in order, skips "
            "those that may not be used at this hour, falls back when one fails, and says who "
            f"answered. {where}",
            title="[bold]langchain-model-gateway[/]",
            border_style="blue",
        )
    )
    table = Table(box=None, show_header=False, padding=(0, 2))
    for each in cast:
        table.add_row(named(each.name), each.model.model_name, f"[dim]{each.address}[/]")
    console.print(table)
    lines = "\n".join(_body(function, name) for name, function in recipe.items())
    code = Syntax(lines, "python", background_color="default", word_wrap=True)
    console.print(Panel(code, title="All it takes", border_style="dim"))


def _body(function: Callable[..., Any], name: str) -> str:
    """A function's code, as if written where its result gets a name."""
    _, _, body = inspect.getsource(function).partition('"""\n')
    return inspect.cleandoc("\n" + body).replace("return ", f"{name} = ")


def act(title: str) -> None:
    """Begin an act."""
    console.print()
    console.print(Rule(f"[bold]{title}[/]", align="left", style="blue"))


def say(text: str) -> None:
    """Tell what is happening."""
    console.print(f"  {text}")


def named(name: str) -> str:
    """A deployment's name in its colour."""
    return f"[bold {COLOURS[name]}]{name}[/]"


def shown(value: object, code: str) -> None:
    """What code prints."""
    body = Text(str(value))
    console.print(Panel(body, title=f">>> print({code})", title_align="left", border_style="dim"))


def answer(row: Row, text: str) -> None:
    """Show who answered, and what."""
    line = f"  [green]✓[/] {named(row.answered_by)}: [bold]{row.question}[/] [dim]{escape(text)}[/]"
    console.print(line, no_wrap=True, overflow="ellipsis")


class Squares(ProgressColumn):
    """A square for each answer, which can be told from none without colours, too."""

    def render(self, task: Task) -> Text:
        """Draw a deployment's."""
        return Text("■ " * int(task.completed), style=COLOURS[task.fields["name"]])


def bars(names: Sequence[str]) -> tuple[Progress, dict[str, TaskID]]:
    """A row for each deployment, which grows with every answer it gives."""
    progress = Progress(
        TextColumn("  {task.description}"),
        TextColumn("{task.completed:.0f} answered"),
        Squares(),
        console=console,
    )
    return progress, {name: progress.add_task(named(name), name=name) for name in names}


def word(text: str) -> None:
    """Show a piece of a stream as it arrives."""
    console.print(Text(text, style="italic"), end="")


def closing(rows: Sequence[Row], *, live: bool) -> None:
    """The table of who answered what and why, and what to do next."""
    is_narrow = console.width < NARROW
    table = Table(
        header_style="bold",
        expand=True,
        border_style="blue",
        box=None if is_narrow else HEAVY_HEAD,
        pad_edge=not is_narrow,
    )
    table.add_column("act", justify="right", style="dim")
    table.add_column("question", ratio=1)
    table.add_column("by" if is_narrow else "answered by", min_width=8)
    table.add_column("why", width=22 if is_narrow else 28 if console.width < WIDE else None)
    for row, after in zip(rows, [*rows[1:], None], strict=True):
        is_last = after is None or after.act != row.act
        cells = (str(row.act), row.question, named(row.answered_by), row.why)
        table.add_row(*cells, end_section=is_last)
    console.print()
    console.print(Rule("[bold]Who answered what, and why[/]", align="left", style="blue"))
    console.print(table)
    say(f"[bold green]{len(rows)} questions, {len(rows)} answers.[/]")
    _next(live=live)


def _next(*, live: bool) -> None:
    steps = Table(box=None, show_header=False, padding=(0, 2))
    steps.add_column(no_wrap=True)
    steps.add_row("README.md", "the first example, and a setting for production")
    steps.add_row("notebooks/01_quickstart.ipynb", "the same, step by step; no key needed")
    steps.add_row("make docs", "the guides and the reference, as a site in build/site")
    if not live:
        steps.add_row("make demo LIVE=1", "this, with OpenAI (needs OPENAI_API_KEY)")
    console.print()
    console.print(Rule("[bold]What next[/]", align="left", style="blue"))
    console.print(steps)
