"""One request at the gateway: who asks, what is said back, what is noted of it."""

from __future__ import annotations

import asyncio
import re
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import TracebackType

from starlette.types import Receive, Scope, Send

from finery.endpoints import keys
from finery.endpoints.gateway.azure_errors import model_error_headers
from finery.endpoints.gateway.counts import Key
from finery.endpoints.gateway.refusals import (
    LATER,
    BrokenOffError,
    ClientLeftError,
    MethodError,
    SlowSenderError,
    is_failure,
    status_of,
)
from finery.endpoints.gateway.state import Gateway
from finery.endpoints.routing import Table
from finery.endpoints.values import Deployment
from finery.errors import FineryError

DEPLOYMENT = b"azureml-model-deployment"  # the header that names one
JSON = b"application/json"
_ID = re.compile(r"[!-~]{1,128}")  # an id that a client may choose: printable, no blanks

Headers = tuple[tuple[bytes, bytes], ...]
Shape = Callable[[int, str, str], bytes]  # of an error: status, code, message


@dataclass
class Call:
    """One request. Times are the clock's of `time.perf_counter`."""

    gateway: Gateway
    scope: Scope
    receive: Receive
    send: Send
    endpoint: str
    path: str  # below the endpoint
    shape: Shape
    headers: Mapping[bytes, bytes] = field(default_factory=dict)
    id: str = ""
    arrived: float = field(default_factory=time.perf_counter)
    asked: float = 0.0  # when the whole body was there
    first: float = 0.0  # when the answer began
    queued: float = 0.0  # seconds in line
    deployment: str = ""
    replica: str = ""
    status: int = 0  # 0 until the answer's head is sent
    failed: bool = False  # through no fault of the caller
    lost: bool = False  # a replica was lost under it, or there was none
    tokens: tuple[int, int] = (0, 0)
    error: str = ""

    def __post_init__(self) -> None:
        self.headers = dict(self.scope["headers"])
        given = self.header(b"x-request-id")
        self.id = given if _ID.fullmatch(given) else str(uuid.uuid4())

    def header(self, name: bytes) -> str:
        """A header of the request; "" when it has none of that name."""
        return self.headers.get(name, b"").decode("latin-1")

    def check_key(self, table: Table) -> None:
        """Raise UnauthenticatedError unless the caller may ask this endpoint."""
        scheme, _, given = self.header(b"authorization").partition(" ")
        given = given.strip() if scheme.lower() == "bearer" else ""
        keys.check(self.gateway.workspace, table.endpoint, given)

    async def begin(self, status: int, content_type: bytes, more: Headers = ()) -> None:
        """Send the head of the answer."""
        headers = [(b"content-type", content_type), (b"x-request-id", self.id.encode()), *more]
        if self.deployment:
            headers.append((DEPLOYMENT, self.deployment.encode()))
        client_id = self.header(b"x-ms-client-request-id")
        if _ID.fullmatch(client_id):
            headers.append((b"x-ms-client-request-id", client_id.encode()))
        self.status = status
        await self.send({"type": "http.response.start", "status": status, "headers": headers})

    async def more(self, content: bytes, *, last: bool = False) -> None:
        """Send a part of the answer."""
        body = {"type": "http.response.body", "body": content, "more_body": not last}
        await self.send(body)

    async def whole(
        self, status: int, content: bytes, content_type: bytes = JSON, more: Headers = ()
    ) -> None:
        """Send an answer in one piece."""
        length = (b"content-length", str(len(content)).encode())
        await self.begin(status, content_type, (length, *more))
        await self.more(content, last=True)

    async def refuse(self, error: FineryError) -> None:
        """Say what is wrong, in the shape that the caller's library reads."""
        status, code = status_of(error)
        self.error = type(error).__name__
        own = isinstance(error, ClientLeftError | SlowSenderError)
        self.failed = not own and (isinstance(error, BrokenOffError) or is_failure(status))
        if isinstance(error, ClientLeftError):
            self.status = self.status or status  # nobody is there to be told
            return
        more: Headers = LATER.get(status, ())
        if isinstance(error, BrokenOffError):
            more = model_error_headers(502, str(error))  # of a model server that said nothing
        if isinstance(error, MethodError):
            more = ((b"allow", error.allowed.encode()),)
        await self.whole(status, self.shape(status, code, str(error)), more=more)

    def note(self) -> None:
        """Count the request and write its line, once it is over."""
        gateway, end = self.gateway, time.perf_counter()
        self.status = self.status or 499  # cut off while the gateway ended
        if self.endpoint not in gateway.tables:
            return
        since = self.asked or self.arrived
        key: Key = (self.endpoint, self.deployment)
        # Who leaves while there is no replica has seen a failure; else nobody knows what it was.
        if self.status != 499 or self.lost:
            first = self.first - since if self.first else None
            counter = gateway.counters[key]
            counter.add(
                self.status,
                end - since,
                failed=self.failed or self.status == 499,
                lost=self.lost,
                first_token=first,
                tokens=self.tokens,
            )
        gateway.log.add(self.endpoint, self._line(end))

    def _line(self, end: float) -> dict[str, object]:
        moment = datetime.now(UTC).isoformat(timespec="milliseconds")
        line: dict[str, object] = {
            "time": moment.replace("+00:00", "Z"),
            "request_id": self.id,
            "deployment": self.deployment,
            "replica": self.replica,
            "route": f"{self.scope['method']} {self.path}",
            "status": self.status,
            "ms": round(1000 * (end - self.arrived), 2),
            "ttft_ms": round(1000 * (self.first - self.arrived), 2) if self.first else None,
            "queue_ms": round(1000 * self.queued, 2),
            "prompt_tokens": self.tokens[0],
            "completion_tokens": self.tokens[1],
            "mirrored": False,
        }
        client_id = self.header(b"x-ms-client-request-id")
        if _ID.fullmatch(client_id):
            line["client_request_id"] = client_id
        return line | ({"error": self.error} if self.error else {})


def passed_on(call: Call, deployment: Deployment, adapter: str) -> dict[str, str]:
    """The headers with which a replica is asked, beside its key."""
    found = {name: call.header(name.encode()) for name in PASSED if name.encode() in call.headers}
    found |= {"x-request-id": call.id, "x-finery-model": deployment.name}
    return found | ({"x-finery-adapter": adapter} if adapter else {})


PASSED = ("content-type", "accept", "extra-parameters")  # headers of a request that it needs


class Departure:
    """While it is open, a client's leaving ends what its task does, with ClientLeftError."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._left = False

    async def __aenter__(self) -> Departure:
        self._task = asyncio.current_task()
        self._watch = asyncio.create_task(self._wait())
        return self

    def over(self) -> None:
        """From here on the request is answered: its end is no leaving."""
        self._watch.cancel()

    async def _wait(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._left = True
        if self._task is not None:
            self._task.cancel()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._watch.cancel()
        if self._left and kind is asyncio.CancelledError and self._task is not None:
            self._task.uncancel()
            raise ClientLeftError("The client left.") from None
