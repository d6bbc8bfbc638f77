"""GGUF files become Hugging Face folders that compute the same, or are refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from gguf_files import byte_level_vocabulary, sentencepiece_vocabulary, write_gguf
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from finery.errors import FineryError
from finery.files import sha256_file, verify_folder
from finery.model.folder import content_hash
from finery.model.gguf_folder import import_gguf

IDS = torch.tensor([[3, 70, 81, 12, 200, 9, 9, 44]])


def tiny_model(kind: str, *, tied: bool = False, vocabulary: int = 261) -> PreTrainedModel:
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        kind,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=vocabulary,
        max_position_embeddings=64,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 50000.0},
        tie_word_embeddings=tied,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )
    return AutoModelForCausalLM.from_config(config).to(torch.bfloat16).eval()


def tiny_gguf(folder: Path, kind: str = "llama", pre: str = "smollm", **options: object) -> Path:
    tied = bool(options.pop("tied", False))
    return write_gguf(
        folder / "Tiny Chat.F32.gguf",
        tiny_model(kind, tied=tied),
        byte_level_vocabulary(pre),
        **options,  # pyright: ignore[reportArgumentType]
    )


@pytest.mark.parametrize(
    ("kind", "pre", "tied"),
    [
        ("llama", "smollm", True),
        ("llama", "gpt-2", False),
        ("qwen2", "qwen2", True),
        ("phi3", "gpt-2", False),
    ],
)
def test_the_folder_computes_what_the_model_computed(
    tmp_path: Path, kind: str, pre: str, tied: bool
) -> None:
    original = tiny_model(kind, tied=tied)
    folder = import_gguf(tiny_gguf(tmp_path, kind, pre, tied=tied))
    loaded = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    assert type(loaded) is type(original)
    assert torch.equal(loaded(IDS).logits, original(IDS).logits)


def test_the_folder_has_the_models_own_configuration(tmp_path: Path) -> None:
    folder = import_gguf(tiny_gguf(tmp_path, tied=True))
    config = json.loads((folder / "config.json").read_text())
    generation = json.loads((folder / "generation_config.json").read_text())
    wanted = {
        "architectures": ["LlamaForCausalLM"],
        "bos_token_id": 1,
        "dtype": "bfloat16",
        "eos_token_id": 2,
        "max_position_embeddings": 64,
        "model_type": "llama",
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": True,
    }
    assert wanted.items() <= config.items()
    assert config["rope_parameters"]["rope_theta"] == 50000.0
    assert not {"_name_or_path", "_model_name_or_path"} & set(config)
    assert not generation.get("_from_model_config")
    assert "quantization_config" not in config
    assert generation["eos_token_id"] == [2]
    assert "license: mit" in (folder / "README.md").read_text()


def test_phi3_keeps_its_sliding_window_and_its_context(tmp_path: Path) -> None:
    extra = {"phi3.attention.sliding_window": 31}
    folder = import_gguf(tiny_gguf(tmp_path, "phi3", "gpt-2", extra=extra))
    config = AutoConfig.from_pretrained(folder)
    assert (config.sliding_window, config.original_max_position_embeddings) == (31, 64)


def test_an_end_of_turn_token_of_its_own_also_stops_generation(tmp_path: Path) -> None:
    folder = import_gguf(tiny_gguf(tmp_path, extra={"tokenizer.ggml.eot_token_id": 0}))
    assert json.loads((folder / "generation_config.json").read_text())["eos_token_id"] == [2, 0]


def test_digits_are_cut_one_by_one_as_smollm_was_trained(tmp_path: Path) -> None:
    folder = import_gguf(tiny_gguf(tmp_path))
    raw = Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert raw.pre_tokenizer is not None
    pieces = [piece for piece, _ in raw.pre_tokenizer.pre_tokenize_str("in  2026")]
    assert pieces == ["in", "ĠĠ", "2", "0", "2", "6"]


def test_qwen_text_is_normalised_as_published(tmp_path: Path) -> None:
    folder = import_gguf(tiny_gguf(tmp_path, "qwen2", "qwen2"))
    raw = Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert raw.encode("e\u0301").ids == raw.encode("\u00e9").ids


def test_the_tokenizer_loads_as_plain_transformers_loads_it(tmp_path: Path) -> None:
    folder = import_gguf(tiny_gguf(tmp_path))
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    assert settings["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert settings["model_max_length"] == 64
    tokenizer = AutoTokenizer.from_pretrained(folder)
    raw = Tokenizer.from_file(str(folder / "tokenizer.json"))
    text = "<|im_start|>user\n he has 12  apples<|im_end|>"
    ids = tokenizer(text)["input_ids"]
    assert ids == raw.encode(text).ids
    assert (ids[0], ids[-1], ids.count(259)) == (1, 2, 1)
    assert tokenizer.decode(ids) == text
    assert tokenizer.apply_chat_template([{"role": "user", "content": "x"}], tokenize=False) == "x"


def test_phi3_ids_are_those_of_llama_cpp(tmp_path: Path, kit: Path) -> None:
    published = json.loads((kit / "tokenizer/phi-3-mini-4k/tokenizer.json").read_text())
    path = write_gguf(
        tmp_path / "phi.gguf",
        tiny_model("phi3", vocabulary=32064),
        sentencepiece_vocabulary(published, 32064),
        extra={"tokenizer.ggml.add_bos_token": 0},
    )
    tokenizer = AutoTokenizer.from_pretrained(import_gguf(path))
    lines = (kit / "tokenizer/vectors/phi3_vectors.jsonl").read_text().splitlines()
    vectors = [json.loads(line) for line in lines]
    wrong = [v["text"] for v in vectors if tokenizer(v["text"])["input_ids"] != v["ids"]]
    assert len(vectors) == 47
    assert wrong == []


def test_the_same_file_gives_the_same_bytes_and_is_converted_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tiny_gguf(tmp_path)
    first = import_gguf(path)
    before = (first / "model.safetensors").stat().st_mtime_ns
    assert import_gguf(path) == first
    assert (first / "model.safetensors").stat().st_mtime_ns == before
    assert first.name.startswith("tiny-chat.f32-")
    assert verify_folder(first) == []
    modes = {(first / name).stat().st_mode for name in ("config.json", "model.safetensors")}
    assert len(modes) == 1
    monkeypatch.setenv("FINERY_HOME", str(tmp_path / "other"))
    second = import_gguf(path)
    assert second != first
    assert content_hash(second) == content_hash(first)
    assert sha256_file(second / "tokenizer.json") == sha256_file(first / "tokenizer.json")


def test_a_file_that_is_no_gguf_is_refused(tmp_path: Path, own_home: Path) -> None:
    path = tmp_path / "broken.gguf"
    path.write_bytes(b"GGML" + bytes(64))
    with pytest.raises(FineryError, match=r"broken\.gguf is not a whole GGUF file"):
        import_gguf(path)
    assert not (own_home / "models").exists()


def test_a_gguf_cut_short_is_refused(tmp_path: Path) -> None:
    path = tiny_gguf(tmp_path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(FineryError, match="is not a whole GGUF file"):
        import_gguf(path)


def test_an_architecture_we_cannot_carry_over_is_refused(tmp_path: Path) -> None:
    path = tiny_gguf(tmp_path, architecture="gemma2")
    with pytest.raises(FineryError, match="architecture is 'gemma2', and llama, qwen2 and phi3"):
        import_gguf(path)


@pytest.mark.parametrize(
    ("pre", "options", "reason"),
    [
        ("smollm", {"extra_tensors": ["rope_freqs.weight"]}, "has the tensors rope_freqs.weight"),
        (
            "smollm",
            {"extra": {"llama.rope.scaling.type": "yarn"}},
            r"positions are scaled \(yarn\)",
        ),
        ("smollm", {"extra": {"llama.attention.key_length": 16}}, "a part of each attention head"),
        ("llama-bpe", {}, "splits text by 'llama-bpe'"),
    ],
)
def test_what_would_be_lost_in_silence_is_refused(
    tmp_path: Path, pre: str, options: dict, reason: str
) -> None:
    with pytest.raises(FineryError, match=reason):
        import_gguf(tiny_gguf(tmp_path, pre=pre, **options))
