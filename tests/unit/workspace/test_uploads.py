"""Uploads: whole or absent, guarded by their conditions, in little memory."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from finery.workspace import blobs, uploads
from finery.workspace.blobs import Blob, Said
from finery.workspace.errors import ConflictError
from finery.workspace.place import BLOB_CONTAINER, Workspace
from finery.workspace.uploads import BlockListError, DigestError


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest) -> str:
    return request.getfixturevalue("postgres") if request.param == "postgres" else ""


def accept(_: Blob | None) -> None:
    """No condition."""


def only_new(current: Blob | None) -> None:
    """The condition of If-None-Match: *."""
    if current is not None:
        raise ConflictError("The blob is there already.")


def upload(workspace: Workspace, name: str, data: bytes, check: object = accept) -> Blob:
    with uploads.staged(workspace) as file:
        file.write(data)
        file.finish()
        return uploads.publish(workspace, BLOB_CONTAINER, name, file.path, Said(), check)  # type: ignore[arg-type]


def staged_files(workspace: Workspace) -> list[Path]:
    return [path for path in (workspace.folder / "uploads").rglob("*") if path.is_file()]


def test_what_is_not_published_leaves_nothing(workspace: Workspace) -> None:
    with pytest.raises(DigestError), uploads.staged(workspace) as file:
        file.write(b"bytes")
        file.finish(expected_md5="other")
    with pytest.raises(RuntimeError), uploads.staged(workspace) as file:
        file.write(b"bytes")
        raise RuntimeError("the client went away")
    assert staged_files(workspace) == []
    assert not list(blobs.container_path(workspace, BLOB_CONTAINER).iterdir())


def test_a_refused_condition_leaves_the_old_blob(workspace: Workspace) -> None:
    upload(workspace, "a", b"old")
    with pytest.raises(ConflictError):
        upload(workspace, "a", b"new", only_new)
    assert blobs.find_blob(workspace, BLOB_CONTAINER, "a").path.read_bytes() == b"old"
    assert staged_files(workspace) == []


def test_of_many_who_create_one_blob_one_succeeds(workspace: Workspace) -> None:
    start = threading.Barrier(8)

    def create(number: int) -> bool:
        start.wait()
        try:
            upload(workspace, "a", str(number).encode(), only_new)
        except ConflictError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(create, range(8))) == [False] * 7 + [True]


def test_a_reader_of_the_old_blob_keeps_it(workspace: Workspace) -> None:
    blob = upload(workspace, "a", b"old")
    with blob.path.open("rb") as reader:
        upload(workspace, "a", b"new")
        assert reader.read() == b"old"


def test_blocks_are_used_up_by_their_list(workspace: Workspace) -> None:
    for block in ("YQ==", "Yg=="):
        with uploads.staged(workspace) as file:
            file.write(block.encode())
            file.finish()
            uploads.keep_block(workspace, BLOB_CONTAINER, "a", block, file.path)
    blob = uploads.publish_blocks(
        workspace, BLOB_CONTAINER, "a", ["Yg==", "YQ==", "Yg=="], Said("text/plain"), accept
    )
    assert blob.path.read_bytes() == b"Yg==YQ==Yg=="
    assert staged_files(workspace) == []
    with pytest.raises(BlockListError, match="1 blocks were never sent"):
        uploads.publish_blocks(workspace, BLOB_CONTAINER, "a", ["YQ=="], Said(), accept)


def test_an_empty_block_list_makes_an_empty_blob(workspace: Workspace) -> None:
    blob = uploads.publish_blocks(workspace, BLOB_CONTAINER, "a", [], Said(), accept)
    assert blob.size == 0


def test_old_leftovers_are_removed_and_new_ones_kept(workspace: Workspace) -> None:
    folder = workspace.folder / "uploads"
    (folder / "blocks" / "old").mkdir(parents=True)
    (folder / "blocks" / "new").mkdir()
    for name in ("old", "new"):
        (folder / name).write_bytes(b"x")
    past = time.time() - 2 * uploads.WEEK
    for path in (folder / "old", folder / "blocks" / "old"):
        os.utime(path, (past, past))
    assert uploads.discard_stale(workspace) == 2
    assert sorted(path.name for path in folder.rglob("*")) == ["blocks", "new", "new"]


def test_containers_of_uploads_are_apart(workspace: Workspace) -> None:
    one = uploads.upload_container("code", "", "a", "1")
    assert one == uploads.upload_container("code", "", "a", "1")
    others = {
        uploads.upload_container(*each)
        for each in (("code", "", "a", "2"), ("code", "r", "a", "1"), ("model", "", "a", "1"))
    }
    assert len({one, *others}) == 4
    assert all(blobs.make_container(workspace, name) for name in {one, *others})


def test_a_page_of_a_large_folder_needs_only_its_part(workspace: Workspace) -> None:
    root = blobs.container_path(workspace, BLOB_CONTAINER)
    for folder in range(30):
        (root / f"{folder:02}").mkdir()
        for name in range(30):
            (root / f"{folder:02}" / f"{name:02}").touch()
    seen, marker = [], ""
    while True:
        page = blobs.list_blobs(workspace, BLOB_CONTAINER, marker=marker, limit=7)
        seen += [blob.name for blob in page.blobs]
        marker = page.next_marker
        if not marker:
            break
    assert seen == [f"{a:02}/{b:02}" for a in range(30) for b in range(30)]
