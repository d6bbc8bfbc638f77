"""The one-pass LoRA layer gives what PEFT's layer gives, and leaves other layers to PEFT."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from finery.model.lora import Lora, attach_lora, lora_layers, merged_weight
from finery.model.lora_linear import fuse_lora

IDS = torch.randint(0, 40, (2, 11), generator=torch.Generator().manual_seed(1))


def tuned(dtype: torch.dtype = torch.float32, **changes: Any) -> Any:
    """A model whose adapter has weights as after training."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=40,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        attention_bias=True,
        initializer_range=0.2,
        pad_token_id=0,
    )
    given: dict[str, Any] = {"r": 4, "alpha": 12, "dropout": 0.0, "targets": "auto"}
    lora = Lora(**{**given, "rslora": False, "dora": False, **changes})
    model = attach_lora(LlamaForCausalLM(config).to(dtype), lora)  # pyright: ignore
    random = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.add_(torch.randn(parameter.shape, generator=random) * 0.2)
    return model


def step(model: Any, autocast: bool = False) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Logits and the gradients of every trained weight."""
    model.zero_grad(set_to_none=True)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        logits = model(input_ids=IDS, use_cache=False).logits
    logits.float().square().mean().backward()
    grads = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return logits.detach().float(), grads


def relative(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("rslora", [False, True])
def test_logits_and_gradients_are_pefts(rslora: bool) -> None:
    plain, fused = tuned(rslora=rslora), tuned(rslora=rslora)
    assert fuse_lora(fused) == 14
    wanted, wanted_grads = step(plain)
    found, grads = step(fused)
    torch.testing.assert_close(found, wanted)
    assert grads.keys() == wanted_grads.keys()
    assert len(grads) == 28
    for name, grad in grads.items():
        torch.testing.assert_close(grad, wanted_grads[name])


@pytest.mark.parametrize(("dtype", "autocast"), [(torch.bfloat16, False), (torch.bfloat16, True)])
def test_in_16_bit_they_keep_16_bit_accuracy_and_gradients_stay_float32(
    dtype: torch.dtype, autocast: bool
) -> None:
    exact, fused = tuned(), tuned(dtype)
    fuse_lora(fused)
    wanted, wanted_grads = step(exact)
    found, grads = step(fused, autocast)
    assert relative(found, wanted) < 0.05
    assert {grad.dtype for grad in grads.values()} == {torch.float32}
    for name, grad in grads.items():
        assert relative(grad, wanted_grads[name]) < 0.15, name


@pytest.mark.parametrize("changes", [{"dropout": 0.1}, {"dora": True}])
def test_layers_it_does_not_fit_stay_pefts(changes: dict[str, Any]) -> None:
    assert fuse_lora(tuned(**changes)) == 0


def test_a_disabled_adapter_is_off_and_the_layer_answers_as_the_base() -> None:
    model = tuned()
    fuse_lora(model)
    on = step(model)[0]
    with torch.no_grad(), model.disable_adapter():
        off = model(input_ids=IDS, use_cache=False).logits
    with torch.no_grad():
        base = model.unload()(input_ids=IDS, use_cache=False).logits
    assert torch.equal(off, base)
    assert not torch.allclose(on, off)


def test_merging_folds_in_what_the_fused_layer_computes() -> None:
    model = tuned()
    fuse_lora(model)
    for _, layer in lora_layers(model):
        peft_layer: Any = layer
        base = peft_layer.get_base_layer()
        x = torch.randn(5, base.in_features, generator=torch.Generator().manual_seed(4))
        wanted = torch.nn.functional.linear(x, merged_weight(layer), base.bias)
        torch.testing.assert_close(peft_layer(x), wanted)


def test_saved_names_do_not_change() -> None:
    model, plain = tuned(), tuned()
    fuse_lora(model)
    assert list(model.state_dict()) == list(plain.state_dict())
