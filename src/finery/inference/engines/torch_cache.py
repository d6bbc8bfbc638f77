"""Keys and values of rows in flight, and of rows that ended: no prefix is read twice.

One tensor a layer, (slots, 2 x kv heads, capacity, head size): keys first, values behind them.
A row has a slot of its own, so its keys lie side by side in memory and attention never gathers
blocks. A slot keeps what it holds after its row has ended; a prompt that begins like any slot,
ended or running, takes that over (a conversation's next turn) or copies it (a system prompt that
many share), which costs a small part of computing it again (the idea of RadixAttention: Zheng
et al. 2023, arXiv 2312.07104, without its tree: slots are few enough to look at each).

Memory of a CPU tensor is taken page by page as it is written, so slots of unequal rows cost what
they hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from finery.inference.engines.torch_rows import Row

SMALLEST = 256  # capacity of new slots in tokens; doubled when a row needs more


@dataclass(frozen=True)
class CacheShape:
    """What one token takes."""

    layers: int
    kv_heads: int
    head_size: int
    dtype: torch.dtype
    device: torch.device

    @property
    def token_bytes(self) -> int:
        """Bytes of one token's keys and values in all layers."""
        return 2 * self.layers * self.kv_heads * self.head_size * self.dtype.itemsize


@dataclass(eq=False)
class _Slot:
    """What a slot holds; `row` is None when its row has ended."""

    row: Row | None = None
    ids: np.ndarray[Any, Any] = field(default_factory=lambda: np.empty(0, np.int64))
    adapter: Any = None  # keys made under an adapter serve that adapter alone
    written: int = 0  # tokens of memory it has ever taken
    wanted: int = 0  # tokens its row may come to have
    used: int = 0  # when it was last given away

    def tokens(self) -> np.ndarray[Any, Any]:
        """The tokens whose keys it holds."""
        return self.ids if self.row is None else np.asarray(self.row.tokens[: self.row.known])


class Slots:
    """The caches of up to `count` rows, `budget` tokens in all."""

    def __init__(self, shape: CacheShape, count: int, budget: int, *, reuse: bool = True) -> None:
        self.shape = shape
        self.budget = budget
        self.reuse = reuse
        self.capacity = SMALLEST
        self._slots = [_Slot() for _ in range(count)]
        self._clock = 0
        self.layers = [self._empty(SMALLEST) for _ in range(shape.layers)]

    def _empty(self, capacity: int) -> Tensor:
        shape = self.shape
        size = (len(self._slots), 2 * shape.kv_heads, capacity, shape.head_size)
        # zeros, which a CPU gives page by page too: what is masked is still multiplied (by 0)
        return torch.zeros(size, dtype=shape.dtype, device=shape.device)

    def place(self, row: Row) -> bool:
        """Give the row a slot; `row.known` is how much of its prompt the slot holds already."""
        need = len(row.wanted.prompt) + row.wanted.max_new_tokens
        running = [slot for slot in self._slots if slot.row is not None]
        if len(running) == len(self._slots):
            return False
        if running and need + sum(slot.wanted for slot in running) > self.budget:
            return False
        donor, shared = self._donor(row)
        number = self._choose(donor, shared)
        slot = self._slots[number]
        if slot is not donor:
            slot.ids = slot.ids[:0]
        self._make_room(slot, need)
        if shared and donor is not slot and donor is not None:
            source = self._slots.index(donor)
            for layer in self.layers:
                layer[number, :, :shared] = layer[source, :, :shared]
        row.place, row.known = number, shared
        slot.row, slot.adapter, slot.wanted = row, row.adapter, need
        slot.written = max(slot.written, need)
        self._clock += 1
        slot.used = self._clock
        return True

    def free(self, row: Row) -> None:
        """Take the slot back; what it holds may serve a later prompt."""
        slot = self._slots[row.place]
        slot.ids, slot.row, slot.wanted = slot.tokens(), None, 0
        row.place = None

    def forget(self, adapter: Any) -> None:
        """Drop what was made under an adapter that has gone."""
        for slot in self._slots:
            if slot.row is None and slot.adapter is adapter:
                slot.ids, slot.adapter = slot.ids[:0], None

    def _donor(self, row: Row) -> tuple[_Slot | None, int]:
        """The slot that shares the longest beginning with the prompt, and how long it is.

        The prompt's last token is always computed: its logits are wanted.
        """
        if not self.reuse:
            return None, 0
        prompt = np.asarray(row.tokens[:-1])
        found = [
            (common(prompt, slot.tokens()), number)
            for number, slot in enumerate(self._slots)
            if slot.adapter is row.adapter
        ]
        shared, number = max(found, default=(0, -1))
        return (self._slots[number], shared) if shared else (None, 0)

    def _choose(self, donor: _Slot | None, shared: int) -> int:
        """The ended slot that is missed least: an empty one, the one used longest ago, or the
        donor itself where fewer of its tokens are lost than of that one's.
        """
        free = [slot for slot in self._slots if slot.row is None]
        others = [slot for slot in free if slot is not donor]
        victim = min(others, key=lambda slot: (len(slot.ids) > 0, slot.used), default=None)
        if donor in free and (victim is None or len(donor.ids) - shared <= len(victim.ids)):
            victim = donor
        return self._slots.index(victim)  # pyright: ignore[reportArgumentType]

    def _make_room(self, slot: _Slot, need: int) -> None:
        """Larger tensors where the row needs them; smaller ones of them back over the budget."""
        taken = sum(other.written for other in self._slots if other is not slot)
        over = taken + max(slot.written, need) > self.budget
        if need <= self.capacity and not over:
            return
        while self.capacity < need:
            self.capacity *= 2
        for number, old in enumerate(self.layers):
            self.layers[number] = new = self._empty(self.capacity)
            for place, other in enumerate(self._slots):
                length = len(other.tokens())
                if length and not (over and other.row is None and other is not slot):
                    new[place, :, :length] = old[place, :, :length]
        for other in self._slots:
            if over and other.row is None and other is not slot:
                other.ids = other.ids[:0]
            other.written = max(len(other.tokens()), other.wanted)


def common(first: np.ndarray[Any, Any], second: np.ndarray[Any, Any]) -> int:
    """How many tokens two sequences have in common from the beginning."""
    length = min(len(first), len(second))
    differ = np.flatnonzero(first[:length] != second[:length])
    return int(differ[0]) if len(differ) else length


def write_index(places: Sequence[tuple[int, int, int]], heads: int, capacity: int) -> Tensor:
    """Where the keys and values of packed tokens go in a layer seen as (all, head size).

    `places` are (slot, first position, count) in packed order; `heads` counts keys and values.
    They come as all keys, then all values; in a slot every key head lies beside its value head, so
    that the keys of several rows are one batch of matrices with one stride, and are never copied.
    """
    order = np.arange(heads).reshape(-1, 2).T.reshape(-1)  # 0, 2, 4 ... for keys, then 1, 3, 5 ...
    slots = np.concatenate([np.full(count, slot) for slot, _, count in places])
    positions = np.concatenate([np.arange(start, start + count) for _, start, count in places])
    rows = (slots[:, None] * heads + order) * capacity + positions[:, None]
    return torch.from_numpy(rows.reshape(-1))
