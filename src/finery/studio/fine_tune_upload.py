"""Files of the fine-tuning form on their way to data assets: streamed, never held in memory."""

from __future__ import annotations

import hashlib
import re
import shutil
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from anyio.to_thread import run_sync
from starlette.requests import ClientDisconnect, Request

from finery.chat.read import SUFFIXES
from finery.errors import Fault, InputError
from finery.recipe.inputs import SPLITS
from finery.studio import security
from finery.studio.fine_tune_form import UPLOAD
from finery.studio.multipart import End, Multipart, Part
from finery.workspace import assets, blobs, references, uploads
from finery.workspace.asset import Asset, next_version
from finery.workspace.datastores import DEFAULT
from finery.workspace.errors import ConflictError
from finery.workspace.place import BLOB_CONTAINER, Workspace
from finery.workspace.uploads import Staged

LARGEST = 2 * 1000**3  # bytes of one file; larger ones come through the SDK or the command line
SPARE = 1000**3  # bytes that an upload leaves free on the disk
FOLDER = "LocalUpload"  # where clients of Azure ML put what they upload
_TRIES = 5  # at a version number that another upload may take first
_FORM = "multipart/form-data"


@dataclass
class Received:
    """A form with files: its fields, with the new assets in them, and what is wrong with files."""

    fields: dict[str, str] = field(default_factory=dict)
    faults: list[tuple[str, str]] = field(default_factory=list)  # field, sentence


def is_form_with_files(request: Request) -> bool:
    """Whether a request is one."""
    return request.headers.get("content-type", "").lower().startswith(_FORM)


async def receive(request: Request, workspace: Workspace) -> Received:
    """The form that a browser sends; its files become data assets.

    The token of the form comes before any byte of a file is kept. Raises ForbiddenError without
    it, InputError for what is no form or has more than the form can hold.
    """
    form = Multipart(request.headers.get("content-type", ""))
    reading = _Reading(request, workspace)
    with ExitStack() as stack:
        with suppress(ClientDisconnect):  # nobody reads the answer then
            async for data in request.stream():
                events = list(form.feed(data))
                await run_sync(reading.take, events, stack)
        if not form.is_over:
            raise InputError([Fault("body", "a form that breaks off", "a whole form")])
    security.check_token(request, workspace, reading.received.fields)
    return reading.received


@dataclass
class _Reading:
    """Where in the form we are."""

    request: Request
    workspace: Workspace
    received: Received = field(default_factory=Received)
    part: Part | None = None
    text: bytearray = field(default_factory=bytearray)
    size: int = 0  # of all fields so far
    file: _File | None = None

    def take(self, events: list[Any], stack: ExitStack) -> None:
        for event in events:
            match event:
                case Part():
                    self._begin(event, stack)
                case End():
                    self._end()
                case bytes():
                    self._add(event)

    def _begin(self, part: Part, stack: ExitStack) -> None:
        self.part, self.file, self.text = part, None, bytearray()
        if part.file:
            security.check_token(self.request, self.workspace, self.received.fields)
            self.file = _File(part.file, stack.enter_context(uploads.staged(self.workspace)))
            self.file.fault = _name_fault(part) or self._room_fault()

    def _room_fault(self) -> str:
        free = shutil.disk_usage(self.workspace.folder).free - SPARE
        announced = self.request.headers.get("content-length", "0")
        if announced.isdigit() and int(announced) > max(free, 0):
            return "The disk has no room for the file. Free some, or upload a smaller one."
        return ""

    def _add(self, data: bytes) -> None:
        if self.file is not None:
            self.file.add(data)
        elif self.part is not None and self.part.file is None:
            self.size += len(data)
            if self.size > security.LARGEST_FORM:
                most = f"at most {security.LARGEST_FORM} bytes beside its files"
                raise InputError([Fault("body", "a form too large", most)])
            self.text += data

    def _end(self) -> None:
        part, file = self.part, self.file
        if part is None:
            return
        if part.file is None:
            self.received.fields[part.name] = self.text.decode("utf-8", "replace")
        elif file is not None:
            split = part.name.removesuffix(UPLOAD)
            if not file.size and not file.fault:
                file.fault = f"{_shown(file.name)} is empty."
            if file.fault:
                self.received.faults.append((split, file.fault))
            else:
                self.received.fields[split] = file.keep(self.workspace)
        self.part = None


def _name_fault(part: Part) -> str:
    """Why a file is not taken, as its name tells it."""
    if part.name not in {f"{split}{UPLOAD}" for split in SPLITS}:
        raise InputError([Fault(part.name, "a file", "files of conversations alone")])
    if _suffix(part.file or "") not in SUFFIXES:
        known = ", ".join(SUFFIXES)
        return f"{_shown(part.file or '')} is no file of conversations: expected {known}."
    return ""


@dataclass
class _File:
    """A file that is coming in."""

    name: str  # as the browser says
    staged: Staged
    size: int = 0
    fault: str = ""
    digest: Any = field(default_factory=hashlib.sha256)

    def add(self, data: bytes) -> None:
        self.size += len(data)
        if self.size > LARGEST:
            most = f"{LARGEST // 1000**3} GB"
            self.fault = self.fault or f"{_shown(self.name)} is larger than {most}."
            if self.size > 2 * LARGEST:
                raise InputError([Fault(self.name[:100], "a file too large", f"at most {most}")])
        if not self.fault:
            self.staged.write(data)
            self.digest.update(data)

    def keep(self, workspace: Workspace) -> str:
        """Make it a data asset; its reference. The same content is the same asset."""
        md5 = self.staged.finish()
        name = _file_name(self.name)
        whole = hashlib.sha256(f"{name}\n{self.digest.hexdigest()}\n".encode()).hexdigest()[:32]
        path = f"{FOLDER}/{whole}/{name}"
        if uploads.current(workspace, BLOB_CONTAINER, path) is None:
            said = blobs.Said(content_md5=md5)
            uploads.publish(
                workspace, BLOB_CONTAINER, path, self.staged.path, said, lambda there: None
            )
        return references.asset_uri(_asset(workspace, name, path, self.name))


def _asset(workspace: Workspace, file: str, path: str, said: str) -> Asset:
    name = PurePosixPath(file).stem
    uri = f"azureml://datastores/{DEFAULT}/paths/{path}"
    for tries_left in reversed(range(_TRIES)):
        there = assets.versions(workspace, "data", "", name, archived="all")
        same = [one for one in there if one.path == uri and not one.is_archived]
        if same:
            return same[0]
        version = next_version([one.version for one in there])
        description = f"Uploaded as {said[:200]}"
        try:
            new = Asset("data", "", name, version, "uri_file", uri, description)
            return assets.put(workspace, new)
        except ConflictError:
            if not tries_left:
                raise
    raise AssertionError("unreachable")


def _file_name(said: str) -> str:
    """A name that a file and an asset can have, whatever a browser says."""
    suffix = _suffix(said)
    stem = _base(said)[: -len(suffix) or None]
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-._")[:100].strip("-._")
    return f"{plain or 'conversations'}{suffix}"


def _suffix(said: str) -> str:
    return PurePosixPath(_base(said)).suffix.lower()


def _base(said: str) -> str:
    return re.split(r"[\\/]", said)[-1]


def _shown(said: str) -> str:
    text = "".join(c for c in _base(said) if c.isprintable())
    return text[:80] or "The file"
