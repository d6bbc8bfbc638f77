"""Models that are registered with MLflow's own API, and models made from runs by the SDK."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest
from azure.ai.ml import MLClient
from azure.ai.ml.entities import Model
from job_runs import new_name, wait_for
from mlflow import MlflowClient
from service_process import Service


@pytest.fixture(scope="module")
def azure(service: Service, client: MLClient) -> Iterator[None]:
    """mlflow pointed at the workspace the way Azure's documentation does it."""
    found = client.workspaces.get("finery")
    assert found is not None
    mlflow.set_tracking_uri(found.mlflow_tracking_uri)
    yield
    mlflow.set_tracking_uri("")


MLMODEL = "flavors:\n  python_function:\n    loader_module: somewhere\nmodel_uuid: a\n"


@pytest.fixture(scope="module")
def run(azure: None, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A run with an MLflow model as MLflow logs them, and with a folder that is none."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "plain").mkdir()
    (folder / "plain" / "weights.bin").write_bytes(b"weights")
    (folder / "model").mkdir()
    (folder / "model" / "MLmodel").write_text(MLMODEL)
    mlflow_client = MlflowClient()
    with mlflow.start_run() as started:
        mlflow.log_artifacts(str(folder / "plain"), "plain")
        experiment = started.info.experiment_id
        model = mlflow_client.create_logged_model(experiment, "model", started.info.run_id)
        mlflow_client.log_model_artifacts(model.model_id, str(folder / "model"))
        mlflow_client.finalize_logged_model(model.model_id, "READY")
    return started.info.run_id


def names(client: MLClient) -> set[str]:
    return {str(model.name) for model in client.models.list()}


def test_a_model_registered_with_mlflow_is_among_the_models_of_the_workspace(
    client: MLClient, run: str, tmp_path: Path
) -> None:
    name = new_name("logged")
    made = mlflow.register_model(f"runs:/{run}/model", name)
    assert name in names(client)
    model = client.models.get(name, version=str(made.version))
    assert model.type == "mlflow_model"
    assert "python_function" in model.flavors  # pyright: ignore
    assert model.job_name == run
    client.models.download(name, version=model.version, download_path=tmp_path)
    assert list(tmp_path.rglob("MLmodel"))
    said = MlflowClient().get_model_version(name, str(made.version))
    assert said.tags["finery.model"] == f"azureml:{name}:1"


def test_a_version_created_with_mlflows_client_is_there_too(client: MLClient, run: str) -> None:
    name = new_name("created")
    mlflow_client = MlflowClient()
    mlflow_client.create_registered_model(name)
    source = f"{mlflow.get_run(run).info.artifact_uri}/plain"
    for version in ("1", "2"):
        mlflow_client.create_model_version(name, source, run, description="by hand")
        model = client.models.get(name, label="latest")
        assert (model.version, model.type) == (version, "custom_model")
        assert model.description == "by hand"


def test_a_version_that_the_workspace_has_already_goes_on_from_there(
    client: MLClient, run: str, tmp_path: Path
) -> None:
    name = new_name("both")
    (tmp_path / "weights.bin").write_bytes(b"others")
    first = Model(name=name, version="1", path=str(tmp_path), type="custom_model")
    client.models.create_or_update(first)
    mlflow.register_model(f"runs:/{run}/model", name)
    assert {model.version for model in client.models.list(name)} == {"1", "2"}
    assert client.models.get(name, version="2").type == "mlflow_model"


def test_what_mlflow_registers_without_files_says_there_why_it_is_no_model(
    client: MLClient, run: str
) -> None:
    name = new_name("nowhere")
    mlflow_client = MlflowClient()
    mlflow_client.create_registered_model(name)
    source = f"{mlflow.get_run(run).info.artifact_uri}/nothing"
    made = mlflow_client.create_model_version(name, source, run)
    tag = mlflow_client.get_model_version(name, str(made.version)).tags["finery.model"]
    assert "There are no files" in tag
    assert name not in names(client)


@pytest.mark.parametrize("path", ["model", "plain"])
def test_a_model_is_made_from_what_a_run_logged(
    client: MLClient, run: str, path: str, tmp_path: Path
) -> None:
    kind = "mlflow_model" if path == "model" else "custom_model"
    for _ in range(2):  # the second time nothing changes
        asked = Model(name=new_name("runs"), version="1", path=f"runs:/{run}/{path}", type=kind)
        model = client.models.create_or_update(asked)
        again = client.models.create_or_update(asked)
        assert (model.version, model.type, model.job_name) == ("1", kind, run)
        assert again.path == model.path
    client.models.download(str(model.name), version="1", download_path=tmp_path)
    assert list(tmp_path.rglob("MLmodel" if path == "model" else "weights.bin"))


def test_a_run_that_logged_nothing_there_makes_no_model(client: MLClient, run: str) -> None:
    asked = Model(name="none", version="1", path=f"runs:/{run}/other", type="custom_model")
    with pytest.raises(Exception, match="no files"):
        client.models.create_or_update(asked)


def test_a_model_of_a_jobs_artifacts_remembers_the_job(
    client: MLClient, service: Service, azure: None, tmp_path: Path
) -> None:
    from azure.ai.ml import command

    code = (
        "import mlflow, pathlib; pathlib.Path('w').mkdir(); "
        "pathlib.Path('w/weights.bin').write_text('w'); "
        "mlflow.log_artifacts('w', 'logged')"
    )
    job = command(
        command=f'mkdir -p outputs/kept && echo w > outputs/kept/weights.bin && python -c "{code}"',
        environment="azureml://registries/azureml/environments/sklearn-1.5/labels/latest",
    )
    job.name = new_name("artifacts")
    client.jobs.create_or_update(job)
    assert wait_for(client, job.name) == "Completed"
    for place in (
        f"azureml://jobs/{job.name}/outputs/artifacts/paths/outputs/kept",
        f"azureml://jobs/{job.name}/outputs/artifacts/paths/logged/",
        f"runs:/{job.name}/logged",
    ):
        asked = Model(name=new_name("kept"), version="1", path=place, type="custom_model")
        model = client.models.create_or_update(asked)
        assert (model.properties["job"], model.job_name) == (job.name, job.name)
        folder = tmp_path / str(model.name)
        client.models.download(str(model.name), version="1", download_path=folder)
        assert list(folder.rglob("weights.bin"))
