"""A training that ran out of memory goes on from its last checkpoint with half the micro-batch.

The global batch stays: what a process does not take at once it takes one after the other, and the
loss of a step never depends on the micro-batch. An allocation that fails is an exception. A kill
by the kernel is not, so a training leaves `attempt.json` in its run while it lives, with the
kernel's count of such kills: a start that finds it there, and the count grown, knows. Where the
kernel keeps no count a kill is taken for a person's. What a run came down to is in
`micro_batch.json`, which every later start reads.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from finery.errors import FineryError
from finery.files import read_json, write_json
from finery.planning import machine
from finery.training.events import Report
from finery.training.job import TrainJob

ATTEMPT = "attempt.json"
SMALLER = "micro_batch.json"
KILLED = "the kernel killed the training process for memory"
# What torch says on a CPU, where no exception class of its own is raised.
_ON_A_CPU = ("can't allocate memory", "not enough memory", "std::bad_alloc")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out, on a GPU or in the machine."""
    import torch

    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _ON_A_CPU)


def halved(job: TrainJob) -> TrainJob:
    """The same job with half the micro-batch (its largest part) and the same rows in each step."""
    micro = job.micro_batch
    smaller = next(micro // n for n in range(2, micro + 1) if micro % n == 0)
    return dataclasses.replace(
        job, rows_at_once=smaller, accumulation=job.accumulation * (micro // smaller)
    )


def with_less(job: TrainJob, why: str, report: Report) -> TrainJob:
    """The job with half its micro-batch, recorded in its run; raises FineryError at one row."""
    micro = job.micro_batch
    if micro == 1 or job.recipe.apply_deepspeed:
        fixed = " DeepSpeed fixes the micro-batch." if job.recipe.apply_deepspeed else ""
        raise FineryError(
            f"Training ran out of memory with a micro-batch of {micro} ({why}).{fixed} Set "
            "gradient_checkpointing: true, precision: bf16, or lower max_seq_length."
        )
    smaller = halved(job)
    step = _newest_step(job.run)
    event = {"from": micro, "to": smaller.micro_batch, "after_step": step, "why": why}
    known = _record(job.run)
    write_json(job.run / SMALLER, {**_sizes(smaller), "history": [*known["history"], event]})
    report({"event": "out_of_memory", **event})
    report({"event": "note", "text": sentence(event)})
    return smaller


def sentence(event: dict[str, Any]) -> str:
    """One halving, in words."""
    return (
        f"out of memory ({event['why']}): micro-batch {event['from']} -> {event['to']}, the global "
        f"batch stays; going on after step {event['after_step']}"
    )


def going_on(job: TrainJob, report: Report) -> TrainJob:
    """The job with the micro-batch its run came down to; less when it was killed for memory."""
    job = as_small(job)
    if killed_for_memory(job.run):
        (job.run / ATTEMPT).unlink()  # answered here: a start after this one is free to try
        job = with_less(job, KILLED, report)
    return job


def as_small(job: TrainJob) -> TrainJob:
    """The job with the micro-batch that earlier starts of its run came down to."""
    small = _record(job.run).get("micro_batch", job.micro_batch)
    total = job.micro_batch * job.accumulation
    if small >= job.micro_batch or total % small:
        return job
    return dataclasses.replace(job, rows_at_once=small, accumulation=total // small)


def history(run: Path) -> list[dict[str, Any]]:
    """Every time this run had to take less at once."""
    return _record(run)["history"]


@contextlib.contextmanager
def attempt(run: Path) -> Iterator[None]:
    """Around a training: its mark lies in the run for as long as the process lives."""
    mark = {"oom_kills": machine.oom_kills(), "boot": machine.boot_id()}
    write_json(run / ATTEMPT, mark)
    try:
        yield
    finally:
        (run / ATTEMPT).unlink(missing_ok=True)


def killed_for_memory(run: Path) -> bool:
    """Whether the last training in `run` ended without a word and the kernel has killed since."""
    if not (run / ATTEMPT).is_file():
        return False
    mark = read_json(run / ATTEMPT)
    return mark["boot"] == machine.boot_id() and machine.oom_kills() > mark["oom_kills"]


def _newest_step(run: Path) -> int:
    """The step of the newest checkpoint; the loop decides itself whether it is whole."""
    names = sorted(path.name for path in (run / "checkpoints").glob("step-*"))
    return int(names[-1].removeprefix("step-")) if names else 0


def _sizes(job: TrainJob) -> dict[str, int]:
    return {"micro_batch": job.micro_batch, "accumulation": job.accumulation}


def _record(run: Path) -> dict[str, Any]:
    path = run / SMALLER
    return read_json(path) if path.is_file() else {"history": []}
