"""OpenMP threads: those that would be left behind, and how many a decoding step takes.

GNU's OpenMP keeps a pool of workers for every thread that ever ran a parallel product. Once
all pools together have more threads than the machine has cores, workers no longer wait for a
moment between two products, they sleep, and the many short products of a decoding step take half
as long again (libgomp's `gomp_throttled_spin_count_var`). A thread that has loaded a model for
another one to run therefore gives its pool back (OpenMP 5.0, `omp_pause_resource_all`).

A step of decoding is hundreds of short products, and each ends when the last of its threads has
done its part. Where something else runs on one of the cores, that thread is held back for
milliseconds at a time and all wait for it: two threads are then slower than one, by up to ten
times. `Pace` finds that out while it decodes.
"""

from __future__ import annotations

import ctypes
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

_SOFT = 1  # omp_pause_soft: settings are kept
STEPS = 8  # of each side of a trial
GAIN = 0.9  # of the time: a count that takes less than that is taken
WAITS = (0.5, 8.0)  # seconds between trials: at first, and at most, doubled by each that is lost


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


class Pace:
    """The number of threads that decodes fastest at the moment, one of `counts`.

    Every now and then some steps are made with another count and compared with as many before
    them, of as many rows. A trial ends as soon as it is lost: with steps that take twice as long
    that is after the first.
    """

    def __init__(
        self, counts: Sequence[int], clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self.count = self.most = max(counts)
        self._others = deque(sorted(set(counts) - {self.count}))
        self._clock = clock
        self._rows = 0
        self._usual: deque[float] = deque(maxlen=STEPS)  # seconds of the last steps
        self._trial: list[float] | None = None
        self._wait = WAITS[0]
        self._next = clock() + self._wait

    def threads(self, rows: int) -> int:
        """How many the next step takes, which decodes so many rows."""
        if rows != self._rows:
            self._rows, self._trial = rows, None
            self._usual.clear()
        ready = len(self._usual) == STEPS and bool(self._others)
        if self._trial is None and ready and self._clock() >= self._next:
            self._trial = []
        return self.count if self._trial is None else self._others[0]

    def took(self, seconds: float) -> None:
        """How long that step took."""
        if self._trial is None:
            self._usual.append(seconds)
            return
        self._trial.append(seconds)
        # one step more than were made: the first after a change of threads may be a slow one
        made = min(STEPS, len(self._trial) + 1)
        won = sum(self._trial) < GAIN * made * sum(self._usual) / len(self._usual)
        if won and len(self._trial) < STEPS:
            return
        if won:
            self.count, self._others[0] = self._others[0], self.count
            self._usual = deque(self._trial, STEPS)
            self._wait = WAITS[0]
        else:
            self._others.rotate(-1)
            self._wait = min(2 * self._wait, WAITS[1])
        self._trial = None
        self._next = self._clock() + self._wait


def thread_counts(most: int) -> list[int]:
    """The counts worth a trial on a machine that lets torch have `most`."""
    return sorted({1, max(1, most // 2), most})


def use_threads(count: int) -> None:
    """Have the calling thread's products take `count` threads from now on."""
    if torch.get_num_threads() != count:
        torch.set_num_threads(count)
