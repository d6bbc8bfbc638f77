"""Processes on this machine."""

from __future__ import annotations

import sysconfig
from os import environ, pathsep
from pathlib import Path

from finery.runners import process
from finery.runners.base import Plan, Task

# Libraries that start a thread for every core unless they are told otherwise.
_THREADS: tuple[str, ...] = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "RAYON_NUM_THREADS",
)


class LocalRunner:
    """Runs every task as a process group of its own on this machine."""

    name = "local"

    def plan(self, task: Task) -> Plan:
        """The task with the variables that keep it within its devices."""
        cores = str(task.devices.cores)
        bound: dict[str, str] = dict.fromkeys(_THREADS, cores)
        bound["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, task.devices.gpus))
        # A command that says `python` means the one that finery runs with.
        bound["PATH"] = sysconfig.get_path("scripts") + pathsep + environ.get("PATH", "")
        bound["PYTHONUNBUFFERED"] = "1"  # lines of the log come when they are said
        return Plan(self.name, task, bound | dict(task.environment))

    def submit(self, plan: Plan) -> bool:
        """Start the process; False when this attempt was started before."""
        task = plan.task
        asked = process.Process(
            argv=task.argv,
            token=task.token,
            working_folder=task.working_folder,
            log=task.log,
            environment=plan.environment,
            grace=task.grace,
            loads=None if task.devices.gpus else task.loads,  # the warm host sees no GPU
        )
        return process.start(task.folder, asked)

    def status(self, folder: Path) -> process.State:
        """Where the attempt in `folder` stands."""
        return process.state(folder)

    def exit(self, folder: Path) -> process.Exit:
        """How an ended attempt ended."""
        return process.exit_of(folder)

    def logs(self, plan: Plan) -> Path:
        """The file that holds what the process says."""
        return plan.task.log

    def cancel(self, folder: Path, grace: float = process.GRACE) -> None:
        """End the process and all it started."""
        process.stop(folder, grace)

    def clear(self, token: str) -> int:
        """End what a lost or finished attempt left behind, and count it."""
        return process.end_all(token)
