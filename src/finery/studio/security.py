"""Who may see a page, who may change something with one, and what a page may do.

Every port of a host is the same site to cookies, so nothing here trusts `SameSite` alone: a
change needs our own origin, and a token that only our pages hold (OWASP, Cross-Site Request
Forgery Prevention: signed double submit, and Fetch Metadata).
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl

from starlette.requests import Request

from finery.errors import Fault, InputError
from finery.workspace import identity, sessions
from finery.workspace.errors import ForbiddenError, UnauthenticatedError
from finery.workspace.place import Workspace

READING = frozenset({"GET", "HEAD"})
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
FORM = "finery-form"  # the audience of the token in our forms
TOKEN_FIELD, TOKEN_HEADER = "token", "x-finery-token"
LARGEST_FORM = 64 * 1024
CHAT, LARGEST_CONVERSATION = "/studio/chat/", 256 * 1024  # its forms hold conversations

POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",  # with less, browsers hide the origin of forms
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}


class SignedOutError(UnauthenticatedError):
    """A page is asked for without a session."""


@dataclass(frozen=True)
class Session:
    """A browser that is signed in."""

    user: str
    form_token: str  # what its forms send back


def check_origin(request: Request, workspace: Workspace) -> None:
    """Refuse hosts that are not ours (DNS rebinding) and what pages of other origins ask for."""
    if not _is_our_host(request.url.hostname or "", workspace):
        address = workspace.settings.http_url
        raise ForbiddenError(f"This service has another name. Open {address}/studio/ instead.")
    ours = f"{request.url.scheme}://{request.url.netloc}"
    origin, site = request.headers.get("origin"), request.headers.get("sec-fetch-site", "")
    is_change = request.method not in READING
    if origin is not None and origin != ours:
        raise ForbiddenError(f"A page of {_shown(origin)} may ask for nothing here.")
    if is_change and origin is None:
        raise ForbiddenError("The request does not say which page sends it. Use the studio's own.")
    opened_by_hand = request.headers.get("sec-fetch-mode") == "navigate" and not is_change
    if site in ("cross-site", "same-site") and not opened_by_hand:
        raise ForbiddenError("A page of another site may ask for nothing here.")


def _shown(origin: str) -> str:
    return "an unnamed origin" if origin == "null" else origin[:100]


def _is_our_host(host: str, workspace: Workspace) -> bool:
    settings = workspace.settings
    if host in LOOPBACK or host == settings.public_host.lower():
        return True
    # Rebinding needs a name: an address cannot be made to lead elsewhere.
    return not settings.is_loopback and _is_address(host)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def session_of(request: Request, workspace: Workspace) -> Session:
    """The session of a request; raises SignedOutError."""
    try:
        claims = sessions.session(workspace, request.cookies)
    except UnauthenticatedError:
        raise SignedOutError("This browser is not signed in.") from None
    bound = _bound(request, workspace)
    token = identity.mint(workspace, FORM, bound, identity.HALF_A_DAY)
    return Session(claims.subject, token)


def _bound(request: Request, workspace: Workspace) -> str:
    """What ties a form to its session, without telling it."""
    cookie = request.cookies.get(sessions.cookie(workspace), "")
    return hashlib.sha256(cookie.encode()).hexdigest()[:32]


async def form_of(request: Request) -> dict[str, str]:
    """The fields of a form; raises InputError for a body that is none, or too large."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in ("application/x-www-form-urlencoded", ""):
        raise InputError([Fault("body", repr(kind), "the fields of a form")])
    most = LARGEST_CONVERSATION if request.url.path.startswith(CHAT) else LARGEST_FORM
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > most:
            raise InputError([Fault("body", "a form too large", f"at most {most} bytes")])
    return dict(parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True))


def check_token(request: Request, workspace: Workspace, form: Mapping[str, str]) -> None:
    """Refuse a change that does not come with the token of a page of this session."""
    given = request.headers.get(TOKEN_HEADER) or form.get(TOKEN_FIELD, "")
    try:
        claims = identity.verify(workspace, given, {FORM})
    except UnauthenticatedError:
        raise ForbiddenError("The form is out of date. Go back, reload the page, try again.") from (
            None
        )
    if not hmac.compare_digest(claims.subject, _bound(request, workspace)):
        raise ForbiddenError("The form is of another session. Reload the page and try again.")
