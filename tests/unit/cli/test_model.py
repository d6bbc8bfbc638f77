"""`finery model import` says where the model lies and what it is."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from finery.cli.model import app
from finery.errors import FineryError, InputError
from finery.files import verify_folder

FACTS = ("architecture", "parameters", "dtype", "context", "template_sha256", "licence", "sha256")


@pytest.fixture
def stories(kit: Path) -> Path:
    return kit / "model" / "stories15m-phi3"


def test_a_person_reads_the_facts(stories: Path) -> None:
    result = CliRunner().invoke(app, ["import", str(stories)])
    assert result.exit_code == 0, result.output
    lines = dict(line.split(maxsplit=1) for line in result.stdout.splitlines())
    assert lines["path"] == str(stories.resolve())
    assert lines["parameters"].endswith("million)")
    assert lines["context"] == "2,048 tokens"
    assert lines["licence"] == "not said"
    assert "Looking for" in result.stderr


def test_a_program_reads_one_json_object(stories: Path) -> None:
    result = CliRunner().invoke(app, ["import", str(stories), "--json"])
    facts = json.loads(result.stdout)
    assert set(FACTS) < set(facts)
    assert (facts["kind"], facts["source"]) == ("folder", str(stories))
    assert len(facts["sha256"]) == len(facts["template_sha256"]) == 64


def test_to_makes_a_folder_of_its_own(stories: Path, tmp_path: Path) -> None:
    target = tmp_path / "mine"
    result = CliRunner().invoke(app, ["import", str(stories), "--to", str(target), "--json"])
    facts = json.loads(result.stdout)
    assert facts["path"] == str(target)
    assert verify_folder(target) == []
    again = CliRunner().invoke(app, ["import", str(target), "--json"])
    assert json.loads(again.stdout)["sha256"] == facts["sha256"]


def test_to_never_writes_over_something(stories: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["import", str(stories), "--to", str(tmp_path)])
    assert isinstance(result.exception, FineryError)
    assert "is there already" in str(result.exception)


def test_a_model_that_is_not_there_is_a_finery_error(tmp_path: Path) -> None:
    unknown = CliRunner().invoke(app, ["import", "no-such-model"])
    assert isinstance(unknown.exception, FineryError)
    empty = CliRunner().invoke(app, ["import", str(tmp_path)])
    assert isinstance(empty.exception, InputError)


def test_asking_for_help_loads_no_machine_learning() -> None:
    code = (
        "import sys, finery.cli.model, finery.model.sources; "
        "print([m for m in ('torch', 'transformers', 'mlflow', 'gguf') if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"
