"""The blob protocol's headers and XML: conditions, ranges, listings, errors."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime, parsedate_to_datetime
from typing import Any
from xml.etree import ElementTree
from xml.sax.saxutils import escape, quoteattr

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect

from finery.errors import Fault, FineryError, InputError
from finery.workspace import errors
from finery.workspace.blobs import Blob, ContainerNotFoundError, Page, Said
from finery.workspace.uploads import BlockListError, DigestError

VERSION = "2023-11-03"
_METADATA = "x-ms-meta-"
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_RANGE = re.compile(r"bytes=(\d+)-(\d*)")
_MOST_METADATA = 8192  # bytes of names and values, as Azure


class BlobError(FineryError):
    """A refusal with the protocol's own status and code."""

    def __init__(self, status: int, code: str, message: str) -> None:
        self.status, self.code = status, code
        super().__init__(message)


# The first class that fits decides.
_CODES: tuple[tuple[type[FineryError], int, str], ...] = (
    (ContainerNotFoundError, 404, "ContainerNotFound"),
    (errors.NotFoundError, 404, "BlobNotFound"),
    (errors.ConflictError, 409, "BlobAlreadyExists"),
    (errors.UnauthenticatedError, 401, "InvalidAuthenticationInfo"),
    (errors.ForbiddenError, 403, "AuthorizationFailure"),
    (errors.NotImplementedHereError, 501, "NotImplemented"),
    (errors.UnavailableError, 503, "ServerBusy"),
    (DigestError, 400, "Md5Mismatch"),
    (BlockListError, 400, "InvalidBlockList"),
    (InputError, 400, "InvalidInput"),
    (FineryError, 400, "InvalidInput"),
)


class BlobRoute(APIRoute):
    """A route whose refusals are the protocol's XML."""

    def get_route_handler(self) -> Callable[[Request], Any]:
        """The route's handler, with errors translated."""
        handle = super().get_route_handler()

        async def handler(request: Request) -> Response:
            try:
                return await handle(request)
            except FineryError as error:
                return error_response(error, request.method)
            except ClientDisconnect:
                gone = BlobError(400, "IncompleteBody", "The client went away in the middle.")
                return error_response(gone, request.method)

        return handler


def error_response(error: FineryError, method: str) -> Response:
    """A refusal in the protocol's form."""
    if isinstance(error, BlobError):
        status, code = error.status, error.code
    else:
        status, code = next((s, c) for kind, s, c in _CODES if isinstance(error, kind))
    text = (
        '<?xml version="1.0" encoding="utf-8"?>'
        f"<Error><Code>{code}</Code><Message>{escape(_xml_text(str(error)))}</Message></Error>"
    )
    bare = method == "HEAD" or status == 304
    headers = {"x-ms-error-code": code, "x-ms-version": VERSION}
    return Response(b"" if bare else text.encode(), status, headers, media_type="application/xml")


def http_date(moment: datetime) -> str:
    """A time as HTTP headers write it."""
    return format_datetime(moment.replace(tzinfo=UTC), usegmt=True)


def blob_headers(blob: Blob) -> dict[str, str]:
    """What is said of a blob in headers."""
    headers = {
        "ETag": blob.etag,
        "Last-Modified": http_date(blob.modified),
        "x-ms-version": VERSION,
        "x-ms-blob-type": "BlockBlob",
        "x-ms-creation-time": http_date(blob.modified),
        "x-ms-lease-state": "available",
        "x-ms-lease-status": "unlocked",
        "x-ms-server-encrypted": "false",
        "Accept-Ranges": "bytes",
    }
    return headers | {_METADATA + name: value for name, value in blob.metadata.items()}


def said(request: Request) -> Said:
    """What the client says of a blob that it writes."""
    headers = request.headers
    metadata = {
        name[len(_METADATA) :]: value
        for name, value in headers.items()
        if name.startswith(_METADATA)
    }
    if wrong := [name for name in metadata if not _IDENTIFIER.fullmatch(name)]:
        raise BlobError(400, "InvalidMetadata", f"{wrong[0]!r} cannot be the name of metadata.")
    size = sum(len(name) + len(value) for name, value in metadata.items())
    if size > _MOST_METADATA:
        raise BlobError(400, "MetadataTooLarge", f"The metadata has {size} bytes; 8192 fit.")
    content_type = headers.get("x-ms-blob-content-type") or headers.get("content-type", "")
    digest = headers.get("x-ms-blob-content-md5", "")
    if len(content_type) > 255 or len(digest) > 50:
        raise BlobError(400, "InvalidHeaderValue", "A content type or MD5 is too long.")
    return Said(content_type, digest, metadata)


def check_conditions(request: Request, blob: Blob | None) -> None:
    """Refuse a request whose conditions the blob, or its absence, does not meet."""
    header = request.headers.get
    reading = request.method in ("GET", "HEAD")
    if (wanted := header("if-match")) and (blob is None or not _names(wanted, blob.etag)):
        raise _condition_not_met()
    if (unwanted := header("if-none-match")) and blob and _names(unwanted, blob.etag):
        if reading:
            raise BlobError(304, "ConditionNotMet", "The blob has not changed.")
        if unwanted.strip() == "*":
            raise BlobError(409, "BlobAlreadyExists", "The specified blob already exists.")
        raise _condition_not_met()
    if blob is None:
        return
    modified = blob.modified.replace(microsecond=0, tzinfo=UTC)
    since, until = header("if-modified-since"), header("if-unmodified-since")
    if since and modified <= _date(since):
        raise BlobError(304 if reading else 412, "ConditionNotMet", "The blob has not changed.")
    if until and modified > _date(until):
        raise _condition_not_met()


@dataclass(frozen=True)
class Span:
    """The bytes of a blob that an answer carries."""

    start: int
    length: int
    is_part: bool


def asked_span(request: Request, size: int) -> Span:
    """The bytes that a request asks for."""
    text = request.headers.get("x-ms-range") or request.headers.get("range")
    if not text:
        return Span(0, size, False)
    match = _RANGE.fullmatch(text.strip())
    if not match:
        raise BlobError(416, "InvalidRange", f"{text!r} is not a range of bytes.")
    start = int(match[1])
    end = min(int(match[2]) if match[2] else size - 1, size - 1)
    if start >= size or end < start:
        raise BlobError(416, "InvalidRange", f"The blob has {size} bytes.")
    return Span(start, end - start + 1, True)


def block_list(body: bytes) -> list[str]:
    """The block ids of a block list, in order."""
    if b"<!DOCTYPE" in body or b"<!ENTITY" in body:
        raise BlobError(400, "InvalidXmlDocument", "A block list declares nothing.")
    try:
        root = ElementTree.fromstring(body)  # noqa: S314 - declarations are refused above
    except ElementTree.ParseError as error:
        raise BlobError(400, "InvalidXmlDocument", f"The body is no block list: {error}.") from None
    wrong = [child.tag for child in root if child.tag not in ("Latest", "Uncommitted")]
    if root.tag != "BlockList" or wrong:
        text = "A block list holds Latest and Uncommitted blocks; committed ones are not kept."
        raise BlobError(400, "InvalidBlockList", text)
    return [(child.text or "").strip() for child in root]


def listing(container: str, page: Page, asked: Mapping[str, str], with_metadata: bool) -> str:
    """A page of blobs as XML."""
    echoed = "".join(
        f"<{tag}>{escape(asked[tag.lower()])}</{tag}>"
        for tag in ("Prefix", "Marker", "Delimiter", "MaxResults")
        if asked.get(tag.lower())
    )
    blobs = "".join(_listed(blob, with_metadata) for blob in page.blobs)
    prefixes = "".join(
        f"<BlobPrefix><Name>{escape(name)}</Name></BlobPrefix>" for name in page.prefixes
    )
    return (
        '<?xml version="1.0" encoding="utf-8"?>'
        f"<EnumerationResults ContainerName={quoteattr(container)}>{echoed}"
        f"<Blobs>{blobs}{prefixes}</Blobs><NextMarker>{escape(page.next_marker)}</NextMarker>"
        "</EnumerationResults>"
    )


def _listed(blob: Blob, with_metadata: bool) -> str:
    properties = {
        "Creation-Time": http_date(blob.modified),
        "Last-Modified": http_date(blob.modified),
        "Etag": blob.etag.strip('"'),
        "Content-Length": str(blob.size),
        "Content-Type": blob.content_type,
        "Content-MD5": blob.content_md5,
        "BlobType": "BlockBlob",
        "LeaseStatus": "unlocked",
        "LeaseState": "available",
        "ServerEncrypted": "false",
    }
    inner = "".join(f"<{tag}>{escape(text)}</{tag}>" for tag, text in properties.items())
    metadata = "".join(
        f"<{name}>{escape(_xml_text(value))}</{name}>" for name, value in blob.metadata.items()
    )
    tail = f"<Metadata>{metadata}</Metadata>" if with_metadata else ""
    return f"<Blob><Name>{escape(blob.name)}</Name><Properties>{inner}</Properties>{tail}</Blob>"


def _xml_text(text: str) -> str:
    """`text` without the characters that XML cannot hold."""
    return re.sub(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "\ufffd", text)


def _names(header: str, etag: str) -> bool:
    tags = [tag.strip() for tag in header.split(",")]
    return "*" in tags or etag in tags or etag.strip('"') in tags


def _date(text: str) -> datetime:
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        expected = "a date such as Sun, 06 Nov 1994 08:49:37 GMT"
        raise InputError([Fault("date of a condition", repr(text), expected)]) from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _condition_not_met() -> BlobError:
    return BlobError(412, "ConditionNotMet", "The condition in the headers is not met.")
