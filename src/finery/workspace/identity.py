"""Who is asking: tokens for callers, signatures for addresses that need no token.

A token is a JWT signed with the service's own key. A signed address says until when it holds
and carries a signature of its path; whoever has it may read that one thing.
"""

from __future__ import annotations

import functools
import hashlib
import hmac
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

import jwt

from finery.workspace.errors import UnauthenticatedError
from finery.workspace.place import Workspace
from finery.workspace.secrets import secret
from finery.workspace.settings import OWNER

ALGORITHM = "HS256"
ISSUER = "https://sts.finery.local/"
HOUR = 3600
HALF_A_DAY = 12 * HOUR
LOGIN = "/login"

# What a token may be for, beside the service's own address.
MANAGEMENT = "https://management.azure.com"
MACHINE_LEARNING = "https://ml.azure.local"
# What the SDK asks for in every cloud when it shares an asset or calls an endpoint.
PUBLIC_MACHINE_LEARNING = "https://ml.azure.com"
STORAGE = "https://storage.azure.com"  # opens blobs and nothing else
FINERY = "finery"
BROWSER = "finery-browser"  # a session cookie
TRACKING = "finery-tracking"  # opens MLflow and nothing else: what a job's processes get


@dataclass(frozen=True)
class Claims:
    """What a valid token says."""

    subject: str
    audience: str
    expires: int  # seconds since 1970


def audiences(workspace: Workspace) -> frozenset[str]:
    """Every audience whose token opens the service's own doors."""
    public = {MANAGEMENT, PUBLIC_MACHINE_LEARNING}
    return frozenset({workspace.settings.base_url, MACHINE_LEARNING, FINERY, *public})


def mint(workspace: Workspace, audience: str, subject: str = OWNER, seconds: int = HOUR) -> str:
    """A token for `audience` that holds for `seconds`."""
    moment = int(time.time())
    claims = {
        "iss": ISSUER,
        "sub": subject,
        "aud": audience,
        "iat": moment,
        "nbf": moment,
        "exp": moment + seconds,
    }
    return jwt.encode(claims, _key(workspace.secrets), algorithm=ALGORITHM)


def verify(workspace: Workspace, token: str, allowed: Collection[str]) -> Claims:
    """What `token` says; raises UnauthenticatedError unless it is ours, in time and in place."""
    try:
        claims = jwt.decode(
            token,
            _key(workspace.secrets),
            algorithms=[ALGORITHM],
            audience=list(allowed),
            issuer=ISSUER,
            leeway=5,
            options={"require": ["exp", "aud", "sub"]},
        )
    except jwt.ExpiredSignatureError:
        raise UnauthenticatedError("The token has expired. Ask for a new one.") from None
    except jwt.InvalidAudienceError:
        raise UnauthenticatedError("The token is for something else than this service.") from None
    except jwt.PyJWTError:
        text = "The token is not one of this service. Take the settings of `finery env`."
        raise UnauthenticatedError(text) from None
    return Claims(claims["sub"], claims["aud"], claims["exp"])


def key_of(folder: Path, user: str = OWNER) -> str:
    """The key with which `user` gets tokens, from the folder of secrets; made on first use."""
    return secret(folder, f"user-{user}.key")


def user_of(workspace: Workspace, key: str) -> str | None:
    """Whose key this is; None when it is nobody's."""
    found = None
    for user in (OWNER, *workspace.settings.users):  # every one is compared, whichever fits
        if hmac.compare_digest(key.encode(), key_of(workspace.secrets, user).encode()):
            found = user
    return found


def sign_query(workspace: Workspace, path: str, seconds: int = HOUR) -> str:
    """The query that lets whoever has it use `path` without a token for `seconds`."""
    until = str(int(time.time()) + seconds)
    return urlencode({"se": until, "sig": _signature(workspace, path, until)})


def login_link(workspace: Workspace, page: str) -> str:
    """The address that opens a page in a browser, for half a day."""
    query = sign_query(workspace, LOGIN, HALF_A_DAY)
    return f"{workspace.settings.http_url}{LOGIN}?{query}&next={page}"


def verify_query(workspace: Workspace, path: str, query: Mapping[str, str]) -> None:
    """Refuse a signed address that is not ours, not for `path`, or no longer valid."""
    until, given = query.get("se", ""), query.get("sig", "")
    expected = _signature(workspace, path, until)
    if not hmac.compare_digest(given.encode(), expected.encode()):
        raise UnauthenticatedError("The address is not signed by this service.")
    if int(until) < time.time():
        raise UnauthenticatedError("The signed address has expired. Ask for a new one.")


def _signature(workspace: Workspace, path: str, until: str) -> str:
    message = f"{path}\n{until}".encode()
    return hmac.new(_key(workspace.secrets).encode(), message, hashlib.sha256).hexdigest()


@functools.lru_cache(maxsize=16)
def _key(folder: Path) -> str:
    return secret(folder, "signing.key")
