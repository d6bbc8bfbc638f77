"""`finetune_config.json`: settings beside the recipe, as Azure's component takes them.

A file given as `finetune_config_path` wins over the one packaged with the model. Its keys are
those of the component (its model-import and training steps). Each has an effect here, or a note
that says why not, or is a fault; none is ignored in silence:

    lora_target_modules       used when the recipe's input of that name is "auto"
    finetune_chat_template    used for training, evaluation and in the saved model alike
    hf_trainer_args           each key that is one of our inputs fills it when the recipe leaves
                              it at its default; two different values are a fault
    chat_special_tokens, system_role_supported, lora_algo, leaf_modules_of_moe_models,
    inferencing_config        accepted, with a note

What would be a fault in a given file is a note for a packaged one, which a person can seldom
change: there the recipe wins.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from finery.errors import Fault, InputError, did_you_mean, os_reason
from finery.recipe.inputs import SETTINGS, Recipe
from finery.recipe.parse import coerce, found
from finery.recipe.rules import cross_faults, remarks

PACKAGED = "finetune_config.json"
_TASKS = ("chat-completion", "ChatCompletion")
_MASK = "the loss mask comes from the chat template itself"
# Keys that change nothing here, with the reason a person is told.
WITHOUT_EFFECT = {
    "chat_special_tokens": f"{_MASK}, and no token is added to the vocabulary",
    "system_role_supported": "the chat template itself shows whether it has a system role",
    "lora_algo": "adapters are always PEFT's",
    "leaf_modules_of_moe_models": "it is a setting of DeepSpeed for mixtures of experts",
    "inferencing_config": "it is about serving, not about training",
}
KEYS = (
    "lora_target_modules",
    "finetune_chat_template",
    "hf_trainer_args",
    "lora_target_parameters",
    *WITHOUT_EFFECT,
)
# TrainingArguments that go by another name here; all others go by their own.
TRAINER_NAMES = {
    "bf16": "precision",
    "eval_strategy": "evaluation_strategy",
    "full_determinism": "enable_full_determinism",
}
_TRAINER_REMEDIES = {
    "fp16": "Set precision: 16, which is bf16 where the device has it and else fp16.",
    "warmup_ratio": "Set warmup_steps.",
    "deepspeed": "Give the JSON file as the input deepspeed.",
    "output_dir": "It is the input output_dir of the recipe.",
}
# The inputs that are arguments of transformers' Trainer too.
TRAINER_INPUTS = (
    "num_train_epochs",
    "max_steps",
    "per_device_train_batch_size",
    "per_device_eval_batch_size",
    "auto_find_batch_size",
    "gradient_accumulation_steps",
    "gradient_checkpointing",
    "precision",
    "seed",
    "enable_full_determinism",
    "dataloader_num_workers",
    "optim",
    "learning_rate",
    "lr_scheduler_type",
    "warmup_steps",
    "weight_decay",
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "max_grad_norm",
    "evaluation_strategy",
    "eval_steps",
    "eval_accumulation_steps",
    "logging_strategy",
    "logging_steps",
    "metric_for_best_model",
    "save_steps",
    "save_total_limit",
)


@dataclass(frozen=True)
class Configured:
    """A recipe with a fine-tune configuration worked in."""

    recipe: Recipe
    origins: Mapping[str, str]
    template: str = ""  # the chat template to use in place of the model's own
    template_origin: str = ""
    notes: tuple[str, ...] = ()


def apply_finetune_config(
    recipe: Recipe, origins: Mapping[str, str], model_folders: Iterable[Path] = ()
) -> Configured:
    """The recipe with its fine-tune configuration, or the model's packaged one, worked in.

    Raises InputError with everything wrong in the file.
    """
    given = recipe.finetune_config_path
    packaged = next((f / PACKAGED for f in model_folders if (f / PACKAGED).is_file()), None)
    path = Path(given) if given else packaged
    if path is None:
        return Configured(recipe, origins)
    reading = _Reading(recipe, dict(origins), path, strict=bool(given))
    reading.read()
    if reading.faults:
        raise InputError(reading.faults, subject=path.name)
    return reading.result()


class _Reading:
    """One pass over a configuration: what it changes, what it says, what is wrong in it."""

    def __init__(self, recipe: Recipe, origins: dict[str, str], path: Path, strict: bool) -> None:
        self.recipe, self.origins, self.path, self.strict = recipe, origins, path, strict
        self.said = remarks(recipe)
        self.template = ""
        self.notes: list[str] = []
        self.faults: list[Fault] = []

    def read(self) -> None:
        """Take in the whole file."""
        config = self._load()
        for key, value in config.items():
            take = getattr(self, f"_take_{key}", None)
            if key in WITHOUT_EFFECT:
                self.notes.append(f"{self.path.name}: {key} has no effect: {WITHOUT_EFFECT[key]}.")
            elif key not in KEYS or take is None:
                self._wrong(key, "an unknown key", _listed(KEYS), did_you_mean(key, KEYS))
            else:
                take(value)
        for fault in [] if self.faults else cross_faults(self.recipe):
            self.faults.append(replace(fault, where=f"{self.path}:{fault.where}"))

    def result(self) -> Configured:
        """What came out of it; what it makes another input do is said too."""
        self.notes += [note for note in remarks(self.recipe) if note not in self.said]
        origin = str(self.path) if self.template else ""
        return Configured(self.recipe, self.origins, self.template, origin, tuple(self.notes))

    def _load(self) -> dict[str, Any]:
        try:
            value = json.loads(self.path.read_text(encoding="utf-8-sig"))
        except OSError as error:
            self._fault("", os_reason(error), "a file that can be read")
            return {}
        except (ValueError, RecursionError) as error:
            self._fault("", f"text that is not JSON ({error})", "a JSON object")
            return {}
        if not isinstance(value, dict):
            self._fault("", found(value), "a JSON object")
            return {}
        return self._of_task(value) if "task_specific_config" in value else _without_version(value)

    def _of_task(self, value: dict[str, Any]) -> dict[str, Any]:
        """Version 2 of the format: the settings of each task under task_specific_config."""
        tasks = value["task_specific_config"]
        own = [name for name in _TASKS if isinstance(tasks, dict) and name in tasks]
        if not own or not isinstance(tasks[own[0]], dict):
            what = f"the tasks {', '.join(map(str, tasks))}" if isinstance(tasks, dict) else ""
            self._wrong("task_specific_config", what or found(tasks), f"settings of {_TASKS[0]}")
            return {}
        shared = {k: v for k, v in value.items() if k != "task_specific_config"}
        return {**_without_version(shared), **tasks[own[0]]}

    def _fault(self, key: str, what: str, expected: str, remedy: str = "") -> None:
        where = f"{self.path}:{key}" if key else str(self.path)
        self.faults.append(Fault(where, what, expected, remedy))

    def _wrong(self, key: str, what: str, expected: str, remedy: str = "") -> None:
        """A fault in a file that was given; of a packaged one it is said and passed over."""
        if self.strict:
            self._fault(key, what, expected, remedy)
        else:
            self.notes.append(
                f"the model's own {self.path.name}: {key} has no effect (found {what}; "
                f"expected {expected})."
            )

    def _set(self, name: str, value: Any, key: str) -> None:
        """Fill an input that the recipe leaves at its default."""
        row, own = SETTINGS[name], getattr(self.recipe, name)
        parsed = coerce(row, value)
        if isinstance(parsed, Fault):
            self._wrong(key, parsed.found, parsed.expected, parsed.remedy)
        elif parsed == own:
            return
        elif own != row.default or self.origins.get(name, "default") != "default":
            origin = self.origins.get(name, "the recipe")
            wanted = f"{found(own)}, as {origin} says for {name}"
            self._wrong(key, found(parsed), wanted, "Remove one of the two.")
        else:
            self.recipe = replace(self.recipe, **{name: parsed})
            self.origins[name] = f"{self.path.name}:{key}"
            self.notes.append(f"{name} is {found(parsed)}, as {self.path.name} says ({key}).")

    def _take_lora_target_modules(self, value: Any) -> None:
        key = "lora_target_modules"
        names = value if isinstance(value, list) else [value]
        if not names or not all(isinstance(name, str) and name.strip() for name in names):
            self._wrong(key, found(value), "a list of module names")
        elif not self.recipe.apply_lora:
            self.notes.append(f"{self.path.name}: {key} has no effect: apply_lora is false.")
        elif self.recipe.lora_target_modules != SETTINGS[key].default:
            self.notes.append(f"{self.path.name}: {key} is not used: the recipe names its own.")
        else:
            self._set(key, ",".join(names), key)

    def _take_finetune_chat_template(self, value: Any) -> None:
        if not isinstance(value, str) or not value.strip():
            self._wrong("finetune_chat_template", found(value), "a chat template, as text")
            return
        self.template = value
        self.notes.append(
            f"the chat template is the one of {self.path.name}; it is saved with the tuned model, "
            "so that serving and training use the same one, and the base model is evaluated with "
            "it too."
        )

    def _take_lora_target_parameters(self, value: Any) -> None:
        if value not in (None, []):
            remedy = "Name the layers in lora_target_modules."
            self._wrong("lora_target_parameters", found(value), "none: layers carry it", remedy)

    def _take_hf_trainer_args(self, value: Any) -> None:
        if not isinstance(value, dict):
            self._wrong("hf_trainer_args", found(value), "an object of training arguments")
            return
        for key, argument in value.items():
            self._take_trainer_argument(key, argument)

    def _take_trainer_argument(self, key: str, value: Any) -> None:
        place, name = f"hf_trainer_args.{key}", TRAINER_NAMES.get(key, key)
        if name not in TRAINER_INPUTS:
            near = did_you_mean(key, (*TRAINER_INPUTS, *TRAINER_NAMES))
            remedy = _TRAINER_REMEDIES.get(key, near)
            self._wrong(place, "an argument without a counterpart here", "an input", remedy)
        elif key == "bf16" and value is not True:
            self._wrong(place, found(value), "true, or no such key", "Set precision: 32.")
        else:
            self._set(name, _translated(name, value), place)


def _translated(name: str, value: Any) -> Any:
    """A TrainingArguments value in the words of the input `name`."""
    words = {
        "precision": {True: "bf16"},
        "evaluation_strategy": {"no": "disable"},
        "metric_for_best_model": {"eval_loss": "loss"},
    }
    return words.get(name, {}).get(value, value) if isinstance(value, str | bool) else value


def _without_version(value: dict[str, Any]) -> dict[str, Any]:
    return {key: item for key, item in value.items() if key != "version"}


def _listed(names: Iterable[str]) -> str:
    return f"one of {', '.join(names)}"
