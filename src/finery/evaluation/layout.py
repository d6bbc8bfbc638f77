"""Sections of a report, and their two forms: Markdown and a terminal view.

Blocks hold raw text; each form escapes it for itself, so nothing is escaped twice or never.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from finery.evaluation.markup import fenced, markdown, plain

if TYPE_CHECKING:
    from rich.console import Group, RenderableType


@dataclass(frozen=True)
class Paragraph:
    """Running text."""

    text: str


@dataclass(frozen=True)
class Code:
    """Text whose columns matter: a curve, a command."""

    text: str
    language: str = ""


@dataclass(frozen=True)
class Table:
    """Rows of cells; `numbers` counts the columns from the right that align right."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: int = 0


Block = Paragraph | Code | Table


@dataclass(frozen=True)
class Section:
    """A heading with its blocks."""

    title: str
    blocks: Sequence[Block]


def to_markdown(title: str, sections: Iterable[Section]) -> str:
    """A Markdown document that ends in one newline."""
    parts = [f"# {markdown(title)}"]
    for section in sections:
        parts.append(f"## {markdown(section.title)}")
        parts.extend(_markdown_block(block) for block in section.blocks)
    return "\n\n".join(parts) + "\n"


def _markdown_block(block: Block) -> str:
    if isinstance(block, Paragraph):
        return markdown(block.text)
    if isinstance(block, Code):
        return fenced(block.text, block.language)
    plain_columns = len(block.columns) - block.numbers
    rule = [*["---"] * plain_columns, *["---:"] * block.numbers]
    head = [[markdown(name) for name in block.columns], rule]
    body = [[markdown(cell) for cell in row] for row in block.rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in [*head, *body])


def to_console(title: str, sections: Iterable[Section]) -> Group:
    """A rich renderable of the same sections; no cell is read as rich markup."""
    from rich.console import Group
    from rich.text import Text

    parts: list[RenderableType] = [Text(plain(title), style="bold")]
    for section in sections:
        parts += [Text(""), Text(plain(section.title), style="bold cyan")]
        parts.extend(_console_block(block) for block in section.blocks)
    return Group(*parts)


def _console_block(block: Block) -> RenderableType:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table as RichTable
    from rich.text import Text

    if isinstance(block, Paragraph):
        return Text(plain(block.text))
    if isinstance(block, Code):
        return Text(plain(block.text), overflow="fold")
    table = RichTable(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for number, name in enumerate(block.columns):
        numeric = number >= len(block.columns) - block.numbers
        table.add_column(Text(plain(name)), justify="right" if numeric else "left")
    for row in block.rows:
        table.add_row(*(Text(plain(cell)) for cell in row))
    return table
