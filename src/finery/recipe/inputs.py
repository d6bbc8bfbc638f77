"""The table of inputs: names, types, defaults, ranges and help of everything a recipe can say.

Validation, command-line options, recipe files, the JSON schema and the reference page are all
made from this one dataclass. Names, types, defaults and declared ranges of the component inputs
are those of `chat_completion_pipeline` 0.0.82 (Azure/azureml-assets, folder
assets/training/finetune_acft_hf_nlp/components/pipeline_components/chat_completion). Tighter
ranges here refuse early what the component refuses late or trains wrongly with.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from functools import partial
from typing import Any

from finery.recipe.settings import setting, settings_of

GROUPS = {
    "model": "The base model: one source; a path wins over a hub id",
    "data": "Conversations: JSONL, JSON, CSV, TSV or Parquet with a `messages` column",
    "tokens": "From conversations to token rows",
    "training": "How long, how much at once, and where",
    "optimizer": "Optimizer and learning-rate schedule",
    "LoRA": "Adapters instead of full fine-tuning",
    "evaluation": "Evaluation while training and after it",
    "checkpoints": "Logging, checkpoints and the best model",
    "DeepSpeed": "ZeRO sharding",
    "output": "What a run leaves behind",
    "workspace": "Resources of a workspace job",
}

_model = partial(setting, group="model")
_data = partial(setting, group="data")
_tokens = partial(setting, group="tokens")
_training = partial(setting, group="training")
_optimizer = partial(setting, group="optimizer")
_lora = partial(setting, group="LoRA")
_evaluation = partial(setting, group="evaluation")
_checkpoints = partial(setting, group="checkpoints")
_deepspeed = partial(setting, group="DeepSpeed")
_output = partial(setting, group="output")
_workspace = partial(setting, group="workspace")

_D12, _NC24 = "Standard_d12_v2", "Standard_nc24rs_v3"
_SCHEDULES = (
    "linear",
    "cosine",
    "cosine_with_restarts",
    "polynomial",
    "constant",
    "constant_with_warmup",
)
_ONE: dict[str, Any] = {"minimum": 1, "spec_minimum": 1}  # the component's spec declares min 1
_OURS: dict[str, Any] = {"component": False}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A whole fine-tuning job; a path is "" when it is not given."""

    model: str = _model(
        "",
        "model folder, .gguf file, package:NAME, catalogue name or hub id (org/name)",
        **_OURS,
    )
    mlflow_model_path: str = _model(
        "", "MLflow model folder (holds an MLmodel file)", kind="mlflow_model"
    )
    pytorch_model_path: str = _model(
        "", "Hugging Face model folder (holds no MLmodel file)", kind="custom_model"
    )
    huggingface_id: str = _model("", "hub id; the model paths win over it")
    finetune_config_path: str = _model(
        "", "JSON of fine-tune settings; wins over the one in the model folder", kind="uri_file"
    )
    trust_remote_code: bool = _model(False, "run Python code that comes with the model")
    ignore_mismatched_sizes: bool = _model(
        False, "load weights whose shape differs from the configuration's as new ones"
    )
    task_name: str = _model("ChatCompletion", "the task", choices=("ChatCompletion",))

    train_file_path: str = _data("", "training file", kind="uri_file", short="train")
    validation_file_path: str = _data("", "validation file", kind="uri_file", short="validation")
    test_file_path: str = _data("", "held-out test file", kind="uri_file", short="test")
    train_mltable_path: str = _data("", "training MLTable; wins over the file", kind="mltable")
    validation_mltable_path: str = _data(
        "", "validation MLTable; wins over the file", kind="mltable"
    )
    test_mltable_path: str = _data("", "test MLTable; wins over the file", kind="mltable")
    validation_split_percent: float = _data(
        0.0,
        "share of the training rows taken for validation when none is given; "
        "0 = the component's rule: 80/20 with a test set, else 80/10/10",
        minimum=0,
        below=100,
        **_OURS,
    )

    batch_size: int = _tokens(1000, "rows per tokenisation call (not the training batch)", **_ONE)
    max_seq_length: int = _tokens(
        -1, "longest row in tokens; -1 = the model's maximum", minimum=8, also=-1
    )
    pad_to_max_length: bool = _tokens(False, "pad every row to the longest, not per batch")
    long_rows: str = _tokens(
        "auto",
        "what happens to a row longer than max_seq_length",
        choices=("auto", "truncate", "drop", "keep_last_turns", "refuse"),
        **_OURS,
    )
    layout: str = _tokens(
        "auto",
        "rows of a batch as isolated documents in one sequence, or padded side by side",
        choices=("auto", "documents", "padded"),
        **_OURS,
    )
    packing: bool = _tokens(
        False, "bin-pack rows into sequences of max_seq_length, without cross-talk", **_OURS
    )

    num_train_epochs: int = _training(1, "passes over the training rows", **_ONE)
    max_steps: int = _training(
        -1, "optimizer steps; wins over num_train_epochs, -1 = train by epochs", minimum=1, also=-1
    )
    per_device_train_batch_size: int = _training(1, "rows per device and micro-batch", **_ONE)
    per_device_eval_batch_size: int = _training(
        1, "rows per device when evaluating; fewer than 8 count as 8", **_ONE
    )
    auto_find_batch_size: bool = _training(
        False, "accepted; a run that runs out of memory halves its micro-batch in any case"
    )
    auto: bool = _training(
        False,
        "where the plan does not fit into memory, take the micro-batch, checkpointing and "
        "precision that do; the global batch stays",
        **_OURS,
    )
    gradient_accumulation_steps: int = _training(1, "micro-batches per optimizer step", minimum=1)
    precision: str = _training(
        "32",
        "32 = float32, 16 = bf16 where the device has it and else fp16, bf16 = bf16",
        choices=("32", "16", "bf16"),
        spec_choices=("32", "16"),
    )
    gradient_checkpointing: bool = _training(
        False, "recompute activations to save memory, at the cost of time", **_OURS
    )
    seed: int = _training(42, "seed of every random choice", minimum=0, maximum=2**32 - 1)
    enable_full_determinism: bool = _training(False, "deterministic kernels, slower")
    dataloader_num_workers: int = _training(0, "loader processes per device", minimum=0)
    device: str = _training("auto", "where to train", choices=("auto", "cpu", "cuda"), **_OURS)
    num_processes: int = _training(0, "training processes; 0 = one per device", minimum=0, **_OURS)
    apply_ort: bool = _training(False, "ONNX Runtime training; accepted, has no effect")
    self_tests: bool = _training(
        True, "prove masking, packing, accumulation and merge before the first step", **_OURS
    )

    optim: str = _optimizer("adamw_torch", "optimizer", choices=("adamw_torch", "adafactor"))
    learning_rate: float = _optimizer(2e-5, "peak learning rate", above=0)
    lr_scheduler_type: str = _optimizer("linear", "learning-rate schedule", choices=_SCHEDULES)
    warmup_steps: int = _optimizer(0, "steps of linear warm-up", minimum=0)
    weight_decay: float = _optimizer(0.0, "decay; not on biases and norms", minimum=0)
    adam_beta1: float = _optimizer(0.9, "AdamW beta1", minimum=0, below=1)
    adam_beta2: float = _optimizer(0.999, "AdamW beta2", minimum=0, below=1)
    adam_epsilon: float = _optimizer(1e-8, "AdamW epsilon", above=0)
    max_grad_norm: float = _optimizer(1.0, "gradient norm to clip at; 0 = no clipping", minimum=0)

    apply_lora: bool = _lora(False, "train a LoRA adapter, the base weights frozen")
    merge_lora_weights: bool = _lora(True, "merge the adapter into the saved model")
    lora_r: int = _lora(8, "rank", minimum=1)
    lora_alpha: int = _lora(128, "scaling", minimum=1)
    lora_dropout: float = _lora(0.0, "dropout before the adapter", minimum=0, below=1)
    lora_target_modules: str = _lora(
        "auto", "module names, separated by commas; auto = by model family", **_OURS
    )
    use_rslora: bool = _lora(False, "scale by alpha / sqrt(r), not alpha / r", **_OURS)
    use_dora: bool = _lora(False, "learn magnitude apart from direction (DoRA)", **_OURS)
    quantization: str = _lora(
        "none",
        "base weights while training: nf4 = 4 bits (QLoRA), fp8 = 8-bit products",
        choices=("none", "nf4", "fp8"),
        **_OURS,
    )

    evaluation_strategy: str = _evaluation(
        "epoch", "when to evaluate and save", choices=("epoch", "steps", "disable")
    )
    eval_steps: int = _evaluation(500, "steps between evaluations, with strategy steps")
    evaluation_steps_interval: float = _evaluation(
        0.0,
        "fraction of an epoch between evaluations, with strategy steps; above 0 wins over "
        "eval_steps",
        minimum=0,
        maximum=1,
    )
    eval_accumulation_steps: int = _evaluation(
        -1, "evaluation steps before predictions leave the device; 0 or less = never"
    )
    evaluate: bool = _evaluation(True, "compare base and tuned model after training", **_OURS)
    eval_generations: int = _evaluation(
        32, "held-out rows answered for BLEU, ROUGE and checks", minimum=0, **_OURS
    )
    max_new_tokens: int = _evaluation(128, "longest answer in evaluation", minimum=1, **_OURS)
    evaluation_config: str = _evaluation("", "JSON file for the metrics", kind="uri_file")
    evaluation_config_params: str = _evaluation("", "the same as JSON text")

    logging_strategy: str = _checkpoints("steps", "when to log", choices=("epoch", "steps"))
    logging_steps: int = _checkpoints(10, "steps between logs, with strategy steps")
    metric_for_best_model: str = _checkpoints(
        "loss", "metric that picks the best checkpoint", choices=("loss", "f1", "exact")
    )
    save_steps: int = _checkpoints(
        0, "steps between checkpoints; 0 = one at every evaluation", minimum=0, **_OURS
    )
    save_total_limit: int = _checkpoints(-1, "checkpoints kept; -1 = all", minimum=1, also=-1)
    resume_from_checkpoint: bool = _checkpoints(False, "go on from the newest checkpoint")
    apply_early_stopping: bool = _checkpoints(False, "stop when the metric stops improving")
    early_stopping_patience: int = _checkpoints(
        1, "evaluations without improvement before a stop", minimum=1
    )
    early_stopping_threshold: float = _checkpoints(
        0.0, "least change that counts as improvement", minimum=0
    )

    apply_deepspeed: bool = _deepspeed(False, "train with DeepSpeed")
    deepspeed: str = _deepspeed("", "DeepSpeed JSON; wins over deepspeed_stage", kind="uri_file")
    deepspeed_stage: str = _deepspeed("2", "ZeRO stage of the built-in JSON", choices=("2", "3"))

    output_dir: str = _output(
        "finery-run", "folder of the run", kind="folder", short="output", **_OURS
    )
    overwrite_output: bool = _output(False, "replace what output_dir holds", **_OURS)
    package_mlflow: bool = _output(True, "also write an MLflow model folder", **_OURS)

    num_nodes_finetune: int = _workspace(1, "nodes of the training step", **_ONE)
    number_of_gpu_to_use_finetuning: int = _workspace(1, "GPUs per node", **_ONE)
    shm_size_finetune: str = _workspace("5g", "shared memory of the training container")
    compute_model_import: str = _workspace("serverless", "compute of the import step")
    compute_preprocess: str = _workspace("serverless", "compute of the preprocess step")
    compute_finetune: str = _workspace("serverless", "compute of the training step")
    compute_model_evaluation: str = _workspace("serverless", "compute of the evaluation step")
    instance_type_model_import: str = _workspace(_D12, "VM size of a serverless import step")
    instance_type_preprocess: str = _workspace(_D12, "VM size of a serverless preprocess step")
    instance_type_finetune: str = _workspace(_NC24, "VM size of a serverless training step")
    instance_type_model_evaluation: str = _workspace(
        _NC24, "VM size of a serverless evaluation step"
    )

    @property
    def model_source(self) -> str:
        """The model to start from, in the component's order of precedence."""
        return next(iter(model_sources(self).values()), "")

    def data_path(self, split: str) -> str:
        """The data of "train", "validation" or "test"; its MLTable wins, "" when not given."""
        return getattr(self, f"{split}_mltable_path") or getattr(self, f"{split}_file_path")


SETTINGS = settings_of(Recipe)
SPLITS = ("train", "validation", "test")
MODEL_SOURCES = ("pytorch_model_path", "mlflow_model_path", "huggingface_id", "model")  # best first

# Words people bring from other tools; only used to say what the input is called here.
_FAMILIAR = {
    "lr": "learning_rate",
    "epochs": "num_train_epochs",
    "rank": "lora_r",
    "lora_rank": "lora_r",
    "max_length": "max_seq_length",
    "bf16": "precision",
    "fp16": "precision",
    "load_in_4bit": "quantization",
    "base_model": "model",
    "target_modules": "lora_target_modules",
} | {row.short: name for name, row in SETTINGS.items() if row.short}


def model_sources(recipe: Recipe) -> dict[str, str]:
    """The model sources given, by input name, the one that wins first."""
    return {name: getattr(recipe, name) for name in MODEL_SOURCES if getattr(recipe, name)}


def nearest_input(name: str) -> str:
    """The input whose name comes nearest to `name`, "" when none is near."""
    plain = name.strip("- ").replace("-", "_").lower()
    if plain in _FAMILIAR:
        return _FAMILIAR[plain]
    return next(iter(difflib.get_close_matches(plain, SETTINGS, n=1)), "")
