"""Token ids back to text, one id at a time, at a cost that does not grow with the answer.

The pieces joined are exactly `Renderer.decode` of all ids. Two kinds of decoder make up nearly
every chat model and are followed by their own rules; for any other, a short window of ids is
decoded again with each one. (tokenizers' own DecodeStream raises when a run of byte tokens
turns out not to be UTF-8, "Invalid prefix encountered".)
"""

from __future__ import annotations

import codecs
import json
import re
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from finery.chat.render import Renderer

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_SPACE = "\u2581"  # SentencePiece's mark of a space


class Pieces(Protocol):
    """The text of one answer as its ids come."""

    def push(self, token: int) -> str:
        """The text that is certain now and was not before; may be empty."""
        ...

    def flush(self) -> str:
        """What is left once the last id has come."""
        ...


@dataclass(frozen=True)
class Words:
    """What the ids of one tokenizer say."""

    renderer: Renderer

    def pieces(self) -> Pieces:
        """A new answer's text."""
        if self._kind == "bytes":
            return _BytePieces(self)
        if self._kind == "fallback":
            return _FallbackPieces(self, self._strip)
        return _WindowPieces(self)

    def spoken(self, token: int, *, first: bool = False) -> tuple[str, bytes | None]:
        """One token alone, as text and bytes; no bytes for a token that the text leaves out.

        With `first` it is the answer's first token, whose leading space some decoders drop.
        """
        if token in self.special:
            return self._backend.id_to_token(token) or "", None
        other = self._kind == "other"
        data = self.renderer.decode([token]).encode() if other else self.raw(token)
        if first and self._strip and data.startswith(b" "):
            data = data[1:]
        return data.decode("utf-8", errors="replace"), data

    def raw(self, token: int) -> bytes:
        """The bytes of one token, before anything is dropped at the beginning of a text."""
        name = self._backend.id_to_token(token)
        if name is None:
            return b""
        if self._kind == "bytes":
            known = [_BYTE_LEVEL.get(char) for char in name]
            return name.encode() if None in known else bytes(known)  # pyright: ignore[reportArgumentType]
        if found := _BYTE.fullmatch(name):
            return bytes([int(found[1], 16)])
        return name.replace(_SPACE, " ").encode()

    def is_byte(self, token: int) -> bool:
        """Whether the token stands for one byte of a character (byte fallback)."""
        return bool(_BYTE.fullmatch(self._backend.id_to_token(token) or ""))

    @cached_property
    def special(self) -> frozenset[int]:
        """The ids of special tokens, which `Renderer.decode` leaves out."""
        added = self._backend.get_added_tokens_decoder()
        return frozenset(number for number, token in added.items() if token.special)

    def is_silent(self, token: int) -> bool:
        """Whether the token is no part of the text: special, or beyond the vocabulary."""
        return token in self.special or self._backend.id_to_token(token) is None

    @cached_property
    def _backend(self) -> Any:
        return self.renderer.tokenizer.backend_tokenizer

    @cached_property
    def _decoders(self) -> list[dict[str, Any]]:
        decoder = self._backend.decoder
        state: Any = json.loads(decoder.__getstate__()) if decoder is not None else {"type": None}
        return state["decoders"] if state["type"] == "Sequence" else [state]

    @cached_property
    def _kind(self) -> str:
        tokenizer: Any = self.renderer.tokenizer
        cleans = tokenizer.clean_up_tokenization_spaces
        if cleans and type(self._backend.model).__name__ != "BPE":
            return "other"
        kinds = [one["type"] for one in self._decoders]
        if kinds == ["ByteLevel"]:
            return "bytes"
        marks = {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "}
        if kinds[:3] == ["Replace", "ByteFallback", "Fuse"] and self._decoders[0] == marks:
            strips = self._decoders[3:]
            if all(s["type"] == "Strip" and s["content"] == " " and not s["stop"] for s in strips):
                return "fallback" if len(strips) < 2 else "other"
        return "other"

    @cached_property
    def _strip(self) -> int:
        """How many spaces the decoder drops at the beginning of a text."""
        return sum(one.get("start", 0) for one in self._decoders if one["type"] == "Strip")


def _byte_level() -> dict[str, int]:
    """GPT-2's printable characters for the 256 bytes, back to bytes."""
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in shown]
    table = {chr(byte): byte for byte in shown}
    return table | {chr(256 + place): byte for place, byte in enumerate(hidden)}


_BYTE_LEVEL = _byte_level()


class _BytePieces:
    """Tokens are bytes; characters come when their last byte does."""

    def __init__(self, words: Words) -> None:
        self.words = words
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int) -> str:
        if self.words.is_silent(token):
            return ""
        return self.decoder.decode(self.words.raw(token))

    def flush(self) -> str:
        return self.decoder.decode(b"", final=True)


class _FallbackPieces:
    """Tokens are text, and single bytes for characters that have no token.

    A run of byte tokens is text as a whole or not at all (one wrong byte makes every byte of
    the run a replacement character), so it comes when it has ended.
    """

    def __init__(self, words: Words, strip: int) -> None:
        self.words = words
        self.run = b""
        self.strip = strip

    def push(self, token: int) -> str:
        if self.words.is_silent(token):
            return ""
        data = self.words.raw(token)
        if self.words.is_byte(token):
            self.run += data
            return ""
        return self._stripped(self._ended() + data.decode())

    def flush(self) -> str:
        return self._stripped(self._ended())

    def _ended(self) -> str:
        run, self.run = self.run, b""
        try:
            return run.decode()
        except UnicodeDecodeError:
            return "\ufffd" * len(run)

    def _stripped(self, text: str) -> str:
        while self.strip and text:
            self.strip = self.strip - 1 if text[0] == " " else 0
            text = text[1:] if text[0] == " " else text
        return text


class _WindowPieces:
    """Any other decoder: the last ids decoded again, without and with the new one."""

    def __init__(self, words: Words) -> None:
        self.words = words
        self.ids: list[int] = []
        self.told = 0  # how many of `ids` have been told

    def push(self, token: int) -> str:
        if self.words.is_silent(token):
            return ""
        self.ids.append(token)
        new = self._new()
        if not new or new.endswith("\ufffd"):
            return ""
        self.ids, self.told = self.ids[self.told :], len(self.ids) - self.told
        return new

    def flush(self) -> str:
        return self._new()

    def _new(self) -> str:
        decode = self.words.renderer.decode
        before = decode(self.ids[: self.told]) if self.told else ""
        return decode(self.ids)[len(before) :]
