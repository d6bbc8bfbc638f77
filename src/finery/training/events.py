"""The events of a run, and where they go: metrics.jsonl, MLflow, and whoever watches.

An event is a flat JSON object; `event` says which:

    stage, note    text                           what begins; what a person should know
    prepared       plan                           nothing can be refused any more
    self_tests     passed, seconds
    start          step, total_steps              training begins, after `step` steps
    log            step, epoch, loss, learning_rate, grad_norm, tokens_per_s, seconds_left,
                   memory_bytes, share_of_ceiling (see finery.training.gauge)
    eval           step, eval_loss
    checkpoint     step
    end            ok                             training ended
    finished       folder                         the run has its report
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from finery.errors import FineryError, first_line
from finery.files import json_lines, read_json, read_json_lines, write_atomic, write_json
from finery.training.job import TrainJob

Event = dict[str, Any]
Report = Callable[[Event], None]
METRICS = "metrics.jsonl"
_NUMBERS = (
    *("loss", "eval_loss", "learning_rate", "grad_norm", "epoch"),
    *("tokens_per_s", "share_of_ceiling", "memory_bytes"),
)


def metrics_writer(run: Path) -> Report:
    """Append log and evaluation events to metrics.jsonl, one JSON object a line.

    At a start the lines after the step that training resumes from are taken out, so each
    step is in the file once. A crash loses at most the line being written.
    """
    path = run / METRICS

    def write(event: Event) -> None:
        if event["event"] == "start":
            kept = [row for row in read_metrics(run) if row["step"] <= event["step"]]
            write_atomic(path, json_lines(kept))
        elif event["event"] in ("log", "eval"):
            row = {"time": round(time.time(), 3), **event}
            del row["event"]
            row.pop("seconds_left", None)
            with path.open("a", encoding="utf-8") as file:
                file.write(json_lines([row]))

    return write


def finite(value: float, what: str, step: int) -> float:
    """`value`, when it is a number; raises FineryError before anything is saved when it is not."""
    if math.isfinite(value):
        return value
    raise FineryError(
        f"The {what} of step {step:,} is not a number: training has diverged. Start over with a "
        "lower learning_rate, more warmup_steps, or precision: 32; checkpoints before this step "
        "are whole."
    )


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl; a last line that a crash cut short is left out."""
    path = run / METRICS
    return read_json_lines(path) if path.is_file() else []


def mlflow_writer(job: TrainJob, report: Report = lambda event: None) -> Report | None:
    """Log to the MLflow server named by MLFLOW_TRACKING_URI; None when it is not set.

    A resumed run goes on in the MLflow run it began; a step of a job logs to the runs that the
    service made for it (`finery.training.tracking`). The weights are never logged here:
    MLflow saves a PEFT-wrapped model under names that load as new, untrained weights.

    Raises FineryError when the server cannot be used at the start. One that fails later does
    not stop training: it is said once on `report`, and metrics.jsonl has every line.
    """
    if not os.environ.get("MLFLOW_TRACKING_URI"):
        return None
    from finery.training.tracking import tracking_server, tracking_writer

    if server := tracking_server():
        return tracking_writer(server, _params(job), report)
    from mlflow.exceptions import MlflowException

    try:
        _start_mlflow_run(job)
    except (MlflowException, OSError) as error:
        raise FineryError(
            f"MLFLOW_TRACKING_URI names an MLflow that cannot be used ({first_line(error)}). "
            "Correct it, or unset it: metrics.jsonl is written in any case."
        ) from error
    failed = False

    def write(event: Event) -> None:
        nonlocal failed
        try:
            _log_to_mlflow(event)
        except (MlflowException, OSError) as error:
            if not failed:
                text = f"MLflow did not take a metric ({first_line(error)}); training goes on"
                report({"event": "note", "text": text})
            failed = True

    return write


def _start_mlflow_run(job: TrainJob) -> None:
    """Start the job's MLflow run, or go on with it; a run that is gone is begun anew."""
    import mlflow
    from mlflow.exceptions import MlflowException

    mark = job.run / "mlflow_run.json"
    if mark.is_file():
        try:
            mlflow.start_run(run_id=read_json(mark)["run_id"], log_system_metrics=False)
            return
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
    run = mlflow.start_run(run_id=os.environ.get("MLFLOW_RUN_ID"), log_system_metrics=False)
    mlflow.log_params(_params(job))
    write_json(mark, {"run_id": run.info.run_id})


def _log_to_mlflow(event: Event) -> None:
    import mlflow

    if event["event"] in ("log", "eval"):
        mlflow.log_metrics(metrics_of(event), step=event["step"])
    elif event["event"] == "end":
        mlflow.end_run("FINISHED" if event["ok"] else "FAILED")


def _params(job: TrainJob) -> dict[str, Any]:
    return {k: v for k, v in asdict(job.recipe).items() if v != ""}


def metrics_of(event: Event) -> dict[str, float]:
    """The numbers of a log or evaluation event, by the names they have in MLflow."""
    return {k: float(event[k]) for k in _NUMBERS if k in event}


def everyone(reports: Iterable[Report | None]) -> Report:
    """One report that calls all the others in turn."""
    present = [report for report in reports if report is not None]

    def write(event: Event) -> None:
        for report in present:
            report(event)

    return write
