"""The bodies that the SDK sends for some jobs, made without any service.

`python tests/service/sdk_bodies.py` writes them to tests/unit/azureml/bodies, where the tests of
the doors read them; test_job_bodies_of_sdk.py holds them against the SDK that is installed.
"""

# No postponed annotations here: the SDK reads those of pipelines and groups.
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

FOLDER = Path(__file__).resolve().parents[1] / "unit" / "azureml" / "bodies"
WORKSPACE = (
    "/subscriptions/s/resourceGroups/g/providers/Microsoft.MachineLearningServices/workspaces/w"
)
BLOBS = "azureml://subscriptions/s/resourcegroups/g/workspaces/w/datastores/workspaceblobstore"
ORCHESTRATOR = "azure.ai.ml.operations._operation_orchestrator.OperationOrchestrator"


def command_job() -> Any:
    """Everything that a command job can say."""
    from azure.ai.ml import Input, Output, PyTorchDistribution, command

    data = Input(type="uri_file", path=f"{BLOBS}/paths/LocalUpload/h/chats.jsonl", mode="download")
    job = command(
        name="a_command",
        command="python run.py ${{inputs.rate}} ${{inputs.data}} ${{outputs.made}}",
        inputs={"rate": 1.5, "data": data, "flag": True},
        outputs={"made": Output(type="uri_folder", mode="rw_mount", name="made_asset")},
        environment="azureml:sklearn:1",
        code=f"{WORKSPACE}/codes/snapshot/versions/1",
        compute="cpu-cluster",
        instance_count=1,
        distribution=PyTorchDistribution(process_count_per_instance=2),
        environment_variables={"GREETING": "hello"},
        tags={"k": "v"},
        experiment_name="commands",
        display_name="A command",
        description="says hello",
    )
    return job


def _components() -> tuple[Any, Any]:
    from azure.ai.ml import Input, Output
    from azure.ai.ml.entities import CommandComponent

    train = CommandComponent(
        name="train",
        version="1",
        inputs={
            "data": Input(type="uri_folder"),
            "rate": Input(type="number", default=0.1),
            "epochs": Input(type="integer", min=1, max=9),
            "kind": Input(type="string", enum=["a", "b"], default="a"),
            "note": Input(type="string", optional=True),
        },
        outputs={"model": Output(type="custom_model")},
        command=(
            "train ${{inputs.data}} ${{inputs.rate}} ${{inputs.epochs}} ${{inputs.kind}} "
            "$[[--note ${{inputs.note}}]] > ${{outputs.model}}/weights"
        ),
        environment="azureml:sklearn:1",
    )
    score = CommandComponent(
        name="score",
        version="1",
        inputs={"model": Input(type="custom_model")},
        outputs={"report": Output(type="uri_file")},
        command="score ${{inputs.model}} > ${{outputs.report}}",
        environment="azureml:sklearn:1",
        is_deterministic=False,
    )
    return train, score


def pipeline_job() -> Any:
    """Two nodes, a group of inputs, and what can be said at a node."""
    from azure.ai.ml import Input, Output, dsl
    from azure.ai.ml.dsl._group_decorator import group

    train, score = _components()

    @group
    class Shape:
        epochs: int = 2
        kind: str = "b"

    @dsl.pipeline(display_name="Two nodes", experiment_name="pipelines", tags={"k": "v"})
    def two_nodes(data: Input(type="uri_folder"), rate: float = 0.5, shape: Shape = Shape()) -> Any:  # type: ignore  # noqa: B008
        first = train(data=data, rate=rate, epochs=shape.epochs, kind=shape.kind)
        first.inputs.data.mode = "download"
        first.outputs.model = Output(
            type="custom_model", path="azureml://datastores/workspaceblobstore/paths/m/${{name}}/"
        )
        first.environment_variables = {"GREETING": "hello"}
        first.display_name = "First"
        first.compute = "cpu-cluster"
        second = score(model=first.outputs.model)
        return {"report": second.outputs.report}

    job = two_nodes(data=Input(type="uri_folder", path="azureml:chats:1", mode="ro_mount"))
    job.name = "two_nodes"
    job.outputs.report.mode = "upload"
    job.settings.default_compute = "cpu-cluster"
    job.settings.force_rerun = True
    job.settings.continue_on_step_failure = True
    return job


def nested_job() -> Any:
    """A pipeline that uses another one twice."""
    from azure.ai.ml import Input, dsl

    train, score = _components()

    @dsl.pipeline()
    def inner(data: Input(type="uri_folder"), rate: float, node_compute: str) -> Any:  # type: ignore
        first = train(data=data, rate=rate, epochs=1)
        first.compute = node_compute
        second = score(model=first.outputs.model)
        return {"model": first.outputs.model, "report": second.outputs.report}

    @dsl.pipeline(default_compute="cpu-cluster", experiment_name="pipelines")
    def outer(data: Input(type="uri_folder"), rate: float = 0.1) -> Any:  # type: ignore
        one = inner(data=data, rate=rate, node_compute="serverless")
        two = inner(data=data, rate=0.2, node_compute="serverless")
        last = score(model=one.outputs.model)
        return {"best": two.outputs.model, "report": last.outputs.report}

    job = outer(data=Input(type="uri_folder", path=f"{BLOBS}/paths/LocalUpload/h/chats/"))
    job.name = "nested"
    return job


def finetuning_job() -> Any:
    """A fine-tuning job as create_finetuning_job makes it."""
    from azure.ai.ml.finetuning import FineTuningTaskType, create_finetuning_job

    return create_finetuning_job(
        task=FineTuningTaskType.CHAT_COMPLETION,
        training_data=f"{WORKSPACE}/data/chats/versions/1",
        validation_data=f"{WORKSPACE}/data/chats/versions/1",
        hyperparameters={"num_train_epochs": "1", "learning_rate": "0.00002"},
        model="azureml://registries/azureml/models/Phi-3-mini-4k-instruct/versions/15",
        display_name="Tuned",
        name="finetuning",
        experiment_name="finetunings",
        instance_types=["Standard_NC96ads_A100_v4"],
        tags={"k": "v"},
        output_model_name_prefix="tuned-model",
    )


JOBS: dict[str, Callable[[], Any]] = {
    "command": command_job,
    "pipeline": pipeline_job,
    "nested": nested_job,
    "finetuning": finetuning_job,
}


def body_of(make: Callable[[], Any]) -> dict[str, Any]:
    """What the SDK would PUT, and the components that it would register before."""
    os.environ.setdefault("AZUREML_CURRENT_CLOUD", "AzureCloud")
    from azure.ai.ml import MLClient
    from azure.ai.ml._restclient.arm_ml_service._utils.model_base import SdkJSONEncoder
    from azure.ai.ml.entities import Component
    from azure.ai.ml.entities._job.to_rest_functions import to_rest_job_object

    client = MLClient(mock.Mock(), "s", "g", "w")
    client.components._client_key = f"workspace/{os.urandom(8).hex()}"  # no cache of earlier runs
    components: dict[str, Any] = {}

    def plain(value: Any) -> Any:
        return json.loads(json.dumps(value, cls=SdkJSONEncoder, exclude_readonly=True))

    def resolved(_self: Any, asset: Any = None, azureml_type: str = "", **_: Any) -> Any:
        if isinstance(asset, Component):
            client.components._resolve_arm_id_or_upload_dependencies(asset)
            spec = plain(asset._to_rest_object())["properties"]["componentSpec"]
            components.setdefault(asset.name, spec)
            return f"{WORKSPACE}/components/{asset.name}/versions/1"
        if not isinstance(asset, str) or "/" in asset:
            return asset
        name, colon, version = asset.removeprefix("azureml:").partition(":")
        kind = "computes" if azureml_type == "virtualclusters" else azureml_type
        return f"{WORKSPACE}/{kind}/{name}" + (f"/versions/{version}" if colon else "")

    job = make()
    with mock.patch(f"{ORCHESTRATOR}.get_asset_arm_id", resolved):
        client.jobs._resolve_arm_id_or_upload_dependencies(job)
    rest = to_rest_job_object(job)
    return {"name": rest.name, "body": plain(rest), "components": components}


def main() -> None:
    """Write every body."""
    for name, make in JOBS.items():
        text = json.dumps(body_of(make), indent=1, sort_keys=True) + "\n"
        (FOLDER / f"{name}.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
