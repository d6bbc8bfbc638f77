"""Every row once an epoch, the same rows on one process as on many, at every start."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from finery.chat.rows import TokenRows, make_rows
from finery.training.steps import StepPlan, countable_targets, plan_steps


def some_rows(count: int, seed: int = 0) -> TokenRows:
    random = np.random.default_rng(seed)
    return make_rows(
        ([1] * length, [False] + [True] * (length - 1), number)
        for number, length in enumerate(random.integers(2, 30, count).tolist(), 1)
    )


def plan(rows: TokenRows, **changes: Any) -> StepPlan:
    given: dict[str, Any] = {
        "pack_to": 0,
        "micro_batch": 2,
        "accumulation": 3,
        "processes": 2,
        "epochs": 3,
        "max_steps": -1,
        "seed": 42,
        **changes,
    }
    return plan_steps(rows, **given)


@pytest.mark.parametrize("pack_to", [0, 64])
@pytest.mark.parametrize("count", [1, 11, 12, 13, 50])
def test_each_epoch_reads_every_row_once_in_an_order_of_its_own(count: int, pack_to: int) -> None:
    made = plan(some_rows(count), pack_to=pack_to)
    epochs = []
    for epoch in range(3):
        steps = range(epoch * made.steps_per_epoch, (epoch + 1) * made.steps_per_epoch)
        epochs.append([row for s in steps for batch in made.micro_batches(s) for row in batch])
        assert Counter(epochs[-1]) == Counter(range(count))
    assert made.total_steps == 3 * made.steps_per_epoch
    if count > 10:
        assert epochs[0] != epochs[1] != epochs[2]


@pytest.mark.parametrize(
    ("micro", "accumulation", "processes"), [(12, 1, 1), (1, 12, 1), (2, 3, 2), (1, 6, 2)]
)
def test_a_step_has_the_same_rows_however_it_is_shared_out(
    micro: int, accumulation: int, processes: int
) -> None:
    rows = some_rows(31)
    one = plan(rows, micro_batch=12, accumulation=1, processes=1)
    other = plan(rows, micro_batch=micro, accumulation=accumulation, processes=processes)
    assert one.total_steps == other.total_steps
    for step in range(one.total_steps):
        both = [[row for batch in p.micro_batches(step) for row in batch] for p in (one, other)]
        assert both[0] == both[1]
        assert one.step_loss_tokens(step) == other.step_loss_tokens(step)


@pytest.mark.parametrize("pack_to", [0, 64])
def test_a_step_is_divided_by_the_loss_tokens_of_its_own_rows(pack_to: int) -> None:
    rows = some_rows(23)
    made = plan(rows, pack_to=pack_to)
    counts = countable_targets(rows)
    for step in range(made.total_steps):
        chosen = [row for batch in made.micro_batches(step) for row in batch]
        assert made.step_loss_tokens(step) == sum(counts[row] for row in chosen)


def test_step_n_is_the_same_whether_or_not_the_steps_before_it_were_asked_for() -> None:
    rows = some_rows(29)
    first, second = plan(rows), plan(rows)
    forwards = [first.micro_batches(step) for step in range(9)]
    backwards = [second.micro_batches(step) for step in reversed(range(9))]
    assert forwards == backwards[::-1]


def test_another_seed_gives_another_order() -> None:
    rows = some_rows(29)
    assert plan(rows).micro_batches(0) != plan(rows, seed=43).micro_batches(0)


def test_max_steps_wins_over_epochs() -> None:
    assert plan(some_rows(29), max_steps=100).total_steps == 100


def test_packed_sequences_stay_together_and_within_their_limit() -> None:
    rows = some_rows(60)
    made = plan(rows, pack_to=64, micro_batch=1)
    assert all(sum(rows.lengths[list(group)]) <= 64 for group in made.groups)
    batches = {batch for s in range(made.steps_per_epoch) for batch in made.micro_batches(s)}
    assert batches == set(made.groups)


def test_a_rows_first_token_has_nothing_to_predict_it() -> None:
    rows = make_rows([([1, 2], [True, True], 1), ([3], [True], 2), ([4, 5], [False, True], 3)])
    assert countable_targets(rows).tolist() == [1, 0, 1]
    assert countable_targets(make_rows([])).tolist() == []
