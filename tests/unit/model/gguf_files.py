"""Writes tiny GGUF files, the way llama.cpp's converter lays them out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from transformers import PreTrainedModel

BLOCK = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.qkv_proj": "attn_qkv",
    "mlp.gate_proj": "ffn_gate",
    "mlp.gate_up_proj": "ffn_up",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
OUTSIDE = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
NORMAL, UNKNOWN, CONTROL, BYTE = 1, 2, 3, 6


def write_gguf(
    path: Path,
    model: PreTrainedModel,
    vocabulary: Mapping[str, Any],
    *,
    extra: Mapping[str, Any] | None = None,
    extra_tensors: Sequence[str] = (),
    architecture: str = "",
) -> Path:
    """`model` and a vocabulary as a GGUF file with 32-bit weights."""
    config = model.config
    kind = architecture or config.model_type
    writer = gguf.GGUFWriter(str(path), kind)
    writer.add_name("tiny")
    writer.add_license("mit")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_vocab_size(config.vocab_size)
    _add_vocabulary(writer, vocabulary)
    for key, value in (extra or {}).items():
        add = writer.add_uint32 if isinstance(value, int) else writer.add_string
        add(key, value)
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        writer.add_tensor(_gguf_name(name), _layout(name, tensor, config))
    for name in extra_tensors:
        writer.add_tensor(name, np.ones(4, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_vocabulary(writer: gguf.GGUFWriter, vocabulary: Mapping[str, Any]) -> None:
    writer.add_tokenizer_model(vocabulary["model"])
    writer.add_tokenizer_pre(vocabulary["pre"])
    writer.add_token_list(vocabulary["tokens"])
    writer.add_token_types(vocabulary["types"])
    if "scores" in vocabulary:
        writer.add_token_scores(vocabulary["scores"])
    if "merges" in vocabulary:
        writer.add_token_merges(vocabulary["merges"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_chat_template("{% for m in messages %}{{ m['content'] }}{% endfor %}")


def _gguf_name(name: str) -> str:
    stem, _, leaf = name.rpartition(".")
    if stem in OUTSIDE:
        return f"{OUTSIDE[stem]}.{leaf}"
    _, _, layer, part = stem.split(".", 3)
    return f"blk.{layer}.{BLOCK[part]}.{leaf}"


def _layout(name: str, tensor: torch.Tensor, config: Any) -> np.ndarray:
    """llama.cpp keeps the rotary pairs of llama's q and k next to each other."""
    if config.model_type == "llama" and name.endswith(("q_proj.weight", "k_proj.weight")):
        count = config.num_attention_heads if "q_proj" in name else config.num_key_value_heads
        rows, columns = tensor.shape
        pairs = tensor.reshape(count, 2, rows // count // 2, columns)
        tensor = pairs.swapaxes(1, 2).reshape(rows, columns)
    return tensor.detach().float().numpy()


def sentencepiece_vocabulary(tokenizer: Mapping[str, Any], size: int) -> dict[str, Any]:
    """The vocabulary of a Llama-2-like tokenizer.json, spelt as a GGUF does."""
    ids = tokenizer["model"]["vocab"] | {
        token["content"]: token["id"] for token in tokenizer["added_tokens"]
    }
    tokens = [f"[PAD{number}]" for number in range(size)]
    for token, number in ids.items():
        tokens[number] = token
    special = {token["content"] for token in tokenizer["added_tokens"]}
    types = [CONTROL if token in special else NORMAL for token in tokens]
    types[0] = UNKNOWN
    for number, token in enumerate(tokens):
        if token.startswith("<0x"):
            types[number] = BYTE
    # A sentencepiece score is the rank of the merge that makes the token, negated.
    ranks: dict[str, int] = {}
    for rank, merge in enumerate(tokenizer["model"]["merges"]):
        ranks.setdefault("".join(merge.split(" ") if isinstance(merge, str) else merge), rank)
    scores = [-float(ranks.get(token, 10**6)) for token in tokens]
    return {"model": "llama", "pre": "default", "tokens": tokens, "types": types, "scores": scores}


def byte_level_vocabulary(pre: str) -> dict[str, Any]:
    """All bytes, three special tokens and two merges."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *bytes_to_unicode().values()]
    types = [CONTROL] * 3 + [NORMAL] * 256
    merges = ["h e", "Ġ h"]
    tokens += ["he", "Ġh"]
    types += [NORMAL] * 2
    return {"model": "gpt2", "pre": pre, "tokens": tokens, "types": types, "merges": merges}
