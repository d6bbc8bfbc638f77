"""What the gateway of endpoints costs, and whether one caller can slow down the others.

    python benchmarks/run.py gateway [--json FILE]

Requests come at a fixed rate whatever becomes of those before them (open loop), and a time
counts from the moment at which its request was due. The replica is asked directly and through
the gateway in turns, with the same body and over connections that are kept.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from measure import OthersCpu, machine

from finery.endpoints import service, tables
from finery.endpoints.gateway import control
from finery.endpoints.gateway.addresses import reserve
from finery.endpoints.gateway.keeper import Keeper
from finery.endpoints.service import WantedDeployment, WantedEndpoint
from finery.files import read_json
from finery.runners import process
from finery.service.certificates import ensure_certificates
from finery.workspace.migrations import migrate
from finery.workspace.place import Workspace
from finery.workspace.settings import Settings
from finery.workspace.store import connect, now

KEY, REPLICA_KEY = "k" * 32, "r" * 32
PATH = "/v1/chat/completions"
BODY = {"model": "bench", "messages": [{"role": "user", "content": "Hello there. " * 20}]}
ASKED = json.dumps({**BODY, "max_tokens": 4}).encode()
LONG = json.dumps({**BODY, "max_tokens": 4000, "stream": True}).encode()
SHARES = {"p50": 0.50, "p95": 0.95, "p99": 0.99}
HOSTILE = ("long bodies", "unannounced bodies", "deep bodies", "slow senders", "slow readers")
AT_ONCE = 256
PATIENCE = 60.0


@dataclass(frozen=True)
class Target:
    """Where to ask, and with which key."""

    url: str
    key: str

    @property
    def headers(self) -> dict[str, str]:
        """Of every request."""
        named = {"x-finery-model": "bench"}  # the gateway says it to the replica by itself
        return {"authorization": f"Bearer {self.key}", "content-type": "application/json", **named}


def main(arguments: Sequence[str]) -> int:
    """Measure, print tables, write JSON."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rate", type=float, default=200.0, help="requests a second")
    options.add_argument("--seconds", type=float, default=10.0, help="of each turn")
    options.add_argument("--rounds", type=int, default=5, help="turns of each")
    options.add_argument("--hostile", default="", help=argparse.SUPPRESS)
    options.add_argument("--url", default="", help=argparse.SUPPRESS)
    options.add_argument("--json", type=Path, help="where every number goes")
    asked = options.parse_args(arguments)
    if asked.hostile:
        asyncio.run(molest(asked.hostile, Target(asked.url, KEY)))
        return 0
    others = OthersCpu()
    with running() as (direct, gateway):
        found = asyncio.run(overhead(direct, gateway, asked))
        found["saturation_per_s"] = {
            name: asyncio.run(saturation(target, asked.seconds))
            for name, target in (("direct", direct), ("gateway", gateway))
        }
        print("at saturation:", found["saturation_per_s"], "requests/s")
        found["isolation"] = isolation(gateway, asked)
    print(f"others kept {others.cores():.2f} cores busy")
    if asked.json:
        whole = {"machine": machine(), "rate": asked.rate, **found}
        asked.json.write_text(json.dumps(whole, indent=2) + "\n", encoding="utf-8")
    return 0


@contextlib.contextmanager
def running() -> Iterator[tuple[Target, Target]]:
    """A replica without a model, and a gateway before it; both end with this."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        store = connect(f"sqlite:///{folder / 'finery.sqlite'}")
        stack.callback(store.engine.dispose)
        migrate(store)
        workspace = Workspace(folder, Settings(), store)
        port = stack.enter_context(replica(folder / "replica"))
        furnish(workspace, port)
        ensure_certificates(workspace.certificates, "localhost")
        where, keeper = reserve(workspace), Keeper(workspace)
        keeper.look()
        stack.callback(process.stop, keeper.run_folder, 1.0)
        wait_for(lambda: control.stats(workspace) is not None)
        yield (
            Target(f"http://127.0.0.1:{port}{PATH}", REPLICA_KEY),
            Target(f"{where.http_url}/endpoints/bench{PATH}", KEY),
        )


@contextlib.contextmanager
def replica(folder: Path) -> Iterator[int]:
    """The port of a replica whose answers cost nothing."""
    folder.mkdir()
    ready = folder / "ready.json"
    argv = [sys.executable, "-P", "-m", "finery.inference.server", "stub:", "--engine", "stub"]
    argv += ["--ready", str(ready), "--at-once", str(AT_ONCE)]
    with (folder / "log").open("wb") as log:
        started = subprocess.Popen(
            argv, stdout=log, stderr=log, env=os.environ | {"FINERY_REPLICA_KEY": REPLICA_KEY}
        )
    try:
        wait_for(ready.is_file)
        yield int(read_json(ready)["port"])
    finally:
        started.kill()
        started.wait()


def furnish(workspace: Workspace, port: int) -> None:
    """An endpoint with one deployment, whose replica is there already."""
    service.put(workspace, WantedEndpoint("bench", keys=(KEY, KEY[::-1])))
    service.put_deployment(workspace, WantedDeployment("bench", "blue", "m", at_once=AT_ONCE))
    row = {"id": "r", "endpoint": "bench", "deployment": "blue", "revision": 1, "state": "ready"}
    row |= {"port": port, "key": REPLICA_KEY, "created_at": now()}
    row |= {"report": {}, "host": "", "adapter": ""}
    with workspace.store.write() as connection:
        connection.execute(tables.replicas.insert().values(row))
        connection.execute(tables.deployments.update().values(state="Succeeded"))
        connection.execute(tables.endpoints.update().values(traffic={"blue": 100}))


def wait_for(holds: Callable[[], object]) -> None:
    """Return once it holds."""
    end = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < end, "it never came to hold"
        time.sleep(0.02)


def quantiles(times: Sequence[float]) -> dict[str, float]:
    """Milliseconds by percentile."""
    ranked = sorted(times)
    found = {name: ranked[int(share * (len(ranked) - 1))] for name, share in SHARES.items()}
    return {name: round(1000 * seconds, 3) for name, seconds in found.items()}


async def ask(session: aiohttp.ClientSession, target: Target) -> None:
    """One request, whole."""
    async with session.post(target.url, data=ASKED, headers=target.headers) as answer:
        content = await answer.read()
        assert answer.status == 200, (answer.status, content[:500])


async def steady(target: Target, rate: float, seconds: float) -> list[float]:
    """The time of every request of an open loop."""
    loop, times = asyncio.get_running_loop(), []
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:

        async def one(due: float) -> None:
            await ask(session, target)
            times.append(loop.time() - due)

        for _ in range(20):  # connections, and what is loaded at the first request
            await ask(session, target)
        begun, tasks = loop.time(), []
        for number in range(int(rate * seconds)):
            due = begun + number / rate
            await asyncio.sleep(max(0.0, due - loop.time()))
            tasks.append(asyncio.create_task(one(due)))
        await asyncio.gather(*tasks)
    return times


async def overhead(direct: Target, gateway: Target, asked: argparse.Namespace) -> dict[str, Any]:
    """Both in turns; percentiles of each and what the gateway adds."""
    times: dict[str, list[float]] = {"direct": [], "gateway": []}
    for _ in range(asked.rounds):
        for name, target in (("direct", direct), ("gateway", gateway)):
            times[name] += await steady(target, asked.rate, asked.seconds)
    found: dict[str, Any] = {name: quantiles(both) for name, both in times.items()}
    found["added"] = {p: round(found["gateway"][p] - found["direct"][p], 3) for p in SHARES}
    print(f"{asked.rate:g} requests/s, milliseconds")
    for name, values in found.items():
        print(f"  {name:<10}" + "".join(f"{p} {values[p]:8.2f}   " for p in SHARES))
    return {"overhead_ms": found}


async def saturation(target: Target, seconds: float, connections: int = 32) -> float:
    """Requests a second of callers who ask again as soon as they are answered."""
    end, count = time.monotonic() + seconds, 0
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def caller() -> None:
            nonlocal count
            while time.monotonic() < end:
                await ask(session, target)
                count += 1

        await asyncio.gather(*(caller() for _ in range(connections)))
    return round(count / seconds, 1)


def isolation(gateway: Target, asked: argparse.Namespace) -> dict[str, Any]:
    """The callers' p95 beside each kind of bad neighbour, and alone, in turns."""
    found: dict[str, Any] = {}
    rate = asked.rate / 2
    for kind in HOSTILE:
        alone: list[float] = []
        beside: list[float] = []
        for _ in range(asked.rounds):
            alone += asyncio.run(steady(gateway, rate, asked.seconds / 2))
            with neighbour(kind, gateway):
                beside += asyncio.run(steady(gateway, rate, asked.seconds / 2))
        before, after = quantiles(alone), quantiles(beside)
        growth = round(after["p95"] / before["p95"] - 1, 3)
        found[kind] = {"alone_ms": before, "beside_ms": after, "p95_growth": growth}
        print(
            f"  beside {kind:<20} p95 {before['p95']:.2f} -> {after['p95']:.2f} ms ({growth:+.0%})"
        )
    return found


@contextlib.contextmanager
def neighbour(kind: str, gateway: Target) -> Iterator[None]:
    """A process that misbehaves; its own work yields to the measurement's."""
    argv = ["nice", "-n", "19", sys.executable, __file__, "--hostile", kind, "--url", gateway.url]
    with subprocess.Popen(argv, stderr=subprocess.DEVNULL) as started:
        try:
            time.sleep(1.0)
            assert started.poll() is None, "the bad neighbour went away"
            yield
        finally:
            started.send_signal(signal.SIGKILL)


async def molest(kind: str, target: Target) -> None:
    """Misbehave in one way until killed."""
    if kind in ("slow senders", "slow readers"):
        content = LONG if kind == "slow readers" else b""
        held = [await raw(target, content) for _ in range(50)]
        await asyncio.sleep(3600)
        assert held
    deep = b'{"model": "bench", "messages": ' + b"[" * 8_000_000
    bodies: dict[str, Callable[[], Any]] = {
        "long bodies": lambda: b"x" * 100_000_000,
        "unannounced bodies": pieces,
        "deep bodies": lambda: deep,
    }
    async with aiohttp.ClientSession() as session:
        while True:
            with contextlib.suppress(aiohttp.ClientError):
                made = bodies[kind]()
                async with session.post(target.url, data=made, headers=target.headers) as answer:
                    assert answer.status in (400, 413), await answer.read()


async def pieces() -> Any:
    """A hundred megabytes whose length nobody says."""
    for _ in range(100):
        yield b"x" * 1_000_000


async def raw(target: Target, body: bytes) -> Any:
    """A connection whose request is sent in part, or whose answer is not read."""
    host, _, rest = target.url.removeprefix("http://").partition("/")
    name, _, port = host.partition(":")
    connection = await asyncio.open_connection(name, int(port), limit=1024)
    length = len(body) or 1000
    lines = [f"POST /{rest} HTTP/1.1", f"host: {host}", f"content-length: {length}"]
    lines += [f"{name}: {value}" for name, value in target.headers.items()]
    connection[1].write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
    return connection


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
