"""What steps leave to each other is whole, and a fine-tune configuration keeps its rank."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from finery.components.finetune import publish
from finery.components.handover import Base, Data, configured_by, load_base, load_data
from finery.components.settings import origins_of
from finery.errors import InputError
from finery.files import MANIFEST, new_folder, verify_folder, write_json
from finery.recipe.finetune_config import PACKAGED
from finery.recipe.inputs import Recipe


def base(folder: Path, given: bool) -> Base:
    return Base(folder, "org/name", "azureml:m:1", "hub", "abc", given)


def test_a_base_model_is_found_again_wherever_its_folder_is_now(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    folder.mkdir()
    base(folder, True).save(folder)
    moved = folder.rename(tmp_path / "b")
    again = load_base(moved)
    assert again == base(moved, True)
    assert (again.model.path, again.model.source, again.model.sha256) == (moved, "org/name", "abc")


def test_data_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    values: dict[str, Any] = {
        "settings": {"seed": 1},
        "rule": "80/20",
        "rows": {"train": 8},
        "files": {},
        "max_seq_length": 64,
        "renderer": "r",
        "train_sha256": "t",
        "validation_sha256": "",
        "ledgers": ({"split": "train"},),
        "notes": ("a", "b"),
    }
    made = Data(**values)
    made.save(tmp_path)
    assert load_data(tmp_path) == made


@pytest.fixture
def recipe() -> Recipe:
    return Recipe(model="m", train_file_path="t", apply_lora=True)


def configure(folder: Path, value: dict[str, Any], given: bool, recipe: Recipe) -> Any:
    (folder / PACKAGED).write_text(json.dumps(value))
    return configured_by(base(folder, given), recipe, origins_of(recipe))


def test_a_configuration_of_the_job_or_of_the_model_is_worked_in(
    tmp_path: Path, recipe: Recipe
) -> None:
    for given in (True, False):
        made = configure(tmp_path, {"lora_target_modules": ["q_proj"]}, given, recipe)
        assert made.recipe.lora_target_modules == "q_proj"


def test_a_wrong_key_is_a_fault_of_the_job_and_only_a_note_of_a_model(
    tmp_path: Path, recipe: Recipe
) -> None:
    with pytest.raises(InputError, match="unknown key"):
        configure(tmp_path, {"lora_target": []}, True, recipe)
    made = configure(tmp_path, {"lora_target": []}, False, recipe)
    assert any("lora_target has no effect" in note for note in made.notes)
    assert asdict(made.recipe) == asdict(recipe)


def test_without_a_configuration_the_recipe_stays(tmp_path: Path, recipe: Recipe) -> None:
    assert configured_by(base(tmp_path, False), recipe, origins_of(recipe)).recipe == recipe


def run_folder(folder: Path) -> Path:
    with new_folder(folder / "run" / "model") as model:
        (model / "config.json").write_text("{}")
        (model / "model.safetensors").write_bytes(b"weights")
    return folder / "run"


def test_a_model_is_published_with_its_manifest_and_takes_its_room_once(tmp_path: Path) -> None:
    run, output = run_folder(tmp_path), tmp_path / "output"
    output.mkdir()
    (output / "left-by-an-attempt-that-was-killed").write_text("")
    weights = run / "model" / "model.safetensors"
    kept = tmp_path / "another-name"
    kept.hardlink_to(weights)
    publish(run, output, "model")
    assert verify_folder(output) == []
    assert (output / "model.safetensors").samefile(kept)
    assert not (output / "left-by-an-attempt-that-was-killed").exists()
    assert not (run / "model").exists()


def test_publishing_that_was_cut_short_is_done_again(tmp_path: Path) -> None:
    run, output = run_folder(tmp_path), tmp_path / "output"
    output.mkdir()
    (output / "model.safetensors").write_bytes(b"half")
    publish(run, output, "model")
    assert verify_folder(output) == []


def test_an_adapter_is_published_beside_the_merged_model(tmp_path: Path) -> None:
    run, output = run_folder(tmp_path), tmp_path / "output"
    output.mkdir()
    with new_folder(run / "adapter") as adapter:
        (adapter / "adapter_config.json").write_text("{}")
    write_json(run / "adapter" / "finery_renderer.json", {})  # written after the manifest
    publish(run, output, "adapter")
    assert (output / "adapter_config.json").is_file()
    assert (run / "model" / MANIFEST).is_file()
