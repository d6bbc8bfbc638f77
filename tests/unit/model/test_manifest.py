"""The manifest of a run says what it was made from, the same way every time."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import pytest

from finery.files import sha256_file, write_json
from finery.model.folder import ModelFolder
from finery.model.manifest import package_versions, run_manifest

BASE = ModelFolder(Path("models") / "x", "smollm2-135m-instruct", "catalogue", "ab" * 32)


def manifest(train: Path) -> dict:
    return run_manifest(
        base=BASE,
        data={"train": train},
        renderer_fingerprint="cd" * 32,
        seed=42,
        command=["finery", "finetune", "recipe.yaml"],
    )


@pytest.fixture
def train(tmp_path: Path) -> Path:
    path = tmp_path / "train.jsonl"
    path.write_text('{"messages": []}\n')
    return path


def test_everything_that_made_the_run_is_in_it(train: Path) -> None:
    found = manifest(train)
    assert found["base_model"] == {
        "source": "smollm2-135m-instruct",
        "kind": "catalogue",
        "sha256": "ab" * 32,
    }
    assert found["data"] == {
        "train": {"file": "train.jsonl", "bytes": 17, "sha256": sha256_file(train)}
    }
    assert (found["seed"], found["renderer"]) == (42, "cd" * 32)
    assert found["command"] == ["finery", "finetune", "recipe.yaml"]
    assert found["finery_version"] == importlib.metadata.version("finery")


def test_it_can_be_written_and_is_the_same_twice(train: Path, tmp_path: Path) -> None:
    write_json(tmp_path / "manifest.json", manifest(train))
    assert manifest(train) == manifest(train)


def test_versions_are_those_installed_and_absent_ones_are_left_out() -> None:
    found = package_versions()
    assert found["torch"] == importlib.metadata.version("torch")
    assert "transformers" in found
    assert all(found.values())


def test_a_file_that_is_gone_is_not_passed_over(train: Path) -> None:
    train.unlink()
    with pytest.raises(FileNotFoundError):
        manifest(train)
