"""Answers in the making, and what the torch engine's loop asks of a model.

A step takes the next tokens of several rows at once, end to end without padding: one token of
a row that is answering, a piece of the prompt of one that is not there yet.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from finery.inference.engine import Generation, Token
from finery.inference.engines.torch_schema import Matcher

# What a row hands to its reader: a token, the end (None), or why there is none.
Item = Token | None | BaseException


@dataclass(eq=False)
class Row:
    """One answer in the making; the model's thread writes it, its reader sets `left`."""

    wanted: Generation
    matcher: Matcher | None = None
    adapter: Any = None  # what the runner keeps of the adapter the row asked for
    loop: asyncio.AbstractEventLoop | None = None  # where its reader waits
    ready: asyncio.Queue[Item] = field(default_factory=asyncio.Queue)
    left: bool = False  # nobody reads any more
    tokens: list[int] = field(default_factory=list)  # prompt, then what was made
    known: int = 0  # the first so many tokens are in the model's cache
    place: Any = None  # where that cache is; the runner's
    generator: torch.Generator | None = None
    counts: torch.Tensor | None = None  # (vocabulary,) occurrences in the answer, for penalties

    def __post_init__(self) -> None:
        self.tokens = list(self.wanted.prompt)

    @property
    def made(self) -> int:
        """How many tokens of the answer there are."""
        return len(self.tokens) - len(self.wanted.prompt)

    @property
    def pending(self) -> int:
        """How many of its tokens the cache does not know."""
        return len(self.tokens) - self.known


@dataclass(frozen=True)
class Span:
    """The next `count` tokens of a row that its cache does not know."""

    row: Row
    count: int

    @property
    def start(self) -> int:
        """The position of its first token."""
        return self.row.known

    @property
    def ids(self) -> list[int]:
        """Its tokens."""
        return self.row.tokens[self.start : self.start + self.count]

    @property
    def last(self) -> bool:
        """Whether the row's next token follows it."""
        return self.start + self.count == len(self.row.tokens)


class Runner(Protocol):
    """A model with the caches of its rows; called by one thread."""

    context: int
    vocabulary: int
    device: torch.device
    pieces: bool  # whether a prompt may be read in several steps

    def place(self, row: Row) -> bool:
        """Give the row a cache and set what it knows already; False while there is no room."""
        ...

    def forward(self, spans: Sequence[Span]) -> torch.Tensor:
        """Float32 logits (number of spans that are last, vocabulary); `known` moves on."""
        ...

    def free(self, row: Row) -> None:
        """Take the row's cache back; what it holds may serve a later row."""
        ...

    def forget(self, adapter: Any) -> None:
        """Drop what was kept for an adapter that has gone."""
        ...
