"""A small graph with its arrows from left to right, laid out in columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

WIDTH, HEIGHT, GAP_X, GAP_Y, MARGIN = 208, 52, 36, 16, 4


@dataclass(frozen=True)
class Node:
    """A box: what it says, where it leads, and which boxes come before it."""

    key: str
    label: str
    note: str = ""
    kind: str = ""  # its colour: good, live, bad, waiting, off, or one of the page's own
    link: str = ""
    after: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Placed:
    """A box in its place."""

    node: Node
    x: int
    y: int


@dataclass(frozen=True)
class Drawing:
    """Boxes and arrows in one picture."""

    width: int
    height: int
    boxes: Sequence[Placed]
    arrows: Sequence[str]  # paths of SVG


def draw(nodes: Sequence[Node]) -> Drawing:
    """Put every box one column right of the last box before it. Knots (cycles) are cut."""
    columns = _columns({node.key: node for node in nodes})
    rows: dict[int, int] = {}
    places: dict[str, Placed] = {}
    for node in sorted(nodes, key=lambda node: columns[node.key]):  # stable: the given order
        column = columns[node.key]
        row = rows.get(column, 0)
        rows[column] = row + 1
        x, y = MARGIN + column * (WIDTH + GAP_X), MARGIN + row * (HEIGHT + GAP_Y)
        places[node.key] = Placed(node, x, y)
    arrows = [
        _arrow(places[before], place)
        for place in places.values()
        for before in sorted(place.node.after)
        if before in places and places[before].x < place.x
    ]
    width = MARGIN * 2 + (max(columns.values(), default=0) + 1) * (WIDTH + GAP_X) - GAP_X
    height = MARGIN * 2 + max(rows.values(), default=1) * (HEIGHT + GAP_Y) - GAP_Y
    return Drawing(width, height, list(places.values()), arrows)


def _columns(nodes: Mapping[str, Node]) -> dict[str, int]:
    found: dict[str, int] = {}

    def column(key: str, seen: frozenset[str]) -> int:
        if key not in found:
            before = [k for k in nodes[key].after if k in nodes and k not in seen]
            found[key] = max((column(k, seen | {key}) + 1 for k in before), default=0)
        return found[key]

    for key in nodes:
        column(key, frozenset({key}))
    return found


def _arrow(one: Placed, other: Placed) -> str:
    x1, y1 = one.x + WIDTH, one.y + HEIGHT // 2
    x2, y2 = other.x - 5, other.y + HEIGHT // 2
    bend = (x1 + x2) // 2
    return f"M{x1} {y1}C{bend} {y1} {bend} {y2} {x2} {y2}"
