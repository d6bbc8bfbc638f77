"""The blob endpoint on plain files: the operations that the SDK's storage clients use.

An account called `localhost:PORT/_blob` and the suffix `local` make the SDK ask for
`https://localhost:PORT/_blob.blob.local/<container>/<blob>`. Bytes stream both ways; a blob is
never held in memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from anyio.to_thread import run_sync
from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import StreamingResponse

from finery.azureml.blob_wire import (
    VERSION,
    BlobError,
    BlobRoute,
    asked_span,
    blob_headers,
    block_list,
    check_conditions,
    http_date,
    listing,
    said,
)
from finery.azureml.caller import bearer
from finery.azureml.scope import WorkspaceDep
from finery.workspace import blobs, identity, uploads
from finery.workspace.errors import NotImplementedHereError, UnauthenticatedError
from finery.workspace.place import Workspace
from finery.workspace.references import BLOB_HOST_PATH

ROOT = BLOB_HOST_PATH.rstrip("/")
_CONTAINER, _BLOB = ROOT + "/{container}", ROOT + "/{container}/{name:path}"
_READ = "read:"  # before a signed path: the signature does not open it for writing
_CHUNK = 2**20
_LARGEST_LIST = 5000
_LARGEST_XML = 16 * 2**20


def signed_container(workspace: Workspace, container: str, *, writable: bool) -> str:
    """The address of a container that for an hour needs no token, to read it or to fill it."""
    path = f"{ROOT}/{container}"
    query = identity.sign_query(workspace, path if writable else _READ + path)
    return f"{workspace.settings.base_url}{path}?{query}"


def may_use(container: str, request: Request, workspace: WorkspaceDep) -> None:
    """Refuse a caller without a token for storage or a signature for the container."""
    if not request.query_params.get("sig"):
        allowed = identity.audiences(workspace) | {identity.STORAGE}
        identity.verify(workspace, bearer(request), allowed)
        return
    path, query = f"{ROOT}/{container}", request.query_params
    if request.method in ("GET", "HEAD"):
        try:
            return identity.verify_query(workspace, _READ + path, query)
        except UnauthenticatedError:  # what may be written may be read as well
            pass
    identity.verify_query(workspace, path, query)


router = APIRouter(route_class=BlobRoute, dependencies=[Depends(may_use)])


def _not_here(request: Request) -> None:
    """Refuse the operations that finery does not have, by name, before anything is done."""
    component = request.query_params.get("comp", "")
    known = ("", "list", "metadata", "properties", "block", "blocklist")
    if component not in known:
        raise NotImplementedHereError(f"Blobs have no operation comp={component} here.")
    if request.headers.get("x-ms-copy-source"):
        raise NotImplementedHereError("Blobs cannot be copied from an address here. Upload them.")
    if request.headers.get("x-ms-blob-type", "BlockBlob") != "BlockBlob":
        raise NotImplementedHereError("There are block blobs here, no page or append blobs.")


@router.api_route(_CONTAINER, methods=["GET", "HEAD"], dependencies=[Depends(_not_here)])
def read_container(container: str, request: Request, workspace: WorkspaceDep) -> Response:
    """List the blobs of a container, or say that it is there."""
    asked = {name.lower(): value for name, value in request.query_params.items()}
    if asked.get("comp") != "list":
        blobs.container_path(workspace, container)
        return Response(headers={"x-ms-version": VERSION, "ETag": '"0"'})
    delimiter = asked.get("delimiter", "")
    if delimiter not in ("", "/"):
        raise NotImplementedHereError(f"Blobs are listed by the delimiter /, not {delimiter!r}.")
    page = blobs.list_blobs(
        workspace,
        container,
        prefix=asked.get("prefix", ""),
        delimiter=delimiter,
        marker=asked.get("marker", ""),
        limit=_page_size(asked.get("maxresults", "")),
    )
    with_metadata = "metadata" in asked.get("include", "").split(",")
    text = listing(container, page, asked, with_metadata)
    return Response(text.encode(), headers={"x-ms-version": VERSION}, media_type="application/xml")


@router.put(_CONTAINER, dependencies=[Depends(_not_here)])
def create_container(container: str, workspace: WorkspaceDep) -> Response:
    """Make a container."""
    if not blobs.make_container(workspace, container):
        raise BlobError(409, "ContainerAlreadyExists", "The specified container already exists.")
    return Response(status_code=201, headers={"x-ms-version": VERSION, "ETag": '"0"'})


@router.head(_BLOB, dependencies=[Depends(_not_here)])
def blob_properties(
    container: str, name: str, request: Request, workspace: WorkspaceDep
) -> Response:
    """What is known of a blob, without its bytes."""
    blob = blobs.find_blob(workspace, container, name)
    check_conditions(request, blob)
    headers = blob_headers(blob) | {"Content-Length": str(blob.size)}
    if blob.content_md5:
        headers["Content-MD5"] = blob.content_md5
    return Response(headers=headers, media_type=blob.content_type)


@router.get(_BLOB, dependencies=[Depends(_not_here)])
def read_blob(container: str, name: str, request: Request, workspace: WorkspaceDep) -> Response:
    """The bytes of a blob, or a part of them."""
    blob = blobs.find_blob(workspace, container, name)
    check_conditions(request, blob)
    if request.query_params.get("comp") == "metadata":
        return Response(headers=blob_headers(blob))
    span = asked_span(request, blob.size)
    headers = blob_headers(blob) | {"Content-Length": str(span.length)}
    if span.is_part:
        end = span.start + span.length - 1
        headers["Content-Range"] = f"bytes {span.start}-{end}/{blob.size}"
    if blob.content_md5:
        headers["x-ms-blob-content-md5" if span.is_part else "Content-MD5"] = blob.content_md5
    file = blob.path.open("rb")  # now, so that a later replacement of the blob does not matter
    return StreamingResponse(
        _bytes(file, span.start, span.length),
        206 if span.is_part else 200,
        headers,
        media_type=blob.content_type,
    )


@router.put(_BLOB, dependencies=[Depends(_not_here)])
async def write_blob(
    container: str, name: str, request: Request, workspace: WorkspaceDep
) -> Response:
    """Write a blob whole, a block of it, the list of its blocks, or what is said of it."""
    match request.query_params.get("comp", ""):
        case "block":
            return await _write_block(container, name, request, workspace)
        case "blocklist":
            body = await _small_body(request)
            return await run_sync(_commit, container, name, body, request, workspace)
        case "metadata" | "properties" as what:
            return await run_sync(_say, what, container, name, request, workspace)
        case _:
            return await _write_whole(container, name, request, workspace)


@router.delete(_BLOB, dependencies=[Depends(_not_here)])
def delete_blob(container: str, name: str, request: Request, workspace: WorkspaceDep) -> Response:
    """Remove a blob."""
    blob = blobs.find_blob(workspace, container, name)
    check_conditions(request, blob)
    blobs.delete_blob(workspace, blob)
    return Response(status_code=202, headers={"x-ms-version": VERSION})


async def _write_whole(
    container: str, name: str, request: Request, workspace: Workspace
) -> Response:
    # Before the bytes come: a client learns at once that it need not send them.
    now = await run_sync(uploads.current, workspace, container, name)
    check_conditions(request, now)
    with uploads.staged(workspace) as file:
        digest = await _receive(request, file)
        told = said(request)
        kept = blobs.Said(told.content_type, told.content_md5 or digest, told.metadata)
        blob = await run_sync(
            uploads.publish,
            workspace,
            container,
            name,
            file.path,
            kept,
            lambda current: check_conditions(request, current),
        )
    return _written(blob, digest)


async def _write_block(
    container: str, name: str, request: Request, workspace: Workspace
) -> Response:
    block = request.query_params.get("blockid", "")
    with uploads.staged(workspace) as file:
        digest = await _receive(request, file)
        await run_sync(uploads.keep_block, workspace, container, name, block, file.path)
    return Response(status_code=201, headers={"x-ms-version": VERSION, "Content-MD5": digest})


def _commit(
    container: str, name: str, body: bytes, request: Request, workspace: Workspace
) -> Response:
    blob = uploads.publish_blocks(
        workspace,
        container,
        name,
        block_list(body),
        said(request),
        lambda current: check_conditions(request, current),
    )
    return _written(blob, "")


def _say(what: str, container: str, name: str, request: Request, workspace: Workspace) -> Response:
    blob = blobs.find_blob(workspace, container, name)
    check_conditions(request, blob)
    new = said(request)
    if what == "metadata":
        new = blobs.Said(blob.content_type, blob.content_md5, new.metadata)
    else:
        new = blobs.Said(new.content_type, new.content_md5, blob.metadata)
    blob = blobs.say(workspace, blob, new)
    return Response(status_code=200, headers=_short(blob))


async def _receive(request: Request, file: uploads.Staged) -> str:
    """Write the body to `file`, a mebibyte at a time; its MD5."""
    waiting = bytearray()
    async for data in request.stream():
        waiting += data
        if len(waiting) >= _CHUNK:
            await run_sync(file.write, bytes(waiting))
            waiting.clear()
    await run_sync(file.write, bytes(waiting))
    return await run_sync(file.finish, request.headers.get("content-md5", ""))


async def _small_body(request: Request) -> bytes:
    body = bytearray()
    async for data in request.stream():
        body += data
        if len(body) > _LARGEST_XML:
            raise BlobError(413, "RequestBodyTooLarge", "The block list is too long.")
    return bytes(body)


def _bytes(file: BinaryIO, start: int, length: int) -> Iterator[bytes]:
    with file:
        file.seek(start)
        while length > 0 and (data := file.read(min(_CHUNK, length))):
            length -= len(data)
            yield data


def _page_size(text: str) -> int:
    if not text:
        return _LARGEST_LIST
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise BlobError(400, "OutOfRangeQueryParameterValue", f"maxresults is {text!r}.")
    return min(int(text), _LARGEST_LIST)


def _written(blob: blobs.Blob, digest: str) -> Response:
    headers = _short(blob) | ({"Content-MD5": digest} if digest else {})
    return Response(status_code=201, headers=headers)


def _short(blob: blobs.Blob) -> dict[str, str]:
    return {
        "ETag": blob.etag,
        "Last-Modified": http_date(blob.modified),
        "x-ms-version": VERSION,
        "x-ms-request-server-encrypted": "false",
    }
