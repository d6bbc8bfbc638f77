"""Datastores: the workspace's own, and those that people register."""

from __future__ import annotations

import stat

import pytest

from finery.errors import InputError
from finery.workspace import datastores, tables
from finery.workspace.datastores import Datastore
from finery.workspace.errors import ForbiddenError, NotFoundError
from finery.workspace.place import Workspace


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest) -> str:
    return request.getfixturevalue("postgres") if request.param == "postgres" else ""


def test_one_datastore_is_the_default(workspace: Workspace) -> None:
    def defaults() -> list[str]:
        return [s.name for s in datastores.all_datastores(workspace) if s.is_default]

    assert defaults() == ["workspaceblobstore"]
    datastores.put(workspace, Datastore("a", "AzureBlob", is_default=True))
    datastores.put(workspace, Datastore("b", "AzureBlob", is_default=True))
    assert defaults() == ["b"]
    datastores.delete(workspace, "b")
    assert defaults() == ["workspaceblobstore"]


def test_secrets_are_a_file_that_only_the_owner_reads(workspace: Workspace) -> None:
    datastores.put(workspace, Datastore("a", "AzureBlob"), {"key": "secret"})
    assert datastores.secrets_of(workspace, "a") == {"key": "secret"}
    files = [path for path in workspace.secrets.rglob("*") if path.is_file()]
    assert [stat.S_IMODE(path.stat().st_mode) for path in files] == [0o600]
    with workspace.store.read() as connection:
        rows = connection.execute(tables.datastores.select()).all()
    assert "secret" not in str(rows)
    datastores.delete(workspace, "a")
    assert not [path for path in workspace.secrets.rglob("*") if path.is_file()]


def test_the_workspaces_own_stay_as_they_are(workspace: Workspace) -> None:
    with pytest.raises(ForbiddenError):
        datastores.put(workspace, Datastore("workspaceblobstore", "AzureBlob"))
    with pytest.raises(ForbiddenError):
        datastores.delete(workspace, "workspaceartifactstore")


def test_files_of_another_service_are_out_of_reach(workspace: Workspace) -> None:
    store = Datastore("a", "AzureBlob", wire={"accountName": "elsewhere"})
    datastores.put(workspace, store)
    with pytest.raises(InputError, match="files of elsewhere"):
        datastores.container_of(workspace, "a")
    datastores.put(workspace, Datastore("b", "AzureBlob", container="box"))
    assert datastores.container_of(workspace, "b") == "box"


@pytest.mark.parametrize("name", ["", "a/b", "../a", "a b", "a.b"])
def test_a_name_is_checked(workspace: Workspace, name: str) -> None:
    with pytest.raises(InputError) as refused:
        datastores.put(workspace, Datastore(name, "Nothing"))
    assert len(refused.value.faults) == 2


def test_a_missing_datastore_names_the_nearest(workspace: Workspace) -> None:
    with pytest.raises(NotFoundError, match="Did you mean workspaceblobstore"):
        datastores.get(workspace, "workspaceblobstor")
    assert not datastores.delete(workspace, "nothing")


@pytest.mark.parametrize("name", ["a\0b", "..", "a/b"])
def test_what_cannot_be_a_name_was_never_there_to_forget(workspace: Workspace, name: str) -> None:
    assert datastores.delete(workspace, name) is False
