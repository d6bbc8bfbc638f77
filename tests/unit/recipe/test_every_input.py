"""No input is dropped in silence: each has an effect in the code, or a person is told."""

from __future__ import annotations

import ast
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import finery
from finery.recipe.finetune_config import apply_finetune_config
from finery.recipe.inputs import SETTINGS, Recipe
from finery.recipe.rules import cross_faults, remarks

SOURCE = Path(finery.__file__).parent
# The recipe's own properties, through which the rest of the code reads these inputs.
READ_TOGETHER = {
    "model_source": ("model", "mlflow_model_path", "pytorch_model_path", "huggingface_id"),
    "data_path": tuple(f"{s}_{k}_path" for s in ("train", "validation", "test")
                       for k in ("file", "mltable")),
}  # fmt: skip
# Inputs whose work is done in recipe/ itself.
DONE_BY_THE_RECIPE = {"finetune_config_path": apply_finetune_config}
# Inputs with one allowed value: any other is refused.
FIXED = {"task_name": "ChatCompletion", "metric_for_best_model": "loss"}


def used_attributes() -> set[str]:
    """Every attribute that code outside recipe/ reads from something called a recipe."""
    found = set()
    for path in SOURCE.rglob("*.py"):
        if path.is_relative_to(SOURCE / "recipe"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and "recipe" in ast.unparse(node.value).lower():
                found.add(node.attr)
    return found


def other_value(name: str) -> Any:
    """A valid value that is not the default."""
    row = SETTINGS[name]
    if row.kind == "boolean":
        return not row.default
    if row.choices:
        return next(choice for choice in row.choices if choice != row.default)
    if row.kind in ("integer", "number"):
        return next(n for n in (2, 1, 8, 0.5, 9) if n != row.default and row.holds(n))
    return "7g" if name == "shm_size_finetune" else "{}"


USED = used_attributes()
GOOD = Recipe(model="org/model", train_file_path="/data/train.jsonl")


@pytest.mark.parametrize("name", list(SETTINGS))
def test_an_input_has_an_effect_or_a_note(name: str) -> None:
    if name in FIXED:
        if len(SETTINGS[name].choices) > 1:
            assert cross_faults(replace(GOOD, **{name: other_value(name)}))
        return
    read = name in USED or any(name in group and prop in USED
                               for prop, group in READ_TOGETHER.items())  # fmt: skip
    notes = remarks(replace(GOOD, **{name: other_value(name)}))
    of_a_workspace = name.startswith(("compute_", "instance_type_"))
    said = any(("compute and instance_type" if of_a_workspace else name) in note for note in notes)
    assert read or said or name in DONE_BY_THE_RECIPE, f"{name} is dropped in silence"


def test_there_is_a_row_for_every_input() -> None:
    assert len(SETTINGS) == 90
    grouped = [name for group in READ_TOGETHER.values() for name in group]
    assert {*grouped, *FIXED, *DONE_BY_THE_RECIPE} <= set(SETTINGS)
