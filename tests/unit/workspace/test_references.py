"""References: how they are written, what they mean, and where they may not lead."""

from __future__ import annotations

from pathlib import Path

import pytest

from finery.errors import InputError
from finery.files import home, sha256_file
from finery.workspace import assets, references
from finery.workspace.asset import Asset
from finery.workspace.errors import NotFoundError
from finery.workspace.place import BLOB_CONTAINER, Workspace
from finery.workspace.references import (
    AssetVersion,
    BlobUrl,
    DatastorePath,
    JobOutput,
    LocalPath,
    Reference,
    canonical,
    parse,
    resolve_input,
)

WS = "subscriptions/s/resourceGroups/models/providers/P/workspaces/data"
STORE = "azureml://datastores/workspaceblobstore/paths"
REGISTRY_CONTAINER = "registry-" + "0" * 32


def file_at(workspace: Workspace, name: str, content: bytes = b"x") -> Path:
    """A blob of the default datastore."""
    path = workspace.blobs / BLOB_CONTAINER / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("azureml://datastores/D/paths/a/b.c", DatastorePath("D", "a/b.c")),
        ("azureml://datastores/D/paths/", DatastorePath("D", "")),
        ("azureml://datastores/D", DatastorePath("D", "")),
        (
            "azureml://subscriptions/s/resourcegroups/r/workspaces/w/datastores/D/paths/p q",
            DatastorePath("D", "p q"),
        ),
        ("azureml:azureml://datastores/D/paths/a", DatastorePath("D", "a")),
        ("AzureML://Datastores/D/Paths/a", DatastorePath("D", "a")),
        ("runs:/R/model", DatastorePath("workspaceblobstore", "azureml/R/mlflow/model")),
        ("runs:/R", DatastorePath("workspaceblobstore", "azureml/R/mlflow")),
        ("azureml://jobs/J/outputs/O", JobOutput("J", "O")),
        ("azureml://jobs/J/outputs/O/", JobOutput("J", "O")),
        ("azureml://jobs/J/outputs/O/paths/a/b", JobOutput("J", "O", "a/b")),
        (
            "azureml://registries/R/models/N/versions/3",
            AssetVersion("model", "R", "N", "3"),
        ),
        (
            "azureml://registries/R/components/N/labels/latest",
            AssetVersion("component", "R", "N", "latest"),
        ),
        (f"/{WS}/models/N/versions/1", AssetVersion("model", "", "N", "1")),
        (f"azureml:/{WS}/data/N/versions/1", AssetVersion("data", "", "N", "1")),
        (
            "azureml://locations/l/workspaces/w/environments/N/versions/1",
            AssetVersion("environment", "", "N", "1"),
        ),
        ("azureml:N:V.1", AssetVersion("", "", "N", "V.1")),
        ("azureml:N@latest", AssetVersion("", "", "N", "latest")),
        ("https://localhost:9/_blob.blob.local/c/p%20q/r", BlobUrl("c", "p q/r")),
        (f"https://localhost:9/{REGISTRY_CONTAINER}/m", BlobUrl(REGISTRY_CONTAINER, "m")),
        ("https://localhost:9/azureml-blobstore/a/b/", BlobUrl(BLOB_CONTAINER, "a/b/")),
        ("https://localhost:9/_blob.blob.local/c", BlobUrl("c", "")),
        ("file:///a%20b/c", LocalPath("/a b/c")),
        ("/a/b", LocalPath("/a/b")),
        ("  azureml:N:1 \n", AssetVersion("", "", "N", "1")),
    ],
)
def test_a_reference_is_read_as_it_is_meant(uri: str, expected: Reference) -> None:
    assert parse(uri) == expected


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "azureml:",
        "azureml://",
        "azureml:N",
        "azureml://datastores",
        "azureml://datastores//paths/a",
        "azureml://jobs/J",
        "azureml://jobs/J/outputs",
        "azureml://jobs//outputs/O",
        "azureml://registries/R/models/N",
        "azureml://registries/R/jobs/N/versions/1",
        "azureml://elsewhere/N",
        "relative/path",
        "https://example.com/a.csv",
        "https://example.com/azureml-blobstore-1/a.csv",
        "http://localhost/_blob.blob.local/c/p",
        "wasbs://c@a.blob.core.windows.net/p",
        "runs:/",
        "runs:/../secrets",
        f"/{WS}/jobs/N",
    ],
)
def test_what_is_no_reference_says_what_one_is(uri: str) -> None:
    with pytest.raises(InputError, match="azureml://datastores/D/paths/P"):
        parse(uri, "inputs.train")


def test_a_web_address_says_what_to_do_instead() -> None:
    with pytest.raises(InputError, match="Download the file"):
        parse("https://example.com/a.csv")


def test_a_file_is_resolved_with_its_hash(workspace: Workspace) -> None:
    path = file_at(workspace, "LocalUpload/h/ä b.jsonl", b"rows")
    found = resolve_input(workspace, f"{STORE}/LocalUpload/h/ä b.jsonl", "uri_file")
    assert (found.path, found.source) == (path, "")
    assert found.content_hash == sha256_file(path)


def test_the_hash_of_a_folder_is_of_its_names_and_bytes(workspace: Workspace) -> None:
    def hash_of(folder: str) -> str:
        return resolve_input(workspace, f"{STORE}/{folder}", "uri_folder").content_hash

    file_at(workspace, "one/a", b"1")
    file_at(workspace, "one/b/c", b"2")
    file_at(workspace, "two/a", b"1")
    file_at(workspace, "two/b/c", b"2")
    first = hash_of("one")
    assert hash_of("two") == first
    file_at(workspace, "two/.tmp-1-half", b"3")
    assert hash_of("two") == first
    file_at(workspace, "two/b/c", b"3")
    assert hash_of("two") != first
    (workspace.blobs / BLOB_CONTAINER / "one" / "a").rename(
        workspace.blobs / BLOB_CONTAINER / "one" / "z"
    )
    assert hash_of("one") != first


def test_a_job_output_lies_at_its_usual_place_or_where_it_is_told(
    workspace: Workspace, tmp_path: Path
) -> None:
    path = file_at(workspace, "azureml/J/O/data.txt")
    assert resolve_input(workspace, "azureml://jobs/J/outputs/O").path == path.parent
    assert resolve_input(workspace, "azureml://jobs/J/outputs/O", "uri_file").path == path
    inner = resolve_input(workspace, "azureml://jobs/J/outputs/O/paths/data.txt")
    assert inner.path == path
    (tmp_path / "told").mkdir()
    told = resolve_input(
        workspace, "azureml://jobs/J/outputs/O", job_outputs=lambda job, output: tmp_path / "told"
    )
    assert told.path == tmp_path / "told"
    usual = resolve_input(
        workspace, "azureml://jobs/J/outputs/O", job_outputs=lambda job, output: None
    )
    assert usual.path == path.parent


def test_a_data_asset_is_resolved_to_its_files_by_version_and_label(workspace: Workspace) -> None:
    for version in ("1", "2"):
        path = file_at(workspace, f"d{version}/f", version.encode())
        assets.put(workspace, Asset("data", "", "d", version, "uri_file", f"{STORE}/d{version}/f"))
    for uri in ("azureml:d:2", "azureml:d@latest", f"/{WS}/data/d/versions/2"):
        found = resolve_input(workspace, uri, "uri_file")
        assert (found.path, found.uri) == (path, "azureml://data/d/versions/2")


def test_the_type_tells_models_from_data(workspace: Workspace) -> None:
    model = file_at(workspace, "m/config.json").parent
    assets.put(workspace, Asset("model", "", "x", "1", "custom_model", f"{STORE}/m"))
    assert resolve_input(workspace, "azureml:x:1", "custom_model").path == model
    with pytest.raises(NotFoundError, match="No data is called x"):
        resolve_input(workspace, "azureml:x:1", "uri_folder")


def test_a_shipped_model_is_resolved_to_its_source(workspace: Workspace) -> None:
    uri = "azureml://registries/azureml/models/Phi-3-mini-4k-instruct/labels/latest"
    found = resolve_input(workspace, uri, "mlflow_model")
    assert found.path is None
    assert found.source == "microsoft/Phi-3-mini-4k-instruct"
    assert found.uri.endswith("/versions/15")
    older = resolve_input(workspace, uri.replace("labels/latest", "versions/14"), "mlflow_model")
    assert older.content_hash == found.content_hash
    with pytest.raises(InputError, match="an asset of type uri_file"):
        resolve_input(workspace, uri, "uri_file")


def test_a_thing_of_another_type_is_refused_with_the_remedy(workspace: Workspace) -> None:
    file_at(workspace, "folder/a")
    file_at(workspace, "folder/b")
    for name, type, words in (
        ("folder", "uri_file", "Use type uri_folder"),
        ("folder/a", "uri_folder", "Use type uri_file"),
        ("folder", "mltable", "MLTable"),
        ("folder", "mlflow_model", "MLmodel"),
    ):
        with pytest.raises(InputError, match=words):
            resolve_input(workspace, f"{STORE}/{name}", type)


def test_what_is_not_there_is_said_with_its_place(workspace: Workspace) -> None:
    with pytest.raises(NotFoundError, match=r"inputs\.train: nothing is at .*nowhere"):
        resolve_input(workspace, f"{STORE}/nowhere", "uri_file", where="inputs.train")


ESCAPES = [
    f"{STORE}/../../secrets/key",
    f"{STORE}/a/../../../secrets/key",
    f"{STORE}//../../secrets/key",
    f"{STORE}/a\\..\\b",
    f"{STORE}/a\0b",
    f"{STORE}/link/key",
    "azureml://jobs/../outputs/x",
    "azureml://jobs/../../outputs/../../../secrets/key",
    "azureml://jobs/J/outputs/..",
    "azureml://jobs/J/outputs/O/paths/../../../../../secrets/key",
    "azureml://jobs/../outputs/artifacts",
    "https://localhost/_blob.blob.local/../secrets/key",
    "https://localhost/_blob.blob.local/azureml-blobstore/..%2F..%2Fsecrets/key",
    "https://localhost/_blob.blob.local/%2e%2e/secrets/key",
    "/etc/passwd",
    "file:///etc/passwd",
    "/../../etc/passwd",
]


@pytest.mark.parametrize("uri", ESCAPES)
def test_no_reference_leads_out_of_the_workspace(
    workspace: Workspace, tmp_path: Path, uri: str
) -> None:
    workspace.secrets.mkdir()
    (workspace.secrets / "key").write_text("secret")
    file_at(workspace, "azureml/J/O/f")
    (workspace.blobs / BLOB_CONTAINER / "link").symlink_to(workspace.secrets)
    with pytest.raises((InputError, NotFoundError)):
        resolve_input(workspace, uri, where="input")


def test_a_data_asset_cannot_smuggle_a_path_out(workspace: Workspace) -> None:
    workspace.secrets.mkdir()
    (workspace.secrets / "key").write_text("secret")
    for number, path in enumerate((f"{STORE}/../../secrets/key", str(workspace.secrets / "key"))):
        assets.put(workspace, Asset("data", "", "d", str(number), "uri_file", path))
        with pytest.raises(InputError):
            resolve_input(workspace, f"azureml:d:{number}", "uri_file")


def test_an_asset_cannot_stand_for_another_asset(workspace: Workspace) -> None:
    assets.put(workspace, Asset("data", "", "d", "1", "uri_file", "azureml:d:1"))
    with pytest.raises(InputError, match="not another asset"):
        resolve_input(workspace, "azureml:d:1", "uri_file")


def test_local_paths_are_those_of_the_workspace(workspace: Workspace, tmp_path: Path) -> None:
    path = file_at(workspace, "a")
    assert resolve_input(workspace, str(path), "uri_file").path == path
    cached = home() / "models" / "m"
    cached.mkdir(parents=True)
    assert resolve_input(workspace, cached.as_uri()).path == cached.resolve()
    (tmp_path / "outside").write_text("x")
    with pytest.raises(InputError, match="which uploads it"):
        resolve_input(workspace, str(tmp_path / "outside"))
    (workspace.blobs / "hole").symlink_to(tmp_path)
    with pytest.raises(InputError):
        resolve_input(workspace, str(workspace.blobs / "hole" / "outside"))


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("azureml://jobs/J/outputs/O", f"{STORE}/azureml/J/O/"),
        ("azureml://jobs/J/outputs/O/paths/a", f"{STORE}/azureml/J/O/a"),
        (
            "azureml://jobs/J/outputs/artifacts/paths/m",
            "azureml://datastores/workspaceartifactstore/paths/ExperimentRun/dcid.J/m",
        ),
        (
            "azureml://subscriptions/s/resourcegroups/r/workspaces/w/datastores/D/paths/p",
            "azureml://datastores/D/paths/p",
        ),
        (
            "https://localhost:8443/_blob.blob.local/c/p",
            "https://localhost/_blob.blob.local/c/p",
        ),
        ("azureml:N:1", "azureml:N:1"),
    ],
)
def test_one_place_has_one_spelling(uri: str, expected: str) -> None:
    assert canonical(uri) == expected
    assert canonical(expected) == expected


def test_an_unknown_datastore_names_those_there_are(workspace: Workspace) -> None:
    with pytest.raises(NotFoundError, match="workspaceblobstore"):
        references.locate(workspace, DatastorePath("workspaceblob", "a"))
