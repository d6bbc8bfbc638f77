"""What this machine has: cores, memory, GPUs; asked of the system, without a model library."""

from __future__ import annotations

import ctypes
import functools
import os
from pathlib import Path

import psutil

GIB = 2**30
_QUOTA = Path("/sys/fs/cgroup/cpu.max")
_MEMORY = Path("/sys/fs/cgroup/memory.max")
_NVML = "libnvidia-ml.so.1"


@functools.cache
def cores() -> int:
    """Cores that this process may use: affinity and a container's quota count."""
    given = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    found = given or 1
    if _QUOTA.is_file():
        quota, period = _QUOTA.read_text(encoding="ascii").split()
        if quota != "max":
            found = min(found, max(1, int(quota) // int(period)))
    return found


@functools.cache
def memory_gib() -> float:
    """Memory of the machine, or of the container, in GiB."""
    found = psutil.virtual_memory().total
    if _MEMORY.is_file():
        limit = _MEMORY.read_text(encoding="ascii").strip()
        found = min(found, int(limit)) if limit != "max" else found
    return found / GIB


@functools.cache
def gpus() -> int:
    """NVIDIA GPUs that CUDA programs of this process would see."""
    there = _count_by_driver()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return there
    chosen = [part.strip() for part in visible.split(",")]
    # CUDA stops at the first entry that names no device.
    allowed = 0
    for part in chosen:
        if not part or part == "-1" or (part.isdigit() and int(part) >= there):
            break
        allowed += 1
    return min(allowed, there)


def _count_by_driver() -> int:
    """What NVIDIA's management library counts; 0 where it is not installed."""
    try:
        library = ctypes.CDLL(_NVML)
    except OSError:
        return 0
    if library.nvmlInit_v2() != 0:
        return 0
    try:
        count = ctypes.c_uint(0)
        return count.value if library.nvmlDeviceGetCount_v2(ctypes.byref(count)) == 0 else 0
    finally:
        library.nvmlShutdown()
