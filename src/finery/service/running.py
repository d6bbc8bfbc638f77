"""The service that runs, as its folder knows it: `service.json`, written when it is up."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from finery.errors import FineryError
from finery.files import read_json, write_json

FILE = "service.json"
# Start times come from the kernel's clock ticks and may be read a little differently each time.
SAME_START = 2.0
START_PATIENCE = 60.0
STOP_PATIENCE = 30.0
POLL = 0.02


@dataclass(frozen=True)
class Running:
    """One process of the service and its addresses."""

    pid: int
    started: float  # of the process, seconds since 1970
    host: str
    port: int
    http_port: int
    url: str
    http_url: str
    version: str

    @property
    def is_alive(self) -> bool:
        """Whether that very process still runs."""
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.started) < SAME_START
            return same and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False


def write_running(folder: Path, running: Running) -> None:
    """Say where the service is."""
    write_json(folder / FILE, asdict(running))


def last_running(folder: Path) -> Running | None:
    """The service that ran last in this folder, alive or not."""
    path = folder / FILE
    return Running(**read_json(path)) if path.is_file() else None


def running_service(folder: Path) -> Running | None:
    """The service that runs now; None when there is none."""
    last = last_running(folder)
    return last if last and last.is_alive else None


def start_service(folder: Path, options: Mapping[str, int | str | None]) -> Running:
    """The service as a process of its own, answering: the one that runs, or a new one."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "start.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # of two commands at once, one starts it
        return running_service(folder) or _start(folder, options)


def _start(folder: Path, options: Mapping[str, int | str | None]) -> Running:
    given = {f"--{name.replace('_', '-')}": value for name, value in options.items()}
    flags = [f"{name}={value}" for name, value in given.items() if value is not None]
    log = folder / "logs" / "service.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as sink:
        at = sink.tell()
        process = subprocess.Popen(
            [sys.executable, "-m", "finery.cli.main", "up", "--foreground", *flags],
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
            start_new_session=True,
            cwd="/",
        )
    end = time.monotonic() + START_PATIENCE
    while time.monotonic() < end:
        if running := running_service(folder):
            return running
        if process.poll() is not None:
            said = log.read_bytes()[at:].decode("utf-8", "replace").strip()
            raise FineryError(f"The service did not start:\n{said.removeprefix('finery: ')}")
        time.sleep(POLL)
    process.terminate()
    text = f"The service did not answer within {START_PATIENCE:.0f} s. {log} says more."
    raise FineryError(text)


def stop_service(running: Running) -> None:
    """End the service politely; the steps and replicas that it started live on."""
    os.kill(running.pid, signal.SIGTERM)
    end = time.monotonic() + STOP_PATIENCE
    while running.is_alive:
        if time.monotonic() > end:
            text = (
                f"The service (process {running.pid}) did not end within {STOP_PATIENCE:.0f} s. "
                f"`kill -9 {running.pid}` loses nothing that was acknowledged."
            )
            raise FineryError(text)
        time.sleep(POLL)
