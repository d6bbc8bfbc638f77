"""The chunked output layer gives the loss and gradients of plain cross entropy."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from finery.chat.rows import make_rows
from finery.model import loss as module
from finery.model.attention import NAME
from finery.model.batch import make_batch
from finery.model.loss import CHUNK, LossModel, _HeadLoss, has_plain_head, mask_of, token_losses

COUNTS = [1, 5, CHUNK, CHUNK + 1, 2 * CHUNK + 3]


def head_inputs(
    count: int, bias: bool, dtype: torch.dtype, weight_dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    random = torch.Generator().manual_seed(count)
    hidden = torch.randn(count, 16, generator=random).to(dtype).requires_grad_(True)
    weight = torch.randn(37, 16, generator=random).to(weight_dtype).requires_grad_(True)
    offset = torch.randn(37, generator=random).to(weight_dtype).requires_grad_(True)
    targets = torch.randint(0, 37, (count,), generator=random)
    return hidden, weight, offset if bias else None, targets


def reference(hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> Tensor:
    logits = F.linear(hidden.float(), weight.float(), None if bias is None else bias.float())
    return F.cross_entropy(logits, targets, reduction="sum")


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("scale", [1.0, 0.125])
def test_loss_and_gradients_are_those_of_cross_entropy(
    count: int, bias: bool, scale: float
) -> None:
    kind = torch.float32
    ours, theirs = head_inputs(count, bias, kind, kind), head_inputs(count, bias, kind, kind)
    found: Any = _HeadLoss.apply(*ours)
    wanted = reference(*theirs)
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-4)
    (found * scale).backward()
    (wanted * scale).backward()
    for mine, other in zip(ours[:3], theirs[:3], strict=True):
        if mine is not None and other is not None:
            torch.testing.assert_close(mine.grad, other.grad, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("weight_dtype", [torch.bfloat16, torch.float32])
def test_in_bf16_loss_and_gradients_keep_bf16_accuracy(weight_dtype: torch.dtype) -> None:
    ours = head_inputs(300, True, torch.bfloat16, weight_dtype)
    theirs = head_inputs(300, True, torch.bfloat16, weight_dtype)
    found: Any = _HeadLoss.apply(*ours)
    wanted = reference(*theirs)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, wanted, rtol=5e-3, atol=0)
    found.backward()
    wanted.backward()
    for mine, other in zip(ours[:3], theirs[:3], strict=True):
        assert mine is not None and other is not None
        assert mine.grad is not None and other.grad is not None
        assert mine.grad.dtype == mine.dtype
        difference = (mine.grad.float() - other.grad.float()).norm() / other.grad.float().norm()
        assert difference < 0.02


def test_frozen_weights_get_no_gradient_and_cost_none() -> None:
    hidden, weight, bias, targets = head_inputs(9, True, torch.float32, torch.float32)
    weight.requires_grad_(False)
    assert bias is not None
    bias.requires_grad_(False)
    total: Any = _HeadLoss.apply(hidden, weight, bias, targets)
    total.backward()
    assert hidden.grad is not None
    assert weight.grad is bias.grad is None


def test_without_gradients_only_the_loss_is_computed() -> None:
    hidden, weight, bias, targets = head_inputs(9, False, torch.float32, torch.float32)
    with torch.no_grad():
        total: Any = _HeadLoss.apply(hidden, weight, bias, targets)
    torch.testing.assert_close(total, reference(hidden, weight, bias, targets).detach())


def test_very_large_logits_do_not_overflow() -> None:
    hidden = (torch.ones(2, 4) * 1e4).requires_grad_(True)
    weight = torch.tensor([[1.0] * 4, [-1.0] * 4])
    total: Any = _HeadLoss.apply(hidden, weight, None, torch.tensor([0, 1]))
    total.backward()
    assert float(total.detach()) == pytest.approx(8e4)
    assert hidden.grad is not None
    assert bool(hidden.grad.isfinite().all())


@pytest.fixture(scope="module")
def causal() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=60,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        initializer_range=0.3,
        attn_implementation=NAME,
    )
    return LlamaForCausalLM(config).eval()


ROWS = make_rows(
    (
        torch.randint(0, 60, (length,), generator=torch.Generator().manual_seed(length)).tolist(),
        [i > length // 3 for i in range(length)],
        length,
    )
    for length in (5, 12, 9)
)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("fused", [False, True])
def test_a_batchs_loss_is_the_sum_over_its_rows_alone(
    causal: LlamaForCausalLM, padded: bool, fused: bool
) -> None:
    model = LossModel(causal, causal, fused)
    batch = make_batch(ROWS, [0, 1, 2], padded=padded)
    wanted = []
    for i in range(len(ROWS)):
        ids = torch.from_numpy(ROWS.row_ids(i).astype("int64"))
        logits = causal(ids[None], use_cache=False).logits[0, :-1]
        marked = torch.from_numpy(ROWS.row_trained(i)[1:].copy())
        wanted.append(F.cross_entropy(logits[marked], ids[1:][marked], reduction="none"))
    torch.testing.assert_close(model(batch), torch.cat(wanted).sum())
    with torch.no_grad():
        torch.testing.assert_close(token_losses(model, batch), torch.cat(wanted))


def test_logits_are_made_at_loss_tokens_alone(
    causal: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []
    original = F.linear

    def watched(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        if weight.shape[0] == 60:
            sizes.append(x.shape[0])
        return original(x, weight, bias)

    monkeypatch.setattr(module.F, "linear", watched)
    batch = make_batch(ROWS, [0, 1, 2])
    LossModel(causal, causal, True)(batch)
    assert sizes == [len(batch.targets)]
    assert len(batch.targets) < batch.input_ids.numel()


def test_document_lengths_or_the_padding_mask_go_to_the_model() -> None:
    lengths = mask_of(make_batch(ROWS, [0, 2]))
    assert lengths is not None
    assert lengths.flatten().tolist() == [5, 9]
    padded = make_batch(ROWS, [0, 2], padded=True)
    assert mask_of(padded) is padded.attention_mask


@pytest.mark.parametrize(
    ("config", "plain"),
    [
        ({}, True),
        ({"final_logit_softcapping": None, "logits_scaling": 1.0}, True),
        ({"final_logit_softcapping": 30.0}, False),
        ({"logit_scale": 0.0625}, False),
        ({"logits_scaling": 8.0}, False),
    ],
)
def test_models_that_change_their_logits_use_their_own_head(
    config: dict[str, Any], plain: bool
) -> None:
    model: Any = SimpleNamespace(
        config=SimpleNamespace(**config), get_output_embeddings=lambda: nn.Linear(2, 3)
    )
    assert has_plain_head(model) is plain


def test_an_adapter_on_the_head_rules_out_the_chunked_one() -> None:
    class Adapted(nn.Linear):
        pass

    model: Any = SimpleNamespace(
        config=SimpleNamespace(), get_output_embeddings=lambda: Adapted(2, 3)
    )
    assert not has_plain_head(model)
