"""Pieces of a streamed answer: whole characters, every one, once."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any

import pytest

from finery.inference.generate import _pieces


class ByteRenderer:
    """A tokenizer whose tokens are single bytes, the hardest case for streaming."""

    def decode(self, ids: Sequence[int]) -> str:
        return bytes(ids).decode("utf-8", errors="replace")


def _ids(data: bytes) -> Generator[int, None, None]:
    yield from data


def _stream(data: bytes, stops: Sequence[int] = (), renderer: Any = None) -> list[str]:
    return list(_pieces(renderer or ByteRenderer(), _ids(data), stops))


@pytest.mark.parametrize(
    "text", ["plain", "naïve café", "日本語です", "👩‍👩‍👧 family", "\n\n x ", ""]
)
def test_pieces_joined_are_the_answer_and_none_holds_half_a_character(text: str) -> None:
    pieces = _stream(text.encode())
    assert "".join(pieces) == text
    assert all("\ufffd" not in piece and piece for piece in pieces)


def test_a_character_comes_when_its_last_byte_does() -> None:
    assert _stream("aé€".encode()) == ["a", "é", "€"]


def test_bytes_that_never_make_a_character_are_shown_at_the_end() -> None:
    assert "".join(_stream(b"ab\xe2\x82")) == "ab\ufffd"


def test_bytes_that_never_made_a_character_are_shown_once_text_goes_on() -> None:
    assert "".join(_stream(b"a\xe2z")) == "a\ufffdz"


def test_nothing_after_the_stop_token_is_shown() -> None:
    assert "".join(_stream(b"yes\x00no", stops=[0])) == "yes"


def test_a_reader_who_leaves_closes_the_source_of_tokens() -> None:
    closed = []

    def endless() -> Generator[int, None, None]:
        try:
            while True:
                yield 97
        finally:
            closed.append(True)

    pieces = _pieces(ByteRenderer(), endless(), ())
    assert next(iter(pieces)) == "a"
    pieces.close()  # type: ignore[attr-defined]
    assert closed == [True]


def _cut(data: bytes, *stops: str) -> tuple[list[str], Any]:
    """The pieces and the whole answer of a stream that ends before `stops`."""
    made = _pieces(ByteRenderer(), _ids(data), (0,), prompt_tokens=3, texts=stops)  # type: ignore[arg-type]
    pieces = []
    while True:
        try:
            pieces.append(next(made))
        except StopIteration as end:
            return pieces, end.value


def test_the_whole_answer_comes_last_with_its_tokens_counted() -> None:
    _, answer = _cut(b"yes\x00no")
    assert (answer.text, answer.prompt_tokens, answer.new_tokens) == ("yes", 3, 4)
    assert answer.finish_reason == "stop"
    assert _cut(b"yes")[1].finish_reason == "length"


@pytest.mark.parametrize("stops", [("END",), ("D", "END"), ("ENDING", "END"), ("END", "x")])
def test_an_answer_ends_before_the_first_stop_text(stops: tuple[str, ...]) -> None:
    pieces, answer = _cut(b"the END of it", *stops)
    assert "".join(pieces) == answer.text == "the "
    assert answer.finish_reason == "stop"


def test_what_only_began_like_a_stop_text_is_shown() -> None:
    pieces, answer = _cut(b"the EN of it EN", "END")
    assert "".join(pieces) == answer.text == "the EN of it EN"
    assert "E" not in "".join(pieces[:4]), "it could have been the stop text"
    assert answer.finish_reason == "length"
