"""Steps, memory and disk of a run, from the model's shape and the token rows alone.

Memory is arithmetic over what must be held at once (weights, gradients, optimizer, the
activations of one micro-batch); it is an estimate and says so. Time is not guessed: a plan has
it where a probe on this machine has measured it (`finery.planning.calibration`).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from finery.errors import FineryError, first_line
from finery.files import home, read_json, sha256_json, write_json
from finery.model.load import DTYPES, load_config, mixed_precision
from finery.model.lora import attach_lora, lora_of
from finery.model.loss import CHUNK
from finery.planning import machine
from finery.planning.ceiling import WorkShape, work_shape
from finery.recipe.inputs import Recipe

# Bytes kept per token, layer and hidden unit for the backward pass of a transformer block,
# in units of the activation's width (Korthikanti et al. 2022, eq. 2, without the attention
# map, which fused kernels never store): about 17 values, and LoRA's own few.
_ACTIVATIONS = 17


@dataclass(frozen=True)
class Shape:
    """A model as the planner sees it."""

    parameters: int
    trainable: int
    layers: int
    hidden: int
    vocabulary: int
    work: WorkShape  # what decides its FLOPs


@dataclass(frozen=True)
class Plan:
    """What starts when the run starts."""

    device: str
    processes: int
    micro_batch: int
    accumulation: int
    global_batch: int
    steps_per_epoch: int
    total_steps: int
    tokens_per_step: int  # mean over the run
    parameters: int
    trainable: int
    memory_bytes: int  # per process: an upper bound where measured, else arithmetic
    disk_bytes: int
    notes: tuple[str, ...]
    measured: bool = False  # whether time and memory come from a probe on this machine
    tokens_per_s: float = 0.0  # in steps; 0 where not measured, as the times
    step_seconds: float = 0.0  # of all steps
    seconds: float = 0.0  # of training: steps, evaluations, checkpoints
    time_error: float = 0.0  # expected of the times, as a share
    memory_error: float = 0.0  # of the memory, as a share: how much lower it may be
    probe_seconds: float = 0.0  # what this start spent on measuring; 0 when it was remembered
    checkpoints: int = 0  # that will be written
    resident_bytes: int = 0  # what this process held before anything of the model was built
    available_bytes: int = 0  # memory there was at the start; 0 where that is not known
    fitted: dict[str, Any] = field(default_factory=dict)  # settings changed so that it fits

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


def known_shape(folder: Path, sha256: str, recipe: Recipe) -> Shape:
    """The shape of the model in `folder`, kept under the finery home by the folder's hash."""
    lora = asdict(lora_of(recipe)) if recipe.apply_lora else None
    key = {"model": sha256, "lora": lora, "program": machine.program()}
    path = home() / "shapes" / f"{sha256_json(key)[:32]}.json"
    if path.is_file():
        value = read_json(path)
        return Shape(**{**value, "work": WorkShape(**value["work"])})
    shape = model_shape(folder, recipe)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, asdict(shape))
    return shape


def model_shape(folder: Path, recipe: Recipe) -> Shape:
    """The shape of the model in `folder`, built without allocating a weight."""
    import torch
    from transformers import AutoModelForCausalLM

    config = load_config(folder, trust_remote_code=recipe.trust_remote_code)
    with torch.device("meta"):
        try:
            model: Any = AutoModelForCausalLM.from_config(
                config, trust_remote_code=recipe.trust_remote_code
            )
        except (ValueError, KeyError) as error:  # a family without a language model, and such
            raise FineryError(f"{folder} is no causal language model: {first_line(error)}.") from (
                error
            )
        parameters = sum(p.numel() for p in model.parameters())
        trainable = parameters
        tuned = model
        if recipe.apply_lora:
            # DoRA would take the norms of weights that are not there
            tuned = attach_lora(model, replace(lora_of(recipe), dora=False))
            trainable = sum(p.numel() for p in tuned.parameters() if p.requires_grad)
        work = work_shape(tuned, config)
    return Shape(parameters, trainable, work.layers, work.hidden, work.vocabulary, work)


def memory_bytes(recipe: Recipe, shape: Shape, device: str, micro_tokens: int) -> int:
    """An estimate of what one process holds at its peak."""
    width = DTYPES[mixed_precision(recipe.precision, device)].itemsize
    frozen = 0.55 if recipe.quantization == "nf4" else width
    weights = shape.parameters * (frozen if recipe.apply_lora else 4)
    optimizer = shape.trainable * (4 + 4 if recipe.optim == "adafactor" else 4 + 8)
    trained = shape.trainable * 4 if recipe.apply_lora else 0
    kept = 2 if recipe.gradient_checkpointing else _ACTIVATIONS
    activations = micro_tokens * shape.layers * shape.hidden * kept * width
    head = CHUNK * shape.vocabulary * 8  # logits and their gradient, one chunk of them
    return int(weights + optimizer + trained + activations + head)


def disk_bytes(recipe: Recipe, shape: Shape, checkpoints: int) -> int:
    """An estimate of what the output folder will hold."""
    kept = checkpoints if recipe.save_total_limit < 0 else min(checkpoints, recipe.save_total_limit)
    state = shape.trainable * (12 if recipe.optim == "adamw_torch" else 8)
    models = shape.parameters * 2  # merged model; the MLflow folder links to the same weights
    return kept * state + models + shape.trainable * 4
