"""What no input can say alone: combinations that are refused, and those worth a remark.

Each rule and remark is one row. A rule names the inputs it reads, so that it stays silent while
one of them is itself at fault. The DeepSpeed, early-stopping and evaluation rules are those of
the component; the others refuse what would train something else than the recipe says.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container
from dataclasses import dataclass

from finery.errors import Fault
from finery.recipe.inputs import MODEL_SOURCES, SETTINGS, SPLITS, Recipe, model_sources
from finery.recipe.parse import found

_HUB_ID = r"[\w-][\w.-]*(/[\w-][\w.-]*)?"
_MODULES = r"\s*[\w.*-]+\s*(,\s*[\w.*-]+\s*)*"
_COMPUTES = tuple(name for name in SETTINGS if name.startswith(("compute_", "instance_type_")))
_SHM_SIZE = r"[0-9]+[bkmgBKMG]?"


@dataclass(frozen=True)
class Rule:
    """One combination that is refused; the fault is placed at the first input it reads."""

    inputs: tuple[str, ...]
    broken: Callable[[Recipe], bool]
    expected: str
    remedy: str = ""

    def fault(self, recipe: Recipe) -> Fault:
        """The fault, with the values of the inputs as they were found."""
        values = ", ".join(f"{name} {found(getattr(recipe, name))}" for name in self.inputs)
        return Fault(self.inputs[0], values, self.expected, self.remedy)


def _needs_lora(name: str) -> Rule:
    default = SETTINGS[name].default
    return Rule(
        (name, "apply_lora"),
        lambda r: getattr(r, name) != default and not r.apply_lora,
        "apply_lora true, since it is a property of the adapter",
        "Set apply_lora: true.",
    )


def _needs_steps(strategy: str, steps: str) -> Rule:
    return Rule(
        (steps, strategy),
        lambda r: getattr(r, strategy) == "steps" and getattr(r, steps) < 1,
        "at least 1 step",
    )


RULES = (
    Rule(
        ("train_file_path", "train_mltable_path"),
        lambda r: not r.data_path("train"),
        "training data",
        "Give train_file_path or train_mltable_path.",
    ),
    Rule(
        ("huggingface_id",),
        lambda r: bool(r.huggingface_id) and not re.fullmatch(_HUB_ID, r.huggingface_id),
        "a hub id such as org/name",
        "A folder or a file goes into `model`.",
    ),
    Rule(
        ("evaluation_config_params", "evaluation_config"),
        lambda r: bool(r.evaluation_config_params and r.evaluation_config),
        "only one of the two",
        "Remove one.",
    ),
    Rule(("output_dir",), lambda r: not r.output_dir, "a folder for the run"),
    Rule(
        ("shm_size_finetune",),
        lambda r: not re.fullmatch(_SHM_SIZE, r.shm_size_finetune),
        "a size such as 5g or 512m",
    ),
    Rule(
        ("packing", "layout"),
        lambda r: r.packing and r.layout == "padded",
        "layout documents or auto with packing",
        "Packed rows share a sequence and cannot be padded.",
    ),
    Rule(
        ("packing", "pad_to_max_length"),
        lambda r: r.packing and r.pad_to_max_length,
        "one of the two",
        "Packing leaves no padding; remove pad_to_max_length.",
    ),
    Rule(
        ("packing", "max_seq_length"),
        lambda r: r.packing and r.max_seq_length == -1,
        "a max_seq_length, the length of the packed sequences",
        "Set max_seq_length, for example 2048.",
    ),
    Rule(
        ("pad_to_max_length", "layout"),
        lambda r: r.pad_to_max_length and r.layout == "documents",
        "layout padded or auto",
        "The documents layout has no padding.",
    ),
    Rule(
        ("lora_target_modules",),
        lambda r: not re.fullmatch(_MODULES, r.lora_target_modules),
        "auto, or module names separated by commas",
        "For example q_proj,v_proj.",
    ),
    _needs_lora("use_dora"),
    _needs_lora("use_rslora"),
    _needs_lora("quantization"),
    _needs_lora("lora_target_modules"),
    Rule(
        ("quantization", "apply_deepspeed"),
        lambda r: r.quantization != "none" and r.apply_deepspeed,
        "one of the two",
        "DeepSpeed cannot shard quantized weights.",
    ),
    Rule(
        ("quantization", "precision"),
        lambda r: r.quantization == "fp8" and r.precision == "32",
        "precision 16 or bf16 with fp8",
        "8-bit products are written in 16 bits.",
    ),
    Rule(
        ("quantization", "use_dora"),
        lambda r: r.quantization == "fp8" and r.use_dora,
        "one of the two",
        "DoRA takes the norms of weights that fp8 no longer has.",
    ),
    Rule(
        ("auto_find_batch_size", "apply_deepspeed"),
        lambda r: r.auto_find_batch_size and r.apply_deepspeed,
        "one of the two",
        "DeepSpeed fixes the batch size when it starts; set per_device_train_batch_size.",
    ),
    Rule(
        ("deepspeed", "apply_deepspeed"),
        lambda r: bool(r.deepspeed) and not r.apply_deepspeed,
        "apply_deepspeed true with a DeepSpeed file",
        "Set apply_deepspeed: true or remove the file.",
    ),
    _needs_steps("evaluation_strategy", "eval_steps"),
    _needs_steps("logging_strategy", "logging_steps"),
    Rule(
        ("apply_early_stopping", "evaluation_strategy"),
        lambda r: r.apply_early_stopping and r.evaluation_strategy == "disable",
        "an evaluation_strategy of epoch or steps",
        "Early stopping watches evaluations.",
    ),
    Rule(
        ("metric_for_best_model",),
        lambda r: r.metric_for_best_model != "loss",
        "'loss', the metric that is computed for chat",
        "Set metric_for_best_model: loss.",
    ),
    Rule(
        ("resume_from_checkpoint", "overwrite_output"),
        lambda r: r.resume_from_checkpoint and r.overwrite_output,
        "one of the two",
        "Replacing the run folder removes the checkpoint to go on from.",
    ),
)


@dataclass(frozen=True)
class Remark:
    """One thing that is accepted and that a person should know; it never stops a run."""

    holds: Callable[[Recipe], bool]
    sentence: str


def _changed(recipe: Recipe, *names: str) -> bool:
    return any(getattr(recipe, name) != SETTINGS[name].default for name in names)


REMARKS = (
    *(
        Remark(
            lambda r, s=split: bool(
                getattr(r, f"{s}_mltable_path") and getattr(r, f"{s}_file_path")
            ),
            f"{split}_mltable_path wins; {split}_file_path is not read.",
        )
        for split in SPLITS
    ),
    *(
        Remark(
            lambda r, s=split: r.data_path(s) != "" and r.data_path(s) == r.data_path("train"),
            f"The {split} data is the training data: its scores say nothing about unseen rows.",
        )
        for split in ("validation", "test")
    ),
    Remark(
        lambda r: r.auto_find_batch_size,
        "auto_find_batch_size changes nothing: a run that runs out of memory halves its "
        "micro-batch in any case, and goes on.",
    ),
    Remark(lambda r: r.apply_ort, "apply_ort has no effect: training does not use ONNX Runtime."),
    Remark(
        lambda r: r.trust_remote_code,
        "trust_remote_code is on: Python code that comes with the model will run as you.",
    ),
    Remark(
        lambda r: bool(r.data_path("validation")) and r.validation_split_percent > 0,
        "validation_split_percent has no effect: validation data is given.",
    ),
    Remark(
        lambda r: _changed(r, "batch_size"),
        "batch_size is rows per tokenisation call; the training batch is "
        "per_device_train_batch_size.",
    ),
    Remark(
        lambda r: r.max_steps > 0 and _changed(r, "num_train_epochs"),
        "max_steps wins; num_train_epochs is not used.",
    ),
    Remark(
        lambda r: 0 < r.max_steps <= r.warmup_steps,
        "warmup_steps covers every step of max_steps: the peak learning rate is never passed.",
    ),
    Remark(
        lambda r: r.lr_scheduler_type == "constant" and r.warmup_steps > 0,
        "warmup_steps has no effect with the constant schedule; constant_with_warmup uses it.",
    ),
    Remark(
        lambda r: (
            r.optim == "adafactor" and _changed(r, "adam_beta1", "adam_beta2", "adam_epsilon")
        ),
        "adam_beta1, adam_beta2 and adam_epsilon have no effect with adafactor.",
    ),
    Remark(
        lambda r: not r.apply_lora and _changed(r, "lora_r", "lora_alpha", "lora_dropout"),
        "lora_r, lora_alpha and lora_dropout have no effect: apply_lora is false.",
    ),
    Remark(
        lambda r: r.evaluation_strategy == "steps" and r.evaluation_steps_interval > 0,
        "evaluation_steps_interval wins; eval_steps is not used.",
    ),
    Remark(
        lambda r: (
            r.evaluation_strategy != "steps"
            and _changed(r, "eval_steps", "evaluation_steps_interval")
        ),
        "eval_steps and evaluation_steps_interval have no effect: evaluation_strategy is not "
        "steps.",
    ),
    Remark(
        lambda r: r.logging_strategy != "steps" and _changed(r, "logging_steps"),
        "logging_steps has no effect: logging_strategy is not steps.",
    ),
    Remark(
        lambda r: (
            not r.apply_early_stopping
            and _changed(r, "early_stopping_patience", "early_stopping_threshold")
        ),
        "early_stopping_patience and early_stopping_threshold have no effect: "
        "apply_early_stopping is false.",
    ),
    Remark(
        lambda r: _changed(r, *_COMPUTES),
        "compute and instance_type inputs are for workspace jobs; a run started here uses this "
        "machine.",
    ),
    Remark(
        lambda r: _changed(r, "shm_size_finetune"),
        "shm_size_finetune has no effect: a run started here is in no container.",
    ),
    Remark(
        lambda r: _changed(r, "dataloader_num_workers"),
        "dataloader_num_workers has no effect: rows are tokenised before training and read from "
        "memory-mapped files.",
    ),
    Remark(
        lambda r: r.eval_accumulation_steps > 0,
        "eval_accumulation_steps has no effect: evaluation adds up losses and keeps no "
        "predictions.",
    ),
    Remark(
        lambda r: bool(r.evaluation_config or r.evaluation_config_params),
        "evaluation_config and evaluation_config_params have no effect: the figures are always "
        "loss, BLEU, ROUGE and the checks of each row (eval_generations and max_new_tokens set "
        "how many answers, and how long).",
    ),
    Remark(
        lambda r: r.resume_from_checkpoint,
        "resume_from_checkpoint changes nothing: a run always goes on from the newest checkpoint "
        "in its output_dir.",
    ),
    Remark(
        lambda r: not r.evaluate and _changed(r, "eval_generations", "max_new_tokens"),
        "eval_generations and max_new_tokens have no effect: evaluate is false.",
    ),
    Remark(
        lambda r: r.apply_lora and not r.merge_lora_weights and r.package_mlflow,
        "No MLflow model folder is written: it needs the merged model, and merge_lora_weights is "
        "false.",
    ),
    Remark(
        lambda r: not r.apply_lora and _changed(r, "merge_lora_weights"),
        "merge_lora_weights has no effect: apply_lora is false.",
    ),
    Remark(
        lambda r: not r.apply_deepspeed and _changed(r, "deepspeed_stage"),
        "deepspeed_stage has no effect: apply_deepspeed is false.",
    ),
    Remark(
        lambda r: bool(r.deepspeed),
        "Optimizer and schedule are the recipe's: sections optimizer and scheduler of the "
        "DeepSpeed file are not used.",
    ),
    Remark(
        lambda r: bool(r.deepspeed) and _changed(r, "deepspeed_stage"),
        "The DeepSpeed file wins; deepspeed_stage is not used.",
    ),
)


def cross_faults(recipe: Recipe, faulty: Container[str] = ()) -> list[Fault]:
    """Every combination that is refused, but for rules that read an input in `faulty`.

    A fault's `where` is the name of the input it belongs to. The disk is not looked at.
    """
    faults = [
        rule.fault(recipe)
        for rule in RULES
        if not any(name in faulty for name in rule.inputs) and rule.broken(recipe)
    ]
    return _model_faults(recipe, faulty) + faults


def remarks(recipe: Recipe) -> tuple[str, ...]:
    """What is accepted but has no effect, is overruled, or deserves a second look."""
    return tuple(remark.sentence for remark in REMARKS if remark.holds(recipe))


def _model_faults(recipe: Recipe, faulty: Container[str]) -> list[Fault]:
    if any(name in faulty for name in MODEL_SOURCES):
        return []
    sources = model_sources(recipe)
    if not sources:
        return [Fault("model", "no model", "a model to start from", "Give `model`.")]
    (winner, source), *others = sources.items()
    return [
        Fault(
            name,
            f"{name} {found(other)} beside {winner} {found(source)}",
            "one model",
            f"Remove one; {winner} is the one that would win.",
        )
        for name, other in others
        if other != source
    ]
