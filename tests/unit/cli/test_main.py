"""The command line as a person meets it: help, versions, one message for a mistake."""

from __future__ import annotations

import errno
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from finery import __version__
from finery.cli import main as command_line
from finery.cli.main import EXIT_STATUSES, app, main
from finery.errors import FineryError


def finery(*words: str) -> subprocess.CompletedProcess[str]:
    """The real program, in a process of its own."""
    command = [sys.executable, "-m", "finery.cli.main", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_the_version_is_the_packages() -> None:
    done = finery("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"finery {__version__}\n", "")


def test_without_a_command_the_help_is_shown() -> None:
    done = CliRunner().invoke(app, [])
    assert done.exit_code in (0, 2)
    for word in ("quickstart", "finetune", "evaluate", "chat", "data", "model"):
        assert word in done.output


def test_a_mistake_is_one_message_on_standard_error_without_a_traceback(tmp_path: Path) -> None:
    done = finery("finetune", "--modle", "x", "--lora-r", "0", "--train", str(tmp_path / "none"))
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("finery: recipe: 4 faults in the input\n")
    for words in ("Did you mean --model?", "--lora-r", "no model", "which is not there"):
        assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == 5


def test_something_refused_ends_with_status_1(tmp_path: Path) -> None:
    done = finery("chat", str(tmp_path), "--json")
    assert done.returncode == 1
    assert done.stderr == (
        "finery: --json prints one answer and needs a --message. Add --message TEXT.\n"
    )


def raising(error: BaseException) -> object:
    def command(obj: object = None) -> None:
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (FineryError("No. Do this."), 1, "finery: No. Do this.\n"),
        (
            OSError(errno.ENOSPC, "No space left on device", "run/model"),
            1,
            "finery: run/model: no space left on device. Make room or choose another place.\n",
        ),
        (  # as safetensors says it
            RuntimeError("Error while serializing: I/O error: No space left (os error 28)"),
            1,
            "finery: no space left on device. Make room or choose another place.\n",
        ),
    ],
)
def test_each_error_has_its_message_and_status(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    status: int,
    message: str,
) -> None:
    monkeypatch.setattr(command_line, "app", raising(error))
    with pytest.raises(SystemExit) as end:
        main()
    assert (end.value.code, capsys.readouterr().err) == (status, message)


@pytest.mark.parametrize("defect", [ValueError("ours"), OSError(errno.EBADF, "ours")])
def test_a_defect_of_finery_keeps_its_traceback(
    monkeypatch: pytest.MonkeyPatch, defect: Exception
) -> None:
    monkeypatch.setattr(command_line, "app", raising(defect))
    with pytest.raises(type(defect)):
        main()


def test_every_exit_status_of_an_error_is_listed() -> None:
    def below(kind: type[FineryError]) -> set[int]:
        return {kind.exit_status}.union(*map(below, kind.__subclasses__()))

    assert below(FineryError) | {0} == set(EXIT_STATUSES)


def test_every_command_has_a_sentence_in_the_help() -> None:
    output = CliRunner().invoke(app, ["--help"], terminal_width=200).output
    for name in ("quickstart", "finetune", "evaluate", "chat", "data", "model"):
        assert re.search(rf"{name}\s+\S.*", output)
