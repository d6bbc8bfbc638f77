"""Files that are either wholly there or not there at all.

Every write goes to a temporary name in the same folder, is flushed to disk, and is renamed
over the final name; a folder carries `manifest.json`, written last, that lists what it must
hold. A crash at any moment leaves the old content or the new, never a mixture; what it may
leave behind are names that start with `.tmp-`, which nothing reads.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from finery.errors import FineryError

MANIFEST = "manifest.json"
TEMPORARY = ".tmp-"
MIRROR = "FINERY_HUB_MIRROR"
_FICLONE = 0x40049409


def home() -> Path:
    """The folder under which finery keeps what it may need again: `FINERY_HOME` or `~/.finery`."""
    return Path(os.environ.get("FINERY_HOME") or Path.home() / ".finery").expanduser().resolve()


def mirrored(name: str) -> Path | None:
    """Where `organisation/name` of the hub lies below `$FINERY_HUB_MIRROR`, there or not.

    None when no mirror is set.
    """
    root = os.environ.get(MIRROR)
    return Path(root).expanduser() / name if root else None


def write_atomic(path: Path, content: str | bytes, *, mode: int = 0o666) -> None:
    """Put `content` at `path` durably; a reader sees the old bytes or the new ones.

    `mode` holds from the file's first moment, less what the process masks.
    """
    data = content.encode() if isinstance(content, str) else content
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{TEMPORARY}{uuid.uuid4().hex}-{path.name}")
    try:
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def write_json(path: Path, value: Any) -> None:
    """`value` as indented JSON with a final newline; NaN and infinities are refused."""
    write_atomic(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """The JSON at `path`; raises FineryError with the position when it is not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FineryError(f"{path} is not there.") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise FineryError(f"{path} is not valid JSON: {error}. Restore or remove it.") from error


def json_lines(values: Iterable[Any]) -> str:
    """One JSON value a line, as `read_json_lines` reads them."""
    return "".join(json.dumps(v, ensure_ascii=False, allow_nan=False) + "\n" for v in values)


def read_json_lines(path: Path) -> list[Any]:
    """The values in a file of JSON lines; a last line that a crash cut short is left out."""
    # Not splitlines(): inside a JSON text, U+2028 and its like are no line breaks.
    *lines, _ = path.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines]


def sha256_file(path: Path) -> str:
    """The content hash of one file, as hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_json(value: Any) -> str:
    """A hash of a JSON value that does not depend on key order or spacing."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def sync_folder(folder: Path) -> None:
    """Make renames inside `folder` durable (a no-op where folders cannot be opened)."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except (PermissionError, IsADirectoryError):  # Windows cannot open a folder
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def files_below(folder: Path) -> list[Path]:
    """Every regular file below `folder`, sorted, links to folders not followed."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def cloned(source: Path, target: Path) -> bool:
    """Make `target` share the blocks of `source` until one of them is written; whether it does.

    Only some file systems can (Linux: the ioctl FICLONE of linux/fs.h); `target` is then empty.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        return False
    with source.open("rb") as one, target.open("wb") as other, contextlib.suppress(OSError):
        fcntl.ioctl(other.fileno(), _FICLONE, one.fileno())
        return True
    return False


def copy_tree(source: Path, target: Path) -> None:
    """Copy a file or a folder, its bytes shared where the file system can do that unseen."""

    def copy(one: str, other: str) -> str:
        if not cloned(Path(one), Path(other)):
            shutil.copyfile(one, other)
        return other

    if source.is_dir():
        shutil.copytree(
            source, target, copy_function=copy, ignore=shutil.ignore_patterns(f"{TEMPORARY}*")
        )
    else:
        copy(str(source), str(target))


@contextlib.contextmanager
def new_folder(final: Path, *, replace: bool = False) -> Iterator[Path]:
    """Fill a temporary folder that becomes `final`, with its manifest, when the block ends.

    Raises FineryError when `final` exists and `replace` is false. When the block raises,
    or the process dies, `final` is as it was before.
    """
    if final.exists() and not replace:
        raise FineryError(f"{final} is there already. Choose another place or remove it.")
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = final.parent / f"{TEMPORARY}{uuid.uuid4().hex}-{final.name}"
    temporary.mkdir()
    try:
        yield temporary
        finish_folder(temporary, final)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def finish_folder(temporary: Path, final: Path) -> None:
    """Flush `temporary`, write its manifest, and rename it to `final` (replacing an old one)."""
    _write_manifest(temporary)
    _swap(temporary, final)
    sync_folder(final.parent)


def _write_manifest(folder: Path) -> None:
    entries = {}
    for path in files_below(folder):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        name = path.relative_to(folder).as_posix()
        entries[name] = {"bytes": path.stat().st_size, "sha256": digest}
    write_json(folder / MANIFEST, {"files": entries})


def _swap(temporary: Path, final: Path) -> None:
    """Rename over an existing folder in two steps: a folder cannot be replaced in one."""
    old = final.parent / f"{TEMPORARY}{uuid.uuid4().hex}-old"
    if final.exists():
        final.rename(old)
    temporary.rename(final)
    shutil.rmtree(old, ignore_errors=True)


def verify_folder(folder: Path, *, hashes: bool = True) -> list[str]:
    """What is wrong with a folder made by `new_folder`, as sentences; empty when it is whole."""
    manifest = folder / MANIFEST
    if not manifest.is_file():
        return [f"{manifest} is missing: the folder was never completed"]
    try:
        entries = dict(read_json(manifest)["files"])
    except (FineryError, KeyError, TypeError, ValueError):
        return [f"{manifest} is not a manifest: it was damaged after it was written"]
    wrong = []
    for name, entry in entries.items():
        path = folder / name
        if not path.is_file():
            wrong.append(f"{path} is missing")
        elif path.stat().st_size != entry["bytes"]:
            wrong.append(f"{path} has {path.stat().st_size} bytes, not {entry['bytes']}")
        elif hashes and sha256_file(path) != entry["sha256"]:
            wrong.append(f"{path} has other content than when it was written")
    return wrong
