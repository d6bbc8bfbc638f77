"""The work of a job before it runs: FLOPs and tokens of its micro-batches, and its sums."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from finery.chat.rows import TokenRows
from finery.planning.ceiling import WorkShape, useful_flops
from finery.training.job import TrainJob
from finery.training.steps import StepPlan, countable_targets

MOST_STEPS = 5_000  # looked at one by one; of a longer run as many, spread evenly


@dataclass(frozen=True)
class MicroBatch:
    """One forward and backward pass."""

    rows: tuple[int, ...]
    tokens: int  # padding included
    loss_tokens: int
    work: float  # FLOPs


@dataclass(frozen=True)
class Workload:
    """What a run computes."""

    steps: tuple[tuple[MicroBatch, ...], ...]  # those looked at
    total_steps: int
    tokens: int  # of the whole run, padding not counted
    heldout_tokens: int  # of one evaluation
    evaluations: int
    checkpoints: int

    @property
    def share(self) -> float:
        """Steps of the run for each one looked at."""
        return self.total_steps / len(self.steps)

    @property
    def micro_batches(self) -> list[MicroBatch]:
        """Every micro-batch looked at."""
        return [micro for step in self.steps for micro in step]

    @property
    def work(self) -> float:
        """FLOPs of the whole run's training steps."""
        return self.share * sum(micro.work for micro in self.micro_batches)

    @property
    def largest(self) -> MicroBatch:
        """The micro-batch with the most tokens, which decides the memory."""
        return max(self.micro_batches, key=lambda micro: micro.tokens)


def workload(
    job: TrainJob,
    plan: StepPlan,
    shape: WorkShape,
    rows: TokenRows,
    *,
    heldout_tokens: int = 0,
    evaluations: int = 0,
    checkpoints: int = 0,
) -> Workload:
    """The work of a job's steps. Which rows need padding the recipe alone decides here."""
    recipe = job.recipe
    padded = recipe.layout == "padded" or recipe.pad_to_max_length
    least = job.max_seq_length if recipe.pad_to_max_length else 0
    targets = countable_targets(rows)
    total = plan.total_steps
    numbers = np.linspace(0, total - 1, min(total, MOST_STEPS)).round().astype(int)

    def micro_batch(indices: tuple[int, ...]) -> MicroBatch:
        real = [int(rows.lengths[index]) for index in indices]
        lengths = [max([*real, least])] * len(real) if padded else real
        loss_tokens = int(targets[list(indices)].sum())
        work = useful_flops(shape, sum(lengths), lengths, loss_tokens)
        return MicroBatch(indices, sum(lengths), loss_tokens, work)

    steps = tuple(
        tuple(micro_batch(indices) for indices in plan.micro_batches(int(number)))
        for number in numbers
    )
    seen = sum(int(rows.lengths[i]) for step in steps for micro in step for i in micro.rows)
    return Workload(
        steps=steps,
        total_steps=total,
        tokens=round(seen * total / len(steps)),
        heldout_tokens=heldout_tokens,
        evaluations=evaluations,
        checkpoints=checkpoints,
    )
