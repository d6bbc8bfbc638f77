"""Estimates before a start: they follow the arithmetic that they claim to follow."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from finery.planning.ceiling import WorkShape
from finery.planning.plan import Plan, Shape, disk_bytes, memory_bytes, model_shape
from finery.recipe.inputs import Recipe

LORA = Recipe(model="m", apply_lora=True, precision="bf16")
FULL = Recipe(model="m", precision="bf16")
WORK = WorkShape(frozen=700, trained=100, layers=2, attention_width=8, hidden=8, vocabulary=50)
SHAPE = Shape(parameters=1000, trainable=100, layers=2, hidden=8, vocabulary=50, work=WORK)
WHOLE = replace(SHAPE, trainable=1000)


def test_the_shape_of_a_model_is_known_without_its_weights(tiny_llama: Path) -> None:
    from safetensors import safe_open

    with safe_open(tiny_llama / "model.safetensors", "pt") as file:
        real = sum(file.get_tensor(name).numel() for name in file.keys())  # noqa: SIM118
    full = model_shape(tiny_llama, FULL)
    assert (full.parameters, full.trainable) == (real, real)
    assert (full.layers, full.hidden, full.vocabulary) == (2, 32, 264)
    lora = model_shape(tiny_llama, replace(LORA, lora_r=4, lora_target_modules="q_proj"))
    assert lora.parameters == real
    assert lora.trainable == 2 * 4 * (32 + 32)


def test_memory_is_the_sum_of_its_parts() -> None:
    head = 256 * 50 * 8
    activations = 10 * 2 * 8 * 17 * 2
    assert memory_bytes(FULL, WHOLE, "cpu", 0) == 1000 * 4 + 1000 * 12 + head
    assert memory_bytes(LORA, SHAPE, "cpu", 0) == 1000 * 2 + 100 * (12 + 4) + head
    assert memory_bytes(LORA, SHAPE, "cpu", 10) - memory_bytes(LORA, SHAPE, "cpu", 0) == activations


@pytest.mark.parametrize(
    "changes",
    [{"gradient_checkpointing": True}, {"quantization": "nf4"}, {"optim": "adafactor"}],
)
def test_what_saves_memory_lowers_the_estimate(changes: dict[str, object]) -> None:
    less = memory_bytes(replace(LORA, **changes), SHAPE, "cpu", 10)
    assert less < memory_bytes(LORA, SHAPE, "cpu", 10)


def test_disk_counts_the_checkpoints_that_are_kept() -> None:
    checkpoint, rest = 100 * 12, 1000 * 2 + 100 * 4
    assert disk_bytes(LORA, SHAPE, 5) == 5 * checkpoint + rest
    assert disk_bytes(replace(LORA, save_total_limit=2), SHAPE, 5) == 2 * checkpoint + rest
    assert disk_bytes(replace(LORA, save_total_limit=9), SHAPE, 5) == 5 * checkpoint + rest


def test_a_plan_is_json() -> None:
    plan = Plan("cpu", 1, 2, 3, 6, 10, 20, 100, 1000, 100, 5, 7, ("a note",))
    assert plan.to_dict()["global_batch"] == 6
    assert plan.to_dict()["notes"] == ("a note",)
