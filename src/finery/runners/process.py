"""A process that outlives who started it, and whose life is known for certain.

A process has a folder. Its `lock` is held by the entry (`finery.runners.entry`) from before
the entry begins until it ends: whoever wants to know whether the process lives tries the lock,
whichever server started it. `exit.json` is the entry's last word. A free lock without it means
that the process was lost: killed from outside, or the machine went down.

Every process of the tree carries `FINERY_ATTEMPT=<token>` in its environment, so that what a
lost entry leaves behind is found and ended before anything takes its place.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from finery.files import read_json, write_json
from finery.runners import warm
from finery.runners.carriers import TOKEN, carriers, token_of

log = logging.getLogger("finery.runners")
PROCESS, STARTED, EXIT, LOCK = "process.json", "started.json", "exit.json", "lock"
GRACE = 10.0  # seconds between asking a process to end and ending it
_LOOK = 1.0  # seconds in which somebody's look at a lock is over
_OURS = frozenset({"FINERY_DATABASE_URL"})  # may hold a password, and no step opens the store
_GONE = 30.0  # seconds in which killed processes must be gone

State = Literal["never", "running", "ended", "lost"]


@dataclass(frozen=True)
class Process:
    """What to run. The environment is handed over, not written down: it may hold secrets."""

    argv: tuple[str, ...]
    token: str
    working_folder: Path
    log: Path  # standard output and error are appended to it
    environment: Mapping[str, str] = field(default_factory=dict)  # beside our own
    grace: float = GRACE
    loads: float | None = None  # needs what a warm host has loaded; how long it waits for that

    def written(self) -> dict[str, object]:
        """What the entry reads in `process.json`."""
        return {
            "argv": list(self.argv),
            "token": self.token,
            "working_folder": str(self.working_folder),
            "log": str(self.log),
            "grace": self.grace,
        }


@dataclass(frozen=True)
class Exit:
    """How a process ended."""

    returncode: int  # negative: the signal that ended it
    stopped: bool = False  # whether the entry was asked to end it
    error: str = ""  # why it could not be started

    @property
    def killed(self) -> bool:
        """Whether something outside ended it; 137 is a shell's word for a killed child."""
        ended_by = {-signal.SIGKILL, -signal.SIGTERM, -signal.SIGHUP, -signal.SIGINT}
        return self.stopped or self.returncode in ended_by or self.returncode == 137


def start(folder: Path, process: Process) -> bool:
    """Start `process` in `folder`; False when it runs, or ran, there already.

    The entry inherits the lock, so there is no moment at which it lives without holding it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with _opened(folder) as lock:
        # Who only looks holds the lock for a moment; an entry holds it, and says that it started.
        until = time.monotonic() + _LOOK
        while not _taken(lock) and not (folder / STARTED).exists() and time.monotonic() < until:
            time.sleep(0.005)
        if not _taken(lock) or (folder / STARTED).exists() or (folder / EXIT).exists():
            return False
        write_json(folder / PROCESS, process.written())
        inherited = {name: value for name, value in os.environ.items() if name not in _OURS}
        environment = {**inherited, **process.environment, TOKEN: process.token}
        if not _started_warm(folder, process, environment, lock):
            _start_cold(folder, environment, lock)
    return True


def _started_warm(
    folder: Path, process: Process, environment: Mapping[str, str], lock: int
) -> bool:
    host = warm.current()
    if host is None or process.loads is None or not warm.is_ordinary(process.environment):
        return False
    try:
        return host.take(process.argv, environment, folder, lock, patience=process.loads)
    except warm.HandOverError as error:
        log.warning("%s; it is started anew", error)
        end_all(process.token)
        return (folder / STARTED).exists()  # and lost by now, as whoever looks finds out


def _start_cold(folder: Path, environment: Mapping[str, str], lock: int) -> None:
    argv = [sys.executable, "-P", "-m", "finery.runners.entry", str(folder), str(lock)]
    with (folder / "entry.log").open("ab") as said:
        child = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            cwd=folder,
            env=environment,
            pass_fds=(lock,),
            start_new_session=True,
        )
    # Collects the exit status; a process that ended and that nobody waits for stays a zombie.
    threading.Thread(target=child.wait, name=f"reap {child.pid}", daemon=True).start()


def state(folder: Path) -> State:
    """Where the process of `folder` stands, whoever started it."""
    if is_running(folder):
        return "running"
    if (folder / EXIT).exists():
        return "ended"
    return "lost" if (folder / STARTED).exists() else "never"


def is_running(folder: Path) -> bool:
    """Whether the entry of `folder` lives."""
    if not (folder / LOCK).exists():
        return False
    with _opened(folder) as lock:
        return not _taken(lock, shared=True)


def exit_of(folder: Path) -> Exit:
    """How the process of `folder` ended; raises FineryError when it did not."""
    return Exit(**read_json(folder / EXIT))


def write_exit(folder: Path, end: Exit) -> None:
    """The entry's last word."""
    write_json(folder / EXIT, asdict(end))


def ask_to_stop(folder: Path) -> bool:
    """Ask the process to end: its whole group gets SIGTERM, and after the grace SIGKILL.

    False when it has not come far enough to be asked.
    """
    if not (folder / STARTED).exists():
        return False
    pid = int(read_json(folder / STARTED)["pid"])
    token = str(read_json(folder / PROCESS)["token"])
    if is_running(folder) and token_of(pid) == token:  # the number may be another's by now
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    return True


def stop(folder: Path, grace: float = GRACE) -> None:
    """End the process and everything it started; returns when nothing of it is left."""
    until = time.monotonic() + grace + 1.0
    asked = False
    while is_running(folder) and time.monotonic() < until:
        asked = asked or ask_to_stop(folder)
        time.sleep(0.02)
    if (folder / PROCESS).exists():
        end_all(str(read_json(folder / PROCESS)["token"]))


def end_all(token: str) -> int:
    """Kill every process that carries `token`, and return how many there were.

    Returns when none is left: only then may another process take over what they wrote to.
    """
    import psutil  # here: the entry, which starts with every step, needs none of it

    killed: set[int] = set()
    until = time.monotonic() + _GONE
    while left := carriers(token):
        for process in left:
            killed.add(process.pid)
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        if time.monotonic() > until:
            raise TimeoutError(f"{len(left)} killed processes of {token} do not go away")
        psutil.wait_procs(left, timeout=0.2)
    return len(killed)


@contextlib.contextmanager
def _opened(folder: Path) -> Iterator[int]:
    handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        yield handle
    finally:
        os.close(handle)


def _taken(handle: int, *, shared: bool = False) -> bool:
    """Whether the lock could be had; it goes with the handle."""
    try:
        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
