"""step.json as a value, the recipe of a step, and how a step ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from finery.components import run as runner
from finery.components.log import sentence
from finery.components.run import ERROR, main
from finery.components.settings import origins_of, recipe_of, recipe_values
from finery.components.step import Step, load_step
from finery.errors import InputError


def write_step(folder: Path, entry: str = "finery:x", **more: Any) -> Path:
    value = {"job": "j", "root": "r", "step": "s", "entry": entry, "inputs": {}, **more}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "step.json").write_text(json.dumps(value))
    return folder


def step(folder: Path, **more: Any) -> Step:
    return load_step(write_step(folder, **more))


def test_a_step_says_what_it_may_use_and_what_was_asked_for(tmp_path: Path) -> None:
    made = step(
        tmp_path,
        devices={"kind": "cuda", "count": 2, "ids": [0, 3]},
        asked={"instances": 2, "processes": 8, "size": "Standard_ND40rs_v2"},
        outputs={"o": {"type": "uri_folder", "path": str(tmp_path / "o")}},
    )
    assert (made.devices.kind, made.devices.count, made.devices.ids) == ("cuda", 2, ("0", "3"))
    assert (made.instances, made.processes, made.size) == (2, 8, "Standard_ND40rs_v2")
    assert made.output("o") == tmp_path / "o"
    plain = step(tmp_path)
    assert (plain.instances, plain.processes, plain.devices.kind) == (1, 1, "cpu")


def test_a_missing_output_of_an_earlier_step_is_named(tmp_path: Path) -> None:
    inputs = {"model": {"type": "mlflow_model", "source": "org/name"}}
    with pytest.raises(InputError, match="preprocess_output: found nothing"):
        step(tmp_path, inputs=inputs).folder_of("preprocess_output")
    with pytest.raises(InputError, match="'org/name', no path"):
        step(tmp_path, inputs=inputs).folder_of("model")
    with pytest.raises(InputError, match="no place for this output"):
        step(tmp_path).output("output_dir")


def test_literals_become_what_the_recipe_holds(tmp_path: Path) -> None:
    inputs = {
        "learning_rate": {"type": "number", "value": "5e-06"},
        "apply_lora": {"type": "string", "value": "True"},
        "max_steps": {"type": "integer", "value": 3},
        "huggingface_id": {"type": "string", "value": ""},
        "train_file_path": {"type": "uri_file", "path": "data/train.jsonl"},
        "mlflow_model_path": {"type": "mlflow_model", "source": "org/name"},
        "model_selector_output": {"type": "uri_folder", "path": "x"},
    }
    made = step(tmp_path, inputs=inputs)
    assert recipe_values(made) == {
        "learning_rate": 5e-6,
        "apply_lora": True,
        "max_steps": 3,
        "train_file_path": "data/train.jsonl",
        "mlflow_model_path": "org/name",
    }
    recipe = recipe_of(made, seed=7, learning_rate=1.0)
    assert (recipe.seed, recipe.learning_rate) == (7, 5e-6)
    origins = origins_of(recipe)
    assert (origins["seed"], origins["lora_r"]) == ("given", "default")


def test_every_literal_that_is_wrong_is_named(tmp_path: Path) -> None:
    inputs = {
        "learning_rate": {"type": "number", "value": "fast"},
        "seed": {"type": "integer", "value": "-1"},
    }
    with pytest.raises(InputError) as raised:
        recipe_values(step(tmp_path, inputs=inputs))
    assert [fault.where for fault in raised.value.faults] == ["learning_rate", "seed"]


def test_what_a_killed_attempt_left_half_written_is_removed_and_nothing_else(
    tmp_path: Path,
) -> None:
    output = tmp_path / "outputs" / "model"
    half = [
        tmp_path / "outputs" / ".tmp-1-model",
        output / ".tmp-2-config.json",
        output / "training" / ".tmp-3-adapter",
    ]
    whole = [output / "training" / "adapter", tmp_path / "outputs" / ".tmp-4-of-another"]
    for folder in (*half, *whole):
        folder.mkdir(parents=True)
    outputs = {"o": {"type": "uri_folder", "path": str(output)}}
    runner.sweep(step(tmp_path / "attempt", outputs=outputs))
    assert [folder.exists() for folder in (*half, *whole)] == [False] * 3 + [True] * 2


def runs(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "finery.components.run", str(folder)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_what_a_person_did_wrong_ends_the_error_stream_and_stands_in_a_file(
    tmp_path: Path,
) -> None:
    done = runs(write_step(tmp_path, "finery:chat_completion_model_import"))
    error = json.loads((tmp_path / ERROR).read_text())
    assert done.returncode == InputError.exit_status
    assert error["code"] == "UserError"
    assert "Give mlflow_model_path, pytorch_model_path or huggingface_id" in error["message"]
    assert done.stderr == error["message"] + "\n"  # and no traceback


def test_an_unknown_step_is_refused_with_the_names_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "_set_up", lambda step: None)  # it is for a process of its own
    assert main(write_step(tmp_path, "finery:chat_completion")) == 1
    message = json.loads((tmp_path / ERROR).read_text())["message"]
    assert "chat_completion_finetune" in message


def test_a_defect_keeps_its_traceback_and_is_no_fault_of_a_person(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(entry: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(runner, "_module", fail)
    monkeypatch.setattr(runner, "_set_up", lambda step: None)
    assert main(write_step(tmp_path)) == 70
    error = json.loads((tmp_path / ERROR).read_text())
    assert error == {
        "code": "SystemError",
        "message": "OSError: [Errno 28] No space left on device",
    }
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("devices", "seen"),
    [
        ({"kind": "cpu", "count": 2}, ""),
        ({"kind": "cuda", "count": 2, "ids": [1, 3]}, "1,3"),
        ({"kind": "cuda", "count": 1}, "7"),
    ],
)
def test_a_step_sees_the_devices_it_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, devices: dict[str, Any], seen: str
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    for name in ("DS_ACCELERATOR", "OMP_NUM_THREADS", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(runner, "UNUSED", ())
    runner._set_up(step(tmp_path, devices=devices))
    assert os.environ["CUDA_VISIBLE_DEVICES"] == seen
    if devices["kind"] == "cpu":
        assert os.environ["OMP_NUM_THREADS"] == "2"
        assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"


@pytest.mark.parametrize(
    ("event", "text"),
    [
        ({"event": "note", "text": "said"}, "said"),
        ({"event": "start", "step": 0, "total_steps": 40}, "training 40 steps"),
        (
            {"event": "start", "step": 8, "total_steps": 1400},
            "training 1,400 steps, going on after step 8",
        ),
        ({"event": "self_tests", "seconds": 1.23, "passed": ["a", "b"]}, "2 self-tests passed"),
        ({"event": "eval", "step": 4, "eval_loss": 1.5}, "step 4: held-out loss 1.5000"),
        (
            {
                "event": "log",
                "step": 10,
                "epoch": 0.5,
                "loss": 2.0,
                "learning_rate": 5e-6,
                "grad_norm": 1.0,
                "tokens_per_s": 1234.0,
                "seconds_left": 61.0,
            },
            "step 10, epoch 0.50, loss 2.0000, learning rate 5e-06, gradient norm 1, "
            "1,234 tokens/s, 61 s left",
        ),
        ({"event": "end", "ok": True}, ""),
    ],
)
def test_an_event_is_one_line_that_says_it(event: dict[str, Any], text: str) -> None:
    assert sentence(event).startswith(text)
    assert bool(sentence(event)) == bool(text)
    assert "\n" not in sentence(event)
