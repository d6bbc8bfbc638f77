"""Secrets as files that their owner alone can read."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

from finery.files import TEMPORARY, sync_folder, write_atomic

BYTES = 32


def write_private(path: Path, content: str | bytes) -> None:
    """Put `content` at `path`, mode 0600 from its first moment, whole or not at all."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_atomic(path, content, mode=0o600)


def secret(folder: Path, name: str) -> str:
    """The secret called `name`, made on first use and the same ever after."""
    path = folder / name
    if not path.is_file():
        made = folder / f"{TEMPORARY}{secrets.token_hex(8)}-{name}"
        write_private(made, secrets.token_urlsafe(BYTES))
        with contextlib.suppress(FileExistsError):  # of two who make it at once, one is first
            os.link(made, path)
        made.unlink()
        sync_folder(folder)
    return path.read_text(encoding="utf-8")
