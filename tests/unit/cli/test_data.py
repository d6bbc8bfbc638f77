from __future__ import annotations

import importlib
import io
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from finery.cli import data
from finery.cli.data import app
from finery.errors import FineryError, InputError

USER = {"role": "user", "content": "Hi"}
ANSWER = {"role": "assistant", "content": "Hello \x1b[31m!"}


@pytest.fixture
def chat(tmp_path: Path) -> Path:
    path = tmp_path / "train.jsonl"
    rows = [{"messages": [USER, ANSWER], "id": n} for n in range(3)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + "\n")
    return path


def _run(*args: object) -> str:
    """The output of a command that ends well."""
    run = CliRunner().invoke(app, [str(arg) for arg in args], catch_exceptions=False)
    assert run.exit_code == 0, run.output
    return run.output


class _Renderer:
    """Renders as `<user>text<end>`; an answer and its end carry loss."""

    def render(self, messages: Any, tools: Any = None) -> SimpleNamespace:
        text, spans = "", []
        for message in messages:
            text += f"<{message['role']}>"
            start = len(text)
            text += f"{message['content']}<end>"
            if message["role"] == "assistant":
                spans.append((start, len(text)))
            if message["content"] == "forged":
                raise FineryError("the chat template refuses this conversation")
        return SimpleNamespace(text=text, ids=[*range(9)], trained=[True] * 4, spans=spans)


@pytest.fixture
def fake_model(monkeypatch: pytest.MonkeyPatch) -> None:
    sources = importlib.import_module("finery.model.sources")
    render = importlib.import_module("finery.chat.render")
    folder = SimpleNamespace(path=Path("models/m"))
    monkeypatch.setattr(sources, "resolve_source", lambda source: folder)
    monkeypatch.setattr(render, "load_renderer", lambda path: _Renderer())


def test_check_says_what_is_in_a_file(chat: Path) -> None:
    out = _run("check", chat)
    assert str(chat) in out
    for name, value in {
        "conversations": "3",
        "messages": "6",
        "roles": "3 × (user assistant)×1",
        "duplicates": "2",
        "blank lines": "1",
        "other columns": "id",
        "answers each": "1 to 1, median 1",
    }.items():
        line = next(line for line in out.splitlines() if line.startswith(name))
        assert line.removeprefix(name).strip() == value
    assert "in a file above" not in out


def test_check_tells_rows_that_are_in_two_files(chat: Path) -> None:
    copy = chat.with_name("test.jsonl")
    copy.write_bytes(chat.read_bytes())
    assert "in a file above too" in _run("check", chat, copy)


def test_check_gives_the_same_numbers_as_json(chat: Path) -> None:
    (file,) = json.loads(_run("check", chat, "--json"))["files"]
    assert file["file"] == str(chat)
    assert file["roles"] == {"(user assistant)×1": 3}
    assert file["answers"] == {"smallest": 1, "median": 1, "largest": 1}
    assert (file["conversations"], file["duplicates"], file["blank_lines"]) == (3, 2, 1)


def test_check_tells_the_faults_of_all_files_at_once(chat: Path) -> None:
    chat.write_text("3\n")
    missing = chat.with_name("no.jsonl")
    run = CliRunner().invoke(app, ["check", str(chat), str(missing)])
    assert isinstance(run.exception, InputError) and run.exception.exit_status == 2
    assert [fault.where for fault in run.exception.faults] == [f"{chat}:1", str(missing)]


def test_download_says_what_was_written_and_what_is_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "mirror" / "org" / "chat"
    folder.mkdir(parents=True)
    (folder / "train.jsonl").write_text('{"a": 1}\n' * 40)
    (folder / "test.jsonl").write_text('{"a": 1}\n' * 4)
    monkeypatch.setenv("FINERY_HUB_MIRROR", str(tmp_path / "mirror"))
    out = _run("download", "org/chat", "--split-pc", 5, "--dir", tmp_path / "out")
    assert f"From {folder}:" in out
    assert f"{tmp_path / 'out' / 'train.jsonl'}  2 of 40 rows\n" in out
    assert "0 of 4 rows: none, ask for a larger --split-pc" in out


@pytest.mark.usefixtures("fake_model")
def test_preview_brackets_what_is_trained_when_there_is_no_colour(chat: Path) -> None:
    out = _run("preview", chat, "--model", "m", "--rows", 2)
    assert out.count("<user>Hi<end><assistant>⟦Hello \\x1b[31m!<end>⟧") == 2
    assert f"{chat}:1  9 tokens, 4 trained; columns messages, id" in out
    assert "\x1b" not in out


@pytest.mark.usefixtures("fake_model")
def test_preview_names_the_row_the_template_refuses(chat: Path) -> None:
    chat.write_text(json.dumps({"messages": [{**USER, "content": "forged"}, ANSWER]}))
    run = CliRunner().invoke(app, ["preview", str(chat), "--model", "m"])
    assert isinstance(run.exception, FineryError)
    assert str(run.exception) == f"{chat}:1: the chat template refuses this conversation"


@pytest.mark.usefixtures("fake_model")
@pytest.mark.parametrize("no_color", [False, True])
def test_preview_colours_what_is_trained_on_a_terminal(
    chat: Path, monkeypatch: pytest.MonkeyPatch, no_color: bool
) -> None:
    terminal = Console(
        file=io.StringIO(), force_terminal=True, color_system="standard", no_color=no_color
    )
    monkeypatch.setattr(data, "_console", lambda: terminal)
    _run("preview", chat, "--model", "m", "--rows", 1)
    assert isinstance(terminal.file, io.StringIO)
    out = terminal.file.getvalue()
    assert ("\x1b[32mHello \\x1b[31m!<end>\x1b[0m" in out) is not no_color
    assert ("\x1b[2m<user>Hi<end><assistant>\x1b[0m" in out) is not no_color
    assert ("⟦" in out) is no_color


def test_help_is_shown_without_loading_any_heavy_library() -> None:
    code = (
        "import sys, finery.cli.data, finery.chat.conversation, finery.chat.download, "
        "finery.chat.split, finery.chat.overview\n"
        "heavy = {'torch', 'transformers', 'datasets', 'mlflow', 'pyarrow', 'numpy'}\n"
        "sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
