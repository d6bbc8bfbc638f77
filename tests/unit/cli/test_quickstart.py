"""`finery quickstart` runs the recipe that finery ships, into a folder of one's choice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from finery.cli import finetune
from finery.cli.main import app
from finery.quickstart import RECIPE
from finery.recipe.resolve import Resolved, resolve


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Resolved]:
    runs: list[Resolved] = []
    monkeypatch.setattr(finetune, "run_with_progress", lambda run, watch: runs.append(run))
    return runs


def test_the_shipped_recipe_is_run_in_the_folder_asked_for(
    started: list[Any], tmp_path: Path
) -> None:
    done = CliRunner().invoke(app, ["quickstart", "--output", str(tmp_path / "mine")])
    assert done.exit_code == 0
    assert "Lanternfish Line" in done.output
    (resolved,) = started
    assert resolved.recipe.output_dir == str(tmp_path / "mine")
    assert resolved.recipe.model == "smollm2-135m-instruct"
    assert resolved.origins["output_dir"] == "--output"


def test_the_shipped_recipe_is_without_fault_and_without_remark(tmp_path: Path) -> None:
    resolved = resolve(RECIPE, {"output_dir": str(tmp_path / "run")})
    assert resolved.notes == ()
    assert Path(resolved.recipe.train_file_path).is_file()
    assert Path(resolved.recipe.test_file_path).is_file()


def test_the_number_of_conversations_it_tells_is_the_number_there_is(
    started: list[Any], tmp_path: Path
) -> None:
    done = CliRunner().invoke(app, ["quickstart", "--output", str(tmp_path / "mine")])
    train = Path(started[0].recipe.train_file_path).read_text().splitlines()
    assert f"{len(train)} short conversations" in done.output
