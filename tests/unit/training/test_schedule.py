"""Optimizer and learning rate are those of the names people know."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from transformers.optimization import Adafactor

from finery.recipe.inputs import Recipe
from finery.training.schedule import learning_rates, make_optimizer


def rates(steps: int = 10, **settings: object) -> list[float]:
    at = learning_rates(Recipe(learning_rate=0.5, **settings), steps)  # pyright: ignore
    return [at(step) for step in range(steps)]


def test_a_constant_rate_is_constant() -> None:
    assert rates(lr_scheduler_type="constant") == [0.5] * 10


def test_warm_up_rises_in_a_line_from_nothing() -> None:
    found = rates(lr_scheduler_type="constant_with_warmup", warmup_steps=4)
    assert found[:5] == pytest.approx([0, 0.125, 0.25, 0.375, 0.5])


def test_linear_falls_to_nothing_after_the_last_step() -> None:
    found = rates(lr_scheduler_type="linear", warmup_steps=2)
    assert found == pytest.approx([0, 0.25, *(0.5 * (10 - step) / 8 for step in range(2, 10))])


def test_cosine_is_half_way_down_in_the_middle() -> None:
    found = rates(lr_scheduler_type="cosine")
    assert found == pytest.approx([0.25 * (1 + math.cos(math.pi * s / 10)) for s in range(10)])


@pytest.mark.parametrize("name", ["cosine_with_restarts", "polynomial"])
def test_every_schedule_of_the_recipe_starts_at_the_peak_and_falls(name: str) -> None:
    found = rates(lr_scheduler_type=name)
    assert found[0] == pytest.approx(0.5)
    assert found[-1] < 0.1


def test_a_rate_depends_on_its_step_alone() -> None:
    at = learning_rates(Recipe(learning_rate=1.0, lr_scheduler_type="cosine"), 20)
    assert [at(7), at(3), at(7)] == [at(7), at(3), at(7)]


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)
        self.norm = nn.LayerNorm(3)


def test_weight_decay_spares_biases_and_norms() -> None:
    model = Block()
    recipe = Recipe(weight_decay=0.1, adam_beta1=0.8, adam_beta2=0.95, adam_epsilon=1e-6)
    optimizer = make_optimizer(recipe, model.named_parameters())
    assert isinstance(optimizer, torch.optim.AdamW)
    decayed, spared = optimizer.param_groups
    assert [p is model.linear.weight for p in decayed["params"]] == [True]
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.1, 0.0)
    assert len(spared["params"]) == 3
    assert (decayed["betas"], decayed["eps"]) == ((0.8, 0.95), 1e-6)


def test_adafactor_keeps_the_rate_it_is_given() -> None:
    optimizer = make_optimizer(Recipe(optim="adafactor"), Block().named_parameters())
    assert isinstance(optimizer, Adafactor)
    group = optimizer.param_groups[0]
    assert (group["scale_parameter"], group["relative_step"]) == (False, False)
