"""Every part's tables, loaded, so that `store.metadata` is whole."""

from __future__ import annotations

import importlib
import importlib.util

from finery.workspace.store import metadata

MODULES = (
    "finery.workspace.tables",
    "finery.workspace.computes",
    "finery.workspace.tracking",
    "finery.jobs.tables",
    "finery.endpoints.tables",
)

for name in MODULES:
    if importlib.util.find_spec(name) is not None:
        importlib.import_module(name)

__all__ = ["metadata"]
