"""Step ft_nlp_common_validation: everything that can be refused without model and tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from finery.chat.conversation import scan_conversations
from finery.chat.read import FaultList
from finery.components.log import say
from finery.components.settings import recipe_of
from finery.components.step import Step
from finery.errors import Fault, InputError
from finery.files import write_json
from finery.recipe.disk import disk_faults
from finery.recipe.inputs import SPLITS, Recipe
from finery.recipe.rules import cross_faults, remarks


def run(step: Step) -> None:
    """Check settings, files and conversations; raises one InputError with all that is wrong."""
    recipe = recipe_of(step, package_mlflow=False)
    fetched_later = {name for name, given in step.inputs.items() if given.source and not given.path}
    faults = [*cross_faults(recipe), *disk_faults(recipe, fetched_later)]
    wrong = {fault.where for fault in faults}
    rows, row_faults = _rows(recipe, wrong)
    if faults or row_faults:
        raise InputError([*faults, *row_faults], "job")
    for split, count in rows.items():
        say(f"{split}: {count:,} conversations in {Path(recipe.data_path(split)).name}")
    notes = remarks(recipe)
    for note in notes:
        say(note)
    facts: dict[str, Any] = {"conversations": rows, "remarks": list(notes)}
    write_json(step.output("validation_info"), facts)


def _rows(recipe: Recipe, wrong: set[str]) -> tuple[dict[str, int], list[Fault]]:
    """Conversations by split, and the faults of all files; files already at fault are not read."""
    found = FaultList()
    rows = {}
    for split in SPLITS:
        path = recipe.data_path(split)
        if path and not wrong & {f"{split}_file_path", f"{split}_mltable_path"}:
            rows[split] = len(scan_conversations(Path(path), found).conversations)
    try:
        found.raise_any()
    except InputError as error:
        return rows, list(error.faults)
    return rows, []
