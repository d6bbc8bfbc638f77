"""One replica: a process of its own that outlives the service, and what it says of itself."""

from __future__ import annotations

import contextlib
import shutil
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

import httpx

from finery.endpoints.values import Deployment, Probe, Replica
from finery.files import read_json
from finery.runners import process
from finery.workspace.place import Workspace

LOG = "std_log.txt"
READY = "ready.json"
KEY = "FINERY_REPLICA_KEY"  # finery.inference.server reads it
GRACE = 15.0  # seconds for answers that are under way
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


def command(deployment: Deployment, folder: Path) -> tuple[str, ...]:
    """What a replica of a deployment runs."""
    return (
        *(sys.executable, "-P", "-m", "finery.inference.server", deployment.model),
        *("--name", deployment.name, "--ready", str(folder / READY)),
        *("--at-once", str(deployment.at_once)),
    )


def start(workspace: Workspace, replica: Replica, deployment: Deployment) -> None:
    """Start its process, once."""
    folder = folder_of(workspace, replica)
    asked = process.Process(
        argv=command(deployment, folder),
        token=replica.id,
        working_folder=folder,
        log=folder / LOG,
        environment={**_QUIET, **deployment.environment, KEY: replica.key},
        grace=GRACE,
        loads=0.0,  # the supervisor waits for nobody: it looks after others too
    )
    process.start(folder, asked)


def ready_port(workspace: Workspace, replica: Replica) -> int:
    """The port on which it answers; 0 as long as it does not."""
    path = folder_of(workspace, replica) / READY
    return int(read_json(path)["port"]) if path.is_file() else 0


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


def probe_of(settings: Mapping[str, float]) -> Probe:
    """The probe that a deployment asks for."""
    return Probe(**settings)  # pyright: ignore[reportArgumentType] - failures is whole by rule


def was_refused(workspace: Workspace, replica: Replica) -> bool:
    """Whether the process itself said that the model cannot be served."""
    folder = folder_of(workspace, replica)
    if process.state(folder) != "ended":
        return False
    end = process.exit_of(folder)
    return not end.killed and end.returncode in REFUSED


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
