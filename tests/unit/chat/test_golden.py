"""A model folder serves only where it gives the ids it was trained with."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from chat_templates import CASES, CHATML, Case, write_tokenizer

from finery.chat.golden import GOLDEN_FILE, PROBE_CONVERSATIONS, golden_vectors
from finery.chat.render import load_renderer
from finery.errors import FineryError


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    renderer = load_renderer(write_tokenizer(tmp_path / "base", CHATML.template, CHATML.special))
    renderer.save(tmp_path / "tuned")
    return tmp_path / "tuned"


def edit(path: Path, change: Callable[[Any], None]) -> None:
    """Change a JSON file in place."""
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_saved_renderer_loads_again_as_the_same(case: Case, tmp_path: Path) -> None:
    first = load_renderer(write_tokenizer(tmp_path / "base", case.template, case.special))
    first.save(tmp_path / "tuned")
    second = load_renderer(tmp_path / "tuned")
    assert second.fingerprint == first.fingerprint
    assert golden_vectors(second) == golden_vectors(first)


@pytest.mark.parametrize("name", ["phi-3-mini-4k", "phi-3-mini-128k"])
def test_phi_3_as_published_survives_a_save(name: str, kit: Path, tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    shutil.copy(kit / "tokenizer" / name / "tokenizer.json", tmp_path / "base")
    shutil.copy(
        kit / "tokenizer" / name / "tokenizer_config.original.json",
        tmp_path / "base" / "tokenizer_config.json",
    )
    first = load_renderer(tmp_path / "base")
    first.save(tmp_path / "tuned")
    assert load_renderer(tmp_path / "tuned").fingerprint == first.fingerprint


def test_the_file_says_what_a_server_needs_to_know(saved: Path) -> None:
    renderer = load_renderer(saved)
    value = json.loads((saved / GOLDEN_FILE).read_text())
    assert value["template_sha256"] == renderer.template_hash
    assert value["stop_ids"] == list(renderer.stop_ids)
    assert value["end_of_turn"] == "<|im_end|>"
    assert len(value["golden"]["conversations"]) == len(PROBE_CONVERSATIONS)
    assert any(sum(row["trained"]) for row in value["golden"]["conversations"])


TAMPERED: list[tuple[str, Callable[[Any], None]]] = [
    ("texts", lambda g: g["texts"][0]["ids"].append(5)),
    ("ids", lambda g: g["conversations"][1]["ids"].pop()),
    ("trained", lambda g: g["conversations"][0]["trained"].__setitem__(-2, 0)),
    ("prompt_ids", lambda g: g["conversations"][2]["prompt_ids"].__setitem__(0, 9)),
]


@pytest.mark.parametrize(("name", "change"), TAMPERED, ids=[name for name, _ in TAMPERED])
def test_other_ids_or_masks_than_at_training_time_are_refused(
    saved: Path, name: str, change: Callable[[Any], None]
) -> None:
    edit(saved / GOLDEN_FILE, lambda value: change(value["golden"]))
    with pytest.raises(FineryError, match="was trained with other token ids"):
        load_renderer(saved)


def test_a_tokenizer_file_that_was_replaced_is_refused(saved: Path, tmp_path: Path) -> None:
    other = write_tokenizer(tmp_path / "other", CHATML.template, (*CHATML.special, "Hello"))
    shutil.copy(other / "tokenizer.json", saved)
    with pytest.raises(FineryError, match="was trained with other token ids"):
        load_renderer(saved)


def test_a_template_that_was_edited_is_refused_even_where_it_gives_the_same_ids(
    saved: Path,
) -> None:
    template = saved / "chat_template.jinja"
    template.write_text(template.read_text() + "{# a comment #}")
    with pytest.raises(FineryError, match="is not the one the model was trained with"):
        load_renderer(saved)


def test_a_template_that_gives_other_ids_is_refused(saved: Path) -> None:
    template = saved / "chat_template.jinja"
    template.write_text(template.read_text().replace("\\n", " ").replace("'\n'", "' '"))
    with pytest.raises(FineryError):
        load_renderer(saved)


def test_a_damaged_golden_file_is_named(saved: Path) -> None:
    (saved / GOLDEN_FILE).write_text("{")
    with pytest.raises(FineryError, match=GOLDEN_FILE):
        load_renderer(saved)


@pytest.mark.parametrize("value", [[], {}, {"golden": {"texts": [], "conversations": []}}])
def test_a_golden_file_without_ids_proves_nothing_and_is_refused(saved: Path, value: Any) -> None:
    (saved / GOLDEN_FILE).write_text(json.dumps(value))
    with pytest.raises(FineryError, match=f"{GOLDEN_FILE} is damaged"):
        load_renderer(saved)


def test_two_swapped_tokens_that_no_golden_text_holds_are_found(saved: Path) -> None:
    path = saved / "tokenizer.json"
    content = json.loads(path.read_text())
    vocabulary = content["model"]["vocab"]
    one, two = [token for token in vocabulary if token in ("Q", "Z")]
    vocabulary[one], vocabulary[two] = vocabulary[two], vocabulary[one]
    path.write_text(json.dumps(content))
    with pytest.raises(FineryError, match=r"another vocabulary .* Restore tokenizer\.json"):
        load_renderer(saved)
