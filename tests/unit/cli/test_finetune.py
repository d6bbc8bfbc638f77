"""`finery finetune`: options, all faults in one pass, a dry run, and what a run prints."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from finery.cli.finetune import Interrupted, plan_text, run_with_progress
from finery.cli.main import app
from finery.errors import FineryError, InputError
from finery.recipe.inputs import SETTINGS
from finery.recipe.resolve import Resolved
from finery.training import run as whole

MakeRecipe = Callable[..., Resolved]


def invoke(*words: str) -> str:
    done = CliRunner().invoke(app, ["finetune", *words], catch_exceptions=False)
    assert done.exit_code == 0
    return done.output


def listing(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else b""
        for path in folder.rglob("*")
    }


@pytest.fixture
def recipe_file(tmp_path: Path, tiny_recipe: MakeRecipe) -> Path:
    made = tiny_recipe().recipe
    path = tmp_path / "recipe.yaml"
    names = ("model", "train_file_path", "test_file_path", "apply_lora", "max_steps", "output_dir")
    path.write_text("".join(f"{name}: {getattr(made, name)}\n" for name in names))
    return path


def test_the_help_lists_every_input_and_the_dry_run() -> None:
    text = invoke("--help")
    assert "--dry-run" in text
    for row in SETTINGS.values():
        assert "--" + row.name.replace("_", "-") in text


def test_all_faults_of_file_and_options_are_told_in_one_pass(recipe_file: Path) -> None:
    with recipe_file.open("a") as file:
        file.write("lernrate: 1\nlora_r: 0\n")
    with pytest.raises(InputError) as refusal:
        invoke(str(recipe_file), "--seed", "x", "--bogus", "--test", "none.jsonl")
    text = str(refusal.value)
    assert len(refusal.value.faults) == 5
    for word in ("recipe.yaml:7", "recipe.yaml:8:lora_r", "--seed", "--bogus", "none.jsonl"):
        assert word in text


def test_a_dry_run_prints_recipe_ledger_and_plan_and_writes_only_caches(
    recipe_file: Path, own_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = listing(tmp_path)
    text = invoke(str(recipe_file), "--dry-run", "--learning-rate", "1e-4", "--apply-ort")
    assert listing(tmp_path) == before
    assert {path.name for path in own_home.iterdir()} <= {"tokens", "models", "hashes", "shapes"}
    for words in (
        "learning_rate: 0.0001  # --learning-rate",
        "max_steps: 2  # recipe.yaml:5",
        "seed: 42  # default",
        "note: apply_ort has no effect",
        "train: 10 of 10 rows",
        "test: 3 of 3 rows",
        "global batch 1",
        "2 steps",
        "parameters trained",
    ):
        assert words in text


def test_a_second_dry_run_says_the_same(recipe_file: Path) -> None:
    assert invoke(str(recipe_file), "--dry-run") == invoke(str(recipe_file), "--dry-run")


def test_a_dry_run_tells_that_the_output_folder_would_be_refused(
    recipe_file: Path, tmp_path: Path
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.doc").write_text("mine")
    with pytest.raises(FineryError, match=r"holds other files \(thesis\.doc\)"):
        invoke(str(recipe_file), "--dry-run")


def test_a_run_prints_its_report(recipe_file: Path) -> None:
    text = invoke(str(recipe_file), "--no-evaluate", "--no-package-mlflow", "--device", "cpu")
    assert "What was trained" in text
    assert "step 2: loss" in text
    assert "note: train: 10 of 10 rows" in text


def test_a_finished_run_started_again_says_that_nothing_was_run(recipe_file: Path) -> None:
    words = (str(recipe_file), "--no-evaluate", "--no-package-mlflow", "--device", "cpu")
    invoke(*words)
    text = invoke(*words)
    assert "is finished already; nothing was run\n" in text
    assert "step 2: loss" not in text
    assert "What was trained" in text


@pytest.mark.parametrize(
    ("overwrite", "words"), [(False, "command goes on"), (True, "without --overwrite-output")]
)
def test_stopping_a_run_says_how_to_go_on(
    tiny_recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch, overwrite: bool, words: str
) -> None:
    def stopped(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(whole, "finetune", stopped)
    with pytest.raises(Interrupted, match=words) as stop:
        run_with_progress(tiny_recipe(overwrite_output=overwrite))
    assert stop.value.exit_status == 130


def test_a_plan_is_told_in_a_few_lines() -> None:
    plan = {
        "processes": 2,
        "device": "cuda",
        "micro_batch": 4,
        "accumulation": 3,
        "global_batch": 24,
        "total_steps": 1200,
        "steps_per_epoch": 600,
        "tokens_per_step": 9000,
        "trainable": 1_000_000,
        "parameters": 3_800_000_000,
        "memory_bytes": 3 * 2**30,
        "disk_bytes": 2**30,
    }
    text = plan_text(plan)
    for words in ("2 x cuda", "global batch 24", "1,200 steps (600 an epoch)", "3.0 GiB of memory"):
        assert words in text
