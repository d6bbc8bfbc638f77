"""Numbers before speed: the engine on this device against transformers in float32 on the CPU.

The reference runs one document at a time through transformers' own sdpa attention and full
logits: no packing, no code of ours. Base weights are rounded to bf16 first, so that what is
compared is the arithmetic, not the storage.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from gpu_cell import random_model
from torch import Tensor

from finery.chat.rows import TokenRows, make_rows
from finery.model import attention
from finery.model.batch import make_batch
from finery.model.fast import speed_up
from finery.model.fp8_linear import quantize_base
from finery.model.lora import Lora, attach_lora
from finery.model.loss import LossModel, has_plain_head, token_losses

LENGTHS = (129, 64, 333, 2, 500, 256, 17)  # of the documents in the packed row
# relative: loss, gradient
LIMITS = {"float32": (1e-5, 1e-4), "bf16": (1e-2, 3e-2), "fp8": (2e-2, 2e-1)}


def small_model(attn: str, device: str, dtype: torch.dtype) -> tuple[Any, Any]:
    """The small Phi-3 and its adapter, whose B is not zero, so that every gradient flows."""
    causal = random_model("small", attn, "cpu", torch.float32)
    for weight in causal.parameters():
        weight.data = weight.data.to(torch.bfloat16).float()
    torch.manual_seed(1)
    tuned = attach_lora(causal, Lora(8, 16, 0.0, "auto", rslora=False, dora=False))
    for name, weight in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.05)
        elif "lora_" not in name:
            weight.data = weight.data.to(dtype)
    return causal.to(device), tuned.to(device)


def autocast(device: str, dtype: torch.dtype) -> AbstractContextManager[Any]:
    """bf16 autocast for bf16 weights, nothing for float32."""
    return torch.autocast(device, dtype=dtype) if dtype == torch.bfloat16 else nullcontext()


def gradient_of(tuned: Any) -> Tensor:
    """All trained gradients as one vector, float32, on the CPU."""
    return torch.cat(
        [p.grad.float().cpu().flatten() for p in tuned.parameters() if p.requires_grad]
    )


def one_by_one(rows: TokenRows, device: str, dtype: torch.dtype) -> tuple[float, Tensor]:
    """Mean loss and gradient from transformers, a document at a time, full logits."""
    _, tuned = small_model("sdpa", device, dtype)
    count = sum(int(rows.row_trained(i)[1:].sum()) for i in range(len(rows)))
    total = 0.0
    for index in range(len(rows)):
        ids = torch.tensor(rows.row_ids(index).tolist(), device=device)
        wanted = torch.tensor(rows.row_trained(index)[1:].tolist(), device=device)
        with autocast(device, dtype):
            logits = tuned(input_ids=ids[None], use_cache=False).logits[0, :-1][wanted]
        loss = F.cross_entropy(logits.float(), ids[1:][wanted], reduction="sum") / count
        loss.backward()
        total += float(loss)
    return total, gradient_of(tuned)


def packed(
    rows: TokenRows, device: str, dtype: torch.dtype, eight: bool = False
) -> tuple[float, Tensor]:
    """Mean loss and gradient from the engine, all documents in one packed row.

    `eight` puts the frozen base into 8-bit floating point and takes the fused LoRA layers.
    """
    causal, tuned = small_model(attention.NAME, device, dtype)
    if eight:
        quantize_base(tuned)
        speed_up(tuned)
    model = LossModel(tuned, causal, has_plain_head(causal))
    batch = make_batch(rows, range(len(rows))).to(device)
    with autocast(device, dtype):
        loss = model(batch) / len(batch.targets)
    loss.backward()
    return float(loss), gradient_of(tuned)


def isolation(rows: TokenRows, device: str) -> dict[str, Any]:
    """Losses of the later documents when the first one's tokens all change."""
    causal, tuned = small_model(attention.NAME, device, torch.bfloat16)
    model = LossModel(tuned, causal, has_plain_head(causal)).eval()
    triples = [(rows.row_ids(i), rows.row_trained(i), i + 1) for i in range(len(rows))]
    first, mask, number = triples[0]
    changed = make_rows([((first + 7) % 900 + 3, mask, number), *triples[1:]])
    own = int(mask[1:].sum())  # loss tokens of the first document
    calls = mock.Mock(wraps=attention._varlen)
    losses = []
    for variant in (rows, changed):
        batch = make_batch(variant, range(len(rows))).to(device)
        with (
            torch.no_grad(),
            autocast(device, torch.bfloat16),
            mock.patch.object(attention, "_varlen", calls),
        ):
            losses.append(token_losses(model, batch))
    same, other = losses
    return {
        "later_documents_bit_equal": bool(torch.equal(same[own:], other[own:])),
        "first_document_changed": not torch.equal(same[:own], other[:own]),
        "varlen_calls": calls.call_count,
        "varlen_expected": 2 * causal.config.num_hidden_layers if device == "cuda" else 0,
    }


def documents() -> TokenRows:
    """Random documents of LENGTHS; the second half of each carries loss."""
    chance = np.random.default_rng(1)
    return make_rows(
        (chance.integers(3, 900, size), np.arange(size) >= size // 2, number)
        for number, size in enumerate(LENGTHS, 1)
    )


def check(device: str) -> dict[str, Any]:
    """Relative errors of loss and gradient, document isolation, and whether all is well."""
    rows = documents()
    loss, gradient = one_by_one(rows, "cpu", torch.float32)
    cases = {
        "finery, packed, CPU float32": packed(rows, "cpu", torch.float32),
        f"finery, packed, {device} float32": packed(rows, device, torch.float32),
        f"transformers, one by one, {device} bf16": one_by_one(rows, device, torch.bfloat16),
        f"finery, packed, {device} bf16": packed(rows, device, torch.bfloat16),
        f"finery, packed, {device} fp8": packed(rows, device, torch.bfloat16, eight=True),
    }
    errors = {
        name: (abs(value - loss) / loss, float((g - gradient).norm() / gradient.norm()))
        for name, (value, g) in cases.items()
    }
    isolated = isolation(rows, device)
    passed = isolated["later_documents_bit_equal"] and isolated["first_document_changed"]
    passed = passed and isolated["varlen_calls"] == isolated["varlen_expected"]
    for name, (of_loss, of_gradient) in errors.items():
        loss_limit, gradient_limit = LIMITS[name.rsplit(maxsplit=1)[1]]
        if name.startswith("finery"):
            passed = passed and of_loss <= loss_limit and of_gradient <= gradient_limit
    return {
        "documents": len(rows),
        "reference_loss": loss,
        "relative_errors": {k: {"loss": v[0], "gradient": v[1]} for k, v in errors.items()},
        "isolation": isolated,
        "passed": passed,
    }
