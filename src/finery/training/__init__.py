"""Fine-tuning in plain Python: `finery.training.finetune(recipe)` needs no server.

from finery.training import Recipe, finetune

run = finetune(Recipe(model="smollm2-135m-instruct", train_file_path="chats.jsonl",
                      apply_lora=True, output_dir="my-run"))
run.folder, run.facts["evaluation"]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from finery.recipe.inputs import Recipe
    from finery.training.run import Run, finetune

__all__ = ["Recipe", "Run", "finetune"]


def __getattr__(name: str) -> Any:
    """Import on first use: a person who only wants the recipe table does not wait for torch."""
    if name == "Recipe":
        from finery.recipe.inputs import Recipe

        return Recipe
    if name in ("Run", "finetune"):
        from finery.training import run

        return getattr(run, name)
    raise AttributeError(f"module {__name__} has no attribute {name!r}")
