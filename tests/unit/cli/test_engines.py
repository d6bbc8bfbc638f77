"""`finery engines`: what is installed, and how it comes and goes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from finery.cli.main import app
from finery.errors import FineryError, InputError
from finery.files import write_json
from finery.inference.engines import environments
from finery.inference.engines.environments import Environment, place, row_of


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environments, "has_cuda", lambda: False)


def run(*words: str) -> tuple[str, str]:
    done = CliRunner().invoke(app, ["engines", *words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout, done.stderr


def pretend(name: str, packages: tuple[str, ...]) -> Path:
    """The environment of an engine, without its gigabytes."""
    folder = place(name)
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python").write_text("#!")
    note = {"engine": name, "device": "cpu", "packages": packages, "python_version": "3.11.0"}
    write_json(folder / "manifest.json", note)
    return folder


def test_the_list_says_what_is_here() -> None:
    folder = pretend("openvino", row_of("openvino").packages)
    rows = {row["name"]: row for row in json.loads(run("list", "--json")[0])}
    assert rows["torch"]["state"] == "built in"
    assert rows["openvino"]["state"] == "installed"
    assert rows["openvino"]["folder"] == str(folder)
    assert rows["openvino"]["packages"] == list(row_of("openvino").packages)
    assert (rows["vllm"]["state"], rows["vllm"]["folder"]) == ("not installed", "")
    assert all(rows["torch"].keys() == row.keys() for row in rows.values())


def test_for_people_it_is_a_table() -> None:
    pretend("openvino", ("openvino==1",))
    lines = run("list")[0].splitlines()
    assert lines[0].split() == ["engine", "state", "device", "folder"]
    assert [line.split()[:2] for line in lines[1:]] == [
        ["torch", "built"],
        ["openvino", "outdated"],
        ["vllm", "not"],
    ]


def test_installing_tells_its_steps_apart_from_its_result(monkeypatch: pytest.MonkeyPatch) -> None:
    def install(name: str, say: Callable[[str], None]) -> Environment:
        say("Collecting openvino==2026.4.1")
        pretend(name, row_of(name).packages)
        found = environments.installed(name)
        assert found is not None
        return found

    monkeypatch.setattr(environments, "install", install)
    out, told = run("install", "openvino", "--json")
    assert json.loads(out)["state"] == "installed"
    assert "Collecting openvino==2026.4.1" in told
    assert f"The engine openvino is installed in {place('openvino')}." in told


def test_a_failed_installation_is_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    def install(name: str, say: object) -> Environment:
        raise FineryError("openvino: its packages could not be made (status 1).\nno such version")

    monkeypatch.setattr(environments, "install", install)
    with pytest.raises(FineryError, match="no such version"):
        run("install", "openvino")


def test_removing_says_whether_there_was_one() -> None:
    folder = pretend("openvino", ())
    out, told = run("remove", "openvino", "--json")
    assert json.loads(out) == {"name": "openvino", "removed": True}
    assert "is gone" in told
    assert not folder.exists()
    out, told = run("remove", "openvino", "--json")
    assert json.loads(out) == {"name": "openvino", "removed": False}
    assert "was not installed" in told


@pytest.mark.parametrize("command", ["install", "remove"])
def test_an_engine_nobody_knows_is_refused(command: str) -> None:
    with pytest.raises(InputError, match="Did you mean vllm"):
        run(command, "vlm")
