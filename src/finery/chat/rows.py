"""Tokenised conversations as flat arrays that can be memory-mapped."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class TokenRows:
    """Rows of token ids with their loss masks, one after the other in flat arrays."""

    ids: npt.NDArray[np.int32]  # [total tokens]
    trained: npt.NDArray[np.bool_]  # [total tokens]: this token carries loss
    offsets: npt.NDArray[np.int64]  # [rows + 1]: row i is ids[offsets[i]:offsets[i + 1]]
    rows: npt.NDArray[np.int64]  # [rows]: the row number in the source file, from 1

    def __len__(self) -> int:
        return len(self.rows)

    def row_ids(self, index: int) -> npt.NDArray[np.int32]:
        """Token ids of row `index`."""
        return self.ids[self.offsets[index] : self.offsets[index + 1]]

    def row_trained(self, index: int) -> npt.NDArray[np.bool_]:
        """Loss mask of row `index`."""
        return self.trained[self.offsets[index] : self.offsets[index + 1]]

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Tokens of each row."""
        return np.diff(self.offsets)

    def trained_counts(self) -> npt.NDArray[np.int64]:
        """Loss-carrying tokens of each row."""
        sums = np.concatenate([[0], np.cumsum(self.trained, dtype=np.int64)])
        return sums[self.offsets[1:]] - sums[self.offsets[:-1]]

    def select(self, indices: Iterable[int]) -> TokenRows:
        """The rows at `indices`, in that order."""
        chosen = list(indices)
        return make_rows(
            [(self.row_ids(i), self.row_trained(i), int(self.rows[i])) for i in chosen]
        )


def make_rows(
    rows: Iterable[tuple[Iterable[int], Iterable[bool], int]],
) -> TokenRows:
    """Flat arrays from (ids, loss mask, source row number) triples."""
    ids, trained, numbers = [], [], []
    for row_ids, row_trained, number in rows:
        ids.append(np.asarray(row_ids, dtype=np.int32))
        trained.append(np.asarray(row_trained, dtype=np.bool_))
        numbers.append(number)
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in ids], dtype=np.int64)])
    return TokenRows(
        ids=np.concatenate(ids) if ids else np.zeros(0, np.int32),
        trained=np.concatenate(trained) if trained else np.zeros(0, np.bool_),
        offsets=offsets.astype(np.int64),
        rows=np.asarray(numbers, dtype=np.int64),
    )


_ARRAYS = ("ids", "trained", "offsets", "rows")


def save_rows(rows: TokenRows, folder: Path) -> None:
    """Write the four arrays into `folder` as .npy files."""
    for name in _ARRAYS:
        np.save(folder / f"{name}.npy", getattr(rows, name), allow_pickle=False)


def load_rows(folder: Path) -> TokenRows:
    """The rows in `folder`, memory-mapped."""
    return TokenRows(
        **{
            name: np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
            for name in _ARRAYS
        }
    )
