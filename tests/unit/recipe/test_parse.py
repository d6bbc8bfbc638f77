"""Values as files, options and SDKs give them become real types, or a fault that explains."""

from __future__ import annotations

import math

import pytest

from finery.errors import Fault
from finery.recipe.inputs import SETTINGS
from finery.recipe.parse import coerce

ACCEPTED = [
    ("apply_lora", "true", True),
    ("apply_lora", "False", False),
    ("apply_lora", True, True),
    ("per_device_train_batch_size", "2", 2),
    ("per_device_train_batch_size", 3.0, 3),
    ("per_device_train_batch_size", "3.0", 3),
    ("max_seq_length", -1, -1),
    ("max_seq_length", "-1", -1),
    ("learning_rate", "5e-06", 5e-6),
    ("learning_rate", 1, 1.0),
    ("adam_epsilon", "1e-8", 1e-8),
    ("weight_decay", -0.0, 0.0),
    ("precision", 16, "16"),
    ("precision", 16.0, "16"),
    ("precision", "bf16", "bf16"),
    ("deepspeed_stage", 2, "2"),
    ("seed", 2**32 - 1, 2**32 - 1),
    ("train_file_path", "a b/ü😀.jsonl", "a b/ü😀.jsonl"),
    ("evaluation_config_params", '{"a":\n\t1}', '{"a":\n\t1}'),
]

REFUSED = [
    ("apply_lora", "yes", "'yes'", "true or false"),
    ("apply_lora", 1, "1", "true or false"),
    ("per_device_train_batch_size", "1.5", "'1.5'", "an integer of at least 1"),
    ("per_device_train_batch_size", True, "true", "an integer of at least 1"),
    ("per_device_train_batch_size", 0, "0", "an integer of at least 1"),
    ("per_device_train_batch_size", "9" * 5000, "...'", "an integer of at least 1"),
    ("per_device_train_batch_size", 10**5000, "64 bits", "an integer of at least 1"),
    ("per_device_train_batch_size", "٣", "'٣'", "an integer of at least 1"),
    ("max_seq_length", 7, "7", "-1 or an integer of at least 8"),
    ("max_seq_length", -2, "-2", "-1 or an integer of at least 8"),
    ("max_steps", 0, "0", "-1 or an integer of at least 1"),
    ("save_total_limit", 0, "0", "-1 or an integer of at least 1"),
    ("save_total_limit", -2, "-2", "-1 or an integer of at least 1"),
    ("learning_rate", math.nan, "nan", "a finite number above 0"),
    ("learning_rate", math.inf, "inf", "a finite number above 0"),
    ("learning_rate", "nan", "'nan'", "a finite number above 0"),
    ("learning_rate", "1e999", "'1e999'", "a finite number above 0"),
    ("learning_rate", 10**400, "64 bits", "a finite number above 0"),
    ("learning_rate", 0, "0", "a finite number above 0"),
    ("learning_rate", "-1e-5", "'-1e-5'", "a finite number above 0"),
    ("lora_r", 0, "0", "an integer of at least 1"),
    ("lora_dropout", 1, "1", "a finite number of at least 0 and below 1"),
    ("adam_beta1", 1.0, "1.0", "a finite number of at least 0 and below 1"),
    ("adam_epsilon", 0, "0", "a finite number above 0"),
    ("warmup_steps", -1, "-1", "an integer of at least 0"),
    ("seed", -1, "-1", "an integer of at least 0 and at most 4294967295"),
    ("seed", 2**32, "4294967296", "an integer of at least 0 and at most 4294967295"),
    ("evaluation_steps_interval", 1.5, "1.5", "a finite number of at least 0 and at most 1"),
    ("precision", 8, "8", "one of '32', '16', 'bf16'"),
    ("precision", True, "true", "one of '32', '16', 'bf16'"),
    ("task_name", "Chat", "'Chat'", "'ChatCompletion'"),
    ("model", 7, "7", "text"),
    ("model", None, "no value", "text"),
    ("model", ["a"], "a list", "text"),
    ("model", {"a": 1}, "a mapping", "text"),
    ("model", b"a", "something that is no plain value", "text"),
    ("train_file_path", "a\0b", "'a\\x00b'", "a path, as text"),
    ("train_file_path", "a\ud800", "'a\\ud800'", "a path, as text"),
]


@pytest.mark.parametrize(("name", "value", "expected"), ACCEPTED)
def test_values_of_sdks_and_files_get_their_real_type(
    name: str, value: object, expected: object
) -> None:
    result = coerce(SETTINGS[name], value)
    assert result == expected
    assert type(result) is type(expected)


@pytest.mark.parametrize(
    ("name", "value", "found", "expected"), REFUSED, ids=[row[0] for row in REFUSED]
)
def test_a_value_that_would_change_meaning_is_refused(
    name: str, value: object, found: str, expected: str
) -> None:
    fault = coerce(SETTINGS[name], value, "recipe.yaml:3")
    assert isinstance(fault, Fault)
    assert fault.where == "recipe.yaml:3"
    assert found in fault.found
    assert len(fault.found) < 100
    assert fault.expected == expected


@pytest.mark.parametrize(
    ("name", "value", "remedy"),
    [
        ("lr_scheduler_type", "cosin", "Did you mean 'cosine'?"),
        ("evaluation_strategy", False, "put text in quotes"),
        ("lora_target_modules", ["q_proj"], "separated by commas"),
        ("seed", None, "remove the line"),
    ],
)
def test_a_common_slip_comes_with_its_remedy(name: str, value: object, remedy: str) -> None:
    fault = coerce(SETTINGS[name], value)
    assert isinstance(fault, Fault)
    assert remedy in fault.remedy


def test_every_default_is_a_value_its_own_input_accepts() -> None:
    for row in SETTINGS.values():
        assert coerce(row, row.default) == row.default
        assert coerce(row, str(row.default)) == row.default
