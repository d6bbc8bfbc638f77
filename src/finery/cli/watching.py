"""A run in a child process, started again when the kernel killed it for memory.

The watcher is this process before it has loaded anything; the run is a fork of it, on the same
terminal. A kill for memory cannot be handled by the process it ends, so the watcher starts the
run anew, which goes on from its last checkpoint with half the micro-batch
(`finery.training.out_of_memory`). The run dies with its watcher.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import typer

from finery.training.out_of_memory import killed_for_memory

_PR_SET_PDEATHSIG = 1  # prctl(2)
Watch = Callable[[Path], None]


def watch(run: Path) -> None:
    """Return in a child; this process waits for it, and ends with its exit status.

    Where there is no fork (not Linux) the run is this process, unwatched.
    """
    if not sys.platform.startswith("linux"):
        return
    while True:
        watcher = os.getpid()
        sys.stdout.flush()
        sys.stderr.flush()
        child = os.fork()
        if child == 0:
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != watcher:  # it died before that was set
                os._exit(1)
            return
        status = _wait(child)
        if status != -signal.SIGKILL or not killed_for_memory(run):
            raise typer.Exit(status if status >= 0 else 128 - status)
        typer.echo("finery: the kernel killed the run for memory; it goes on with less", err=True)


def _wait(child: int) -> int:
    """The exit status of a child, negative for the signal that ended it.

    Ctrl-C reaches the child by itself; what is sent to this process alone is passed on.
    """

    def pass_on(number: int, _: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, number)

    before = {
        signal.SIGINT: signal.signal(signal.SIGINT, signal.SIG_IGN),
        signal.SIGTERM: signal.signal(signal.SIGTERM, pass_on),
        signal.SIGHUP: signal.signal(signal.SIGHUP, pass_on),
    }
    try:
        _, status = os.waitpid(child, 0)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return os.waitstatus_to_exitcode(status)
