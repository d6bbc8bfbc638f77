"""Step for step the losses of TRL's SFTTrainer, the trainer most people would use instead.

Both get the same token rows in the same order, the same start weights, float32, no dropout;
what is left is rounding. Each |difference| is at most 1e-3 and their mean at most 1e-5, far
below what a wrong mask, divisor, schedule or optimizer setting would cause.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import Run, tiny_rows
from transformers import AutoModelForCausalLM

from finery.chat.rows import load_rows
from finery.model.lora import TARGETS
from finery.training import loop
from finery.training.job import TrainJob
from finery.training.loop import step_plan

pytest.importorskip("trl", reason="trl (in finery[dev]) is the other side of this comparison")

from datasets import Dataset
from peft import LoraConfig, TaskType, get_peft_model
from transformers import PreTrainedTokenizerFast
from trl import SFTConfig, SFTTrainer

MakeJob = Callable[..., TrainJob]
RunJob = Callable[[TrainJob], Run]


@pytest.fixture(autouse=True)
def quiet_trl() -> Iterator[None]:
    """TRL warns that packing wants flash attention; on a CPU the mask comes from positions."""
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


def rows_in_step_order(job: TrainJob) -> Dataset:
    """What each micro-batch of ours reads, as TRL's rows: ids, labels, packed lengths."""
    rows, plan = load_rows(job.train_rows), step_plan(job)
    size = job.recipe.per_device_train_batch_size
    table: dict[str, list[Any]] = {"input_ids": [], "labels": [], "seq_lengths": []}
    for step in range(plan.total_steps):
        for micro_batch in plan.micro_batches(step):
            groups = [micro_batch] if job.recipe.packing else [(row,) for row in micro_batch]
            assert len(groups) == size, "TRL drops no row only when every batch is full"
            for group in groups:
                ids = [rows.row_ids(i).tolist() for i in group]
                marks = [rows.row_trained(i).tolist() for i in group]
                table["input_ids"].append([token for row in ids for token in row])
                table["seq_lengths"].append([len(row) for row in ids])
                table["labels"].append(
                    [
                        token if mark else -100
                        for row, flags in zip(ids, marks, strict=True)
                        for token, mark in zip(row, flags, strict=True)
                    ]
                )
    return Dataset.from_dict(table)


def start_model(job: TrainJob) -> Any:
    """The base model as transformers loads it, with PEFT's own adapter from the same seed."""
    model = AutoModelForCausalLM.from_pretrained(job.model_folder, dtype=torch.float32)
    if not job.recipe.apply_lora:
        return model
    torch.manual_seed(job.recipe.seed)
    config = LoraConfig(
        task_type=TaskType.CAUSAL_LM,
        r=job.recipe.lora_r,
        lora_alpha=job.recipe.lora_alpha,
        lora_dropout=0.0,
        target_modules=list(TARGETS[model.config.model_type]),
    )
    return get_peft_model(model, config)


def trl_losses(job: TrainJob, folder: Path) -> list[float]:
    """The loss of each step of SFTTrainer, as it logs it."""
    recipe = job.recipe
    arguments = SFTConfig(
        output_dir=str(folder),
        max_steps=recipe.max_steps,
        per_device_train_batch_size=recipe.per_device_train_batch_size,
        gradient_accumulation_steps=recipe.gradient_accumulation_steps,
        learning_rate=recipe.learning_rate,
        lr_scheduler_type=recipe.lr_scheduler_type,
        warmup_steps=recipe.warmup_steps,
        weight_decay=recipe.weight_decay,
        adam_beta1=recipe.adam_beta1,
        adam_beta2=recipe.adam_beta2,
        adam_epsilon=recipe.adam_epsilon,
        max_grad_norm=recipe.max_grad_norm,
        optim="adamw_torch",
        bf16=False,
        fp16=False,
        use_cpu=True,
        gradient_checkpointing=False,
        seed=recipe.seed,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        max_length=None,
        padding_free=recipe.packing,
        dataset_kwargs={"skip_prepare_dataset": True},
        train_sampling_strategy="sequential",
    )
    trainer = SFTTrainer(
        model=start_model(job),
        args=arguments,
        train_dataset=rows_in_step_order(job),
        processing_class=PreTrainedTokenizerFast.from_pretrained(job.model_folder),
    )
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


SHAPES = [
    pytest.param(False, 2, 2, id="unpacked-2x2"),
    pytest.param(True, 1, 2, id="packed-1x2"),
]
KINDS = [pytest.param(True, 1e-2, id="lora"), pytest.param(False, 1e-3, id="full")]


def differences(
    model: Path,
    steps: int,
    settings: dict[str, Any],
    make_job: MakeJob,
    run_job: RunJob,
    folder: Path,
) -> list[float]:
    """Our loss minus TRL's, step by step."""
    count = steps * 4 * (6 if settings["packing"] else 1)
    job = make_job(
        model,
        rows=tiny_rows(model, count),
        max_steps=steps,
        lr_scheduler_type="cosine",
        warmup_steps=2,
        weight_decay=0.1,
        adam_beta2=0.99,
        adam_epsilon=1e-8,
        **settings,
    )
    ours, theirs = run_job(job).losses, trl_losses(job, folder)
    assert len(ours) == len(theirs) == steps
    assert ours[0] - ours[-1] > 0.1, "nothing was learned, so nothing was compared"
    return [a - b for a, b in zip(ours, theirs, strict=True)]


def compare(
    model: Path,
    steps: int,
    settings: dict[str, Any],
    make_job: MakeJob,
    run_job: RunJob,
    folder: Path,
) -> None:
    """No step differs by more than 1e-3, and on average they do not drift apart."""
    found = differences(model, steps, settings, make_job, run_job, folder)
    kind = "LoRA" if settings["apply_lora"] else "full"
    shape = "packed" if settings["packing"] else "unpacked"
    worst, drift = max(map(abs, found)), sum(found) / steps
    print(f"{model.name}, {kind}, {shape}, {steps} steps: max |d| {worst:.1e}, mean {drift:+.1e}")
    assert max(map(abs, found)) <= 1e-3, found
    assert abs(sum(found) / steps) <= 1e-5, found


@pytest.mark.parametrize("steps", [8, pytest.param(50, marks=pytest.mark.full)])
@pytest.mark.parametrize(("lora", "rate"), KINDS)
@pytest.mark.parametrize(("packing", "rows", "accumulation"), SHAPES)
@pytest.mark.parametrize("family", ["tiny_llama", "tiny_phi3", "stories"])
def test_every_step_has_the_loss_of_trl(
    family: str,
    packing: bool,
    rows: int,
    accumulation: int,
    lora: bool,
    rate: float,
    steps: int,
    request: pytest.FixtureRequest,
    make_job: MakeJob,
    run_job: RunJob,
    tmp_path: Path,
) -> None:
    settings = {
        "packing": packing,
        "per_device_train_batch_size": rows,
        "gradient_accumulation_steps": accumulation,
        "apply_lora": lora,
        "learning_rate": rate,
    }
    model = request.getfixturevalue(family)
    compare(model, steps, settings, make_job, run_job, tmp_path / "trl")


def test_a_loss_averaged_per_micro_batch_would_not_pass(
    make_job: MakeJob, run_job: RunJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The comparison can fail: this was transformers' own mistake (issue 34242)."""

    def averaged(loss_sum: torch.Tensor, batch: Any, loss_tokens: int) -> torch.Tensor:
        return loss_sum / len(batch.targets) / 2

    monkeypatch.setattr(loop, "share_of_step", averaged)
    settings = {"packing": False, "learning_rate": 1e-2, "self_tests": False}
    model = make_job().model_folder
    found = differences(model, 8, settings, make_job, run_job, tmp_path / "trl")
    assert max(map(abs, found)) > 1e-2
