"""Each fast piece gives the values and gradients of its plain form, or is not put in."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.llama.configuration_llama import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaMLP, LlamaRMSNorm
from transformers.models.phi3.configuration_phi3 import Phi3Config
from transformers.models.phi3.modeling_phi3 import Phi3MLP

from finery.model.fast import speed_up
from finery.model.fused_mlp import fuse_mlps, swiglu
from finery.model.fused_norm import fuse_norms, rms_norm, same

SIZES = {"hidden_size": 24, "intermediate_size": 40, "num_attention_heads": 2}
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}


def gradients(function: Callable[[], Tensor], inputs: list[Tensor]) -> list[Tensor]:
    """The value of `function` and its gradients by `inputs`, under a fixed slope."""
    out = function()
    slope = torch.sin(torch.arange(out.numel(), dtype=torch.float32)).view(out.shape)
    return [out.detach(), *torch.autograd.grad(out, inputs, slope.to(out.dtype))]


def assert_close(got: list[Tensor], wanted: list[Tensor], dtype: torch.dtype) -> None:
    for one, two in zip(got, wanted, strict=True):
        assert one.dtype == two.dtype
        distance = (one.float() - two.float()).norm() / two.float().norm()
        assert distance < TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_rms_norm_is_that_of_llama(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    plain = LlamaRMSNorm(24, eps=1e-5).to(dtype)
    plain.weight.data.uniform_(0.5, 1.5)
    x = (3 * torch.randn(2, 7, 24)).to(dtype).requires_grad_()
    wanted = gradients(lambda: plain(x), [x, plain.weight])
    got = gradients(lambda: rms_norm(x, plain.weight, 1e-5), [x, plain.weight])
    assert_close(got, wanted, dtype)


def test_a_frozen_norm_gets_no_gradient_and_passes_one_on() -> None:
    weight, x = torch.ones(8), torch.randn(3, 8, requires_grad=True)
    rms_norm(x, weight, 1e-6).sum().backward()
    assert weight.grad is None
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()


def test_rms_norm_gradients_are_those_of_finite_differences() -> None:
    torch.manual_seed(1)
    x = torch.randn(3, 6, dtype=torch.float64, requires_grad=True)
    weight = torch.rand(6, dtype=torch.float64, requires_grad=True)
    # the sums are float32 by design, hence the loose bound
    assert torch.autograd.gradcheck(
        lambda a, b: rms_norm(a, b, 1e-5), (x, weight), eps=1e-2, atol=1e-3, rtol=1e-2
    )


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_swiglu_is_silu_times_up(dtype: torch.dtype) -> None:
    torch.manual_seed(2)
    gate, up = (torch.randn(5, 16).to(dtype).requires_grad_() for _ in range(2))
    wanted = gradients(lambda: torch.nn.functional.silu(gate) * up, [gate, up])
    got = gradients(lambda: swiglu(gate, up), [gate, up])
    assert_close(got, wanted, dtype)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(
    "make", [lambda: LlamaMLP(LlamaConfig(**SIZES)), lambda: Phi3MLP(Phi3Config(**SIZES))]
)
def test_feed_forward_blocks_answer_as_before(
    make: Callable[[], nn.Module], dtype: torch.dtype
) -> None:
    torch.manual_seed(3)
    block = make().to(dtype)
    x = torch.randn(2, 5, 24).to(dtype).requires_grad_()
    inputs = [x, *block.parameters()]
    wanted = gradients(lambda: block(x), inputs)
    assert fuse_mlps(block) == 1
    assert_close(gradients(lambda: block(x), inputs), wanted, dtype)


def test_a_block_with_another_activation_keeps_its_own_form() -> None:
    block = LlamaMLP(LlamaConfig(**SIZES, hidden_act="gelu"))
    before = block.forward
    assert fuse_mlps(block) == 0
    assert block.forward == before


def test_a_norm_that_scales_by_one_plus_w_keeps_its_own_form() -> None:
    norm = GemmaRMSNorm(24, eps=1e-6)
    norm.variance_epsilon = 1e-6  # even under the name that llama has for it
    norm.weight.data.uniform_(-0.5, 0.5)
    assert fuse_norms(nn.ModuleList([norm])) == 0


def test_tiny_values_are_told_apart_as_well_as_large_ones() -> None:
    assert same(torch.tensor([1e-9, 2e-9]), torch.tensor([1e-9, 2e-9]))
    assert not same(torch.tensor([1e-9, 2e-9]), torch.tensor([1e-9, 2.1e-9]))
    assert not same(torch.ones(2), torch.ones(2, dtype=torch.bfloat16))


def test_every_piece_of_a_llama_is_swapped_in() -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaForCausalLM

    config = LlamaConfig(**SIZES, num_hidden_layers=2, num_key_value_heads=1, vocab_size=32)
    model = get_peft_model(LlamaForCausalLM(config), LoraConfig(target_modules=["q_proj"]))
    assert speed_up(model) == {"mlp": 2, "norm": 5, "lora": 2}
