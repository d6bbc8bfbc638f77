"""A gateway on a real port in front of replicas that do what the body of a request says."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx
import uvicorn

from finery.endpoints import service, tables
from finery.endpoints.gateway.connections import PatientProtocol
from finery.endpoints.gateway.doors import application
from finery.endpoints.gateway.state import Gateway, opened
from finery.endpoints.service import WantedDeployment, WantedEndpoint
from finery.inference.protocol import begun
from finery.inference.protocol.begun import Outcome
from finery.workspace.place import Workspace
from finery.workspace.store import now

HEADS = {200: "OK", 400: "Bad Request", 500: "Internal Server Error", 503: "Unavailable"}
KEY = "k" * 20
OTHER = "o" * 20


@dataclass
class Stub:
    """A replica. What it is told in the body:

    status, sleep (before the answer), stream (events), gap (seconds between them), size (bytes of
    the answer), die ("asked": before the answer, "answered": in the middle of it, "begun": after
    the head that says that there is a token), begun (whole answers say that they are begun).
    """

    name: str
    mortal: bool = True  # whether "die" concerns it
    habit: Mapping[str, Any] = field(default_factory=dict)  # what it does whatever it is told
    seen: list[dict[str, Any]] = field(default_factory=list)
    under_way: int = 0
    most_under_way: int = 0
    left: int = 0  # clients that went away before they were answered
    server: asyncio.Server | None = None
    clients: set[asyncio.StreamWriter] = field(default_factory=set)

    @property
    def port(self) -> int:
        assert self.server is not None
        return self.server.sockets[0].getsockname()[1]

    async def start(self, port: int = 0) -> Stub:
        self.server = await asyncio.start_server(self._talk, "127.0.0.1", port)
        return self

    async def stop(self) -> None:
        if self.server is not None:
            self.server.close()

    async def kill(self) -> None:
        """End as a process that is killed does."""
        await self.stop()
        for client in self.clients:
            client.transport.abort()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.clients.add(writer)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                method, path, _ = head[0].split(" ")
                headers = dict(line.split(": ", 1) for line in head[1:] if line)
                headers = {name.lower(): value for name, value in headers.items()}
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                self.seen.append({"method": method, "path": path, "headers": headers, "body": body})
                self.under_way += 1
                self.most_under_way = max(self.most_under_way, self.under_way)
                try:
                    await self._unless_left(reader, self._answer(writer, headers, body))
                finally:
                    self.under_way -= 1
                if writer.is_closing():
                    break
        self.clients.discard(writer)
        writer.close()

    async def _unless_left(self, reader: asyncio.StreamReader, work: Any) -> None:
        """As a replica does: what nobody waits for is not made."""
        answering = asyncio.ensure_future(work)
        left = asyncio.ensure_future(_end_of(reader))
        await asyncio.wait((answering, left), return_when=asyncio.FIRST_COMPLETED)
        if not answering.done():
            self.left += 1
        for task in (answering, left):
            task.cancel()
        await asyncio.gather(answering, left, return_exceptions=True)

    async def _answer(
        self, writer: asyncio.StreamWriter, headers: Mapping[str, str], body: bytes
    ) -> None:
        told = json.loads(body) if body[:1] == b"{" and len(body) < 100_000 else {}
        told |= self.habit
        dying = told.get("die") if self.mortal else None
        if dying == "asked":
            writer.transport.abort()
            return
        await asyncio.sleep(told.get("sleep", 0))
        if "stream" in told:
            await self._stream(writer, told, dying)
            return
        status = told.get("status", 200)
        said: dict[str, Any] = {"by": self.name, "model": headers.get("x-finery-model")}
        if status >= 400:
            said = {"error": {"message": "the model\nsays no"}}
        content = json.dumps(said).encode() + b" " * told.get("size", 0)
        if headers.get(begun.HEADER) and (told.get("begun") or dying == "begun"):
            await self._begun(writer, status, content, dying)
            return
        head = f"HTTP/1.1 {status} {HEADS[status]}\r\ncontent-type: application/json\r\n"
        head += "x-finery-prompt-tokens: 3\r\nx-finery-completion-tokens: 5\r\n"
        writer.write(f"{head}content-length: {len(content)}\r\n\r\n".encode())
        if dying == "answered":
            writer.write(content[:4])
            await writer.drain()
            writer.transport.abort()
            return
        writer.write(content)
        await writer.drain()

    async def _begun(
        self, writer: asyncio.StreamWriter, status: int, content: bytes, dying: str | None
    ) -> None:
        head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n{begun.HEADER}: 1\r\n"
        writer.write(f"{head}transfer-encoding: chunked\r\n\r\n".encode())
        await writer.drain()
        if dying == "begun":
            writer.transport.abort()
            return
        said = Outcome(status, 3, 5).line() + content
        for at in range(0, len(said), 7 if len(said) < 1000 else 2**16):
            _chunk(writer, said[at : at + (7 if len(said) < 1000 else 2**16)].decode())
            await asyncio.sleep(0)
        if dying == "answered":
            await writer.drain()
            writer.transport.abort()
            return
        writer.write(b"0\r\n\r\n")
        await writer.drain()

    async def _stream(
        self, writer: asyncio.StreamWriter, told: Mapping[str, Any], dying: str | None
    ) -> None:
        head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
        writer.write(f"{head}transfer-encoding: chunked\r\n\r\n".encode())
        for number in range(told["stream"]):
            _chunk(writer, f'data: {{"n": {number}}}\n\n')
            await writer.drain()
            await asyncio.sleep(told.get("gap", 0))
        if dying == "answered":
            _chunk(writer, 'data: {"n"')
            await writer.drain()
            writer.transport.abort()
            return
        _chunk(writer, "data: [DONE]\n\n: usage prompt=3 completion=5\n\n")
        writer.write(b"0\r\n\r\n")
        await writer.drain()


async def _end_of(reader: asyncio.StreamReader) -> None:
    while not reader.at_eof():
        await asyncio.sleep(0.005)


def _chunk(writer: asyncio.StreamWriter, text: str) -> None:
    content = text.encode()
    writer.write(b"%x\r\n%b\r\n" % (len(content), content))


@dataclass
class World:
    """What a test talks to."""

    workspace: Workspace
    gateway: Gateway
    http: httpx.AsyncClient
    port: int
    stubs: dict[str, list[Stub]] = field(default_factory=dict)

    async def deploy(
        self, name: str, *stubs: Stub, at_once: int = 1, seconds: float = 30.0, **changes: Any
    ) -> list[Stub]:
        """A deployment `name` of the endpoint `chat` that these answer for."""
        wanted = WantedDeployment(
            *("chat", name, "m"), at_once=at_once, timeout_seconds=seconds, instance_count=1
        )
        service.put_deployment(self.workspace, wanted)
        rows, store = tables.deployments, self.workspace.store
        with store.write() as connection:
            here = (rows.c.endpoint == "chat", rows.c.name == name)
            state = {"state": "Succeeded", **changes}
            connection.execute(rows.update().where(*here).values(state))
        made = [await stub.start() for stub in stubs]
        for number, stub in enumerate(made):
            self.add_replica(name, stub, f"{name}{number}")
        self.stubs.setdefault(name, []).extend(made)
        await self.gateway.watch.reload()
        return made

    def add_replica(self, name: str, stub: Stub, identity: str) -> None:
        """A row for a replica that answers."""
        columns = tables.replicas.c.keys()
        row = {
            "id": identity,
            "endpoint": "chat",
            "deployment": name,
            "revision": 1,
            "state": "ready",
            "port": stub.port,
            "key": "replica key",
            "created_at": now(),
        }
        rest: dict[str, Any] = {"report": {}, "host": "", "adapter": ""}
        row |= {name: value for name, value in rest.items() if name in columns}
        with self.workspace.store.write() as connection:
            connection.execute(tables.replicas.insert().values(row))

    async def remove_replica(self, identity: str) -> None:
        with self.workspace.store.write() as connection:
            rows = tables.replicas
            connection.execute(rows.delete().where(rows.c.id == identity))
        await self.gateway.watch.reload()

    async def traffic(self, mirror: Mapping[str, int] | None = None, **shares: int) -> None:
        """Who gets what."""
        keys = (KEY, OTHER)
        wanted = WantedEndpoint("chat", traffic=shares, mirror_traffic=mirror or {}, keys=keys)
        service.put(self.workspace, wanted)
        await self.gateway.watch.reload()

    async def ask(self, path: str = "/score", **told: Any) -> httpx.Response:
        """Ask the endpoint, with its key."""
        return await self.http.post(f"/endpoints/chat{path}", json=told)

    def lines(self) -> list[dict[str, Any]]:
        """The log of the endpoint's requests."""
        self.gateway.log.flush()
        path = self.gateway.log.folder / "chat.jsonl"
        text = path.read_text() if path.is_file() else ""
        return [json.loads(line) for line in text.splitlines()]


@contextlib.asynccontextmanager
async def world(workspace: Workspace) -> AsyncIterator[World]:
    """An endpoint `chat` without deployments behind a gateway on a port of its own."""
    service.put(workspace, WantedEndpoint("chat", keys=(KEY, OTHER)))
    async with opened(workspace) as gateway:
        config = uvicorn.Config(
            application(gateway, plain=True),
            **{"http": PatientProtocol, "ws": "none", "lifespan": "off", "log_config": None},
            **{"access_log": False, "timeout_graceful_shutdown": 1, "timeout_keep_alive": 60},
        )
        server = uvicorn.Server(config)
        listener = socket.create_server(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        serving = asyncio.create_task(server._serve(sockets=[listener]))
        base, header = f"http://127.0.0.1:{port}", {"authorization": f"Bearer {KEY}"}
        limits = httpx.Limits(max_connections=None)
        try:
            async with httpx.AsyncClient(
                base_url=base, headers=header, timeout=30, trust_env=False, limits=limits
            ) as http:
                made = World(workspace, gateway, http, port)
                try:
                    yield made
                finally:
                    for stub in [stub for stubs in made.stubs.values() for stub in stubs]:
                        await stub.stop()
        finally:  # also after a failure: a server that runs on would hold up the test's end
            server.should_exit = server.force_exit = True
            await serving


def run(workspace: Workspace, work: Callable[[World], Awaitable[None]], **deployment: Any) -> None:
    """Do this in a world whose deployment `blue` has all the traffic and one replica."""

    async def go() -> None:
        async with world(workspace) as there:
            await there.deploy("blue", Stub("blue"), **deployment)
            await there.traffic(blue=100)
            await work(there)

    # The loop on which the gateway's process runs: uvloop's where that is installed.
    with asyncio.Runner(loop_factory=uvicorn.Config("").get_loop_factory()) as runner:
        runner.run(go())


def error_of(response: httpx.Response) -> dict[str, Any]:
    """What an answer that is an error says."""
    return response.json()["error"]
