"""The 8-bit form of frozen layers: what it rounds, what it leaves alone, what training sees."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from finery.errors import FineryError
from finery.model import fp8_linear
from finery.model.fast import speed_up
from finery.model.fp8_linear import FLOAT8, Fp8Linear, check_device, quantize_base, quantized
from finery.model.lora import Lora, attach_lora, lora_layers

ROUNDING = 2.0**-4  # half a step of float8 e4m3: three bits after the point
IDS = torch.randint(0, 40, (2, 11), generator=torch.Generator().manual_seed(1))


def tuned(**changes: Any) -> Any:
    """A small model in bf16 with an adapter that has learned something."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=40,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        attention_bias=True,
        initializer_range=0.2,
        pad_token_id=0,
    )
    given: dict[str, Any] = {"r": 4, "alpha": 8, "dropout": 0.0, "targets": "auto"}
    lora = Lora(**{**given, "rslora": False, "dora": False, **changes})
    model = attach_lora(LlamaForCausalLM(config).bfloat16(), lora)  # pyright: ignore
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    return model


def step(model: Any) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits and the gradients of every trained weight."""
    model.zero_grad(set_to_none=True)
    logits = model(input_ids=IDS, use_cache=False).logits.float()
    logits.square().mean().backward()
    return logits.detach(), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


def relative(found: Tensor, wanted: Tensor) -> float:
    return float((found.float() - wanted.float()).norm() / wanted.float().norm())


def test_every_row_is_rounded_by_half_a_step_of_its_own_scale() -> None:
    rows = torch.randn(8, 64, generator=torch.Generator().manual_seed(2))
    rows *= torch.logspace(-6, 6, 8)[:, None]  # rows of very different size
    values, scale = quantized(rows)
    assert values.dtype == FLOAT8
    back = values.float() * scale
    room = ROUNDING * rows.abs() + rows.abs().amax(1, keepdim=True) * 2.0**-18
    assert bool(((back - rows).abs() <= room).all())
    assert torch.equal(values.float().abs().amax(1), torch.full((8,), 448.0))


def test_a_row_of_zeros_stays_zeros() -> None:
    values, scale = quantized(torch.zeros(2, 16))
    assert torch.equal(values.float() * scale, torch.zeros(2, 16))


@pytest.mark.parametrize("bias", [True, False])
def test_output_and_gradient_are_those_of_the_layer_within_8_bit_rounding(bias: bool) -> None:
    torch.manual_seed(3)
    plain = nn.Linear(64, 48, bias=bias).bfloat16().requires_grad_(False)
    eight = Fp8Linear(plain)
    x, grad = torch.randn(5, 7, 64).bfloat16(), torch.randn(5, 7, 48).bfloat16()
    results = []
    for layer in (plain, eight):
        own = x.clone().requires_grad_()
        out = layer(own)
        out.backward(grad)
        results.append((out.detach(), own.grad))
    (wanted, wanted_grad), (found, found_grad) = results
    assert found.dtype == wanted.dtype
    assert found.shape == wanted.shape
    assert 0.001 < relative(found, wanted) < 0.06
    assert 0.001 < relative(found_grad, wanted_grad) < 0.06


def test_the_products_are_those_of_the_numbers_that_are_kept() -> None:
    torch.manual_seed(4)
    eight = Fp8Linear(nn.Linear(32, 16, bias=False).bfloat16().requires_grad_(False))
    x = torch.randn(6, 32).bfloat16()
    values, scale = quantized(x)
    wanted = (values.float() * scale) @ eight.weight.float().T
    assert relative(eight.times(x), wanted) < 0.01  # bf16 writes the result


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_layers_with_an_adapter_are_quantized_and_the_output_layer_is_not(dropout: float) -> None:
    model = tuned(dropout=dropout)
    names = dict(model.named_parameters())
    assert quantize_base(model) == 14
    assert type(model.get_output_embeddings()) is nn.Linear
    kept = {n for n, _ in model.named_parameters()}
    assert {n.split(".")[-1] for n in names.keys() - kept} == {"weight"}
    assert all("base_layer" in n for n in names.keys() - kept)
    assert not [n for n, _ in model.named_buffers() if "base_layer" in n]
    assert speed_up(model)["lora"] == (14 if dropout == 0 else 0)


def test_sizes_that_the_matrix_units_do_not_take_keep_their_form() -> None:
    config = LlamaConfig(vocab_size=40, hidden_size=24, intermediate_size=48, num_attention_heads=2)
    lora = Lora(4, 8, 0.0, "q_proj", rslora=False, dora=False)
    model = attach_lora(LlamaForCausalLM(config).bfloat16(), lora)  # pyright: ignore
    assert quantize_base(model) == 0


@pytest.mark.parametrize("fused", [True, False])
def test_training_sees_the_gradients_of_the_16_bit_model_within_8_bit_rounding(
    fused: bool,
) -> None:
    wanted, wanted_grads = step(tuned())
    model = tuned()
    quantize_base(model)
    if fused:
        assert speed_up(model)["lora"] == 14
    found, grads = step(model)
    assert grads.keys() == wanted_grads.keys()
    assert relative(found, wanted) < 0.15
    together = [torch.cat([g.flatten() for g in set_.values()]) for set_ in (grads, wanted_grads)]
    assert relative(*together) < 0.3
    assert {grad.dtype for grad in grads.values()} == {torch.float32}


def test_the_fused_layer_is_the_plain_one() -> None:
    """One layer alone: over several, a last bit decides which way an 8-bit number rounds."""
    results = []
    for fused in (False, True):
        model = tuned()
        quantize_base(model)
        if fused:
            speed_up(model)
        layer: Any = next(module for _, module in lora_layers(model))
        x = torch.randn(9, 32, generator=torch.Generator().manual_seed(5))
        x = x.bfloat16().requires_grad_()
        out = layer(x)
        out.backward(torch.sin(out.detach()))
        weights = [p.grad for p in layer.parameters() if p.grad is not None]
        results.append([out.detach(), x.grad, *weights])
    for found, wanted in zip(*results, strict=True):
        assert relative(found, wanted) < 0.01


def test_a_gpu_without_float8_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = fp8_linear.torch.cuda
    monkeypatch.setattr(cuda, "get_device_capability", lambda device: (8, 0))
    monkeypatch.setattr(cuda, "get_device_name", lambda device: "NVIDIA A100")
    with pytest.raises(FineryError, match=r"8\.9 or later; NVIDIA A100 has none"):
        check_device("cuda:0")
    monkeypatch.setattr(cuda, "get_device_capability", lambda device: (9, 0))
    check_device("cuda:0")
    check_device("cpu")
