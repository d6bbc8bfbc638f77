"""A look into a file of conversations: what is in it, in numbers, and what is wrong with it.

It reads the whole file, so it is made once for each content and kept in finery's cache.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from finery.chat.conversation import Conversation, scan_conversations
from finery.chat.data_row import Row
from finery.chat.overview import overviews
from finery.chat.read import SUFFIXES, FaultList, scan_rows
from finery.errors import Fault, FineryError
from finery.files import home, read_json, write_json
from finery.model.hashing import file_hash

LARGEST = 200 * 1000 * 1000  # bytes of a file that is read whole for a page
LARGEST_PREVIEW = 2 * 1000 * 1000  # bytes of one that is read whole only to show its first rows
ROWS = 20
PATTERNS, BINS = 12, 24
FORM = 1  # of what is kept; another form is made anew


def readable(path: Path) -> bool:
    """Whether a file may hold conversations."""
    return path.suffix.lower() in SUFFIXES


def first_rows(path: Path, start: int = 0) -> tuple[list[Row | Fault], bool]:
    """Some rows of a file, in file order, faults in their place; and whether there are more."""
    if path.suffix.lower() == ".json" and path.stat().st_size > LARGEST_PREVIEW:
        return [], True
    items = (item for item in scan_rows(path) if isinstance(item, Row | Fault))
    found = list(itertools.islice(items, start, start + ROWS + 1))
    return found[:ROWS], len(found) > ROWS


def look(path: Path) -> dict[str, Any]:
    """The numbers of a file: `overview`, `histogram` [(low, high, count)], `problems`, `total`.

    Raises FineryError for a file too large for a page.
    """
    if path.stat().st_size > LARGEST:
        raise FineryError(
            f"{path.name} is larger than {LARGEST // 10**6:,} MB: a page does not read it whole. "
            f"`finery data check` does."
        )
    kept = home() / "studio" / "looks" / f"{file_hash(path)}.{FORM}.json"
    if kept.is_file():
        return read_json(kept)
    found = _look(path)
    write_json(kept, found)
    return found


def _look(path: Path) -> dict[str, Any]:
    faults = FaultList()
    file = scan_conversations(path, faults)
    overview = asdict(overviews([file])[0]) if file.conversations else {}
    if overview:
        overview["roles"] = dict(itertools.islice(overview["roles"].items(), PATTERNS))
        del overview["file"]
    place = f"{path.parent}/"
    return {
        "overview": overview,
        "histogram": histogram([_length(row) for row in file.conversations]),
        "problems": [str(fault).replace(place, "") for fault in faults.kept],
        "total": faults.total,
    }


def _length(row: Conversation) -> int:
    return sum(len(message["content"]) for message in row.messages)


def histogram(lengths: Sequence[int], bins: int = BINS) -> list[tuple[int, int, int]]:
    """How many lengths lie in each stretch from `low` to less than `high`, the last one's included.

    Stretches are equally wide up to where 99 % lie; the last one takes all that is longer.
    """
    if not lengths:
        return []
    ordered = sorted(lengths)
    most = ordered[min(len(ordered) - 1, math.ceil(0.99 * len(ordered)))]
    width = max(1, math.ceil((most + 1) / bins))
    counts = [0] * bins
    for length in ordered:
        counts[min(length // width, bins - 1)] += 1
    used = max(index for index, count in enumerate(counts) if count) + 1
    edges = [(i * width, (i + 1) * width) for i in range(used)]
    edges[-1] = (edges[-1][0], max(edges[-1][1], ordered[-1]))
    return [(low, high, count) for (low, high), count in zip(edges, counts, strict=False)]
