"""A recipe that does not fit: refused with what would, or taken as proposed with `auto`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from finery.errors import InputError
from finery.files import write_json
from finery.planning import machine
from finery.recipe.resolve import Resolved
from finery.training.fitting import as_before, fitting, measured
from finery.training.loop import step_plan
from finery.training.out_of_memory import with_less
from finery.training.prepare import Prepared, prepare


@pytest.fixture
def ready(tiny_recipe: Callable[..., Resolved], own_home: Path) -> Callable[..., Prepared]:
    def make(**changes: Any) -> Prepared:
        resolved = tiny_recipe(gradient_accumulation_steps=2, **changes)
        return prepare(resolved.recipe, resolved.origins)

    return make


@pytest.fixture
def little_memory(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    def leave(size: int) -> None:
        monkeypatch.setattr(machine, "available_bytes", lambda device: size)

    return leave


def quiet(event: dict[str, Any]) -> None:
    """Nobody watches."""


def test_a_run_that_fits_is_left_alone(ready: Callable[..., Prepared]) -> None:
    made = measured(ready(auto=True), quiet)
    assert fitting(made, quiet) == made
    assert made.plan.fitted == {}


def test_a_run_that_does_not_fit_is_refused_with_what_would(
    ready: Callable[..., Prepared], little_memory: Callable[[int], None]
) -> None:
    made = ready()
    little_memory(made.plan.memory_bytes - 1)
    with pytest.raises(InputError) as refusal:
        fitting(measured(made, quiet), quiet)
    (fault,) = refusal.value.faults
    assert fault.where == "memory"
    for words in (
        "per_device_train_batch_size: 2",
        "gradient_accumulation_steps: 4 a process",
        "--auto",
    ):
        assert words in fault.remedy


def test_a_run_for_which_nothing_fits_says_so(
    ready: Callable[..., Prepared], little_memory: Callable[[int], None]
) -> None:
    made = ready(auto=True)
    little_memory(1000)
    with pytest.raises(InputError, match="take a smaller model"):
        fitting(measured(made, quiet), quiet)


def test_auto_takes_what_fits_and_keeps_the_rows_of_every_step(
    ready: Callable[..., Prepared], little_memory: Callable[[int], None]
) -> None:
    made = ready(auto=True)
    little_memory(made.plan.memory_bytes - 1)
    said: list[dict[str, Any]] = []
    fitted = fitting(measured(made, quiet), said.append)
    assert (fitted.job.micro_batch, fitted.job.accumulation) == (2, 4)
    assert fitted.plan.global_batch == made.plan.global_batch == 8
    assert fitted.plan.fitted["per_device_train_batch_size"] == 2
    assert "auto takes per_device_train_batch_size: 2" in said[-1]["text"]
    before, after = step_plan(made.job), step_plan(fitted.job)
    for step in range(before.total_steps):
        rows = [sorted(r for group in plan.micro_batches(step) for r in group)
                for plan in (before, after)]  # fmt: skip
        assert rows[0] == rows[1]
    assert fitted.job.fingerprint == made.job.fingerprint  # the same run, resumed or not


def test_a_later_start_keeps_what_the_first_one_took(
    ready: Callable[..., Prepared], little_memory: Callable[[int], None]
) -> None:
    made = ready(auto=True)
    little_memory(made.plan.memory_bytes - 1)
    fitted = fitting(measured(made, quiet), quiet)
    (fitted.job.run / "checkpoints").mkdir(parents=True)
    write_json(fitted.job.run / "plan.json", fitted.plan.to_dict())
    little_memory(1 << 40)
    again = as_before(ready(auto=True))
    assert (again.job, again.recipe) == (fitted.job, fitted.recipe)
    assert again.plan.fitted == fitted.plan.fitted
    assert as_before(ready()).job.micro_batch == 4  # without auto it is the recipe's


def test_settings_of_auto_are_named_as_its_own(
    ready: Callable[..., Prepared], little_memory: Callable[[int], None]
) -> None:
    made = ready(auto=True, per_device_train_batch_size=1)
    little_memory(made.plan.memory_bytes - 1)
    fitted = fitting(measured(made, quiet), quiet)
    assert fitted.recipe.gradient_checkpointing
    assert fitted.origins["gradient_checkpointing"] == "auto"
    assert fitted.recipe == replace(made.recipe, gradient_checkpointing=True)


def test_a_run_that_ran_out_of_memory_is_planned_as_it_goes_on(
    ready: Callable[..., Prepared],
) -> None:
    made = ready()
    made.job.run.mkdir(parents=True)
    write_json(made.job.run / "plan.json", made.plan.to_dict())
    with_less(made.job, "no room", quiet)
    again = as_before(ready())
    assert (again.job.micro_batch, again.job.accumulation) == (2, 4)
    assert (again.plan.micro_batch, again.plan.global_batch) == (2, 8)
    assert again.plan.memory_bytes < made.plan.memory_bytes


def test_the_plan_of_a_trained_run_is_the_one_it_trained_with(
    ready: Callable[..., Prepared],
) -> None:
    made = ready()
    made.job.run.mkdir(parents=True)
    plan = replace(made.plan, measured=True, tokens_per_s=7.0)
    write_json(made.job.run / "plan.json", plan.to_dict())
    write_json(made.job.run / "training.json", {})
    assert as_before(ready()).plan == plan
