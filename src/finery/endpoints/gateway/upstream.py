"""The way from the gateway to a replica and back.

What is sent a second time, and what is not:

- A replica that refuses the connection has been asked nothing: the request goes to another one,
  as often as there is time.
- A replica that was asked and whose connection ended before the head of its answer has died, or
  has closed an idle connection at that moment. No token was made: heads come with the first one,
  those of whole answers too (`finery.inference.protocol.begun`). Such a request is sent again, to
  another replica if there is one, three times in all and no more: what kills every replica that
  it meets must have an end.
- From the first token of an answer on, nothing is ever sent again. A stream that breaks ends with
  an event that says so; a whole answer that breaks is a 424.
- A replica that is silent is not given up for another: the request ends with a 408.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping

import aiohttp

from finery.endpoints.gateway.bodies import Body
from finery.endpoints.gateway.refusals import BrokenOffError, TooSlowError
from finery.endpoints.values import Deployment, Replica
from finery.inference.protocol import begun
from finery.inference.protocol.begun import Outcome

MOST_ASKED = 3  # replicas that one request may be sent to
KEEP_ALIVE = 30.0  # seconds that an idle connection is kept; a replica keeps it longer
WHOLE = 2**20  # bytes of an answer that is read to its end before any of it is passed on
CONNECT = 2.0  # seconds in which a process of this machine takes a connection


class LostError(Exception):
    """A replica was lost before it said anything."""


class NotReachedError(LostError):
    """It takes no connections: it was asked nothing."""


class NothingSaidError(LostError):
    """The connection ended before the head of an answer, and so before its first token."""


def client() -> aiohttp.ClientSession:
    """Connections to replicas; how many there are is for `admission` to say."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE),
        timeout=aiohttp.ClientTimeout(sock_connect=CONNECT),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        skip_auto_headers=("accept", "accept-encoding", "user-agent", "content-type"),
    )


async def ask(
    session: aiohttp.ClientSession,
    replica: Replica,
    method: str,
    path: str,
    body: Body,
    headers: Mapping[str, str],
) -> aiohttp.ClientResponse:
    """The head of the replica's answer.

    Raises NotReachedError and NothingSaidError, which decide whether it may be sent again.
    """
    headers = {**headers, "authorization": f"Bearer {replica.key}"}
    content: bytes | AsyncIterator[bytes] | None = None
    if method == "POST":
        headers[begun.HEADER] = "1"
        headers["content-length"] = str(body.size)
        content = body.whole() if body.is_short else body.pieces()
    try:
        return await session.request(
            method,
            f"http://127.0.0.1:{replica.port}{path}",
            data=content,
            headers=headers,
            allow_redirects=False,
        )
    except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):
        raise NotReachedError("it takes no connections") from None
    except (aiohttp.ClientConnectionError, OSError) as error:
        raise NothingSaidError(type(error).__name__) from None


async def opened(
    response: aiohttp.ClientResponse, deployment: Deployment, until: float
) -> tuple[Outcome, bytes]:
    """How a whole answer ended, and its first bytes; raises TooSlowError and BrokenOffError."""
    if begun.HEADER not in response.headers:
        return Outcome(response.status, *_used(response.headers)), b""
    content = b""
    try:
        while not (found := begun.read(content)):
            if not (more := await part(response, deployment, until)):
                raise broken_off(deployment, "without an answer")
            content += more
    except ValueError as error:
        raise broken_off(deployment, str(error)) from None
    return found


def _used(headers: Mapping[str, str]) -> tuple[int, int]:
    """What the replica says that an answer used, which was not begun before it was there."""
    given = [headers.get(f"x-finery-{kind}-tokens", "") for kind in ("prompt", "completion")]
    used = [int(value) if value.isdecimal() else 0 for value in given]
    return used[0], used[1]


async def part(
    response: aiohttp.ClientResponse, deployment: Deployment, until: float | None = None
) -> bytes:
    """The next bytes of an answer, b"" at its end; raises TooSlowError and BrokenOffError.

    `until` is the loop's time at which a whole answer must be there; a part of a stream has the
    deployment's time of its own.
    """
    limit = until or asyncio.get_running_loop().time() + deployment.timeout_seconds
    try:
        async with asyncio.timeout_at(limit):
            return await response.content.readany()
    except TimeoutError:
        raise too_slow(deployment) from None
    except (aiohttp.ClientError, OSError) as error:
        raise broken_off(deployment, type(error).__name__) from None


def too_slow(deployment: Deployment) -> TooSlowError:
    """What to say of a replica that takes too long."""
    return TooSlowError(
        f"The model did not answer within {deployment.timeout_seconds:g} seconds. Ask for fewer "
        "tokens, stream the answer, or raise request_timeout_ms of the deployment."
    )


def broken_off(deployment: Deployment, how: str) -> BrokenOffError:
    """What to say of a replica that ended in the middle."""
    return BrokenOffError(
        f"A replica of the deployment {deployment.name} broke off ({how}). Its log says more; it "
        "is started again."
    )
