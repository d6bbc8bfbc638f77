"""What every command owes the terminal: the next command, no colour elsewhere, help that fits."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from finery.cli.main import app
from finery.cli.reference import commands
from finery.cli.tables import print_table

GOOD = '{"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]}\n'
LINE = [sys.executable, "-m", "finery.cli.main"]


def run(words: Sequence[str], home: Path, **more: str) -> subprocess.CompletedProcess[str]:
    """A command as a script sees it: no terminal anywhere."""
    environment = {**os.environ, "FINERY_HOME": str(home), "COLUMNS": "80", **more}
    return subprocess.run([*LINE, *words], env=environment, capture_output=True, text=True)


def test_a_check_ends_with_the_command_that_comes_next(tmp_path: Path) -> None:
    file = tmp_path / "a chat.jsonl"
    file.write_text(GOOD)
    checked = run(["data", "check", str(file)], tmp_path)
    assert checked.returncode == 0
    last = checked.stderr.splitlines()[-1]
    assert last == f"Next: finery data preview '{file}' --model MODEL"


@pytest.mark.parametrize("words", [["--help"], ["job", "create", "--help"], ["job", "list"]])
def test_nothing_is_coloured_where_no_terminal_is(words: list[str], tmp_path: Path) -> None:
    said = run(words, tmp_path, TERM="xterm-256color")
    assert "\x1b" not in said.stdout + said.stderr


def test_help_of_every_command_fits_eighty_columns() -> None:
    names = [name.removeprefix("finery ").split() for name, _ in commands(app, "finery")]
    code = (
        "import sys\nfrom typer.testing import CliRunner\nfrom finery.cli.main import app\n"
        f"for words in {names!r}:\n"
        "    shown = CliRunner().invoke(app, [*words, '--help']).output\n"
        "    wide = [line for line in shown.splitlines() if len(line) > 80]\n"
        "    assert shown and not wide, (words, wide)\n"
    )
    environment = {**os.environ, "COLUMNS": "80"}
    ran = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
    assert ran.returncode == 0, ran.stderr.decode()


def test_a_table_fits_a_terminal_of_eighty_columns(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("FORCE_COLOR", "1")
    print_table(("name", "status", "path"), [("n" * 60, "Running", "p" * 120)], "none")
    shown = capsys.readouterr().out.replace("\x1b[1m", "").replace("\x1b[0m", "")
    assert max(map(len, shown.splitlines())) <= 80
    assert shown.count("p") >= 120, "folded, not cut"


def test_completion_is_offered_for_the_shell() -> None:
    asked = {"_FINERY_COMPLETE": "complete_bash", "COMP_WORDS": "finery dep", "COMP_CWORD": "1"}
    command = Path(sys.executable).with_name("finery")
    completed = subprocess.run(
        [command], env={**os.environ, **asked}, capture_output=True, text=True, check=False
    )
    assert completed.stdout.split() == ["deploy"]
