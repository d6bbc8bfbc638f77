"""Data assets, datastores and uploads through the unmodified SDK."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from finery.files import sha256_file


def blob(service: Any, uri: str) -> Path:
    """Where the files of a datastore address lie."""
    return service.folder / "blobs" / "azureml-blobstore" / uri.partition("/paths/")[2]


def test_the_default_datastore_is_the_blob_store(client: Any) -> None:
    store = client.datastores.get_default()
    assert store.name == "workspaceblobstore"
    assert store.container_name == "azureml-blobstore"
    names = {found.name for found in client.datastores.list()}
    assert {"workspaceblobstore", "workspaceartifactstore"} <= names


def test_a_local_file_becomes_a_data_asset_with_its_bytes(
    client: Any, service: Any, tmp_path: Path
) -> None:
    from azure.ai.ml.entities import Data

    file = tmp_path / "train sft ü.jsonl"
    file.write_bytes(b'{"messages": []}\n' * 100)
    data = client.data.create_or_update(
        Data(name="chats", version="1", path=str(file), type="uri_file", tags={"a": 1})
    )
    assert (data.name, data.version, data.tags) == ("chats", "1", {"a": "1"})
    read = client.data.get("chats", label="latest")
    assert read.id == data.id and read.path == data.path
    assert blob(service, data.path).read_bytes() == file.read_bytes()


def test_a_data_asset_without_a_version_gets_the_next_one(client: Any, tmp_path: Path) -> None:
    from azure.ai.ml.entities import Data

    file = tmp_path / "a.jsonl"
    for number in (1, 2, 3):
        file.write_text(f"{number}\n")
        made = client.data.create_or_update(Data(name="counted", path=str(file), type="uri_file"))
        assert made.version == str(number)
    assert [d.version for d in client.data.list("counted")] == ["3", "2", "1"]
    assert client.data.get("counted", label="latest").version == "3"


def test_a_folder_keeps_its_tree(client: Any, service: Any, tmp_path: Path) -> None:
    from azure.ai.ml.entities import Data

    for name in ("a.txt", "b/c.txt", "b/d e/f.txt"):
        (tmp_path / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "tree" / name).write_text(name)
    data = client.data.create_or_update(
        Data(name="tree", path=str(tmp_path / "tree"), type="uri_folder")
    )
    folder = blob(service, data.path)
    found = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert found == {"a.txt", "b/c.txt", "b/d e/f.txt"}


def test_the_same_file_is_sent_once(client: Any, service: Any, tmp_path: Path) -> None:
    from azure.ai.ml.entities import Data

    file = tmp_path / "once.txt"
    file.write_text("once")
    first = client.data.create_or_update(Data(name="once", path=str(file), type="uri_file"))
    stored = blob(service, first.path)
    stamp = stored.stat().st_mtime_ns
    again = client.data.create_or_update(Data(name="twice", path=str(file), type="uri_file"))
    assert blob(service, again.path) == stored
    assert stored.stat().st_mtime_ns == stamp


def test_an_mltable_is_a_folder_with_its_table(client: Any, tmp_path: Path) -> None:
    from azure.ai.ml.entities import Data

    (tmp_path / "table").mkdir()
    (tmp_path / "table" / "MLTable").write_text("type: mltable\npaths:\n  - file: ./a.jsonl\n")
    (tmp_path / "table" / "a.jsonl").write_text('{"messages": []}\n')
    table = client.data.create_or_update(
        Data(name="table", version="1", path=str(tmp_path / "table"), type="mltable")
    )
    assert table.type == "mltable"
    assert client.data.get("table", version="1").path == table.path


def test_a_version_keeps_its_files(client: Any, tmp_path: Path) -> None:
    from azure.ai.ml.entities import Data
    from azure.core.exceptions import HttpResponseError

    file = tmp_path / "fixed.txt"
    file.write_text("one")
    client.data.create_or_update(
        Data(name="fixed", version="1", path=str(file), type="uri_file", description="before")
    )
    changed = client.data.create_or_update(
        Data(name="fixed", version="1", path=str(file), type="uri_file", description="after")
    )
    assert changed.description == "after"
    file.write_text("two")
    with pytest.raises(HttpResponseError, match="Asset paths cannot be updated"):
        client.data.create_or_update(
            Data(name="fixed", version="1", path=str(file), type="uri_file")
        )


def test_archived_versions_are_out_of_sight_until_restored(client: Any, tmp_path: Path) -> None:
    from azure.ai.ml.constants import ListViewType
    from azure.ai.ml.entities import Data

    file = tmp_path / "shy.txt"
    for text in ("1", "2"):
        file.write_text(text)
        client.data.create_or_update(Data(name="shy", path=str(file), type="uri_file"))
    client.data.archive("shy", version="2")
    assert [d.version for d in client.data.list("shy")] == ["1"]
    assert client.data.get("shy", label="latest").version == "1"
    archived = client.data.list("shy", list_view_type=ListViewType.ARCHIVED_ONLY)
    assert [d.version for d in archived] == ["2"]
    client.data.restore("shy", version="2")
    assert client.data.get("shy", label="latest").version == "2"
    client.data.archive("shy")
    assert "shy" not in {d.name for d in client.data.list()}
    assert list(client.data.list("shy")) == []
    client.data.restore("shy")
    assert "shy" in {d.name for d in client.data.list()}
    assert [d.version for d in client.data.list("shy")] == ["2", "1"]


def test_what_is_not_there_is_said_to_be_missing(client: Any) -> None:
    from azure.core.exceptions import ResourceNotFoundError

    with pytest.raises(ResourceNotFoundError, match="No data is called nothing"):
        client.data.get("nothing", version="1")


@pytest.mark.parametrize(
    "path",
    [
        "azureml://datastores/workspaceblobstore/paths/../../secrets/signing.key",
        "azureml://datastores/workspaceblobstore/paths/a/../../../secrets",
        "azureml://jobs/../outputs/secrets",
        "azureml://jobs/j/outputs/o/paths/../../../../../secrets",
        "https://example.com/data.csv",
        "azureml://somewhere/else",
    ],
)
def test_data_can_only_be_data_of_the_workspace(client: Any, path: str) -> None:
    from azure.ai.ml.entities import Data
    from azure.core.exceptions import HttpResponseError

    with pytest.raises(HttpResponseError) as refused:
        client.data.create_or_update(Data(name="bad", version="1", path=path, type="uri_file"))
    assert refused.value.status_code == 400


def test_a_datastore_of_ones_own_keeps_what_was_said_of_it(client: Any) -> None:
    from azure.ai.ml.entities import AccountKeyConfiguration, AzureBlobDatastore
    from azure.core.exceptions import HttpResponseError, ResourceNotFoundError

    made = client.datastores.create_or_update(
        AzureBlobDatastore(
            name="mine",
            account_name="elsewhere",
            container_name="box",
            description="not here",
            credentials=AccountKeyConfiguration(account_key="c2VjcmV0"),
        )
    )
    assert (made.account_name, made.container_name) == ("elsewhere", "box")
    assert made.credentials.account_key is None
    told = client.datastores.get("mine", include_secrets=True)
    assert told.credentials.account_key == "c2VjcmV0"
    assert "mine" in {store.name for store in client.datastores.list()}
    client.datastores.delete("mine")
    with pytest.raises(ResourceNotFoundError, match="No datastore is called mine"):
        client.datastores.get("mine")
    with pytest.raises(HttpResponseError, match="belongs to the workspace"):
        client.datastores.delete("workspaceblobstore")


def test_a_file_of_many_blocks_arrives_whole(client: Any, service: Any, tmp_path: Path) -> None:
    from azure.ai.ml.entities import Data

    file = tmp_path / "big.bin"
    with file.open("wb") as out:
        for number in range(70):
            out.write(bytes([number]) * 2**20)
    data = client.data.create_or_update(Data(name="big", path=str(file), type="uri_file"))
    stored = blob(service, data.path)
    assert sha256_file(stored) == sha256_file(file)
    assert not list((service.folder / "uploads").rglob("*.*"))
