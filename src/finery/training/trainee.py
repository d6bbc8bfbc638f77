"""The model being trained: weights, optimizer and checkpoints behind a few plain calls."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from finery.chat.rows import TokenRows
from finery.errors import Fault, FineryError, InputError
from finery.files import new_folder
from finery.model.batch import Batch, make_batch
from finery.model.fast import speed_up
from finery.model.folder import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from finery.model.fp8_linear import check_device, quantize_base
from finery.model.load import isolates_documents, load_model
from finery.model.lora import attach_lora, lora_of
from finery.model.loss import LossModel, has_plain_head
from finery.training import distribution
from finery.training.checkpoint import (
    Progress,
    checkpoint_path,
    load_optimizer_tensors,
    newest_checkpoint,
    optimizer_state,
    read_progress,
    restore_optimizer,
    save_checkpoint,
)
from finery.training.job import TrainJob
from finery.training.schedule import make_optimizer
from finery.training.zero import restore_zero, zero_state

WEIGHTS = "weights.safetensors"


class Trainee:
    """A model on its device with its optimizer; `wrap` makes it part of a process group."""

    def __init__(
        self,
        job: TrainJob,
        accelerator: Accelerator,
        causal: PreTrainedModel,
        tuned: PeftModel | PreTrainedModel,
        resume: Path | None,
    ) -> None:
        self.job, self.accelerator = job, accelerator
        self.causal, self.tuned = causal, tuned
        self.progress = Progress()
        self.resume = resume
        # under ZeRO-3 a weight is whole only in the forward of its own layer
        stage3 = _zero_stage(accelerator) == 3
        if not stage3:
            speed_up(tuned)
        self.loss_model = LossModel(tuned, causal, has_plain_head(causal) and not stage3)
        self.model: nn.Module = self.loss_model
        self.padded = _padded(job, causal)
        self.checkpoints = job.run / "checkpoints"
        if resume:
            self.progress = read_progress(resume, job.fingerprint)
            self._load_weights(resume)
        self.parameters = [p for p in tuned.parameters() if p.requires_grad]

    @property
    def rank(self) -> int:
        """This process's number in the group."""
        return self.accelerator.process_index

    @property
    def is_main(self) -> bool:
        """Whether this process writes and reports."""
        return self.accelerator.is_main_process

    def batch(self, rows: TokenRows, indices: Sequence[int]) -> Batch:
        """Rows as this model takes them, on its device."""
        width = self.job.max_seq_length if self.job.recipe.pad_to_max_length else 0
        batch = make_batch(rows, indices, padded=self.padded, pad_id=self.job.pad_id, pad_to=width)
        return batch.to(self.accelerator.device)

    def wrap(self) -> None:
        """Make optimizer and process group, and put back the optimizer of a checkpoint."""
        self.names: dict[Tensor, str] = {p: n for n, p in self.trainable()}
        optimizer = make_optimizer(self.job.recipe, self.trainable())
        self.model, self.optimizer = self.accelerator.prepare(self.loss_model, optimizer)
        self.model.train()
        if self.resume:
            tensors = load_optimizer_tensors(self.resume, self.rank)
            if distribution.is_deepspeed(self.accelerator):
                restore_zero(self.optimizer.optimizer, tensors)
            else:
                restore_optimizer(self.optimizer.optimizer, self.names, tensors)

    def trainable(self) -> list[tuple[str, nn.Parameter]]:
        """Trained parameters with their names in the model."""
        return [(n, p) for n, p in self.tuned.named_parameters() if p.requires_grad]

    def set_learning_rate(self, rate: float) -> None:
        """The learning rate of the step to come."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def backward(self, loss: Tensor, last: bool) -> None:
        """Add a micro-batch's gradients."""
        distribution.backward(self.accelerator, loss, last)

    def micro_batch(self, last: bool) -> AbstractContextManager[None]:
        """What forward and backward of a micro-batch run in."""
        return distribution.micro_batch(self.accelerator, self.model, last)

    def finish_step(self) -> float:
        """Clip and step; returns the gradient norm before clipping."""
        limit = self.job.recipe.max_grad_norm
        return distribution.finish_step(self.accelerator, self.optimizer, self.parameters, limit)

    def save(self, progress: Progress) -> None:
        """Write a complete checkpoint; all processes together."""
        deepspeed = distribution.is_deepspeed(self.accelerator)
        weights = self._trained_weights()
        save_checkpoint(
            self.checkpoints,
            progress,
            self.job.fingerprint,
            rank=self.rank,
            barrier=self.accelerator.wait_for_everyone,
            write_weights=lambda folder: self._write_weights(folder, weights),
            optimizer_tensors=zero_state(self.optimizer.optimizer)
            if deepspeed
            else optimizer_state(self.optimizer.optimizer, self.names),
            every_rank=deepspeed,
        )

    def keep_best(self, step: int) -> None:
        """Copy the weights of the checkpoint after `step` to where the run's result lies."""
        source = checkpoint_path(self.checkpoints, step)
        is_adapter = (source / ADAPTER_WEIGHTS).is_file()
        target = self.job.run / ("adapter" if is_adapter else "weights")
        with new_folder(target, replace=True) as folder:
            for name in (ADAPTER_WEIGHTS, ADAPTER_CONFIG, WEIGHTS):
                if (source / name).is_file():
                    (folder / name).write_bytes((source / name).read_bytes())

    def _trained_weights(self) -> dict[str, Tensor]:
        """Trained parameters, whole, in float32, on the CPU (ZeRO-3 gathers them first)."""
        named = self.trainable()
        if _zero_stage(self.accelerator) == 3:
            import deepspeed

            with deepspeed.zero.GatheredParameters([p for _, p in named]):
                return {n: p.detach().float().cpu().clone() for n, p in named}
        return {n: p.detach().float().cpu().clone() for n, p in named}

    def _write_weights(self, folder: Path, weights: dict[str, Tensor]) -> None:
        if isinstance(self.tuned, PeftModel):
            # never with the embedding: to decide that, PEFT would ask the hub for the base model
            adapter = get_peft_model_state_dict(
                self.tuned, state_dict=weights, save_embedding_layers=False
            )
            save_file({k: v.contiguous() for k, v in adapter.items()}, folder / ADAPTER_WEIGHTS)
            self.tuned.peft_config["default"].save_pretrained(str(folder))
        else:
            save_file(weights, folder / WEIGHTS)

    def _load_weights(self, folder: Path) -> None:
        if isinstance(self.tuned, PeftModel):
            set_peft_model_state_dict(self.tuned, load_file(folder / ADAPTER_WEIGHTS))
            return
        saved = load_file(folder / WEIGHTS)
        for name, parameter in self.trainable():
            parameter.data.copy_(saved[name])


def prepare_trainee(job: TrainJob, accelerator: Accelerator) -> Trainee:
    """Load the base model, make it trainable as the recipe says, find its checkpoint."""
    recipe = job.recipe
    if recipe.enable_full_determinism:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    precision = recipe.precision if recipe.apply_lora else "32"  # trained weights are float32
    if recipe.quantization == "fp8":
        check_device(str(accelerator.device))
    causal = load_model(
        job.model_folder,
        precision=precision,
        device=str(accelerator.device),
        trust_remote_code=recipe.trust_remote_code,
        quantization=recipe.quantization,
        ignore_mismatched_sizes=recipe.ignore_mismatched_sizes,
    )
    if recipe.gradient_checkpointing:
        causal.gradient_checkpointing_enable({"use_reentrant": False})
    torch.manual_seed(recipe.seed)
    tuned = attach_lora(causal, lora_of(recipe)) if recipe.apply_lora else causal
    if recipe.quantization == "fp8":
        quantize_base(tuned)
    if isinstance(tuned, PeftModel):  # an adapter names its base as a person would
        tuned.peft_config["default"].base_model_name_or_path = job.model_source
    return Trainee(job, accelerator, causal, tuned, newest_checkpoint(job.run / "checkpoints"))


def _padded(job: TrainJob, causal: PreTrainedModel) -> bool:
    """Whether batches are padded; raises when the recipe wants documents and they cannot be."""
    recipe = job.recipe
    able = isolates_documents(causal)
    if (recipe.packing or recipe.layout == "documents") and not able:
        found = f"a {causal.config.model_type} model, which takes no attention of ours"
        raise InputError(
            [Fault("layout", found, "a family that does", "Set layout: padded, packing: false.")]
        )
    return recipe.layout == "padded" or recipe.pad_to_max_length or not able


def _zero_stage(accelerator: Accelerator) -> int:
    plugin: Any = accelerator.state.deepspeed_plugin
    return int(plugin.zero_stage) if plugin is not None else 0


def trained_weights_folder(run: Path) -> Path:
    """Where a finished run keeps what it trained; raises FineryError when it did not finish."""
    for name in ("adapter", "weights"):
        if (run / name).is_dir():
            return run / name
    raise FineryError(f"{run} holds no finished training. Run finery finetune again to finish it.")
