"""The registry: what it is shipped with, and what people put into it."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest


def test_the_base_model_of_the_walkthrough_is_there(registry: Any) -> None:
    model = registry.models.get("Phi-3-mini-4k-instruct", label="latest")
    assert model.id.startswith("azureml://registries/azureml/models/Phi-3-mini-4k-instruct/")
    sizes = ast.literal_eval(model.tags["finetune_compute_allow_list"])
    assert {"Standard_ND40rs_v2", "Standard_NC24rs_v3", "Standard_local"} <= set(sizes)
    defaults = ast.literal_eval(model.tags["model_specific_defaults"])
    assert defaults["apply_lora"] == "true"
    assert registry.models.get("Phi-3-mini-4k-instruct", version="14").version == "14"


def test_every_default_of_a_model_is_an_input_of_the_pipeline(registry: Any) -> None:
    pipeline = registry.components.get("chat_completion_pipeline", label="latest")
    models = [registry.models.get(one.name, label="latest") for one in registry.models.list()]
    shipped = [model for model in models if "model_specific_defaults" in model.tags]
    assert len(shipped) > 10  # beside what other tests have put there
    for model in shipped:
        defaults = ast.literal_eval(model.tags["model_specific_defaults"])
        assert set(defaults) <= set(pipeline.inputs), model.name


def test_the_registry_lists_what_it_has(registry: Any) -> None:
    assert {"Phi-3-mini-4k-instruct", "SmolLM2-135M-Instruct"} <= {
        model.name for model in registry.models.list()
    }
    assert "chat_completion_pipeline" in {c.name for c in registry.components.list()}
    environment = registry.environments.get("sklearn-1.5", label="latest")
    assert environment.image
    versions = [m.version for m in registry.models.list("Phi-3-mini-4k-instruct")]
    assert versions == [str(number) for number in range(15, 0, -1)]


def test_a_shipped_model_is_archived_and_restored(registry: Any) -> None:
    name = "Qwen2.5-7B-Instruct"
    registry.models.archive(name)
    assert name not in {model.name for model in registry.models.list()}
    registry.models.restore(name)
    assert name in {model.name for model in registry.models.list()}
    registry.models.archive("Phi-4", version="8")
    assert registry.models.get("Phi-4", label="latest").version == "7"
    registry.models.restore("Phi-4", version="8")
    assert registry.models.get("Phi-4", label="latest").version == "8"


def test_a_missing_registry_model_names_the_nearest(registry: Any) -> None:
    from azure.core.exceptions import ResourceNotFoundError

    with pytest.raises(ResourceNotFoundError, match="Phi-3-mini-4k-instruct"):
        registry.models.get("Phi-3-mini-4k-instruc", version="1")


def test_a_model_is_uploaded_to_the_registry_and_downloaded(registry: Any, tmp_path: Path) -> None:
    from azure.ai.ml.entities import Model

    (tmp_path / "m" / "deep").mkdir(parents=True)
    (tmp_path / "m" / "config.json").write_text("{}")
    (tmp_path / "m" / "deep" / "w.bin").write_bytes(b"w")
    made = registry.models.create_or_update(
        Model(name="ours", version="1", path=str(tmp_path / "m"), type="custom_model")
    )
    assert made.id == "azureml://registries/azureml/models/ours/versions/1"
    registry.models.download("ours", "1", download_path=str(tmp_path / "down"))
    found = {p.name for p in (tmp_path / "down").rglob("*") if p.is_file()}
    assert found == {"config.json", "w.bin"}
    assert registry.models.get("ours", label="latest").version == "1"


def test_a_workspace_model_is_shared_with_the_registry(
    client: Any, registry: Any, tmp_path: Path
) -> None:
    from azure.ai.ml.entities import Model

    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.json").write_text('{"shared": true}')
    client.models.create_or_update(
        Model(name="to-share", version="3", path=str(tmp_path / "m"), type="custom_model")
    )
    client.models.share(
        "to-share",
        "3",
        share_with_name="shared",
        share_with_version="1",
        registry_name="azureml",
    )
    registry.models.download("shared", "1", download_path=str(tmp_path / "down"))
    found = [p.read_text() for p in (tmp_path / "down").rglob("config.json")]
    assert found == ['{"shared": true}']


def test_a_shipped_model_says_where_its_weights_come_from(registry: Any, tmp_path: Path) -> None:
    with pytest.raises(Exception, match="weights come from microsoft/Phi-3-mini-4k-instruct"):
        registry.models.download("Phi-3-mini-4k-instruct", "15", download_path=str(tmp_path))


def test_data_and_components_go_into_the_registry(registry: Any, tmp_path: Path) -> None:
    from azure.ai.ml import command
    from azure.ai.ml.entities import Data, Environment

    file = tmp_path / "chats.jsonl"
    file.write_text("{}\n")
    data = registry.data.create_or_update(
        Data(name="chats", version="1", path=str(file), type="uri_file")
    )
    assert registry.data.get("chats", version="1").path == data.path
    environment = registry.environments.create_or_update(
        Environment(name="ours", version="1", image="python:3.11")
    )
    component = command(
        name="say_registry", version="1", command="echo hi", environment=environment
    ).component
    registry.components.create_or_update(component)
    assert registry.components.get("say_registry", label="latest").command == "echo hi"
