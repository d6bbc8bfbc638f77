"""A fine-tuning job of the SDK, from its submission to the registered model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from job_runs import new_name, wait_for

MODEL = "Phi-3-mini-4k-instruct"
HYPERPARAMETERS = {
    "per_device_train_batch_size": "1",
    "learning_rate": "0.00002",
    "num_train_epochs": "1",
    "max_steps": "1",
    "max_seq_length": "128",
    "apply_lora": "true",
}


def rows(path: Path, count: int) -> Path:
    """A file of conversations."""
    chat = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello there!"}]
    lines = [json.dumps({"messages": chat}) + "\n" for _ in range(count)]
    path.write_text("".join(lines), encoding="utf-8")
    return path


def data_asset(client: Any, path: Path) -> Any:
    """A file as a data asset of its own name."""
    from azure.ai.ml.entities import Data

    data = Data(name=new_name(path.stem), version="1", type="uri_file", path=str(path))
    return client.data.create_or_update(data)


def asked(client: Any, registry: Any, folder: Path, **changes: Any) -> Any:
    """A fine-tuning job on a few conversations, not submitted."""
    from azure.ai.ml.finetuning import FineTuningTaskType, create_finetuning_job

    name = new_name("finetuned")
    train, validation = rows(folder / "train.jsonl", 4), rows(folder / "validation.jsonl", 2)
    return create_finetuning_job(
        task=FineTuningTaskType.CHAT_COMPLETION,
        training_data=data_asset(client, train).id,
        validation_data=data_asset(client, validation).id,
        model=registry.models.get(MODEL, label="latest").id,
        name=name,
        experiment_name="finetuning-llm",
        instance_types=["Standard_ND96amsr_A100_v4"],
        output_model_name_prefix=name,
        **{"hyperparameters": HYPERPARAMETERS, **changes},
    )


def test_a_finetuning_job_registers_the_model_it_makes(
    client: Any, registry: Any, kit: Path, tmp_path: Path
) -> None:
    job = client.jobs.create_or_update(asked(client, registry, tmp_path))
    assert wait_for(client, job.name) == "Completed"
    read = client.jobs.get(job.name)
    assert read.outputs["registered_model"].name == job.name
    model = client.models.get(job.name, version="1")
    assert model.type == "mlflow_model"
    assert model.job_name in (job.name, None)
    client.models.download(job.name, version="1", download_path=tmp_path / "model")
    assert list((tmp_path / "model").rglob("MLmodel"))


def test_wrong_hyperparameters_are_refused_by_name(
    client: Any, registry: Any, tmp_path: Path
) -> None:
    from azure.core.exceptions import HttpResponseError

    wrong = {"num_train_epochs": "0", "learnign_rate": "1"}
    with pytest.raises(HttpResponseError) as refused:
        client.jobs.create_or_update(asked(client, registry, tmp_path, hyperparameters=wrong))
    assert refused.value.status_code == 400
    text = str(refused.value)
    assert "hyperParameters.num_train_epochs" in text
    assert "Did you mean learning_rate?" in text
