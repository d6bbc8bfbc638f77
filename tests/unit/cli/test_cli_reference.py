"""The page of the command line says what the commands say, on any terminal."""

from __future__ import annotations

import pytest
import typer

from finery.cli.main import EXIT_STATUSES, app
from finery.cli.reference import PAGE, cli_markdown, commands, parameters
from finery.recipe.inputs import SETTINGS


def test_the_page_is_fresh() -> None:
    assert PAGE.read_text(encoding="utf-8") == cli_markdown(), "run: python -m finery.cli.reference"


def test_the_terminal_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    before = cli_markdown()
    for name, value in {"COLUMNS": "40", "FORCE_COLOR": "1", "TERM": "dumb"}.items():
        monkeypatch.setenv(name, value)
    assert cli_markdown() == before
    assert "\x1b" not in before


def test_every_command_and_every_parameter_is_on_the_page() -> None:
    page = cli_markdown()
    found = dict(commands(app, "finery"))
    root = typer.main.get_command(app)
    assert len(found) >= 7
    assert {words.split()[1] for words in found} == set(root.commands)  # pyright: ignore[reportAttributeAccessIssue]
    for words, function in found.items():
        section = page.split(f"\n## {words}\n")[1].split("\n## ")[0]
        assert section.count("\n| `") == len(parameters(function))


def test_options_are_called_as_a_person_types_them() -> None:
    page = cli_markdown()
    assert "| `--json` |  |  | Print evaluation.json. |" in page
    assert "| `--temperature` | number, at least 0 | `0.0` |" in page
    assert "| `MODEL` | text | required |" in page
    assert "`--train` for `train_file_path`" in page
    assert all(f"`{row.flag}`" in page for row in SETTINGS.values() if row.short)


def test_exit_statuses_are_listed() -> None:
    page = cli_markdown()
    assert all(f"| {status} | {meaning} |" in page for status, meaning in EXIT_STATUSES.items())
