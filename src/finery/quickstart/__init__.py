"""The conversations that `finery quickstart` teaches, and the recipe it teaches them with."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent
TRAIN, TEST, RECIPE = (FOLDER / name for name in ("train.jsonl", "test.jsonl", "recipe.yaml"))
