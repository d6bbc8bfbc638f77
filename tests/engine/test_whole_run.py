"""A whole `finery finetune`, from a recipe to the result folder, on a model made in a second."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from tiny import conversations
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from finery.chat.render import load_renderer
from finery.cli.main import app
from finery.errors import FineryError
from finery.files import sha256_file, verify_folder
from finery.inference.generate import generate
from finery.inference.open import open_model
from finery.model import lora
from finery.recipe.resolve import Resolved, resolve
from finery.training import results
from finery.training import run as whole
from finery.training.events import read_metrics
from finery.training.run import finetune

MakeRecipe = Callable[..., Resolved]


def write_chats(path: Path, count: int, seed: int) -> Path:
    lines = [json.dumps({"messages": chat}) + "\n" for chat in conversations(count, seed)]
    path.write_text("".join(lines))
    return path


@pytest.fixture(scope="module")
def chats(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Training and held-out conversations."""
    folder = tmp_path_factory.mktemp("chats")
    return {
        "train": write_chats(folder / "train.jsonl", 30, 1),
        "test": write_chats(folder / "test.jsonl", 5, 2),
    }


@pytest.fixture
def make_recipe(tmp_path: Path, tiny_llama: Path, chats: dict[str, Path]) -> MakeRecipe:
    """`make_recipe(**changes)`: a LoRA run of four steps with a folder in this test's own."""

    def make(**changes: Any) -> Resolved:
        settings: dict[str, Any] = {
            "model": str(tiny_llama),
            "train_file_path": str(chats["train"]),
            "test_file_path": str(chats["test"]),
            "output_dir": str(tmp_path / "run"),
            "apply_lora": True,
            "learning_rate": 0.01,
            "per_device_train_batch_size": 8,
            "logging_steps": 1,
            "max_steps": 4,
            "eval_generations": 2,
            "max_new_tokens": 4,
            "device": "cpu",
            "package_mlflow": False,
            **changes,
        }
        return resolve(None, settings)

    return make


@pytest.fixture(scope="module")
def finished(
    tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path, chats: dict[str, Path]
) -> Path:
    """One finished LoRA run with an MLflow folder, for the tests that only look at it."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    recipe = {
        "model": str(tiny_llama),
        "train_file_path": str(chats["train"]),
        "test_file_path": str(chats["test"]),
        "output_dir": str(folder),
        "apply_lora": True,
        "learning_rate": 0.01,
        "per_device_train_batch_size": 8,
        "logging_steps": 1,
        "max_steps": 4,
        "eval_generations": 2,
        "max_new_tokens": 4,
        "device": "cpu",
    }
    finetune(resolve(None, recipe), command=["finery", "finetune"])
    return folder


def test_the_result_folder_holds_everything_it_promises(finished: Path) -> None:
    expected = {
        *("recipe.yaml", "plan.json", "ledger.json", "metrics.jsonl", "checkpoints", "adapter"),
        *("model", "mlflow_model", "certificate.json", "evaluation.json", "samples.jsonl"),
        *("report.md", "report.json", "manifest.json"),
    }
    present = {path.name for path in finished.iterdir()}
    assert expected <= present
    assert present - expected == {"run.json", "training.json", "usage.json", ".lock"}
    assert not list(finished.rglob(".tmp-*"))
    for name in ("adapter", "model", "mlflow_model"):
        assert verify_folder(finished / name) == []
    assert not [p for p in finished.rglob("*") if p.suffix in (".bin", ".pt", ".pkl")]


def test_metrics_are_one_object_a_line_with_the_promised_keys(finished: Path) -> None:
    rows = read_metrics(finished)
    losses = [row for row in rows if "loss" in row]
    assert [row["step"] for row in losses] == [1, 2, 3, 4]
    assert set(losses[0]) == {
        *("time", "step", "epoch", "loss", "learning_rate", "grad_norm", "tokens_per_s"),
        *("memory_bytes", "share_of_ceiling"),
    }
    assert 0 < losses[-1]["share_of_ceiling"] < 1
    assert losses[-1]["loss"] < losses[0]["loss"]
    assert any("eval_loss" in row for row in rows)
    assert all(math.isfinite(value) for row in rows for value in row.values())


def test_the_manifest_says_what_the_run_was_made_from(
    finished: Path, chats: dict[str, Path], tiny_llama: Path
) -> None:
    manifest = json.loads((finished / "manifest.json").read_text())
    assert manifest["command"] == ["finery", "finetune"]
    assert manifest["seed"] == 42
    assert manifest["base_model"]["source"] == str(tiny_llama)
    assert len(manifest["base_model"]["sha256"]) == 64
    for split, path in chats.items():
        assert manifest["data"][split]["sha256"] == sha256_file(path)
    assert manifest["renderer"] == load_renderer(tiny_llama).fingerprint
    assert {"torch", "transformers", "peft"} <= manifest["packages"].keys()


def test_plain_transformers_loads_the_model_and_peft_the_adapter_with_equal_logits(
    finished: Path, tiny_llama: Path
) -> None:
    merged = AutoModelForCausalLM.from_pretrained(finished / "model").eval()
    base = AutoModelForCausalLM.from_pretrained(tiny_llama)
    adapter: Any = PeftModel.from_pretrained(base, str(finished / "adapter")).eval()
    tokenizer = AutoTokenizer.from_pretrained(finished / "model")
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "the bird"}], tokenize=False, add_generation_prompt=True
    )
    ids = tokenizer(text, return_tensors="pt", add_special_tokens=False)["input_ids"]
    with torch.inference_mode():
        torch.testing.assert_close(
            merged(ids).logits, adapter(input_ids=ids).logits, rtol=1e-4, atol=1e-4
        )
    proof = json.loads((finished / "certificate.json").read_text())
    assert json.loads((finished / "model" / "certificate.json").read_text()) == proof
    assert proof["rows"] == 5
    assert proof["greedy_agreement"] == 1.0


def test_merged_model_and_adapter_give_the_same_answers(finished: Path) -> None:
    asked = [[{"role": "user", "content": text}] for text in ("the cat", "a big tree ran")]
    answers = []
    for source in (finished, finished / "adapter"):
        opened = open_model(str(source), device="cpu")
        made = generate(opened.model, opened.renderer, asked, max_new_tokens=6)
        answers.append([answer.text for answer in made])
    assert answers[0] == answers[1]


@pytest.mark.filterwarnings("ignore")
def test_mlflow_loads_the_packaged_model(finished: Path) -> None:
    import mlflow

    loaded = mlflow.pyfunc.load_model(str(finished / "mlflow_model"))
    assert loaded.metadata.flavors.keys() >= {"python_function", "transformers"}


def test_chat_answers_from_the_run_folder(finished: Path) -> None:
    command = ["chat", str(finished), "--message", "hi", "--json", "--max-new-tokens", "4"]
    result = CliRunner().invoke(app, [*command, "--device", "cpu"], catch_exceptions=False)
    assert result.exit_code == 0
    value = json.loads(result.stdout)
    assert value["message"] == "hi"
    assert value["answers"][0]["new_tokens"] <= 4


def test_evaluate_takes_the_run_folder(finished: Path, chats: dict[str, Path]) -> None:
    command = ["evaluate", str(finished), "--test", str(chats["test"]), "--generations", "0"]
    result = CliRunner().invoke(
        app, [*command, "--json", "--device", "cpu"], catch_exceptions=False
    )
    assert result.exit_code == 0
    own = json.loads((finished / "evaluation.json").read_text())["assistant_loss"]["tuned"]
    again = json.loads(result.stdout)["assistant_loss"]["tuned"]
    assert again == pytest.approx(own, rel=1e-3)


def test_a_finished_run_started_again_does_nothing_and_says_what_had_no_effect(
    make_recipe: MakeRecipe,
) -> None:
    first = finetune(make_recipe())
    times = {path: path.stat().st_mtime_ns for path in first.folder.rglob("model*")}
    events: list[dict[str, Any]] = []
    again = finetune(make_recipe(eval_generations=3), report=events.append)
    assert {event["event"] for event in events} == {"stage", "note"}
    assert "nothing was run" in events[-1]["text"]
    assert "eval_generations was 2, now 3" in events[-1]["text"]
    assert again.facts == json.loads((first.folder / "report.json").read_text())
    assert times == {path: path.stat().st_mtime_ns for path in times}


def test_a_finished_run_says_that_other_test_rows_were_not_looked_at(
    make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    finetune(make_recipe(max_steps=1))
    other = write_chats(tmp_path / "other.jsonl", 4, 7)
    events: list[dict[str, Any]] = []
    finetune(make_recipe(max_steps=1, test_file_path=str(other)), report=events.append)
    assert "the test data changed" in events[-1]["text"]


def test_other_settings_in_the_same_folder_are_refused_by_name_until_overwritten(
    make_recipe: MakeRecipe,
) -> None:
    run = finetune(make_recipe(evaluate=False))
    own = run.folder / "my-notes.txt"
    own.write_text("keep me")
    with pytest.raises(FineryError, match=r"learning_rate was 0\.01, now 0\.02"):
        finetune(make_recipe(evaluate=False, learning_rate=0.02))
    assert (run.folder / "manifest.json").is_file()
    run = finetune(make_recipe(evaluate=False, learning_rate=0.02, overwrite_output=True))
    kept = resolve(run.folder / "recipe.yaml", {}).recipe
    assert (kept.learning_rate, kept.overwrite_output) == (0.02, False)
    identity = json.loads((run.folder / "manifest.json").read_text())["identity"]
    assert identity["learning_rate"] == 0.02
    assert own.read_text() == "keep me"


def test_changed_training_data_is_refused_in_words(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    finetune(make_recipe(evaluate=False, max_steps=1))
    other = write_chats(tmp_path / "other.jsonl", 30, 9)
    with pytest.raises(FineryError, match="the training data changed"):
        finetune(make_recipe(evaluate=False, max_steps=1, train_file_path=str(other)))


def test_a_crash_after_training_does_not_train_again(
    make_recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*_: Any) -> None:
        raise RuntimeError("the power went")

    with monkeypatch.context() as patch:
        patch.setattr(results, "evaluate_run", crash)
        with pytest.raises(RuntimeError, match="the power went"):
            finetune(make_recipe())
    monkeypatch.setattr(whole, "run_training", crash)
    events: list[dict[str, Any]] = []
    run = finetune(make_recipe(), report=events.append)
    assert (run.folder / "manifest.json").is_file()
    assert "start" not in {event["event"] for event in events}
    assert run.facts["evaluation"]["assistant_loss"]["rows"] == 5


def test_a_crash_before_the_certificate_merges_again(
    make_recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*_: Any) -> None:
        raise RuntimeError("the power went")

    with monkeypatch.context() as patch:
        patch.setattr(results, "certificate", crash)
        with pytest.raises(RuntimeError, match="the power went"):
            finetune(make_recipe(evaluate=False))
    run = finetune(make_recipe(evaluate=False))
    assert run.facts["certificate"]["greedy_agreement"] == 1.0


def test_a_merge_that_answers_otherwise_is_refused_and_not_saved(
    make_recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = lora.merged_weight
    monkeypatch.setattr(lora, "merged_weight", lambda layer: -3.0 * right(layer))
    resolved = make_recipe(self_tests=False, evaluate=False)
    with pytest.raises(FineryError, match="chooses another next token"):
        finetune(resolved)
    assert not (Path(resolved.recipe.output_dir) / "model").exists()


def test_full_fine_tuning_leaves_a_model_and_no_adapter(make_recipe: MakeRecipe) -> None:
    run = finetune(make_recipe(apply_lora=False, learning_rate=1e-3))
    assert not (run.folder / "adapter").exists()
    assert not (run.folder / "certificate.json").exists()
    found = run.facts["evaluation"]["assistant_loss"]
    assert found["tuned"] < found["base"]
    AutoModelForCausalLM.from_pretrained(run.folder / "model")


def test_an_unmerged_run_answers_through_its_adapter(make_recipe: MakeRecipe) -> None:
    run = finetune(make_recipe(merge_lora_weights=False, evaluate=False, package_mlflow=True))
    assert not (run.folder / "model").exists()
    assert not (run.folder / "mlflow_model").exists()
    assert any("No MLflow model folder is written" in note for note in run.facts["notes"])
    opened = open_model(str(run.folder), device="cpu")
    generate(opened.model, opened.renderer, [[{"role": "user", "content": "hi"}]], max_new_tokens=2)


def test_without_test_rows_the_validation_rows_are_compared_and_that_is_said(
    make_recipe: MakeRecipe, chats: dict[str, Path]
) -> None:
    data = {"test_file_path": "", "validation_file_path": str(chats["test"])}
    run = finetune(make_recipe(**data))
    assert run.facts["evaluation"]["assistant_loss"]["rows"] == 5
    assert any("compared on the validation rows" in note for note in run.facts["notes"])


def test_without_evaluation_and_test_rows_the_merge_is_still_proved(
    make_recipe: MakeRecipe, chats: dict[str, Path]
) -> None:
    data = {"test_file_path": "", "validation_file_path": str(chats["test"])}
    run = finetune(make_recipe(**data, evaluate=False))
    assert run.facts["certificate"]["rows"] > 0
    assert "the recipe says evaluate: false" in run.facts["evaluation_missing"]


@pytest.mark.filterwarnings("ignore")
def test_metrics_go_to_mlflow_when_a_tracking_uri_is_set(
    make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.chdir(tmp_path)
    run = finetune(make_recipe(evaluate=False))
    known = json.loads((run.folder / "mlflow_run.json").read_text())["run_id"]
    client = mlflow.MlflowClient(uri)
    logged = client.get_run(known)
    assert logged.info.status == "FINISHED"
    assert logged.data.params["learning_rate"] == "0.01"
    steps = [metric.step for metric in client.get_metric_history(known, "loss")]
    assert steps == [1, 2, 3, 4]
    assert client.get_metric_history(known, "eval_loss")


def test_a_template_of_the_fine_tune_configuration_travels_with_the_model(
    make_recipe: MakeRecipe, tmp_path: Path, tiny_llama: Path
) -> None:
    template = load_renderer(tiny_llama).template.replace("{{ m['role'] }}", "[{{ m['role'] }}]")
    config = tmp_path / "config.json"
    modules = ["q_proj", "v_proj"]
    config.write_text(
        json.dumps({"finetune_chat_template": template, "lora_target_modules": modules})
    )
    run = finetune(make_recipe(finetune_config_path=str(config), evaluate=False))
    assert any("chat template is the one of config.json" in note for note in run.facts["notes"])
    for part in ("model", "adapter"):
        assert load_renderer(run.folder / part).template == template
    adapter = json.loads((run.folder / "adapter" / "adapter_config.json").read_text())
    assert sorted(adapter["target_modules"]) == modules
    written = (run.folder / "recipe.yaml").read_text()
    assert "lora_target_modules: q_proj,v_proj  # config.json:lora_target_modules" in written
    config.write_text(json.dumps({"lora_target_modules": modules}))
    with pytest.raises(FineryError, match="the tokenizer or chat template changed"):
        finetune(make_recipe(finetune_config_path=str(config), evaluate=False))


def test_an_mltable_trains_and_every_file_of_it_is_in_the_manifest(
    make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    table = tmp_path / "table"
    table.mkdir()
    write_chats(table / "part-1.jsonl", 10, 3)
    write_chats(table / "part-2.jsonl", 10, 4)
    (table / "MLTable").write_text(
        "paths:\n- pattern: ./*.jsonl\ntransformations:\n- read_json_lines\n"
    )
    data = {"train_file_path": "", "train_mltable_path": str(table)}
    run = finetune(make_recipe(**data, evaluate=False))
    assert sum(ledger["rows_read"] for ledger in run.facts["ledger"][:2]) == 20
    manifest = json.loads((run.folder / "manifest.json").read_text())
    names = {"train:MLTable", "train:part-1.jsonl", "train:part-2.jsonl", "test"}
    assert manifest["data"].keys() == names


def test_two_processes_train_the_run_and_their_events_arrive(
    make_recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    events: list[dict[str, Any]] = []
    split = {"num_processes": 2, "gradient_accumulation_steps": 2}
    run = finetune(
        make_recipe(**split, per_device_train_batch_size=4, evaluate=False), report=events.append
    )
    assert [event["step"] for event in events if event["event"] == "log"] == [1, 2, 3, 4]
    assert [row["step"] for row in read_metrics(run.folder) if "loss" in row] == [1, 2, 3, 4]
    assert run.facts["summary"]["device"] == "2 x cpu"
