"""One measurement of the GPU benchmark, in a process of its own.

    python benchmarks/gpu_cell.py WORK CELL OUT

CELL is `finery` (the engine's own model, batches, loss and step), `finery-fp8` (the same with the
frozen base in 8-bit floating point), `peft-isolated` or `peft-plain` (transformers + PEFT in a
plain loop: sdpa, full logits; with the position ids that keep the documents of a packed row
apart, and without). Weights are random, made on the device.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, Phi3Config

from finery.chat.rows import TokenRows, make_rows
from finery.model import attention
from finery.model.fp8_linear import quantize_base
from finery.model.lora import TARGETS, Lora, attach_lora
from finery.planning.ceiling import WorkShape, gemm_ceiling, useful_flops, work_shape
from finery.recipe.inputs import Recipe
from finery.training.distribution import make_accelerator
from finery.training.job import TrainJob
from finery.training.loop import accumulate
from finery.training.trainee import Trainee

SEED, RATE = 42, 2e-4
CEILING_SECONDS = 1.5
LORA_R, LORA_ALPHA = 16, 32
# microsoft/Phi-3-mini-4k-instruct, config.json
PHI3_MINI = {
    "vocab_size": 32064,
    "hidden_size": 3072,
    "intermediate_size": 8192,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "max_position_embeddings": 4096,
    "original_max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "sliding_window": 2047,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 32000,
    "pad_token_id": 32000,
}
SMALL = {
    "vocab_size": 1024,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "eos_token_id": 1000,
    "pad_token_id": 1000,
}
SHAPES = {"phi3-mini": PHI3_MINI, "small": {**PHI3_MINI, **SMALL}}


def random_model(shape: str, attn: str, device: str, dtype: torch.dtype) -> Any:
    """A Phi-3 of that shape with the random weights of the seed, made where it will run."""
    config = Phi3Config(**SHAPES[shape])
    torch.manual_seed(SEED)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=attn)
    return model.to(device).eval()


def packed_rows(
    length: int, sequences: int, vocabulary: int
) -> tuple[TokenRows, list[tuple[int, ...]]]:
    """Documents of chat-like lengths that fill `sequences` rows of `length` tokens exactly.

    The second half of each document carries loss.
    """
    chance = np.random.default_rng(SEED)
    rows, groups = [], []
    for _ in range(sequences):
        group, left = [], length
        while left:
            size = int(np.clip(chance.lognormal(6.3, 0.7), 64, 1800))
            size = left if left - size < 64 else size  # no crumb at the end of a row
            group.append(len(rows))
            ids = chance.integers(3, vocabulary - 64, size)
            rows.append((ids, np.arange(size) >= size // 2, len(rows) + 1))
            left -= size
        groups.append(tuple(group))
    return make_rows(rows), groups


def engine(
    work: Path, shape: str, device: str, quantization: str = "none"
) -> tuple[Trainee, WorkShape]:
    """Our model, adapter, optimizer and accelerator, as `prepare_trainee` puts them together.

    Beside them what a token costs, counted before anything is quantised: the same for all engines.
    """
    recipe = Recipe(
        apply_lora=True,
        lora_r=LORA_R,
        lora_alpha=LORA_ALPHA,
        learning_rate=RATE,
        precision="bf16",
        quantization=quantization,
        packing=True,
        seed=SEED,
        device=device,
    )
    job = TrainJob(
        recipe=recipe,
        model_folder=work,
        model_source="random",
        model_sha256="random",
        train_rows=work,
        validation_rows=None,
        train_sha256="random",
        pad_id=SHAPES[shape]["pad_token_id"],
        end_of_turn_id=SHAPES[shape]["eos_token_id"],
        max_seq_length=4096,
        device=device,
        processes=1,
        accumulation=1,
        run=work / "run",
    )
    accelerator = make_accelerator(recipe, device, 1)
    causal = random_model(shape, attention.NAME, device, torch.bfloat16)
    torch.manual_seed(SEED)
    tuned = attach_lora(causal, Lora(LORA_R, LORA_ALPHA, 0.0, "auto", rslora=False, dora=False))
    sizes = work_shape(tuned, causal.config)
    if quantization == "fp8":
        quantize_base(tuned)
    trainee = Trainee(job, accelerator, causal, tuned, None)
    trainee.wrap()
    trainee.set_learning_rate(RATE)
    return trainee, sizes


Step = Callable[[TokenRows, tuple[int, ...]], float]


def finery_step(trainee: Trainee) -> Step:
    """One optimizer step of the engine, as its loop takes it."""

    def step(rows: TokenRows, group: tuple[int, ...]) -> float:
        batch = trainee.batch(rows, group)
        loss = accumulate(
            trainee.model,
            [(batch, 1.0, True)],
            len(batch.targets),
            processes=1,
            backward=trainee.backward,
            micro_batch=trainee.micro_batch,
        )
        trainee.finish_step()
        return float(loss)

    return step


def peft_model(shape: str, device: str) -> Any:
    """The same model and adapter from transformers and PEFT alone."""
    from peft import LoraConfig, get_peft_model

    causal = random_model(shape, "sdpa", device, torch.bfloat16)
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=LORA_R,
        lora_alpha=LORA_ALPHA,
        lora_dropout=0.0,
        target_modules=list(TARGETS["phi3"]),
    )
    torch.manual_seed(SEED)
    return get_peft_model(causal, config).train()


def plain_inputs(
    rows: TokenRows, group: tuple[int, ...], isolated: bool, device: str
) -> dict[str, torch.Tensor]:
    """A packed row as keyword arguments of a transformers model."""
    ids = np.concatenate([rows.row_ids(i) for i in group]).astype(np.int64)
    trained = np.concatenate([np.r_[False, rows.row_trained(i)[1:]] for i in group])
    inputs = {"input_ids": ids, "labels": np.where(trained, ids, -100)}
    if isolated:
        inputs["position_ids"] = np.concatenate([np.arange(len(rows.row_ids(i))) for i in group])
    return {name: torch.from_numpy(value)[None].to(device) for name, value in inputs.items()}


def plain_step(tuned: Any, isolated: bool, device: str) -> Step:
    """One optimizer step as people write it: autocast, full logits, clip, AdamW."""
    parameters = [p for p in tuned.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=RATE, weight_decay=0.0)

    def step(rows: TokenRows, group: tuple[int, ...]) -> float:
        with torch.autocast(device, dtype=torch.bfloat16):
            loss = tuned(**plain_inputs(rows, group, isolated, device), use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(loss)

    return step


def timed(
    step: Step, length: int, settings: dict[str, Any], shape: Any, ceiling: float
) -> dict[str, Any]:
    """Warm up, then measure `settings["steps"]` steps over rows of `length` tokens."""
    device, warmup = settings["device"], settings["warmup"]
    vocabulary = SHAPES[settings["shape"]]["vocab_size"]
    rows, groups = packed_rows(length, warmup + settings["steps"], vocabulary)
    counts, losses, times = rows.lengths, [], []
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    for group in groups:
        started = time.perf_counter()
        losses.append(step(rows, group))  # the loss comes back as a number: the step has ended
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    measured = groups[warmup:]
    seconds = sum(times[warmup:])
    work = sum(
        useful_flops(
            shape,
            sum(int(counts[i]) for i in group),
            [int(counts[i]) for i in group],
            sum(int(rows.row_trained(i)[1:].sum()) for i in group),
        )
        for group in measured
    )
    peak = torch.cuda.max_memory_allocated() if device == "cuda" else 0
    return {
        "length": length,
        "documents": sum(map(len, measured)),
        "tokens_per_s": length * len(measured) / seconds,
        "flops_per_s": work / seconds,
        "share": work / seconds / ceiling,
        "ceiling": ceiling,
        "step_ms": [round(1000 * value, 2) for value in times[warmup:]],
        "losses": losses,
        "peak_memory_gb": peak / 1e9,
    }


def speed(work: Path, cell: str, settings: dict[str, Any]) -> dict[str, Any]:
    """The cell at every sequence length."""
    shape, device = settings["shape"], settings["device"]
    ceiling = gemm_ceiling(device, torch.bfloat16, settings["gemm"], CEILING_SECONDS)
    if cell.startswith("finery"):
        trainee, sizes = engine(work, shape, device, "fp8" if cell == "finery-fp8" else "none")
        step = finery_step(trainee)
    else:
        tuned = peft_model(shape, device)
        sizes = work_shape(tuned, tuned.config)
        step = plain_step(tuned, cell == "peft-isolated", device)
    rounds = [timed(step, length, settings, sizes, ceiling) for length in settings["lengths"]]
    return {"lengths": rounds, "shape": vars(sizes)}


def main() -> None:
    """Measure what the command line names."""
    work, cell, out = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
    settings = json.loads((work / "settings.json").read_text(encoding="utf-8"))
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    if cell == "check":
        from gpu_check import check

        result = check(settings["device"])
    else:
        result = speed(work, cell, settings)
    out.write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main()
