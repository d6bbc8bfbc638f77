"""Answers per second: our engines bare and behind the gateway, beside other servers.

    python benchmarks/run.py serving --model FOLDER [--engines torch openvino]
        [--transformers] [--llama-cpp PYTHON --gguf FILE] [--streams 1 8] [--json FILE]

Every server is up for the whole run and they take turns, round after round: the same prompts,
greedy, streamed, as many at a time as --streams says. Tokens are counted by the server's own
usage where it tells it, else by the pieces it streams.

--llama-cpp is a Python with `xllamacpp` (llama.cpp's own server in a wheel) installed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import httpx
from measure import OthersCpu, machine, spread, versions

from service import FINERY, running_service

PATIENCE = 600.0  # seconds for a server to load, or to convert, its model
TOPICS = (
    *("the tides", "a lost key", "winter soup", "an old bridge", "two friends", "a small garden"),
    *("the night train", "a blue kite"),
)
LLAMA = """
import sys, time, xllamacpp as x
p = x.CommonParams()
p.model.path, p.port = sys.argv[1], int(sys.argv[2])
p.hostnames = ["127.0.0.1"]
p.n_parallel, p.n_ctx, p.cont_batching = 8, 16384, True
p.cpuparams.n_threads = p.cpuparams_batch.n_threads = int(sys.argv[3])
server = x.Server(p)
print("up", flush=True)
time.sleep(1e9)
"""


@dataclass(frozen=True)
class Server:
    """One that answers `/chat/completions` below its address."""

    name: str
    url: str
    model: str
    key: str = "none"


@dataclass(frozen=True)
class Round:
    """What one round of one server gave."""

    tokens: int
    seconds: float
    first: float  # median seconds to the first piece

    @property
    def speed(self) -> float:
        """Tokens per second, all streams together."""
        return self.tokens / self.seconds


def main(arguments: Sequence[str]) -> int:
    """Measure, print a table, write JSON."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--model", required=True, help="a model folder, or any model source")
    options.add_argument("--engines", nargs="*", default=["torch"])
    options.add_argument("--transformers", action="store_true", help="`transformers serve` too")
    options.add_argument("--llama-cpp", type=Path, help="a Python that has xllamacpp")
    options.add_argument("--gguf", type=Path, nargs="*", default=[], help="models for llama.cpp")
    options.add_argument("--streams", type=int, nargs="+", default=[1, 8])
    options.add_argument("--tokens", type=int, default=128)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--json", type=Path)
    asked = options.parse_args(arguments)
    others = OthersCpu()
    with contextlib.ExitStack() as stack:
        servers = list(started(stack, asked))
        found = measured(servers, asked.streams, asked.tokens, asked.rounds)
    report(found, others.cores())
    if asked.json:
        asked.json.write_text(json.dumps(written(found, asked), indent=2) + "\n", "utf-8")
    return 0


def started(stack: contextlib.ExitStack, asked: argparse.Namespace) -> Iterator[Server]:
    """All servers that take part, up."""
    for engine in asked.engines:
        yield stack.enter_context(replica(asked.model, engine))
    stack.enter_context(running_service({}))
    for engine in asked.engines:
        yield endpoint(asked.model, engine)
    if asked.transformers:
        yield stack.enter_context(transformers_serve(asked.model))
    for gguf in asked.gguf:
        yield stack.enter_context(llama_cpp(asked.llama_cpp, gguf))


@contextlib.contextmanager
def running(name: str, command: list[str], **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process of the benchmark's own; its log is shown when it fails."""
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, env={**os.environ, **environment}
        )
        try:
            yield process
        except BaseException:
            log.seek(0)
            sys.stderr.write(f"{name}:\n{log.read()[-3000:].decode(errors='replace')}\n")
            raise
        finally:
            process.terminate()
            process.wait(30)


@contextlib.contextmanager
def replica(model: str, engine: str) -> Iterator[Server]:
    """One of our replicas, without gateway."""
    with tempfile.TemporaryDirectory() as folder:
        ready = Path(folder) / "ready.json"
        command = [sys.executable, "-m", "finery.inference.server", model, "--name", "bench"]
        words = ["--engine", engine, "--at-once", "8", "--ready", str(ready)]
        with running(engine, [*command, *words], FINERY_REPLICA_KEY="bench") as process:
            wait(process, ready.exists)
            said = json.loads(ready.read_text(encoding="utf-8"))
            name = f"{said['engine']} {said['precision']}"
            yield Server(name, f"http://127.0.0.1:{said['port']}/v1", "bench", "bench")


def endpoint(model: str, engine: str) -> Server:
    """The same behind the gateway of a running service."""
    name = f"bench-{engine}"
    words = ["--endpoint", name, "--engine", engine]
    subprocess.run([FINERY, "deploy", model, *words], check=True, stdout=2)
    show, keys = (
        json.loads(subprocess.check_output([FINERY, "endpoint", verb, name, "--json"]))
        for verb in ("show", "keys")
    )
    return Server(f"{engine}, gateway", show["openaiBaseUrl"], name, keys["primaryKey"])


@contextlib.contextmanager
def transformers_serve(model: str) -> Iterator[Server]:
    """`transformers serve` with continuous batching."""
    port = str(free_port())
    program = shutil.which("transformers", path=str(Path(sys.executable).parent)) or "transformers"
    words = ["--continuous-batching", "--device", "cpu", "--dtype", "bfloat16"]
    command = [program, "serve", *words, "--host", "127.0.0.1", "--port", port]
    with running("transformers serve", command) as process:
        wait(process, lambda: answers(f"http://127.0.0.1:{port}/health"))
        yield Server("transformers serve bfloat16", f"http://127.0.0.1:{port}/v1", model)


@contextlib.contextmanager
def llama_cpp(python: Path, gguf: Path) -> Iterator[Server]:
    """llama.cpp's server with eight slots."""
    port = str(free_port())
    cores = str(len(os.sched_getaffinity(0)))
    with running("llama.cpp", [str(python), "-c", LLAMA, str(gguf), port, cores]) as process:
        wait(process, lambda: answers(f"http://127.0.0.1:{port}/health"))
        yield Server(f"llama.cpp {gguf.stem}", f"http://127.0.0.1:{port}/v1", "bench")


def wait(process: subprocess.Popen[bytes], true: Any) -> None:
    """Wait for a server, as long as it lives."""
    end = time.monotonic() + PATIENCE
    while not true():
        if process.poll() is not None or time.monotonic() > end:
            raise RuntimeError(f"it did not come up (exit status {process.poll()})")
        time.sleep(0.1)


def answers(url: str) -> bool:
    """Whether there is somebody."""
    try:
        return httpx.get(url, trust_env=False).is_success
    except httpx.HTTPError:
        return False


def free_port() -> int:
    """One that nobody has now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def measured(
    servers: Sequence[Server], streams: Sequence[int], tokens: int, rounds: int
) -> dict[tuple[str, int], list[Round]]:
    """Every server with every number of streams, in turns; the first turn warms up."""
    found: dict[tuple[str, int], list[Round]] = {}
    for turn in range(rounds + 1):
        for count in streams:
            for server in servers:
                one = asyncio.run(ask(server, count, tokens, turn))
                if turn:
                    found.setdefault((server.name, count), []).append(one)
    return found


async def ask(server: Server, streams: int, tokens: int, turn: int) -> Round:
    """As many answers at a time as there are streams, each to a prompt of its own."""
    limits = httpx.Limits(max_connections=None)
    headers = {"authorization": f"Bearer {server.key}"}
    async with httpx.AsyncClient(
        headers=headers, timeout=PATIENCE, limits=limits, trust_env=False
    ) as client:
        before = time.perf_counter()
        told = await asyncio.gather(
            *(answer(client, server, number, turn, tokens) for number in range(streams))
        )
        took = time.perf_counter() - before
    return Round(sum(made for made, _ in told), took, median(first for _, first in told))


async def answer(
    client: httpx.AsyncClient, server: Server, number: int, turn: int, tokens: int
) -> tuple[int, float]:
    """Tokens of one streamed answer, and seconds to its first piece."""
    topic = TOPICS[number % len(TOPICS)]
    text = f"Round {turn}. Write a very long story about {topic}. Describe every detail of it. "
    body = {
        "model": server.model,
        "messages": [{"role": "user", "content": text * 2}],
        "max_tokens": tokens,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    before, first, pieces, usage = time.perf_counter(), 0.0, 0, 0
    async with client.stream("POST", f"{server.url}/chat/completions", json=body) as response:
        if response.status_code != 200:
            said = (await response.aread()).decode(errors="replace")
            raise RuntimeError(f"{server.name} answered {response.status_code}: {said[:500]}")
        async for line in response.aiter_lines():
            if not line.startswith("data: {"):
                continue
            event = json.loads(line[6:])
            usage = (event.get("usage") or {}).get("completion_tokens") or usage
            if any((c.get("delta") or {}).get("content") for c in event.get("choices") or []):
                first = first or time.perf_counter() - before
                pieces += 1
    return usage or pieces, first


def report(found: dict[tuple[str, int], list[Round]], others: float) -> None:
    """The table."""
    print(f"{'server':<34}{'streams':>8}  {'tokens/s':<26}{'first piece, s'}")
    for (name, streams), rounds in found.items():
        speeds = spread([one.speed for one in rounds], 1)
        firsts = spread([one.first for one in rounds], 3)
        print(f"{name:<34}{streams:>8}  {speeds:<26}{firsts}")
    print(f"others kept {others:.2f} cores busy (the servers are others here)")


def written(found: dict[tuple[str, int], list[Round]], asked: argparse.Namespace) -> dict[str, Any]:
    """Every number."""
    rows = [
        {
            "server": name,
            "streams": streams,
            "tokens": [one.tokens for one in rounds],
            "tokens_per_s": [round(one.speed, 1) for one in rounds],
            "first_piece_s": [round(one.first, 4) for one in rounds],
        }
        for (name, streams), rounds in found.items()
    ]
    return {
        "machine": machine(),
        "versions": versions(),
        "model": Path(asked.model).name,
        "max_tokens": asked.tokens,
        "rows": rows,
    }
