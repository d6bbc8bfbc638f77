"""Files between this machine and the workspace: what a job reads, says and leaves."""

from __future__ import annotations

import hashlib
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree

from finery.cli.client import NothingMoreError, Service
from finery.errors import FineryError
from finery.files import files_below, sha256_file
from finery.workspace.errors import NotFoundError

BLOB_API = {"x-ms-version": "2023-11-03"}
STORE = "workspaceblobstore"
ENDED = ("Completed", "Failed", "Canceled")
NOT_CODE = frozenset({".git", ".hg", ".svn", "__pycache__"})
SECONDS_BETWEEN_LOOKS = 0.5
PARTIAL = 206


def upload(service: Service, path: Path) -> str:
    """Put a file or a folder into the workspace, once for the same content; its address.

    The place follows from the content, as with Azure ML's own clients.
    """
    files = _files(path, path.parent)
    folder = f"LocalUpload/{_digest(files)}"
    container = _container(service)
    for name, file in files.items():
        put_file(service, f"{container}/{quote(f'{folder}/{name}')}", file)
    return f"azureml://datastores/{STORE}/paths/{folder}/{path.name}"


def upload_code(service: Service, path: Path) -> str:
    """Register a file or a folder as code, once for the same content; its id.

    Version control and compiled files (`NOT_CODE`) stay behind.
    """
    found = _files(path, path if path.is_dir() else path.parent)
    files = {name: at for name, at in found.items() if not NOT_CODE & set(name.split("/"))}
    digest = _digest(files)
    place = ("codes", str(uuid.UUID(digest)), "versions", "1")
    if service.find(*place) is None:
        offered = service.ask(
            "POST",
            *place,
            "startPendingUpload",
            body={"pendingUploadType": "TemporaryBlobReference"},
        ).json()["blobReferenceForConsumption"]
        container, _, signature = offered["credential"]["sasUri"].partition("?")
        for name, file in files.items():
            put_file(service, f"{container}/{quote(name)}?{signature}", file)
        properties = {"hash_sha256": digest, "hash_version": "202208"}
        about = {"codeUri": offered["blobUri"], "properties": properties, "isAnonymous": True}
        service.ask("PUT", *place, body={"properties": about})
    return f"{service.workspace}/{'/'.join(place)}"


def _files(path: Path, root: Path) -> dict[str, Path]:
    """The files at `path` by their name below `root`."""
    found = files_below(path) if path.is_dir() else [path]
    if not found:
        raise FineryError(f"{path} holds no file. Put files there, or name another folder.")
    return {file.relative_to(root).as_posix(): file for file in found}


def _digest(files: Mapping[str, Path]) -> str:
    digest = hashlib.sha256()
    for name, file in files.items():
        digest.update(f"{name}\n{sha256_file(file)}\n".encode())
    return digest.hexdigest()[:32]


def put_file(service: Service, url: str, file: Path) -> None:
    """Write one blob unless it is there; `url` may carry a signature of its own."""
    length = {"Content-Length": str(file.stat().st_size)}
    headers = {**BLOB_API, "x-ms-blob-type": "BlockBlob", **length}
    try:
        service.send(service.http.build_request("HEAD", url, headers=BLOB_API))
    except NotFoundError:
        with file.open("rb") as content:
            request = service.http.build_request("PUT", url, content=content, headers=headers)
            service.send(request)


def details(service: Service, name: str, what: str = "details") -> dict[str, Any]:
    """What the run history knows of a job: `details` (logs, error) or `children` (its steps)."""
    below = f"/history/v1.0{service.workspace}"
    return service.get("runs", name, what, below=below)


def follow(service: Service, name: str, write: Callable[[str], None]) -> dict[str, Any]:
    """Write a job's log as it grows, until the job has ended; the job then."""
    seen = 0
    while True:
        job = service.get("jobs", name)  # before the log: what it says last is not missed
        has_ended = job["properties"]["status"] in ENDED
        seen += _news(service, details(service, name), seen, write, last=has_ended)
        if has_ended:
            return job
        time.sleep(SECONDS_BETWEEN_LOOKS)


def _news(
    service: Service,
    details: dict[str, Any],
    seen: int,
    write: Callable[[str], None],
    *,
    last: bool,
) -> int:
    """Write what the main log holds beyond its first `seen` bytes; how many bytes that was."""
    logs = details.get("logFiles") or {}
    wanted = ("logs/azureml/executionlogs.txt", "user_logs/std_log.txt")
    url = next((logs[one] for one in wanted if one in logs), None)
    if url is None:
        return 0
    content = _rest(service, url, seen)
    end = len(content) if last else content.rfind(b"\n") + 1  # a line that is being written waits
    text = content[:end].decode(errors="replace")
    write(text if not text or text.endswith("\n") else f"{text}\n")
    return end


def _rest(service: Service, url: str, seen: int) -> bytes:
    """What a file holds from the byte `seen` on."""
    asked = {"Range": f"bytes={seen}-"} if seen else {}
    try:
        answer = service.send(service.http.build_request("GET", url, headers=asked))
    except NothingMoreError:
        return b""
    return answer.content if answer.status_code == PARTIAL else answer.content[seen:]


def download_job(service: Service, name: str, output: str, folder: Path) -> list[Path]:
    """Copy outputs to `folder/<output>/` and logs to `folder/`; what was written.

    A file that is there already is refused before anything is copied.
    """
    outputs = list(service.get("jobs", name)["properties"].get("outputs") or {})
    if output and output not in outputs:
        known = ", ".join(outputs) or "none"
        raise FineryError(f"The job {name} has no output {output}. It has: {known}.")
    container = _container(service)
    wanted: dict[Path, str] = {}
    for one in [output] if output else outputs:
        prefix = f"azureml/{name}/{one}/"
        for blob in list_blobs(service, container, prefix):
            wanted[_inside(folder, f"{one}/{blob[len(prefix) :]}")] = f"{container}/{quote(blob)}"
    if not output:
        for log, url in (details(service, name).get("logFiles") or {}).items():
            wanted[_inside(folder, log)] = url
    _refuse_existing(wanted)
    for path, url in wanted.items():
        _fetch(service, url, path)
    return list(wanted)


def list_blobs(service: Service, container: str, prefix: str) -> list[str]:
    """The names of the blobs that begin with `prefix`, folders' own entries left out."""
    names, marker = [], ""
    while True:
        query = {"restype": "container", "comp": "list", "prefix": prefix, "marker": marker}
        request = service.http.build_request("GET", container, params=query, headers=BLOB_API)
        page = ElementTree.fromstring(service.send(request).content)  # noqa: S314 - our service's
        names += [blob.findtext("Name", "") for blob in page.iter("Blob")]
        marker = page.findtext("NextMarker", "")
        if not marker:
            return [name for name in names if len(name) > len(prefix)]


def _container(service: Service) -> str:
    """The address of the workspace's blobs, from its default datastore."""
    about = service.get("datastores", STORE)["properties"]
    suffix = about.get("endpoint") or "local"
    return f"https://{about['accountName']}.blob.{suffix}/{about['containerName']}"


def _inside(folder: Path, name: str) -> Path:
    root = folder.expanduser().resolve()
    path = (root / name).resolve()
    if not path.is_relative_to(root):
        raise FineryError(f"The job names a file {name!r} outside its own folder; it is refused.")
    return path


def _refuse_existing(paths: Iterable[Path]) -> None:
    there = [path for path in paths if path.exists()]
    if there:
        more = f" and {len(there) - 1} more" if len(there) > 1 else ""
        raise FineryError(f"{there[0]}{more} is there already. Choose another --dir.")


def _fetch(service: Service, url: str, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".tmp-{path.name}")
    response = service.send(service.http.build_request("GET", url, headers=BLOB_API), stream=True)
    try:
        with temporary.open("wb") as file:
            for part in response.iter_bytes():
                file.write(part)
        temporary.replace(path)
    finally:
        response.close()
        temporary.unlink(missing_ok=True)
