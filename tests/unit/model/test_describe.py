"""A model folder tells its facts without being loaded."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from model_folders import write, write_model

from finery.model.describe import chat_template, describe_folder


def test_the_facts_of_a_folder(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", shards=3)
    (folder / "README.md").write_text(
        "---\nlanguage: en\nlicense: apache-2.0\ntags: []\n---\n# x\n"
    )
    facts = describe_folder(folder)
    assert (facts.parameters, facts.dtype, facts.context) == (36, "float32", 128)
    assert (facts.architecture, facts.licence) == ("LlamaForCausalLM", "apache-2.0")
    assert facts.template_sha256 == hashlib.sha256(b"{{ messages }}").hexdigest()
    assert facts.bytes == sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def test_a_real_model_tells_its_size(kit: Path) -> None:
    facts = describe_folder(kit / "model" / "stories15m-phi3")
    assert facts.architecture == "Phi3ForCausalLM"
    assert (facts.dtype, facts.context) == ("bfloat16", 2048)
    assert 15_000_000 < facts.parameters < 15_300_000


def test_what_a_folder_does_not_say_stays_empty(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model")
    write(folder / "config.json", {"model_type": "gpt2"})
    (folder / "tokenizer_config.json").unlink()
    facts = describe_folder(folder)
    assert (facts.architecture, facts.context) == ("gpt2", 0)
    assert (facts.licence, facts.template_sha256) == ("", "")


@pytest.mark.parametrize("card", ["# no front matter\nlicense: mit\n", "---\ntitle: x\n---\n", ""])
def test_only_the_front_matter_names_a_licence(tmp_path: Path, card: str) -> None:
    folder = write_model(tmp_path / "model")
    (folder / "README.md").write_text(card)
    assert describe_folder(folder).licence == ""


def test_the_template_file_wins_and_named_templates_have_a_default(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model")
    named = [{"name": "rag", "template": "R"}, {"name": "default", "template": "D"}]
    write(folder / "tokenizer_config.json", {"chat_template": named})
    assert chat_template(folder) == "D"
    (folder / "chat_template.jinja").write_text("J")
    assert chat_template(folder) == "J"
