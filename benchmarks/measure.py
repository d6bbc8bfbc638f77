"""What every benchmark measures with: others' CPU, versions, medians, a cell's process."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

PACKAGES = ("torch", "transformers", "peft", "accelerate", "trl")


class OthersCpu:
    """The cores that other processes keep busy while this one measures."""

    def __init__(self) -> None:
        self._start = self._now()

    @staticmethod
    def _now() -> tuple[float, float, float]:
        times = psutil.cpu_times()
        busy = sum(times) - times.idle - getattr(times, "iowait", 0.0)
        busy -= getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)  # in user too
        own = psutil.Process().cpu_times()
        return time.perf_counter(), busy, own.user + own.system

    def cores(self) -> float:
        """Cores kept busy by others, on average since this object was made."""
        wall, busy, own = (n - s for n, s in zip(self._now(), self._start, strict=True))
        return max(0.0, (busy - own) / wall) if wall else 0.0


def versions() -> dict[str, str]:
    """Versions of what takes part."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def machine() -> dict[str, Any]:
    """What the numbers were measured on; no names of hosts or folders."""
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_name(),
        "cores": psutil.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
    }


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":")[1].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        return platform.processor()


def spread(values: Sequence[float], digits: int = 0) -> str:
    """The median, with the lowest and the highest value."""
    middle = statistics.median(values)
    return f"{middle:,.{digits}f} ({min(values):,.{digits}f}-{max(values):,.{digits}f})"


def run_cell(
    script: Path, work: Path, cell: str, environment: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """One measurement in a process of its own: `script WORK CELL OUT`; exits when it fails.

    The process that calls this should stay small: Linux counts the peak memory of the parent
    as the child's own. `work / "run"` is an empty folder for each cell, so nothing is resumed.
    """
    out, log, run = work / "out.json", work / "cell.log", work / "run"
    out.unlink(missing_ok=True)
    shutil.rmtree(run, ignore_errors=True)
    run.mkdir()
    with log.open("wb") as output:
        ended = subprocess.run(
            [sys.executable, str(script), str(work), cell, str(out)],
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(environment or {})},
        )
    if ended.returncode:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-25:])
        sys.exit(f"{cell} ended with status {ended.returncode}:\n{tail}")
    return json.loads(out.read_text(encoding="utf-8"))
