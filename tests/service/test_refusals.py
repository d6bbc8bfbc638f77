"""What is wrong is refused with a clear sentence, and leaves nothing behind: through the SDK."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from job_runs import command_job, new_name, submitted, wait_for
from refusals import unchanged
from service_process import Service

GONE = "azureml://datastores/workspaceblobstore/paths/gone/rows.jsonl"
BASE = "azureml://registries/azureml/models/Phi-3-mini-4k-instruct/labels/latest"


def refused(act: Callable[[], Any], *statuses: int) -> str:
    """The message with which the service refuses what `act` asks for through the SDK."""
    from azure.core.exceptions import HttpResponseError

    with pytest.raises(HttpResponseError) as caught:
        act()
    assert caught.value.status_code in statuses, str(caught.value)
    return str(caught.value)


def pipeline_job(registry: Any, **inputs: Any) -> Any:
    """The registry's pipeline with these inputs, not submitted."""
    from azure.ai.ml import Input, dsl

    tune = registry.components.get("chat_completion_pipeline", label="latest")
    data = Input(type="uri_file", path=inputs.pop("data", GONE))
    model = Input(type="mlflow_model", path=inputs.pop("model", BASE))
    compute = inputs.pop("compute", "serverless")

    def tuned():  # type: ignore  # noqa: ANN202
        node = tune(mlflow_model_path=model, train_file_path=data, **inputs)
        return {"model": node.outputs.mlflow_model_folder}

    job = dsl.pipeline(tuned, default_compute=compute)()
    job.name = new_name("refused")
    return job


def test_every_wrong_input_of_a_pipeline_is_named_in_one_answer(
    client: Any, registry: Any, service: Service
) -> None:
    job = pipeline_job(
        registry,
        learning_rate="fast",
        num_train_epochs=0,
        lora_dropout=7.5,
        lr_scheduler_type="cosin",
        precision="17",
        apply_lora="maybe",
        deepspeed_stage="9",
        per_device_train_batch_size=1.5,
    )
    with unchanged(service):
        text = refused(lambda: client.jobs.create_or_update(job), 400)
    for name in (
        *("learning_rate", "num_train_epochs", "lora_dropout", "lr_scheduler_type", "precision"),
        *("apply_lora", "deepspeed_stage", "per_device_train_batch_size", "gone/rows.jsonl"),
    ):
        assert name in text, f"{name} is not in: {text}"
    assert "cosine" in text


def test_an_unknown_input_comes_with_the_nearest_name(client: Any, registry: Any) -> None:
    from azure.ai.ml.exceptions import UserErrorException

    tune = registry.components.get("chat_completion_pipeline", label="latest")
    with pytest.raises(UserErrorException, match="learning_rat"):  # the SDK itself refuses it
        tune(learning_rat=1)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"data": GONE}, "gone/rows.jsonl"),
        ({"data": "azureml:no-such-data:1"}, "no-such-data"),
        ({"model": "azureml:no-such-model:1"}, "no-such-model"),
        ({"model": BASE.replace("Phi-3-mini-4k", "Phi-9")}, "Phi-9"),
        ({"data": "azureml://datastores/nowhere/paths/x"}, "nowhere"),
        ({"compute": "no-such-cluster"}, "no-such-cluster"),
    ],
)
def test_what_is_not_there_is_named_and_no_job_is_made(
    client: Any, registry: Any, service: Service, change: dict[str, str], said: str
) -> None:
    job = pipeline_job(registry, **change)
    with unchanged(service):
        text = refused(lambda: client.jobs.create_or_update(job), 400, 404)
    assert said in text


def test_an_unknown_component_is_refused(client: Any, registry: Any, service: Service) -> None:
    from azure.ai.ml.exceptions import ValidationException

    with unchanged(service), pytest.raises(ValidationException, match="chat_completions_pip"):
        registry.components.get("chat_completions_pipeline", label="latest")


def test_an_unknown_environment_of_a_job_is_refused(client: Any, service: Service) -> None:
    job = command_job("true")
    job.environment = "azureml:no-such-environment:1"
    with unchanged(service):
        text = refused(lambda: client.jobs.create_or_update(job), 400)
    assert "no-such-environment" in text


def test_a_local_data_file_that_is_missing_is_named(
    client: Any, service: Service, tmp_path: Path
) -> None:
    from azure.ai.ml import Input

    gone = tmp_path / "gone.jsonl"
    inputs = {"data": Input(type="uri_file", path=str(gone))}
    job = command_job("cat ${{inputs.data}}", inputs=inputs)
    with unchanged(service), pytest.raises(Exception, match=re.escape("gone.jsonl")):
        client.jobs.create_or_update(job)


def test_a_taken_job_name_is_a_conflict(client: Any, service: Service) -> None:
    job = submitted(client, "true")
    assert wait_for(client, job.name) == "Completed"
    other = command_job("false")
    other.name = job.name
    with unchanged(service):
        text = refused(lambda: client.jobs.create_or_update(other), 409)
    assert job.name in text


def test_a_taken_model_version_with_other_files_is_refused(
    client: Any, service: Service, tmp_path: Path
) -> None:
    from azure.ai.ml.entities import Model

    name = new_name("clash")
    paths = [f"azureml://datastores/workspaceblobstore/paths/{name}/{word}" for word in "ab"]
    for word in "ab":
        place = service.folder / "blobs" / "azureml-blobstore" / name / word
        place.parent.mkdir(exist_ok=True, parents=True)
        place.write_text(word, encoding="utf-8")
    client.models.create_or_update(Model(name=name, version="1", path=paths[0]))
    with unchanged(service), pytest.raises(Exception, match=r"(?i)exist|cannot be updated|changed"):
        client.models.create_or_update(Model(name=name, version="1", path=paths[1]))
    assert paths[0].rpartition("/")[2] == client.models.get(name, "1").path.rpartition("/")[2]


def test_an_endpoint_name_that_is_none_is_refused(client: Any, service: Service) -> None:
    from azure.ai.ml.entities import ManagedOnlineEndpoint

    wrong = ManagedOnlineEndpoint(name="a_b", auth_mode="key")
    with unchanged(service), pytest.raises(Exception, match=r"a_b|name"):
        client.online_endpoints.begin_create_or_update(wrong).result()


def test_a_deployment_of_an_unknown_model_to_an_unknown_endpoint_is_refused(
    client: Any, service: Service
) -> None:
    from azure.ai.ml.entities import ManagedOnlineDeployment

    wanted = ManagedOnlineDeployment(
        name="blue",
        endpoint_name="no-such-endpoint",
        model="azureml:no-such-model:1",
        instance_type="Standard_local",
        instance_count=1,
    )
    begin = client.online_deployments.begin_create_or_update
    with unchanged(service):
        text = refused(lambda: begin(wanted), 400, 404)
    assert "no-such" in text


def test_unknown_computes_datastores_and_sizes_are_named(client: Any, service: Service) -> None:
    from azure.ai.ml.entities import AmlCompute

    with unchanged(service):
        assert "no-cluster" in refused(lambda: client.compute.get("no-cluster"), 404)
        assert "no-store" in refused(lambda: client.datastores.get("no-store"), 404)
        odd = AmlCompute(name="odd", size="Standard_Nothing", max_instances=1)
        begin = client.compute.begin_create_or_update
        assert "Standard_Nothing" in refused(lambda: begin(odd), 400)


ESCAPES = (
    "azureml://datastores/workspaceblobstore/paths/../../secrets/signing.key",
    "azureml://datastores/../paths/x",
    "azureml://jobs/../outputs/../paths/../../finery.sqlite",
    "azureml://jobs/x/outputs/../../../../finery.sqlite",
    "file:///etc/passwd",
    "/etc/passwd",
)


@pytest.mark.parametrize("uri", ESCAPES[:-2])
def test_no_path_leads_out_of_its_folder(client: Any, service: Service, uri: str) -> None:
    from azure.ai.ml import Input, Output
    from azure.ai.ml.entities import Data, Model

    def data() -> Any:
        return client.data.create_or_update(Data(name="out", type="uri_file", path=uri))

    def model() -> Any:
        return client.models.create_or_update(Model(name="out", path=uri, type="custom_model"))

    def read() -> Any:
        inputs = {"data": Input(type="uri_file", path=uri)}
        return client.jobs.create_or_update(command_job("cat ${{inputs.data}}", inputs=inputs))

    def write() -> Any:
        outputs = {"out": Output(type="uri_folder", path=uri)}
        return client.jobs.create_or_update(command_job("ls ${{outputs.out}}", outputs=outputs))

    for act in (data, model, read, write):
        with unchanged(service):
            refused(act, 400, 404)
