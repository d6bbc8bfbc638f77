"""A training process of our own, before it loads torch: how threads wait, what is left out."""

from __future__ import annotations

import os
import sys

from finery.training.devices import QUIET_THREADS


def lean_process() -> None:
    """Set what OpenMP reads when it is loaded, and spare this process what no run uses.

    transformers loads scikit-learn (with SciPy and pandas) for assisted generation, a sixth of all
    that is loaded, and does without where it is not installed. Only for a process that is a run.
    """
    for name, value in QUIET_THREADS.items():
        os.environ.setdefault(name, value)
    sys.modules.setdefault("sklearn", None)  # pyright: ignore[reportArgumentType]
