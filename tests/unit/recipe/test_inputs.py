"""The table has the component's inputs exactly, and every row is complete."""

from __future__ import annotations

import dataclasses

import pytest

from finery.recipe.inputs import GROUPS, SETTINGS, Recipe, nearest_input

# name, component type, default as text, allowed values or least value: chat_completion_pipeline
# 0.0.82, Azure/azureml-assets, components/pipeline_components/chat_completion/spec.yaml.
COMPONENT = """
instance_type_model_import|string|Standard_d12_v2|
instance_type_preprocess|string|Standard_d12_v2|
instance_type_finetune|string|Standard_nc24rs_v3|
instance_type_model_evaluation|string|Standard_nc24rs_v3|
shm_size_finetune|string|5g|
num_nodes_finetune|integer|1|1
number_of_gpu_to_use_finetuning|integer|1|1
huggingface_id|string||
pytorch_model_path|custom_model||
mlflow_model_path|mlflow_model||
finetune_config_path|uri_file||
trust_remote_code|string|false|true,false
task_name|string|ChatCompletion|ChatCompletion
batch_size|integer|1000|1
pad_to_max_length|string|false|true,false
max_seq_length|integer|-1|
train_file_path|uri_file||
validation_file_path|uri_file||
test_file_path|uri_file||
train_mltable_path|mltable||
validation_mltable_path|mltable||
test_mltable_path|mltable||
apply_lora|string|false|true,false
merge_lora_weights|string|true|true,false
lora_alpha|integer|128|
lora_r|integer|8|
lora_dropout|number|0.0|
num_train_epochs|integer|1|1
max_steps|integer|-1|
per_device_train_batch_size|integer|1|1
per_device_eval_batch_size|integer|1|1
auto_find_batch_size|string|false|true,false
optim|string|adamw_torch|adamw_torch,adafactor
learning_rate|number|2e-05|
warmup_steps|integer|0|
weight_decay|number|0.0|
adam_beta1|number|0.9|
adam_beta2|number|0.999|
adam_epsilon|number|1e-08|
gradient_accumulation_steps|integer|1|
eval_accumulation_steps|integer|-1|
lr_scheduler_type|string|linear|linear,cosine,cosine_with_restarts,polynomial,constant,constant_with_warmup
precision|string|32|32,16
seed|integer|42|
enable_full_determinism|string|false|true,false
dataloader_num_workers|integer|0|
ignore_mismatched_sizes|string|false|true,false
max_grad_norm|number|1.0|
evaluation_strategy|string|epoch|epoch,steps,disable
evaluation_steps_interval|number|0.0|
eval_steps|integer|500|
logging_strategy|string|steps|epoch,steps
logging_steps|integer|10|
metric_for_best_model|string|loss|loss,f1,exact
resume_from_checkpoint|string|false|true,false
save_total_limit|integer|-1|
apply_early_stopping|string|false|true,false
early_stopping_patience|integer|1|
early_stopping_threshold|number|0.0|
apply_deepspeed|string|false|true,false
deepspeed|uri_file||
deepspeed_stage|string|2|2,3
apply_ort|string|false|true,false
evaluation_config|uri_file||
evaluation_config_params|string||
compute_model_import|string|serverless|
compute_preprocess|string|serverless|
compute_finetune|string|serverless|
compute_model_evaluation|string|serverless|
"""
ROWS = [line.split("|") for line in COMPONENT.split()]

OURS = {
    "model": "",
    "output_dir": "finery-run",
    "packing": False,
    "layout": "auto",
    "long_rows": "auto",
    "quantization": "none",
    "lora_target_modules": "auto",
    "use_rslora": False,
    "use_dora": False,
    "gradient_checkpointing": False,
    "num_processes": 0,
    "device": "auto",
    "self_tests": True,
    "evaluate": True,
    "eval_generations": 32,
    "max_new_tokens": 128,
    "validation_split_percent": 0.0,
    "package_mlflow": True,
    "overwrite_output": False,
    "save_steps": 0,
    "auto": False,
}


def test_all_69_component_inputs_are_there_and_no_others() -> None:
    assert len(ROWS) == 69
    component = [name for name, row in SETTINGS.items() if row.component]
    assert sorted(component) == sorted(name for name, *_ in ROWS)


@pytest.mark.parametrize(("name", "kind", "default", "allowed"), ROWS)
def test_component_inputs_keep_type_default_and_range(
    name: str, kind: str, default: str, allowed: str
) -> None:
    row = SETTINGS[name]
    said = str(row.default).lower() if isinstance(row.default, bool) else str(row.default)
    choices = ("true", "false") if row.kind == "boolean" else row.spec_choices or row.choices
    least = "" if row.spec_minimum is None else str(row.spec_minimum)
    assert (row.component_type, said) == (kind, default)
    assert (",".join(choices) or least) == allowed


def test_our_own_inputs_have_their_defaults() -> None:
    assert {name: row.default for name, row in SETTINGS.items() if not row.component} == OURS


def test_every_row_has_help_a_known_group_and_a_default_inside_its_range() -> None:
    for name, row in SETTINGS.items():
        assert row.help, name
        assert row.group in GROUPS, name
        assert not isinstance(row.default, int | float) or row.holds(row.default), name
        assert not row.choices or row.default in row.choices, name
    assert {row.group for row in SETTINGS.values()} == set(GROUPS)


def test_a_recipe_cannot_be_changed_and_types_match_the_table() -> None:
    recipe = Recipe()
    with pytest.raises(dataclasses.FrozenInstanceError):
        recipe.seed = 1  # pyright: ignore[reportAttributeAccessIssue]
    types = {"boolean": "bool", "integer": "int", "number": "float"}
    for field in dataclasses.fields(Recipe):
        assert field.type == types.get(SETTINGS[field.name].kind, "str")


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("learning-rat", "learning_rate"),
        ("lr", "learning_rate"),
        ("--epochs", "num_train_epochs"),
        ("eval_strategy", "evaluation_strategy"),
        ("Learning_Rate", "learning_rate"),
        ("train", "train_file_path"),
        ("zzzzzz", ""),
    ],
)
def test_the_nearest_input_is_named(typed: str, meant: str) -> None:
    assert nearest_input(typed) == meant


def test_a_model_path_wins_over_a_hub_id_and_an_mltable_over_a_file() -> None:
    recipe = Recipe(huggingface_id="a/b", mlflow_model_path="/m", model="c")
    assert recipe.model_source == "/m"
    assert Recipe().model_source == ""
    data = Recipe(train_file_path="/f", train_mltable_path="/t", test_file_path="/g")
    assert [data.data_path(split) for split in ("train", "validation", "test")] == ["/t", "", "/g"]
