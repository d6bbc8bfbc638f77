"""The recipe of a step, from the inputs that its component has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from finery.components.step import Step
from finery.errors import Fault, InputError
from finery.recipe.inputs import SETTINGS, Recipe
from finery.recipe.parse import coerce

_NOT_GIVEN = {"", None}


def recipe_values(step: Step) -> dict[str, Any]:
    """The inputs of a step that are inputs of the recipe, in their types.

    A model that is still to be fetched stands by its source. Raises InputError with every value
    that is not what the recipe takes.
    """
    values: dict[str, Any] = {}
    faults = []
    for name in [name for name in step.inputs if name in SETTINGS]:
        given = step.inputs[name]
        if SETTINGS[name].is_path:
            values[name] = given.place
        elif given.value not in _NOT_GIVEN:
            value = coerce(SETTINGS[name], given.value)
            if isinstance(value, Fault):
                faults.append(value)
            else:
                values[name] = value
    if faults:
        raise InputError(faults, step.name)
    return values


def recipe_of(step: Step, **more: Any) -> Recipe:
    """The recipe of a step: its own inputs, over what earlier steps say in `more`."""
    return Recipe(**{**more, **recipe_values(step)})


def origins_of(recipe: Recipe) -> Mapping[str, str]:
    """Which settings a person chose: those that are not at their default."""
    values = asdict(recipe)
    return {k: "default" if v == SETTINGS[k].default else "given" for k, v in values.items()}
