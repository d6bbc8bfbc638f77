"""One replica: a process of its own that outlives the service, and what it says of itself."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import httpx

from finery.endpoints.supervisor_sharing import parts_of
from finery.endpoints.values import STUB, Deployment, Form, Replica
from finery.files import read_json
from finery.runners import process
from finery.workspace.place import Workspace

LOG = "std_log.txt"
READY = "ready.json"
# finery.inference.server reads these.
KEY = "FINERY_REPLICA_KEY"
ENGINE = "FINERY_ENGINE"
ANSWER_GRACE = "FINERY_REPLICA_GRACE"  # seconds that answers have which are under way
STUB_SETTINGS = "FINERY_STUB"  # of a deployment with the engine stub: rate=50&fail=0.05
GRACE = 5.0  # seconds beyond an answer's longest time in which a replica ends
# Threads that spin while they wait for others make all ten times slower on a busy machine.
_QUIET = {"OMP_WAIT_POLICY": "PASSIVE", "PYTHONUNBUFFERED": "1"}
KEPT_LOGS = 5  # of the replicas that a deployment had before
REFUSED = frozenset({1, 2, 3})  # exit statuses of a FineryError: another attempt ends the same


def folder_of(workspace: Workspace, replica: Replica) -> Path:
    """The replica's own folder: its lock, its log, how it ended."""
    return deployment_folder(workspace, replica.endpoint, replica.deployment) / replica.id


def deployment_folder(workspace: Workspace, endpoint: str, deployment: str) -> Path:
    """Where the replicas of a deployment lie; the names have passed `rules.name_faults`."""
    return workspace.replicas / endpoint / deployment


def command(name: str, form: Form, folder: Path) -> tuple[str, ...]:
    """What a replica of a deployment called `name` runs."""
    model = f"stub:{form.environment.get(STUB_SETTINGS, '')}" if form.engine == STUB else form.model
    return (
        *(sys.executable, "-P", "-m", "finery.inference.server", model),
        *("--name", name, "--ready", str(folder / READY), "--at-once", str(form.at_once)),
    )


def start(workspace: Workspace, replica: Replica, deployment: Deployment, form: Form) -> None:
    """Start its process, once."""
    folder = folder_of(workspace, replica)
    ours = {
        ENGINE: form.engine,
        KEY: replica.key,
        ANSWER_GRACE: f"{deployment.timeout_seconds:g}",
    }
    shared: tuple[str, ...] = ()
    if replica.adapter and (parts := parts_of(form)):  # the base alone, with what may be many
        form = dataclasses.replace(form, model=parts.base)
        shared = ("--adapter", f"{replica.adapter}={parts.adapter}")
    asked = process.Process(
        argv=(*command(deployment.name, form, folder), *shared),
        token=replica.id,
        working_folder=folder,
        log=folder / LOG,
        environment={**_QUIET, **form.environment, **ours},
        grace=deployment.timeout_seconds + GRACE,
        loads=0.0,  # torch and its like, which a warm host may have loaded already
    )
    process.start(folder, asked)


def report_of(workspace: Workspace, replica: Replica) -> dict[str, Any] | None:
    """What it says of itself once it answers: its port, engine, precision, context, proof."""
    path = folder_of(workspace, replica) / READY
    return read_json(path) if path.is_file() else None


def is_healthy(replica: Replica, timeout: float) -> bool:
    """Whether it answers in time."""
    try:
        response = httpx.get(
            f"http://127.0.0.1:{replica.port}/health",
            headers={"authorization": f"Bearer {replica.key}"},
            timeout=timeout,
            trust_env=False,
        )
    except httpx.HTTPError:
        return False
    return response.is_success


def was_refused(workspace: Workspace, replica: Replica) -> bool:
    """Whether the process itself said that the model cannot be served."""
    folder = folder_of(workspace, replica)
    if process.state(folder) != "ended":
        return False
    end = process.exit_of(folder)
    return not end.killed and end.returncode in REFUSED


def was_killed(workspace: Workspace, replica: Replica) -> bool:
    """Whether something outside ended it with SIGKILL: that says nothing of the replica."""
    folder = folder_of(workspace, replica)
    return process.state(folder) != "ended" or (
        process.exit_of(folder).returncode == -signal.SIGKILL
    )


def how_it_ended(workspace: Workspace, replica: Replica) -> str:
    """The end of its process in a few words."""
    folder = folder_of(workspace, replica)
    if process.state(folder) != "ended":
        return "killed from outside"
    end = process.exit_of(folder)
    if end.error:
        return end.error
    if end.returncode == -signal.SIGKILL:
        return "killed by signal 9; was the machine out of memory?"
    if end.returncode < 0:
        return f"killed by signal {-end.returncode}"
    return f"exit status {end.returncode}"


def tail(path: Path, lines: int) -> str:
    """The last lines of a log; "" when there is none."""
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - 400 * max(lines, 1) - 65536))
        text = file.read().decode("utf-8", errors="replace")
    return "\n".join(text.splitlines()[-lines:] if lines else [])


def newest_log(workspace: Workspace, endpoint: str, deployment: str) -> Path | None:
    """The log of the replica that was started last."""
    logs = list(deployment_folder(workspace, endpoint, deployment).glob(f"*/{LOG}"))
    return max(logs, key=_started, default=None)


def _started(log: Path) -> float:
    mark = log.parent / process.PROCESS  # written once, when the replica is started
    return mark.stat().st_mtime if mark.exists() else 0.0


def forget(workspace: Workspace, replica: Replica) -> None:
    """Keep the logs of the last few replicas of its deployment, remove the older ones."""
    folder = deployment_folder(workspace, replica.endpoint, replica.deployment)
    ended = [log for log in folder.glob(f"*/{LOG}") if not process.is_running(log.parent)]
    for log in sorted(ended, key=_started)[:-KEPT_LOGS]:
        shutil.rmtree(log.parent, ignore_errors=True)


def remove_folders(workspace: Workspace, endpoint: str, deployment: str = "") -> None:
    """The folders of a deployment that is gone, or of a whole endpoint."""
    folder = workspace.replicas / endpoint / deployment
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(folder)
