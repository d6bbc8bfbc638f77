"""What fits into memory when the recipe does not: micro-batch, checkpointing, precision.

In this order, since each costs more than the one before: fewer rows at once (the global batch
stays, and with it the result), activations computed again (about a third more time, the same
result), frozen weights in bf16 (other roundings). Memory is what was measured for the recipe as
it stands, moved by what the arithmetic of `finery.planning.plan` says of the change.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from finery.planning.plan import Plan, Shape, memory_bytes
from finery.recipe.inputs import Recipe

ROOM = 0.95  # of the memory there is, which a proposal may take


@dataclass(frozen=True)
class Choice:
    """Settings that may fit, in the recipe's own names."""

    micro_batch: int
    gradient_checkpointing: bool
    precision: str

    @property
    def settings(self) -> dict[str, Any]:
        """As inputs of a recipe."""
        return {
            "per_device_train_batch_size": self.micro_batch,
            "gradient_checkpointing": self.gradient_checkpointing,
            "precision": self.precision,
        }

    def sentence(self, plan: Plan, recipe: Recipe) -> str:
        """The change from `recipe` in words, with what keeps the global batch of `plan`."""
        now = Choice(plan.micro_batch, recipe.gradient_checkpointing, recipe.precision).settings
        changed = [f"{k}: {_yaml(v)}" for k, v in self.settings.items() if v != now[k]]
        if self.micro_batch != plan.micro_batch:
            steps = plan.accumulation * plan.micro_batch // self.micro_batch
            changed.append(f"gradient_accumulation_steps: {steps} a process")
        return ", ".join(changed)


def need(plan: Plan) -> int:
    """Memory that all processes of a plan take together where they share it."""
    return plan.memory_bytes * (plan.processes if plan.device == "cpu" else 1)


def fits(plan: Plan) -> bool:
    """Whether there is memory for a plan, as far as both are known."""
    return not plan.available_bytes or need(plan) <= plan.available_bytes


def choices(plan: Plan, recipe: Recipe, shape: Shape, micro_tokens: int) -> Iterator[Choice]:
    """What is expected to fit into `plan.available_bytes`, the cheapest change first.

    `micro_tokens` are those of the plan's largest micro-batch.
    """
    for choice in _ladder(plan.micro_batch, recipe):
        changed = replace(
            recipe,
            gradient_checkpointing=choice.gradient_checkpointing,
            precision=choice.precision,
        )
        tokens = micro_tokens * choice.micro_batch // plan.micro_batch
        activations = _activations(recipe, shape, plan.device, micro_tokens)
        after = _activations(changed, shape, plan.device, tokens)
        rest = memory_bytes(recipe, shape, plan.device, 0)
        rest_after = memory_bytes(changed, shape, plan.device, 0)
        measured = max(activations, plan.memory_bytes - rest) if plan.measured else activations
        expected = plan.memory_bytes - (rest - rest_after) - measured * (1 - after / activations)
        together = expected * (plan.processes if plan.device == "cpu" else 1)
        if together <= ROOM * plan.available_bytes:
            yield choice


def _ladder(micro_batch: int, recipe: Recipe) -> Iterator[Choice]:
    ways = [(recipe.gradient_checkpointing, recipe.precision)]
    if not recipe.gradient_checkpointing:
        ways.append((True, recipe.precision))
    if recipe.precision == "32" and recipe.apply_lora:
        ways.append((True, "bf16"))
    for number, (checkpointing, precision) in enumerate(ways):
        for size in _parts(micro_batch):
            if number or size < micro_batch:
                yield Choice(size, checkpointing, precision)


def _parts(micro_batch: int) -> list[int]:
    """The sizes that a micro-batch can be cut into evenly, the largest first."""
    return [micro_batch // n for n in range(1, micro_batch + 1) if micro_batch % n == 0]


def _activations(recipe: Recipe, shape: Shape, device: str, tokens: int) -> int:
    whole, rest = (memory_bytes(recipe, shape, device, t) for t in (tokens, 0))
    return max(1, whole - rest)


def _yaml(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
