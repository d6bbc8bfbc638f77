"""Blobs: plain files below one folder a container, with what a file cannot hold in the store."""

from __future__ import annotations

import hashlib
import mimetypes
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from finery.errors import Fault, InputError
from finery.files import TEMPORARY
from finery.workspace.datastores import own_containers
from finery.workspace.errors import ConflictError, NotFoundError
from finery.workspace.paths import inside
from finery.workspace.place import Workspace
from finery.workspace.tables import blob_records

_CONTAINER = re.compile(r"[a-z0-9](?:-?[a-z0-9]){2,62}")
_KEYS_AT_ONCE = 500  # parameters of one query


class ContainerNotFoundError(NotFoundError):
    """A container that was named is not there."""


@dataclass(frozen=True)
class Blob:
    """A file of a container as it lies there."""

    container: str
    name: str
    path: Path
    size: int
    modified: datetime  # naive UTC
    stamp: str  # tells one content of the file from another
    revision: int = 0  # of the metadata
    content_type: str = "application/octet-stream"
    content_md5: str = ""  # base64; "" when it was never said
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def etag(self) -> str:
        """Changes whenever content or metadata do."""
        return f'"{self.stamp}-{self.revision:x}"'


@dataclass(frozen=True)
class Said:
    """What a client says of a blob beside its bytes."""

    content_type: str = ""
    content_md5: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Page:
    """A part of a listing."""

    blobs: tuple[Blob, ...]
    prefixes: tuple[str, ...]  # with a delimiter: names up to it
    next_marker: str  # "" at the end


def container_path(workspace: Workspace, container: str) -> Path:
    """The folder of a container; raises ContainerNotFoundError when nobody made it."""
    path = _container(workspace, container)
    if container in own_containers():
        path.mkdir(parents=True, exist_ok=True)
    if not path.is_dir():
        raise ContainerNotFoundError(f"There is no container {container}.")
    return path


def make_container(workspace: Workspace, container: str) -> bool:
    """Make a container; says whether it is new."""
    path = _container(workspace, container)
    is_new = not path.is_dir()
    path.mkdir(parents=True, exist_ok=True)
    return is_new


def blob_path(workspace: Workspace, container: str, name: str) -> Path:
    """Where a blob lies or would lie; never outside its container."""
    path = inside(container_path(workspace, container), name, "blob name")
    if not name or name.endswith("/"):  # a blob is a file; a folder is only a part of names
        raise InputError([Fault("blob name", repr(name), "the name of a file")])
    return path


def find_blob(workspace: Workspace, container: str, name: str) -> Blob:
    """The blob; raises NotFoundError when there is none."""
    # "a/" is another name than "a", by which the SDK asks whether there is a folder.
    path = blob_path(workspace, container, name.rstrip("/"))
    try:
        state = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        state = None
    if state is None or not path.is_file() or name.endswith("/"):
        raise NotFoundError(f"There is no blob {name} in the container {container}.")
    return _blobs(workspace, container, [(name, path, state)])[0]


def list_blobs(
    workspace: Workspace,
    container: str,
    *,
    prefix: str = "",
    delimiter: str = "",
    marker: str = "",
    limit: int = 5000,
) -> Page:
    """The blobs whose names begin with `prefix`, in the order of their names, after `marker`."""
    root = container_path(workspace, container)
    folder, _, _ = prefix.rpartition("/")
    start = inside(root, folder, "prefix")
    found: list[tuple[str, Path, os.stat_result]] = []
    prefixes: list[str] = []
    for name, path in _names(root, start, prefix, marker, delimiter == "/"):
        if len(found) + len(prefixes) == limit:
            last = max([*prefixes[-1:], *(n for n, _, _ in found[-1:])])
            return Page(tuple(_blobs(workspace, container, found)), tuple(prefixes), last)
        if name.endswith("/"):
            prefixes.append(name)
        elif (state := _state(path)) is not None:
            found.append((name, path, state))
    return Page(tuple(_blobs(workspace, container, found)), tuple(prefixes), "")


def say(workspace: Workspace, blob: Blob, said: Said) -> Blob:
    """Keep what was said of a blob, in place of what was said before."""
    values = {
        "container": blob.container,
        "key": _key(blob.name),
        "name": blob.name,
        "stamp": blob.stamp,
        "revision": blob.revision + 1,
        "content_type": said.content_type,
        "content_md5": said.content_md5,
        "metadata": dict(said.metadata),
    }
    with workspace.store.write() as connection:
        if not connection.execute(_this(blob).values(values)).rowcount:
            connection.execute(blob_records.insert().values(values))
    return find_blob(workspace, blob.container, blob.name)


def delete_blob(workspace: Workspace, blob: Blob) -> None:
    """Remove a blob, and the folders that are empty without it."""
    blob.path.unlink(missing_ok=True)
    where = (blob_records.c.container == blob.container) & (blob_records.c.key == _key(blob.name))
    with workspace.store.write() as connection:
        connection.execute(blob_records.delete().where(where))
    root = container_path(workspace, blob.container)
    for folder in blob.path.parents:
        if folder == root or not _remove_empty(folder):
            break


def place_for(workspace: Workspace, container: str, name: str) -> Path:
    """Where a new blob goes, its folders made; raises ConflictError where a name is in the way."""
    path = blob_path(workspace, container, name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        text = f"A blob stands where {name} needs a folder. Choose another name."
        raise ConflictError(text) from None
    if path.is_dir():
        raise ConflictError(f"There are blobs below {name}/, so it cannot be one. Rename it.")
    return path


def _names(
    root: Path, folder: Path, prefix: str, marker: str, shallow: bool
) -> Iterator[tuple[str, Path]]:
    """Names below `folder` in order; a folder, when `shallow`, as a name that ends with "/"."""
    if not folder.is_dir():
        return
    for path, is_folder in _entries(root, folder):
        name = path.relative_to(root).as_posix() + ("/" if is_folder else "")
        if not is_folder or (shallow and name.startswith(prefix)):
            if name.startswith(prefix) and name > marker:
                yield name, path
        elif _may_hold(name, prefix, marker):
            yield from _names(root, path, prefix, marker, shallow)


def _may_hold(folder: str, prefix: str, marker: str) -> bool:
    """Whether a name that begins with `folder` can begin with `prefix` and follow `marker`."""
    on_the_way = folder.startswith(prefix) or prefix.startswith(folder)
    return on_the_way and (folder > marker or marker.startswith(folder))


def _entries(root: Path, folder: Path) -> list[tuple[Path, bool]]:
    """The files and folders in a folder in the order of blob names; links out are left out."""
    entries = []
    with os.scandir(folder) as scanned:
        for entry in scanned:
            path = Path(entry.path)
            leads_out = entry.is_symlink() and not path.resolve().is_relative_to(root.resolve())
            if entry.name.startswith(TEMPORARY) or leads_out:
                continue
            if entry.is_file():
                entries.append((entry.name, path, False))
            elif entry.is_dir(follow_symlinks=False):
                entries.append((f"{entry.name}/", path, True))
    return [(path, is_folder) for _, path, is_folder in sorted(entries, key=lambda e: e[0])]


def _blobs(
    workspace: Workspace, container: str, files: Sequence[tuple[str, Path, os.stat_result]]
) -> list[Blob]:
    records = _records(workspace, container, [name for name, _, _ in files])
    return [_blob(container, *file, records.get(_key(file[0]))) for file in files]


def _records(workspace: Workspace, container: str, names: Sequence[str]) -> dict[str, Any]:
    found = {}
    with workspace.store.read() as connection:
        for start in range(0, len(names), _KEYS_AT_ONCE):
            keys = [_key(name) for name in names[start : start + _KEYS_AT_ONCE]]
            query = sa.select(blob_records).where(
                blob_records.c.container == container, blob_records.c.key.in_(keys)
            )
            found |= {row.key: row for row in connection.execute(query)}
    return found


def _blob(container: str, name: str, path: Path, state: os.stat_result, record: Any) -> Blob:
    stamp = f"{state.st_mtime_ns:x}-{state.st_ino:x}-{state.st_size:x}"
    modified = datetime.fromtimestamp(state.st_mtime, UTC).replace(tzinfo=None)
    plain = Blob(container, name, path, state.st_size, modified, stamp)
    guess = mimetypes.guess_type(name)[0] or plain.content_type
    if record is None or record.stamp != stamp:
        return Blob(container, name, path, state.st_size, modified, stamp, content_type=guess)
    return Blob(
        *(container, name, path, state.st_size, modified, stamp),
        revision=record.revision,
        content_type=record.content_type or guess,
        content_md5=record.content_md5,
        metadata=record.metadata,
    )


def _container(workspace: Workspace, container: str) -> Path:
    if not _CONTAINER.fullmatch(container):
        rule = "3 to 63 small letters, digits and single dashes"
        raise InputError([Fault("container", repr(container), rule)])
    return workspace.blobs / container


def _this(blob: Blob) -> sa.Update:
    return blob_records.update().where(
        blob_records.c.container == blob.container, blob_records.c.key == _key(blob.name)
    )


def _key(name: str) -> str:
    return hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()


def _state(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except FileNotFoundError:  # gone since the folder was read
        return None


def _remove_empty(folder: Path) -> bool:
    try:
        folder.rmdir()
    except OSError:
        return False
    return True
