"""The tokenizer of a folder gives the ids of its own tokenizer.json, or is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from chat_templates import CHATML, write_tokenizer
from transformers import PreTrainedTokenizerFast

from finery.chat.tokenizer import load_tokenizer, plain_ids, probe_texts, save_tokenizer
from finery.errors import FineryError


def vectors(kit: Path) -> list[tuple[str, list[int]]]:
    """The public test vectors of the Phi-3 tokenizer (llama.cpp, models/ggml-vocab-phi-3)."""
    lines = (kit / "tokenizer/vectors/phi3_vectors.jsonl").read_text(encoding="utf-8")
    return [(row["text"], row["ids"]) for row in map(json.loads, lines.splitlines())]


@pytest.mark.parametrize("config", ["tokenizer_config.original.json", "tokenizer_config.json"])
@pytest.mark.parametrize("name", ["phi-3-mini-4k", "phi-3-mini-128k"])
def test_phi_3_as_microsoft_publishes_it_gives_all_47_public_vectors(
    name: str, config: str, kit: Path, tmp_path: Path
) -> None:
    source = kit / "tokenizer" / name
    shutil.copy(source / "tokenizer.json", tmp_path)
    shutil.copy(source / config, tmp_path / "tokenizer_config.json")
    published = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert ("original" in config) == (published["tokenizer_class"] == "LlamaTokenizer")
    tokenizer = load_tokenizer(tmp_path)
    found = [(text, plain_ids(tokenizer, text)) for text, _ in vectors(kit)]
    assert found == vectors(kit)
    assert len(found) == 47


def test_phi_3_gives_the_ids_after_a_special_token_that_other_servers_give(
    kit: Path, tmp_path: Path
) -> None:
    source = kit / "tokenizer" / "phi-3-mini-4k"
    shutil.copy(source / "tokenizer.json", tmp_path)
    shutil.copy(source / "tokenizer_config.original.json", tmp_path / "tokenizer_config.json")
    tokenizer = load_tokenizer(tmp_path)
    assert plain_ids(tokenizer, "<|user|>\nHello") == [32010, 15043]


def test_a_tokenizer_that_disagrees_with_its_published_file_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tokenizer(tmp_path, CHATML.template, CHATML.special)
    original = PreTrainedTokenizerFast.from_pretrained

    def with_other_ids(folder: Path) -> PreTrainedTokenizerFast:
        tokenizer = original(folder)
        tokenizer.add_tokens(["Hello"])  # what a rebuilt pipeline amounts to
        return tokenizer

    monkeypatch.setattr(PreTrainedTokenizerFast, "from_pretrained", with_other_ids)
    with pytest.raises(FineryError, match=r"for 'Hello world', but its own tokenizer\.json gives"):
        load_tokenizer(tmp_path)


def test_a_folder_without_a_tokenizer_is_refused_with_what_to_copy(tmp_path: Path) -> None:
    with pytest.raises(FineryError, match=r"holds no tokenizer\. Copy tokenizer\.json"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("text", ["{", "{}", "[]"])
def test_damaged_tokenizer_files_are_refused_with_what_to_restore(
    name: str, text: str, tmp_path: Path
) -> None:
    folder = write_tokenizer(tmp_path, CHATML.template, CHATML.special)
    (folder / name).write_text(text)
    if name == "tokenizer_config.json" and text == "{}":
        return  # a tokenizer without settings is one all the same
    with pytest.raises(FineryError, match=r"are damaged .* Restore"):
        load_tokenizer(folder)


def test_a_saved_tokenizer_gives_the_same_ids_and_names_the_plain_class(tmp_path: Path) -> None:
    first = load_tokenizer(write_tokenizer(tmp_path / "a", CHATML.template, CHATML.special))
    (tmp_path / "b").mkdir()
    save_tokenizer(first, tmp_path / "b")
    config = json.loads((tmp_path / "b/tokenizer_config.json").read_text())
    assert config["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert not {"is_local", "local_files_only", "backend"} & config.keys()
    second = load_tokenizer(tmp_path / "b")
    for text in probe_texts(first):
        assert plain_ids(first, text) == plain_ids(second, text)
    assert second.chat_template == first.chat_template


def test_nothing_is_added_before_or_after_a_text(kit: Path) -> None:
    tokenizer = load_tokenizer(kit / "model" / "stories260k-llama")
    assert tokenizer("a")["input_ids"][0] != 1  # this published file adds none itself
    assert plain_ids(tokenizer, "<s>")[0] == 1
    assert plain_ids(tokenizer, "") == []


def test_texts_behind_special_tokens_are_among_those_compared(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(write_tokenizer(tmp_path, CHATML.template, CHATML.special))
    assert "<|im_end|>\nHello" in probe_texts(tokenizer)
