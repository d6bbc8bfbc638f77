"""`finery data`: check, download and look at conversations before anything is trained."""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from finery.cli.tables import say
from finery.errors import FineryError
from finery.evaluation.markup import plain

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from finery.chat.conversation import Conversation
    from finery.chat.overview import Overview, Range
    from finery.chat.render import Rendered

app = typer.Typer(no_args_is_help=True, help="Check, download and preview chat data.")

SHOWN_PATTERNS = 8


@app.command()
def check(
    files: Annotated[list[Path], typer.Argument(metavar="FILE…", help="Files of conversations.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the numbers as JSON.")] = False,
) -> None:
    """Say what is in files of conversations, or everything that is wrong with them."""
    from finery.chat.conversation import scan_conversations
    from finery.chat.overview import overviews
    from finery.chat.read import FaultList

    faults = FaultList()
    read = [scan_conversations(path, faults) for path in files]
    faults.raise_any()
    found = overviews(read)
    if as_json:
        files_json = [dataclasses.asdict(overview) for overview in found]
        typer.echo(json.dumps({"files": files_json}, indent=2, ensure_ascii=False))
        return
    console = _console()
    for overview in found:
        _print_overview(overview, console)
    say(f"Next: finery data preview {shlex.quote(str(files[0]))} --model MODEL")


@app.command()
def download(
    dataset: Annotated[str, typer.Argument(help="A name such as HuggingFaceH4/ultrachat_200k.")],
    percent: Annotated[
        float, typer.Option("--split-pc", help="How much of every split, from its first row.")
    ] = 100,
    folder: Annotated[
        Path, typer.Option("--dir", help="Where <split>.jsonl files go.", file_okay=False)
    ] = Path("data"),
) -> None:
    """Write the first rows of every split of a dataset as JSON Lines."""
    from finery.chat.download import download_dataset

    got = download_dataset(dataset, folder, percent)
    console = _console()
    console.print(f"From {got.source}:", markup=False, highlight=False, soft_wrap=True)
    for split in got.splits:
        note = "" if split.rows else ": none, ask for a larger --split-pc"
        line = f"  {split.path}  {split.rows} of {split.available} rows{note}"
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    if filled := [split.path for split in got.splits if split.rows]:
        say(f"Next: finery data check {shlex.join(map(str, filled))}")


@app.command()
def preview(
    file: Annotated[Path, typer.Argument(help="A file of conversations.")],
    model: Annotated[str, typer.Option(help="The model whose chat template is used.")],
    rows: Annotated[int, typer.Option(min=1, help="How many conversations, from the first.")] = 3,
) -> None:
    """Show conversations as the model sees them; what carries loss is green (or in ⟦ ⟧)."""
    from finery.chat.conversation import read_conversations
    from finery.chat.render import load_renderer
    from finery.model.sources import resolve_source

    conversations = read_conversations(file)
    renderer = load_renderer(resolve_source(model).path)
    console = _console()
    for conversation in conversations[:rows]:
        try:
            rendered = renderer.render(conversation.messages, conversation.tools)
        except FineryError as error:
            raise FineryError(f"{conversation.file}:{conversation.row}: {error}") from error
        _print_rendered(conversation, rendered, console)


def _console() -> Console:
    from rich.console import Console

    return Console()


def _print_overview(overview: Overview, console: Console) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    for name, value in _overview_lines(overview):
        table.add_row(Text(name, style="dim"), Text(plain(value)))
    console.print(Text(overview.file, style="bold"), soft_wrap=True)
    console.print(table)


def _overview_lines(overview: Overview) -> Iterator[tuple[str, str]]:
    yield "conversations", f"{overview.conversations:,}"
    yield "messages", f"{overview.messages:,}"
    yield "answers each", _range(overview.answers)
    yield "characters each", _range(overview.characters)
    yield "characters of answers", f"{overview.answer_characters:,} in all"
    for pattern, count in [*overview.roles.items()][:SHOWN_PATTERNS]:
        yield "roles", f"{count:,} × {pattern}"
    if len(overview.roles) > SHOWN_PATTERNS:
        yield "", f"and {len(overview.roles) - SHOWN_PATTERNS} other orders (--json lists all)"
    yield "with tools", f"{overview.with_tools:,}"
    yield "other columns", ", ".join(overview.columns) or "none"
    yield "duplicates", f"{overview.duplicates:,}"
    if overview.in_earlier_files:
        yield "in a file above too", f"{overview.in_earlier_files:,}"
    yield "blank lines", f"{overview.blank_lines:,}"


def _range(range_: Range) -> str:
    return f"{range_.smallest:,} to {range_.largest:,}, median {range_.median:,g}"


def _print_rendered(conversation: Conversation, rendered: Rendered, console: Console) -> None:
    from rich.text import Text

    trained = sum(rendered.trained)
    title = (
        f"{conversation.file}:{conversation.row}  {len(rendered.ids)} tokens, {trained} trained; "
        f"columns {', '.join(['messages', *conversation.columns])}"
    )
    console.print(Text(plain(title), style="bold"), soft_wrap=True)
    colour = console.color_system is not None and not console.no_color
    console.print(_marked(rendered, colour=colour), soft_wrap=True)
    console.print()


def _marked(rendered: Rendered, *, colour: bool) -> Text:
    """The rendered text with its trained parts told apart, by colour or by brackets."""
    from rich.text import Text

    text, cursor = Text(), 0
    for start, end in rendered.spans:
        text.append(plain(rendered.text[cursor:start]), "dim" if colour else "")
        part = plain(rendered.text[start:end])
        text.append(part if colour else f"⟦{part}⟧", "green" if colour else "")
        cursor = end
    return text.append(plain(rendered.text[cursor:]), "dim" if colour else "")
