"""Packed steps: the tokens of all rows end to end through a decoder, caches in slots."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from finery.inference.engines.torch_adapters import Adapters
from finery.inference.engines.torch_attention import Piece, Step, grouped
from finery.inference.engines.torch_cache import Slots, write_index
from finery.inference.engines.torch_rows import Row, Span


class PackedRunner:
    """A decoder with its slots; `decoder(ids, step, layers, last)` gives logits."""

    pieces = True

    def __init__(
        self, decoder: Any, slots: Slots, adapters: Adapters, context: int, vocabulary: int
    ) -> None:
        self.decoder = decoder
        self.slots = slots
        self.adapters = adapters
        self.context = context
        self.vocabulary = vocabulary
        self.device = slots.shape.device

    def place(self, row: Row) -> bool:
        """See `Runner`."""
        return self.slots.place(row)

    def free(self, row: Row) -> None:
        """See `Runner`."""
        self.slots.free(row)

    def forget(self, adapter: Any) -> None:
        """See `Runner`."""
        self.adapters.forget(adapter)
        self.slots.forget(adapter)

    def forward(self, spans: Sequence[Span]) -> Tensor:
        """See `Runner`."""
        ordered = sorted(spans, key=lambda span: (span.count > 1, span.row.place))
        ids = torch.tensor([token for span in ordered for token in span.ids])
        step, ends = self._step(ordered)
        last = torch.tensor([ends[span] for span in spans if span.last], dtype=torch.long)
        logits = self.decoder(ids.to(self.device), step, self.slots.layers, last.to(self.device))
        for span in spans:
            span.row.known += span.count
        return logits

    def _step(self, ordered: Sequence[Span]) -> tuple[Step, dict[Span, int]]:
        """What the layers share, and where each span's last token is."""
        single = [(span.row.place, span.start + 1) for span in ordered if span.count == 1]
        pieces, ends, first = [], {}, 0
        for span in ordered:
            if span.count > 1:
                pieces.append(Piece(first, span.row.place, span.start, span.count))
            first += span.count
            ends[span] = first - 1
        places = [(span.row.place, span.start, span.count) for span in ordered]
        heads = 2 * self.slots.shape.kv_heads
        index = write_index(places, heads, self.slots.capacity)
        positions = torch.cat([torch.arange(p, p + count) for _, p, count in places])
        mix = self.adapters.mix([(span.row.adapter, span.count) for span in ordered])
        step = Step(positions.to(self.device), index.to(self.device), grouped(single), pieces, mix)
        return step, ends
