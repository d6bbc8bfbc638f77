"""`finery demo`: from training to answers over HTTP, and nothing is left of it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from finery.cli import demo
from finery.cli.main import app
from finery.errors import FineryError
from finery.runners import process


class Commands:
    """What the demo runs, in whose home, and which command fails."""

    def __init__(self, run: Path) -> None:
        self.run_folder = run
        self.run: list[tuple[str, ...]] = []
        self.homes: set[str] = set()
        self.failing = ""

    def __call__(self, environment: Mapping[str, str], *words: str) -> None:
        self.run.append(words)
        if words[0] == "quickstart":
            (self.run_folder / "model").mkdir(parents=True)
            (self.run_folder / "model" / "config.json").write_text("{}")
        else:
            self.homes.add(environment["FINERY_HOME"])
            assert (Path(environment["FINERY_HOME"]) / "models").is_dir(), "imported models"
        if words[0] == "up":
            gateway = Path(environment["FINERY_HOME"]) / "service" / "gateway" / "process"
            gateway.mkdir(parents=True)
            (gateway / "lock").touch()
        if words[0] == self.failing:
            raise FineryError("it failed")

    @property
    def names(self) -> list[str]:
        return [words[0] for words in self.run]


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Commands:
    found = Commands(tmp_path / "run")
    monkeypatch.setattr(demo, "run", found)
    return found


@pytest.fixture
def stopped(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which processes were stopped, by the names of their folders."""
    found: list[str] = []
    monkeypatch.setattr(process, "stop", lambda folder, grace: found.append(folder.name))
    return found


def invoke(commands: Commands) -> Result:
    return CliRunner().invoke(app, ["demo", "--output", str(commands.run_folder)])


def test_the_demo_trains_registers_deploys_and_asks_both_models(
    commands: Commands, stopped: list[str]
) -> None:
    result = invoke(commands)
    assert result.exit_code == 0, result.output
    assert commands.names[:6] == ["quickstart", "up", "model", "deploy", "deploy", "endpoint"]
    assert commands.names[-2:] == ["endpoint", "down"]
    asked = [words for words in commands.run if words[0] == "chat"]
    assert len(asked) == 2 * demo.QUESTIONS
    for base, tuned in zip(asked[::2], asked[1::2], strict=True):
        assert ("base" in base, "tuned" in tuned) == (True, True)
        assert base[base.index("--message") :] == tuned[tuned.index("--message") :]


def test_it_works_in_a_home_of_its_own_that_goes_with_it(
    commands: Commands, stopped: list[str]
) -> None:
    invoke(commands)
    (home,) = commands.homes
    assert home != os.environ["FINERY_HOME"]
    assert not Path(home).exists()
    assert (Path(os.environ["FINERY_HOME"]) / "models").is_dir(), "the shared models stay"
    assert stopped == ["process"]


@pytest.mark.parametrize("failing", ["up", "deploy", "chat", "down"])
def test_whatever_fails_the_service_ends(
    commands: Commands, stopped: list[str], failing: str
) -> None:
    commands.failing = failing
    result = invoke(commands)
    assert isinstance(result.exception, FineryError)
    assert commands.names[-1] == "down"
    assert stopped == ["process"]
    assert not any(Path(home).exists() for home in commands.homes)


def test_a_training_that_fails_starts_no_service(commands: Commands) -> None:
    commands.failing = "quickstart"
    assert isinstance(invoke(commands).exception, FineryError)
    assert commands.names == ["quickstart"]


def test_a_command_is_shown_and_its_failure_ends_the_demo(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(FineryError, match="`finery nonsense` failed"):
        demo.run(os.environ, "nonsense", "two words")
    assert "$ finery nonsense 'two words'" in capsys.readouterr().out
