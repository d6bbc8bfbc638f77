"""The front of the studio: signing in, how pages look, files, home."""

from __future__ import annotations

import shutil
from typing import Any

import psutil
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from finery.endpoints import service as endpoints
from finery.errors import Fault, InputError
from finery.jobs import listing
from finery.jobs.job import TERMINAL
from finery.studio import layout
from finery.studio.assets import bundle
from finery.studio.layout import form_of, go, page, workspace_of
from finery.workspace import identity, sessions
from finery.workspace.errors import NotFoundError
from finery.workspace.place import Workspace

_RECENT, _SHOWN_ENDPOINTS = 8, 12
FOREVER = "public, max-age=31536000, immutable"


def static(request: Request, version: str, name: str) -> Response:
    """A file of the pages; at its own version it never changes."""
    there = bundle()
    file = there.files.get(name)
    if file is None:
        raise NotFoundError(f"The studio has no file called {name}. Reload the page.")
    headers = {"ETag": file.etag, "Cache-Control": FOREVER}
    if version != there.version:  # of a page from before an update
        headers["Cache-Control"] = "no-cache"
    if request.headers.get("if-none-match") == file.etag:
        return Response(status_code=304, headers=headers)
    packs = "gzip" in request.headers.get("accept-encoding", "")
    headers |= {"Content-Encoding": "gzip"} if packs else {"Content-Encoding": "identity"}
    return Response(file.packed if packs else file.content, 200, headers, file.media_type)


def sign_in(request: Request) -> Response:
    """A session for whoever has a user's key."""
    workspace, form = workspace_of(request), form_of(request)
    to = _own_page(form.get("page", ""))
    user = identity.user_of(workspace, form.get("key", "").strip())
    if user is None:
        fault = "That is nobody's key. `finery env` prints it as MSI_SECRET."
        return page(request, "sign_in.html", 401, page=to, fault=fault)
    response = go(request, to)
    response.set_cookie(
        sessions.cookie(workspace),
        identity.mint(workspace, identity.BROWSER, user, identity.HALF_A_DAY),
        max_age=identity.HALF_A_DAY,
        httponly=True,
        samesite="lax",
        secure=request.url.scheme == "https",
    )
    return response


def sign_out(request: Request) -> Response:
    """End the session of this browser."""
    response = RedirectResponse("/studio/", 303)
    response.delete_cookie(sessions.cookie(workspace_of(request)))
    return response


def theme(request: Request) -> Response:
    """Light, dark, or as the system has it."""
    form = form_of(request)
    wanted = form.get("theme", "")
    if wanted not in layout.THEMES:
        raise InputError([Fault("theme", repr(wanted), f"one of {', '.join(layout.THEMES)}")])
    response = go(request, _own_page(form.get("page", "")))
    layout.set_theme(request, response, wanted)
    return response


def _own_page(page: str) -> str:
    """A page of the studio, whatever a form says."""
    plain = page.startswith("/studio/") and not {"\\", "\r", "\n"} & set(page)
    return page if plain and "//" not in page else "/studio/"


def to_home() -> Response:
    """The addresses of pages are below this slash."""
    return RedirectResponse("/studio/", 303)


def home(request: Request) -> Response:
    """What runs, what finished, what of the machine is in use."""
    return page(request, "home.html", title="Home", active="home", **_now(workspace_of(request)))


def now(request: Request) -> Response:
    """The part of home that changes."""
    return layout.fragment(request, "home_now.html", **_now(workspace_of(request)))


def _now(workspace: Workspace) -> dict[str, Any]:
    disk, memory = shutil.disk_usage(workspace.folder), psutil.virtual_memory()
    finished, _ = listing.page(workspace, statuses=TERMINAL, limit=_RECENT)
    up = endpoints.find(workspace)[:_SHOWN_ENDPOINTS]
    return {
        "running": listing.running(workspace),
        "finished": finished,
        "use": listing.devices(workspace),
        "disk": disk,
        "memory": memory,
        "endpoints": up,
        "deployments": {one.name: endpoints.deployments_of(workspace, one.name) for one in up},
    }


def nowhere(request: Request, rest: str) -> Response:
    """Every other address."""
    raise NotFoundError(f"The studio has no page at /studio/{rest}. Begin at Home.")
