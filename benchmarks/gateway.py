"""What the gateway of endpoints costs, and whether one caller can slow down the others.

    python benchmarks/run.py gateway [--json FILE]
    python benchmarks/run.py gateway --only isolation --seconds 5

Requests come at a fixed rate whatever becomes of those before them (open loop), and a time
counts from the moment at which its request was due. The replica is asked directly and through
the gateway in turns, with the same body and over connections that are kept.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import gateway_neighbours
from measure import OthersCpu, machine

from finery.endpoints import service, tables
from finery.endpoints.gateway import control
from finery.endpoints.gateway.addresses import reserve
from finery.endpoints.gateway.keeper import Keeper
from finery.endpoints.service import WantedDeployment, WantedEndpoint
from finery.files import read_json
from finery.inference.engines.stub import stub_renderer
from finery.runners import process
from finery.service.certificates import ensure_certificates
from finery.workspace.migrations import migrate
from finery.workspace.place import Workspace
from finery.workspace.settings import Settings
from finery.workspace.store import connect, now

KEY, REPLICA_KEY = "k" * 32, "r" * 32
PATH = "/v1/chat/completions"
ASKED = json.dumps({**gateway_neighbours.BODY, "max_tokens": 4}).encode()
SHARES = {"p50": 0.50, "p95": 0.95, "p99": 0.99}
KINDS = (*gateway_neighbours.requests(), *gateway_neighbours.HELD)
PARTS = ("overhead", "saturation", "isolation")
SLOW_SECONDS = 1.0  # of computing, for a template that takes its time
SLOW_TEMPLATE = (
    "{%% for m in messages %%}{%% if m['content'] == '%s' %%}{%% for a in range(%d) %%}"
    "{%% for b in range(10000) %%}{%% endfor %%}{%% endfor %%}{%% endif %%}"
    "<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{%% endfor %%}"
    "{%% if add_generation_prompt %%}<|im_start|>assistant\n{%% endif %%}"
)
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
    options.add_argument("--only", choices=PARTS, help="measure this part alone")
    told = "bad neighbours, instead of all"
    options.add_argument("--kinds", nargs="*", choices=KINDS, metavar="KIND", help=told)
    options.add_argument("--json", type=Path, help="where every number goes")
    asked = options.parse_args(arguments)
    others, found = OthersCpu(), {}
    parts = (asked.only,) if asked.only else PARTS
    with running() as (direct, gateway):
        if "overhead" in parts:
            found["overhead_ms"] = asyncio.run(overhead(direct, gateway, asked))
        if "saturation" in parts:
            found["saturation_per_s"] = {
                name: asyncio.run(saturation(target, asked.seconds))
                for name, target in (("direct", direct), ("gateway", gateway))
            }
            print("at saturation:", found["saturation_per_s"], "requests/s")
        if "isolation" in parts:
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
    source = f"stub:renderer={renderer(folder / 'renderer')}"
    argv = [sys.executable, "-P", "-m", "finery.inference.server", source, "--engine", "stub"]
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


def renderer(folder: Path) -> Path:
    """The stub's own tokenizer with a template that one message makes slow."""
    tokenizer = stub_renderer().tokenizer
    rounds, least = 500, float("inf")
    messages = [{"role": "user", "content": gateway_neighbours.SLOW}]
    for _ in range(3):
        tokenizer.chat_template = SLOW_TEMPLATE % (gateway_neighbours.SLOW, rounds)
        before = time.process_time()
        tokenizer.apply_chat_template(messages, tokenize=False)
        least = min(least, time.process_time() - before)
    wanted = round(rounds * SLOW_SECONDS / least)
    tokenizer.chat_template = SLOW_TEMPLATE % (gateway_neighbours.SLOW, wanted)
    tokenizer.save_pretrained(folder)
    return folder


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
    return found


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
    """The callers' p95 beside each kind of bad neighbour, each turn between two turns alone.

    A growth is that of one turn over the mean of both: what else the machine does falls on all.
    """
    found: dict[str, Any] = {}
    print(f"  {'beside':<20}{'p95 alone':>12}{'beside':>10}{'growth':>9}   of each round")
    for kind in asked.kinds or KINDS:
        alone, beside = [turn(gateway, asked)], []
        for _ in range(asked.rounds):
            with neighbour(kind, gateway):
                beside.append(turn(gateway, asked))
            alone.append(turn(gateway, asked))
        pairs = zip(beside, itertools.pairwise(alone), strict=True)
        growths = [
            round(2 * during["p95"] / (before["p95"] + after["p95"]) - 1, 3)
            for during, (before, after) in pairs
        ]
        growth = statistics.median(growths)
        found[kind] = {"alone_ms": alone, "beside_ms": beside, "p95_growths": growths}
        found[kind]["p95_growth"] = growth
        before, after = (statistics.median(one["p95"] for one in all_) for all_ in (alone, beside))
        told = " ".join(f"{one:+.0%}" for one in growths)
        print(f"  {kind:<20}{before:>9.2f} ms{after:>7.2f} ms{growth:>+9.0%}   {told}", flush=True)
    return found


def turn(gateway: Target, asked: argparse.Namespace) -> dict[str, float]:
    """The callers' times in one turn, at half the rate and for half the time of the others."""
    return quantiles(asyncio.run(steady(gateway, asked.rate / 2, asked.seconds / 2)))


@contextlib.contextmanager
def neighbour(kind: str, gateway: Target) -> Iterator[None]:
    """A process that misbehaves."""
    host, _, path = gateway.url.removeprefix("http://").partition("/")
    name, _, port = host.partition(":")
    argv = [sys.executable, "-I", gateway_neighbours.__file__, kind, name, port, f"/{path}"]
    with subprocess.Popen([*argv, gateway.key], start_new_session=True) as started:
        try:
            time.sleep(1.0)
            yield
            assert started.poll() is None, "the bad neighbour went away"
        finally:
            started.send_signal(signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
