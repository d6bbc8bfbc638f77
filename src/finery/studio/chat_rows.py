"""A conversation becomes a data row: a new version of a data asset, whole or not at all.

Versions never change. The new one's file holds the rows of the version before, byte for byte,
and the new row; it is renamed into its place before the version is registered.
"""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

from finery.chat.roles import normal_messages
from finery.errors import Fault, FineryError, InputError
from finery.files import write_atomic
from finery.studio.chat import messages_of
from finery.studio.chat_refusal import in_place
from finery.studio.formats import segment
from finery.studio.layout import form_of, fragment, workspace_of
from finery.studio.models import folder_of
from finery.workspace import assets
from finery.workspace.asset import Asset, check_asset, next_version
from finery.workspace.errors import ConflictError, NotFoundError
from finery.workspace.place import BLOB_CONTAINER, Workspace

FILE = "conversations.jsonl"
TYPE = "uri_file"
TRIES = 5  # of saving beside others who save to the same name
LARGEST = 200 * 1000 * 1000  # bytes of a file that is copied for one more row


def save(request: Request) -> Response:
    """Keep a conversation as the last row of a data asset's next version."""
    try:
        saved, rows = _saved(workspace_of(request), form_of(request))
    except FineryError as error:
        return in_place(request, error)
    link = f"/studio/data/{segment(saved.name)}?version={segment(saved.version)}"
    return fragment(request, "chat_saved.html", asset=saved, rows=rows, link=link)


def _saved(workspace: Workspace, form: Mapping[str, str]) -> tuple[Asset, int]:
    faults: list[Fault] = []
    messages = messages_of(form, faults)
    if messages:
        faults += normal_messages(messages, "messages")[1]
    if faults:
        raise InputError(faults, "conversation")
    name = form.get("data", "").strip()
    check_asset(Asset("data", "", name, "1"))
    return add_row(workspace, name, {"messages": messages})


def add_row(workspace: Workspace, name: str, row: object) -> tuple[Asset, int]:
    """The new version and how many rows it has; ConflictError where rows cannot be added."""
    line = json.dumps(row, ensure_ascii=False).encode() + b"\n"
    for _ in range(TRIES):
        before = _newest(workspace, name)
        versions = assets.versions(workspace, "data", "", name, archived="all")
        version = next_version([one.version for one in versions])
        path = f"uploads/studio/{uuid.uuid4().hex}/{FILE}"
        place = workspace.blobs / BLOB_CONTAINER / path
        content = _rows(workspace, before) + line
        write_atomic(place, content)
        uri = f"azureml://datastores/workspaceblobstore/paths/{path}"
        tags = dict(before.tags) if before else {}
        try:
            made = assets.put(workspace, Asset("data", "", name, version, TYPE, uri, tags=tags))
        except ConflictError:  # the version is taken: its rows come before ours
            shutil.rmtree(place.parent)
            continue
        return made, sum(1 for one in content.splitlines() if one.strip())
    raise ConflictError(f"Others save to {name} at this moment. Try again.")


def _newest(workspace: Workspace, name: str) -> Asset | None:
    try:
        return assets.latest(workspace, "data", "", name)
    except NotFoundError:
        return None


def _rows(workspace: Workspace, before: Asset | None) -> bytes:
    """The rows there are; ConflictError for a version that is no file of JSON lines."""
    if before is None:
        return b""
    path = folder_of(workspace, before)
    reason = _refusal(path)
    if reason:
        raise ConflictError(
            f"{before.name}:{before.version} {reason}. Choose another name for the conversation."
        )
    content = path.read_bytes()
    return content if not content or content.endswith(b"\n") else content + b"\n"


def _refusal(path: Path) -> str:
    if not path.is_file():
        return "is no single file, so that no row can be added"
    if path.suffix.lower() != ".jsonl":
        return f"is a {path.suffix or 'file without an ending'}, not a .jsonl file"
    if path.stat().st_size > LARGEST:
        return f"is larger than {LARGEST // 10**6} MB"
    return ""
