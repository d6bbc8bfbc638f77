"""Cross entropy of the next token, computed only where a token carries loss.

The output layer of a small model is a third of its work and most of its memory. Here it
runs in chunks over the hidden states that predict a loss token; the logits of one chunk are
turned into their own gradient in place and never kept (the idea of Liger's fused linear
cross entropy, Hsu et al. 2024, and of Cut Cross-Entropy, Wijmans et al. 2024).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from finery.model.attention import document_mask
from finery.model.batch import Batch

CHUNK = 256  # hidden states per chunk: large enough for the GEMM
ROWS = 16  # rows of logits that pass through the softmax at once: they stay in the cache


class _HeadLoss(torch.autograd.Function):
    """Sum over tokens of -log softmax(W h + b)[target], and its gradients, in one pass."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor
    ) -> Tensor:
        need_hidden, need_weight, need_bias, _ = ctx.needs_input_grad
        grad_hidden = torch.empty_like(hidden) if need_hidden else None
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if need_weight else None
        grad_bias = torch.zeros_like(bias, dtype=torch.float32) if need_bias else None  # pyright: ignore[reportArgumentType]
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        low = weight.to(hidden.dtype)
        backward = need_hidden or need_weight or need_bias
        for start in range(0, len(hidden), CHUNK):
            part, wanted = hidden[start : start + CHUNK], targets[start : start + CHUNK]
            logits = F.linear(part, low, None if bias is None else bias.to(hidden.dtype))
            for some, ids in zip(logits.split(ROWS), wanted.split(ROWS), strict=True):
                logs = torch.log_softmax(some.float(), dim=1)
                total -= logs.gather(1, ids[:, None]).sum()
                if backward:  # softmax less one at the target, in the memory of the logits
                    grad = logs.exp_()
                    grad.scatter_add_(1, ids[:, None], grad.new_full((len(ids), 1), -1.0))
                    some.copy_(grad)
                    if grad_bias is not None:
                        grad_bias += grad.sum(0)
            if grad_hidden is not None:
                torch.mm(logits, low, out=grad_hidden[start : start + CHUNK])
            if grad_weight is not None:
                grad_weight += logits.T @ part
        ctx.grads = (grad_hidden, grad_weight, grad_bias)
        ctx.dtypes = (hidden.dtype, weight.dtype, None if bias is None else bias.dtype)
        return total

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        scale = grad_outputs[0]
        grads = (
            None if grad is None else (grad * scale).to(dtype)
            for grad, dtype in zip(ctx.grads, ctx.dtypes, strict=True)
        )
        return (*grads, None)


class LossModel(nn.Module):
    """A causal language model that returns the summed loss of a batch.

    Its one forward is what DDP and DeepSpeed wrap. `fused` computes the output layer in
    chunks; otherwise the model's own head runs, at the loss tokens only.
    """

    def __init__(self, model: nn.Module, causal: PreTrainedModel, fused: bool) -> None:
        super().__init__()
        self.model = model  # with PEFT around it, or the causal model itself
        self.fused = fused
        self._causal = [causal]  # in a list: not a second registration of the same weights

    def forward(self, batch: Batch) -> Tensor:
        """Sum of the losses over the batch's targets, float32, in nats."""
        if not self.fused:
            return F.cross_entropy(self.logits(batch).float(), batch.targets, reduction="sum")
        head, hidden = self.head, self.hidden(batch)
        return _HeadLoss.apply(hidden, head.weight, getattr(head, "bias", None), batch.targets)  # pyright: ignore[reportReturnType]

    @property
    def head(self) -> Any:
        """The output layer."""
        return self._causal[0].get_output_embeddings()

    def hidden(self, batch: Batch) -> Tensor:
        """What the output layer reads at the loss tokens, (N, hidden size)."""
        out = self._causal[0].base_model(**_arguments(batch))
        return out.last_hidden_state.flatten(0, 1)[batch.positions]

    def logits(self, batch: Batch) -> Tensor:
        """The model's own logits at the loss tokens, (N, vocabulary)."""
        return self._causal[0](**_arguments(batch)).logits.flatten(0, 1)[batch.positions]


def _arguments(batch: Batch) -> dict[str, Any]:
    return {
        "input_ids": batch.input_ids,
        "position_ids": batch.position_ids,
        "attention_mask": mask_of(batch),
        "use_cache": False,
    }


def mask_of(batch: Batch) -> Tensor | None:
    """What goes in the model's attention_mask argument for this batch."""
    return batch.attention_mask if batch.lengths is None else document_mask(batch.lengths)


def has_plain_head(causal: PreTrainedModel) -> bool:
    """Whether logits are just W h + b: no soft cap, no scale, no adapter on the head."""
    head = causal.get_output_embeddings()
    config = causal.config
    caps = (getattr(config, "final_logit_softcapping", None), getattr(config, "logit_scale", None))
    scaling = getattr(config, "logits_scaling", 1.0)
    return type(head) is nn.Linear and not any(caps) and scaling in (None, 1, 1.0)


def token_losses(model: LossModel, batch: Batch) -> Tensor:
    """The loss of each target of `batch`, (N,) in nats; for evaluation, without gradients."""
    if not model.fused:
        return F.cross_entropy(model.logits(batch).float(), batch.targets, reduction="none")
    parts = zip(model.hidden(batch).split(CHUNK), batch.targets.split(CHUNK), strict=True)
    return torch.cat(
        [
            F.cross_entropy(model.head(part).float(), wanted, reduction="none")
            for part, wanted in parts
        ]
    )
