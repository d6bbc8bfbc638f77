"""What commands print: a table or facts for people, one JSON value for programs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from finery.evaluation.markup import plain

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, for programs.")]
# Wide enough that no name is broken where no terminal says how wide it is.
_UNLIMITED = 400


def print_json(value: Any) -> None:
    """One JSON value on standard output."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


def say(text: str) -> None:
    """A line for people on standard error, which no program has to read past."""
    typer.echo(plain(text), err=True)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], none: str) -> None:
    """A table; the sentence `none` where there is no row."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(plain(_text(cell))) for cell in row))
    if not table.row_count:
        typer.echo(none)
        return
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = _UNLIMITED
    console.print(table)


def print_facts(facts: Mapping[str, Any]) -> None:
    """One line a fact; facts that are empty are left out."""
    shown = {name: _text(value) for name, value in facts.items() if value not in ("", None, {}, [])}
    width = max((len(name) for name in shown), default=0) + 2
    for name, value in shown.items():
        typer.echo(f"{name:<{width}}{plain(value)}")


def moment(text: str | None) -> str:
    """A time of the service in this machine's own zone, to the second."""
    return "" if not text else _time(text).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def lasted(start: str | None, end: str | None) -> str:
    """How long something took, or takes so far: `1:02:03`."""
    if not start:
        return ""
    seconds = int(((_time(end) if end else datetime.now(UTC)) - _time(start)).total_seconds())
    hours, rest = divmod(max(seconds, 0), 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}"


def _time(text: str) -> datetime:
    found = datetime.fromisoformat(text)
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, Mapping):
        return ", ".join(f"{name}={_text(one)}" for name, one in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_text(one) for one in value)
    return str(value)
