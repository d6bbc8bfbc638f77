"""The hash of what a file or a folder holds, wherever it lies."""

from __future__ import annotations

from pathlib import Path

from finery.files import TEMPORARY, files_below, sha256_json
from finery.model.hashing import file_hash


def content_hash(path: Path) -> str:
    """The sha256 of a file's bytes, or of a folder's names and bytes; "" when nothing is there.

    Hashes of large files are remembered (finery.model.hashing), so a second call is quick.
    """
    if path.is_file():
        return file_hash(path)
    if not path.is_dir():
        return ""
    return sha256_json([[name, file_hash(path / name)] for name in _names(path)])


def _names(folder: Path) -> list[str]:
    names = (path.relative_to(folder).as_posix() for path in files_below(folder))
    return [name for name in names if f"/{TEMPORARY}" not in f"/{name}"]
