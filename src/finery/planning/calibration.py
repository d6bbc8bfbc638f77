"""From a few measured micro-batches to the time and memory of a whole run.

The micro-batches of a run are sorted by their work (`finery.planning.ceiling`) and cut into
strata of equal work. One micro-batch of each is measured and stands for its stratum: time is
summed stratum by stratum, so short and long rows each weigh what they weigh in the run. The
largest micro-batch decides the memory and is measured as well, unless what the smaller ones took
says that it would not fit. What was measured is kept under the finery home by machine, model,
rows and settings, so that the same run started again measures nothing.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from finery.files import home, read_json, sha256_json, write_json

STRATA = 8
LEAST_ERROR = 0.1  # of a time: machines drift by as much
MEMORY_ERROR = 0.015  # of a peak: heaps differ a little from one process to the next
FORM = 1  # of what is kept; another form is measured again


@dataclass(frozen=True)
class Sample:
    """One measured micro-batch."""

    work: float  # FLOPs
    tokens: int  # in the forward pass, padding included
    seconds: float
    peak: int  # bytes, the most this process had held until then


@dataclass(frozen=True)
class Calibration:
    """What a probe measured; times in seconds, memory in bytes."""

    samples: tuple[Sample, ...]
    step_seconds: float  # clipping and the optimizer, once a step
    evaluation_seconds: float  # a held-out token
    checkpoint_seconds: float
    checkpoint_bytes: int
    before: int  # resident before the model was loaded
    loaded: int  # resident with the model, before the first micro-batch
    peak: int  # the most that was held
    probe_seconds: float

    def seconds_of(self, work: Sequence[float]) -> list[float]:
        """Seconds of each of these micro-batches, given by their FLOPs: forward and backward."""
        known = sorted((sample.work, sample.seconds) for sample in self.samples)
        edges = [(one[0] + two[0]) / 2 for one, two in pairwise(known)]
        rates = [seconds / sampled for sampled, seconds in known]
        return [value * rates[bisect.bisect(edges, value)] for value in work]

    def spread(self) -> float:
        """How far the samples' speeds lie from a smooth curve, as a share (median)."""
        rates = [s.work / s.seconds for s in sorted(self.samples, key=lambda s: s.work)]
        if len(rates) < 3:
            return LEAST_ERROR
        middles = np.array(rates[1:-1])
        between = (np.array(rates[:-2]) + np.array(rates[2:])) / 2
        return float(np.median(np.abs(middles - between) / between))

    def peak_at(self, tokens: int) -> int:
        """The peak of such a process when its largest micro-batch has `tokens`."""
        most = max(sample.tokens for sample in self.samples)
        return max(
            self.loaded, int(self.peak + (tokens - most) * growth(self.samples, self.loaded))
        )

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {**asdict(self), "form": FORM}


def growth(samples: Sequence[Sample], loaded: int) -> float:
    """Bytes that a token of a micro-batch adds to the peak."""
    low, high = (choose(samples, key=lambda s: (s.tokens, s.peak)) for choose in (min, max))
    if low.tokens == high.tokens:
        return max(0.0, (high.peak - loaded) / high.tokens)
    return max(0.0, (high.peak - low.peak) / (high.tokens - low.tokens))


def from_dict(value: dict[str, Any]) -> Calibration | None:
    """What `Calibration.to_dict` gave; None for another form."""
    if value.get("form") != FORM:
        return None
    fields = {name: item for name, item in value.items() if name != "form"}
    return Calibration(**{**fields, "samples": tuple(Sample(**s) for s in value["samples"])})


def kept(key: dict[str, Any]) -> Calibration | None:
    """The calibration of an earlier start with the same `key`, if there is one."""
    path = _place(key)
    return from_dict(read_json(path)) if path.is_file() else None


def keep(key: dict[str, Any], calibration: Calibration) -> None:
    """Remember a calibration for the next start."""
    path = _place(key)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, calibration.to_dict())


def _place(key: dict[str, Any]) -> Path:
    return home() / "calibrations" / f"{sha256_json(key)[:32]}.json"


def chosen(work: Sequence[float], strata: int = STRATA) -> list[int]:
    """Which micro-batches to measure: the middle one of each stratum of equal work, ascending."""
    order = sorted(range(len(work)), key=lambda index: work[index])
    summed = np.cumsum([work[index] for index in order])
    middles = (np.arange(strata) + 0.5) / strata * summed[-1]
    return list(dict.fromkeys(order[int(place)] for place in np.searchsorted(summed, middles)))


def thinned(work: Sequence[float], seconds: float, rate: float) -> list[int]:
    """As many of these as `seconds` allow at `rate` FLOP/s, spread evenly; the first at least."""
    for count in range(len(work), 1, -1):
        places = np.linspace(0, len(work) - 1, count).round().astype(int).tolist()
        if sum(work[place] for place in places) <= seconds * rate:
            return places
    return [0]
