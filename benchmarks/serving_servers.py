"""The servers that `serving` measures: ours, bare and through the gateway, and others.

All are up for the whole run. Those that are not ours are stopped (SIGSTOP) while it is not their
turn, so that none can take time from another.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from finery.endpoints.tables import replicas
from finery.files import home
from finery.service.run import database_url
from finery.workspace import store
from finery.workspace.settings import load_settings, service_folder
from service import FINERY, running_service

PATIENCE = 600.0  # seconds for a server to load, or to convert, its model
SLOTS = 8
LLAMA = """
import sys, time, xllamacpp as x
p = x.CommonParams()
p.model.path, p.port = sys.argv[1], int(sys.argv[2])
p.hostnames = ["127.0.0.1"]
slots, threads = int(sys.argv[4]), int(sys.argv[3])
p.n_parallel, p.n_ctx, p.cont_batching = slots, 2048 * slots, True
p.verbosity, p.n_gpu_layers = 0, 0
p.cpuparams.n_threads = p.cpuparams_batch.n_threads = threads
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
    more: dict[str, Any] = field(default_factory=dict)  # of the body: answers of full length
    process: subprocess.Popen[bytes] | None = None  # what is stopped out of its turn

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Its turn; it was stopped before, and is again behind it."""
        if self.process is None:
            yield
            return
        self.process.send_signal(signal.SIGCONT)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGSTOP)


def started(stack: contextlib.ExitStack, asked: argparse.Namespace) -> Iterator[Server]:
    """All servers that take part, up, the compared ones side by side."""
    kept = [home() / name for name in ("engines", "engines-cache")]
    stack.enter_context(running_service({}))
    for folder in kept:  # the service has a home of its own; nothing is exported anew
        if folder.is_dir() and not (home() / folder.name).exists():
            (home() / folder.name).symlink_to(folder)
    for engine in asked.engines:
        # replicas outlive their service: they end with their endpoint
        end = [FINERY, "endpoint", "delete", f"bench-{engine}"]
        stack.callback(subprocess.run, end, check=True, stdout=2)
        yield from deployed(asked.model, engine, asked.env)
    if asked.transformers:
        yield stack.enter_context(transformers_serve(asked.model))
        yield stack.enter_context(transformers_serve(asked.model, "--continuous-batching"))
    for gguf in asked.gguf:
        yield stack.enter_context(llama_cpp(asked.llama_cpp, gguf))


def deployed(model: str, engine: str, variables: list[str]) -> Iterator[Server]:
    """A replica asked straight, without the gateway, and the same one through it."""
    name = f"bench-{engine}"
    words = ["--endpoint", name, "--engine", engine, "--at-once", str(SLOTS)]
    given = [word for one in variables for word in ("--env", one)]
    before = time.perf_counter()
    subprocess.run([FINERY, "deploy", model, *words, *given], check=True, stdout=2)
    print(f"{engine}: deployed in {time.perf_counter() - before:.1f} s", file=sys.stderr)
    show, keys = (
        json.loads(subprocess.check_output([FINERY, "endpoint", verb, name, "--json"]))
        for verb in ("show", "keys")
    )
    port, own = replica_of(name)
    bearer = {"authorization": f"Bearer {own}"}
    said = httpx.get(f"http://127.0.0.1:{port}/info", headers=bearer, trust_env=False).json()
    print(f"{engine}: {said['choice']} {said.get('info')}", file=sys.stderr)
    label = f"{engine} ({said['engine']} {said['precision']})"
    full = {"ignore_eos": True}
    yield Server(f"{label}, bare", f"http://127.0.0.1:{port}/v1", said["model_name"], own, full)
    yield Server(f"{label}, gateway", show["openaiBaseUrl"], name, keys["primaryKey"], full)


def replica_of(endpoint: str) -> tuple[int, str]:
    """The port of an endpoint's replica, and the key that its gateway shows it."""
    folder = service_folder()
    place = store.connect(database_url(folder, load_settings(folder)))
    with place.read() as connection:
        query = replicas.select().where(replicas.c.endpoint == endpoint, replicas.c.port > 0)
        row = connection.execute(query).mappings().one()
    place.engine.dispose()
    return row["port"], row["key"]


@contextlib.contextmanager
def transformers_serve(model: str, *words: str) -> Iterator[Server]:
    """`transformers serve`; `words` are more of its options."""
    port = str(free_port())
    program = shutil.which("transformers", path=str(Path(sys.executable).parent)) or "transformers"
    command = [program, "serve", *words, "--device", "cpu", "--dtype", "bfloat16"]
    command += ["--host", "127.0.0.1", "--port", port]
    with running("transformers serve", command) as process:
        wait(process, lambda: answers(f"http://127.0.0.1:{port}/health"))
        url = f"http://127.0.0.1:{port}/v1"
        yield Server(" ".join(["transformers serve", *words]), url, model, process=process)


@contextlib.contextmanager
def llama_cpp(python: Path, gguf: Path) -> Iterator[Server]:
    """llama.cpp's server: a slot for each stream, a thread for each core."""
    port = str(free_port())
    cores = str(len(os.sched_getaffinity(0)))
    command = [str(python), "-c", LLAMA, str(gguf), port, cores, str(SLOTS)]
    with running("llama.cpp", command) as process:
        wait(process, lambda: answers(f"http://127.0.0.1:{port}/health"))
        url, full = f"http://127.0.0.1:{port}/v1", {"ignore_eos": True}
        yield Server(f"llama.cpp {gguf.stem}", url, "bench", more=full, process=process)


@contextlib.contextmanager
def running(name: str, command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    """A process of the benchmark's own; its log is shown when it fails."""
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            yield process
        except BaseException:
            log.seek(0)
            sys.stderr.write(f"{name}:\n{log.read()[-3000:].decode(errors='replace')}\n")
            raise
        finally:
            process.send_signal(signal.SIGCONT)
            process.terminate()
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


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
