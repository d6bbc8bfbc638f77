"""How well a training uses its machine: its share of the ceiling, and its peak memory.

Both are read beside the training and change nothing in it. The ceiling is the speed of the
fastest large matrix product in the training's own precision (`finery.planning.ceiling`). It is
probed before the first step and kept by machine, in `FINERY_HOME/ceilings.json`, for a day: the
highest probe counts, so that one made on a busy machine does no lasting harm.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch

from finery.errors import first_line
from finery.files import home, read_json, sha256_json, write_json
from finery.model.load import DTYPES, mixed_precision
from finery.planning.ceiling import WorkShape, gemm_ceiling, useful_flops, work_shape
from finery.planning.machine import fingerprint, start_counting, used_bytes
from finery.training.events import Report
from finery.training.job import TrainJob
from finery.training.steps import StepPlan

PROBE_SECONDS = 0.3
FRESH_SECONDS = 24 * 3600.0
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")


@dataclass(frozen=True)
class Gauge:
    """What is known of the work and the machine of a training."""

    device: str
    shape: WorkShape | None  # None: the work cannot be counted
    ceiling: float | None  # FLOP/s of all processes together; None: not measured

    def read(
        self, plan: StepPlan, lengths: Any, steps: Iterable[int], seconds: float
    ) -> dict[str, float]:
        """`memory_bytes`, and `share_of_ceiling` of `steps` (from 0), which took `seconds`.

        `lengths` are the tokens of each row. What is not known is left out.
        """
        peak = used_bytes(self.device)
        figures: dict[str, float] = {"memory_bytes": peak} if peak else {}
        if self.shape and self.ceiling and seconds > 0:
            work = sum(_flops(self.shape, plan, lengths, step) for step in steps)
            figures["share_of_ceiling"] = work / seconds / self.ceiling
        return figures


def _flops(shape: WorkShape, plan: StepPlan, lengths: Any, step: int) -> float:
    documents = [int(lengths[row]) for group in plan.micro_batches(step) for row in group]
    return useful_flops(shape, sum(documents), documents, plan.step_loss_tokens(step))


def make_gauge(job: TrainJob, model: Any, report: Report) -> Gauge:
    """The gauge of a training that is about to start; what it cannot measure is said once."""
    shape = ceiling = None
    try:
        _check_countable(job, model)
        shape = work_shape(model, model.config.get_text_config())
        ceiling = job.processes * machine_ceiling(job.device, job.recipe.precision)
    except (RuntimeError, OSError, ValueError, AttributeError) as error:
        text = f"The share of the machine's ceiling is not logged: {first_line(error)}"
        report({"event": "note", "text": text})
    return Gauge(job.device, shape, ceiling)


def _check_countable(job: TrainJob, model: Any) -> None:
    """Raises ValueError for a model whose weights do not tell its work."""
    if job.recipe.quantization != "none":
        raise ValueError("quantized weights are stored in another form than they are used in")
    config = model.config.get_text_config()
    if any(getattr(config, name, 0) for name in _EXPERTS):
        raise ValueError("a token sees a few of this model's experts, not all its weights")


def machine_ceiling(device: str, precision: str) -> float:
    """FLOP/s that one process can reach on `device` with arithmetic in `precision`.

    Raises RuntimeError or OSError when it cannot be measured or kept.
    """
    path, arithmetic = home() / "ceilings.json", mixed_precision(precision, device)
    name = sha256_json([fingerprint(device), torch.get_num_threads(), arithmetic])
    kept = read_json(path) if path.is_file() else {}
    known = kept.get(name, {"flops_per_s": 0.0, "at": 0.0})
    if time.time() - known["at"] < FRESH_SECONDS:
        return known["flops_per_s"]
    chips = [torch.cuda.current_device()] if device == "cuda" else []
    with torch.random.fork_rng(chips):  # the probe's numbers must not move the training's
        probed = gemm_ceiling(device, DTYPES[arithmetic], seconds=PROBE_SECONDS)
    found = max(known["flops_per_s"], probed)
    if device == "cuda":
        torch.cuda.empty_cache()
        start_counting(device)  # the probe's memory is not the training's
    write_json(path, {**kept, name: {"flops_per_s": found, "at": time.time()}})
    return found
