"""Any causal language model of transformers, one row after the other with a cache of its own.

The form for families that the packed forms do not hold for. Nothing is shared between rows: no
padding, no positions to shift, no prefix to reuse; right for whatever the model's own cache is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from finery.inference.engines.torch_rows import Row, Span


class PlainRunner:
    """transformers' own forward and cache; a step costs the sum of its rows.

    Prompts are read whole, as `generate` reads them: not every family's cache can go on from
    the middle of one.
    """

    pieces = False

    def __init__(self, model: Any, context: int) -> None:
        self.model = model
        self.context = context
        self.vocabulary = int(model.config.get_text_config().vocab_size)
        self.device: torch.device = model.device

    def place(self, row: Row) -> bool:
        """A row begins with an empty cache, which transformers makes."""
        row.known = 0
        return True

    def forward(self, spans: Sequence[Span]) -> Tensor:
        """Float32 logits of the spans that are last, (rows, vocabulary)."""
        found = [self._span(span) for span in spans]
        return (
            torch.stack([logits for logits in found if logits is not None])
            if any(logits is not None for logits in found)
            else torch.empty(0, self.vocabulary)
        )

    def _span(self, span: Span) -> Tensor | None:
        last = span.last
        ids = torch.tensor([span.ids], device=self.device)
        positions = torch.arange(span.start, span.start + span.count, device=self.device)
        output = self.model(
            input_ids=ids,
            attention_mask=torch.ones(1, span.start + span.count, device=self.device).long(),
            position_ids=positions[None],
            past_key_values=span.row.place,
            use_cache=True,
            logits_to_keep=1,
        )
        span.row.place = output.past_key_values
        span.row.known += span.count
        return output.logits[0, -1].float() if last else None

    def free(self, row: Row) -> None:
        """Drop the row's cache."""
        row.place = None

    def forget(self, adapter: Any) -> None:
        """There are no adapters here."""
