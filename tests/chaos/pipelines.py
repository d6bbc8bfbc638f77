"""Kills the service, the steps of its jobs, or both, or MLflow's server, at random moments, and
counts what is lost.

Pipelines are submitted all along: of tiny commands, some of which fail or are canceled, and
`chat_completion_pipeline` on the smallest model of the data kit. At the end no acknowledged job
may be missing, no step may have completed twice, every state must be right, every output there
and the weights of all fine-tuned models the same. What MLflow acknowledged is there.

    python -m tests.chaos.pipelines --kills 200           # the real service
    python -m tests.chaos.pipelines --kills 200 --small   # a server of jobs and nothing else
    python -m tests.chaos.pipelines --kills 200 --database postgres
    python -m tests.chaos.pipelines --sweep               # each commit of one pipeline

The sweep kills that server around every single moment at which one pipeline makes something
durable, one after the other.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))

from job_faults import (
    faults_of,
    leftovers,
    over_unsaid,
    running_attempts,
    unsaid,
    weights_differ,
)
from jobs_process import JobsServer
from jobs_server import open_workspace
from mlflow_kills import Metrics, kill_mlflow
from real_service import KIT, RealServer

from finery.errors import FineryError
from finery.files import read_json
from finery.jobs import service
from finery.jobs.job import TERMINAL, Job
from finery.runners import process
from finery.workspace.place import Workspace
from postgres_server import postgres_server

MOST_POINTS = 1000  # more than one pipeline has
_MISSES = 6
MOST_STEP_KILLS = 2  # of one step; the third loss is its end
STILLBORN = 0.15  # of the starts
RECOVERY = 10.0  # seconds in which a new server answers and has noted what ended meanwhile
KINDS = ("good", "good", "good", "failing", "canceled")
TUNING = ("chat", "chat", "chat-again", "chat-canceled")
VICTIMS = ("server", "server", "step", "both")
STAYS_UP = ("step", "mlflow")  # victims that the server outlives
DATABASES = ("sqlite", "postgres")


Server = JobsServer | RealServer


@dataclass
class Report:
    """What was done and what came of it."""

    kills: Counter[str] = field(default_factory=Counter)
    states: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    starts: int = 0
    attempts: int = 0
    adoptions: int = 0  # processes that ended while no server ran, and were waited for
    slowest: float = 0.0  # seconds from a start to the answer
    adopted: float = 0.0  # seconds from a start until what had ended meanwhile was noted
    last: float = 0.0  # seconds from the last start until every job had ended

    def __str__(self) -> str:
        kills = ", ".join(f"{count} {what}" for what, count in sorted(self.kills.items()))
        states = ", ".join(f"{count} {what}" for what, count in sorted(self.states.items()))
        faults = "\n".join(self.faults) or "nothing lost, nothing twice, every state right"
        return "\n".join(
            (
                f"kills: {self.kills.total()} ({kills}), {self.starts} starts of the server",
                f"jobs: {self.states.total()} ({states}), {self.attempts} attempts at steps",
                f"slowest start {self.slowest:.1f} s; slowest adoption {self.adopted:.1f} s after "
                f"a start ({self.adoptions} processes that had ended meanwhile); all ended "
                f"{self.last:.1f} s after the last start",
                faults,
            )
        )


@dataclass
class Trial:
    """Jobs under kills."""

    server: Server
    dice: random.Random
    tuning: int  # fine-tuning pipelines that go on at a time
    crowd: int  # other pipelines that go on at a time
    pause: float  # the longest time until the next kill
    jobs: dict[str, str] = field(default_factory=dict)
    canceled: set[str] = field(default_factory=set)  # whose cancellation was acknowledged
    killed: Counter[str] = field(default_factory=Counter)
    report: Report = field(default_factory=Report)
    metrics: Metrics | None = None  # where the server has MLflow

    def start(self, *, wait: bool) -> None:
        """Start the server; with `wait` until it has noted what ended while there was none.

        Some servers die before they answer, and another one follows.
        """
        if self.dice.random() < STILLBORN:
            self.server.die_starting(self.dice.uniform(0.0, self.pause))
            self.report.kills["server as it starts"] += 1
        over, began = over_unsaid(self.server.workspace), time.monotonic()
        self.server.start()
        self.report.starts += 1
        if not wait:
            return
        while unsaid(self.server.workspace, over) and time.monotonic() - began < 3 * RECOVERY:
            time.sleep(0.01)
        self.report.adoptions += len(over)
        self.report.adopted = max(self.report.adopted, time.monotonic() - began)

    def round(self) -> None:
        """Submit and cancel, have a kill fall somewhere in between or later, start again."""
        wishes = self.wishes()
        victim = self.dice.choice((*VICTIMS, "mlflow", "mlflow") if self.metrics else VICTIMS)
        strike = threading.Timer(self.dice.uniform(0.0, self.pause), self.strike, (victim,))
        strike.start()
        unheard = [line for line in wishes if not self.ask(line)]
        if self.metrics:
            self.metrics.say()
        strike.join()
        if victim not in STAYS_UP:
            self.server.kill()
            self.start(wait=self.dice.random() < 0.7)
        for line in unheard:
            self.insist(line)

    def wishes(self) -> list[str]:
        """What is asked for next."""
        going = [name for name in self.jobs if not _ended(self.server.workspace, name)]
        tuning = [name for name in going if self.jobs[name].startswith("chat")]
        new = [self.dice.choice(TUNING)] if len(tuning) < self.tuning else []
        room = self.crowd - (len(going) - len(tuning))
        new += [self.dice.choice(KINDS) for _ in range(min(room, self.dice.randrange(3)))]
        lines = []
        for kind in new:
            name = f"p{len(self.jobs)}"
            self.jobs[name] = kind
            lines.append(f"submit {name} {kind}")
        for name in going:
            if self.jobs[name].endswith("canceled") and self.dice.random() < 0.4:
                lines.append(f"cancel {name}")
        return lines

    def ask(self, line: str) -> bool:
        """Give a command; whether it was heard. What is refused, or fails, is a fault."""
        try:
            return self.server.ask(line)
        except FineryError as error:
            self.report.faults.append(f"{line}: {error}")
            return True

    def insist(self, line: str) -> None:
        """Give a command until it is acknowledged."""
        while not self.ask(line):
            self.server.kill()
            self.start(wait=False)

    def strike(self, victim: str) -> None:
        """Kill the server, a process of a step, or both; or MLflow's server."""
        if victim == "mlflow":
            self.report.kills[victim] += kill_mlflow(self.server.workspace)
            return
        if victim != "step":
            os.kill(self.server.pid, signal.SIGKILL)
        if victim != "server" and not self.kill_a_step():
            if victim == "step":
                return  # there was none
            victim = "server"
        self.report.kills[victim] += 1

    def kill_a_step(self) -> bool:
        """End the entry or the command of a step that runs; whether there was one."""
        running = [
            folder
            for folder in running_attempts(self.server.workspace)
            if self.killed[folder.parent.name] < MOST_STEP_KILLS
        ]
        if not running:
            return False
        folder = self.dice.choice(running)
        about = folder / process.PROCESS
        carriers = process.carriers(read_json(about)["token"]) if about.exists() else []
        if not carriers:
            return False
        self.killed[folder.parent.name] += 1
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.dice.choice(carriers).pid, signal.SIGKILL)
            return True
        return False

    def finish(self) -> Report:
        """Let everything end, and look at what is left."""
        report, workspace = self.report, self.server.workspace
        self.server.kill()
        self.start(wait=True)
        began = time.monotonic()
        for name, kind in self.jobs.items():
            if kind.endswith("canceled"):
                self.insist(f"cancel {name}")
        for name in self.jobs:
            _wait(workspace, name, 300)
        report.last, report.slowest = time.monotonic() - began, self.server.slowest
        report.faults += self.metrics.faults() if self.metrics else []
        self.server.kill()
        for name, kind in self.jobs.items():
            report.faults += faults_of(workspace, name, kind)
            report.states[f"{kind} {service.get(workspace, name).status}"] += 1
            report.attempts += sum(j.attempts for j in service.find(workspace, parent=name)[0])
        report.faults += leftovers(workspace) + weights_differ(workspace, self.jobs)
        slowest = max(report.slowest, report.adopted)
        if slowest > RECOVERY:
            report.faults.append(f"a recovery took {slowest:.1f} s")
        return report


def prove(kills: int, seed: int, folder: Path, *, database: str = "") -> Report:
    """Run pipelines of commands on the small server under `kills` kills."""
    server = JobsServer(folder / "service", database)
    server.start()
    return _run(Trial(server, random.Random(seed), 0, 6, 1.2), kills)  # noqa: S311


def prove_real(
    kills: int,
    seed: int,
    folder: Path,
    *,
    kit: Path = KIT,
    tracking: bool = True,
    tuning: int = 2,
    database: str = "",
) -> Report:
    """Run pipelines on the real service under `kills` kills."""
    server = RealServer(
        folder, kit, {"tracking": tracking, "warm_steps": True, "database_url": database}
    )
    server.start()
    server.prepare()
    try:
        trial = Trial(server, random.Random(seed), tuning, 3, 3.0)  # noqa: S311
        trial.metrics = Metrics() if tracking else None
        return _run(trial, kills)
    finally:
        server.end_all()


def _run(trial: Trial, kills: int) -> Report:
    told = 0
    while trial.report.kills.total() < kills:
        trial.round()
        if trial.report.kills.total() >= told + 10:
            told = trial.report.kills.total()
            print(f"{told} kills, {len(trial.jobs)} jobs", file=sys.stderr, flush=True)
    report = trial.finish()
    trial.server.workspace.store.engine.dispose()
    return report


def _wait(workspace: Workspace, name: str, seconds: float) -> Job:
    until = time.monotonic() + seconds
    while (job := service.get(workspace, name)).status not in TERMINAL:
        if time.monotonic() > until:
            break
        time.sleep(0.05)
    return job


def sweep(folder: Path, points: Sequence[tuple[int, str]]) -> tuple[list[str], int]:
    """Kill a server at each of `points` of one pipeline's life; faults, and deaths that came.

    A point that the pipeline never reaches kills nobody; after several of those it is over.
    """
    workspace = open_workspace(folder / "service")
    server = JobsServer(folder / "service")
    faults: list[str] = []
    deaths = missed = 0
    for at, moment in points:
        if missed == _MISSES:
            break
        name = f"at-{at}-{moment}"
        server.start(f"{at}:{moment}")
        acknowledged = server.ask(f"submit {name} good")
        assert server.child
        if acknowledged:
            while server.child.poll() is None and not _ended(workspace, name):
                time.sleep(0.02)
        missed += 1
        with contextlib.suppress(subprocess.TimeoutExpired):  # a point that is never reached
            server.child.wait(0.5 if acknowledged else 30)
            deaths, missed = deaths + 1, 0
        server.kill()
        server.start()
        while not acknowledged and not server.ask(f"submit {name} good"):
            server.kill()
            server.start()
        _wait(workspace, name, 120)
        server.kill()
        found = faults_of(workspace, name, "good") + leftovers(workspace)
        faults += [f"death at point {at}, {moment} it: {fault}" for fault in found]
    workspace.store.engine.dispose()
    return faults, deaths


def _ended(workspace: Workspace, name: str) -> bool:
    return service.get(workspace, name).status in TERMINAL


def main(arguments: list[str] | None = None) -> int:
    """Kill, look, report; 1 when something is wrong."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kit", type=Path, default=KIT, help="the data kit")
    parser.add_argument("--no-tracking", action="store_true", help="without MLflow")
    parser.add_argument("--small", action="store_true", help="the small server of jobs instead")
    parser.add_argument("--sweep", action="store_true", help="every point of one pipeline instead")
    parser.add_argument("--database", choices=DATABASES, default="sqlite", help="not with --sweep")
    given = parser.parse_args(arguments)
    with _database(given.database) as url:
        return _proved(given, url)


def _database(kind: str) -> contextlib.AbstractContextManager[str]:
    """The URL of a database of the trial's own; "" is SQLite in the folder of the service."""
    return postgres_server() if kind == "postgres" else contextlib.nullcontext("")


def _proved(given: argparse.Namespace, database: str) -> int:
    folder = Path(tempfile.mkdtemp(prefix="finery-chaos-"))
    began = time.monotonic()
    if given.sweep:
        points = [(at, m) for at in range(1, MOST_POINTS) for m in ("before", "after")]
        faults, deaths = sweep(folder, points)
        print(f"{deaths} deaths\n" + ("\n".join(faults) or "every state right"))
    else:
        if given.small:
            report = prove(given.kills, given.seed, folder, database=database)
        else:
            tracking = not given.no_tracking
            how = {"kit": given.kit, "tracking": tracking, "database": database}
            report = prove_real(given.kills, given.seed, folder, **how)
        faults = report.faults
        print(report)
    print(f"{time.monotonic() - began:.0f} s in all")
    if faults:
        print(f"what there was: {folder}")
        return 1
    shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
