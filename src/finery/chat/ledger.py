"""The token ledger: where every token of the input went, with row numbers.

A token of the input is trained (it carries loss), context (the model reads it), dropped
(its whole row was left out) or cut (it lay beyond the limit of its row). The four sum to
the total, or no training starts.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from finery.errors import FineryError


@dataclass(frozen=True)
class RowLoss:
    """A row that did not enter training whole."""

    row: int  # row number in the file, from 1
    tokens: int  # tokens that do not enter training
    trained: int  # how many of those would have carried loss
    reason: str
    file: str = ""  # its file, when the split has several

    @property
    def place(self) -> str:
        """The row as a sentence names it."""
        return f"{Path(self.file).name}:{self.row}" if self.file else str(self.row)


@dataclass(frozen=True)
class Ledger:
    """The account of one split."""

    split: str
    file: str  # of several files the first
    rows_read: int
    rows_used: int
    total: int
    trained: int
    context: int
    dropped: int
    cut: int
    trainable: int  # tokens that would carry loss if no row were cut or dropped
    max_seq_length: int
    cut_rows: tuple[RowLoss, ...] = ()
    dropped_rows: tuple[RowLoss, ...] = ()

    def close(self) -> Ledger:
        """This ledger, when it sums to zero; otherwise FineryError: a defect, not bad input."""
        gap = self.total - (self.trained + self.context + self.dropped + self.cut)
        rows = self.rows_read - self.rows_used - len(self.dropped_rows)
        if gap or rows:
            raise FineryError(
                f"The token ledger of {self.split} does not close: {gap} tokens and {rows} rows "
                "are unaccounted for. This is a defect of finery; please report the data file."
            )
        return self

    @property
    def trained_lost(self) -> int:
        """Loss-carrying tokens that cutting and dropping took away."""
        return sum(loss.trained for loss in (*self.cut_rows, *self.dropped_rows))

    def to_dict(self) -> dict[str, Any]:
        """As JSON, row numbers included."""
        return asdict(self)

    def sentences(self) -> list[str]:
        """What a person must know before this split is trained on."""
        said = [
            f"{self.split}: {self.rows_used:,} of {self.rows_read:,} rows, {self.total:,} tokens = "
            f"{self.trained:,} trained + {self.context:,} context + {self.dropped:,} dropped + "
            f"{self.cut:,} cut"
        ]
        for name, losses in (("cut", self.cut_rows), ("dropped", self.dropped_rows)):
            if losses:
                shown = ", ".join(loss.place for loss in losses[:10])
                more = f" and {len(losses) - 10} more" if len(losses) > 10 else ""
                share = 100 * sum(loss.trained for loss in losses) / max(self.trainable, 1)
                said.append(
                    f"{self.split}: {len(losses)} rows {name} at {self.max_seq_length:,} tokens "
                    f"(rows {shown}{more}): {share:.1f} % of the trainable tokens"
                )
        return said


def from_dict(value: dict[str, Any]) -> Ledger:
    """A ledger that `to_dict` wrote."""
    losses = {
        key: tuple(RowLoss(**loss) for loss in value[key]) for key in ("cut_rows", "dropped_rows")
    }
    return Ledger(**{**value, **losses}).close()
