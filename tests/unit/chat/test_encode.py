"""Conversations become rows with every token accounted for, once per model and data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chat_templates import CHATML, GEMMA, LLAMA_2, Case, write_tokenizer

from finery.chat import encode as module
from finery.chat.conversation import Conversation
from finery.chat.encode import encode
from finery.chat.ledger import Ledger
from finery.chat.render import Renderer, load_renderer
from finery.chat.rows import TokenRows
from finery.errors import InputError
from finery.recipe.inputs import SETTINGS

POLICIES = SETTINGS["long_rows"].choices


def renderer_of(case: Case, folder: Path) -> Renderer:
    return load_renderer(write_tokenizer(folder / case.name, case.template, case.special))


@pytest.fixture
def renderer(tmp_path: Path) -> Renderer:
    return renderer_of(CHATML, tmp_path)


def random_chats(count: int, seed: int = 0) -> list[Conversation]:
    """Chats of one to four turns with or without a system message."""
    random = np.random.default_rng(seed)

    def text() -> str:
        return "x" * int(random.integers(1, 60))

    chats = []
    for row in range(1, count + 1):
        messages = [{"role": "system", "content": text()}] if random.random() < 0.5 else []
        for _ in range(int(random.integers(1, 5))):
            messages.append({"role": "user", "content": text()})
            messages.append({"role": "assistant", "content": text()})
        chats.append(Conversation(tuple(messages), "train.jsonl", row))
    return chats


def make(
    chats: list[Conversation], renderer: Renderer, policy: str = "auto", limit: int = 200
) -> tuple[TokenRows, Ledger]:
    return encode(chats, renderer, split="train", max_seq_length=limit, policy=policy)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("seed", range(4))
def test_every_token_is_trained_context_dropped_or_cut_under_every_policy(
    policy: str, seed: int, renderer: Renderer
) -> None:
    chats = random_chats(40, seed)
    limit = int(np.random.default_rng(seed).integers(40, 400))
    rows, ledger = make(chats, renderer, policy, limit)
    whole = [renderer.render(chat.messages) for chat in chats]
    assert ledger.total == sum(len(row.ids) for row in whole)
    assert ledger.trainable == sum(sum(row.trained) for row in whole)
    assert ledger.trained + ledger.context == len(rows.ids)
    assert ledger.trained == int(rows.trained.sum())
    assert ledger.total == ledger.trained + ledger.context + ledger.dropped + ledger.cut
    assert ledger.rows_read == len(chats) == ledger.rows_used + len(ledger.dropped_rows)
    assert ledger.trained_lost == ledger.trainable - ledger.trained
    assert all(rows.lengths <= limit)
    assert all(rows.trained_counts() > 0)
    lost = {loss.row for loss in (*ledger.cut_rows, *ledger.dropped_rows)}
    assert lost == {
        chat.row for chat, row in zip(chats, whole, strict=True) if len(row.ids) > limit
    }


def test_rows_are_what_the_renderer_gives_with_their_source_numbers(renderer: Renderer) -> None:
    chats = random_chats(7)
    rows, ledger = make(chats, renderer, limit=4000)
    for i, chat in enumerate(chats):
        whole = renderer.render(chat.messages)
        assert rows.row_ids(i).tolist() == whole.ids
        assert rows.row_trained(i).tolist() == whole.trained
        assert rows.rows[i] == chat.row
    assert (ledger.cut_rows, ledger.dropped_rows) == ((), ())


def test_rows_per_tokenisation_call_do_not_change_the_rows(
    renderer: Renderer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    chats = random_chats(11)
    first, _ = make(chats, renderer)
    monkeypatch.setenv("FINERY_HOME", str(tmp_path / "another home"))
    second, _ = encode(
        chats, renderer, split="train", max_seq_length=200, policy="auto", batch_size=2
    )
    assert np.array_equal(first.ids, second.ids)
    assert np.array_equal(first.trained, second.trained)


def count_calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    calls: list[int] = []
    original = module._render_all

    def counted(chats: Any, *args: Any) -> Any:
        calls.append(len(chats))
        return original(chats, *args)

    monkeypatch.setattr(module, "_render_all", counted)
    return calls


def test_a_second_start_renders_and_tokenises_nothing(
    renderer: Renderer, monkeypatch: pytest.MonkeyPatch
) -> None:
    chats = random_chats(9)
    first_rows, first_ledger = make(chats, renderer)

    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("tokenised again")

    monkeypatch.setattr(type(renderer.tokenizer), "__call__", never)
    monkeypatch.setattr(type(renderer.tokenizer), "apply_chat_template", never)
    rows, ledger = make(chats, renderer)
    assert ledger == first_ledger
    assert np.array_equal(rows.ids, first_rows.ids)
    assert np.array_equal(rows.trained, first_rows.trained)


def test_whatever_decides_the_rows_makes_them_anew(
    renderer: Renderer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chats = random_chats(5)
    make(chats, renderer)
    calls = count_calls(monkeypatch)
    make(chats, renderer)
    assert calls == []
    make(chats, renderer, limit=201)
    make(chats, renderer, policy="drop")
    make(chats[:4], renderer)
    make(chats, renderer_of(GEMMA, tmp_path))
    assert len(calls) == 4


def test_a_damaged_cache_entry_is_made_anew(
    renderer: Renderer, own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chats = random_chats(5)
    first, _ = make(chats, renderer)
    (entry,) = (own_home / "tokens").iterdir()
    (entry / "ids.npy").write_bytes(b"short")
    calls = count_calls(monkeypatch)
    again, _ = make(chats, renderer)
    assert calls == [5]
    assert np.array_equal(first.ids, again.ids)


def test_a_crash_while_the_cache_is_written_leaves_no_entry(
    renderer: Renderer, own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(module, "save_rows", fail)
    with pytest.raises(OSError, match="no space"):
        make(random_chats(2), renderer)
    assert list((own_home / "tokens").iterdir()) == []


def test_every_row_the_template_cannot_say_is_named_in_one_pass(tmp_path: Path) -> None:
    chats = random_chats(3)
    turns = ({"role": "user", "content": "a"}, {"role": "user", "content": "b"})
    wrong = [Conversation((*turns, {"role": "assistant", "content": "c"}), "bad.jsonl", 7)]
    special = ({"role": "user", "content": "a </s> b"}, {"role": "assistant", "content": "c"})
    wrong.append(Conversation(special, "bad.jsonl", 9))
    with pytest.raises(InputError) as caught:
        make([*chats, *wrong], renderer_of(LLAMA_2, tmp_path))
    assert [fault.where for fault in caught.value.faults] == [
        "bad.jsonl:7:messages",
        "bad.jsonl:9:messages",
    ]
    assert "must alternate" in str(caught.value)
    assert "contains the special token '</s>'" in str(caught.value)


def test_no_conversations_make_no_rows(renderer: Renderer) -> None:
    rows, ledger = make([], renderer)
    assert (len(rows), ledger.total, ledger.rows_read) == (0, 0, 0)


def test_the_ledger_lies_beside_the_rows(renderer: Renderer, own_home: Path) -> None:
    _, ledger = make(random_chats(4), renderer)
    (entry,) = (own_home / "tokens").iterdir()
    assert json.loads((entry / "ledger.json").read_text())["total"] == ledger.total
