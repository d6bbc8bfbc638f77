"""A run that stopped anywhere goes on bit for bit, and keeps the best weights it saw."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny import Run, largest_difference, result_of, tiny_rows

from finery.chat.rows import load_rows
from finery.errors import FineryError
from finery.evaluation.loss import heldout_losses
from finery.model.load import load_model
from finery.model.lora import load_adapter
from finery.model.loss import LossModel
from finery.training import loop
from finery.training.checkpoint import checkpoint_path
from finery.training.job import TrainJob
from finery.training.loop import train
from finery.training.trainee import trained_weights_folder

MakeJob = Callable[..., TrainJob]
RunJob = Callable[[TrainJob], Run]
RunGroup = Callable[[TrainJob], tuple[Run, list[str]]]


class Killed(BaseException):
    """What stands in for a kill inside the test's own process."""


def train_until(job: TrainJob, event: str, step: int) -> list[dict[str, Any]]:
    """Train `job` up to its `event` of `step`, where the process is gone."""
    seen: list[dict[str, Any]] = []

    def report(found: dict[str, Any]) -> None:
        seen.append(found)
        if found["event"] == event and found["step"] == step:
            raise Killed

    with pytest.raises(Killed):
        train(job, report)
    return seen


KINDS: dict[str, dict[str, Any]] = {
    "lora with dropout": {"lora_dropout": 0.1},
    "full": {"apply_lora": False, "learning_rate": 1e-3},
    "adafactor": {"optim": "adafactor"},
    "dora, packed": {"use_dora": True, "packing": True},
    "bf16": {"precision": "bf16"},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("event", "step"), [("log", 1), ("checkpoint", 2), ("log", 5)])
def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(
    kind: str, event: str, step: int, make_job: MakeJob, run_job: RunJob
) -> None:
    settings = {"save_steps": 2, "warmup_steps": 2, **KINDS[kind]}
    whole = run_job(make_job(**settings))
    job = make_job(**settings)
    train_until(job, event, step)
    resumed = run_job(job)
    assert resumed.of("start")[0]["step"] == (step if event == "checkpoint" else step // 2 * 2)
    assert largest_difference(whole, resumed) == 0.0
    assert resumed.losses == whole.losses[-len(resumed.losses) :]


def test_a_log_line_that_a_stop_fell_into_says_the_same_as_without_it(
    make_job: MakeJob, run_job: RunJob
) -> None:
    settings = {"save_steps": 1, "logging_steps": 3}
    whole = run_job(make_job(**settings))
    job = make_job(**settings)
    train_until(job, "checkpoint", 2)
    assert run_job(job).losses == whole.losses


def test_a_broken_newest_checkpoint_costs_steps_and_nothing_else(
    make_job: MakeJob, run_job: RunJob
) -> None:
    whole = run_job(make_job(save_steps=1))
    job = make_job(save_steps=1)
    train_until(job, "checkpoint", 4)
    weights = checkpoint_path(job.run / "checkpoints", 4) / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    resumed = run_job(job)
    assert resumed.of("start")[0]["step"] == 3
    assert largest_difference(whole, resumed) == 0.0


def test_a_run_with_other_settings_does_not_go_on_from_these_checkpoints(
    make_job: MakeJob, run_job: RunJob
) -> None:
    job = make_job(save_steps=1)
    train_until(job, "checkpoint", 2)
    with pytest.raises(FineryError, match="other settings or data"):
        run_job(replace(job, recipe=replace(job.recipe, learning_rate=1e-4)))
    with pytest.raises(FineryError, match="other settings or data"):
        run_job(replace(job, train_sha256="other data"))
    watched_otherwise = replace(job, recipe=replace(job.recipe, logging_steps=3))
    assert run_job(watched_otherwise).of("start")[0]["step"] == 2


def test_a_plain_run_goes_on_with_another_accumulation(make_job: MakeJob, run_job: RunJob) -> None:
    """As when a machine with other devices takes over: `processes` is not part of a run."""
    whole = run_job(make_job(save_steps=1))
    job = make_job(save_steps=1)
    train_until(job, "checkpoint", 3)
    assert largest_difference(whole, run_job(replace(job, processes=1))) == 0.0


def test_a_finished_run_that_is_started_again_leaves_the_same_result(
    make_job: MakeJob, run_job: RunJob
) -> None:
    job = make_job()
    first = run_job(job)
    written = json.loads((job.run / "training.json").read_text())
    again = run_job(job)
    assert again.losses == []
    assert largest_difference(first, again) == 0.0
    assert json.loads((job.run / "training.json").read_text()) == written


def test_proofs_run_at_the_beginning_and_not_at_every_restart(
    make_job: MakeJob, run_job: RunJob
) -> None:
    job = make_job(save_steps=1)
    assert train_until(job, "checkpoint", 2)[0]["event"] == "self_tests"
    assert run_job(job).of("self_tests") == []


@pytest.mark.parametrize("stage", ["", "2", "3"], ids=["ddp", "zero2", "zero3"])
def test_two_processes_go_on_bit_for_bit_from_a_checkpoint(
    stage: str, make_job: MakeJob, run_group: RunGroup
) -> None:
    if stage and importlib.util.find_spec("deepspeed") is None:
        pytest.skip("deepspeed is not installed")
    sharded = {"apply_deepspeed": True, "deepspeed_stage": stage} if stage else {}
    job = make_job(processes=2, save_steps=3, lora_dropout=0.1, **sharded)
    whole, _ = run_group(job)
    shutil.rmtree(job.run / "adapter")
    shutil.rmtree(checkpoint_path(job.run / "checkpoints", 6))
    resumed, _ = run_group(job)
    assert resumed.of("start")[0]["step"] == 3
    assert resumed.losses == whole.losses[3:]
    assert largest_difference(whole, resumed) == 0.0


def steer(monkeypatch: pytest.MonkeyPatch, losses: list[float]) -> None:
    """Held-out losses as the test wants them, one an evaluation."""
    coming = iter(losses)
    monkeypatch.setattr(loop, "heldout_mean", lambda *_: next(coming))


def evaluated(make_job: MakeJob, tiny_llama: Path, **settings: Any) -> TrainJob:
    given = {"eval_steps": 1, "max_steps": 6, **settings}
    return make_job(validation=tiny_rows(tiny_llama, 4, seed=5), **given)


def test_the_best_steps_weights_are_kept_and_not_the_last(
    make_job: MakeJob, run_job: RunJob, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steer(monkeypatch, [3.0, 2.0, 1.0, 2.5, 2.6, 2.7])
    job = evaluated(make_job, tiny_llama, save_total_limit=1)
    kept = run_job(job)
    left = sorted(folder.name for folder in (job.run / "checkpoints").glob("step-*"))
    assert left == ["step-00000003", "step-00000006"]
    best = load_file(checkpoint_path(job.run / "checkpoints", 3) / "adapter_model.safetensors")
    assert all(torch.equal(value, kept.weights[name]) for name, value in best.items())
    result = json.loads((job.run / "training.json").read_text())
    assert (result["best_step"], result["best_loss"], result["steps"]) == (3, 1.0, 6)
    assert not result["stopped_early"]


def test_early_stopping_ends_the_run_after_its_patience(
    make_job: MakeJob, run_job: RunJob, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steer(monkeypatch, [3.0, 2.0, 2.1, 2.2, 2.3])
    settings = {"apply_early_stopping": True, "early_stopping_patience": 2}
    job = evaluated(make_job, tiny_llama, **settings)
    ended = run_job(job)
    assert [event["step"] for event in ended.of("eval")] == [1, 2, 3, 4]
    result = json.loads((job.run / "training.json").read_text())
    assert (result["steps"], result["best_step"], result["stopped_early"]) == (4, 2, True)


def test_a_run_that_stopped_early_does_not_go_on_when_started_again(
    make_job: MakeJob, run_job: RunJob, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steer(monkeypatch, [2.0, 2.1])
    settings = {"apply_early_stopping": True, "early_stopping_patience": 1}
    job = evaluated(make_job, tiny_llama, **settings)
    first = run_job(job)
    again = run_job(job)
    assert again.losses == []
    assert largest_difference(first, again) == 0.0


def test_a_run_that_stops_before_its_first_log_line_still_ends_well(
    make_job: MakeJob, run_job: RunJob, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steer(monkeypatch, [2.0, 2.1])
    settings = {"apply_early_stopping": True, "logging_steps": 50}
    job = evaluated(make_job, tiny_llama, **settings)
    run_job(job)
    assert json.loads((job.run / "training.json").read_text())["train_loss"] is None


def test_the_held_out_loss_of_a_run_is_that_of_its_weights(
    make_job: MakeJob, run_job: RunJob, tiny_llama: Path
) -> None:
    job = evaluated(make_job, tiny_llama, eval_steps=6)
    seen = run_job(job).of("eval")[-1]["eval_loss"]
    base = load_model(tiny_llama, precision="32", device="cpu")
    tuned = load_adapter(base, trained_weights_folder(job.run))
    model = LossModel(tuned, base, fused=True)
    assert job.validation_rows is not None
    assert heldout_losses(model, load_rows(job.validation_rows)).mean == pytest.approx(seen, 1e-5)


def test_a_training_run_learns(make_job: MakeJob, run_job: RunJob, tiny_llama: Path) -> None:
    losses = run_job(evaluated(make_job, tiny_llama, max_steps=30, eval_steps=30)).losses
    assert sum(losses[:5]) / 5 - sum(losses[-5:]) / 5 > 0.3


def test_a_run_that_never_finished_has_no_result(make_job: MakeJob) -> None:
    job = make_job(save_steps=1)
    train_until(job, "checkpoint", 2)
    with pytest.raises(FineryError, match="holds no finished training"):
        trained_weights_folder(job.run)
    with pytest.raises(StopIteration):
        result_of(job.run, [])
