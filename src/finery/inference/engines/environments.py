"""Engines whose packages clash with ours live in environments of their own.

`FINERY_HOME/engines/NAME` is a virtual environment made with the Python that runs finery. A
virtual environment cannot be renamed (its scripts hold its path), so it is made in place and
`manifest.json`, written last, says that it is whole; one without it is made again.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import shutil
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

from finery.errors import Fault, FineryError, InputError, did_you_mean, first_line
from finery.files import MANIFEST, home, read_json, write_json
from finery.inference.engines.packages import ROWS, Row

_LAST_LINES = 12  # of pip's, repeated by an error
# Would send the packages elsewhere, or show the environment ours.
_NOT_HANDED_DOWN = (
    "PIP_PREFIX",
    "PIP_REQUIRE_VIRTUALENV",
    "PIP_TARGET",
    "PIP_USER",
    "PYTHONHOME",
    "PYTHONPATH",
    "VIRTUAL_ENV",
    "FINERY_DATABASE_URL",  # may hold a password
    "FINERY_REPLICA_KEY",
)


@dataclass(frozen=True)
class Environment:
    """An environment that is whole."""

    engine: str
    device: str  # cpu or cuda
    packages: tuple[str, ...]  # what pip was asked for
    python_version: str

    @property
    def folder(self) -> Path:
        """Where it lies."""
        return place(self.engine)

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.folder / "bin" / "python"


def place(name: str) -> Path:
    """The folder of an engine's environment, there or not."""
    return home() / "engines" / name


def names() -> list[str]:
    """The engines that can be installed."""
    return sorted({row.engine for row in ROWS})


@cache
def has_cuda() -> bool:
    """Whether this machine has an NVIDIA GPU that its driver can use; no library is loaded."""
    with contextlib.suppress(OSError, AttributeError):
        driver = ctypes.CDLL("libcuda.so.1")
        count = ctypes.c_int(0)
        return driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 < (
            count.value
        )
    return False


def row_of(name: str) -> Row:
    """What `name` is made of on this machine; raises InputError for an engine not known."""
    rows = {row.device: row for row in ROWS if row.engine == name}
    if not rows:
        remedy = did_you_mean(name, names()) or "torch is part of finery and needs no installation."
        raise InputError([Fault("NAME", repr(name), " or ".join(names()), remedy)])
    return rows.get("cuda" if has_cuda() else "cpu") or rows["cpu"]


def installed(name: str) -> Environment | None:
    """The whole environment of an engine, of whatever versions; None when there is none."""
    path = place(name) / MANIFEST
    if not path.is_file():
        return None
    try:
        noted = read_json(path)
        found = Environment(
            noted["engine"], noted["device"], tuple(noted["packages"]), noted["python_version"]
        )
    except (FineryError, KeyError, TypeError):
        return None
    return found if found.python.exists() else None


def outdated(environment: Environment) -> bool:
    """Whether this finery has been proved with other versions than it holds."""
    return environment.packages != row_of(environment.engine).packages


def install(name: str, say: Callable[[str], None] = lambda line: None) -> Environment:
    """Make the environment of `name`, unless it is there with these versions already.

    `say` is told what is under way. Raises FineryError, ended by pip's own last lines.
    """
    row = row_of(name)
    folder = place(name)
    with _only_one(folder):
        there = installed(name)
        if there is not None and not outdated(there):
            return there
        _room_for(row, folder)
        _clear(folder)
        say(f"making {folder} (about {row.gigabytes:g} GB)")
        _run([sys.executable, "-m", "venv", str(folder)], f"{name}: its environment", say)
        pip = [str(folder / "bin" / "python"), "-m", "pip", "--no-input"]
        _run([*pip, "install", *row.packages], f"{name}: its packages", say)
        if row.without:
            _run([*pip, "uninstall", "--yes", *row.without], f"{name}: what it must not have", say)
        _run([*pip[:1], "-I", "-c", row.proof], f"{name}: its first import", say)
        version = ".".join(map(str, sys.version_info[:3]))
        made = Environment(name, row.device, row.packages, version)
        write_json(folder / MANIFEST, asdict(made))
    return made


def remove(name: str) -> bool:
    """Take an engine's environment away; whether there was one, whole or not."""
    row_of(name)
    folder = place(name)
    if not folder.exists():
        return False
    with _only_one(folder):
        _clear(folder)
    return True


def child_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The variables for a process of another environment, and `extra`."""
    kept = {name: value for name, value in os.environ.items() if name not in _NOT_HANDED_DOWN}
    return kept | {"PYTHONNOUSERSITE": "1", "PYTHONUNBUFFERED": "1"} | dict(extra or {})


@contextlib.contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """One installation of an engine at a time, whoever asks for it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f".{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _clear(folder: Path) -> None:
    """Remove an environment; the manifest goes first, so that half of one is never taken."""
    (folder / MANIFEST).unlink(missing_ok=True)
    if folder.exists():
        shutil.rmtree(folder)


def _room_for(row: Row, folder: Path) -> None:
    free = shutil.disk_usage(folder.parent).free / 1e9
    if free < row.gigabytes * 1.3:  # packages lie on the disk twice while they are unpacked
        raise FineryError(
            f"The engine {row.engine} needs about {row.gigabytes:g} GB below {folder.parent}; "
            f"{free:.1f} GB are free. Make room, or set FINERY_HOME to another disk."
        )


def _run(command: Sequence[str], what: str, say: Callable[[str], None]) -> None:
    """Run one command to its end, telling its steps; raises FineryError with its last lines."""
    last: deque[str] = deque(maxlen=_LAST_LINES)
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=child_environment(),
        )
    except OSError as error:
        raise FineryError(f"{what} could not be made: {first_line(error)}.") from error
    with process:
        for line in process.stdout or ():
            last.append(line.rstrip())
            if line.startswith(("Collecting", "Downloading", "Installing", "Successfully")):
                say(line.strip())
    if process.returncode:
        raise FineryError(
            f"{what} could not be made (status {process.returncode}). Nothing else was changed. "
            "The last lines:\n" + "\n".join(last)
        )
