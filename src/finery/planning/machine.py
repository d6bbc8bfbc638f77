"""What this machine has, and what a process takes of it: memory, its peak, and kills for memory.

Sources: proc(5) (MemAvailable, VmHWM, clear_refs, vmstat), the kernel's cgroup-v2 documentation
(memory.max, memory.current, memory.stat, memory.events) and its cgroup-v1 memory.txt.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

from finery import __version__

_LIBRARIES = ("torch", "transformers", "peft", "accelerate")
_TRAINS = ("chat", "model", "training")
PROC = Path("/proc")
CGROUPS = Path("/sys/fs/cgroup")


def resident_bytes(peak: bool = False) -> int:
    """Resident memory of this process now, or the most it has had; 0 where it is not known."""
    name = "VmHWM" if peak else "VmRSS"
    return _field(PROC / "self" / "status", f"{name}:") * 1024


def forget_peak() -> None:
    """Let the peak begin again at what is resident now; without effect where that is refused."""
    with contextlib.suppress(OSError):
        (PROC / "self" / "clear_refs").write_text("5")


def used_bytes(device: str, peak: bool = True) -> int:
    """Peak memory of this process on `device`: what torch allocated on a GPU, else resident."""
    if device == "cpu":
        return resident_bytes(peak)
    import torch

    return torch.cuda.max_memory_allocated() if peak else torch.cuda.memory_allocated()


def start_counting(device: str) -> None:
    """Let `used_bytes` begin again."""
    if device == "cpu":
        forget_peak()
    else:
        import torch

        torch.cuda.reset_peak_memory_stats()


def available_bytes(device: str) -> int:
    """What this process may hold without displacing another, its own memory included.

    On the CPU the least of what the machine and each control group above this process have
    left; on a GPU what is free there. 0 where it is not known.
    """
    if device != "cpu":
        import torch

        return torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved()
    machine = _field(PROC / "meminfo", "MemAvailable:") * 1024
    known = [bound for bound in (machine, *(_left(group) for group in _groups())) if bound]
    return min(known) + resident_bytes() if known else 0


def oom_kills() -> int:
    """How often the kernel has killed for memory where this process lives, as far as it says."""
    machine = _field(PROC / "vmstat", "oom_kill")
    files = ("memory.events", "memory.oom_control")  # cgroup v2, v1
    return machine + sum(_field(group / f, "oom_kill") for group in _groups() for f in files)


def boot_id() -> str:
    """The identity of this start of the machine: its counters begin again with the next."""
    return _text(PROC / "sys" / "kernel" / "random" / "boot_id").strip()


def program() -> dict[str, Any]:
    """The versions of what trains, and when that part of our own code last changed."""
    package = Path(__file__).parents[1]
    files = (path for part in _TRAINS for path in (package / part).rglob("*.py"))
    changed = max(path.stat().st_mtime_ns for path in files)
    versions = {name: importlib.metadata.version(name) for name in _LIBRARIES}
    return {"finery": __version__, "changed": changed, **versions}


def fingerprint(device: str) -> dict[str, Any]:
    """What makes a measurement of speed on this machine hold on it later."""
    found: dict[str, Any] = {
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "threads": os.environ.get("OMP_NUM_THREADS", ""),
    }
    if device == "cpu":
        return found
    import torch

    return {**found, "gpu": torch.cuda.get_device_name()}


def _cpu_name() -> str:
    lines = _text(PROC / "cpuinfo").splitlines()
    named = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor())


def _groups() -> list[Path]:
    """The control groups of this process with a memory controller, the nearest first."""
    found = []
    for line in _text(PROC / "self" / "cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        root = CGROUPS / "memory" if controllers else CGROUPS
        place = root / path.strip("/")
        # within a container the path is that of the host, and the group is at the root
        place = place if place.is_dir() else root
        found += [place, *(up for up in place.parents if up.is_relative_to(root))]
    return list(dict.fromkeys(found))


def _left(group: Path) -> int:
    """Bytes a group may still take: its limit, less what cannot be given back; 0 for no limit."""
    for limit, current, cached in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        text = _text(group / limit).strip()
        if text.isdigit() and int(text) < 1 << 60:  # v1 writes a huge number for no limit
            used = int(_text(group / current).strip() or 0)
            return max(1, int(text) - used + _field(group / "memory.stat", cached))
    return 0


def _field(path: Path, name: str) -> int:
    """The number after `name` in a file of such lines; 0 when it is not there."""
    for line in _text(path).splitlines():
        words = line.split()
        if len(words) > 1 and words[0] == name and words[1].isdigit():
            return int(words[1])
    return 0


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:  # not this system, or not shown to this process
        return ""
