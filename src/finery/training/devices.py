"""Devices asked for, devices there: the global batch stays, and the difference is said."""

from __future__ import annotations

from dataclasses import dataclass

from finery.errors import Fault, InputError
from finery.recipe.inputs import Recipe

# Read by OpenMP when torch is loaded: threads that spin while they wait for others make all ten
# times slower on a machine that does something else as well.
QUIET_THREADS = {"OMP_WAIT_POLICY": "PASSIVE"}


@dataclass(frozen=True)
class Devices:
    """Where training runs."""

    kind: str  # "cuda" or "cpu"
    processes: int
    accumulation: int  # micro-batches a process takes in one step, global batch kept
    notes: tuple[str, ...] = ()


def choose_devices(recipe: Recipe) -> Devices:
    """The devices of this machine that serve what the recipe asks for.

    Raises InputError when `device` names a kind that is not here.
    """
    there = check_device(recipe)
    kind = "cuda" if there and recipe.device != "cpu" else "cpu"
    return share_work(recipe, kind, there if kind == "cuda" else 1)


def check_device(recipe: Recipe) -> int:
    """The number of GPUs here; raises InputError when the recipe needs one and there is none."""
    import torch

    there = torch.cuda.device_count()
    if recipe.device == "cuda" and not there:
        raise InputError([Fault("device", "cuda", "a CUDA GPU, and none is here", "Use auto.")])
    return there


def share_work(recipe: Recipe, kind: str, available: int) -> Devices:
    """Processes and accumulation on `available` devices of `kind`; raises InputError.

    One optimizer step is nodes x GPUs x accumulation micro-batches, whatever runs them.
    """
    asked = recipe.number_of_gpu_to_use_finetuning * recipe.num_nodes_finetune
    work = asked * recipe.gradient_accumulation_steps
    processes = recipe.num_processes
    if processes:
        _check_processes(processes, work, kind, available)
    else:
        processes = next(n for n in range(min(asked, available), 0, -1) if work % n == 0)
    notes = ()
    if processes != asked:
        here = f"{processes} process{'es' if processes > 1 else ''} on {kind.upper()}"
        notes = (
            f"{asked} device{'s' if asked > 1 else ''} asked for, {here} used: the global batch "
            f"stays {work * recipe.per_device_train_batch_size}, with {work // processes} "
            f"accumulation step{'s' if work // processes > 1 else ''} instead of "
            f"{recipe.gradient_accumulation_steps}",
        )
    return Devices(kind, processes, work // processes, notes)


def _check_processes(processes: int, work: int, kind: str, available: int) -> None:
    if kind == "cuda" and processes > available:
        found = f"{processes} processes for {available} GPUs"
        raise InputError([Fault("num_processes", found, f"at most {available}")])
    if work % processes:
        found = f"{processes} processes for {work} micro-batches a step"
        remedy = f"Set gradient_accumulation_steps to a multiple of {processes}."
        raise InputError([Fault("num_processes", found, "a divisor of them", remedy)])
