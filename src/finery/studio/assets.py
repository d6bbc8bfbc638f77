"""The files that pages load: ours, and htmx from the package of the index that carries it."""

from __future__ import annotations

import functools
import gzip
import hashlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path

from finery.errors import FineryError
from finery.files import sha256_file

STATIC = Path(__file__).parent / "static"
HTMX = "htmx.min.js"
HTMX_PACKAGE = "django-js-lib-htmx==2.0.3.1"
HTMX_SHA256 = "491955cd1810747d7d7b9ccb936400afb760e06d25d53e4572b64b6563b2784e"
_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


@dataclass(frozen=True)
class StaticFile:
    """A file as it is sent."""

    content: bytes
    packed: bytes  # by gzip
    media_type: str
    etag: str


@dataclass(frozen=True)
class Bundle:
    """All files by name. `version` is a hash of them all, and a segment of their addresses: one
    address never means two contents, so browsers keep what they have.
    """

    version: str
    files: dict[str, StaticFile]


@functools.cache
def bundle() -> Bundle:
    """Read the files once; raises FineryError when htmx is missing, or is not the known one."""
    paths = {path.name: path for path in sorted(STATIC.iterdir()) if path.suffix in _TYPES}
    files = {name: _read(path) for name, path in {**paths, HTMX: _htmx()}.items()}
    every = "".join(f"{name}{file.etag}" for name, file in sorted(files.items()))
    return Bundle(hashlib.sha256(every.encode()).hexdigest()[:16], files)


def _read(path: Path) -> StaticFile:
    content = path.read_bytes()
    etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    return StaticFile(content, gzip.compress(content, 9, mtime=0), _TYPES[path.suffix], etag)


def _htmx() -> Path:
    """Where the package keeps htmx; found without importing it, for it imports Django."""
    spec = importlib.util.find_spec("js_lib_htmx")
    folders = (spec.submodule_search_locations if spec else None) or ()
    for folder in folders:
        path = Path(folder) / "static" / "htmx" / HTMX
        if path.is_file() and sha256_file(path) == HTMX_SHA256:
            return path
    found = "holds another htmx than the one known here" if folders else "is not installed"
    raise FineryError(
        f"The studio's package {HTMX_PACKAGE} {found}. "
        f"Install it: pip install --force-reinstall '{HTMX_PACKAGE}'."
    )
