"""A training that ran out of memory goes on from its last checkpoint with half the micro-batch.

What comes out is bit for bit what a run with that micro-batch makes of the same checkpoint.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import Run, largest_difference, result_of

from finery.files import read_json
from finery.training import loop
from finery.training.checkpoint import checkpoint_path
from finery.training.events import read_metrics
from finery.training.job import TrainJob
from finery.training.launch import run_training
from finery.training.out_of_memory import ATTEMPT, history

MakeJob = Callable[..., TrainJob]
RunJob = Callable[[TrainJob], Run]
SETTINGS: dict[str, Any] = {"save_steps": 2, "logging_steps": 1, "self_tests": False}


def from_the_same_checkpoint(job: TrainJob, make_job: MakeJob, run_job: RunJob) -> Run:
    """What a micro-batch of one row makes of the checkpoint after step 2."""
    other = make_job(**SETTINGS)
    kept = checkpoint_path(job.run / "checkpoints", 2)
    shutil.copytree(kept, checkpoint_path(other.run / "checkpoints", 2))
    return run_job(replace(other, rows_at_once=1, accumulation=4))


def check(job: TrainJob, make_job: MakeJob, run_job: RunJob, why: str) -> None:
    """The run has all its steps, says what happened, and equals the other one."""
    (event,) = history(job.run)
    assert (event["from"], event["to"], event["after_step"]) == (2, 1, 2)
    assert why in event["why"]
    assert [row["step"] for row in read_metrics(job.run)] == [1, 2, 3, 4, 5, 6]
    assert not (job.run / ATTEMPT).exists()
    other = from_the_same_checkpoint(job, make_job, run_job)
    assert largest_difference(result_of(job.run, []), other) == 0.0
    assert read_json(job.run / "training.json")["steps"] == 6


def test_an_allocation_that_fails_on_the_device_costs_the_steps_since_the_checkpoint(
    make_job: MakeJob, run_job: RunJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, plain, steps = make_job(**SETTINGS), loop.accumulate, [0]

    def accumulate(model: Any, batches: Any, *rest: Any, **more: Any) -> Any:
        batches = list(batches)
        steps[0] += 1
        if steps[0] == 4 and len(batches[0][0].lengths) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")
        return plain(model, batches, *rest, **more)

    monkeypatch.setattr(loop, "accumulate", accumulate)
    events: list[dict[str, Any]] = []
    run_training(job, events.append)
    monkeypatch.undo()
    assert [e["to"] for e in events if e["event"] == "out_of_memory"] == [1]
    check(job, make_job, run_job, "CUDA out of memory")


def work(job: TrainJob, how: str) -> subprocess.CompletedProcess[str]:
    job.run.mkdir(parents=True, exist_ok=True)
    job.save(job.run / "job.json")
    worker = str(Path(__file__).with_name("memory_worker.py"))
    return subprocess.run(
        [sys.executable, worker, str(job.run / "job.json"), how],
        # As many threads as here: sums of another split are other sums.
        env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


@pytest.mark.parametrize(
    ("how", "why"), [("limited", "allocate memory"), ("killed", "the kernel killed")]
)
def test_a_process_without_memory_goes_on_with_half_the_micro_batch(
    how: str, why: str, make_job: MakeJob, run_job: RunJob
) -> None:
    job = make_job(**SETTINGS)
    done = work(job, how)
    assert done.returncode == 0, done.stderr[-4000:]
    check(job, make_job, run_job, why)


def test_a_run_that_a_person_killed_is_not_started_again(make_job: MakeJob) -> None:
    job = make_job(**SETTINGS)
    done = work(job, "stopped")
    assert done.returncode == 128 + 9, done.stderr[-4000:]
    assert history(job.run) == []
    assert (job.run / ATTEMPT).is_file()
