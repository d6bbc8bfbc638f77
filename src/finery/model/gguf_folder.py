"""A GGUF file, unpacked once into a plain Hugging Face folder with bf16 weights.

transformers reads the weights and the vocabulary
(https://huggingface.co/docs/transformers/gguf). What it would pass over in silence is refused
here, and what a GGUF says only by a name (how text is cut before the merges) is put right:
a model whose ids or positions are slightly off still talks, and is never noticed.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Splitting by the name in
`tokenizer.ggml.pre`: `llm_tokenizer_bpe` in llama.cpp's src/llama-vocab.cpp.
"""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path
from typing import Any

from finery.errors import FineryError
from finery.files import home, new_folder, sha256_json, write_atomic
from finery.model.folder import check_folder
from finery.model.hashing import file_hash
from finery.model.mlflow_folder import folder_name

# Part of the name of every converted folder: raise it when a conversion would come out different.
CONVERSION = 1
ARCHITECTURES = ("llama", "qwen2", "phi3")
BYTE_LEVEL_SPLITS = ("smollm", "qwen2", "gpt-2")

# Every tensor these architectures may have. One more (rope_freqs, rope_factors_long, experts)
# changes what the model computes, and transformers would leave it out without a word.
KNOWN_TENSOR = re.compile(
    r"(token_embd|output|output_norm)\.weight"
    r"|blk\.\d+\.(attn_norm|ffn_norm|attn_output|attn_qkv|ffn_gate|ffn_up|ffn_down)\.weight"
    r"|blk\.\d+\.attn_[qkv]\.(weight|bias)"
)


def import_gguf(path: Path) -> Path:
    """The Hugging Face folder of a GGUF file, under the finery home; unpacked by the first call.

    Peak memory is about twice the bf16 weights. A crash leaves no folder. Raises FineryError
    when the file is damaged or holds something that cannot be carried over exactly.
    """
    digest = sha256_json([file_hash(path), CONVERSION])
    final = home() / "models" / f"{folder_name(path.stem)}-{digest[:8]}"
    if not final.is_dir():
        metadata = _read_metadata(path)
        with new_folder(final) as temporary:
            _write_model(path, metadata, temporary)
            _write_tokenizer(path, metadata, temporary)
            write_atomic(temporary / "README.md", _card(path, metadata))
            check_folder(temporary, str(path))
    return final


def _read_metadata(path: Path) -> dict[str, Any]:
    """The file's key-value pairs, after refusing what the conversion does not carry over."""
    from gguf import GGUFReader

    try:
        reader = GGUFReader(path)
        metadata = {
            key: field.contents()
            for key, field in reader.fields.items()
            if key != "tokenizer.ggml.merges"
        }
        tensors = [tensor.name for tensor in reader.tensors]
    except (ValueError, IndexError, KeyError, UnicodeDecodeError) as error:
        raise FineryError(f"{path} is not a whole GGUF file: {error}. Get it again.") from error
    if reasons := _unsupported(metadata, tensors):
        raise FineryError(
            f"{path} cannot be converted exactly: {'; '.join(reasons)}. Use the safetensors "
            "version of the model."
        )
    return metadata


def _unsupported(metadata: dict[str, Any], tensors: list[str]) -> list[str]:
    architecture = metadata.get("general.architecture")
    if architecture not in ARCHITECTURES:
        return [f"its architecture is {architecture!r}, and {_either(ARCHITECTURES)} are supported"]
    reasons = []
    if unknown := [name for name in tensors if not KNOWN_TENSOR.fullmatch(name)]:
        reasons.append(f"it has the tensors {', '.join(sorted(unknown)[:3])}")
    if "token_embd.weight" not in tensors:
        reasons.append("it has no weights, only a vocabulary")
    scaling = metadata.get(f"{architecture}.rope.scaling.type", "none")
    if scaling != "none":
        reasons.append(f"its positions are scaled ({scaling})")
    rotated = metadata.get(f"{architecture}.rope.dimension_count")
    if rotated and rotated != _head_size(metadata, architecture):
        reasons.append("it rotates a part of each attention head only")
    kind = metadata.get("tokenizer.ggml.model")
    split = metadata.get("tokenizer.ggml.pre")
    if kind == "gpt2" and split not in BYTE_LEVEL_SPLITS:
        reasons.append(
            f"its tokenizer splits text by {split!r}, not by {_either(BYTE_LEVEL_SPLITS)}"
        )
    elif kind not in ("gpt2", "llama"):
        reasons.append(f"its tokenizer is of the kind {kind!r}, not gpt2 or llama")
    return reasons


def _head_size(metadata: dict[str, Any], architecture: str) -> int:
    width = metadata[f"{architecture}.embedding_length"]
    heads = metadata[f"{architecture}.attention.head_count"]
    return metadata.get(f"{architecture}.attention.key_length", width // heads)


def _either(names: tuple[str, ...]) -> str:
    return ", ".join(names[:-1]) + " and " + names[-1]


def _write_model(path: Path, metadata: dict[str, Any], folder: Path) -> None:
    """config.json, generation_config.json and the weights as bf16 safetensors."""
    import torch
    from transformers import AutoModelForCausalLM, GgufConfig

    with contextlib.redirect_stderr(io.StringIO()):  # a bar of its own, which nothing turns off
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            path.parent,
            gguf_file=path.name,
            dtype=torch.bfloat16,
            quantization_config=GgufConfig(dequantize=True),
            output_loading_info=True,
        )
    model, report = loaded
    if absent := sorted(set(report["missing_keys"]) - set(model.all_tied_weights_keys)):
        raise FineryError(f"{path} lacks the weights of {', '.join(absent[:3])}. Get it again.")
    _complete_config(model.config, metadata)
    generation = model.generation_config
    stops = dict.fromkeys(
        metadata[key]
        for key in ("tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id")
        if key in metadata
    )
    generation._from_model_config = False  # or generate() would go back to the one in the config
    generation.eos_token_id = list(stops)
    generation.bos_token_id = model.config.bos_token_id
    generation.pad_token_id = model.config.pad_token_id
    with contextlib.redirect_stderr(io.StringIO()):
        model.save_pretrained(folder)
    for weights in folder.glob("*.safetensors"):
        # Written so that their owner alone can read them; a server may be somebody else.
        weights.chmod((folder / "config.json").stat().st_mode)


def _complete_config(config: Any, metadata: dict[str, Any]) -> None:
    """What transformers leaves at its class defaults, which are another model's values."""
    architecture = metadata["general.architecture"]
    del config._model_name_or_path  # the title, which later versions would take for an address
    config.bos_token_id = metadata.get("tokenizer.ggml.bos_token_id")
    config.eos_token_id = metadata.get("tokenizer.ggml.eos_token_id")
    config.pad_token_id = metadata.get("tokenizer.ggml.padding_token_id")
    # 1e-05 is stored as a 32-bit number and comes back as 9.999999747378752e-06.
    config.rms_norm_eps = float(f"{config.rms_norm_eps:.6g}")
    if architecture == "phi3":
        config.sliding_window = metadata.get("phi3.attention.sliding_window")
        config.original_max_position_embeddings = metadata.get(
            "phi3.rope.scaling.original_context_length", config.max_position_embeddings
        )


def _write_tokenizer(path: Path, metadata: dict[str, Any], folder: Path) -> None:
    """tokenizer.json as the model was trained with, its configuration and the chat template."""
    from tokenizers import normalizers, pre_tokenizers, processors
    from transformers import AutoTokenizer

    from finery.chat.tokenizer import save_tokenizer

    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    backend = tokenizer.backend_tokenizer
    byte_level = metadata["tokenizer.ggml.model"] == "gpt2"
    if not byte_level:
        # llama.cpp, and the published files of Llama 2 and Phi-3, put the space before each
        # piece of text between special tokens; `Metaspace` would put it at the start only.
        backend.normalizer = normalizers.Sequence(
            [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        )
        backend.pre_tokenizer = None
    elif metadata["tokenizer.ggml.pre"] == "smollm":
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
            ]
        )
    elif metadata["tokenizer.ggml.pre"] == "qwen2":
        backend.normalizer = normalizers.NFC()
    bos = (
        tokenizer.bos_token
        if metadata.get("tokenizer.ggml.add_bos_token", not byte_level)
        else None
    )
    backend.post_processor = processors.TemplateProcessing(
        single=f"{bos}:0 $A:0" if bos else "$A:0",
        pair=f"{bos}:0 $A:0 {bos}:1 $B:1" if bos else "$A:0 $B:1",
        special_tokens=[(bos, tokenizer.bos_token_id)] if bos else [],
    )
    context = metadata.get(f"{metadata['general.architecture']}.context_length")
    if context:
        tokenizer.model_max_length = context
    save_tokenizer(tokenizer, folder)


def _card(path: Path, metadata: dict[str, Any]) -> str:
    """A model card that keeps the licence and says that the weights were quantised."""
    licence = metadata.get("general.license", "unknown")
    name = metadata.get("general.name", path.stem)
    return (
        f"---\nlicense: {licence}\n---\n\n# {name}\n\n"
        f"Unpacked by finery from `{path.name}` (sha256 {file_hash(path)}). The weights were "
        "quantised there; unpacking them does not bring back what quantising lost.\n"
    )
