"""The packaged model is one that MLflow loads, and that answers as plain transformers does."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import transformers
import yaml

from finery.errors import FineryError, InputError
from finery.files import verify_folder
from finery.model.package import EXAMPLE, GENERATION, requirements, write_mlflow_model
from finery.model.sources import resolve_source
from mlflow_answers import check_mlflow_answers, quiet

TEMPLATE = "{{ bos_token }}{% for m in messages %}{{ m['content'] }}{% endfor %}"
BOS_FIRST = [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]


@pytest.fixture(scope="module")
def storyteller(kit: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real small model whose template and whose tokenizer both begin with <s>."""
    folder = tmp_path_factory.mktemp("run") / "model"
    folder.mkdir()
    for path in (kit / "model" / "stories260k-llama").iterdir():
        shutil.copyfile(path, folder / path.name)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["post_processor"]["single"] = BOS_FIRST
    bos = {"id": "<s>", "ids": [1], "tokens": ["<s>"]}
    tokenizer["post_processor"]["special_tokens"] = {"<s>": bos}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    (folder / "LICENSE").write_text("MIT")
    return folder


@pytest.fixture(scope="module")
def packaged(storyteller: Path) -> Path:
    target = storyteller.parent / "mlflow_model"
    metadata = {"base_model_name": "stories260k", "base_model_asset_id": "azureml://x"}
    write_mlflow_model(storyteller, target, metadata)
    return target


def test_mlflow_answers_as_plain_transformers(storyteller: Path, packaged: Path) -> None:
    prompts = ["Once upon a time", "Lily and Tom went to the park. They"]
    conversations = [[{"role": "user", "content": text}] for text in prompts]
    assert check_mlflow_answers(packaged, storyteller, conversations) == []


def test_another_model_is_seen_to_answer_otherwise(
    storyteller: Path, packaged: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(storyteller, other)
    (other / "chat_template.jinja").write_text("{{ bos_token }}The big")
    wrong = check_mlflow_answers(packaged, other, [[{"role": "user", "content": "Once"}]])
    assert [text.split()[0] for text in wrong] == ["pyfunc", "pipeline"]


def test_the_description_carries_the_lineage_and_no_path_of_this_machine(
    storyteller: Path, packaged: Path
) -> None:
    text = (packaged / "MLmodel").read_text()
    described = yaml.safe_load(text)
    assert {
        "base_model_name": "stories260k",
        "base_model_asset_id": "azureml://x",
        "finetuning_task": "chat-completion",
        "is_finetuned_model": True,
        "task": "llm/v1/chat",
    }.items() <= described["metadata"].items()
    assert described["flavors"]["transformers"]["source_model_name"] == "stories260k"
    assert described["model_size_bytes"] > (packaged / "model/model.safetensors").stat().st_size
    for path in packaged.rglob("*"):
        if path.is_file() and path.suffix != ".safetensors":
            assert str(storyteller.parent) not in path.read_text(), path
            assert tempfile.gettempdir() not in path.read_text(), path


def test_the_weights_take_no_room_twice(storyteller: Path, packaged: Path) -> None:
    weights = packaged / "model" / "model.safetensors"
    assert weights.samefile(storyteller / "model.safetensors")
    assert verify_folder(packaged) == []


def test_the_tokenizer_is_the_very_file(storyteller: Path, packaged: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        for place in ("model", "components/tokenizer"):
            assert (packaged / place / name).read_bytes() == (storyteller / name).read_bytes()


def test_the_licence_of_the_model_comes_along(packaged: Path) -> None:
    assert (packaged / "LICENSE").read_text() == "MIT"
    assert not (packaged / "LICENSE.txt").exists()


def test_what_it_needs_is_pinned_to_public_versions(packaged: Path) -> None:
    pins = (packaged / "requirements.txt").read_text().splitlines()
    assert pins == requirements()
    assert {"mlflow", "transformers", "torch"} <= {pin.partition("==")[0] for pin in pins}
    assert not any("+" in pin for pin in pins)


def test_the_package_can_be_fine_tuned_again(storyteller: Path, packaged: Path) -> None:
    again = resolve_source(str(packaged))
    assert again.kind == "mlflow"
    assert again.sha256 == resolve_source(str(storyteller)).sha256


def test_packaging_again_replaces_the_old_package(storyteller: Path, tmp_path: Path) -> None:
    target = tmp_path / "mlflow_model"
    target.mkdir()
    (target / "old").write_text("")
    write_mlflow_model(storyteller, target, {})
    assert not (target / "old").exists()
    described = yaml.safe_load((target / "MLmodel").read_text())
    assert described["flavors"]["transformers"]["source_model_name"] == "model"


def test_a_given_example_is_the_one_that_is_shown(storyteller: Path, tmp_path: Path) -> None:
    example = {"messages": [{"role": "user", "content": "Tell me a story."}]}
    write_mlflow_model(storyteller, tmp_path / "m", {}, example)
    assert json.loads((tmp_path / "m" / "input_example.json").read_text()) == example


def test_the_folder_is_the_one_that_mlflow_itself_would_write(
    storyteller: Path, packaged: Path, tmp_path: Path
) -> None:
    mine = yaml.safe_load((packaged / "MLmodel").read_text())
    with quiet():
        from mlflow.transformers import save_model

        save_model(
            str(storyteller),
            path=str(tmp_path / "theirs"),
            task="llm/v1/chat",
            metadata={key: value for key, value in mine["metadata"].items() if key != "task"},
            input_example=EXAMPLE,
            model_config=GENERATION,
            pip_requirements=requirements(),
        )
    theirs = yaml.safe_load((tmp_path / "theirs" / "MLmodel").read_text())
    for one in (mine, theirs):
        for key in ("model_uuid", "utc_time_created", "model_size_bytes"):
            del one[key]
        one["flavors"]["transformers"]["source_model_name"] = "the path of the stage is not kept"
    kinds = [one["flavors"]["transformers"].pop("tokenizer_type") for one in (mine, theirs)]
    assert getattr(transformers, kinds[0]) is getattr(transformers, kinds[1])
    assert mine == theirs
    for name in ("conda.yaml", "python_env.yaml", "requirements.txt", "input_example.json"):
        assert (packaged / name).read_text() == (tmp_path / "theirs" / name).read_text()


def test_packaging_loads_neither_mlflow_nor_torch(storyteller: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from finery.model.package import *; "
        "write_mlflow_model(Path(sys.argv[1]), Path(sys.argv[2]), {}); "
        "print({'torch', 'transformers', 'mlflow'} & set(sys.modules))"
    )
    command = [sys.executable, "-c", code, str(storyteller), str(tmp_path / "m")]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "set()"


def test_a_tokenizer_that_is_not_a_fast_one_is_refused(storyteller: Path, tmp_path: Path) -> None:
    slow = tmp_path / "slow"
    shutil.copytree(storyteller, slow)
    (slow / "tokenizer.json").rename(slow / "tokenizer.model")
    with pytest.raises(FineryError, match=r"no tokenizer\.json"):
        write_mlflow_model(slow, tmp_path / "m", {})


def test_a_model_that_cannot_chat_is_refused(storyteller: Path, tmp_path: Path) -> None:
    mute = tmp_path / "mute"
    shutil.copytree(storyteller, mute)
    (mute / "chat_template.jinja").unlink()
    with pytest.raises(FineryError, match="no chat template"):
        write_mlflow_model(mute, tmp_path / "m", {})
    assert not (tmp_path / "m").exists()


def test_an_unmerged_adapter_is_refused(storyteller: Path, tmp_path: Path) -> None:
    both = tmp_path / "both"
    shutil.copytree(storyteller, both)
    (both / "adapter_config.json").write_text("{}")
    with pytest.raises(FineryError, match="Merge it into its base model first"):
        write_mlflow_model(both, tmp_path / "m", {})


def test_a_half_model_is_refused(storyteller: Path, tmp_path: Path) -> None:
    half = tmp_path / "half"
    shutil.copytree(storyteller, half)
    (half / "model.safetensors").unlink()
    with pytest.raises(InputError, match="no weights"):
        write_mlflow_model(half, tmp_path / "m", {})
