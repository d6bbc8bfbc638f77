"""A workspace of a test's own, its tables made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from finery.service.tables import metadata
from finery.workspace.place import Workspace
from finery.workspace.settings import Settings
from finery.workspace.store import connect


def new_workspace(folder: Path, **settings: Any) -> Workspace:
    folder.mkdir(parents=True, exist_ok=True)
    store = connect(f"sqlite:///{folder / 'finery.sqlite'}")
    metadata.create_all(store.engine)
    quiet: dict[str, Any] = {"tracking": False, "warm_steps": False}
    return Workspace(folder, Settings(**{**quiet, **settings}), store)
