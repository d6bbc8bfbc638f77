"""The plan of a run with times and memory that were measured on this machine.

A probe (`finery.training.probe`) costs seconds, so it runs where that is little beside the run,
and never twice for the same run. Where it would cost too much, what was measured for other rows
with the same model and settings serves, with a wider bound.
"""

from __future__ import annotations

import subprocess
import tempfile
import time
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import Any

from finery.chat.rows import load_rows
from finery.files import read_json
from finery.planning import machine
from finery.planning.calibration import (
    LEAST_ERROR,
    MEMORY_ERROR,
    Calibration,
    chosen,
    from_dict,
    keep,
    kept,
)
from finery.planning.plan import Plan, disk_bytes, known_shape
from finery.training.events import Report
from finery.training.job import NOT_IDENTITY, TrainJob
from finery.training.launch import processes_of
from finery.training.loop import eval_interval, step_plan
from finery.training.probe import Spec, save_spec
from finery.training.workload import Workload, workload

PROBE_SECONDS = 20.0  # a probe takes at most so long
PROBE_SHARE = 0.05  # of the run, beyond which it is not worth its time
LEAST_SECONDS = 6.0  # loading the libraries and a model takes most of it
_ROUGH_RATE = {"cpu": 3e11, "cuda": 2e14}  # FLOP/s; only decides whether to measure
_ROUGH_PASS = 0.02  # seconds that any micro-batch takes
# Settings that change neither a micro-batch's time nor its memory.
_ELSEWHERE = frozenset(
    {
        *("num_train_epochs", "max_steps", "seed", "learning_rate", "lr_scheduler_type"),
        *("warmup_steps", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon"),
        *("evaluation_strategy", "eval_steps", "evaluation_steps_interval", "save_steps"),
        *("evaluation_config", "evaluation_config_params", "metric_for_best_model"),
        *("apply_early_stopping", "early_stopping_patience", "early_stopping_threshold"),
        *("gradient_accumulation_steps", "auto_find_batch_size", "merge_lora_weights"),
        *("num_nodes_finetune", "number_of_gpu_to_use_finetuning", "validation_split_percent"),
    }
)


def calibrated(job: TrainJob, plan: Plan, report: Report, *, always: bool = False) -> Plan:
    """`plan` with time and memory where they are measured, remembered, or worth measuring.

    `always` measures however short the run is. A job under DeepSpeed is not measured.
    """
    if job.recipe.apply_deepspeed:
        return replace(plan, available_bytes=machine.available_bytes(job.device))
    work = work_of(job, plan.checkpoints)
    exact = _key(job, work)
    found, probe_seconds, error = kept(exact), 0.0, 0.0
    budget = PROBE_SECONDS if always else _affordable(work, job.device)
    if found is None and budget >= LEAST_SECONDS:
        report({"event": "stage", "text": f"measuring this machine ({budget:.0f} s at most)"})
        started = time.monotonic()
        found = _probe(job, work, budget, report)
        probe_seconds = time.monotonic() - started
        if found:
            keep(exact, found)
            keep(_key(job), found)
    elif found is None:
        found, error = kept(_key(job)), 2 * LEAST_ERROR
    if found is None:
        return replace(plan, available_bytes=machine.available_bytes(job.device))
    planned = with_figures(plan, found, work, job)
    return replace(
        planned,
        probe_seconds=round(probe_seconds, 1),
        time_error=max(planned.time_error, error),
    )


def with_figures(plan: Plan, found: Calibration, work: Workload, job: TrainJob) -> Plan:
    """`plan` with what a calibration says of this work."""
    steps = found.step_seconds * work.total_steps
    steps += _pass_seconds(work, found, job.processes)
    evaluations = work.evaluations * work.heldout_tokens * found.evaluation_seconds
    checkpoints = work.checkpoints * found.checkpoint_seconds
    peak = found.peak_at(work.largest.tokens) + _already_here(job, plan, found)
    return replace(
        plan,
        measured=True,
        tokens_per_s=work.tokens / steps,
        step_seconds=steps,
        seconds=steps + evaluations / job.processes + checkpoints,
        time_error=max(LEAST_ERROR, 2 * found.spread()),
        memory_bytes=int(peak * (1 + MEMORY_ERROR)),
        memory_error=2 * MEMORY_ERROR,
        disk_bytes=_disk(plan, found, job),
        available_bytes=machine.available_bytes(job.device),
    )


def _disk(plan: Plan, found: Calibration, job: TrainJob) -> int:
    """Bytes of the run's folder: checkpoints as the probe wrote one, models by arithmetic."""
    limit = job.recipe.save_total_limit
    kept_of = [plan.checkpoints, limit + 1] if limit > 0 else [plan.checkpoints]
    recipe = replace(job.recipe, save_total_limit=1)
    models = disk_bytes(recipe, known_shape(job.model_folder, job.model_sha256, job.recipe), 0)
    return min(kept_of) * found.checkpoint_bytes + models


def _pass_seconds(work: Workload, found: Calibration, processes: int) -> float:
    """Seconds of all micro-batches, dealt to the processes, which wait for each other."""
    seconds = iter(found.seconds_of([micro.work for micro in work.micro_batches]))
    total = 0.0
    for step in work.steps:
        own = list(islice(seconds, len(step)))
        total += sum(max(own[i : i + processes]) for i in range(0, len(own), processes))
    return total * work.share


def _already_here(job: TrainJob, plan: Plan, found: Calibration) -> int:
    """What this process holds before it trains beyond what the probe did: conversations and such.

    Only where training happens in this process, and on the CPU, where all memory is one.
    """
    if job.device != "cpu" or job.processes > 1:
        return 0
    return plan.resident_bytes - found.before


def _affordable(work: Workload, device: str) -> float:
    """Seconds that a probe may take."""
    passes = work.share * len(work.micro_batches)
    seconds = work.work / _ROUGH_RATE[device] + passes * _ROUGH_PASS
    return min(PROBE_SECONDS, PROBE_SHARE * seconds)


def work_of(job: TrainJob, checkpoints: int = 0) -> Workload:
    """The work of a job."""
    steps = step_plan(job)
    heldout = load_rows(job.validation_rows) if job.validation_rows else None
    every = eval_interval(job, steps) if heldout else 0
    return workload(
        job,
        steps,
        known_shape(job.model_folder, job.model_sha256, job.recipe).work,
        load_rows(job.train_rows),
        heldout_tokens=int(heldout.lengths.sum()) if heldout else 0,
        evaluations=-(-steps.total_steps // every) if every else 0,
        checkpoints=checkpoints,
    )


def _key(job: TrainJob, work: Workload | None = None) -> dict[str, Any]:
    """What a calibration depends on; without `work`, on everything but the rows."""
    recipe = {
        k: v
        for k, v in asdict(job.recipe).items()
        if k not in NOT_IDENTITY | _ELSEWHERE
        and not k.endswith("_path")
        and not k.startswith(("compute_", "instance_"))
    }
    rows = {}
    if work:
        rows = {
            "data": job.train_sha256,
            "validation": job.validation_sha256,
            "largest": work.largest.tokens,
            "passes": len(work.micro_batches),
        }
    return {
        "program": machine.program(),
        "machine": machine.fingerprint(job.device),
        "model": job.model_sha256,
        "recipe": recipe,
        "micro_batch": job.micro_batch,
        "accumulates": job.accumulation > 1,
        "max_seq_length": job.max_seq_length,
        "processes": job.processes,
        **rows,
    }


def _probe(job: TrainJob, work: Workload, seconds: float, report: Report) -> Calibration | None:
    """Measure in processes of their own; None, and a note, when that fails."""
    micro = work.micro_batches
    picked = [micro[i] for i in chosen([m.work for m in micro])]
    if work.largest.tokens > max(m.tokens for m in picked):
        picked.append(work.largest)
    spec = Spec(
        job=job,
        rows=[m.rows for m in picked],
        work=[m.work for m in picked],
        tokens=[m.tokens for m in picked],
        loss_tokens=[m.loss_tokens for m in picked],
        deadline=time.time() + seconds,
    )
    with tempfile.TemporaryDirectory(prefix="finery-probe-") as name:
        command, environment = processes_of(job, "probe", save_spec(spec, Path(name)))
        ended = subprocess.run(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
        )
        result = Path(name) / "calibration.json"
        if result.is_file():
            return from_dict(read_json(result))
    said = ended.stdout.decode(errors="replace").strip().splitlines() or ["it said nothing"]
    text = (
        "time and memory are not known before the start: measuring them failed with status "
        f"{ended.returncode} ({said[-1]})"
    )
    report({"event": "note", "text": text})
    return None
