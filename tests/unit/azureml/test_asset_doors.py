"""The doors of assets and datastores: bodies, pages, and refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from finery.azureml.registration import completed
from finery.workspace import blobs
from finery.workspace.asset import Asset
from finery.workspace.place import BLOB_CONTAINER, Workspace

SCOPE = "/subscriptions/S/resourceGroups/G/providers/Microsoft.MachineLearningServices"
WS = SCOPE + "/workspaces/W"
REG = "/mferp/managementfrontend" + SCOPE + "/registries/azureml"
STORE = "azureml://datastores/workspaceblobstore/paths"


def put_data(doors: TestClient, version: str, **properties: Any) -> Any:
    body = {"properties": {"dataType": "uri_file", "dataUri": f"{STORE}/a", **properties}}
    return doors.put(f"{WS}/data/d/versions/{version}", json=body)


def test_a_version_has_the_form_that_the_sdk_reads(doors: TestClient) -> None:
    answer = put_data(doors, "1", tags={"n": 1}, description="d")
    assert answer.status_code == 201
    body = answer.json()
    assert body["id"] == f"{WS}/data/d/versions/1"
    assert body["name"] == "1"
    assert body["properties"]["dataUri"].startswith(
        "azureml://subscriptions/S/resourcegroups/G/workspaces/W/datastores/workspaceblobstore"
    )
    assert body["properties"]["tags"] == {"n": "1"}
    assert body["systemData"]["createdAt"].endswith("Z")
    again = put_data(doors, "1", description="e")
    assert (again.status_code, again.json()["properties"]["description"]) == (200, "e")
    assert again.json()["systemData"] == body["systemData"]


def test_what_was_read_can_be_sent_back(doors: TestClient, workspace: Workspace) -> None:
    container = blobs.container_path(workspace, BLOB_CONTAINER)
    (container / "m").mkdir()
    (container / "m" / "MLmodel").write_text("flavors: {python_function: {env: {a: b}}}")
    spec = {"name": "c", "version": "1", "type": "command", "command": "echo", "inputs": {}}
    bodies = {
        "models": {"modelType": "mlflow_model", "modelUri": f"{STORE}/m"},
        "data": {"dataType": "uri_file", "dataUri": f"{STORE}/a"},
        "components": {"componentSpec": spec},
        "environments": {"build": {"contextUri": f"{STORE}/m"}, "osType": "Linux"},
        "codes": {"codeUri": f"{STORE}/m", "properties": {"hash_sha256": "h"}},
    }
    for plural, properties in bodies.items():
        address = f"{WS}/{plural}/x/versions/1"
        made = doors.put(address, json={"properties": properties})
        assert made.status_code == 201, made.text
        read = doors.get(address).json()
        assert read == made.json()
        read["properties"]["isArchived"] = True
        sent = doors.put(address, json=read)
        assert sent.status_code == 200, sent.text
        assert sent.json() == read
    model = doors.get(f"{WS}/models/x/versions/1").json()["properties"]
    assert model["flavors"] == {"python_function": {"data": {"env": '{"a": "b"}'}}}


def test_what_a_registry_is_shipped_with_can_be_sent_back(doors: TestClient) -> None:
    for plural in ("models", "environments", "components"):
        for name in doors.get(f"{REG}/{plural}").json()["value"]:
            listed = doors.get(f"{REG}/{plural}/{name['name']}/versions").json()["value"]
            newest = listed[0]
            assert newest["id"].startswith(f"azureml://registries/azureml/{plural}/")
            address = f"{REG}/{plural}/{name['name']}/versions/{newest['name']}"
            answer = doors.put(address, json=newest)
            assert (answer.status_code, answer.json()) == (200, newest)


def test_a_path_that_changes_is_refused_with_the_words_the_sdk_knows(doors: TestClient) -> None:
    put_data(doors, "1")
    answer = put_data(doors, "1", dataUri=f"{STORE}/b")
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (400, "UserError")
    assert error["message"] == "Asset paths cannot be updated."


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({}, ["3", "2", "1"]),
        ({"$orderBy": "createdtime desc", "$top": 1}, ["3"]),
        ({"$orderBy": "createdtime asc"}, ["1", "2", "3"]),
        ({"listViewType": "ListViewType.ACTIVE_ONLY"}, ["3", "2", "1"]),
        ({"listViewType": "ArchivedOnly"}, []),
        ({"$top": 2, "$skip": 2}, ["1"]),
    ],
)
def test_versions_are_listed_as_asked(
    doors: TestClient, query: dict[str, Any], expected: list[str]
) -> None:
    for version in ("1", "2", "3"):
        put_data(doors, version)
    answer = doors.get(f"{WS}/data/d/versions", params=query).json()
    assert [item["name"] for item in answer["value"]] == expected
    assert "nextLink" not in answer


def test_pages_are_linked_to_their_end(doors: TestClient) -> None:
    for number in range(205):
        put_data(doors, str(number))
    seen, link, pages = [], f"{WS}/data/d/versions?$orderBy=createdtime%20asc", 0
    while link:
        answer = doors.get(link).json()
        seen += [item["name"] for item in answer["value"]]
        link, pages = answer.get("nextLink"), pages + 1
    assert (seen, pages) == ([str(number) for number in range(205)], 3)


@pytest.mark.parametrize(
    "query",
    [
        *({"listViewType": "Some"}, {"$orderBy": "name desc"}, {"$skip": "-1"}, {"$top": 0}),
        {"$skip": "99999999999999999999"},
    ],
)
def test_a_query_that_cannot_be_meant_is_refused(doors: TestClient, query: dict[str, Any]) -> None:
    assert doors.get(f"{WS}/data/d/versions", params=query).status_code == 400


def test_latest_is_a_version_that_can_be_asked_for(doors: TestClient) -> None:
    put_data(doors, "7")
    put_data(doors, "3")
    assert doors.get(f"{WS}/data/d/versions/latest").json()["name"] == "3"
    container = doors.get(f"{WS}/data/d").json()["properties"]
    assert (container["latestVersion"], container["nextVersion"]) == ("3", "8")


def test_a_deleted_version_answers_204_the_second_time(doors: TestClient) -> None:
    put_data(doors, "1")
    address = f"{WS}/data/d/versions/1"
    assert [doors.delete(address).status_code for _ in range(2)] == [200, 204]
    assert doors.get(address).status_code == 404
    put_data(doors, "2")
    assert [doors.delete(f"{WS}/data/d").status_code for _ in range(2)] == [200, 204]
    shipped = f"{REG}/models/Phi-4/versions/8"
    assert doors.delete(shipped).status_code == 403


@pytest.mark.parametrize(
    ("plural", "properties"),
    [
        ("data", {}),
        ("data", {"dataType": "uri_file"}),
        ("data", {"dataType": "uri_stream", "dataUri": f"{STORE}/a"}),
        ("data", {"dataUri": 3}),
        ("data", {"dataUri": f"{STORE}/a", "tags": ["a"]}),
        ("data", {"dataUri": f"{STORE}/a", "tags": {"a": {"b": 1}}}),
        ("data", {"dataUri": f"{STORE}/../../secrets"}),
        ("data", {"dataUri": f"{STORE}/a", "description": "a\0b"}),
        ("data", {"dataUri": f"{STORE}/a", "tags": {"a": "\0"}}),
        ("components", {"componentSpec": {"type": "x" * 51}}),
        ("models", {"modelUri": ""}),
        ("models", {"modelUri": "azureml:m:1"}),
        ("models", {"modelType": "pickle", "modelUri": f"{STORE}/a"}),
        ("components", {}),
        ("components", {"componentSpec": "text"}),
        ("environments", {}),
        ("environments", {"image": "a", "build": {"contextUri": "b"}}),
        ("environments", {"build": {"contextUri": f"{STORE}/../../x/../../y:z"}, "image": "a"}),
        ("environments", {"build": {"contextUri": "https://example.com/repository.git"}}),
        ("environments", {"build": {"dockerfilePath": "Dockerfile"}}),
        ("codes", {"codeUri": "https://example.com/code"}),
    ],
)
def test_a_malformed_body_is_the_callers_fault(
    doors: TestClient, plural: str, properties: dict[str, Any]
) -> None:
    answer = doors.put(f"{WS}/{plural}/x/versions/1", json={"properties": properties})
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "UserError"
    assert doors.get(f"{WS}/{plural}/x/versions/1").status_code == 404


@pytest.mark.parametrize(
    "path",
    [
        f"{STORE}/../../secrets/signing.key",
        f"{STORE}/a/../../../secrets",
        f"{STORE}/a\\..\\..\\secrets",
        "azureml://datastores/../paths/secrets",
        "azureml://jobs/../outputs/secrets",
        "azureml://jobs/j/outputs/../paths/x",
        "azureml://jobs/j/outputs/o/paths/../../../../../secrets",
        "https://localhost/_blob.blob.local/../secrets",
        "https://localhost/_blob.blob.local/azureml-blobstore/%2e%2e/%2e%2e/secrets",
        "file:///etc/passwd",
        "/etc",
        "../secrets",
    ],
)
@pytest.mark.parametrize(
    ("plural", "key"), [("data", "dataUri"), ("models", "modelUri"), ("codes", "codeUri")]
)
def test_no_path_of_an_asset_leads_out_of_the_workspace(
    doors: TestClient, workspace: Workspace, plural: str, key: str, path: str
) -> None:
    body = {"properties": {key: path}}
    answer = doors.put(f"{WS}/{plural}/x/versions/1", json=body)
    assert answer.status_code in (400, 404)
    assert doors.get(f"{WS}/{plural}/x/versions/1").status_code == 404


def test_names_are_listed_in_pages(doors: TestClient) -> None:
    for number in range(120):
        body = {"properties": {"image": "python:3"}}
        doors.put(f"{WS}/environments/e{number:03}/versions/1", json=body)
    first = doors.get(f"{WS}/environments").json()
    second = doors.get(first["nextLink"]).json()
    names = [item["name"] for item in first["value"] + second["value"]]
    assert names == [f"e{number:03}" for number in range(120)]
    assert "nextLink" not in second


@pytest.mark.parametrize("body", [None, [], "text", {"properties": None}, {"properties": []}])
def test_a_body_that_is_none_is_refused(doors: TestClient, body: Any) -> None:
    assert doors.put(f"{WS}/data/x/versions/1", json=body).status_code == 400


@pytest.mark.parametrize("name", ["..%2Fx", "a%20b", "-a", "%00", "a" * 300])
def test_names_that_could_be_something_else_are_refused(doors: TestClient, name: str) -> None:
    body = {"properties": {"dataType": "uri_file", "dataUri": f"{STORE}/a"}}
    assert doors.put(f"{WS}/data/{name}/versions/1", json=body).status_code in (400, 404)
    assert doors.put(f"{WS}/data/a/versions/{name}", json=body).status_code in (400, 404)


def test_a_model_needs_files_and_an_mlflow_model_its_mlmodel(
    doors: TestClient, workspace: Workspace
) -> None:
    def register(kind: str) -> int:
        body = {"properties": {"modelType": kind, "modelUri": f"{STORE}/m"}}
        return doors.put(f"{WS}/models/m/versions/1", json=body).status_code

    assert register("custom_model") == 404
    folder = blobs.container_path(workspace, BLOB_CONTAINER) / "m"
    folder.mkdir()
    assert register("mlflow_model") == 400
    (folder / "MLmodel").write_text("{not yaml")
    assert register("mlflow_model") == 400
    (folder / "MLmodel").write_text("- a list")
    assert register("mlflow_model") == 400
    assert register("custom_model") == 201


def test_code_is_found_by_its_hash_whatever_its_name(
    doors: TestClient, workspace: Workspace
) -> None:
    (blobs.container_path(workspace, BLOB_CONTAINER) / "src").mkdir()
    for name, digest in (("a", "h1"), ("b", "h2")):
        properties = {"hash_sha256": digest, "hash_version": "202208"}
        body = {"properties": {"codeUri": f"{STORE}/src", "properties": properties}}
        assert doors.put(f"{WS}/codes/{name}/versions/1", json=body).status_code == 201

    def found(digest: str, version: str = "202208") -> list[str]:
        query = {"hash": digest, "hashVersion": version}
        listed = doors.get(f"{WS}/codes/new/versions", params=query).json()["value"]
        return [item["id"].split("/codes/")[1] for item in listed]

    assert found("h2") == ["b/versions/1"]
    assert found("h3") == found("h2", "1") == []


def test_an_upload_gets_a_container_of_its_own_and_only_once(
    doors: TestClient, workspace: Workspace
) -> None:
    address = f"{WS}/codes/c/versions/1"
    answer = doors.post(f"{address}/startPendingUpload", json={}).json()
    place = answer["blobReferenceForConsumption"]
    assert place["credential"]["sasUri"].startswith(place["blobUri"] + "?se=")
    container = place["blobUri"].rpartition("/")[2]
    (workspace.blobs / container / "main.py").write_text("print()")
    body = {"properties": {"codeUri": place["blobUri"]}}
    assert doors.put(address, json=body).status_code == 201
    assert doors.post(f"{address}/startPendingUpload", json={}).status_code == 409
    other = doors.post(f"{WS}/codes/c/versions/2/startPendingUpload", json={}).json()
    assert other["blobReferenceForConsumption"]["blobUri"] != place["blobUri"]
    assert doors.post(f"{WS}/jobs/c/versions/2/startPendingUpload", json={}).status_code == 404


def test_an_asset_is_shared_with_its_files(doors: TestClient, workspace: Workspace) -> None:
    source = blobs.container_path(workspace, BLOB_CONTAINER) / "m"
    source.mkdir()
    (source / "w").write_bytes(b"weights")
    model = {"properties": {"modelType": "custom_model", "modelUri": f"{STORE}/m"}}
    doors.put(f"{WS}/models/m/versions/1", json=model)
    ask = {
        "sourceAssetId": "azureml://locations/local/workspaces/x/models/m/versions/1",
        "destinationName": "shared",
        "destinationVersion": "2",
    }
    assert doors.post(f"{REG}/import", json={"properties": ask}).status_code == 200
    assert doors.post(f"{REG}/import", json={"properties": ask}).status_code == 409
    (source / "w").unlink()
    shared = doors.get(f"{REG}/models/shared/versions/2").json()["properties"]["modelUri"]
    body = {"assetId": "azureml://registries/azureml/models/shared/versions/2", "blobUri": shared}
    reference = doors.post(f"{REG}/datarefs/shared/versions/2", json=body).json()
    sas = reference["blobReferenceForConsumption"]["credential"]["sasUri"]
    inside = shared.split("/", 4)[4]
    path, _, query = sas.removeprefix("https://localhost:8443").partition("?")
    assert doors.get(f"{path}/{inside}/w?{query}", headers={"Authorization": ""}).content == (
        b"weights"
    )
    written = doors.put(
        f"{path}/{inside}/w?{query}",
        content=b"other",
        headers={"Authorization": "", "x-ms-blob-type": "BlockBlob"},
    )
    assert written.status_code == 401
    for wrong in ({}, {"sourceAssetId": "azureml://jobs/J/outputs/O"}):
        assert doors.post(f"{REG}/import", json={"properties": wrong}).status_code == 400


def test_a_link_out_of_the_workspace_is_not_shared(
    doors: TestClient, workspace: Workspace, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_text("secret")
    source = blobs.container_path(workspace, BLOB_CONTAINER) / "m"
    source.mkdir()
    (source / "w").symlink_to(tmp_path / "secret")
    model = {"properties": {"modelType": "custom_model", "modelUri": f"{STORE}/m"}}
    assert doors.put(f"{WS}/models/m/versions/1", json=model).status_code == 201
    ask = {"sourceAssetId": "azureml://locations/l/workspaces/x/models/m/versions/1"}
    answer = doors.post(f"{REG}/import", json={"properties": ask})
    assert (answer.status_code, "a link that leads out" in answer.text) == (400, True)
    assert not [p for p in workspace.blobs.rglob("*") if p.is_file() and p.parent != source]


def test_lineage_of_an_unknown_job_is_no_obstacle(workspace: Workspace) -> None:
    folder = workspace.job_outputs("nobody") / "out"
    folder.mkdir(parents=True)
    asset = Asset("model", "", "m", "1", "custom_model", f"{STORE}/azureml/nobody/out/")
    assert completed(workspace, asset) == asset


def test_datastores_are_listed_by_default_and_by_name(doors: TestClient) -> None:
    def names(**query: Any) -> list[str]:
        listed = doors.get(f"{WS}/datastores", params=query).json()["value"]
        return [store["name"] for store in listed]

    assert names(isDefault=True) == ["workspaceblobstore"]
    assert names(names=["workspacefilestore"]) == ["workspacefilestore"]
    assert len(names()) == 4


def test_the_address_of_a_datastore_is_this_service(doors: TestClient) -> None:
    properties = doors.get(f"{WS}/datastores/workspaceblobstore").json()["properties"]
    made = "https://{accountName}.blob.{endpoint}/{containerName}".format(**properties)
    assert made == "https://localhost:8443/_blob.blob.local/azureml-blobstore"
    assert properties["credentials"] == {"credentialsType": "None"}


def test_secrets_are_only_told_when_asked_for(doors: TestClient) -> None:
    secrets = {"secretsType": "Sas", "sasToken": "sig=secret"}
    body = {
        "properties": {
            "datastoreType": "AzureBlob",
            "accountName": "a",
            "containerName": "c",
            "credentials": {"credentialsType": "Sas", "secrets": secrets},
        }
    }
    made = doors.put(f"{WS}/datastores/s", json=body)
    assert made.status_code == 200
    assert "secret" not in made.text.replace("secrets", "")
    assert "sasToken" not in doors.get(f"{WS}/datastores/s").text
    assert doors.post(f"{WS}/datastores/s/listSecrets", json={}).json() == secrets
    own = doors.post(f"{WS}/datastores/workspaceblobstore/listSecrets", json={}).json()
    assert own == {"secretsType": "None"}


def test_a_datastore_on_one_of_our_containers_can_be_read(
    doors: TestClient, workspace: Workspace
) -> None:
    body = {
        "properties": {
            "datastoreType": "AzureBlob",
            "accountName": "localhost:8443/_blob",
            "containerName": "box",
        }
    }
    assert doors.put(f"{WS}/datastores/mine", json=body).status_code == 200
    (workspace.blobs / "box" / "m").mkdir(parents=True)
    model = {"modelType": "custom_model", "modelUri": "azureml://datastores/mine/paths/m"}
    answer = doors.put(f"{WS}/models/m/versions/1", json={"properties": model})
    assert answer.status_code == 201
