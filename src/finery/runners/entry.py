"""The process that stands between a server and a command: `python -m finery.runners.entry`.

It holds the lock of its folder, starts the command in a group of its own, passes on the wish
to end, and writes down how the command ended. It imports little: it starts with every step.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

from finery.files import read_json, write_json
from finery.runners.process import PROCESS, STARTED, Exit, write_exit

_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of Linux's prctl


class Child(Protocol):
    """A command that was started."""

    pid: int

    def wait(self) -> int:
        """Its exit status, or the number of the signal that ended it below zero."""
        ...


Spawn = Callable[[dict[str, Any]], Child]  # starts what process.json says


def main(folder: Path, lock: int, spawn: Spawn | None = None) -> None:
    """Run the process of `folder`; `lock` is the open lock that we were handed."""
    os.set_inheritable(lock, False)  # the command must not hold it beyond our end
    write_json(folder / STARTED, {"pid": os.getpid(), "at": time.time()})
    process = read_json(folder / PROCESS)
    try:
        end = _run(process, spawn or _spawn)
    except OSError as error:
        end = Exit(127, error=f"{process['argv'][0]}: {error.strerror or error}")
    write_exit(folder, end)
    os.close(lock)


def _run(process: dict[str, Any], spawn: Spawn) -> Exit:
    stopped = False
    child: Child | None = None

    def stop(_number: int, _frame: FrameType | None) -> None:
        nonlocal stopped
        stopped = True
        if child is not None:
            _signal_group(child, signal.SIGTERM)
            signal.setitimer(signal.ITIMER_REAL, max(float(process["grace"]), 0.001))

    def end(_number: int, _frame: FrameType | None) -> None:
        if child is not None:
            _signal_group(child, signal.SIGKILL)

    signal.signal(signal.SIGALRM, end)
    signal.signal(signal.SIGTERM, stop)
    child = spawn(process)
    if stopped:  # asked between the lines above
        stop(signal.SIGTERM, None)
    returncode = child.wait()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the last word follows
    _signal_group(child, signal.SIGKILL)  # what the command left running in its group
    return Exit(returncode, stopped=stopped)


def _spawn(process: dict[str, Any]) -> subprocess.Popen[bytes]:
    log = Path(process["log"])
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        return subprocess.Popen(
            process["argv"],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=process["working_folder"],
            start_new_session=True,
            preexec_fn=die_with(os.getpid()),  # safe: this process has one thread
        )


def die_with(parent: int) -> Callable[[], None] | None:
    """Where the system can, the command ends when we are killed."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl

    def arrange() -> None:
        prctl(_DIE_WITH_PARENT, signal.SIGKILL)
        if os.getppid() != parent:  # we died before the arrangement held
            os._exit(1)

    return arrange


def _signal_group(child: Child, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, number)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
    os._exit(0)  # everything is written; what Python does at its end takes longer than we did
