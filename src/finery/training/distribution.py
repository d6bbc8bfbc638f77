"""One process or many: the few calls in which plain, DDP and DeepSpeed training differ.

accelerate wraps the model; DeepSpeed is ZeRO stage 2 or 3 (Rajbhandari et al. 2020) with
the settings of the Azure component, or a JSON file of the user's.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from accelerate import Accelerator, DeepSpeedPlugin, PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType, GradScalerKwargs
from torch import Tensor, nn
from torch.optim import Optimizer
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from finery.errors import FineryError
from finery.files import read_json
from finery.model.load import mixed_precision
from finery.recipe.inputs import Recipe

_ACCELERATE = {"32": "no", "16": "fp16", "bf16": "bf16"}


def make_accelerator(recipe: Recipe, device: str, accumulation: int) -> Accelerator:
    """accelerate's view of this process; reads RANK and WORLD_SIZE where a launcher set them."""
    precision = mixed_precision(recipe.precision, device)
    plugin = None
    if recipe.apply_deepspeed:
        os.environ.setdefault("DS_SKIP_CUDA_CHECK", "1")
        find_ninja()
        if os.environ.get("WORLD_SIZE") == "1":
            _skip_shared_memory_kernel()
        config = deepspeed_config(recipe, device, accumulation)
        plugin = DeepSpeedPlugin(hf_ds_config=config)
    if not torch.distributed.is_initialized():
        # accelerate keeps its state for the life of a process; a notebook trains many times
        AcceleratorState._reset_state(reset_partial_state=True)
    # accelerate ignores DeepSpeed when its Accelerator is made with cpu=True, and finds no
    # process group on the CPU when it is not: so the (shared) process state is made first.
    PartialState(cpu=device == "cpu")
    accelerator = Accelerator(
        cpu=device == "cpu" and plugin is None,
        mixed_precision=_ACCELERATE[precision],
        deepspeed_plugin=plugin,
        # accelerate wants DeepSpeed's own number; without DeepSpeed it would scale the loss by it
        gradient_accumulation_steps=accumulation if plugin else 1,
        kwargs_handlers=[GradScalerKwargs()] if precision == "16" else None,
    )
    # Weights stay whole until `prepare` cuts them, since the self-tests run on one process;
    # otherwise transformers would load a ZeRO-3 model in parts.
    unset_hf_deepspeed_config()
    _check_accelerator(accelerator, recipe, device)
    return accelerator


def _skip_shared_memory_kernel() -> None:
    """DeepSpeed compiles, for a minute, what adds up tensors of several processes on a CPU."""
    # the package has an attribute `torch` of its own, which an import statement would give
    communication: Any = importlib.import_module("deepspeed.comm.torch")
    communication.build_shm_op = lambda: None


def _check_accelerator(accelerator: Accelerator, recipe: Recipe, device: str) -> None:
    """Refuse to train on another device, or without the DeepSpeed, than the recipe asks for."""
    if accelerator.device.type != device:
        raise FineryError(
            f"This process would train on {accelerator.device.type}, not on {device}. Start each "
            "run in a process of its own."
        )
    if recipe.apply_deepspeed != (accelerator.distributed_type == DistributedType.DEEPSPEED):
        raise FineryError(
            f"The recipe says apply_deepspeed = {recipe.apply_deepspeed}, but this process would "
            f"train with {accelerator.distributed_type.value}. Start each run in a process of "
            "its own."
        )


def find_ninja() -> None:
    """Put our own environment's ninja on PATH when none is there.

    DeepSpeed compiles some of its parts at their first use and looks for ninja on PATH; a person
    who runs `.venv/bin/finery` without activating the environment has it beside that only.
    """
    beside = Path(sys.executable).parent
    if shutil.which("ninja") is None and (beside / "ninja").exists():
        os.environ["PATH"] = os.pathsep.join([os.environ.get("PATH", os.defpath), str(beside)])


def deepspeed_config(recipe: Recipe, device: str, accumulation: int) -> dict[str, Any]:
    """The DeepSpeed configuration, `auto` filled in from the recipe, else DeepSpeed's default."""
    precision = mixed_precision(recipe.precision, device)
    config = read_json(Path(recipe.deepspeed)) if recipe.deepspeed else _stage(recipe, device)
    ours = {
        "gradient_clipping": recipe.max_grad_norm,
        "zero_allow_untested_optimizer": True,
        "bf16": {"enabled": precision == "bf16"},
        "fp16": {"enabled": precision == "16"},
        "steps_per_print": 10**9,
    }
    # optimizer and schedule are the recipe's (a remark says so); DeepSpeed takes none beside ours
    left_out = ("train_batch_size", "optimizer", "scheduler")
    config = {key: value for key, value in config.items() if key not in left_out}
    for key, value in ours.items():
        if isinstance(value, dict):
            given = config.get(key, {})
            enabled = given.get("enabled", "auto")
            config[key] = {**given, "enabled": value["enabled"] if enabled == "auto" else enabled}
        elif config.get(key, "auto") == "auto":
            config[key] = value
    # A GPU count other than the one asked for keeps the global batch: these two are ours.
    config["gradient_accumulation_steps"] = accumulation
    config["train_micro_batch_size_per_gpu"] = recipe.per_device_train_batch_size
    return _without_auto(config)


def _without_auto(section: dict[str, Any]) -> dict[str, Any]:
    """Without what is still "auto", so that DeepSpeed takes its own default for it."""
    return {
        key: _without_auto(value) if isinstance(value, dict) else value
        for key, value in section.items()
        if value != "auto"
    }


def _stage(recipe: Recipe, device: str) -> dict[str, Any]:
    stage = int(recipe.deepspeed_stage)
    offload = {"device": "cpu", "pin_memory": True} if device == "cuda" else None
    zero: dict[str, Any] = {
        "stage": stage,
        "overlap_comm": device == "cuda",
        "contiguous_gradients": stage == 3,
        "reduce_bucket_size": 200_000_000,
    }
    if stage == 2:
        zero |= {"allgather_bucket_size": 200_000_000, "reduce_scatter": device == "cuda"}
    else:
        zero |= {
            "sub_group_size": 1_000_000_000,
            "stage3_gather_16bit_weights_on_model_save": True,
        }
    if offload:
        zero["offload_optimizer"] = offload
        zero |= {"offload_param": offload} if stage == 3 else {}
    return {"zero_optimization": zero}


def is_deepspeed(accelerator: Accelerator) -> bool:
    """Whether DeepSpeed owns the optimizer step."""
    return _engine(accelerator) is not None


def _engine(accelerator: Accelerator) -> Any:
    return getattr(accelerator, "deepspeed_engine_wrapped", None)


@contextlib.contextmanager
def micro_batch(accelerator: Accelerator, model: nn.Module, last: bool) -> Iterator[None]:
    """Around forward and backward: processes exchange gradients only in a step's last one."""
    if last or is_deepspeed(accelerator):
        yield
    else:
        with accelerator.no_sync(model):
            yield


def backward(accelerator: Accelerator, loss: Tensor, last: bool) -> None:
    """Backward pass; under DeepSpeed the last one of a step also takes the step."""
    engine = _engine(accelerator)
    if engine is not None:
        engine.backward(loss, sync_gradients=last, scale_wrt_gas=False)
    else:
        accelerator.backward(loss)


def finish_step(
    accelerator: Accelerator,
    optimizer: Optimizer,
    parameters: list[nn.Parameter],
    max_grad_norm: float,
) -> float:
    """Clip, take the step, clear the gradients; returns the gradient norm before clipping."""
    engine = _engine(accelerator)
    if engine is not None:
        norm = engine.engine.get_global_grad_norm()
        return float(norm) if norm is not None else float("nan")
    limit = max_grad_norm if max_grad_norm > 0 else float("inf")
    norm = accelerator.clip_grad_norm_(parameters, limit)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return float(norm) if norm is not None else float("nan")


def total(accelerator: Accelerator, value: Tensor) -> Tensor:
    """Sum of `value` over all processes."""
    return accelerator.reduce(value, reduction="sum")  # pyright: ignore[reportReturnType]


def close(accelerator: Accelerator) -> None:
    """Leave together: a process that exits early makes gloo abort the others."""
    accelerator.wait_for_everyone()
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
