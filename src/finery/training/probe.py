"""A few micro-batches of a job, measured in processes of their own (`launch probe SPEC.json`).

The probe loads the model as the run will, on the run's own rows, with its fast pieces, optimizer,
process group and self-tests, and writes what it found (`finery.planning.calibration`). It changes
nothing of the run: its checkpoint goes into a temporary folder.
"""

from __future__ import annotations

import contextlib
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list

from finery.chat.rows import TokenRows, load_rows
from finery.evaluation.loss import LEAST_ROWS, by_length
from finery.files import files_below, read_json, write_json
from finery.planning import machine
from finery.planning.calibration import Calibration, Sample, growth, thinned
from finery.training import distribution, loop
from finery.training.checkpoint import Progress
from finery.training.heldout import heldout_mean
from finery.training.job import TrainJob, load_job
from finery.training.launch import is_first
from finery.training.selftest import run_self_tests
from finery.training.trainee import Trainee, prepare_trainee

LARGEST_SHARE = 0.9  # of the memory that is there, which a micro-batch may be expected to take


@dataclass(frozen=True)
class Spec:
    """What to measure."""

    job: TrainJob
    rows: Sequence[Sequence[int]]  # micro-batches, ascending by work
    work: Sequence[float]  # FLOPs of each
    tokens: Sequence[int]  # of each, padding included
    loss_tokens: Sequence[int]
    deadline: float  # seconds since the epoch; what is begun by then is finished


def measure(spec: Spec) -> Calibration:
    """Run the probe; every process of the group calls it."""
    started, job = time.time(), spec.job
    rows = load_rows(job.train_rows)
    accelerator = distribution.make_accelerator(job.recipe, job.device, job.accumulation)
    machine.start_counting(job.device)
    before = machine.used_bytes(job.device, peak=False)
    trainee = prepare_trainee(job, accelerator)
    if job.recipe.self_tests and trainee.is_main:
        run_self_tests(trainee, rows, job, lambda event: None)
    trainee.wrap()
    loaded = machine.used_bytes(job.device, peak=False)
    turns = Turns(trainee, spec, rows)
    turns.run(0)  # threads, caches, and the optimizer's state
    turns.finish_step()
    samples = _samples(spec, turns, loaded)
    turns.finish_step()
    evaluation = _evaluation_seconds(trainee, job, len(samples) == len(spec.rows))
    checkpoint, size = _checkpoint(trainee, job)
    calibration = Calibration(
        samples=tuple(samples),
        step_seconds=statistics.median(turns.step_seconds[1:]),
        evaluation_seconds=evaluation,
        checkpoint_seconds=checkpoint,
        checkpoint_bytes=size,
        before=before,
        loaded=loaded,
        peak=machine.used_bytes(job.device),
        probe_seconds=time.time() - started,
    )
    distribution.close(accelerator)
    return calibration


class Turns:
    """Micro-batches of the spec, run as the loop runs them."""

    def __init__(self, trainee: Trainee, spec: Spec, rows: TokenRows) -> None:
        self.trainee, self.spec, self.rows = trainee, spec, rows
        self.since_step = 0
        self.step_seconds: list[float] = []

    def run(self, index: int) -> Sample:
        """Forward and backward of one micro-batch; a step where accumulation makes one due."""
        trainee, device = self.trainee, self.spec.job.device
        started = _now(device)
        batch = trainee.batch(self.rows, self.spec.rows[index])
        self.since_step += 1
        last = self.since_step >= self.spec.job.accumulation
        loop.accumulate(
            trainee.model,
            [(batch, 1.0, last)],
            self.spec.loss_tokens[index],
            processes=self.spec.job.processes,
            backward=trainee.backward,
            micro_batch=trainee.micro_batch,
        )
        seconds = _now(device) - started
        peak = machine.used_bytes(device)
        if last:
            self.finish_step()
        return Sample(self.spec.work[index], self.spec.tokens[index], seconds, peak)

    def finish_step(self) -> None:
        """Clip and step, when there is something to step with."""
        if not self.since_step:
            return
        started = _now(self.spec.job.device)
        self.trainee.finish_step()
        self.step_seconds.append(_now(self.spec.job.device) - started)
        self.since_step = 0


def _samples(spec: Spec, turns: Turns, loaded: int) -> list[Sample]:
    """The smallest micro-batch, then as many larger ones as time and memory allow."""
    samples = [turns.run(0)]
    rate = samples[0].work / samples[0].seconds
    later = range(1, len(spec.rows))
    plan = (
        thinned([spec.work[i] for i in later], spec.deadline - time.time(), rate) if later else []
    )
    (plan,) = broadcast_object_list([plan])
    for place in plan:
        index = later[place]
        more = spec.tokens[index] - samples[-1].tokens
        expected = samples[-1].peak + growth(samples, loaded) * more
        fits = expected < LARGEST_SHARE * machine.available_bytes(spec.job.device)
        (goes_on,) = broadcast_object_list([fits and time.time() < spec.deadline])
        if not goes_on:
            break
        samples.append(turns.run(index))
    return samples


def _evaluation_seconds(trainee: Trainee, job: TrainJob, in_time: bool) -> float:
    """Seconds of a held-out token, from the batch of the longest rows; 0 without any.

    From the longest row alone where time ran out before.
    """
    if not job.validation_rows:
        return 0.0
    rows = load_rows(job.validation_rows)
    size = max(job.recipe.per_device_eval_batch_size, LEAST_ROWS)
    (in_time,) = broadcast_object_list([in_time])
    longest = rows.select(by_length(rows, size if in_time else 1)[0])
    started = _now(job.device)
    heldout_mean(trainee, longest, size)
    return (_now(job.device) - started) / int(longest.lengths.sum())


def _checkpoint(trainee: Trainee, job: TrainJob) -> tuple[float, int]:
    """Seconds and bytes of one checkpoint."""
    with tempfile.TemporaryDirectory(prefix="finery-probe-") as name:
        (folder,) = broadcast_object_list([name])
        trainee.checkpoints = Path(folder)
        started = _now(job.device)
        trainee.save(Progress(step=1))
        seconds = _now(job.device) - started
        size = sum(path.stat().st_size for path in files_below(Path(folder)))
        trainee.accelerator.wait_for_everyone()
    return seconds, size


def _now(device: str) -> float:
    """A clock that has waited for the device."""
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter()


def save_spec(spec: Spec, folder: Path) -> Path:
    """Write the spec for the probe to read."""
    spec.job.save(folder / "job.json")
    values: dict[str, Any] = {k: v for k, v in vars(spec).items() if k != "job"}
    write_json(folder / "spec.json", values)
    return folder / "spec.json"


def _load_spec(path: Path) -> Spec:
    return Spec(job=load_job(path.with_name("job.json")), **read_json(path))


def probe(path: Path) -> int:
    """Measure what the spec at `path` says, into calibration.json beside it."""
    spec = _load_spec(path)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")  # before the run that asked for this
    found = measure(replace(spec, job=replace(spec.job, run=path.parent)))
    if is_first():
        write_json(path.with_name("calibration.json"), found.to_dict())
    return 0
