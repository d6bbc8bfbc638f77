"""Metrics of a run as curves: what its training wrote down, or else what MLflow was told.

A training writes metrics.jsonl beside its checkpoints, one flat object a line, and takes lines
back when it resumes from an earlier step, which makes it another file. So the place in the file
and the file's own number tell whether a reader can go on where it stopped.
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finery.components.handover import FACTS, TRAINING
from finery.files import read_json
from finery.jobs import service
from finery.jobs.job import Job
from finery.jobs.spec import BUILT_IN
from finery.training.events import METRICS
from finery.workspace import tracking_metrics
from finery.workspace.place import Workspace

MOST_POINTS = 500  # of a curve in one answer
PLAN = "plan.json"
_TAIL = 16 * 1024  # bytes at the end of metrics.jsonl that tell the pace
_NO_CURVE = frozenset({"step", "time", "epoch"})
LESS_IS_BETTER = ("loss", "perplexity", "error")
MORE_IS_BETTER = (
    *("accuracy", "bleu", "rouge", "passed", "f1", "score"),
    *("tokens_per_s", "share_of_ceiling"),
)

Points = list[tuple[float, float]]  # step and value, in the order in which they came


@dataclass(frozen=True)
class Curve:
    """One metric of one run, thinned out."""

    points: Points
    count: int  # before thinning
    last: float
    best: float | None  # None of a metric that is neither good nor bad


@dataclass(frozen=True)
class Curves:
    """What is new since a cursor, or all there is."""

    cursor: str
    is_whole: bool
    curves: Mapping[str, Curve]


@dataclass(frozen=True)
class Progress:
    """How far a training is."""

    step: int
    total: int
    seconds_left: float | None


def of_job(workspace: Workspace, job: Job, cursor: str = "") -> Curves:
    """The curves of a job: of a pipeline those of the first step of it that trains."""
    path = metrics_file(workspace, job)
    if path is not None:
        return _from_file(path, cursor)
    count = tracking_metrics.count_of(workspace, job.name)
    there = f"mlflow.{count}"
    if cursor == there:
        return Curves(there, False, {})
    return Curves(there, True, _curves(tracking_metrics.metrics_of(workspace, job.name)))


def metrics_file(workspace: Workspace, job: Job) -> Path | None:
    """Where the training of a job writes its metrics; None when nothing has been written."""
    folder = training_folder(workspace, job)
    return folder / METRICS if folder and (folder / METRICS).is_file() else None


def training_folder(workspace: Workspace, job: Job) -> Path | None:
    """The run folder of the training in a job; None when there is none."""
    steps = [job] if job.is_step else service.find(workspace, parent=job.name, archived="all")[0]
    for step in steps:
        if not str(step.spec.get("entry") or "").startswith(BUILT_IN):
            continue
        for output in step.outputs.values():
            folder = Path(output["path"]) / TRAINING
            if folder.is_dir():
                return folder
    return None


def progress(folder: Path) -> Progress | None:
    """The last step that was written down and the time left at the pace of the last ones."""
    path, plan = folder / METRICS, _plan(folder)
    if not path.is_file() or not plan:
        return None
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _TAIL))
        rows = [row for row in _parsed(file.read()) if "loss" in row]
    total = plan.get("total_steps")
    if not rows or not isinstance(total, int):
        return None
    first, last = rows[0], rows[-1]
    steps = last["step"] - first["step"]
    pace = (last.get("time", 0) - first.get("time", 0)) / steps if steps > 0 else None
    left = pace * (total - last["step"]) if pace is not None else None
    return Progress(int(last["step"]), total, left)


def _plan(folder: Path) -> Mapping[str, Any]:
    """What was planned: in a file of its own, or among the facts of a job's step."""
    if (folder / PLAN).is_file():
        return read_json(folder / PLAN)
    return read_json(folder / FACTS).get("plan") or {} if (folder / FACTS).is_file() else {}


def sampled(points: Points, most: int = MOST_POINTS) -> Points:
    """At most `most` of the points: of each stretch its lowest and its highest, and both ends.

    A mean would hide the spike that somebody looks for. In each stretch the order is kept.
    """
    if len(points) <= most:
        return points
    stretches = (most - 2) // 2
    inner = points[1:-1]
    kept = [points[0]]
    for number in range(stretches):
        start = number * len(inner) // stretches
        stretch = inner[start : (number + 1) * len(inner) // stretches]
        low = min(range(len(stretch)), key=lambda i: stretch[i][1])
        high = max(range(len(stretch)), key=lambda i: stretch[i][1])
        kept += [stretch[i] for i in sorted({low, high})]
    return [*kept, points[-1]]


def direction(name: str) -> int:
    """-1 where less of a metric is better, 1 where more is, 0 where neither."""
    words = name.lower()
    if any(word in words for word in LESS_IS_BETTER):
        return -1
    return 1 if any(word in words for word in MORE_IS_BETTER) else 0


def _from_file(path: Path, cursor: str) -> Curves:
    state = path.stat()
    number, _, place = cursor.partition(".")
    if number == str(state.st_ino) and place.isdigit() and int(place) <= state.st_size:
        with path.open("rb") as file:
            file.seek(int(place))
            data = file.read(state.st_size - int(place))
        end = int(place) + data.rfind(b"\n") + 1
        return Curves(f"{number}.{end}", False, _curves(_by_name(_parsed(data))))
    end, curves = _whole(path, state.st_ino, state.st_size, state.st_mtime_ns)
    return Curves(f"{state.st_ino}.{end}", True, curves)


@functools.lru_cache(maxsize=256)
def _whole(path: Path, inode: int, size: int, _changed: int) -> tuple[int, Mapping[str, Curve]]:
    """All of a file as it was at one moment, and where its last whole line ends."""
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_ino != inode:  # replaced since: it is asked for again
            return 0, {}
        data = file.read(size)
    return data.rfind(b"\n") + 1, _curves(_by_name(_parsed(data)))


def _parsed(data: bytes) -> list[dict[str, Any]]:
    """The whole lines in a piece of a file that are objects with a step."""
    lines = data[: data.rfind(b"\n") + 1].split(b"\n")[:-1]
    try:
        rows = json.loads(b"[" + b",".join(lines) + b"]")  # at once: in a third of the time
    except ValueError:
        rows = _parsed_one_by_one(lines)
    return [row for row in rows if isinstance(row, dict) and _is_figure(row.get("step"))]


def _parsed_one_by_one(lines: Iterable[bytes]) -> list[Any]:
    """Every line that is JSON: the first one of a piece of a file may have lost its beginning."""
    rows = []
    for line in lines:
        with contextlib.suppress(ValueError):
            rows.append(json.loads(line))
    return rows


def _by_name(rows: Iterable[Mapping[str, Any]]) -> dict[str, Points]:
    found: dict[str, Points] = {}
    for row in rows:
        for name, value in row.items():
            if name not in _NO_CURVE and _is_figure(value):
                found.setdefault(name, []).append((row["step"], value))
    return found


def _curves(found: Mapping[str, Points]) -> dict[str, Curve]:
    return {name: _curve(name, points) for name, points in found.items()}


def _curve(name: str, points: Points) -> Curve:
    values = [value for _, value in points]
    best = {-1: min, 1: max}.get(direction(name))
    return Curve(sampled(points), len(points), values[-1], best(values) if best else None)


def _is_figure(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and math.isfinite(value)
