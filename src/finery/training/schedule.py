"""The optimizer, and the learning rate of every step."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import nn
from torch.optim import Optimizer
from transformers import get_scheduler
from transformers.optimization import Adafactor

from finery.recipe.inputs import Recipe

Named = tuple[str, nn.Parameter]


def make_optimizer(recipe: Recipe, parameters: Iterable[Named]) -> Optimizer:
    """AdamW (Loshchilov & Hutter 2019) or Adafactor over the trainable parameters.

    Weight decay spares biases and norms, as in transformers' Trainer.
    """
    decayed: list[nn.Parameter] = []
    spared: list[nn.Parameter] = []
    for name, parameter in parameters:
        (spared if parameter.ndim < 2 or name.endswith("bias") else decayed).append(parameter)
    groups = [
        {"params": group, "weight_decay": decay}
        for group, decay in ((decayed, recipe.weight_decay), (spared, 0.0))
        if group
    ]
    if recipe.optim == "adafactor":
        return Adafactor(
            groups, lr=recipe.learning_rate, scale_parameter=False, relative_step=False
        )
    return torch.optim.AdamW(
        groups,
        lr=recipe.learning_rate,
        betas=(recipe.adam_beta1, recipe.adam_beta2),
        eps=recipe.adam_epsilon,
    )


def learning_rates(recipe: Recipe, total_steps: int) -> Callable[[int], float]:
    """The learning rate of each step (from 0), by transformers' schedule of that name."""
    dummy = torch.optim.SGD([torch.zeros(1)], lr=recipe.learning_rate)
    scheduler = get_scheduler(recipe.lr_scheduler_type, dummy, recipe.warmup_steps, total_steps)
    factor = scheduler.lr_lambdas[0]  # pyright: ignore[reportAttributeAccessIssue]
    return lambda step: recipe.learning_rate * float(factor(step))
