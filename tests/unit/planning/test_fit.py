"""What is proposed where a recipe does not fit: the cheapest change that does."""

from __future__ import annotations

from dataclasses import replace

import pytest

from finery.planning.ceiling import WorkShape
from finery.planning.fit import Choice, choices, fits, need
from finery.planning.plan import Plan, Shape, memory_bytes
from finery.recipe.inputs import Recipe

RECIPE = Recipe(model="m", apply_lora=True, per_device_train_batch_size=8)
WORK = WorkShape(frozen=700, trained=100, layers=2, attention_width=8, hidden=8, vocabulary=50)
SHAPE = Shape(parameters=1000, trainable=100, layers=2, hidden=8, vocabulary=50, work=WORK)
TOKENS = 8000


def plan(available: int, **changes: object) -> Plan:
    known = Plan("cpu", 1, 8, 2, 16, 10, 20, 100, 1000, 100, 0, 7, ())
    need_now = memory_bytes(RECIPE, SHAPE, "cpu", TOKENS)
    return replace(known, **{"memory_bytes": need_now, "available_bytes": available, **changes})


def least(recipe: Recipe, tokens: int) -> int:
    return memory_bytes(recipe, SHAPE, "cpu", tokens)


def test_a_plan_fits_when_all_its_processes_do() -> None:
    known = plan(0)
    assert fits(known)  # nothing is known of the machine
    assert fits(replace(known, available_bytes=known.memory_bytes))
    assert not fits(replace(known, available_bytes=known.memory_bytes - 1))
    two = replace(known, processes=2, available_bytes=known.memory_bytes)
    assert need(two) == 2 * known.memory_bytes
    assert not fits(two)
    assert fits(replace(two, device="cuda"))  # each has a GPU of its own


@pytest.mark.parametrize(
    ("room", "choice"),
    [
        (least(RECIPE, TOKENS // 2), Choice(4, False, "32")),
        (least(RECIPE, TOKENS // 8), Choice(1, False, "32")),
        (least(replace(RECIPE, gradient_checkpointing=True), TOKENS // 8), Choice(1, True, "32")),
        (
            least(replace(RECIPE, gradient_checkpointing=True, precision="bf16"), TOKENS // 8),
            Choice(1, True, "bf16"),
        ),
    ],
)
def test_the_cheapest_change_that_fits_comes_first(room: int, choice: Choice) -> None:
    assert next(choices(plan(int(room / 0.95) + 1), RECIPE, SHAPE, TOKENS)) == choice


def test_nothing_is_proposed_where_nothing_fits() -> None:
    assert list(choices(plan(1000), RECIPE, SHAPE, TOKENS)) == []


def test_what_was_measured_moves_by_what_the_arithmetic_says() -> None:
    base = memory_bytes(RECIPE, SHAPE, "cpu", 0)
    activations = memory_bytes(RECIPE, SHAPE, "cpu", TOKENS) - base
    measured = plan(base + int(activations * 1.2), measured=True)
    twice = replace(measured, memory_bytes=base + 2 * activations)
    assert next(choices(twice, RECIPE, SHAPE, TOKENS)).micro_batch == 4


def test_a_change_is_said_in_the_words_of_a_recipe() -> None:
    words = Choice(2, True, "32").sentence(plan(0), RECIPE)
    assert words == (
        "per_device_train_batch_size: 2, gradient_checkpointing: true, "
        "gradient_accumulation_steps: 8 a process"
    )
