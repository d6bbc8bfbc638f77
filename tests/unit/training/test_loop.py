"""The decisions of the loop: what a step weighs, when to evaluate, what is best, when to stop."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from finery.chat.rows import make_rows, save_rows
from finery.model.batch import make_batch
from finery.recipe.inputs import Recipe
from finery.training.checkpoint import Progress
from finery.training.job import TrainJob, load_job
from finery.training.loop import (
    eval_interval,
    exhausted,
    judge,
    log_interval,
    seed_random,
    share_of_step,
    step_plan,
    step_tokens,
)

ROWS = make_rows(([1] * n, [False] + [True] * (n - 1), n) for n in range(2, 22))


@pytest.fixture
def job(tmp_path: Path) -> TrainJob:
    save_rows(ROWS, tmp_path)
    return TrainJob(
        recipe=Recipe(per_device_train_batch_size=2, gradient_accumulation_steps=2),
        model_folder=tmp_path / "model",
        model_source="model",
        model_sha256="m",
        train_rows=tmp_path,
        validation_rows=None,
        train_sha256="d",
        pad_id=0,
        end_of_turn_id=2,
        max_seq_length=64,
        device="cpu",
        processes=1,
        accumulation=2,
        run=tmp_path / "run",
    )


def having(job: TrainJob, **changes: Any) -> TrainJob:
    return replace(job, recipe=replace(job.recipe, **changes))


def test_a_token_weighs_the_same_in_a_short_and_in_a_long_micro_batch() -> None:
    losses = [torch.tensor(3.0), torch.tensor(17.0)]
    batches = [make_batch(ROWS, [0]), make_batch(ROWS, [1, 2, 3])]
    tokens = sum(len(batch.targets) for batch in batches)
    shares = [share_of_step(loss, b, tokens) for loss, b in zip(losses, batches, strict=True)]
    assert float(sum(shares)) == pytest.approx(20.0 / tokens)


def numbers(seed: int, step: int, micro_batch: int) -> list[float]:
    seed_random(seed, step, micro_batch)
    return torch.rand(4).tolist()


def test_random_numbers_belong_to_seed_step_and_micro_batch() -> None:
    first = numbers(42, 7, 1)
    torch.rand(100)
    assert numbers(42, 7, 1) == first
    others = [numbers(43, 7, 1), numbers(42, 8, 1), numbers(42, 7, 2)]
    assert all(other != first for other in others)
    assert len({tuple(other) for other in others}) == 3


def test_the_lowest_held_out_loss_is_the_best_and_ties_keep_the_first() -> None:
    progress = Progress()
    for step, loss in enumerate([2.0, 1.5, 1.5, 1.7], 1):
        progress = judge(0.0, replace(progress, step=step), loss)
    assert (progress.best_loss, progress.best_step) == (1.5, 2)
    assert progress.evaluations_without_gain == 2


def test_a_gain_below_the_threshold_is_kept_but_does_not_count_as_progress() -> None:
    progress = judge(0.1, Progress(step=1), 2.0)
    progress = judge(0.1, replace(progress, step=2), 1.95)
    assert (progress.best_step, progress.evaluations_without_gain) == (2, 1)
    progress = judge(0.1, replace(progress, step=3), 1.5)
    assert (progress.best_step, progress.evaluations_without_gain) == (3, 0)


def test_a_loss_that_is_not_a_number_is_never_the_best() -> None:
    progress = judge(0.0, Progress(step=1), 2.0)
    progress = judge(0.0, replace(progress, step=2), float("nan"))
    assert (progress.best_step, progress.evaluations_without_gain) == (1, 1)


@pytest.mark.parametrize(("on", "misses", "stops"), [(True, 2, True), (True, 1, False)])
def test_patience_counts_evaluations_without_gain(
    job: TrainJob, on: bool, misses: int, stops: bool
) -> None:
    patient = having(job, apply_early_stopping=on, early_stopping_patience=2)
    assert exhausted(patient, Progress(evaluations_without_gain=misses)) is stops


def test_without_early_stopping_patience_is_endless(job: TrainJob) -> None:
    assert not exhausted(job, Progress(evaluations_without_gain=100))


def test_evaluation_comes_by_epoch_by_steps_by_fraction_or_never(job: TrainJob) -> None:
    plan = step_plan(job)
    assert plan.steps_per_epoch == 5
    assert eval_interval(having(job, evaluation_strategy="epoch"), plan) == 5
    assert eval_interval(having(job, evaluation_strategy="disable"), plan) == 0
    by_steps = having(job, evaluation_strategy="steps", eval_steps=3)
    assert eval_interval(by_steps, plan) == 3
    assert eval_interval(having(by_steps, evaluation_steps_interval=0.4), plan) == 2
    assert eval_interval(having(by_steps, evaluation_steps_interval=0.01), plan) == 1


def test_log_lines_come_by_steps_or_by_epoch(job: TrainJob) -> None:
    plan = step_plan(job)
    assert log_interval(having(job, logging_steps=3), plan) == 3
    assert log_interval(having(job, logging_strategy="epoch", logging_steps=3), plan) == 5
    assert log_interval(having(job, logging_steps=0), plan) == 1


def test_tokens_of_an_epochs_steps_are_those_of_its_rows(job: TrainJob) -> None:
    plan = step_plan(job)
    counted = sum(step_tokens(plan, ROWS.lengths, step) for step in range(plan.steps_per_epoch))
    assert counted == int(np.sum(ROWS.lengths))


def test_a_job_survives_its_file(job: TrainJob, tmp_path: Path) -> None:
    job.save(tmp_path / "job.json")
    again = load_job(tmp_path / "job.json")
    assert again == job
    assert again.fingerprint == job.fingerprint
    with_data = replace(job, validation_rows=tmp_path)
    with_data.save(tmp_path / "job.json")
    assert load_job(tmp_path / "job.json") == with_data


WATCHING = {"output_dir": "x", "logging_steps": 3, "save_total_limit": 2, "self_tests": False}
DECIDING = {
    "seed": 1,
    "learning_rate": 0.1,
    "packing": True,
    "lora_r": 2,
    "precision": "bf16",
    "max_steps": 7,
}


@pytest.mark.parametrize("name", WATCHING)
def test_how_a_run_is_watched_may_change_at_a_restart(job: TrainJob, name: str) -> None:
    assert having(job, **{name: WATCHING[name]}).fingerprint == job.fingerprint


@pytest.mark.parametrize("name", DECIDING)
def test_what_decides_the_weights_may_not(job: TrainJob, name: str) -> None:
    assert having(job, **{name: DECIDING[name]}).fingerprint != job.fingerprint


@pytest.mark.parametrize("name", ["model_sha256", "train_sha256"])
def test_another_model_or_other_data_is_another_run(job: TrainJob, name: str) -> None:
    assert replace(job, **{name: "other"}).fingerprint != job.fingerprint


def test_zero_runs_keep_their_process_count_and_others_need_not(job: TrainJob) -> None:
    assert replace(job, processes=2).fingerprint == job.fingerprint
    sharded = having(job, apply_deepspeed=True)
    assert replace(sharded, processes=2).fingerprint != sharded.fingerprint
