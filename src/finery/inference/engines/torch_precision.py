"""Which form the weights take: the one that multiplies fastest on this machine, measured.

One block's linear layers are made in each form and multiplied in turns (A B A B, the least time
of each counts, so that a busy machine slows all alike), for one token and for a full batch.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from finery.inference.engines.torch_weights import Weight, has_int8, has_packed16, make_weight

SECONDS = 0.5  # for all forms together


def candidates(device: torch.device) -> list[str]:
    """The forms that can be meant by `auto`, at least one; a GPU has one."""
    if device.type != "cpu":
        return ["bfloat16"]
    wide = "bfloat16" if has_packed16(device) else "float32"
    return ["int8", wide] if has_int8(device) else [wide]


def block_weights(model: Any) -> list[Tensor]:
    """The weights of the linear layers of one block: those that the model has most of."""
    shapes: dict[tuple[int, ...], list[Tensor]] = {}
    for module in model.modules():
        if isinstance(module, nn.Linear):
            shapes.setdefault(tuple(module.weight.shape), []).append(module.weight.detach())
    most = max((len(found) for found in shapes.values()), default=0)
    return [found[0] for found in shapes.values() if 2 * len(found) >= most]


@contextlib.contextmanager
def watched(model: Any) -> Iterator[dict[str, Tensor]]:
    """The largest input of every linear layer, by its name and channel (in,), while inside."""
    peaks: dict[str, Tensor] = {}

    def watch(name: str) -> Any:
        def see(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            here = inputs[0].detach().flatten(0, -2).abs().amax(0)
            peaks[name] = torch.maximum(peaks[name], here) if name in peaks else here

        return see

    linear = [(name, one) for name, one in model.named_modules() if isinstance(one, nn.Linear)]
    hooks = [one.register_forward_pre_hook(watch(name)) for name, one in linear]
    try:
        yield peaks
    finally:
        for hook in hooks:
            hook.remove()


def measure(weights: Sequence[Tensor], precisions: Sequence[str], rows: int) -> dict[str, float]:
    """Microseconds of one token and of a batch of `rows`, together, by precision; one thread.

    With several, each product would wait for the thread that a busy machine holds back.
    """
    forms = {one: [make_weight(weight, None, one) for weight in weights] for one in precisions}
    inputs = [[torch.randn(count, weight.shape[1]) for weight in weights] for count in (1, rows)]
    best = {(one, i): float("inf") for one in forms for i in range(len(inputs))}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        end = time.perf_counter() + SECONDS
        with torch.inference_mode():
            while time.perf_counter() < end:
                for (one, i), least in best.items():
                    best[one, i] = min(least, _seconds(forms[one], inputs[i]))
    finally:
        torch.set_num_threads(threads)
    return {one: round(1e6 * sum(best[one, i] for i in range(len(inputs))), 1) for one in forms}


def _seconds(forms: Sequence[Weight], inputs: Sequence[Tensor]) -> float:
    began = time.perf_counter()
    for form, x in zip(forms, inputs, strict=True):
        form(x)
    return time.perf_counter() - began
