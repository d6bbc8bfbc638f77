"""Where the events of a run go: metrics.jsonl, MLflow, and whoever watches."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from finery.files import read_json, write_atomic, write_json
from finery.training.job import TrainJob

Event = dict[str, Any]
Report = Callable[[Event], None]
METRICS = "metrics.jsonl"
_NUMBERS = ("loss", "eval_loss", "learning_rate", "grad_norm", "tokens_per_s", "epoch")


def metrics_writer(run: Path) -> Report:
    """Append log and evaluation events to metrics.jsonl, one JSON object a line.

    At a start the lines after the step that training resumes from are taken out, so each
    step is in the file once. A crash loses at most the line being written.
    """
    path = run / METRICS

    def write(event: Event) -> None:
        if event["event"] == "start":
            kept = [row for row in read_metrics(run) if row["step"] <= event["step"]]
            write_atomic(path, "".join(json.dumps(row) + "\n" for row in kept))
        elif event["event"] in ("log", "eval"):
            row = {"time": round(time.time(), 3), **event}
            del row["event"]
            row.pop("seconds_left", None)
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")

    return write


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl; a last line that a crash cut short is left out."""
    path = run / METRICS
    if not path.is_file():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        if line.endswith("\n"):
            rows.append(json.loads(line))
    return rows


def mlflow_writer(job: TrainJob) -> Report | None:
    """Log to the MLflow server named by MLFLOW_TRACKING_URI; None when it is not set.

    A resumed run goes on in the MLflow run it began. The weights are never logged here:
    MLflow saves a PEFT-wrapped model under names that load as new, untrained weights.
    """
    if not os.environ.get("MLFLOW_TRACKING_URI"):
        return None
    import mlflow

    mark = job.run / "mlflow_run.json"
    known = read_json(mark)["run_id"] if mark.is_file() else os.environ.get("MLFLOW_RUN_ID")
    run = mlflow.start_run(run_id=known, log_system_metrics=False)
    if not mark.is_file():
        write_json(mark, {"run_id": run.info.run_id})
        mlflow.log_params({k: v for k, v in asdict(job.recipe).items() if v != ""})

    def write(event: Event) -> None:
        if event["event"] in ("log", "eval"):
            numbers = {k: float(event[k]) for k in _NUMBERS if k in event}
            mlflow.log_metrics(numbers, step=event["step"])
        elif event["event"] == "end":
            mlflow.end_run("FINISHED" if event["ok"] else "FAILED")

    return write


def everyone(reports: Iterable[Report | None]) -> Report:
    """One report that calls all the others in turn."""
    present = [report for report in reports if report is not None]

    def write(event: Event) -> None:
        for report in present:
            report(event)

    return write
