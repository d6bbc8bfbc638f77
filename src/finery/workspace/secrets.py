"""Secrets as files that their owner alone can read."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from finery.files import sync_folder

BYTES = 32


def write_private(path: Path, content: str | bytes) -> None:
    """Put `content` at `path`, mode 0600 from its first moment, whole or not at all."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = path.with_name(f".tmp-{secrets.token_hex(8)}-{path.name}")
    data = content.encode() if isinstance(content, str) else content
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def secret(folder: Path, name: str) -> str:
    """The secret called `name`, made on first use and the same ever after."""
    path = folder / name
    if not path.is_file():
        write_private(path, secrets.token_urlsafe(BYTES))
    return path.read_text(encoding="utf-8")
