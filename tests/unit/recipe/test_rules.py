"""Combinations that cannot work are refused by name; what has no effect is said."""

from __future__ import annotations

from dataclasses import replace

import pytest

from finery.recipe.inputs import Recipe
from finery.recipe.rules import RULES, cross_faults, remarks

GOOD = Recipe(model="org/model", train_file_path="/data/train.jsonl")

REFUSED = [
    (["model", "model to start from"], {"model": ""}),
    (["train_file_path", "training data"], {"train_file_path": ""}),
    (["model", "huggingface_id", "would win"], {"huggingface_id": "a/b"}),
    (["model", "pytorch_model_path"], {"pytorch_model_path": "/m"}),
    (["huggingface_id", "`model`"], {"model": "", "huggingface_id": "/models/phi"}),
    (["evaluation_config_params"], {"evaluation_config": "/c", "evaluation_config_params": "{}"}),
    (["output_dir"], {"output_dir": ""}),
    (["shm_size_finetune", "512m"], {"shm_size_finetune": "lots"}),
    (["packing", "layout 'padded'"], {"packing": True, "max_seq_length": 64, "layout": "padded"}),
    (["packing", "padding"], {"packing": True, "max_seq_length": 64, "pad_to_max_length": True}),
    (["packing", "max_seq_length -1"], {"packing": True}),
    (["pad_to_max_length", "layout"], {"pad_to_max_length": True, "layout": "documents"}),
    (["lora_target_modules"], {"apply_lora": True, "lora_target_modules": "q_proj,,v_proj"}),
    (["lora_target_modules"], {"apply_lora": True, "lora_target_modules": ""}),
    (["lora_target_modules", "apply_lora"], {"lora_target_modules": "q_proj"}),
    (["use_dora", "apply_lora"], {"use_dora": True}),
    (["use_rslora", "apply_lora"], {"use_rslora": True}),
    (["quantization", "apply_lora"], {"quantization": "nf4"}),
    (
        ["quantization", "apply_deepspeed"],
        {"quantization": "nf4", "apply_lora": True, "apply_deepspeed": True},
    ),
    (
        ["quantization", "precision"],
        {"quantization": "fp8", "apply_lora": True, "precision": "32"},
    ),
    (
        ["quantization", "use_dora"],
        {"quantization": "fp8", "apply_lora": True, "precision": "16", "use_dora": True},
    ),
    (["auto_find_batch_size"], {"auto_find_batch_size": True, "apply_deepspeed": True}),
    (["deepspeed", "apply_deepspeed"], {"deepspeed": "/d.json"}),
    (["eval_steps"], {"evaluation_strategy": "steps", "eval_steps": 0}),
    (["logging_steps"], {"logging_steps": 0}),
    (["apply_early_stopping"], {"apply_early_stopping": True, "evaluation_strategy": "disable"}),
    (["metric_for_best_model", "loss"], {"metric_for_best_model": "f1"}),
    (["metric_for_best_model", "loss"], {"metric_for_best_model": "exact"}),
    (["resume_from_checkpoint"], {"resume_from_checkpoint": True, "overwrite_output": True}),
]

ACCEPTED = [
    {},
    {"huggingface_id": "org/model"},
    {"model": "", "huggingface_id": "gpt2"},
    {"model": "", "mlflow_model_path": "/m"},
    {"train_file_path": "", "train_mltable_path": "/t"},
    {"packing": True, "max_seq_length": 64, "layout": "documents"},
    {"evaluation_strategy": "epoch", "eval_steps": 0},
    {"apply_lora": True, "use_dora": True, "quantization": "nf4"},
    {"apply_lora": True, "quantization": "fp8", "precision": "16"},
    {"apply_lora": True, "lora_target_modules": "q_proj, layers.*.v_proj"},
    {"apply_deepspeed": True, "deepspeed": "/d.json"},
    {"apply_early_stopping": True},
]

REMARKED = [
    ("train_mltable_path wins", {"train_mltable_path": "/t"}),
    ("test_mltable_path wins", {"test_mltable_path": "/t", "test_file_path": "/f"}),
    ("validation data is the training data", {"validation_file_path": "/data/train.jsonl"}),
    ("apply_ort has no effect", {"apply_ort": True}),
    ("will run as you", {"trust_remote_code": True}),
    (
        "validation_split_percent has no effect",
        {"validation_file_path": "/v", "validation_split_percent": 5.0},
    ),
    ("per_device_train_batch_size", {"batch_size": 8}),
    ("num_train_epochs is not used", {"max_steps": 5, "num_train_epochs": 2}),
    ("peak learning rate", {"max_steps": 5, "warmup_steps": 5}),
    ("constant_with_warmup", {"lr_scheduler_type": "constant", "warmup_steps": 5}),
    ("adafactor", {"optim": "adafactor", "adam_beta1": 0.5}),
    ("apply_lora is false", {"lora_r": 4}),
    ("eval_steps is not used", {"evaluation_strategy": "steps", "evaluation_steps_interval": 0.5}),
    ("evaluation_strategy is not steps", {"eval_steps": 5}),
    ("logging_strategy is not steps", {"logging_strategy": "epoch", "logging_steps": 5}),
    ("apply_early_stopping is false", {"early_stopping_patience": 3}),
    ("uses this machine", {"compute_finetune": "gpu-cluster"}),
    ("shm_size_finetune has no effect", {"shm_size_finetune": "6g"}),
    ("dataloader_num_workers has no effect", {"dataloader_num_workers": 2}),
    ("eval_accumulation_steps has no effect", {"eval_accumulation_steps": 4}),
    ("evaluation_config_params have no effect", {"evaluation_config_params": "{}"}),
    ("evaluation_config and evaluation_config_params", {"evaluation_config": "/c"}),
    ("always goes on from the newest checkpoint", {"resume_from_checkpoint": True}),
    ("evaluate is false", {"evaluate": False, "eval_generations": 3}),
    ("No MLflow model folder", {"apply_lora": True, "merge_lora_weights": False}),
    ("merge_lora_weights has no effect", {"merge_lora_weights": False}),
    ("deepspeed_stage has no effect", {"deepspeed_stage": "3"}),
    ("sections optimizer and scheduler", {"apply_deepspeed": True, "deepspeed": "/d"}),
]


@pytest.mark.parametrize(("words", "changes"), REFUSED)
def test_a_combination_that_cannot_work_is_refused_by_name(
    words: list[str], changes: dict[str, object]
) -> None:
    faults = cross_faults(replace(GOOD, **changes))
    assert len(faults) == 1
    assert faults[0].where == words[0]
    for word in words:
        assert word in str(faults[0])


@pytest.mark.parametrize("changes", ACCEPTED)
def test_a_combination_that_works_is_accepted(changes: dict[str, object]) -> None:
    assert cross_faults(replace(GOOD, **changes)) == []


@pytest.mark.parametrize(("words", "changes"), REMARKED)
def test_what_has_no_effect_is_said_once_and_never_refused(
    words: str, changes: dict[str, object]
) -> None:
    recipe = replace(GOOD, **changes)
    assert cross_faults(recipe) == []
    assert [words in remark for remark in remarks(recipe)] == [True]


def test_a_deepspeed_file_beside_a_stage_says_that_the_file_wins() -> None:
    recipe = replace(GOOD, apply_deepspeed=True, deepspeed="/d", deepspeed_stage="3")
    assert "The DeepSpeed file wins; deepspeed_stage is not used." in remarks(recipe)


def test_nothing_is_remarked_about_a_plain_recipe() -> None:
    assert remarks(GOOD) == ()


def test_every_rule_is_exercised_above() -> None:
    broken = {
        rule.inputs
        for rule in RULES
        for _, change in REFUSED
        if rule.broken(replace(GOOD, **change))
    }
    assert broken == {rule.inputs for rule in RULES}


def test_a_rule_stays_silent_while_one_of_its_inputs_is_itself_at_fault() -> None:
    recipe = replace(GOOD, packing=True, model="", train_file_path="")
    assert len(cross_faults(recipe)) == 3
    assert cross_faults(recipe, {"max_seq_length", "huggingface_id", "train_mltable_path"}) == []


def test_every_conflicting_model_source_is_named() -> None:
    faults = cross_faults(replace(GOOD, mlflow_model_path="/m", huggingface_id="a/b"))
    assert [fault.where for fault in faults] == ["huggingface_id", "model"]
    assert all("mlflow_model_path '/m'" in fault.found for fault in faults)
