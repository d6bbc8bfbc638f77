"""OpenMP threads that a thread which computes no more would leave behind.

GNU's OpenMP keeps a pool of workers for every thread that ever ran a parallel product. Once
all pools together have more threads than the machine has cores, workers no longer wait for a
moment between two products, they sleep, and the many short products of a decoding step take half
as long again (libgomp's `gomp_throttled_spin_count_var`). A thread that has loaded a model for
another one to run therefore gives its pool back (OpenMP 5.0, `omp_pause_resource_all`).
"""

from __future__ import annotations

import ctypes
from pathlib import Path

import torch

_SOFT = 1  # omp_pause_soft: settings are kept


def give_back_threads() -> bool:
    """End the OpenMP workers of the calling thread; False where torch has another OpenMP."""
    found = sorted(Path(torch.__file__).parent.glob("lib/libgomp*.so*"))
    if not found:
        return False
    try:
        pause = ctypes.CDLL(str(found[0])).omp_pause_resource_all
    except (OSError, AttributeError):
        return False
    return pause(_SOFT) == 0
