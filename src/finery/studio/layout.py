"""Templates, and what every page shows around its own matter."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

import finery
from finery.studio import assets, formats
from finery.studio.security import Session
from finery.workspace import identity
from finery.workspace.errors import UnauthenticatedError
from finery.workspace.place import Workspace

TEMPLATES = Path(__file__).parent / "templates"
THEMES = ("auto", "light", "dark")
THEME, FLASH = "finery-theme", "finery-flash"  # cookies, followed by the port
_FLASH_SECONDS = 60

# What the navigation shows: key, words, address below /studio/.
PLACES = (
    ("home", "Home", ""),
    ("jobs", "Jobs", "jobs"),
    ("compare", "Compare", "compare"),
    ("models", "Models", "models"),
    ("data", "Data", "data"),
    ("endpoints", "Endpoints", "endpoints"),
    ("chat", "Chat", "chat"),
)


@functools.cache
def templates() -> jinja2.Environment:
    """The templates; what they show is escaped, and a name that is missing is an error."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    shown = ("duration", "between", "ago", "iso", "size", "number", "amount", "percent", "colour")
    for name in shown:
        made.filters[name] = getattr(formats, name)
    made.filters |= {"segment": formats.segment, "state": formats.state}
    made.globals |= {
        "static": f"/studio/static/{assets.bundle().version}",
        "version": finery.__version__,
        "places": PLACES,
    }
    return made


def page(request: Request, template: str, status: int = 200, **values: Any) -> Response:
    """A whole page."""
    workspace = workspace_of(request)
    said, is_said = _flash(request, workspace)
    around = {
        "session": session_of(request),
        "theme": theme_of(request),
        "here": request.url.path,
        "flash": said,
        "workspace_name": workspace.settings.workspace_name,
        "has_tracking": workspace.settings.tracking,
    }
    response = HTMLResponse(render(template, **around, **values), status)
    if is_said:
        response.delete_cookie(_cookie(FLASH, workspace), path="/studio")
    return response


def fragment(request: Request, template: str, **values: Any) -> Response:
    """A part of a page, for htmx to put in place."""
    return HTMLResponse(render(template, session=session_of(request), **values))


def render(template: str, **values: Any) -> str:
    """A template as text."""
    return templates().get_template(template).render(**values)


def go(request: Request, page: str, said: str = "") -> Response:
    """Go to another page of the studio, which then shows a sentence."""
    workspace = workspace_of(request)
    response = RedirectResponse(quote(page, safe="/%?=&"), 303)
    if said:
        token = identity.mint(workspace, FLASH, said, _FLASH_SECONDS)
        response.set_cookie(
            _cookie(FLASH, workspace),
            token,
            max_age=_FLASH_SECONDS,
            path="/studio",
            httponly=True,
            samesite="strict",
            secure=request.url.scheme == "https",
        )
    return response


def set_theme(request: Request, response: Response, theme: str) -> None:
    """Remember how a browser wants its pages."""
    name = _cookie(THEME, workspace_of(request))
    response.set_cookie(name, theme, 365 * 86400, path="/studio", httponly=True, samesite="lax")


def theme_of(request: Request) -> str:
    """How this browser wants its pages."""
    kept = request.cookies.get(_cookie(THEME, workspace_of(request)), "")
    return kept if kept in THEMES else "auto"


def workspace_of(request: Request) -> Workspace:
    """The workspace that the service holds."""
    return request.app.state.workspace


def session_of(request: Request) -> Session | None:
    """The session of the page's reader, None of one who is not signed in."""
    return getattr(request.state, "session", None)


def form_of(request: Request) -> Mapping[str, str]:
    """The fields of the form that is sent."""
    return getattr(request.state, "form", {})


def _flash(request: Request, workspace: Workspace) -> tuple[str, bool]:
    """What the last page left to say, and whether there is something to take away."""
    kept = request.cookies.get(_cookie(FLASH, workspace))
    if not kept:
        return "", False
    try:
        return identity.verify(workspace, kept, {FLASH}).subject, True
    except UnauthenticatedError:
        return "", True


def _cookie(name: str, workspace: Workspace) -> str:
    return f"{name}-{workspace.settings.port}"
