"""The DeepSpeed configuration is the recipe's, whatever a JSON file leaves open."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from finery.recipe.inputs import Recipe
from finery.training.distribution import deepspeed_config, find_ninja


def config(device: str = "cpu", accumulation: int = 4, **recipe: Any) -> dict[str, Any]:
    given: dict[str, Any] = {"apply_deepspeed": True, "per_device_train_batch_size": 3, **recipe}
    return deepspeed_config(Recipe(**given), device, accumulation)


@pytest.mark.parametrize("stage", ["2", "3"])
def test_the_built_in_configuration_is_complete(stage: str) -> None:
    found = config(deepspeed_stage=stage, max_grad_norm=0.5)
    assert found["zero_optimization"]["stage"] == int(stage)
    assert found["train_micro_batch_size_per_gpu"] == 3
    assert found["gradient_accumulation_steps"] == 4
    assert found["gradient_clipping"] == 0.5
    assert "auto" not in json.dumps(found)
    assert "train_batch_size" not in found


def test_optimizer_and_weights_are_offloaded_from_gpus_alone() -> None:
    assert "offload_optimizer" not in config(deepspeed_stage="3")["zero_optimization"]
    on_gpu = config("cuda", deepspeed_stage="3")["zero_optimization"]
    assert on_gpu["offload_optimizer"]["device"] == on_gpu["offload_param"]["device"] == "cpu"
    assert "offload_param" not in config("cuda", deepspeed_stage="2")["zero_optimization"]


@pytest.mark.parametrize(
    ("precision", "bf16", "fp16"), [("32", False, False), ("bf16", True, False)]
)
def test_precision_is_the_recipes(precision: str, bf16: bool, fp16: bool) -> None:
    found = config(precision=precision)
    assert (found["bf16"]["enabled"], found["fp16"]["enabled"]) == (bf16, fp16)


def test_a_file_keeps_what_it_says_and_gets_what_it_leaves_open(tmp_path: Path) -> None:
    file = tmp_path / "ds.json"
    given = {
        "train_batch_size": "auto",
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": 99,
        "gradient_clipping": 0.25,
        "optimizer": {"type": "AdamW", "params": {"lr": "auto"}},
        "scheduler": {"type": "WarmupLR", "params": {"warmup_num_steps": "auto"}},
        "bf16": {"enabled": "auto"},
        "fp16": {"enabled": "auto", "loss_scale_window": 100},
        "zero_optimization": {"stage": 1, "reduce_bucket_size": 7, "overlap_comm": "auto"},
    }
    file.write_text(json.dumps(given))
    found = config(deepspeed=str(file), precision="bf16")
    assert found["zero_optimization"] == {"stage": 1, "reduce_bucket_size": 7}
    assert not {"optimizer", "scheduler"} & found.keys()  # DeepSpeed refuses a second optimizer
    assert found["gradient_clipping"] == 0.25
    assert found["bf16"] == {"enabled": True}
    assert found["fp16"] == {"enabled": False, "loss_scale_window": 100}
    assert found["gradient_accumulation_steps"] == 4  # another device count keeps the batch
    assert found["train_micro_batch_size_per_gpu"] == 3


def test_deepspeed_finds_ninja_when_the_environment_is_not_activated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ninja").write_text("#!/bin/sh\n")
    (tmp_path / "ninja").chmod(0o755)
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path / "elsewhere"))
    find_ninja()
    assert shutil.which("ninja") == str(tmp_path / "ninja")


def test_a_ninja_that_is_on_the_path_already_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("own", "system"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "ninja").write_text("#!/bin/sh\n")
        (tmp_path / folder / "ninja").chmod(0o755)
    monkeypatch.setattr("sys.executable", str(tmp_path / "own" / "python"))
    monkeypatch.setenv("PATH", str(tmp_path / "system"))
    find_ninja()
    assert shutil.which("ninja") == str(tmp_path / "system" / "ninja")
