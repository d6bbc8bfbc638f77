"""Bin packing: several short rows in one sequence, so that none of it is padding.

Best-fit decreasing (Johnson, Near-optimal bin packing algorithms, MIT 1973): rows from the
longest to the shortest, each into the fullest bin that still takes it. Rows stay whole and
are kept apart by attention, so packing changes which rows share a step and nothing else.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence


def pack(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Indices of `lengths` in groups whose sums are at most `capacity` tokens.

    Groups come in the order of their first member. Raises ValueError for a length over the
    capacity: rows are cut to it before they get here.
    """
    if any(length > capacity for length in lengths):
        raise ValueError(f"a row is longer than the {capacity} tokens of a packed sequence")
    bins: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (tokens left, bin), sorted
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    for index in order:
        place = bisect.bisect_left(room, (lengths[index], -1))
        if place == len(room):
            bins.append([index])
            left, chosen = capacity - lengths[index], len(bins) - 1
        else:
            left, chosen = room.pop(place)
            bins[chosen].append(index)
            left -= lengths[index]
        bisect.insort(room, (left, chosen))
    return sorted((sorted(group) for group in bins), key=lambda group: group[0])
