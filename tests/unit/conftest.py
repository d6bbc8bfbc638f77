"""A tiny chat model and conversations, for the parts that need whole ones."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "engine"))

from tiny import conversations, write_tiny

from finery.recipe.resolve import Resolved, resolve


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama with tokenizer and chat template."""
    return write_tiny(tmp_path_factory.mktemp("models") / "llama", "llama")


@pytest.fixture
def write_chats(tmp_path: Path) -> Callable[..., Path]:
    """`write_chats(name, count, seed)`: a file of conversations in this test's folder."""

    def write(name: str, count: int = 12, seed: int = 1) -> Path:
        path = tmp_path / name
        lines = [json.dumps({"messages": chat}) + "\n" for chat in conversations(count, seed)]
        path.write_text("".join(lines))
        return path

    return write


@pytest.fixture
def tiny_recipe(
    tmp_path: Path, tiny_llama: Path, write_chats: Callable[..., Path]
) -> Callable[..., Resolved]:
    """`tiny_recipe(**changes)`: a LoRA run of two steps that takes a second on a CPU."""
    train, test = write_chats("train.jsonl"), write_chats("test.jsonl", 3, 2)

    def make(**changes: Any) -> Resolved:
        settings: dict[str, Any] = {
            "model": str(tiny_llama),
            "train_file_path": str(train),
            "test_file_path": str(test),
            "output_dir": str(tmp_path / "run"),
            "apply_lora": True,
            "per_device_train_batch_size": 4,
            "logging_steps": 1,
            "max_steps": 2,
            "evaluate": False,
            "package_mlflow": False,
            "self_tests": False,
            "device": "cpu",
            **changes,
        }
        return resolve(None, settings)

    return make
