"""Answers that satisfy a JSON schema, token by token, by llguidance (MIT; Rust, Earley parser).

Before each token it names the ids that keep the answer's text a prefix of a valid document;
all others get a logit of minus infinity. https://github.com/guidance-ai/llguidance
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from finery.errors import FineryError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

# JSON as Python writes it: free white space lets a weak model write spaces for ever.
_STYLE: Any = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


class Matcher:
    """Where one answer stands in its schema."""

    def __init__(self, matcher: Any, ends: Sequence[int], stops: Sequence[int], size: int) -> None:
        self._matcher = matcher
        self._ends = list(ends)
        self._stops = list(stops)
        self._bits = np.zeros((1, (size + 31) // 32), dtype=np.int32)

    def allowed(self, vocabulary: int) -> torch.Tensor:
        """Which ids may come next, bool (vocabulary,)."""
        from llguidance.numpy import fill_next_token_bitmask

        fill_next_token_bitmask(self._matcher, self._bits, 0)
        bits = np.unpackbits(self._bits.view(np.uint8), bitorder="little")
        mask = torch.zeros(vocabulary, dtype=torch.bool)
        length = min(vocabulary, len(bits))
        mask[:length] = torch.from_numpy(bits[:length]).bool()
        mask[self._ends] = False
        if self._matcher.is_accepting():
            mask[self._stops] = True
        return mask

    def take(self, token: int) -> None:
        """Go on by the token that was made."""
        if token not in self._stops and not self._matcher.consume_token(token):
            raise RuntimeError(f"the schema's parser refused a token: {self._matcher.get_error()}")

    @property
    def complete(self) -> bool:
        """Whether nothing may follow: the document is whole."""
        return self._matcher.is_stopped()


class Schemas:
    """Makes matchers for one tokenizer; its tables are built at the first use."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, vocabulary: int) -> None:
        self._tokenizer = tokenizer
        self._vocabulary = vocabulary
        self._lock = threading.Lock()
        self._tables: Any = None

    def matcher(self, schema: dict[str, Any], stops: Sequence[int]) -> Matcher:
        """A matcher at the start of an answer; raises FineryError for a schema it cannot keep."""
        from llguidance import LLMatcher

        with self._lock:
            if self._tables is None:
                self._tables = self._build()
        tables = self._tables
        try:
            grammar = LLMatcher.grammar_from_json_schema(schema, overrides=_STYLE)
        except ValueError as error:
            raise FineryError(f"The JSON schema cannot be read: {error}.") from error
        matcher = LLMatcher(tables, grammar, log_level=0)
        if matcher.is_error():
            reason = str(matcher.get_error()).splitlines()[0]
            raise FineryError(f"The JSON schema cannot be followed: {reason}.")
        return Matcher(matcher, tables.eos_tokens, stops, tables.vocab_size)

    def _build(self) -> Any:
        from llguidance.hf import from_tokenizer

        size = max(self._vocabulary, len(self._tokenizer))
        return from_tokenizer(self._tokenizer, n_vocab=size)
