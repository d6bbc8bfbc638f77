"""Token rows in flat arrays, in memory and on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from finery.chat.rows import TokenRows, load_rows, make_rows, save_rows


def random_rows(count: int, seed: int = 0) -> list[tuple[list[int], list[bool], int]]:
    random = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        length = int(random.integers(1, 30))
        ids = random.integers(0, 32_000, length).tolist()
        rows.append((ids, (random.random(length) < 0.4).tolist(), number + 1))
    return rows


def as_triples(rows: TokenRows) -> list[tuple[list[int], list[bool], int]]:
    return [
        (rows.row_ids(i).tolist(), rows.row_trained(i).tolist(), int(rows.rows[i]))
        for i in range(len(rows))
    ]


@pytest.mark.parametrize("count", [0, 1, 37])
def test_rows_come_back_as_they_went_in_also_from_disk(count: int, tmp_path: Path) -> None:
    wanted = random_rows(count)
    rows = make_rows(wanted)
    save_rows(rows, tmp_path)
    loaded = load_rows(tmp_path)
    assert as_triples(rows) == as_triples(loaded) == wanted
    assert len(loaded) == count
    for name in ("ids", "trained", "offsets", "rows"):
        assert getattr(loaded, name).dtype == getattr(rows, name).dtype


def test_lengths_and_loss_tokens_are_counted_per_row() -> None:
    wanted = random_rows(50, seed=3)
    rows = make_rows(wanted)
    assert rows.lengths.tolist() == [len(ids) for ids, _, _ in wanted]
    assert rows.trained_counts().tolist() == [sum(trained) for _, trained, _ in wanted]
    assert make_rows([]).trained_counts().tolist() == []


def test_chosen_rows_keep_their_order_and_source_numbers() -> None:
    wanted = random_rows(10)
    chosen = make_rows(wanted).select([7, 2, 2])
    assert as_triples(chosen) == [wanted[7], wanted[2], wanted[2]]


def test_rows_on_disk_are_read_only_and_not_pickled(tmp_path: Path) -> None:
    save_rows(make_rows(random_rows(3)), tmp_path)
    loaded = load_rows(tmp_path)
    with pytest.raises(ValueError, match="read-only"):
        loaded.ids[0] = 1
    np.save(tmp_path / "ids.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match=r"[Pp]ickle|Python objects"):
        load_rows(tmp_path)
