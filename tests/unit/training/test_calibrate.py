"""When a start measures, when it remembers, and what a measurement says of a whole run."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from finery.chat.rows import load_rows
from finery.planning.calibration import Calibration, Sample
from finery.recipe.resolve import Resolved
from finery.training import calibrate
from finery.training.calibrate import calibrated, with_figures, work_of
from finery.training.job import TrainJob
from finery.training.prepare import Prepared, prepare

MIB = 1 << 20


@pytest.fixture
def ready(tiny_recipe: Callable[..., Resolved], own_home: Path) -> Callable[..., Prepared]:
    def make(**changes: Any) -> Prepared:
        resolved = tiny_recipe(**changes)
        return prepare(resolved.recipe, resolved.origins)

    return make


def measured_as(job: TrainJob, seconds_a_flop: float = 1e-9) -> Calibration:
    """What a probe of `job` would find on a machine of exactly that speed."""
    work = work_of(job)
    samples = tuple(
        Sample(m.work, m.tokens, m.work * seconds_a_flop, 100 * MIB + m.tokens * 1000)
        for m in work.micro_batches[:20]
    )
    peak = 100 * MIB + work.largest.tokens * 1000
    return Calibration(samples, 0.25, 0.001, 0.5, 5000, 60 * MIB, 90 * MIB, peak, 7.0)


@pytest.fixture
def probes(monkeypatch: pytest.MonkeyPatch) -> list[TrainJob]:
    """The jobs that were probed, each as fast as the arithmetic."""
    asked: list[TrainJob] = []

    def probe(job: TrainJob, *_: Any) -> Calibration:
        asked.append(job)
        return measured_as(job)

    monkeypatch.setattr(calibrate, "_probe", probe)
    return asked


def quiet(event: dict[str, Any]) -> None:
    """Nobody watches."""


def test_a_run_of_seconds_is_not_measured_unless_somebody_asks(
    ready: Callable[..., Prepared], probes: list[TrainJob]
) -> None:
    made = ready()
    plan = calibrated(made.job, made.plan, quiet)
    assert not plan.measured
    assert not probes
    assert plan.available_bytes > 0
    assert calibrated(made.job, made.plan, quiet, always=True).measured
    assert len(probes) == 1


def test_a_long_run_is_measured_once_and_the_second_start_costs_nothing(
    ready: Callable[..., Prepared], probes: list[TrainJob]
) -> None:
    made = ready(max_steps=40_000)
    first = calibrated(made.job, made.plan, quiet)
    again = ready(max_steps=40_000, learning_rate=1e-3)  # nothing that time depends on
    second = calibrated(again.job, again.plan, quiet)
    assert len(probes) == 1
    assert second.probe_seconds == 0.0
    assert second.step_seconds == pytest.approx(first.step_seconds)
    other = ready(max_steps=40_000, lora_r=16)
    calibrated(other.job, other.plan, quiet)
    assert len(probes) == 2


def test_a_short_run_takes_what_was_measured_for_other_rows_with_a_wider_bound(
    ready: Callable[..., Prepared], probes: list[TrainJob], write_chats: Callable[..., Path]
) -> None:
    made = ready()
    calibrated(made.job, made.plan, quiet, always=True)
    other = ready(train_file_path=str(write_chats("other.jsonl", 20, 5)))
    plan = calibrated(other.job, other.plan, quiet)
    assert len(probes) == 1
    assert plan.measured
    assert plan.time_error == pytest.approx(0.2)


def test_time_is_that_of_every_micro_batch_and_step(ready: Callable[..., Prepared]) -> None:
    made = ready(max_steps=5)
    work = work_of(made.job)
    plan = with_figures(made.plan, measured_as(made.job), work, made.job)
    assert plan.step_seconds == pytest.approx(work.work * 1e-9 + 5 * 0.25, rel=1e-6)
    assert plan.tokens_per_s == pytest.approx(work.tokens / plan.step_seconds)
    rows = load_rows(made.job.train_rows).lengths
    assert work.tokens == pytest.approx(5 * 4 * rows.mean(), rel=0.5)


def test_evaluations_and_checkpoints_take_their_time_beside_the_steps(
    ready: Callable[..., Prepared],
) -> None:
    made = ready(max_steps=4)
    work = replace(work_of(made.job), evaluations=3, heldout_tokens=100, checkpoints=2)
    plan = with_figures(made.plan, measured_as(made.job), work, made.job)
    assert plan.seconds - plan.step_seconds == pytest.approx(3 * 100 * 0.001 + 2 * 0.5)


def test_processes_wait_for_the_slowest_of_each_turn(ready: Callable[..., Prepared]) -> None:
    made = ready(max_steps=4, per_device_train_batch_size=1, gradient_accumulation_steps=2)
    two = replace(made.job, processes=2, accumulation=1)
    work, found = work_of(made.job), measured_as(made.job)
    alone = with_figures(made.plan, found, work, made.job).step_seconds
    together = with_figures(made.plan, found, work, two).step_seconds
    slowest = sum(max(micro.work for micro in step) for step in work.steps) * 1e-9
    assert together == pytest.approx(slowest + 4 * 0.25, rel=1e-6)
    assert together < alone


def test_memory_is_the_probes_peak_and_what_this_process_holds_besides(
    ready: Callable[..., Prepared],
) -> None:
    made = ready()
    found, work = measured_as(made.job), work_of(made.job)
    here = replace(made.plan, resident_bytes=80 * MIB)
    plan = with_figures(here, found, work, made.job)
    assert plan.memory_bytes == int((found.peak + 20 * MIB) * 1.015)
    shared = with_figures(here, found, work, replace(made.job, processes=2))
    assert shared.memory_bytes == int(found.peak * 1.015)  # training processes start afresh


def test_a_probe_that_fails_is_said_and_leaves_the_arithmetic(
    ready: Callable[..., Prepared], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = ready()
    ended = subprocess.CompletedProcess([], -9, stdout=b"loading\nKilled\n")
    monkeypatch.setattr(calibrate.subprocess, "run", lambda *_, **__: ended)
    said: list[dict[str, Any]] = []
    plan = calibrated(made.job, made.plan, said.append, always=True)
    assert not plan.measured
    assert plan.memory_bytes == made.plan.memory_bytes
    assert "failed with status -9 (Killed)" in said[-1]["text"]


def test_padding_is_work_and_is_no_token(ready: Callable[..., Prepared]) -> None:
    plain, padded = ready(), ready(pad_to_max_length=True, max_seq_length=256)
    one, two = work_of(plain.job), work_of(padded.job)
    assert one.tokens == two.tokens
    assert two.work > one.work
    assert {micro.tokens for micro in two.micro_batches} == {4 * 256}
