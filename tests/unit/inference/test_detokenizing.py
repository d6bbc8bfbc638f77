"""Ids back to text one at a time: the same text as all at once, and never half a character."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from finery.chat.render import Renderer
from finery.chat.tokenizer import load_tokenizer
from finery.inference.detokenizing import Words
from finery.inference.engines.stub import stub_renderer

TEXTS = (
    "Hello  world \n\n x",
    "  leading, trailing  ",
    "🚀 (normal) 😶\u200d🌫️ (several) 👩‍👩‍👧",
    "日本語です 你好 ที่นี่ שלום мир",
    "naïve café ÅÄÖ €",
    "\ufffd already a replacement",
)


def words_of(tokenizer: Any) -> Words:
    return Words(Renderer(tokenizer, "", "", folds_system=False))


def streamed(words: Words, ids: list[int]) -> list[str]:
    pieces = words.pieces()
    return [*(pieces.push(token) for token in ids), pieces.flush()]


def phi3(kit: Path) -> Words:
    return words_of(load_tokenizer(kit / "tokenizer" / "phi-3-mini-4k"))


def assert_exact(words: Words, cases: int, seed: int = 0) -> None:
    """The pieces joined are the decode of all, for text, cut text, and any ids whatever."""
    tokenizer, draw = words.renderer.tokenizer, random.Random(seed)  # noqa: S311
    for case in range(cases):
        if case % 2:
            text = "".join(draw.choices(TEXTS, k=3))
            ids: Any = tokenizer(text, add_special_tokens=False)["input_ids"]
            ids = ids[draw.randrange(3) : draw.randrange(len(ids) + 1)]
        else:
            most = 300 if case % 4 else len(tokenizer) + 40  # bytes come first; some are no ids
            ids = [draw.randrange(most) for _ in range(draw.randrange(12))]
        pieces = streamed(words, ids)
        assert "".join(pieces) == words.renderer.decode(ids), ids


def test_pieces_joined_are_the_text_of_single_bytes() -> None:
    assert_exact(Words(stub_renderer()), 2000)


def test_pieces_joined_are_the_text_of_phi_3(kit: Path) -> None:
    assert_exact(phi3(kit), 2000)


@pytest.mark.parametrize("text", TEXTS[:5])
def test_no_piece_holds_half_a_character(kit: Path, text: str) -> None:
    for words in (Words(stub_renderer()), phi3(kit)):
        ids: Any = words.renderer.tokenizer(text, add_special_tokens=False)["input_ids"]
        pieces = streamed(words, ids)
        assert "".join(pieces).strip(" ") == text.strip(" ")
        assert not any("\ufffd" in piece for piece in pieces)


def test_a_character_comes_when_its_last_byte_does() -> None:
    words = Words(stub_renderer())
    ids: Any = words.renderer.tokenizer("aé€", add_special_tokens=False)["input_ids"]
    assert streamed(words, ids) == ["a", "", "é", "", "", "€", ""]


def test_bytes_that_never_make_a_character_are_shown() -> None:
    words = Words(stub_renderer())
    euro: Any = words.renderer.tokenizer("€z", add_special_tokens=False)["input_ids"]
    assert "".join(streamed(words, euro[:2])) == "\ufffd"
    assert "".join(streamed(words, [euro[0], euro[3]])) == "\ufffdz"


def test_special_tokens_are_no_text_and_have_no_bytes() -> None:
    words = Words(stub_renderer())
    end = words.renderer.end_of_turn_id
    assert streamed(words, [end]) == ["", ""]
    assert words.spoken(end) == ("<|im_end|>", None)


def test_one_token_is_told_with_its_bytes(kit: Path) -> None:
    words = phi3(kit)
    hello, rocket = (
        words.renderer.tokenizer(text, add_special_tokens=False)["input_ids"]
        for text in (" Hello", "🚀")
    )
    assert words.spoken(hello[-1]) == (" Hello", b" Hello")
    assert words.spoken(hello[-1], first=True) == ("Hello", b"Hello"), "as the text begins"
    data = b"".join(words.spoken(token)[1] or b"" for token in rocket)
    assert data.decode().strip() == "🚀"


def test_the_cost_of_a_token_does_not_grow_with_the_answer(kit: Path) -> None:
    calls = 0

    class Counting(Renderer):
        def decode(self, ids: Any) -> str:
            nonlocal calls
            calls += len(ids)
            return super().decode(ids)

    tokenizer = load_tokenizer(kit / "tokenizer" / "phi-3-mini-4k")
    words = Words(Counting(tokenizer, "", "", folds_system=False))
    ids: Any = tokenizer("The cat sat. " * 300, add_special_tokens=False)["input_ids"]
    streamed(words, ids)
    assert calls <= 8 * len(ids)


def test_another_decoder_is_followed_through_a_window() -> None:
    vocabulary = {"un": 0, "##happy": 1, "cat": 2, "##s": 3, "[UNK]": 4}
    tokenizer = Tokenizer(models.WordPiece(vocab=vocabulary, unk_token="[UNK]"))
    tokenizer.decoder = decoders.WordPiece(cleanup=False)
    words = words_of(PreTrainedTokenizerFast(tokenizer_object=tokenizer))
    assert "".join(streamed(words, [0, 1, 2, 3, 2])) == "unhappy cats cat"
    draw = random.Random(0)  # noqa: S311
    for _ in range(300):
        ids = draw.choices(range(4), k=draw.randrange(8))
        assert "".join(streamed(words, ids)) == words.renderer.decode(ids), ids
