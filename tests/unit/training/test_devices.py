"""Fewer devices than asked for change who does the work, not the work."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from finery.errors import InputError
from finery.recipe.inputs import Recipe
from finery.training.devices import choose_devices, share_work


def recipe(**changes: Any) -> Recipe:
    return Recipe(**{"per_device_train_batch_size": 2, **changes})


@pytest.mark.parametrize("asked", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("available", [1, 2, 3, 8])
@pytest.mark.parametrize("accumulation", [1, 3, 4])
def test_the_global_batch_is_the_recipes_on_any_number_of_devices(
    asked: int, available: int, accumulation: int
) -> None:
    wanted = recipe(number_of_gpu_to_use_finetuning=asked, gradient_accumulation_steps=accumulation)
    found = share_work(wanted, "cuda", available)
    assert found.processes * found.accumulation == asked * accumulation
    assert 1 <= found.processes <= min(asked, available)
    assert bool(found.notes) == (found.processes != asked)


def test_the_difference_is_said_with_the_batch_that_stays() -> None:
    wanted = recipe(number_of_gpu_to_use_finetuning=4, gradient_accumulation_steps=2)
    (note,) = share_work(wanted, "cpu", 1).notes
    assert note == (
        "4 devices asked for, 1 process on CPU used: the global batch stays 16, with 8 "
        "accumulation steps instead of 2"
    )


def test_nodes_count_as_devices() -> None:
    wanted = recipe(num_nodes_finetune=2, number_of_gpu_to_use_finetuning=4)
    found = share_work(wanted, "cuda", 8)
    assert (found.processes, found.accumulation, found.notes) == (8, 1, ())


def test_processes_that_cannot_share_the_work_evenly_are_refused() -> None:
    wanted = recipe(num_processes=3, gradient_accumulation_steps=4)
    with pytest.raises(InputError, match=r"num_processes: .*multiple of 3"):
        share_work(wanted, "cpu", 1)


def test_more_processes_than_gpus_are_refused_and_on_the_cpu_allowed() -> None:
    wanted = recipe(num_processes=2, gradient_accumulation_steps=4)
    with pytest.raises(InputError, match="2 processes for 1 GPUs"):
        share_work(wanted, "cuda", 1)
    found = share_work(wanted, "cpu", 1)
    assert (found.processes, found.accumulation) == (2, 2)


@pytest.mark.parametrize(
    ("device", "gpus", "kind"),
    [("auto", 0, "cpu"), ("auto", 2, "cuda"), ("cpu", 2, "cpu"), ("cuda", 1, "cuda")],
)
def test_the_device_is_the_one_asked_for_or_the_best_there_is(
    device: str, gpus: int, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    assert choose_devices(recipe(device=device)).kind == kind


def test_a_gpu_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(InputError, match="a CUDA GPU, and none is here"):
        choose_devices(recipe(device="cuda"))
