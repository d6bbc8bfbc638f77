"""MLflow models, of MLflow's own flavor and of Azure ML's, become one plain folder."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from model_folders import write, write_model

from finery.errors import FineryError, InputError
from finery.files import verify_folder
from finery.model.sources import resolve_source


def describe(folder: Path, flavors: dict) -> None:
    (folder / "MLmodel").write_text(yaml.safe_dump({"flavors": flavors}))


@pytest.fixture
def mlflow_model(tmp_path: Path) -> Path:
    """The `transformers` flavor, with a tokenizer of its own beside the weights' copy."""
    folder = tmp_path / "My Model"
    write_model(folder / "model")
    write(folder / "components/tokenizer/tokenizer.json", {"version": "1.0", "own": True})
    write(folder / "components/tokenizer/tokenizer_config.json", {"chat_template": "own"})
    (folder / "model" / "chat_template.jinja").write_text("of another time")
    (folder / "LICENSE.txt").write_text("MIT")
    describe(folder, {"transformers": {"model_binary": "model"}, "python_function": {}})
    return folder


@pytest.fixture(params=["hftransformersv2", "hftransformers"])
def azure_model(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    folder = tmp_path / "mlflow_model_folder"
    whole = write_model(tmp_path / "whole")
    for part, names in {
        "model": ["model.safetensors", "tokenizer.json"],
        "config": ["config.json"],
        "tokenizer": ["tokenizer.json", "tokenizer_config.json"],
    }.items():
        (folder / "data" / part).mkdir(parents=True)
        for name in names:
            (folder / "data" / part / name).write_bytes((whole / name).read_bytes())
    describe(folder, {request.param: {"task_type": "chat-completion"}, "python_function": {}})
    return folder


def test_the_tokenizers_own_folder_is_the_one_that_counts(
    mlflow_model: Path, own_home: Path
) -> None:
    found = resolve_source(str(mlflow_model))
    assert found.kind == "mlflow"
    assert found.path.parent == own_home / "models"
    assert found.path.name.startswith("my-model-")
    assert '"own": true' in (found.path / "tokenizer.json").read_text()
    assert not (found.path / "chat_template.jinja").exists()
    assert (found.path / "LICENSE.txt").read_text() == "MIT"
    assert verify_folder(found.path) == []


def test_the_weights_take_no_room_twice(mlflow_model: Path) -> None:
    weights = resolve_source(str(mlflow_model)).path / "model.safetensors"
    assert weights.samefile(mlflow_model / "model" / "model.safetensors")


def test_a_tokenizer_that_lies_with_the_weights_is_enough(tmp_path: Path) -> None:
    write_model(tmp_path / "m" / "model")
    describe(tmp_path / "m", {"transformers": {"model_binary": "model"}})
    assert (resolve_source(str(tmp_path / "m")).path / "tokenizer.json").is_file()


def test_a_model_of_azures_catalogue_becomes_one_folder(azure_model: Path) -> None:
    path = resolve_source(str(azure_model)).path
    names = {"config.json", "manifest.json", "model.safetensors", "tokenizer.json"}
    assert {file.name for file in path.iterdir()} == names | {"tokenizer_config.json"}


def test_the_second_call_finds_the_same_folder(azure_model: Path) -> None:
    first = resolve_source(str(azure_model))
    before = (first.path / "manifest.json").stat().st_mtime_ns
    assert resolve_source(str(azure_model)) == first
    assert (first.path / "manifest.json").stat().st_mtime_ns == before
    (azure_model / "data/tokenizer/tokenizer.json").write_text("{}")
    assert resolve_source(str(azure_model)).path != first.path


def test_mlflow_wins_where_a_folder_is_both(mlflow_model: Path) -> None:
    write(mlflow_model / "config.json", {"model_type": "llama"})
    assert resolve_source(str(mlflow_model)).kind == "mlflow"


def test_pickled_weights_are_refused_by_the_name_the_user_gave(
    mlflow_model: Path, own_home: Path
) -> None:
    (mlflow_model / "model" / "model.safetensors").rename(mlflow_model / "model/pytorch_model.bin")
    with pytest.raises(InputError) as caught:
        resolve_source(str(mlflow_model))
    assert f"{mlflow_model}/model: found weights only as pytorch_model.bin" in str(caught.value)
    assert not list((own_home / "models").glob("*"))


@pytest.mark.parametrize(
    ("flavors", "found"),
    [
        ({"sklearn": {}, "python_function": {}}, "found flavors python_function, sklearn"),
        ({"transformers": {"source_model_name": "org/x"}}, "flavor without weights"),
        ({"transformers": {"model_binary": "absent"}}, "found no absent folder"),
        ({"transformers": {"model_binary": "../elsewhere"}}, "a model outside of the folder"),
        ({"hftransformersv2": {}}, "found no data/model folder"),
    ],
)
def test_an_mlflow_model_we_cannot_use_says_why(tmp_path: Path, flavors: dict, found: str) -> None:
    folder = tmp_path / "m"
    folder.mkdir()
    (tmp_path / "elsewhere").mkdir()
    describe(folder, flavors)
    with pytest.raises(InputError, match=found):
        resolve_source(str(folder))


@pytest.mark.parametrize("text", ["{", "[]", "name: x", "flavors: 3"])
def test_a_broken_description_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "MLmodel").write_text(text)
    with pytest.raises(FineryError, match="is not an MLflow model description"):
        resolve_source(str(tmp_path))
