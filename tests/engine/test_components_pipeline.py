"""The six steps of the pipeline as the processes they are, walked by the spec's own graph."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny import conversations, write_tiny

from finery.components.run import ERROR
from finery.components.spec import PIPELINE, check_inputs, load_specs
from finery.files import read_json, read_json_lines, verify_folder
from finery.model.sources import resolve_source
from finery.runners import process, warm
from mlflow_server import mlflow_server

SPECS = load_specs()
JOBS = SPECS[PIPELINE]["jobs"]
FINETUNE, EVALUATION = "chat_completion_finetune", "chat_completion_evaluation"
LITERALS = {
    "apply_lora": "true",
    "num_train_epochs": "2",
    "per_device_train_batch_size": "2",
    "learning_rate": "0.01",
    "precision": "32",
    "logging_steps": "1",
    "number_of_gpu_to_use_finetuning": "2",
    "eval_generations": "2",
    "max_new_tokens": "4",
    "max_seq_length": "256",
    "long_rows": "truncate",
}


@dataclass
class Walk:
    """A pipeline job in a folder: what it was given, and where its steps put things."""

    folder: Path
    given: Mapping[str, dict[str, str]]
    literals: dict[str, str] = field(default_factory=lambda: dict(LITERALS))

    def attempt(self, job: str) -> Path:
        """The attempt's folder of a step, with its step.json."""
        folder = self.folder / "attempts" / job
        folder.mkdir(parents=True, exist_ok=True)
        step = {
            "job": f"{job}-1",
            "root": "root",
            "step": job,
            "entry": SPECS[job]["command"],
            "inputs": self.inputs(job),
            "outputs": {
                name: {"type": row["type"], "path": str(self.output(job, name))}
                for name, row in SPECS[job]["outputs"].items()
            },
            "devices": {"kind": "cpu", "count": 1, "ids": []},
            "asked": {"instances": 1, "processes": 2, "size": "Standard_NC12s_v3"},
        }
        (folder / "step.json").write_text(json.dumps(step))
        return folder

    def inputs(self, job: str) -> dict[str, dict[str, str]]:
        found = {}
        declared = SPECS[PIPELINE]["inputs"]
        for name, text in JOBS[job]["inputs"].items():
            if made := re.fullmatch(r"\$\{\{parent\.jobs\.(\w+)\.outputs\.(\w+)\}\}", text):
                found[name] = {"type": "uri_folder", "path": str(self.output(made[1], made[2]))}
            elif name in self.given:
                found[name] = self.given[name]
            elif name in self.literals:
                found[name] = {"type": declared[name]["type"], "value": self.literals[name]}
            elif declared[name].get("default") is not None:
                found[name] = {"type": declared[name]["type"], "value": declared[name]["default"]}
        return found

    def output(self, job: str, name: str) -> Path:
        return self.folder / "outputs" / job / name

    def start(self, job: str, **environment: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "finery.components.run", str(self.attempt(job))]
        return subprocess.Popen(
            command,
            env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, job: str, **environment: str) -> str:
        """Run a step to its end; returns its log."""
        process = self.start(job, **environment)
        log, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors[-3000:]
        return log

    def run_until(self, last: str) -> dict[str, str]:
        """The steps in the graph's order up to `last`; returns their logs."""
        names = list(JOBS)
        return {name: self.run(name) for name in names[: names.index(last) + 1]}


def write_chats(path: Path, count: int, seed: int) -> Path:
    rows = [json.dumps({"messages": chat}) + "\n" for chat in conversations(count, seed)]
    path.write_text("".join(rows))
    return path


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    folder = tmp_path_factory.mktemp("data")
    model = write_tiny(folder / "model", "llama")
    train, test = write_chats(folder / "a.jsonl", 20, 1), write_chats(folder / "b.jsonl", 4, 2)
    uri = "azureml://registries/azureml/models/Tiny/versions/3"
    return {
        "mlflow_model_path": {"type": "mlflow_model", "source": str(model), "uri": uri},
        "train_file_path": {"type": "uri_file", "path": str(train)},
        "test_file_path": {"type": "uri_file", "path": str(test)},
    }


@pytest.fixture(scope="module")
def walked(
    tmp_path_factory: pytest.TempPathFactory, given: dict[str, dict[str, str]]
) -> tuple[Walk, dict[str, str]]:
    """A whole pipeline, run once."""
    walk = Walk(tmp_path_factory.mktemp("job"), given)
    assert check_inputs(SPECS[PIPELINE], walk.literals, given, "inputs") == []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FINERY_HOME", str(walk.folder / "home"))
        return walk, walk.run_until(EVALUATION)


def test_every_output_is_there_and_whole(walked: tuple[Walk, dict[str, str]]) -> None:
    walk, _ = walked
    for job in JOBS:
        for name, row in SPECS[job]["outputs"].items():
            path = walk.output(job, name)
            assert path.exists(), name
            if row["type"] != "uri_file":
                assert verify_folder(path) == [], name
    assert not list((walk.folder / "outputs").rglob(".tmp-*"))


def test_the_validation_counts_the_conversations(walked: tuple[Walk, dict[str, str]]) -> None:
    walk, logs = walked
    facts = read_json(walk.output("ft_nlp_common_validation", "validation_info"))
    assert facts["conversations"] == {"train": 20, "test": 4}
    assert "train: 20 conversations in a.jsonl" in logs["ft_nlp_common_validation"]


def test_the_log_accounts_for_tokens_devices_and_steps(
    walked: tuple[Walk, dict[str, str]],
) -> None:
    _, logs = walked
    assert "80/20 of the training rows" in logs["chat_completion_datapreprocess"]
    assert "trained +" in logs["chat_completion_datapreprocess"]
    training = logs[FINETUNE]
    assert "devices: 2 asked for, compute size Standard_NC12s_v3; 1 process on CPU" in training
    assert "the global batch stays 4, with 2 accumulation steps instead of 1" in training
    assert "self-tests passed" in training
    assert "step 8, epoch 2.00, loss" in training
    assert all(log.splitlines()[-1].endswith(" done") for log in logs.values())


def test_the_tuned_model_is_a_folder_that_can_be_trained_again(
    walked: tuple[Walk, dict[str, str]],
) -> None:
    walk, _ = walked
    folder = walk.output(FINETUNE, "pytorch_model_folder")
    assert resolve_source(str(folder)).kind == "folder"
    assert read_json(folder / "certificate.json")["greedy_agreement"] > 0.9
    training = folder / "training"
    assert (training / "adapter" / "adapter_model.safetensors").is_file()
    assert not (training / "model").exists()  # it is the output itself
    assert [row["step"] for row in read_json_lines(training / "metrics.jsonl") if "loss" in row]


def test_the_mlflow_model_names_its_base_and_shares_the_weights(
    walked: tuple[Walk, dict[str, str]],
) -> None:
    walk, _ = walked
    folder = walk.output("ft_nlp_model_converter", "mlflow_model_folder")
    described = (folder / "MLmodel").read_text()
    assert "base_model_asset_id: azureml://registries/azureml/models/Tiny/versions/3" in described
    tuned = walk.output(FINETUNE, "pytorch_model_folder") / "model.safetensors"
    assert (folder / "model" / "model.safetensors").samefile(tuned)
    assert not (folder / "model" / "training").exists()


def test_the_evaluation_compares_with_the_base(walked: tuple[Walk, dict[str, str]]) -> None:
    walk, logs = walked
    folder = walk.output(EVALUATION, "evaluation_result")
    found = read_json(folder / "evaluation.json")
    assert found["assistant_loss"]["tuned"] < found["assistant_loss"]["base"]
    assert found["assistant_loss"]["rows"] == 4
    assert len(read_json_lines(folder / "samples.jsonl")) == 2
    report = read_json(folder / "report.json")
    assert report["recipe"]["learning_rate"] == 0.01
    assert report["recipe"]["max_seq_length"] == 256
    assert report["metrics"]
    assert (folder / "report.md").read_text().startswith("# Fine-tuning of ")
    assert "base_heldout_loss" in logs[EVALUATION]


def test_a_finished_step_does_nothing_when_it_is_run_again(
    walked: tuple[Walk, dict[str, str]],
) -> None:
    walk, _ = walked
    folder = walk.output(FINETUNE, "pytorch_model_folder")
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    assert "finished already" in walk.run(FINETUNE)
    after = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    assert after == before


def beside(walked: tuple[Walk, dict[str, str]], folder: Path, **literals: str) -> Walk:
    """A walk of its own from the training on, with model and data of the one that was run."""
    first, _ = walked
    walk = Walk(folder, first.given, {**first.literals, **literals})
    (folder / "outputs").mkdir()
    for job in ("chat_completion_model_import", "chat_completion_datapreprocess"):
        (folder / "outputs" / job).symlink_to(first.folder / "outputs" / job)
    return walk


def test_a_training_that_was_killed_goes_on_to_the_same_weights(
    walked: tuple[Walk, dict[str, str]], tmp_path: Path
) -> None:
    walk = beside(walked, tmp_path, self_tests="false")
    started = walk.start(FINETUNE)
    folder = walk.output(FINETUNE, "pytorch_model_folder")
    wait_for(folder / "training" / "checkpoints" / "step-00000004", started)
    started.send_signal(signal.SIGKILL)
    started.communicate()
    assert not (folder / "manifest.json").exists()
    assert "going on after step " in walk.run(FINETUNE)
    once = walked[0].output(FINETUNE, "pytorch_model_folder")
    name = "model.safetensors"
    assert (folder / name).read_bytes() == (once / name).read_bytes()


@pytest.mark.skipif(not warm.is_possible(), reason="needs Linux's /proc")
def test_steps_that_begin_from_loaded_libraries_do_the_same_to_the_bit(
    walked: tuple[Walk, dict[str, str]], tmp_path: Path
) -> None:
    walk = beside(walked, tmp_path, self_tests="false")
    last = ("ft_nlp_model_converter", EVALUATION)
    host = warm.WarmHost("finery.components.warm", tmp_path / "warm.log")
    with warm.kept(host):
        for job in (FINETUNE, *last):
            attempt = walk.attempt(job)
            argv = (sys.executable, "-P", "-m", "finery.components.run", str(attempt))
            variables = {"OMP_NUM_THREADS": "1"}
            task = process.Process(
                argv, f"warm-{job}", tmp_path, tmp_path / f"{job}.txt", variables, loads=120.0
            )
            assert process.start(attempt, task)
            while process.is_running(attempt):
                time.sleep(0.02)
            said = (tmp_path / f"{job}.txt").read_text()
            assert process.exit_of(attempt) == process.Exit(0), said
    assert (tmp_path / "warm.log").read_text() == ""
    cold = walked[0]
    for job, output, name in (
        (FINETUNE, "pytorch_model_folder", "model.safetensors"),
        (FINETUNE, "pytorch_model_folder", "training/adapter/adapter_model.safetensors"),
        (EVALUATION, "evaluation_result", "samples.jsonl"),
    ):
        ours, theirs = walk.output(job, output) / name, cold.output(job, output) / name
        assert ours.read_bytes() == theirs.read_bytes(), name


def wait_for(path: Path, started: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 200
    while not path.exists():
        assert started.poll() is None, started.communicate()
        assert time.monotonic() < deadline, f"{path} did not come"
        time.sleep(0.005)


def test_an_adapter_can_be_kept_apart_and_packaged_all_the_same(
    walked: tuple[Walk, dict[str, str]], tmp_path: Path
) -> None:
    walk = beside(walked, tmp_path, merge_lora_weights="false", max_steps="1", self_tests="false")
    walk.run(FINETUNE)
    folder = walk.output(FINETUNE, "pytorch_model_folder")
    assert (folder / "adapter_config.json").is_file()
    assert not (folder / "config.json").exists()
    walk.run("ft_nlp_model_converter")
    assert (
        resolve_source(str(walk.output("ft_nlp_model_converter", "mlflow_model_folder"))).sha256
        == resolve_source(str(folder / "training" / "model")).sha256
    )


def test_sharded_training_in_one_process_trains_the_same_model(
    walked: tuple[Walk, dict[str, str]], tmp_path: Path
) -> None:
    pytest.importorskip("deepspeed")
    walk = beside(walked, tmp_path, apply_deepspeed="true", self_tests="false")
    started = walk.start(FINETUNE)
    log, errors = started.communicate(timeout=300)
    assert started.returncode == 0, errors[-3000:]
    assert "WARNING" not in log
    assert "mismatch" not in errors  # of accumulation steps, as accelerate would say
    folder, once = (w.output(FINETUNE, "pytorch_model_folder") for w in (walk, walked[0]))
    plain, sharded = (load_file(path / "model.safetensors") for path in (once, folder))
    for name, value in plain.items():
        assert torch.allclose(value, sharded[name], atol=1e-4), name


def test_whole_weights_can_be_trained_and_the_evaluation_left_out(
    walked: tuple[Walk, dict[str, str]], tmp_path: Path
) -> None:
    changes = {"apply_lora": "false", "evaluate": "false", "learning_rate": "0.001"}
    walk = beside(walked, tmp_path, max_steps="1", self_tests="false", **changes)
    walk.run(FINETUNE)
    assert resolve_source(str(walk.output(FINETUNE, "pytorch_model_folder"))).kind == "folder"
    walk.run(EVALUATION)
    folder = walk.output(EVALUATION, "evaluation_result")
    assert not (folder / "evaluation.json").exists()
    assert "evaluate: false" in (folder / "report.md").read_text()


def test_metrics_reach_the_run_of_the_step_and_of_the_pipeline(
    walked: tuple[Walk, dict[str, str]], tmp_path: Path
) -> None:
    walk = beside(walked, tmp_path, max_steps="2", self_tests="false", eval_generations="0")
    with mlflow_server() as server:
        job = {"MLFLOW_TRACKING_URI": server.uri, "FINERY_ROOT_RUN_ID": "root"}
        for step in (FINETUNE, EVALUATION):
            walk.run(step, **job, MLFLOW_RUN_ID=step)
            keys = {row["key"] for row in server.of(step)}
            assert keys <= {row["key"] for row in server.of("root")}
        assert {"loss", "eval_loss", "learning_rate"} <= {r["key"] for r in server.of(FINETUNE)}
        assert {"heldout_loss", "base_heldout_loss"} <= {r["key"] for r in server.of(EVALUATION)}


def test_what_is_wrong_with_the_data_is_told_by_row_before_anything_is_fetched(
    tmp_path: Path, given: dict[str, dict[str, str]]
) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"messages": [{"role": "user"}]}\n{"messages": "hello"}\n')
    data: dict[str, Any] = {**given, "train_file_path": {"type": "uri_file", "path": str(bad)}}
    walk = Walk(tmp_path / "job", data, {**LITERALS, "learning_rate": "0.01"})
    started = walk.start("ft_nlp_common_validation")
    _, errors = started.communicate(timeout=60)
    assert started.returncode == 2
    error = read_json(walk.folder / "attempts" / "ft_nlp_common_validation" / ERROR)
    assert error["code"] == "UserError"
    assert "bad.jsonl:1:" in errors
    assert "bad.jsonl:2:" in errors
    assert not walk.output("ft_nlp_common_validation", "validation_info").exists()
