"""finetune_config.json: every key has an effect, a note or a fault; none is passed over."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from finery.errors import InputError
from finery.recipe.finetune_config import (
    KEYS,
    PACKAGED,
    TRAINER_INPUTS,
    TRAINER_NAMES,
    WITHOUT_EFFECT,
    Configured,
    apply_finetune_config,
)
from finery.recipe.inputs import SETTINGS, Recipe

GOOD = Recipe(model="org/model", train_file_path="/data/train.jsonl", apply_lora=True)
Apply = Callable[..., Configured]


@pytest.fixture
def apply(tmp_path: Path) -> Apply:
    """`apply(config, origins, **changes)`: the recipe with a given configuration worked in."""

    def with_config(
        config: Any, origins: dict[str, str] | None = None, **changes: Any
    ) -> Configured:
        path = tmp_path / "config.json"
        path.write_text(config if isinstance(config, str) else json.dumps(config))
        recipe = replace(GOOD, finetune_config_path=str(path), **changes)
        return apply_finetune_config(recipe, origins or {})

    return with_config


@pytest.fixture
def packaged(tmp_path: Path) -> Apply:
    """`packaged(config, **changes)`: the same with a configuration that came with the model."""

    def with_config(config: Any, **changes: Any) -> Configured:
        (tmp_path / PACKAGED).write_text(json.dumps(config))
        folders = [tmp_path / "nowhere", tmp_path]
        return apply_finetune_config(replace(GOOD, **changes), {}, folders)

    return with_config


def test_without_a_configuration_the_recipe_is_as_it_was(tmp_path: Path) -> None:
    assert apply_finetune_config(GOOD, {"seed": "x"}, [tmp_path]) == Configured(GOOD, {"seed": "x"})


@pytest.mark.parametrize(
    "shape",
    [
        lambda own: own,
        lambda own: {"version": "2", "task_specific_config": {"chat-completion": own}},
        lambda own: {"version": "2", "task_specific_config": {"ChatCompletion": own, "x": {}}},
    ],
)
def test_both_versions_of_the_format_are_read(apply: Apply, shape: Any) -> None:
    done = apply(shape({"lora_target_modules": ["qkv_proj", "o_proj"]}))
    assert done.recipe.lora_target_modules == "qkv_proj,o_proj"
    assert done.origins["lora_target_modules"] == "config.json:lora_target_modules"
    assert len(done.notes) == 1


def test_the_recipes_own_target_modules_stay_and_that_is_said(apply: Apply) -> None:
    done = apply({"lora_target_modules": ["q_proj"]}, lora_target_modules="v_proj")
    assert done.recipe.lora_target_modules == "v_proj"
    assert "the recipe names its own" in done.notes[0]


def test_target_modules_without_lora_have_no_effect_and_that_is_said(apply: Apply) -> None:
    done = apply({"lora_target_modules": ["q_proj"]}, apply_lora=False)
    assert done.recipe.lora_target_modules == "auto"
    assert "apply_lora is false" in done.notes[0]


def test_a_template_is_handed_on_and_a_person_is_told_that_it_is_saved(apply: Apply) -> None:
    done = apply({"finetune_chat_template": "{{ messages }}"})
    assert done.template == "{{ messages }}"
    assert done.template_origin.endswith("config.json")
    assert "saved with the tuned model" in done.notes[0]


@pytest.mark.parametrize("key", list(WITHOUT_EFFECT))
def test_a_key_without_effect_is_accepted_and_the_reason_said(apply: Apply, key: str) -> None:
    done = apply({key: {"anything": 1}})
    assert done.recipe == replace(GOOD, finetune_config_path=done.recipe.finetune_config_path)
    assert done.notes == (f"config.json: {key} has no effect: {WITHOUT_EFFECT[key]}.",)


@pytest.mark.parametrize(
    ("arguments", "name", "value"),
    [
        ({"learning_rate": 1e-4}, "learning_rate", 1e-4),
        ({"learning_rate": "1e-4"}, "learning_rate", 1e-4),
        ({"bf16": True}, "precision", "bf16"),
        ({"eval_strategy": "no"}, "evaluation_strategy", "disable"),
        ({"evaluation_strategy": "steps"}, "evaluation_strategy", "steps"),
        ({"full_determinism": True}, "enable_full_determinism", True),
        ({"gradient_checkpointing": True}, "gradient_checkpointing", True),
    ],
)
def test_a_trainer_argument_fills_an_input_left_at_its_default(
    apply: Apply, arguments: dict[str, Any], name: str, value: object
) -> None:
    done = apply({"hf_trainer_args": arguments})
    assert getattr(done.recipe, name) == value
    assert done.origins[name] == f"config.json:hf_trainer_args.{next(iter(arguments))}"
    assert name in done.notes[0]


def test_a_trainer_argument_that_says_what_the_recipe_says_is_no_news(apply: Apply) -> None:
    done = apply({"hf_trainer_args": {"learning_rate": 3e-4, "metric_for_best_model": "eval_loss"}},
                 learning_rate=3e-4)  # fmt: skip
    assert (done.recipe.learning_rate, done.notes) == (3e-4, ())


def test_what_a_trainer_argument_makes_useless_is_said(apply: Apply) -> None:
    done = apply({"hf_trainer_args": {"eval_accumulation_steps": 4}})
    assert any("eval_accumulation_steps has no effect" in note for note in done.notes)


REFUSED = [
    ("{", "", "not JSON"),
    ("[]", "", "a JSON object"),
    ({"lora_targets_modules": []}, "lora_targets_modules", "Did you mean lora_target_modules?"),
    ({"lora_target_modules": []}, "lora_target_modules", "a list of module names"),
    ({"lora_target_modules": [1]}, "lora_target_modules", "a list of module names"),
    ({"lora_target_modules": ["a b"]}, "lora_target_modules", "separated by commas"),
    ({"lora_target_parameters": ["x"]}, "lora_target_parameters", "lora_target_modules"),
    ({"finetune_chat_template": ""}, "finetune_chat_template", "as text"),
    ({"hf_trainer_args": []}, "hf_trainer_args", "an object of training arguments"),
    ({"hf_trainer_args": {"lr": 1}}, "hf_trainer_args.lr", "without a counterpart"),
    ({"hf_trainer_args": {"learnin_rate": 1}}, "learnin_rate", "Did you mean learning_rate?"),
    ({"hf_trainer_args": {"fp16": True}}, "hf_trainer_args.fp16", "Set precision: 16"),
    ({"hf_trainer_args": {"bf16": False}}, "hf_trainer_args.bf16", "Set precision: 32"),
    ({"hf_trainer_args": {"warmup_ratio": 0.1}}, "warmup_ratio", "Set warmup_steps"),
    ({"hf_trainer_args": {"learning_rate": -1}}, "learning_rate", "above 0"),
    ({"hf_trainer_args": {"apply_lora": True}}, "apply_lora", "without a counterpart"),
    ({"hf_trainer_args": {"logging_steps": 0}}, "logging_steps", "at least 1 step"),
    ({"task_specific_config": {"translation": {}}}, "task_specific_config", "translation"),
    ({"task_specific_config": 3}, "task_specific_config", "chat-completion"),
]


@pytest.mark.parametrize(("config", "place", "words"), REFUSED)
def test_what_cannot_be_done_is_refused_at_its_place(
    apply: Apply, config: Any, place: str, words: str
) -> None:
    with pytest.raises(InputError) as refusal:
        apply(config)
    (fault,) = refusal.value.faults
    assert "config.json" in fault.where
    assert place in fault.where
    assert words in str(fault)


def test_a_recipe_and_its_configuration_must_not_say_two_different_things(apply: Apply) -> None:
    with pytest.raises(InputError, match=r"0\.001, as recipe\.yaml:3 says for learning_rate"):
        apply(
            {"hf_trainer_args": {"learning_rate": 1e-4}},
            {"learning_rate": "recipe.yaml:3"},
            learning_rate=1e-3,
        )
    with pytest.raises(InputError, match="as --seed says"):  # a default that was asked for
        apply({"hf_trainer_args": {"seed": 7}}, {"seed": "--seed"})


def test_every_fault_of_a_file_is_told_at_once(apply: Apply) -> None:
    with pytest.raises(InputError) as refusal:
        apply({"x": 1, "y": 2, "hf_trainer_args": {"z": 3, "seed": -1}})
    assert len(refusal.value.faults) == 4


def test_a_packaged_configuration_never_stops_a_run(packaged: Apply) -> None:
    config = {
        "x": 1,
        "lora_target_modules": ["q_proj"],
        "hf_trainer_args": {"seed": 7, "learning_rate": 1e-4, "fp16": True},
    }
    done = packaged(config, learning_rate=1e-3)
    assert (done.recipe.seed, done.recipe.learning_rate) == (7, 1e-3)
    assert done.recipe.lora_target_modules == "q_proj"
    said = "\n".join(done.notes)
    for word in ("x has no effect", "hf_trainer_args.fp16", "hf_trainer_args.learning_rate"):
        assert f"the model's own {PACKAGED}: {word}" in said
    assert len(done.notes) == 5


def test_a_given_configuration_wins_over_the_packaged_one(tmp_path: Path) -> None:
    (tmp_path / PACKAGED).write_text('{"hf_trainer_args": {"seed": 7}}')
    own = tmp_path / "own.json"
    own.write_text("{}")
    recipe = replace(GOOD, finetune_config_path=str(own))
    assert apply_finetune_config(recipe, {}, [tmp_path]).recipe.seed == 42


def test_every_known_key_is_exercised_above() -> None:
    tested = {key for config, _, _ in REFUSED if isinstance(config, dict) for key in config}
    assert set(KEYS) <= tested | set(WITHOUT_EFFECT)
    assert set(TRAINER_INPUTS) <= set(SETTINGS)


def test_the_page_names_every_key_and_its_example_is_taken(apply: Apply) -> None:
    page = Path(__file__).parents[3] / "docs" / "reference" / "finetune-config.md"
    text = page.read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \|", text, flags=re.MULTILINE)
    assert sorted(rows) == sorted([*KEYS, *TRAINER_NAMES])
    assert all(f"| `{key}` | `{name}`" in text for key, name in TRAINER_NAMES.items())
    done = apply(text.split("```json\n")[1].split("```")[0])
    assert done.recipe.lora_target_modules == "qkv_proj,o_proj"
    assert (done.recipe.learning_rate, done.recipe.precision) == (1e-4, "bf16")
