"""What the workflows of a running server share: the workspace, the runner, and how they wait."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from finery.jobs.capacity import Machine, this_machine
from finery.jobs.job import execution_log
from finery.jobs.log import ExecutionLog
from finery.runners.base import Runner
from finery.runners.local import LocalRunner
from finery.runners.process import GRACE
from finery.workspace.errors import UnavailableError
from finery.workspace.place import Workspace


class Stopping(BaseException):
    """The server ends, and what waits has to let go.

    Not an Exception: DBOS records those as a workflow's outcome, and this is none. The workflow
    stays pending, and the next server goes on with it.
    """


@dataclass
class Runtime:
    """One running server's jobs."""

    workspace: Workspace
    runner: Runner = field(default_factory=LocalRunner)
    machine: Machine = field(default_factory=this_machine)
    grace: float = GRACE  # between SIGTERM and SIGKILL of a canceled step
    # One claim is looked at after the other; a transaction alone does not see to it everywhere.
    claims: threading.Lock = field(default_factory=threading.Lock)
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _generation: int = 0
    _stopping: bool = False
    _driven: set[str] = field(default_factory=set)
    _logs: dict[str, ExecutionLog] = field(default_factory=dict)

    @property
    def generation(self) -> int:
        """A number that grows whenever a job's state changes."""
        return self._generation

    @property
    def is_stopping(self) -> bool:
        """Whether the server ends."""
        return self._stopping

    def changed(self) -> None:
        """Wake everybody who waits for a change."""
        with self._changed:
            self._generation += 1
            self._changed.notify_all()

    def wait(self, seen: int, seconds: float) -> int:
        """Wait until something changes after `seen`, at most `seconds`; the new generation.

        Raises Stopping when the server ends.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._stopping or self._generation != seen, seconds)
            self.check()
            return self._generation

    def pause(self, seconds: float) -> bool:
        """Let time pass; whether the server goes on."""
        with self._changed:
            return not self._changed.wait_for(lambda: self._stopping, seconds)

    def check(self) -> None:
        """Raise Stopping when the server ends."""
        if self._stopping:
            raise Stopping

    @contextlib.contextmanager
    def driving(self, name: str) -> Iterator[None]:
        """Be the one thread of this server that drives the job `name`."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopping or name not in self._driven)
            self.check()
            self._driven.add(name)
        try:
            yield
        finally:
            with self._changed:
                self._driven.discard(name)
                self._changed.notify_all()

    def stop(self, seconds: float = 5.0) -> None:
        """Let every thread that drives a job let go; what runs goes on running."""
        until = time.monotonic() + seconds
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._driven, until - time.monotonic())

    def log(self, pipeline: str) -> ExecutionLog:
        """The execution log of a pipeline."""
        with self._changed:
            if pipeline not in self._logs:
                path = execution_log(self.workspace, pipeline)
                self._logs[pipeline] = ExecutionLog(path)
            return self._logs[pipeline]

    def forget_log(self, pipeline: str) -> None:
        """A pipeline that has ended needs its log no more."""
        with self._changed:
            self._logs.pop(pipeline, None)


_current: Runtime | None = None  # DBOS is one per process, and so is this


def current() -> Runtime:
    """The running server's; raises UnavailableError when jobs are not up."""
    if _current is None:
        raise UnavailableError("Jobs are not up yet. Try again in a moment.")
    return _current


def running() -> Runtime | None:
    """The running server's, or None."""
    return _current


def use(runtime: Runtime | None) -> None:
    """Make `runtime` the one that workflows find."""
    global _current
    _current = runtime
