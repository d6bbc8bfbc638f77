"""What every benchmark measures with: ceilings, work counted in FLOPs, others' CPU, medians.

The work of one step is counted from the shapes, the same for every engine, whatever it really
computes: padding, recomputation and logits that carry no loss are not useful work.

    base weights, frozen       4 x N per token          forward 2N, gradient of the input 2N
    LoRA weights               6 x N_lora per token     forward, input gradient, weight gradient
    attention, causal          6 x T^2 x width a layer and document of T tokens: two products
                               forward, four backward, half of each below the diagonal
    output layer, frozen       4 x hidden x vocabulary per token that carries loss

N counts the weights of the blocks' linear layers; embeddings are looked up, not multiplied.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

if TYPE_CHECKING:
    from torch import nn

PACKAGES = ("torch", "transformers", "peft", "accelerate", "trl")


@dataclass(frozen=True)
class Shape:
    """The sizes of a causal language model that decide its work."""

    linear: int  # weights in the linear layers of all blocks
    lora: int  # weights of the adapter
    layers: int
    attention_width: int  # heads x head size
    hidden: int
    vocabulary: int

    def flops(self, lengths: Iterable[int], loss_tokens: int) -> float:
        """Useful FLOPs of one training step over documents of these lengths."""
        lengths = list(lengths)
        tokens = sum(lengths)
        attention = 6.0 * self.layers * self.attention_width * sum(t * t for t in lengths)
        head = 4.0 * self.hidden * self.vocabulary * loss_tokens
        return (4.0 * self.linear + 6.0 * self.lora) * tokens + attention + head


def shape_of(model: nn.Module, config: Any) -> Shape:
    """The shape of a model with its adapter attached."""
    from torch import nn

    linear = lora = 0
    for name, module in model.named_modules():
        if not isinstance(module, nn.Linear):
            continue
        if ".lora_" in name:
            lora += module.weight.numel()
        elif ".layers." in name:
            linear += module.weight.numel()
    heads = config.num_attention_heads
    head_size = getattr(config, "head_dim", None) or config.hidden_size // heads
    return Shape(
        linear=linear,
        lora=lora,
        layers=config.num_hidden_layers,
        attention_width=heads * head_size,
        hidden=config.hidden_size,
        vocabulary=config.vocab_size,
    )


def gemm_ceiling(size: int, device: str, *, seconds: float = 1.5) -> float:
    """FLOP/s of the fastest of many bf16 matrix products of size^3: what the chip can give."""
    import torch

    a, b = (torch.randn(size, size, device=device).to(torch.bfloat16) for _ in range(2))
    best = float("inf")
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        started = time.perf_counter()
        torch.mm(a, b)
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - started)
    return 2.0 * size**3 / best


class OthersCpu:
    """The cores that other processes keep busy while this one measures."""

    def __init__(self) -> None:
        self._start = self._now()

    @staticmethod
    def _now() -> tuple[float, float, float]:
        times = psutil.cpu_times()
        busy = sum(times) - times.idle - getattr(times, "iowait", 0.0)
        busy -= getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)  # in user too
        own = psutil.Process().cpu_times()
        return time.perf_counter(), busy, own.user + own.system

    def cores(self) -> float:
        """Cores kept busy by others, on average since this object was made."""
        wall, busy, own = (n - s for n, s in zip(self._now(), self._start, strict=True))
        return max(0.0, (busy - own) / wall) if wall else 0.0


def versions() -> dict[str, str]:
    """Versions of what takes part."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def machine() -> dict[str, Any]:
    """What the numbers were measured on; no names of hosts or folders."""
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_name(),
        "cores": psutil.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
    }


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":")[1].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        return platform.processor()


def spread(values: Sequence[float], digits: int = 0) -> str:
    """The median, with the lowest and the highest value."""
    middle = statistics.median(values)
    return f"{middle:,.{digits}f} ({min(values):,.{digits}f}-{max(values):,.{digits}f})"


def run_cell(
    script: Path, work: Path, cell: str, environment: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """One measurement in a process of its own: `script WORK CELL OUT`; exits when it fails.

    The process that calls this should stay small: Linux counts the peak memory of the parent
    as the child's own. `work / "run"` is an empty folder for each cell, so nothing is resumed.
    """
    out, log, run = work / "out.json", work / "cell.log", work / "run"
    out.unlink(missing_ok=True)
    shutil.rmtree(run, ignore_errors=True)
    run.mkdir()
    with log.open("wb") as output:
        ended = subprocess.run(
            [sys.executable, str(script), str(work), cell, str(out)],
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(environment or {})},
        )
    if ended.returncode:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-25:])
        sys.exit(f"{cell} ended with status {ended.returncode}:\n{tail}")
    return json.loads(out.read_text(encoding="utf-8"))
