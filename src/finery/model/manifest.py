"""What a run was made from, so that it can be made again and traced."""

from __future__ import annotations

import importlib.metadata
import platform
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from finery.model.folder import ModelFolder
from finery.model.hashing import file_hash

# Packages whose version can change a weight or an answer.
PACKAGES = (
    "accelerate",
    "bitsandbytes",
    "datasets",
    "deepspeed",
    "finery",
    "gguf",
    "jinja2",
    "mlflow",
    "numpy",
    "peft",
    "safetensors",
    "tokenizers",
    "torch",
    "transformers",
)


def run_manifest(
    *,
    base: ModelFolder,
    data: Mapping[str, Path],
    renderer_fingerprint: str,
    seed: int,
    command: Sequence[str],
) -> dict[str, Any]:
    """The manifest of a run as a JSON value, without a clock: the same run gives the same value.

    `data` is role → file (`{"train": …, "test": …}`). Missing files raise FileNotFoundError:
    they are hashed here.
    """
    return {
        "finery_version": importlib.metadata.version("finery"),
        "command": list(command),
        "seed": seed,
        "base_model": {"source": base.source, "kind": base.kind, "sha256": base.sha256},
        "data": {
            role: {"file": path.name, "bytes": path.stat().st_size, "sha256": file_hash(path)}
            for role, path in sorted(data.items())
        },
        "renderer": renderer_fingerprint,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "byte_order": sys.byteorder,
        "packages": package_versions(),
    }


def package_versions() -> dict[str, str]:
    """The versions of the packages that matter, as installed; those absent are left out."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
