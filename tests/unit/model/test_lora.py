"""Adapters sit where they should, start from nothing, and fold in exactly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft.tuners.lora import LoraLayer
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MptConfig,
    MptForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PreTrainedModel,
)

from finery.errors import FineryError
from finery.model.lora import (
    TARGETS,
    Lora,
    attach_lora,
    load_adapter,
    lora_layers,
    merge,
    merged_weight,
    target_modules,
)

SMALL: dict[str, Any] = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "initializer_range": 0.2,
}


def small(family: str, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    torch.manual_seed(0)
    if family == "llama":
        model: PreTrainedModel = LlamaForCausalLM(LlamaConfig(**SMALL, attention_bias=True))
    elif family == "phi3":
        model = Phi3ForCausalLM(Phi3Config(**SMALL))
    else:
        sizes = {"vocab_size": 40, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32}
        config = GPT2Config(**sizes, bos_token_id=1, eos_token_id=2)
        model = GPT2LMHeadModel(config)
    return model.to(dtype).eval()  # pyright: ignore[reportArgumentType]


def settings(**changes: Any) -> Lora:
    given: dict[str, Any] = {"r": 4, "alpha": 12, "dropout": 0.0, "targets": "auto"}
    return Lora(**{**given, "rslora": False, "dora": False, **changes})


def randomise(tuned: Any) -> Any:
    """Adapter weights as after training."""
    random = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if "lora_" in name:
                noise = torch.randn(parameter.shape, generator=random) * 0.1
                parameter.add_(noise.abs() if "magnitude" in name else noise)
    return tuned


@pytest.mark.parametrize("family", ["llama", "phi3"])
def test_every_linear_layer_of_a_block_carries_an_adapter_and_nothing_else_trains(
    family: str,
) -> None:
    tuned = attach_lora(small(family), settings())
    names = [name.rsplit(".", 1)[-1] for name, _ in lora_layers(tuned)]
    assert sorted(names) == sorted(TARGETS[family] * 2)
    trained = [name for name, p in tuned.named_parameters() if p.requires_grad]
    assert len(trained) == 2 * len(names)
    assert all("lora_A" in name or "lora_B" in name for name in trained)


def test_a_new_adapter_changes_no_answer_and_its_start_is_the_seeds() -> None:
    ids = torch.arange(12)[None]
    base = small("llama")
    with torch.no_grad():
        before = base(ids).logits
    starts = []
    for seed in (1, 1, 2):
        model = small("llama")
        torch.manual_seed(seed)
        tuned = attach_lora(model, settings())
        with torch.no_grad():
            assert torch.equal(tuned(ids).logits, before)
        starts.append(torch.cat([p.flatten() for p in tuned.parameters() if p.requires_grad]))
    assert torch.equal(starts[0], starts[1])
    assert not torch.equal(starts[0], starts[2])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_trained_weights_are_float32_whatever_the_base_is(dtype: torch.dtype) -> None:
    tuned = attach_lora(small("llama", dtype), settings())
    assert {p.dtype for p in tuned.parameters() if p.requires_grad} == {torch.float32}
    assert {p.dtype for p in tuned.parameters() if not p.requires_grad} == {dtype}


def test_named_modules_alone_carry_the_adapter() -> None:
    tuned = attach_lora(small("llama"), settings(targets=" q_proj, v_proj "))
    names = {name.rsplit(".", 1)[-1] for name, _ in lora_layers(tuned)}
    assert names == {"q_proj", "v_proj"}


@pytest.mark.parametrize("targets", ["q_proj,wq", "query", ",", "embed_tokens"])
def test_names_that_are_not_linear_layers_of_the_model_are_refused_with_those_that_are(
    targets: str,
) -> None:
    with pytest.raises(FineryError, match=r"lora_target_modules names .*down_proj, gate_proj"):
        target_modules(small("llama"), targets)


def test_a_family_that_is_not_listed_takes_every_linear_layer() -> None:
    config = MptConfig(d_model=16, n_heads=2, n_layers=1, vocab_size=40)
    model = MptForCausalLM(config)
    assert target_modules(model, "auto") == "all-linear"
    tuned = attach_lora(model, settings())
    names = {name.rsplit(".", 1)[-1] for name, _ in lora_layers(tuned)}
    assert names == {"Wqkv", "out_proj", "up_proj", "down_proj"}


def test_the_folded_weight_is_w_plus_scale_times_b_a() -> None:
    for rslora, scale in ((False, 12 / 4), (True, 12 / 2)):
        tuned = randomise(attach_lora(small("llama"), settings(rslora=rslora)))
        layer: Any = next(layer for _, layer in lora_layers(tuned))
        a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        wanted = layer.get_base_layer().weight + scale * (b @ a)
        torch.testing.assert_close(merged_weight(layer), wanted.detach())


KINDS = [settings(), settings(rslora=True), settings(dora=True)]


@pytest.mark.parametrize("kind", KINDS, ids=["lora", "rslora", "dora"])
@pytest.mark.parametrize("family", ["llama", "phi3", "gpt2"])
def test_a_merged_model_answers_as_the_adapter_does(family: str, kind: Lora) -> None:
    tuned = randomise(attach_lora(small(family), kind)).eval()
    ids = torch.arange(12)[None]
    with torch.no_grad():
        base = small(family)(ids).logits
        wanted = tuned(ids).logits
        merged = merge(tuned)
        found = merged(ids).logits
    assert not any(isinstance(module, LoraLayer) for module in merged.modules())
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    assert float((wanted - base).abs().max()) > 0.01


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`:UserWarning")
def test_a_merged_output_layer_leaves_the_embedding_it_was_tied_to_as_it_was(
    tmp_path: Path,
) -> None:
    torch.manual_seed(0)
    config = LlamaConfig(**{**SMALL, "tie_word_embeddings": True})
    tuned = attach_lora(LlamaForCausalLM(config).eval(), Lora(4, 8, 0.0, "lm_head", False, False))
    for name, parameter in tuned.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_()
    ids = torch.arange(12).view(1, -1)
    with torch.no_grad():
        wanted = tuned(ids).logits
        merged = merge(tuned)
        torch.testing.assert_close(merged(ids).logits, wanted)
        merged.save_pretrained(tmp_path)
        again = LlamaForCausalLM.from_pretrained(tmp_path).eval()
        torch.testing.assert_close(again(ids).logits, wanted)


def test_peft_merges_to_the_same_weights() -> None:
    ours = merge(randomise(attach_lora(small("llama"), settings())))
    peft = randomise(attach_lora(small("llama"), settings())).merge_and_unload()
    theirs = dict(peft.named_parameters())
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter, theirs[name])


def test_a_bf16_base_is_merged_in_float32_and_rounded_once() -> None:
    tuned = randomise(attach_lora(small("llama", torch.bfloat16), settings()))
    layer: Any = next(layer for _, layer in lora_layers(tuned))
    wanted = merged_weight(layer)
    assert wanted.dtype == torch.float32
    merged = merge(tuned)
    weight = merged.get_submodule("model.layers.0.self_attn.q_proj").weight
    assert torch.equal(weight, wanted.to(torch.bfloat16))


def test_a_saved_adapter_loads_on_its_base_frozen_and_answers_the_same(tmp_path: Path) -> None:
    tuned = randomise(attach_lora(small("llama"), settings())).eval()
    tuned.save_pretrained(str(tmp_path), save_embedding_layers=False)
    loaded = load_adapter(small("llama"), tmp_path)
    ids = torch.arange(12)[None]
    with torch.no_grad():
        assert torch.equal(loaded(ids).logits, tuned(ids).logits)
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    assert not loaded.training
