"""The training loop, top to bottom: read this file to know what finery does.

For every optimizer step: take the step's rows, run them through the model in micro-batches,
divide the summed loss by the number of loss tokens of the whole step (over all processes),
so that micro-batch, accumulation and device count never change the result; clip, step.
Now and then: log, evaluate, save. Nothing is kept in the loop that a crash could lose:
rows, learning rate and random numbers of step n are functions of the seed and n.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from finery.chat.rows import load_rows
from finery.files import write_json
from finery.model.batch import Batch
from finery.training import distribution
from finery.training.checkpoint import Progress, prune_checkpoints
from finery.training.events import Report, finite
from finery.training.gauge import make_gauge
from finery.training.heldout import heldout_mean
from finery.training.job import TrainJob
from finery.training.schedule import learning_rates
from finery.training.selftest import run_self_tests
from finery.training.steps import StepPlan, plan_steps
from finery.training.trainee import Trainee, prepare_trainee
from finery.training.window import Window


@dataclass(frozen=True)
class TrainResult:
    """How a training run ended."""

    steps: int
    best_step: int
    best_loss: float | None  # held-out, of the step whose weights were kept
    train_loss: float | None  # mean over the last logged window; None when none was logged
    tokens: int  # real tokens trained on, padding not counted
    seconds: float  # in steps alone
    stopped_early: bool


def train(job: TrainJob, report: Report) -> TrainResult:
    """Train as `job` says, from its newest complete checkpoint if it has one.

    Called by every process of the run. Leaves the best weights (by held-out loss; the last
    ones without evaluation) in `job.run/adapter` or `job.run/weights`. Raises SelfTestError
    before the first step when a proof fails, FineryError when a loss is no number. A crash
    loses the steps since the last checkpoint, which the next start repeats bit for bit.
    """
    recipe = job.recipe
    rows = load_rows(job.train_rows)
    validation = load_rows(job.validation_rows) if job.validation_rows else None
    accelerator = distribution.make_accelerator(recipe, job.device, job.accumulation)
    plan = step_plan(job)
    trainee = prepare_trainee(job, accelerator)
    progress = trainee.progress
    if progress.step == 0 and recipe.self_tests and trainee.is_main:
        run_self_tests(trainee, rows, job, report)
    gauge = make_gauge(job, trainee.tuned, report) if trainee.is_main else None
    trainee.wrap()

    learning_rate = learning_rates(recipe, plan.total_steps)
    log_every = log_interval(job, plan)
    eval_every = eval_interval(job, plan) if validation else 0
    save_every = recipe.save_steps or (0 if eval_every else plan.steps_per_epoch)
    report({"event": "start", "step": progress.step, "total_steps": plan.total_steps})

    window = Window.of(trainee, progress)
    stopped_early = exhausted(job, progress)
    for step in range(progress.step, plan.total_steps):
        if stopped_early:
            break
        started = time.perf_counter()
        trainee.set_learning_rate(learning_rate(step))
        micro_batches = local_batches(trainee, plan, rows, step)
        loss = accumulate(
            trainee.model,
            micro_batches,
            plan.step_loss_tokens(step),
            processes=job.processes,
            backward=trainee.backward,
            micro_batch=trainee.micro_batch,
        )
        grad_norm = trainee.finish_step()
        tokens = step_tokens(plan, rows.lengths, step)
        seconds = time.perf_counter() - started
        window.add(loss, tokens, seconds)
        progress = replace(
            progress,
            step=step + 1,
            tokens=progress.tokens + tokens,
            seconds=progress.seconds + seconds,
        )
        last = progress.step == plan.total_steps

        due = bool(eval_every) and (progress.step % eval_every == 0 or last)
        if progress.step % log_every == 0 or last:
            event = window.event(trainee, progress, plan, learning_rate(step), grad_norm)
            progress = replace(progress, train_loss=event["loss"])
            done = range(progress.step - window.steps, progress.step)
            figures = gauge.read(plan, rows.lengths, done, window.seconds) if gauge else {}
            report({**event, **figures})
            window = Window()
        if due and validation:
            heldout = heldout_mean(trainee, validation, recipe.per_device_eval_batch_size)
            heldout = finite(heldout, "held-out loss", progress.step)
            progress = judge(recipe.early_stopping_threshold, progress, heldout)
            report({"event": "eval", "step": progress.step, "eval_loss": heldout})
            stopped_early = exhausted(job, progress)
        if due or last or (save_every and progress.step % save_every == 0):
            trainee.save(window.kept_in(trainee, progress))
            report({"event": "checkpoint", "step": progress.step})
            if trainee.is_main:
                keep = {progress.best_step, progress.step}
                prune_checkpoints(trainee.checkpoints, recipe.save_total_limit, keep)

    result = result_of(progress, stopped_early)
    if trainee.is_main:
        trainee.keep_best(result.best_step)
        write_json(job.run / "training.json", vars(result))
    distribution.close(accelerator)
    return result


def accumulate(
    model: nn.Module,
    batches: Iterable[tuple[Batch, float, bool]],
    loss_tokens: int,
    *,
    processes: int,
    backward: Callable[[Tensor, bool], None],
    micro_batch: Callable[[bool], AbstractContextManager[None]],
) -> Tensor:
    """Add up the gradients of one step; returns this process's share of its loss.

    Each batch comes with a weight (0 for a filler, which only keeps the processes in step)
    and with whether it is the step's last. Processes average their gradients, hence the
    factor `processes`.
    """
    total = torch.zeros(())
    for batch, weight, last in batches:
        with micro_batch(last):
            loss = share_of_step(model(batch), batch, loss_tokens) * weight
            backward(loss * processes, last)
        total = total.to(loss.device) + loss.detach()
    return total


def share_of_step(loss_sum: Tensor, batch: Batch, loss_tokens: int) -> Tensor:
    """What a micro-batch adds to the step's loss: its sum over the tokens of the whole step.

    Averaging per micro-batch instead would weigh a token by the company it keeps
    (transformers issue 34242).
    """
    return loss_sum / loss_tokens


def local_batches(
    trainee: Trainee, plan: StepPlan, rows: Any, step: int
) -> Iterator[tuple[Batch, float, bool]]:
    """This process's micro-batches of `step`, each under random numbers of its own."""
    everyone = plan.micro_batches(step)
    turns = -(-len(everyone) // plan.processes)
    for turn in range(turns):
        index = turn * plan.processes + trainee.rank
        filler = index >= len(everyone)
        batch = trainee.batch(rows, everyone[0 if filler else index])
        seed_random(plan.seed, step, index)
        yield batch, 0.0 if filler else 1.0, turn == turns - 1


def seed_random(seed: int, step: int, micro_batch: int) -> None:
    """Random numbers (dropout) depend on the micro-batch, not on the process or the past."""
    entropy = np.random.SeedSequence((seed, step, micro_batch))
    torch.manual_seed(int(entropy.generate_state(1, np.uint64)[0]))


def step_plan(job: TrainJob) -> StepPlan:
    """The steps of a job; the same on every process and at every start."""
    recipe = job.recipe
    return plan_steps(
        load_rows(job.train_rows),
        pack_to=job.max_seq_length if recipe.packing else 0,
        micro_batch=job.micro_batch,
        accumulation=job.accumulation,
        processes=job.processes,
        epochs=recipe.num_train_epochs,
        max_steps=recipe.max_steps,
        seed=recipe.seed,
    )


def log_interval(job: TrainJob, plan: StepPlan) -> int:
    """Steps between two log lines."""
    by_epoch = job.recipe.logging_strategy == "epoch"
    return plan.steps_per_epoch if by_epoch else max(job.recipe.logging_steps, 1)


def eval_interval(job: TrainJob, plan: StepPlan) -> int:
    """Steps between two evaluations; 0 for none."""
    recipe = job.recipe
    if recipe.evaluation_strategy == "disable":
        return 0
    if recipe.evaluation_strategy == "epoch":
        return plan.steps_per_epoch
    if recipe.evaluation_steps_interval > 0:
        return max(1, round(plan.steps_per_epoch * recipe.evaluation_steps_interval))
    return recipe.eval_steps


def judge(threshold: float, progress: Progress, loss: float) -> Progress:
    """Progress after an evaluation: is this the best so far, and how long since it was."""
    best = progress.best_loss
    better = best is None or loss < best
    gained = best is None or loss < best - threshold
    return replace(
        progress,
        best_loss=loss if better else best,
        best_step=progress.step if better else progress.best_step,
        evaluations_without_gain=0 if gained else progress.evaluations_without_gain + 1,
    )


def exhausted(job: TrainJob, progress: Progress) -> bool:
    """Whether early stopping ends the run here."""
    recipe = job.recipe
    patience = recipe.early_stopping_patience
    return recipe.apply_early_stopping and progress.evaluations_without_gain >= patience


def step_tokens(plan: StepPlan, lengths: Any, step: int) -> int:
    """Real tokens of `step` over all processes."""
    return int(sum(lengths[row] for group in plan.micro_batches(step) for row in group))


def result_of(progress: Progress, stopped_early: bool) -> TrainResult:
    """How a run ended, from where it stands after its last step."""
    return TrainResult(
        steps=progress.step,
        best_step=progress.best_step or progress.step,
        best_loss=progress.best_loss,
        train_loss=progress.train_loss,
        tokens=progress.tokens,
        seconds=progress.seconds,
        stopped_early=stopped_early,
    )
