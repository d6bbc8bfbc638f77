"""Which rows each step trains on: a pure function of the seed and the step number.

Nothing here has a position that a crash could lose. Step n reads the same rows in the same
micro-batches on every start, and the same rows on one process as on many: the rows of a
step are dealt to the processes micro-batch by micro-batch, none twice and none left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from finery.chat.pack import pack
from finery.chat.rows import TokenRows


@dataclass(frozen=True)
class StepPlan:
    """The training data, cut into optimizer steps."""

    groups: tuple[tuple[int, ...], ...]  # rows that stay together: one row, or a packed sequence
    loss_tokens: tuple[int, ...]  # loss-carrying tokens of each group
    micro_batch: int  # groups in one forward pass
    accumulation: int  # forward passes of one process in one step
    processes: int
    epochs: int
    max_steps: int  # > 0 overrides epochs
    seed: int

    @property
    def global_batch(self) -> int:
        """Groups in one optimizer step, over all processes."""
        return self.micro_batch * self.accumulation * self.processes

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps that read every group once; the last one may be smaller."""
        return -(-len(self.groups) // self.global_batch)

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.max_steps if self.max_steps > 0 else self.epochs * self.steps_per_epoch

    def micro_batches(self, step: int) -> list[tuple[int, ...]]:
        """The rows of every micro-batch of `step` (from 0), over all processes, in order."""
        chosen = self._groups_of(step)
        return [
            tuple(row for group in chosen[i : i + self.micro_batch] for row in self.groups[group])
            for i in range(0, len(chosen), self.micro_batch)
        ]

    def step_loss_tokens(self, step: int) -> int:
        """Loss-carrying tokens of `step` over all processes: what its loss is divided by."""
        return sum(self.loss_tokens[group] for group in self._groups_of(step))

    def _groups_of(self, step: int) -> tuple[int, ...]:
        epoch, place = divmod(step, self.steps_per_epoch)
        order = _permutation(len(self.groups), self.seed, epoch)
        return order[place * self.global_batch : (place + 1) * self.global_batch]


@lru_cache(maxsize=2)
def _permutation(count: int, seed: int, epoch: int) -> tuple[int, ...]:
    return tuple(np.random.default_rng((seed, epoch)).permutation(count).tolist())


def plan_steps(
    rows: TokenRows,
    *,
    pack_to: int,
    micro_batch: int,
    accumulation: int,
    processes: int,
    epochs: int,
    max_steps: int,
    seed: int,
) -> StepPlan:
    """The plan for `rows`; `pack_to` > 0 packs them into sequences of that many tokens."""
    counts = countable_targets(rows)
    groups: Sequence[Sequence[int]]
    groups = pack(rows.lengths.tolist(), pack_to) if pack_to else [[i] for i in range(len(rows))]
    return StepPlan(
        groups=tuple(tuple(group) for group in groups),
        loss_tokens=tuple(int(sum(counts[row] for row in group)) for group in groups),
        micro_batch=micro_batch,
        accumulation=accumulation,
        processes=processes,
        epochs=epochs,
        max_steps=max_steps,
        seed=seed,
    )


def countable_targets(rows: TokenRows) -> np.ndarray:
    """Loss tokens of each row that something predicts: a row's first token has no predecessor."""
    counts = rows.trained_counts()
    if len(rows):
        counts = counts - rows.trained[rows.offsets[:-1]]
    return counts
