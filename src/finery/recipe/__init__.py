"""The recipe: every input of a fine-tuning, checked, with the place each value came from."""

from finery.recipe.inputs import Recipe
from finery.recipe.resolve import Resolved, resolve

__all__ = ["Recipe", "Resolved", "resolve"]
