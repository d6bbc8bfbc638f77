"""Checkpoints that are whole or absent, and from which a run goes on bit for bit.

A checkpoint folder holds the trained weights in float32 (a PEFT adapter, or every weight in
full fine-tuning), the optimizer's tensors, and `progress.json`. It needs nothing else: rows,
learning rate and random numbers of a step are functions of the seed and the step number.
Everything is safetensors and JSON. The manifest is written last and the folder renamed into
place, so a crash while saving leaves the checkpoints before it as they were; what is lost
is the work since the last complete one.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.optim import Optimizer

from finery.errors import FineryError
from finery.files import TEMPORARY, finish_folder, read_json, verify_folder, write_json

PROGRESS = "progress.json"


@dataclass(frozen=True)
class Progress:
    """Where a run stands, beside its tensors."""

    step: int = 0  # optimizer steps done
    best_loss: float | None = None  # lowest held-out loss so far
    best_step: int = 0
    evaluations_without_gain: int = 0
    train_loss: float | None = None  # of the last log line
    tokens: int = 0  # real tokens trained on
    seconds: float = 0.0  # time in steps, evaluations and saves left out
    # since the last log line, so that the next one is as in a run that was never stopped
    window_loss: float = 0.0  # summed over steps and processes
    window_steps: int = 0
    window_tokens: int = 0
    window_seconds: float = 0.0


def save_checkpoint(
    checkpoints: Path,
    progress: Progress,
    fingerprint: str,
    *,
    rank: int,
    barrier: Callable[[], None],
    write_weights: Callable[[Path], None],
    optimizer_tensors: Mapping[str, Tensor],
    every_rank: bool,
) -> None:
    """Save `progress` under `checkpoints`; all processes call this together.

    `write_weights` is called on rank 0 with the folder to fill. `every_rank` says that each
    process owns a part of the optimizer (ZeRO), so that each writes its own.
    """
    final = checkpoint_path(checkpoints, progress.step)
    temporary = checkpoints / f"{TEMPORARY}{final.name}"
    if rank == 0:
        for leftover in checkpoints.glob(f"{TEMPORARY}*"):  # of a process that was killed
            shutil.rmtree(leftover, ignore_errors=True)
        temporary.mkdir(parents=True)
        write_weights(temporary)
        write_json(temporary / PROGRESS, {**asdict(progress), "fingerprint": fingerprint})
    barrier()
    if rank == 0 or every_rank:
        tensors = {name: tensor.contiguous().cpu() for name, tensor in optimizer_tensors.items()}
        save_file(tensors, temporary / f"optimizer-{rank}.safetensors")
    barrier()
    if rank == 0:
        finish_folder(temporary, final)
    barrier()


def checkpoint_path(checkpoints: Path, step: int) -> Path:
    """Where the checkpoint after `step` optimizer steps lies."""
    return checkpoints / f"step-{step:08d}"


def newest_checkpoint(checkpoints: Path) -> Path | None:
    """The newest checkpoint that is complete and unchanged; broken ones are passed over."""
    found = sorted(checkpoints.glob("step-*"), reverse=True) if checkpoints.is_dir() else []
    return next((folder for folder in found if not verify_folder(folder)), None)


def read_progress(folder: Path, fingerprint: str) -> Progress:
    """The progress saved in a checkpoint; raises FineryError when it is of another run."""
    value = read_json(folder / PROGRESS)
    if value.pop("fingerprint") != fingerprint:
        raise FineryError(
            f"{folder.parent.parent} holds checkpoints of a run with other settings or data. "
            "Choose another output_dir, or start over with --overwrite-output."
        )
    return Progress(**value)


def load_optimizer_tensors(folder: Path, rank: int) -> dict[str, Tensor]:
    """What `save_checkpoint` got as this process's optimizer tensors."""
    own = folder / f"optimizer-{rank}.safetensors"
    return load_file(own if own.is_file() else folder / "optimizer-0.safetensors")


def prune_checkpoints(checkpoints: Path, limit: int, keep: set[int]) -> None:
    """Remove the oldest checkpoints beyond `limit` (-1: none), never those of steps in `keep`."""
    if limit < 0:
        return
    found = sorted(checkpoints.glob("step-*"))
    kept = {checkpoint_path(checkpoints, step) for step in keep} | set(found[-limit:])
    for folder in found:
        if folder not in kept:
            doomed = folder.rename(folder.with_name(f"{TEMPORARY}old-{folder.name}"))
            shutil.rmtree(doomed)


def optimizer_state(optimizer: Optimizer, names: Mapping[Tensor, str]) -> dict[str, Tensor]:
    """The optimizer's tensors by "parameter|entry"; numbers become float64 tensors."""
    return {
        f"{names[parameter]}|{key}": value.detach()
        if isinstance(value, Tensor)
        else torch.tensor(float(value), dtype=torch.float64)
        for parameter, entries in optimizer.state.items()
        for key, value in entries.items()
        if value is not None
    }


def restore_optimizer(
    optimizer: Optimizer, names: Mapping[Tensor, str], tensors: Mapping[str, Tensor]
) -> None:
    """Put back what `optimizer_state` gave; raises FineryError for parameters not there."""
    parameters = {name: parameter for parameter, name in names.items()}
    for full, tensor in tensors.items():
        name, key = full.rsplit("|", 1)
        if name not in parameters:
            raise FineryError(f"The checkpoint has optimizer state for {name}, the model has not.")
        parameter = parameters[name]
        number = tensor.dtype == torch.float64 and tensor.ndim == 0
        value = _number(tensor) if number else tensor.to(_home(parameter, tensor))
        optimizer.state[parameter][key] = value


def _number(tensor: Tensor) -> int | float:
    value = tensor.item()
    return int(value) if value == int(value) else value


def _home(parameter: Tensor, tensor: Tensor) -> torch.device:
    """AdamW keeps its 0-dimensional step counters on the CPU."""
    return torch.device("cpu") if tensor.ndim == 0 else parameter.device
