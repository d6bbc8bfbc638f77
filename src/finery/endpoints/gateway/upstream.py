"""The way from the gateway to a replica and back.

What is sent a second time, and what is not:

- A replica that refuses the connection has been asked nothing: the request goes to another one,
  as often as there is time.
- A replica that was asked and whose connection ended before the first byte of its answer has
  died, or has closed an idle connection at that moment. It may have begun on the answer, but
  nobody has seen a token of it, and with the connection its work has ended too (a replica stops
  when nobody listens). Such a request is sent again, to another replica if there is one, three
  times in all and no more: what kills every replica that it meets must have an end.
- From the first byte of an answer on, nothing is ever sent again. A stream that breaks ends with
  an event that says so; a whole answer that breaks is a 424.
- A replica that is silent is not given up for another: the request ends with a 408.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import Mapping

import aiohttp

from finery.endpoints.gateway.refusals import BrokenOffError, TooSlowError
from finery.endpoints.values import Deployment, Replica

MOST_ASKED = 3  # replicas that one request may be sent to
KEEP_ALIVE = 30.0  # seconds that an idle connection is kept; a replica keeps it longer
WHOLE = 2**20  # bytes of an answer that is read to its end before any of it is passed on
CONNECT = 2.0  # seconds in which a process of this machine takes a connection


class LostError(Exception):
    """A replica was lost before it said anything."""


class NotReachedError(LostError):
    """It takes no connections: it was asked nothing."""


class NothingSaidError(LostError):
    """The connection ended before the first byte of an answer."""


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
    body: bytes,
    headers: Mapping[str, str],
) -> aiohttp.ClientResponse:
    """The head of the replica's answer.

    Raises NotReachedError and NothingSaidError, which decide whether it may be sent again.
    """
    try:
        return await session.request(
            method,
            f"http://127.0.0.1:{replica.port}{path}",
            data=(io.BytesIO(body) if len(body) > WHOLE else body) if method == "POST" else None,
            headers={**headers, "authorization": f"Bearer {replica.key}"},
            allow_redirects=False,
        )
    except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):
        raise NotReachedError("it takes no connections") from None
    except (aiohttp.ClientConnectionError, OSError) as error:
        raise NothingSaidError(type(error).__name__) from None


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
