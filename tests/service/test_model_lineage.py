"""A registered model says where it comes from: a whole pipeline on the smallest model."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from job_runs import new_name, wait_for
from service_process import Service
from test_jobs_finetuning import rows

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ m['content'] }}"
    "{{ eos_token if m['role'] == 'assistant' else '\n' }}{% endfor %}"
)

pytestmark = pytest.mark.timeout(900)


def tiny_model(client: Any, kit: Path, folder: Path) -> Any:
    """The model of 260 thousand weights with a chat template, registered."""
    from azure.ai.ml.entities import Model

    place = folder / "tiny"
    shutil.copytree(kit / "model" / "stories260k-llama", place)
    settings = json.loads((place / "tokenizer_config.json").read_text(encoding="utf-8"))
    settings["chat_template"] = TEMPLATE
    (place / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    model = Model(name=new_name("tiny"), version="1", type="custom_model", path=str(place))
    return client.models.create_or_update(model)


def tuned(client: Any, registry: Any, base: Any, folder: Path, name: str) -> str:
    """A finished job that tuned `base`, its MLflow model registered as `name`."""
    from azure.ai.ml import Input, Output, dsl

    tune = registry.components.get("chat_completion_pipeline", label="latest")
    train, test = rows(folder / "train.jsonl", 6), rows(folder / "test.jsonl", 2)

    def tuning():  # type: ignore  # noqa: ANN202
        node = tune(
            pytorch_model_path=Input(type="custom_model", path=base.id),
            train_file_path=Input(type="uri_file", path=str(train)),
            validation_file_path=Input(type="uri_file", path=str(test)),
            test_file_path=Input(type="uri_file", path=str(test)),
            max_steps=1,
            max_seq_length=128,
            learning_rate=0.001,
            eval_generations=1,
            max_new_tokens=4,
        )
        return {"trained_model": node.outputs.mlflow_model_folder}

    job = dsl.pipeline(tuning, default_compute="serverless")()
    job.name = new_name("lineage")
    job.outputs.trained_model = Output(type="mlflow_model", name=name)
    client.jobs.create_or_update(job)
    status = wait_for(client, job.name)
    assert status == "Completed", client.jobs.get(job.name)
    return job.name


def test_a_model_of_the_pipeline_says_where_it_comes_from(
    client: Any, registry: Any, service: Service, kit: Path, tmp_path: Path
) -> None:
    from azure.ai.ml.entities import Model

    base = tiny_model(client, kit, tmp_path)
    name = new_name("tuned")
    job = tuned(client, registry, base, tmp_path, name)
    path = f"azureml://jobs/{job}/outputs/trained_model"
    second = Model(name=name, path=path, type="mlflow_model")
    by_hand = client.models.create_or_update(second)
    by_job = client.models.get(name, version="1")
    assert by_job.flavors == by_hand.flavors
    assert "transformers" in by_job.flavors
    for model in (by_job, by_hand):
        facts = {k: unpacked(v) for k, v in model.properties.items()}
        assert facts["job"] == job
        check_facts(facts, base)
        assert str(service.home) not in json.dumps(model.properties)
    steps = {step["step"].rpartition("/")[2] for step in facts["steps"]}
    assert {"chat_completion_finetune", "chat_completion_evaluation"} <= steps
    said = shown(name, "--json")
    assert json.loads(said)["base_model"]["sha256"] == facts["base_model"]["sha256"]
    assert "sha256" in shown(name)


def check_facts(facts: dict[str, Any], base: Any) -> None:
    """Base model, data, recipe and packages are all known."""
    model = facts["base_model"]
    assert model["uri"].endswith(f"models/{base.name}/versions/1")
    assert len(model["sha256"]) == 64
    assert model["kind"]
    data = {one["uri"].rpartition("/")[2]: one for one in facts["data"]}
    assert data["train.jsonl"]["rows"] == {"train": 6}
    assert len(data["train.jsonl"]["sha256"]) == 64
    assert len(data["train.jsonl"]["content_hash"]) == 64
    assert facts["recipe"]["max_steps"] == 1
    assert facts["recipe"]["lora_r"] == 8
    assert {"finery", "torch", "transformers"} <= set(facts["packages"])


def unpacked(text: str) -> Any:
    return json.loads(text) if text[:1] in ("{", "[") else text


def shown(name: str, *words: str) -> str:
    """What `finery model lineage` prints."""
    command = [sys.executable, "-m", "finery.cli.main", "model", "lineage", name, *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
