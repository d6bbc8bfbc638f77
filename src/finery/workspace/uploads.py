"""Bytes on their way to a blob: staged beside the containers, then renamed into place.

A client that goes away leaves nothing in a container; a crash leaves the old blob or the new.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from finery.errors import Fault, FineryError, InputError
from finery.files import sync_folder
from finery.workspace.blobs import Blob, Said, blob_path, find_blob, place_for, say
from finery.workspace.errors import NotFoundError
from finery.workspace.place import Workspace

WEEK = 7 * 24 * 3600
_COPY_BYTES = 4 * 2**20
# Conditions on the old blob and the rename to the new one belong together.
_publishing = threading.Lock()


class DigestError(FineryError):
    """The bytes that came are not the bytes that were announced."""


class BlockListError(FineryError):
    """A block list names a block that was never sent."""


class Staged:
    """A file that becomes a blob, and the MD5 of what was written to it."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._file: BinaryIO = path.open("xb")
        self._md5 = hashlib.md5(usedforsecurity=False)

    def write(self, data: bytes) -> None:
        """Add bytes."""
        self._file.write(data)
        self._md5.update(data)

    def finish(self, expected_md5: str = "") -> str:
        """Make the bytes durable; their MD5 as base64, checked against an announced one."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        digest = base64.b64encode(self._md5.digest()).decode()
        if expected_md5 and expected_md5 != digest:
            raise DigestError(f"The bytes have the MD5 {digest}, not {expected_md5}. Send again.")
        return digest

    def discard(self) -> None:
        """Leave nothing behind, unless the file has become a blob."""
        self._file.close()
        self.path.unlink(missing_ok=True)


@contextlib.contextmanager
def staged(workspace: Workspace) -> Iterator[Staged]:
    """A new staged file, gone at the end if it was not published."""
    file = Staged(_folder(workspace) / uuid.uuid4().hex)
    try:
        yield file
    finally:
        file.discard()


def publish(
    workspace: Workspace,
    container: str,
    name: str,
    file: Path,
    said: Said,
    check: Callable[[Blob | None], None],
) -> Blob:
    """Rename `file` over the blob; `check` may refuse, seeing the blob that is there now."""
    with _publishing:
        check(current(workspace, container, name))
        target = place_for(workspace, container, name)
        file.replace(target)
        sync_folder(target.parent)
        return say(workspace, find_blob(workspace, container, name), said)


def current(workspace: Workspace, container: str, name: str) -> Blob | None:
    """The blob as it is now, None when there is none."""
    blob_path(workspace, container, name)
    try:
        return find_blob(workspace, container, name)
    except NotFoundError:
        return None


def keep_block(workspace: Workspace, container: str, name: str, block: str, file: Path) -> None:
    """Keep a staged file as a block of a blob to come."""
    blob_path(workspace, container, name)
    folder = _blocks(workspace, container, name)
    folder.mkdir(parents=True, exist_ok=True)
    file.replace(folder / _block_name(block))


def publish_blocks(
    workspace: Workspace,
    container: str,
    name: str,
    blocks: Sequence[str],
    said: Said,
    check: Callable[[Blob | None], None],
) -> Blob:
    """Make a blob of the blocks in their order; the blocks are gone afterwards."""
    folder = _blocks(workspace, container, name)
    missing = [block for block in blocks if not (folder / _block_name(block)).is_file()]
    if missing:
        raise BlockListError(f"{len(missing)} blocks were never sent, the first {missing[0]!r}.")
    with staged(workspace) as whole:
        for block in blocks:
            with (folder / _block_name(block)).open("rb") as part:
                while data := part.read(_COPY_BYTES):
                    whole.write(data)
        whole.finish()
        blob = publish(workspace, container, name, whole.path, said, check)
    shutil.rmtree(folder, ignore_errors=True)
    return blob


def discard_stale(workspace: Workspace, older_than: float = WEEK) -> int:
    """Remove what was staged long ago and never became a blob; how many entries that was."""
    limit, gone = time.time() - older_than, 0
    for path in [*_folder(workspace).glob("*"), *_folder(workspace).glob("blocks/*")]:
        if path.name == "blocks" or path.stat().st_mtime > limit:
            continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
        gone += 1
    return gone


def upload_container(kind: str, registry: str, name: str, version: str) -> str:
    """The container for the files of one asset version that is uploaded on its own."""
    text = "\n".join((kind, registry, name, version))
    digest = hashlib.sha256(text.encode()).hexdigest()[:32]
    return f"{'registry' if registry else kind}-{digest}"


def _folder(workspace: Workspace) -> Path:
    return workspace.folder / "uploads"


def _blocks(workspace: Workspace, container: str, name: str) -> Path:
    digest = hashlib.sha256(f"{container}/{name}".encode()).hexdigest()
    return _folder(workspace) / "blocks" / digest


def _block_name(block: str) -> str:
    if not block or len(block) > 200:
        raise InputError([Fault("blockid", repr(block), "a block id of up to 64 bytes in base64")])
    return hashlib.sha256(block.encode()).hexdigest()
