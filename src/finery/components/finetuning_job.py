"""A job of type `finetuning` in the inputs of the chat-completion pipeline.

Such a job names a model, data and a few hyperparameters, as text. What it leaves open is as in
Azure ML's own fine-tuning jobs (component oss_chat_completion_pipeline), but for what is no
property of the result: the sharding over devices, and a length that not every model has.
"""

from __future__ import annotations

from collections.abc import Mapping

from finery.errors import Fault, InputError

TASKS = ("chatcompletion", "chat_completion", "chat-completion")
DEFAULTS: Mapping[str, str] = {
    "apply_lora": "true",
    "lora_r": "8",
    "lora_alpha": "128",
    "learning_rate": "0.0003",
    "lr_scheduler_type": "cosine",
    "weight_decay": "0.1",
    "adam_beta1": "0.9",
    "adam_beta2": "0.95",
    "adam_epsilon": "0.00001",
    "precision": "16",
    "save_total_limit": "1",
}


def pipeline_inputs(task: str, hyperparameters: Mapping[str, str]) -> dict[str, str]:
    """The literal inputs of the pipeline for a fine-tuning job.

    Raises InputError for a task that is not chat completion. The hyperparameters themselves are
    checked where all inputs of the pipeline are.
    """
    if task.lower() not in TASKS:
        raise InputError([Fault("task", repr(task), "chat_completion")], "fine-tuning job")
    given = {name: str(value) for name, value in hyperparameters.items() if value is not None}
    return {**DEFAULTS, **given}
