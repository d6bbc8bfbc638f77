"""Kills the server of jobs, the steps, or both, at random moments, and counts what is lost.

Pipelines of tiny commands are submitted all along, some of which fail or are canceled. At the
end every job that was acknowledged must be there with the right final state and output, no
step may have completed twice, and no process may be left over.

    python -m tests.chaos.pipelines --kills 100
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import sqlalchemy as sa
from jobs_server import open_workspace

from finery.files import read_json
from finery.jobs import service
from finery.jobs.job import TERMINAL, Job
from finery.jobs.tables import attempts, leases
from finery.runners import process
from finery.workspace.place import Workspace

SERVER = Path(__file__).with_name("jobs_server.py")
MOST_POINTS = 1000  # more than one pipeline has
_MISSES = 6
MOST_STEP_KILLS = 2  # of one step; the third loss is its end
KINDS = ("good", "good", "good", "failing", "canceled")
VICTIMS = ("server", "server", "step", "both")
EXPECTED = {"good": "Completed", "failing": "Failed"}


@dataclass
class Server:
    """The server's process, started again as often as it dies."""

    folder: Path
    die: str = "0:after"
    child: subprocess.Popen[str] | None = None
    slowest: float = 0.0  # seconds from a start to the answer

    def start(self, die: str = "0:after") -> None:
        """Start it and wait until it answers."""
        began = time.monotonic()
        argv = [sys.executable, str(SERVER), str(self.folder), "--die", die]
        log = (self.folder.parent / "server.log").open("a")
        with log:
            self.child = subprocess.Popen(
                argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
            )
        assert self.child.stdout
        word = self.child.stdout.readline()
        assert word == "ready\n", f"the server did not start: {log.name}"
        self.slowest = max(self.slowest, time.monotonic() - began)

    def ask(self, line: str) -> bool:
        """Give a command; whether it was acknowledged before the server died."""
        assert self.child and self.child.stdin and self.child.stdout
        try:
            self.child.stdin.write(line + "\n")
            self.child.stdin.flush()
        except BrokenPipeError:
            return False
        return self.child.stdout.readline().startswith("ok")

    def kill(self) -> None:
        """End it at once and collect it."""
        assert self.child
        self.child.kill()
        self.child.wait()
        for pipe in (self.child.stdin, self.child.stdout):
            assert pipe
            with contextlib.suppress(BrokenPipeError):
                pipe.close()


@dataclass
class Report:
    """What was done and what came of it."""

    kills: Counter[str] = field(default_factory=Counter)
    states: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    slowest: float = 0.0
    last: float = 0.0  # seconds from the last start until every job had ended

    def __str__(self) -> str:
        kills = ", ".join(f"{count} {what}" for what, count in sorted(self.kills.items()))
        states = ", ".join(f"{count} {what}" for what, count in sorted(self.states.items()))
        faults = "\n".join(self.faults) or "nothing lost, nothing twice, every state right"
        times = f"slowest start {self.slowest:.1f} s, all ended {self.last:.1f} s after the last"
        return f"kills: {kills}\njobs: {states}\n{times}\n{faults}"


def prove(kills: int, seed: int, folder: Path) -> Report:
    """Run pipelines under `kills` kills and look at what is left."""
    dice = random.Random(seed)  # noqa: S311
    workspace = open_workspace(folder / "service")
    server, report = Server(folder / "service"), Report()
    jobs: dict[str, str] = {}
    killed: Counter[str] = Counter()
    server.start()
    while sum(report.kills.values()) < kills:
        for _ in range(dice.randrange(1, 4)):
            name, kind = f"p{len(jobs)}", dice.choice(KINDS)
            jobs[name] = kind
            _insist(server, f"submit {name} {kind}")
        if canceled := [n for n, kind in jobs.items() if kind == "canceled"]:
            _insist(server, f"cancel {dice.choice(canceled)}")
        time.sleep(dice.uniform(0.0, 1.2))
        victim = dice.choice(VICTIMS)
        report.kills[victim] += 1
        if victim != "step":
            server.kill()
        if victim != "server":
            _kill_a_step(workspace, dice, killed)
        if victim != "step":
            server.start()
    server.kill()
    server.start()
    began = time.monotonic()
    for name, kind in jobs.items():
        if kind == "canceled":
            _insist(server, f"cancel {name}")
        _wait(workspace, name, 300)
    report.last, report.slowest = time.monotonic() - began, server.slowest
    server.kill()
    for name, kind in jobs.items():
        report.faults += faults_of(workspace, name, kind)
        report.states[service.get(workspace, name).status] += 1
    report.faults += leftovers(workspace)
    workspace.store.engine.dispose()
    return report


def _insist(server: Server, line: str) -> None:
    """Give a command until it is acknowledged."""
    while not server.ask(line):
        server.kill()
        server.start()


def _kill_a_step(workspace: Workspace, dice: random.Random, killed: Counter[str]) -> None:
    """End the entry or the command of a step that runs."""
    running = [f for f in workspace.jobs.glob("*/*/*") if process.is_running(f)]
    running = [f for f in running if killed[f.parent.name] < MOST_STEP_KILLS]
    if not running:
        return
    folder = dice.choice(running)
    killed[folder.parent.name] += 1
    token = (
        read_json(folder / process.PROCESS)["token"] if (folder / process.PROCESS).exists() else ""
    )
    carriers = process.carriers(token) if token else []
    if carriers:
        with contextlib.suppress(ProcessLookupError):
            os.kill(dice.choice(carriers).pid, signal.SIGKILL)


def _wait(workspace: Workspace, name: str, seconds: float) -> Job:
    until = time.monotonic() + seconds
    while (job := service.get(workspace, name)).status not in TERMINAL:
        if time.monotonic() > until:
            break
        time.sleep(0.05)
    return job


def faults_of(workspace: Workspace, name: str, kind: str) -> list[str]:
    """What is wrong with a job and its steps."""
    job = service.get(workspace, name)
    faults = []
    if job.status not in TERMINAL:
        faults.append(f"{name} ({kind}) has not ended: {job.status}")
    if job.status != EXPECTED.get(kind, job.status):
        faults.append(f"{name} ({kind}) ended as {job.status}: {job.error}")
    steps = service.find(workspace, parent=name)[0]
    if job.status == "Completed":
        final = workspace.job_outputs(name) / "final" / "f"
        if not final.exists() or final.read_text() != "a\nb\nc\n":
            faults.append(f"{name} completed without its output")
    for step in steps:
        faults += _faults_of_step(workspace, name, step)
    log = service.log_files(workspace, name)
    if log:
        own = [x.partition("Z ")[2] for x in log[0].path.read_text().splitlines() if x[:1] != "["]
        faults += [f"{name} says twice: {x}" for x, n in Counter(own).items() if x and n > 1]
    return faults


def _faults_of_step(workspace: Workspace, name: str, step: Job) -> list[str]:
    where = f"{name}.{step.step_path}"
    faults = []
    if step.status not in TERMINAL:
        faults.append(f"{where} has not ended: {step.status}")
    ends = [read_json(path) for path in (workspace.jobs / name / step.name).glob("*/exit.json")]
    completed = sum(end["returncode"] == 0 and not end["stopped"] for end in ends)
    if completed > 1:
        faults.append(f"{where} completed {completed} times")
    if step.status == "Completed" and completed != 1:
        faults.append(f"{where} is said to have completed, and did not")
    return faults


def leftovers(workspace: Workspace) -> list[str]:
    """Processes and claims that nobody gave back."""
    with workspace.store.read() as connection:
        claims = connection.execute(sa.select(leases.c.job)).scalars().all()
        tokens = connection.execute(sa.select(attempts.c.token, attempts.c.outcome)).all()
    found = [f"{job} still holds its devices" for job in claims]
    found += [f"an attempt has no outcome: {token}" for token, outcome in tokens if not outcome]
    found += [f"{token} still runs" for token, _ in tokens if process.carriers(token)]
    return found


def sweep(folder: Path, points: list[tuple[int, str]]) -> tuple[list[str], int]:
    """Kill a server at each of `points` of one pipeline's life; faults, and deaths that came.

    A point that the pipeline never reaches kills nobody; after several of those it is over.
    """
    workspace = open_workspace(folder / "service")
    server = Server(folder / "service")
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
        if not acknowledged:
            _insist(server, f"submit {name} good")
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
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sweep", action="store_true", help="every point of one pipeline instead")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        if given.sweep:
            points = [(at, m) for at in range(1, MOST_POINTS) for m in ("before", "after")]
            faults, deaths = sweep(Path(folder), points)
            print(f"{deaths} deaths\n" + ("\n".join(faults) or "every state right"))
            return 1 if faults else 0
        report = prove(given.kills, given.seed, Path(folder))
        print(report)
        return 1 if report.faults else 0


if __name__ == "__main__":
    sys.exit(main())
