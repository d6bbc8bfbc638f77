"""A real service with endpoints on stubs, for the proofs of `endpoints.py`."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "service"))

import psutil
from endpoints_load import Ask
from real_service import RealServer
from service_process import Service
from typer.testing import CliRunner

from finery.cli.main import app
from finery.endpoints.tables import endpoints, replicas

MODEL = "Phi-3-mini-4k-instruct"  # of the registry; a stub does not read it
MODELS = Path("~/.finery/models").expanduser()
PATIENCE = 120.0
CROWDED = 2.0  # processes that want each core, from which times say little


@dataclass
class Report:
    """What a proof found: figures for people, faults that fail it."""

    figures: dict[str, object] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    def claim(self, holds: bool, fault: str) -> None:
        """A fault, unless it holds."""
        if not holds:
            self.faults.append(fault)


def run(*words: object) -> str:
    """What a command prints; its refusal is raised."""
    answer = CliRunner().invoke(app, [str(word) for word in words])
    if answer.exception:
        raise answer.exception
    return answer.stdout


def told(*words: object) -> Any:
    """The JSON that a command prints."""
    return json.loads(run(*words, "--json"))


def until(holds: Callable[[], bool], what: str, every: float = 0.02) -> None:
    """Wait until it holds; looking costs the machine something too."""
    end = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < end, f"it never came to this: {what}"
        time.sleep(every)


@dataclass
class World:
    """One service of the proofs' own."""

    server: RealServer
    models: Path = MODELS
    seen: set[str] = field(default_factory=set)  # keys that were good once

    @property
    def service(self) -> Service:
        return self.server.service

    def deploy(
        self,
        endpoint: str,
        deployment: str,
        *more: object,
        at_once: int = 64,
        model: object = MODEL,
        **stub: object,
    ) -> None:
        """A deployment, answering when this returns; `stub` says how, none is a real model."""
        words: list[object] = ["deploy", model, "--endpoint", endpoint, "--deployment", deployment]
        words += ["--at-once", at_once, "--timeout", 60]
        if stub:
            words += ["--engine", "stub", "--env", f"FINERY_STUB={urlencode(stub)}"]
        run(*words, *more)

    def ask(self, endpoint: str, **more: Any) -> Ask:
        """How to ask an endpoint."""
        address = told("endpoint", "show", endpoint)["openaiBaseUrl"]
        key = told("endpoint", "keys", endpoint)["primaryKey"]
        return Ask(address, key, endpoint, **more)

    def replica_pids(self, endpoint: str) -> dict[str, int]:
        """The processes of the replicas in rotation, by the replicas' ids."""
        with self.server.workspace.store.read() as connection:
            query = replicas.select().where(
                replicas.c.endpoint == endpoint, replicas.c.state == "ready"
            )
            reports = {row.id: row.report["pid"] for row in connection.execute(query)}
        return {name: pid for name, pid in reports.items() if _runs(pid)}

    def traffic(self, endpoint: str) -> dict[str, int]:
        return told("endpoint", "show", endpoint)["traffic"]

    def keep_secrets(self) -> None:
        """Remember every key that endpoints and replicas have now."""
        with self.server.workspace.store.read() as connection:
            for row in connection.execute(endpoints.select()):
                self.seen |= {row.primary_key, row.secondary_key}
            self.seen |= {row.key for row in connection.execute(replicas.select())}

    def logs(self) -> list[Path]:
        """Every log there is."""
        kept = (".log", ".jsonl", ".txt")
        found = [path for path in self.server.home.rglob("*") if path.suffix in kept]
        return [path for path in found if path.is_file() and "certificates" not in path.parts]


def crowding() -> float:
    """How many processes want each core: by so much everything takes longer. 1 at least."""
    return max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


@contextlib.contextmanager
def variables(given: Mapping[str, str]) -> Iterator[None]:
    """The environment with these; afterwards it is what it was."""
    before = dict(os.environ)
    os.environ.update(given)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextlib.contextmanager
def world(home: Path) -> Iterator[World]:
    """A service without MLflow; what it started is ended with it."""
    server = RealServer(home, settings={"tracking": False, "warm_steps": True})
    with variables({"FINERY_HOME": str(home)}):
        try:
            server.start()
            yield World(server)
        finally:
            server.end_all()
            server.workspace.store.engine.dispose()


@contextlib.contextmanager
def endpoint(there: World, name: str) -> Iterator[str]:
    """An endpoint of this name; it is gone afterwards."""
    run("endpoint", "create", name)
    try:
        yield name
    finally:
        there.keep_secrets()
        run("endpoint", "delete", name)


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
