"""Paths that cannot be used are refused before anything starts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from finery.recipe.disk import disk_faults
from finery.recipe.inputs import Recipe

GATHER = "stage3_gather_16bit_weights_on_model_save"


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    train = tmp_path / "train.jsonl"
    train.write_text("{}\n")
    return Recipe(model="org/model", train_file_path=str(train), output_dir=str(tmp_path / "run"))


def with_deepspeed(recipe: Recipe, folder: Path, content: object) -> Recipe:
    path = folder / "ds.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return replace(recipe, apply_deepspeed=True, deepspeed=str(path))


def test_a_recipe_whose_files_are_there_has_no_faults(recipe: Recipe) -> None:
    assert disk_faults(recipe) == []


def test_every_missing_path_is_named_in_one_pass(recipe: Recipe, tmp_path: Path) -> None:
    names = ("train_file_path", "test_mltable_path", "mlflow_model_path", "model", "deepspeed")
    gone = replace(recipe, **{name: str(tmp_path / "gone") for name in names})
    faults = disk_faults(gone)
    assert {fault.where for fault in faults} == set(names)
    assert all("not there" in fault.found for fault in faults)
    assert disk_faults(gone, set(names)) == []


def test_a_folder_is_no_training_file_and_a_file_no_output_folder(
    recipe: Recipe, tmp_path: Path
) -> None:
    wrong = replace(recipe, output_dir=recipe.train_file_path, train_file_path=str(tmp_path))
    assert {fault.where for fault in disk_faults(wrong)} == {"train_file_path", "output_dir"}


def test_a_name_too_long_for_the_disk_is_a_fault_and_no_traceback(recipe: Recipe) -> None:
    faults = disk_faults(replace(recipe, train_file_path="/" + "a" * 5000))
    assert [fault.where for fault in faults] == ["train_file_path"]


def test_model_folders_in_the_wrong_input_name_the_other_one(
    recipe: Recipe, tmp_path: Path
) -> None:
    plain, mlflow = tmp_path / "plain", tmp_path / "mlflow"
    plain.mkdir()
    mlflow.mkdir()
    (mlflow / "MLmodel").write_text("")
    good = {"mlflow_model_path": str(mlflow), "pytorch_model_path": str(plain)}
    assert disk_faults(replace(recipe, **good)) == []
    swapped = {"mlflow_model_path": str(plain), "pytorch_model_path": str(mlflow)}
    faults = {fault.where: fault for fault in disk_faults(replace(recipe, **swapped))}
    assert "pytorch_model_path" in faults["mlflow_model_path"].remedy
    assert "mlflow_model_path" in faults["pytorch_model_path"].remedy
    file = replace(recipe, pytorch_model_path=recipe.train_file_path)
    assert "which is a file" in disk_faults(file)[0].found


def test_an_mltable_folder_needs_its_file(recipe: Recipe, tmp_path: Path) -> None:
    table = tmp_path / "table"
    table.mkdir()
    asked = replace(recipe, train_mltable_path=str(table))
    assert [fault.where for fault in disk_faults(asked)] == ["train_mltable_path"]
    (table / "MLTable").write_text("")
    assert disk_faults(asked) == []


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "no object"),
        ({}, "zero_optimization.stage no value"),
        ({"zero_optimization": 3}, "zero_optimization.stage no value"),
        ({"zero_optimization": {"stage": True}}, "zero_optimization.stage true"),
        ({"zero_optimization": {"stage": 3}}, GATHER),
        ({"zero_optimization": {"stage": 3, GATHER: False}}, f"{GATHER} false"),
        (
            {"zero_optimization": {"stage": 2}, "gradient_accumulation_steps": 4},
            "gradient_accumulation_steps 4",
        ),
        (
            {"zero_optimization": {"stage": 2}, "optimizer": {"params": {"lr": 0.1}}},
            "optimizer.params.lr 0.1",
        ),
        (
            {"zero_optimization": {"stage": 2}, "optimizer": {"params": {"betas": [0.8, 0.9]}}},
            "optimizer.params.betas [0.8, 0.9]",
        ),
    ],
)
def test_a_deepspeed_file_that_would_fail_late_is_refused(
    recipe: Recipe, tmp_path: Path, content: object, words: str
) -> None:
    faults = disk_faults(with_deepspeed(recipe, tmp_path, content))
    assert [fault.where for fault in faults] == ["deepspeed"]
    assert words in faults[0].found


def test_deepspeed_files_that_work_are_accepted(recipe: Recipe, tmp_path: Path) -> None:
    for zero in ({"stage": 2}, {"stage": 3, GATHER: True}):
        params = {"lr": "auto", "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0}
        content = {
            "zero_optimization": zero,
            "gradient_accumulation_steps": "auto",
            "optimizer": {"type": "AdamW", "params": params},
        }
        assert disk_faults(with_deepspeed(recipe, tmp_path, content)) == []


def test_settings_given_as_json_text_must_be_an_object(recipe: Recipe) -> None:
    assert disk_faults(replace(recipe, evaluation_config_params='{"a": 1}')) == []
    for text in ("{", "3"):
        faults = disk_faults(replace(recipe, evaluation_config_params=text))
        assert [fault.where for fault in faults] == ["evaluation_config_params"]


def test_overwriting_never_removes_the_inputs(recipe: Recipe, tmp_path: Path) -> None:
    danger = replace(recipe, overwrite_output=True, output_dir=str(tmp_path))
    faults = disk_faults(danger)
    assert [fault.where for fault in faults] == ["overwrite_output"]
    assert "train_file_path" in faults[0].found
    assert disk_faults(replace(danger, overwrite_output=False)) == []
    assert disk_faults(replace(danger, output_dir=str(tmp_path / "run"))) == []
