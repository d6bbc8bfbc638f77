"""Models, code, components and environments of the workspace, through the unmodified SDK."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

MLMODEL = "flavors:\n  python_function:\n    loader_module: m\n  transformers:\n    task: chat\n"


def write_mlflow_model(folder: Path) -> Path:
    """A folder that MLflow would take for a model."""
    (folder / "data").mkdir(parents=True)
    (folder / "MLmodel").write_text(MLMODEL)
    (folder / "data" / "weights.safetensors").write_bytes(b"weights")
    return folder


def job_output(service: Any, job: str, output: str) -> Path:
    """Where a job's output lies."""
    return service.folder / "blobs" / "azureml-blobstore" / "azureml" / job / output


def test_a_local_model_is_registered_and_downloaded(client: Any, tmp_path: Path) -> None:
    from azure.ai.ml.entities import Model

    folder = tmp_path / "plain"
    (folder / "nested").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "nested" / "weights.bin").write_bytes(b"w" * 1000)
    made = client.models.create_or_update(
        Model(name="plain", path=str(folder), type="custom_model", tags={"a": "b"})
    )
    assert (made.version, made.type, made.tags) == ("1", "custom_model", {"a": "b"})
    client.models.download("plain", "1", download_path=str(tmp_path / "down"))
    found = {p.name: p.read_bytes() for p in (tmp_path / "down").rglob("*") if p.is_file()}
    assert found == {"config.json": b"{}", "weights.bin": b"w" * 1000}
    assert client.models.create_or_update(Model(name="plain", path=str(folder))).version == "2"
    assert [m.version for m in client.models.list("plain")] == ["2", "1"]


def test_a_job_output_becomes_a_model(client: Any, service: Any, tmp_path: Path) -> None:
    from azure.ai.ml.entities import Model

    write_mlflow_model(job_output(service, "good_job_1", "trained_model"))
    made = client.models.create_or_update(
        Model(
            name="tuned",
            path="azureml://jobs/good_job_1/outputs/trained_model",
            type="mlflow_model",
        )
    )
    assert set(made.flavors) == {"python_function", "transformers"}
    client.models.download("tuned", made.version, download_path=str(tmp_path / "down"))
    assert {p.name for p in (tmp_path / "down").rglob("*")} >= {"MLmodel", "weights.safetensors"}


def test_a_model_of_one_file_is_downloaded_as_one_file(client: Any, tmp_path: Path) -> None:
    from azure.ai.ml.entities import Model

    (tmp_path / "weights.gguf").write_bytes(b"gguf")
    client.models.create_or_update(
        Model(name="single", path=str(tmp_path / "weights.gguf"), type="custom_model")
    )
    client.models.download("single", "1", download_path=str(tmp_path / "down"))
    assert (tmp_path / "down" / "single" / "weights.gguf").read_bytes() == b"gguf"


def test_a_model_without_files_is_refused(client: Any, service: Any) -> None:
    from azure.ai.ml.entities import Model
    from azure.core.exceptions import HttpResponseError

    missing = Model(name="none", path="azureml://jobs/no_job/outputs/o", type="custom_model")
    with pytest.raises(HttpResponseError, match="There are no files"):
        client.models.create_or_update(missing)
    job_output(service, "good_job_2", "o").mkdir(parents=True)
    wrong = Model(name="none", path="azureml://jobs/good_job_2/outputs/o", type="mlflow_model")
    with pytest.raises(HttpResponseError, match="MLmodel"):
        client.models.create_or_update(wrong)
    assert "none" not in {m.name for m in client.models.list()}


def test_a_model_is_archived_and_restored(client: Any, tmp_path: Path) -> None:
    from azure.ai.ml.entities import Model

    write_mlflow_model(tmp_path / "m")
    for version in ("1", "2"):
        client.models.create_or_update(
            Model(name="old", version=version, path=str(tmp_path / "m"), type="mlflow_model")
        )
    client.models.archive("old", version="2")
    assert client.models.get("old", label="latest").version == "1"
    client.models.restore("old", version="2")
    assert client.models.get("old", label="latest").version == "2"
    client.models.archive("old")
    assert "old" not in {m.name for m in client.models.list()}
    client.models.restore("old")
    assert "old" in {m.name for m in client.models.list()}


def test_code_is_sent_once_and_found_again(client: Any, service: Any, tmp_path: Path) -> None:
    from azure.ai.ml.entities._assets import Code

    (tmp_path / "src" / "deep").mkdir(parents=True)
    (tmp_path / "src" / "main.py").write_text("print(1)\n")
    (tmp_path / "src" / "deep" / "more.py").write_text("print(2)\n")
    code = client._code.create_or_update(Code(path=str(tmp_path / "src")))
    container = service.folder / "blobs" / code.path.rpartition("_blob.blob.local/")[2]
    found = {p.relative_to(container).as_posix() for p in container.rglob("*") if p.is_file()}
    assert found == {"main.py", "deep/more.py"}
    again = client._code.create_or_update(Code(path=str(tmp_path / "src")))
    assert again.id == code.id
    (tmp_path / "src" / "main.py").write_text("print(3)\n")
    assert client._code.create_or_update(Code(path=str(tmp_path / "src"))).id != code.id


def test_a_component_goes_round(client: Any) -> None:
    from azure.ai.ml import command

    component = command(
        name="say",
        version="1",
        command="echo ${{inputs.word}}",
        environment="azureml://registries/azureml/environments/sklearn-1.5/versions/1",
        inputs={"word": {"type": "string", "default": "hello"}},
    ).component
    made = client.components.create_or_update(component)
    read = client.components.get("say", version="1")
    assert (read.id, read.command) == (made.id, component.command)
    assert read.inputs["word"].default == "hello"
    assert client.components.get("say", label="latest").version == "1"
    assert client.components.get("say").version == "1"
    assert "say" in {c.name for c in client.components.list()}
    client.components.archive("say", version="1")
    assert list(client.components.list("say")) == []
    client.components.restore("say", version="1")


def test_an_environment_goes_round(client: Any) -> None:
    from azure.ai.ml.entities import Environment

    conda = {"name": "e", "dependencies": ["python=3.11"]}
    made = client.environments.create_or_update(
        Environment(name="env", image="python:3.11", conda_file=conda, description="d")
    )
    assert made.version == "1"
    read = client.environments.get("env", label="latest")
    assert (read.image, read.description) == ("python:3.11", "d")
    assert read.conda_file["dependencies"] == ["python=3.11"]
    second = client.environments.create_or_update(Environment(name="env", image="python:3.12"))
    assert second.version == "2"
    assert [e.version for e in client.environments.list("env")] == ["2", "1"]
    client.environments.archive("env")
    assert "env" not in {e.name for e in client.environments.list()}


def test_a_long_list_comes_in_pages(client: Any) -> None:
    from azure.ai.ml.entities import Environment

    for number in range(1, 131):
        client.environments.create_or_update(
            Environment(name="many", version=str(number), image=f"image:{number}")
        )
    versions = [int(e.version) for e in client.environments.list("many")]
    assert versions == list(range(130, 0, -1))
