"""Self-tests that held at an earlier start are not run again.

They prove model, rows, settings and program against each other; where all of these are the same on
the same machine, so is their outcome. What is kept under the finery home is named by a hash of all
that they read; any other weights, rows, setting, library or line of ours is proved anew.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from finery.files import home, read_json, sha256_json, write_json
from finery.planning import machine
from finery.training.events import Report
from finery.training.job import TrainJob


def proved_before(job: TrainJob, report: Report) -> TrainJob:
    """The job without its self-tests where they are known to hold, which is reported."""
    path = _place(job)
    if not job.recipe.self_tests or not path.is_file():
        return job
    passed = read_json(path)["passed"]
    report({"event": "self_tests", "passed": passed, "seconds": 0.0, "earlier": True})
    return replace(job, recipe=replace(job.recipe, self_tests=False))


def remembering(job: TrainJob) -> Report:
    """A report that keeps the self-tests a start has passed."""
    path = _place(job)

    def write(event: dict[str, Any]) -> None:
        if event["event"] == "self_tests" and not event.get("earlier"):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, {"passed": event["passed"]})

    return write


def _place(job: TrainJob) -> Path:
    key = {
        "job": job.identity,
        "sizes": [job.micro_batch, job.processes, job.recipe.gradient_checkpointing],
        "machine": machine.fingerprint(job.device),
        "program": machine.program(),
    }
    return home() / "proofs" / f"{sha256_json(key)[:32]}.json"
