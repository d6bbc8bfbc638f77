"""Content hashes of large files, computed once per file as it lies on the disk."""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path

from finery.errors import FineryError
from finery.files import home, read_json, sha256_file, write_json

# Below this a file is hashed faster than its remembered hash is found.
REMEMBERED_FROM_BYTES = 8 * 2**20


def file_hash(path: Path) -> str:
    """The sha256 of one file, as hex; of a large one remembered under the finery home.

    A remembered hash counts only while size, modification time (ns), inode and device are the
    same, so a file rewritten in place is hashed again.
    """
    path = path.resolve()
    state = path.stat()
    if state.st_size < REMEMBERED_FROM_BYTES:
        return sha256_file(path)
    identity = [state.st_size, state.st_mtime_ns, state.st_ino, state.st_dev]
    record = home() / "hashes" / f"{hashlib.sha256(str(path).encode()).hexdigest()}.json"
    remembered = _remembered(record)
    if remembered.get("identity") == identity:
        return remembered["sha256"]
    digest = sha256_file(path)
    # A home that cannot be written only costs the next call its shortcut.
    with contextlib.suppress(OSError):
        write_json(record, {"path": str(path), "identity": identity, "sha256": digest})
    return digest


def _remembered(record: Path) -> dict:
    """What was noted before; nothing when the note is absent or damaged (it is only a cache)."""
    with contextlib.suppress(FineryError, OSError):
        note = read_json(record)
        if isinstance(note, dict) and isinstance(note.get("sha256"), str):
            return note
    return {}
