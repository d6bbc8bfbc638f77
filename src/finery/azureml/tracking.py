"""MLflow through the workspace: plain at /mlflow, and as Azure's clients address it.

Azure's client hands artifact addresses to plain HTTP code that sends no token, and cannot use
MLflow's own `mlflow-artifacts:` addresses. On its way, such an address becomes one of ours that
carries a signature, and back.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Mapping
from urllib.parse import parse_qs, quote

import httpx
from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse, RedirectResponse, StreamingResponse
from starlette.background import BackgroundTask

from finery.azureml.limits import MAX_BYTES
from finery.azureml.registered import take_over
from finery.azureml.scope import WorkspaceDep
from finery.errors import Fault, InputError
from finery.workspace import identity
from finery.workspace.errors import NotFoundError, UnavailableError
from finery.workspace.place import Workspace
from finery.workspace.tracking_part import Tracking

log = logging.getLogger("finery.tracking")
router = APIRouter()
METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"]

_AZURE = re.compile(
    r"v[12]\.0/subscriptions/[^/]+/resourceGroups/[^/]+/providers/[^/]+/workspaces/[^/]+(?:/(?P<rest>.*))?",
    re.IGNORECASE,
)
ARTIFACTS = "api/2.0/mlflow-artifacts"
SIGNED = "/mlflow/signed"
WEEK = 7 * 24 * identity.HOUR
_SIGNED_ADDRESS = re.compile(
    rb"https://[^\"/]+" + SIGNED.encode() + rb"/[^\"/]+/[^\"/]+/" + ARTIFACTS.encode()
    + rb"/artifacts"
)  # fmt: skip
_OWN_ADDRESS = b'"mlflow-artifacts:'
# Ours to say, or about one connection only.
_NOT_PASSED_ON = frozenset(
    {
        *("host", "authorization", "cookie", "origin", "referer", "secret", "connection"),
        *("keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "proxy-authorization"),
    }
)


@router.get("/mlflow")
def front() -> Response:
    """The pages' addresses are relative to this slash."""
    return RedirectResponse("/mlflow/")


@router.api_route(SIGNED + "/{until}/{signature}/" + ARTIFACTS + "/{path:path}", methods=METHODS)
async def artifacts(
    until: str, signature: str, path: str, request: Request, workspace: WorkspaceDep
) -> Response:
    """Artifacts for whoever got a signed address."""
    identity.verify_query(workspace, SIGNED, {"se": until, "sig": signature})
    return await _pass_on(request, f"{ARTIFACTS}/{path}")


@router.api_route("/mlflow/{path:path}", methods=METHODS)
async def mlflow(path: str, request: Request, workspace: WorkspaceDep) -> Response:
    """Everything else of MLflow."""
    answer = await _answer(path, request, workspace)
    if path.endswith("model-versions/create") and answer.status_code < 300:
        await asyncio.to_thread(take_over, workspace)  # before the caller hears of it
    return answer


async def _answer(path: str, request: Request, workspace: Workspace) -> Response:
    azure = _AZURE.fullmatch(path)
    if not azure:
        return await _pass_on(request, path)
    rest = azure["rest"] or ""
    if not rest and request.method == "GET":  # "View run at …": a browser keeps what follows "#"
        return RedirectResponse("/mlflow/", status_code=303)
    if rest.endswith("preview/mlflow/runs/get-run-data-status"):
        return JSONResponse({"is_complete": True})  # what was taken has been written
    if rest.endswith("preview/mlflow/runs/log-batch-async"):
        answer = await _ask(request, "api/2.0/mlflow/runs/log-batch")
        return answer if answer.status_code >= 400 else JSONResponse({})
    if rest.startswith(ARTIFACTS):
        return await _pass_on(request, rest)
    answer = await _ask(request, rest)
    answer.body = bytes(answer.body).replace(_OWN_ADDRESS, _signed_address(workspace))
    answer.headers["content-length"] = str(len(answer.body))
    return answer


def _signed_address(workspace: Workspace) -> bytes:
    """What stands in for `"mlflow-artifacts:` in what Azure's client reads."""
    query = parse_qs(identity.sign_query(workspace, SIGNED, WEEK))
    place = f"{SIGNED}/{query['se'][0]}/{query['sig'][0]}/{ARTIFACTS}/artifacts"
    return f'"{workspace.settings.base_url}{place}'.encode()


async def _ask(request: Request, path: str) -> Response:
    """The whole answer to a request whose body may name our artifact addresses."""
    body = _SIGNED_ADDRESS.sub(b"mlflow-artifacts:", await _whole(request))
    client = await _client(request)
    headers = {**_passed(request.headers), "content-length": str(len(body))}
    asked = client.build_request(
        request.method, _address(request, path), headers=headers, content=body
    )
    answer = await _sent(client, asked, stream=False)
    kept = {k: v for k, v in _passed(answer.headers).items() if k != "content-encoding"}
    return Response(answer.content, answer.status_code, kept)


async def _pass_on(request: Request, path: str) -> Response:
    """Stream a request to MLflow and its answer back."""
    client = await _client(request)
    has_body = "content-length" in request.headers or "transfer-encoding" in request.headers
    passed = client.build_request(
        request.method,
        _address(request, path),
        headers=_passed(request.headers),
        content=request.stream() if has_body else None,
    )
    answer = await _sent(client, passed, stream=True)
    return StreamingResponse(
        answer.aiter_raw(),
        answer.status_code,
        _passed(answer.headers),
        background=BackgroundTask(answer.aclose),
    )


async def _sent(
    client: httpx.AsyncClient, request: httpx.Request, *, stream: bool
) -> httpx.Response:
    """MLflow's answer, with `stream` its body still on the way."""
    try:
        return await client.send(request, stream=stream)
    except httpx.TransportError as error:
        log.warning("MLflow broke off: %r", error)
        text = "MLflow's server went away. It is started again; try again in a moment."
        raise UnavailableError(text) from None


async def _whole(request: Request) -> bytes:
    """The body; MLflow itself takes none that is longer than a fraction of this."""
    body = bytearray()
    async for data in request.stream():
        body += data
        if len(body) > MAX_BYTES:
            expected = f"at most {MAX_BYTES // 2**20} MiB; log in smaller batches"
            raise InputError([Fault("body", f"more than {MAX_BYTES} bytes", expected)])
    return bytes(body)


def _address(request: Request, path: str) -> httpx.URL:
    """The address on MLflow's server, below the very folder that the door was opened for."""
    if not {".", ".."}.isdisjoint(path.split("/")):  # a signature is good for artifacts alone
        raise NotFoundError(f"There is nothing at {request.url.path}: the path is not a plain one.")
    plain = quote(path.lstrip("/"), errors="surrogatepass")
    return httpx.URL(path=f"/{plain}", query=request.url.query.encode())


async def _client(request: Request) -> httpx.AsyncClient:
    tracking: Tracking | None = getattr(request.app.state, "tracking", None)
    if tracking is None:
        raise NotFoundError("This service runs without MLflow.")
    return await tracking.ready()


def _passed(headers: Mapping[str, str]) -> dict[str, str]:
    return {k: v for k, v in headers.items() if k.lower() not in _NOT_PASSED_ON}
