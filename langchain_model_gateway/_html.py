"""Tables for a notebook. Its sanitizer drops most of CSS from outputs that it does not trust."""

from collections.abc import Sequence
from html import escape
from typing import Final

NAME_LIMIT: Final = 60
"""The most characters of a name that are shown."""

_TABLE: Final = "border-collapse:collapse;font-family:system-ui,sans-serif;font-size:13px"
_CAPTION: Final = "padding:4px 8px;text-align:left;font-weight:bold"
# A name may be one long word, and the window narrow.
_CELL: Final = (
    "padding:4px 8px;text-align:left;vertical-align:middle;white-space:normal;"
    "max-width:440px;overflow-wrap:break-word"
)


def escaped(texts: Sequence[str]) -> list[str]:
    """Texts as markup."""
    return [escape(text) for text in texts]


def html_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of cells that are markup already; the title is not."""

    def line(tag: str, cells: Sequence[str]) -> str:
        return "<tr>" + "".join(f'<{tag} style="{_CELL}">{c}</{tag}>' for c in cells) + "</tr>"

    body = "".join(line("td", row) for row in rows)
    caption = f'<caption style="{_CAPTION}">{escape(title)}</caption>'
    head = f"<thead>{line('th', header)}</thead>"
    return f'<table style="{_TABLE}">{caption}{head}<tbody>{body}</tbody></table>'
