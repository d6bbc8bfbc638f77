"""Data: assets, their rows, and what is in them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from finery.chat.data_row import Row
from finery.errors import Fault, FineryError, InputError
from finery.files import files_below
from finery.studio import layout, looks
from finery.studio.layout import workspace_of
from finery.studio.models import check_registry, folder_of
from finery.workspace import assets, references
from finery.workspace.asset import Asset
from finery.workspace.errors import NotFoundError
from finery.workspace.place import Workspace

MOST_FILES = 200
LONGEST_CELL = 4000  # characters of a row's field on a page


def listing(request: Request, registry: str = "", q: str = "") -> Response:
    """Every data asset of the workspace, or of a registry."""
    workspace = workspace_of(request)
    check_registry(workspace, registry)
    words = q.strip().lower()
    names = assets.names(workspace, "data", registry)
    return layout.page(
        request,
        "assets.html",
        title="Data",
        active="data",
        kind="data asset",
        place="data",
        names=[name for name in names if words in name.name.lower()],
        registry=registry,
        registries=workspace.settings.registries,
        q=q,
    )


def page(
    request: Request, name: str, version: str = "", registry: str = "", file: str = "", at: int = 0
) -> Response:
    """One version of a data asset: its files, and some rows of one of them."""
    workspace = workspace_of(request)
    check_registry(workspace, registry)
    asset = assets.get(workspace, "data", registry, name, version or "latest")
    values: dict[str, Any] = {"files": [], "chosen": "", "rows": [], "has_more": False, "at": 0}
    fault = ""
    try:
        values |= _shown(_files(workspace, asset), file, max(0, min(at, 10**9)))
    except NotFoundError:
        raise
    except FineryError as error:
        fault = str(error)
    return layout.page(
        request,
        "data_asset.html",
        title=name,
        active="data",
        asset=asset,
        versions=assets.versions(workspace, "data", registry, name, limit=100),
        fault=fault,
        page_rows=looks.ROWS,
        reference=references.asset_uri(asset),
        **values,
    )


def look(
    request: Request, name: str, version: str = "", registry: str = "", file: str = ""
) -> Response:
    """The numbers of one file, which take a while at first."""
    workspace = workspace_of(request)
    check_registry(workspace, registry)
    asset = assets.get(workspace, "data", registry, name, version or "latest")
    files = _files(workspace, asset)
    path = files.get(_chosen(files, file))
    fault, found = "", {}
    try:
        found = looks.look(path) if path is not None and looks.readable(path) else {}
    except FineryError as error:
        fault = str(error)
    return layout.fragment(request, "data_look.html", look=found, fault=fault)


def _files(workspace: Workspace, asset: Asset) -> dict[str, Path]:
    """The files of an asset by the names that people know."""
    if not asset.path:
        raise InputError([Fault(asset.name, "no files", "a data asset with files")])
    path = folder_of(workspace, asset)
    if path.is_file():
        return {path.name: path}
    if not path.is_dir():
        raise InputError([Fault(asset.path, "nothing", "files", "They were removed since.")])
    every = files_below(path)[:MOST_FILES]
    return {one.relative_to(path).as_posix(): one for one in every}


def _chosen(files: dict[str, Path], asked: str) -> str:
    """The file that is looked into; raises NotFoundError for one that is not there."""
    if asked and asked not in files:
        raise NotFoundError(f"There is no file called {asked} in it.")
    likely = [name for name, path in files.items() if looks.readable(path)]
    return asked or next(iter([*likely, *files]), "")


def _shown(files: dict[str, Path], asked: str, at: int) -> dict[str, Any]:
    chosen = _chosen(files, asked)
    sizes = [(name, path.stat().st_size) for name, path in files.items()]
    if not chosen or not looks.readable(files[chosen]):
        return {"files": sizes, "chosen": chosen}
    found, has_more = looks.first_rows(files[chosen], at)
    place = f"{files[chosen].parent}/"
    rows = [_row(item, place) for item in found]
    return {"files": sizes, "chosen": chosen, "rows": rows, "has_more": has_more, "at": at}


def _row(item: Row | Fault, place: str) -> dict[str, Any]:
    """A row as the page shows it: its turns, or its fields; a fault in its own words."""
    if isinstance(item, Fault):
        return {"number": "", "turns": [], "fields": [], "fault": str(item).replace(place, "")}
    messages = item.data.get("messages")
    turns = [
        {"role": str(turn.get("role", "?"))[:40], "text": _text(turn.get("content"))}
        for turn in (messages if isinstance(messages, list) else [])
        if isinstance(turn, dict)
    ]
    fields = [(str(k), _text(v)) for k, v in item.data.items() if k != "messages" or not turns]
    return {"number": item.number, "turns": turns, "fields": fields, "fault": ""}


def _text(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= LONGEST_CELL else f"{text[:LONGEST_CELL]} …"
