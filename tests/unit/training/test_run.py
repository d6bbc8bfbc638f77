"""Whose output folder it is, and what a start does with what lies in it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from finery.errors import FineryError, InputError
from finery.recipe.inputs import Recipe
from finery.recipe.resolve import Resolved
from finery.training import output
from finery.training.launch import only_run_in
from finery.training.output import LEFT_BY_A_RUN, check_output, claim
from finery.training.prepare import Prepared, prepare
from finery.training.run import finetune

MakeRecipe = Callable[..., Resolved]


@pytest.fixture
def ready(tiny_recipe: MakeRecipe) -> Callable[..., Prepared]:
    """`ready(**changes)`: a prepared run in this test's folder."""

    def make(**changes: Any) -> Prepared:
        resolved = tiny_recipe(**changes)
        return prepare(resolved.recipe, resolved.origins, resolved.notes)

    return make


def test_a_new_folder_is_taken(ready: Callable[..., Prepared]) -> None:
    one = ready()
    claim(one)
    assert [path.name for path in one.job.run.iterdir()] == ["run.json"]
    claim(one)  # the same run may go on


def test_other_files_are_left_alone_and_nothing_is_added(
    tiny_recipe: MakeRecipe, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "thesis.doc").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(FineryError, match=r"holds other files \(thesis\.doc\)"):
            finetune(tiny_recipe(overwrite_output=overwrite))
        assert [path.name for path in folder.iterdir()] == ["thesis.doc"]


def test_what_a_crash_left_in_a_new_folder_is_no_reason_to_refuse(
    ready: Callable[..., Prepared],
) -> None:
    one = ready()
    one.job.run.mkdir()
    for name in (".lock", ".tmp-abc-run.json"):
        (one.job.run / name).write_text("")
    claim(one)
    assert (one.job.run / "run.json").is_file()


def test_what_a_kill_left_half_written_is_gone_after_the_next_start(
    ready: Callable[..., Prepared],
) -> None:
    one = ready()
    claim(one)
    (one.job.run / "checkpoints").mkdir()
    (one.job.run / ".tmp-abc-mlflow_model").mkdir()
    claim(one)
    assert sorted(path.name for path in one.job.run.iterdir()) == ["checkpoints", "run.json"]


def test_another_runs_folder_is_refused_and_what_changed_is_named(
    ready: Callable[..., Prepared],
) -> None:
    one = ready()
    claim(one)
    (one.job.run / "checkpoints").mkdir()
    with pytest.raises(FineryError) as refusal:
        check_output(ready(learning_rate=0.5, lora_r=2))
    text = str(refusal.value)
    assert "learning_rate was 2e-05, now 0.5" in text
    assert "lora_r was 8, now 2" in text
    assert "--overwrite-output" in text


def test_a_run_that_never_trained_gives_its_folder_to_a_corrected_one(
    ready: Callable[..., Prepared],
) -> None:
    one = ready()
    claim(one)
    (one.job.run / "metrics.jsonl").write_text("")
    claim(ready(per_device_train_batch_size=2))
    assert [path.name for path in one.job.run.iterdir()] == ["run.json"]


def test_what_only_says_how_a_run_is_watched_is_no_other_run(
    ready: Callable[..., Prepared],
) -> None:
    one = ready()
    claim(one)
    (one.job.run / "adapter").mkdir()
    claim(ready(logging_steps=5, eval_generations=3, save_total_limit=1))
    assert (one.job.run / "adapter").is_dir()


def test_overwriting_removes_what_a_run_left_and_nothing_else(
    ready: Callable[..., Prepared],
) -> None:
    one = ready()
    claim(one)
    for name in LEFT_BY_A_RUN:
        path = one.job.run / name
        path.write_text("old") if "." in name else path.mkdir()
    (one.job.run / "notes.txt").write_text("mine")
    other = ready(learning_rate=0.5, overwrite_output=True)
    claim(other)
    assert {path.name for path in one.job.run.iterdir()} == {"run.json", "notes.txt"}
    mark = json.loads((one.job.run / "run.json").read_text())
    assert mark["fingerprint"] == other.job.fingerprint


def test_a_crash_while_overwriting_leaves_a_folder_no_other_run_goes_on_with(
    ready: Callable[..., Prepared], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = ready()
    claim(one)
    (one.job.run / "checkpoints").mkdir()

    def crash(*_: object) -> None:
        raise RuntimeError("the power went")

    with monkeypatch.context() as patch:
        patch.setattr(output.shutil, "rmtree", crash)
        with pytest.raises(RuntimeError):
            claim(ready(overwrite_output=True))
    with pytest.raises(FineryError, match="other settings"):
        claim(one)
    claim(ready(overwrite_output=True))
    assert not (one.job.run / "checkpoints").exists()


def test_an_evaluation_made_with_other_settings_is_made_again(
    ready: Callable[..., Prepared],
) -> None:
    one = ready()
    claim(one)
    evaluation = one.job.run / "evaluation.json"
    evaluation.write_text("{}")
    claim(one)
    assert evaluation.exists()
    claim(ready(eval_generations=3))
    assert not evaluation.exists()


def test_a_folder_at_work_is_not_overwritten(tiny_recipe: MakeRecipe, tmp_path: Path) -> None:
    resolved = tiny_recipe(overwrite_output=True)
    one = prepare(resolved.recipe, resolved.origins)
    claim(one)
    (one.job.run / "checkpoints").mkdir()
    with only_run_in(one.job.run), pytest.raises(FineryError, match="Another run is at work"):
        finetune(resolved)
    assert (one.job.run / "checkpoints").is_dir()


def test_a_recipe_made_in_python_is_checked_as_one_from_a_file(tmp_path: Path) -> None:
    with pytest.raises(InputError) as refusal:
        finetune(Recipe(model="x", packing=True, output_dir=str(tmp_path / "run")))
    assert {fault.where for fault in refusal.value.faults} == {"--packing", "train_file_path"}
    assert not (tmp_path / "run").exists()


def test_loss_that_is_no_number_ends_the_run_before_it_is_saved(tiny_recipe: MakeRecipe) -> None:
    resolved = tiny_recipe(learning_rate=1e30, lr_scheduler_type="constant", max_steps=9)
    with pytest.raises(FineryError, match="is not a number: training has diverged"):
        finetune(resolved)
    folder = Path(resolved.recipe.output_dir)
    assert not (folder / "training.json").exists()
    for line in (folder / "metrics.jsonl").read_text().splitlines():
        assert "NaN" not in line
