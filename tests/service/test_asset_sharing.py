"""Assets with code or build contexts, and everything that can be shared with a registry."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def code(tmp_path: Path) -> Path:
    """A folder with a script."""
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "run.py").write_text(f"print({str(tmp_path)!r})\n")
    return tmp_path / "src"


def container_of(service: Any, address: str) -> Path:
    """The folder of the container in an address of a blob."""
    return service.folder / "blobs" / address.rpartition("_blob.blob.local/")[2]


def files_below(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def test_a_component_brings_its_code(client: Any, service: Any, code: Path) -> None:
    from azure.ai.ml import command

    component = command(
        name="with_code",
        version="1",
        command="python run.py",
        code=str(code),
        environment="azureml://registries/azureml/environments/sklearn-1.5/versions/1",
    ).component
    made = client.components.create_or_update(component)
    name, version = made.code.split("/codes/")[1].split("/versions/")
    found = client._code.get(name, version)
    assert files_below(container_of(service, found.path)) == {"run.py"}
    again = client.components.create_or_update(component)
    assert again.id == made.id


def test_a_pipeline_component_keeps_its_steps(client: Any) -> None:
    from azure.ai.ml import command, dsl

    step = command(
        name="one_step",
        version="1",
        command="echo ${{inputs.word}}",
        inputs={"word": {"type": "string"}},
        environment="azureml://registries/azureml/environments/sklearn-1.5/versions/1",
    ).component

    @dsl.pipeline(name="two_steps", version="1")
    def two_steps(word="hello") -> None:  # noqa: ANN001 - would be text, which the SDK cannot read
        step(word=word)
        step(word="other")

    made = client.components.create_or_update(two_steps)
    read = client.components.get("two_steps", version="1")
    assert read.id == made.id
    assert len(read.jobs) == 2
    assert list(read.inputs) == ["word"]


def test_an_environment_brings_its_build_context(client: Any, service: Any, tmp_path: Path) -> None:
    from azure.ai.ml.entities import BuildContext, Environment

    (tmp_path / "context").mkdir()
    (tmp_path / "context" / "Dockerfile").write_text("FROM python:3.11\n")
    made = client.environments.create_or_update(
        Environment(name="built", build=BuildContext(path=str(tmp_path / "context")))
    )
    read = client.environments.get("built", version=made.version)
    assert read.build.dockerfile_path == "Dockerfile"
    assert files_below(container_of(service, read.build.path)) == {"Dockerfile"}


def test_a_registry_component_brings_its_code(registry: Any, service: Any, code: Path) -> None:
    from azure.ai.ml import command

    component = command(
        name="registry_code",
        version="1",
        command="python run.py",
        code=str(code),
        environment="azureml://registries/azureml/environments/sklearn-1.5/versions/1",
    ).component
    made = registry.components.create_or_update(component)
    assert made.code.startswith("azureml://registries/azureml/codes/")


def test_data_is_shared(client: Any, registry: Any, tmp_path: Path) -> None:
    from azure.ai.ml.entities import Data
    from azure.core.exceptions import HttpResponseError

    (tmp_path / "rows.jsonl").write_text("{}\n")
    client.data.create_or_update(
        Data(name="rows", version="1", path=str(tmp_path / "rows.jsonl"), type="uri_file")
    )
    share = {"share_with_name": "rows", "share_with_version": "1", "registry_name": "azureml"}
    client.data.share("rows", "1", **share)
    assert registry.data.get("rows", version="1").type == "uri_file"
    with pytest.raises(Exception, match="already exists in registry"):
        client.data.share("rows", "1", **share)
    with pytest.raises(HttpResponseError, match="No data is called nothing"):
        client.data.share("nothing", "1", **{**share, "share_with_name": "other"})


def test_an_environment_is_shared(client: Any, registry: Any) -> None:
    from azure.ai.ml.entities import Environment

    client.environments.create_or_update(Environment(name="lent", version="1", image="python:3.11"))
    client.environments.share(
        "lent", "1", share_with_name="lent", share_with_version="2", registry_name="azureml"
    )
    assert registry.environments.get("lent", version="2").image == "python:3.11"


def test_what_is_not_here_is_a_named_refusal(client: Any) -> None:
    from azure.ai.ml.entities import Model
    from azure.core.exceptions import HttpResponseError

    with pytest.raises(HttpResponseError) as refused:
        client.models.create_or_update(
            Model(name="web", path="https://example.com/model.zip", type="custom_model")
        )
    assert refused.value.status_code == 400
    assert "Download the file" in str(refused.value)
