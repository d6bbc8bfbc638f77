"""What a runner is: it plans, submits, tells the state, shows the log, and cancels.

A plan is a value that can be printed before anything happens. Runners never retry: whether a
lost process gets another attempt is decided by jobs alone.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from finery.runners.process import GRACE, Exit, State


@dataclass(frozen=True)
class Devices:
    """What a process may use of a machine."""

    cores: int = 1
    gpus: tuple[int, ...] = ()

    def __str__(self) -> str:
        cores = f"{self.cores} core{'s' if self.cores != 1 else ''}"
        return f"{cores}, GPU {','.join(map(str, self.gpus))}" if self.gpus else cores


@dataclass(frozen=True)
class Task:
    """One attempt at a step: what to run, where, and on what."""

    folder: Path  # the attempt's own
    token: str
    argv: tuple[str, ...]
    working_folder: Path
    log: Path
    devices: Devices = Devices()
    environment: Mapping[str, str] = field(default_factory=dict)
    grace: float = GRACE
    loads: float | None = None  # see `finery.runners.process.Process`


@dataclass(frozen=True)
class Plan:
    """What a runner would do with a task."""

    runner: str
    task: Task
    environment: Mapping[str, str]  # the task's, and what the devices ask for

    def __str__(self) -> str:
        task = self.task
        names = ", ".join(sorted(self.environment)) or "none"  # values may be secrets
        return "\n".join(
            (
                f"runner: {self.runner}",
                f"devices: {task.devices}",
                f"command: {shlex.join(task.argv)}",
                f"working folder: {task.working_folder}",
                f"log: {task.log}",
                f"variables: {names}",
            )
        )


class Runner(Protocol):
    """A place where processes run."""

    name: str

    def plan(self, task: Task) -> Plan:
        """What would happen; changes nothing."""
        ...

    def submit(self, plan: Plan) -> bool:
        """Start it; False when this attempt was started before."""
        ...

    def status(self, folder: Path) -> State:
        """Where the attempt in `folder` stands."""
        ...

    def exit(self, folder: Path) -> Exit:
        """How an ended attempt ended."""
        ...

    def logs(self, plan: Plan) -> Path:
        """The file that holds what the process says."""
        ...

    def cancel(self, folder: Path, grace: float) -> None:
        """End it and all it started; returns when nothing of it is left."""
        ...

    def clear(self, token: str) -> int:
        """End what a lost or finished attempt left behind, and count it."""
        ...
