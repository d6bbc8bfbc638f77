"""Every operation of the SDK is in the table, and does what the table says.

The page docs/reference/operations.md is made from the table (finery.service.operations).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from azure.ai.ml import Input, command
from azure.ai.ml.data_transfer import Database
from azure.ai.ml.entities import (
    AmlCompute,
    AzureBlobDatastore,
    AzureMLOnlineInferencingServer,
    CommandComponent,
    Data,
    DataImport,
    Environment,
    FeatureStore,
    KubernetesCompute,
    ManagedOnlineDeployment,
    ManagedOnlineEndpoint,
    Model,
    ModelPackage,
)
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError
from proofs import PROVED, operation_groups, operations_of, proves

from finery.service.operations import OPERATIONS, REFUSED, WORKS, operation_names

PACKAGE = {"target_environment": "e", "inferencing_server": AzureMLOnlineInferencingServer()}
IMPORT = DataImport(
    name="rows",
    path="azureml://datastores/workspaceblobstore/paths/rows",
    source=Database(query="select 1", connection="azureml:c"),
)

pytestmark = pytest.mark.timeout(900)


def unique(word: str) -> str:
    return f"{word}-{time.time_ns():x}"


def test_the_table_holds_the_sdks_operations_and_no_others() -> None:
    there = {
        f"{group}.{method}"
        for group, kind in operation_groups().items()
        for method in operations_of(kind)
    }
    listed = [name for one in OPERATIONS for name in one.names]
    assert set(listed) == there
    assert len(listed) == len(set(listed))


def test_every_operation_that_works_has_a_proof() -> None:
    assert operation_names(WORKS) == PROVED


@proves("data.create_or_update", "data.get", "data.list", "data.archive", "data.restore")
def test_data_assets(client: Any, tmp_path: Path) -> None:
    name, file = unique("rows"), tmp_path / "rows.jsonl"
    file.write_text('{"messages": []}\n')
    made = client.data.create_or_update(Data(name=name, path=str(file), type="uri_file"))
    assert client.data.get(name, label="latest").version == made.version
    assert name in {one.name for one in client.data.list()}
    _archived_and_back(client.data, name, made.version)


@proves(
    *("models.create_or_update", "models.get", "models.list"),
    *("models.archive", "models.restore", "models.download"),
)
def test_models(client: Any, tmp_path: Path) -> None:
    name, folder = unique("model"), tmp_path / "weights"
    folder.mkdir()
    (folder / "config.json").write_text('{"a": 1}')
    model = Model(name=name, path=str(folder), type="custom_model", tags={"a": "b"})
    made = client.models.create_or_update(model)
    assert client.models.get(name, made.version).tags == {"a": "b"}
    assert name in {one.name for one in client.models.list()}
    client.models.download(name, made.version, download_path=str(tmp_path / "got"))
    (copy,) = (tmp_path / "got").rglob("config.json")
    assert copy.read_text() == '{"a": 1}'
    _archived_and_back(client.models, name, made.version)


@proves(
    *("components.create_or_update", "components.get", "components.list"),
    *("components.archive", "components.restore", "components.validate", "components.download"),
)
def test_components(client: Any, tmp_path: Path) -> None:
    name = unique("echo").replace("-", "_")
    component = CommandComponent(
        name=name,
        version="1",
        command="echo ${{inputs.word}}",
        environment=_environment(client),
        inputs={"word": {"type": "string", "default": "hello"}},
    )
    assert client.components.validate(component).passed
    client.components.create_or_update(component)
    assert client.components.get(name, "1").inputs["word"].default == "hello"
    assert name in {one.name for one in client.components.list()}
    client.components.download(name, str(tmp_path / "got"), version="1")
    assert any(path.is_file() for path in (tmp_path / "got").rglob("*"))
    _archived_and_back(client.components, name, "1")


@proves("models.share", "data.share", "environments.share")
def test_assets_are_shared_with_a_registry(client: Any, registry: Any, tmp_path: Path) -> None:
    name, file = unique("shared"), tmp_path / "file.txt"
    file.write_text("content")
    place = {"registry_name": "azureml", "share_with_name": name, "share_with_version": "7"}
    client.models.create_or_update(Model(name=name, version="1", path=str(file)))
    client.models.share(name, "1", **place)
    registry.models.download(name, "7", download_path=str(tmp_path / "got"))
    (copy,) = (path for path in (tmp_path / "got").rglob("*") if path.is_file())
    assert copy.relative_to(tmp_path / "got").as_posix() == f"{name}/file.txt"
    assert copy.read_text() == "content"
    client.data.create_or_update(Data(name=name, version="1", path=str(file), type="uri_file"))
    client.data.share(name, "1", **place)
    assert registry.data.get(name, "7").type == "uri_file"
    client.environments.create_or_update(Environment(name=name, version="1", image="python"))
    client.environments.share(name, "1", **place)
    assert registry.environments.get(name, "7").image == "python"


@proves(
    *("evaluators.create_or_update", "evaluators.get", "evaluators.list"),
    "evaluators.download",
)
def test_evaluators(client: Any, tmp_path: Path) -> None:
    name, folder = unique("judge"), tmp_path / "judge"
    folder.mkdir()
    (folder / "judge.py").write_text("def judge(): ...")
    properties = {"is-promptflow": "true", "is-evaluator": "true"}
    evaluator = Model(name=name, version="1", path=str(folder), properties=properties)
    client.evaluators.create_or_update(evaluator)
    assert client.evaluators.get(name, version="1").name == name
    assert [one.version for one in client.evaluators.list(name)] == ["1"]
    client.evaluators.download(name, "1", download_path=str(tmp_path / "got"))
    assert list((tmp_path / "got").rglob("judge.py"))


@proves(
    *("environments.create_or_update", "environments.get", "environments.list"),
    *("environments.archive", "environments.restore"),
)
def test_environments(client: Any) -> None:
    name = unique("python")
    made = client.environments.create_or_update(Environment(name=name, image="python:3.11"))
    assert client.environments.get(name, made.version).image == "python:3.11"
    assert name in {one.name for one in client.environments.list()}
    _archived_and_back(client.environments, name, made.version)


@proves(
    *("datastores.get", "datastores.get_default", "datastores.list"),
    *("datastores.create_or_update", "datastores.delete"),
)
def test_datastores(client: Any) -> None:
    assert client.datastores.get_default().name == "workspaceblobstore"
    name = unique("store").replace("-", "_")
    store = AzureBlobDatastore(name=name, account_name="a", container_name="mine")
    client.datastores.create_or_update(store)
    assert client.datastores.get(name).container_name == "mine"
    assert name in {one.name for one in client.datastores.list()}
    client.datastores.delete(name)
    with pytest.raises(ResourceNotFoundError):
        client.datastores.get(name)


@proves(
    *("compute.begin_create_or_update", "compute.get", "compute.list", "compute.begin_delete"),
    *("compute.begin_update", "compute.list_nodes", "compute.list_sizes", "compute.list_usage"),
)
def test_computes(client: Any) -> None:
    name = unique("cpu")[:24]
    cluster = AmlCompute(name=name, size="Standard_local", max_instances=1)
    client.compute.begin_create_or_update(cluster).result()
    made = client.compute.get(name)
    made.max_instances = 2
    client.compute.begin_update(made).result()
    assert client.compute.get(name).max_instances == 2
    assert name in {one.name for one in client.compute.list()}
    assert isinstance(list(client.compute.list_nodes(name)), list)
    assert "Standard_local" in {one.name for one in client.compute.list_sizes()}
    assert list(client.compute.list_usage())
    client.compute.begin_delete(name).wait()
    with pytest.raises(ResourceNotFoundError):
        client.compute.get(name)


@proves("workspaces.get", "workspaces.list")
def test_workspaces(client: Any) -> None:
    assert client.workspaces.get("any-name").name == "any-name"
    assert list(client.workspaces.list())


@proves(
    *("jobs.create_or_update", "jobs.get", "jobs.list", "jobs.stream", "jobs.show_services"),
    *("jobs.download", "jobs.archive", "jobs.restore", "jobs.update", "jobs.validate"),
    "jobs.begin_delete",
)
def test_jobs(client: Any, tmp_path: Path) -> None:
    data = tmp_path / "word.txt"
    data.write_text("hello")
    job = command(
        command="cat ${{inputs.file}} > ${{outputs.made}}/copy.txt && echo written",
        inputs={"file": Input(type="uri_file", path=str(data))},
        outputs={"made": {"type": "uri_folder"}},
        environment=_environment(client),
        experiment_name="conformance",
    )
    client.jobs.validate(job)
    made = client.jobs.create_or_update(job)
    client.jobs.stream(made.name)
    assert client.jobs.get(made.name).status == "Completed"
    client.jobs.show_services(made.name)  # none, for a job that serves nothing
    client.jobs.download(made.name, download_path=str(tmp_path / "got"), all=True)
    (copy,) = (tmp_path / "got").rglob("copy.txt")
    assert copy.read_text() == "hello"
    client.jobs.update(made.name, display_name="copied", tags={"a": "b"})
    changed = client.jobs.get(made.name)
    assert (changed.display_name, changed.tags["a"]) == ("copied", "b")
    client.jobs.archive(made.name)
    assert made.name not in {one.name for one in client.jobs.list()}
    client.jobs.restore(made.name)
    assert made.name in {one.name for one in client.jobs.list()}
    client.jobs.begin_delete(made.name).wait()
    with pytest.raises(ResourceNotFoundError):
        client.jobs.get(made.name)


@proves("jobs.begin_cancel")
def test_a_job_is_stopped(client: Any) -> None:
    job = command(command="sleep 600", environment=_environment(client))
    made = client.jobs.create_or_update(job)
    client.jobs.begin_cancel(made.name).wait()
    end = time.monotonic() + 60
    while client.jobs.get(made.name).status != "Canceled" and time.monotonic() < end:
        time.sleep(0.2)
    assert client.jobs.get(made.name).status == "Canceled"


@proves(
    *("online_endpoints.begin_create_or_update", "online_endpoints.get", "online_endpoints.list"),
    *("online_endpoints.get_keys", "online_endpoints.begin_regenerate_keys"),
    *("online_endpoints.invoke", "online_endpoints.begin_delete"),
    *("online_deployments.begin_create_or_update", "online_deployments.get"),
    *("online_deployments.list", "online_deployments.get_logs", "online_deployments.begin_delete"),
)
def test_endpoints(client: Any, kit: Path, tmp_path: Path) -> None:
    endpoints, deployments, name = client.online_endpoints, client.online_deployments, unique("ask")
    folder = str(kit / "model" / "stories15m-phi3")
    model = client.models.create_or_update(Model(name=unique("tiny"), path=folder))
    endpoint = ManagedOnlineEndpoint(name=name, auth_mode="key")
    endpoints.begin_create_or_update(endpoint).result()
    size = {"instance_type": "Standard_local", "instance_count": 1}
    blue = ManagedOnlineDeployment(name="blue", endpoint_name=name, model=model.id, **size)
    deployments.begin_create_or_update(blue).result()
    endpoint.traffic = {"blue": 100}
    endpoints.begin_create_or_update(endpoint).result()
    assert endpoints.get(name).traffic == {"blue": 100}
    assert deployments.get("blue", name).provisioning_state == "Succeeded"
    assert [one.name for one in deployments.list(name)] == ["blue"]
    assert name in {one.name for one in endpoints.list()}
    before = endpoints.get_keys(name)
    endpoints.begin_regenerate_keys(name, key_type="secondary").wait()
    after = endpoints.get_keys(name)
    assert (
        after.primary_key == before.primary_key,
        after.secondary_key == before.secondary_key,
    ) == (*(True, False),)
    body = tmp_path / "body.json"
    turn = {"role": "user", "content": "Once"}
    body.write_text(json.dumps({"input_data": {"input_string": [turn], "parameters": {}}}))
    assert endpoints.invoke(name, request_file=str(body))
    assert deployments.get_logs("blue", name, lines=50)
    endpoint.traffic = {"blue": 0}
    endpoints.begin_create_or_update(endpoint).result()
    deployments.begin_delete("blue", name).wait()
    endpoints.begin_delete(name).wait()
    with pytest.raises(ResourceNotFoundError):
        endpoints.get(name)


# One call of each refused group, as its users would make it.
REFUSED_CALLS: dict[str, Callable[[Any], Any]] = {
    "models": lambda c: c.models.package("m", "1", ModelPackage(**PACKAGE)),
    "data": lambda c: c.data.import_data(IMPORT),
    "compute": lambda c: c.compute.begin_attach(KubernetesCompute(name="k", namespace="n")).wait(),
    "workspaces": lambda c: c.workspaces.get_keys("finery"),
    "registries": lambda c: list(c.registries.list()),
    "schedules": lambda c: list(c.schedules.list()),
    "batch_endpoints": lambda c: list(c.batch_endpoints.list()),
    "batch_deployments": lambda c: list(c.batch_deployments.list("e")),
    "connections": lambda c: list(c.connections.list()),
    "indexes": lambda c: list(c.indexes.list("i")),
    "feature_sets": lambda c: list(c.feature_sets.list()),
    "feature_store_entities": lambda c: list(c.feature_store_entities.list()),
    "feature_stores": lambda c: c.feature_stores.begin_create(FeatureStore(name="f")).wait(),
    "serverless_endpoints": lambda c: list(c.serverless_endpoints.list()),
    "marketplace_subscriptions": lambda c: list(c.marketplace_subscriptions.list()),
    "workspace_outbound_rules": lambda c: list(c.workspace_outbound_rules.list("finery")),
    "capability_hosts": lambda c: c.capability_hosts.get("h"),
    "azure_openai_deployments": lambda c: list(c.azure_openai_deployments.list("c")),
}


def test_every_refused_group_has_its_call() -> None:
    assert {one.group for one in OPERATIONS if one.answer == REFUSED} == set(REFUSED_CALLS)


@pytest.mark.parametrize("group", REFUSED_CALLS)
def test_what_finery_does_not_have_is_refused_in_words(client: Any, group: str) -> None:
    with pytest.raises(HttpResponseError) as error:
        REFUSED_CALLS[group](client)
    assert error.value.status_code in (400, 501)
    assert error.value.error is not None
    assert error.value.error.message


def test_an_import_of_data_is_refused_as_what_finery_does_not_have(client: Any) -> None:
    with pytest.raises(HttpResponseError) as error:
        client.data.import_data(IMPORT)
    assert (error.value.status_code, error.value.error.code) == (501, "NotImplemented")
    assert "data.create_or_update" in error.value.error.message


def _archived_and_back(operations: Any, name: str, version: str) -> None:
    operations.archive(name, version)
    assert version not in {one.version for one in operations.list(name)}
    operations.restore(name, version)
    assert version in {one.version for one in operations.list(name)}


def _environment(client: Any) -> str:
    made = client.environments.create_or_update(Environment(name="plain", image="python:3.11"))
    return f"azureml:{made.name}:{made.version}"
