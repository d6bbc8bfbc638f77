"""A loss curve in plain characters, the same in a terminal, a log and a Markdown code block."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

WIDTH, HEIGHT = 60, 10
TRAIN, HELD_OUT = "·", "o"

Points = list[tuple[float, float]]  # (step, loss)


def loss_curve(metrics: Sequence[Mapping[str, Any]]) -> str:
    """The training loss over steps, held-out losses marked `o`; says what it cannot show.

    Takes the rows of metrics.jsonl. A column holds the mean of its steps. Losses that are
    not finite are counted below the plot, never drawn.
    """
    train, train_bad = _points(metrics, "loss")
    held_out, held_out_bad = _points(metrics, "eval_loss")
    points = [*train, *held_out]
    notes = _notes(train_bad, held_out_bad)
    if not points:
        return "\n".join(["No loss was recorded.", *notes])
    first, last = min(step for step, _ in points), max(step for step, _ in points)
    low, high = min(loss for _, loss in points), max(loss for _, loss in points)
    grid = [[" "] * WIDTH for _ in range(HEIGHT)]
    for mark, series in ((TRAIN, train), (HELD_OUT, held_out)):
        for column, loss in _columns(series, first, last).items():
            grid[_line(loss, low, high)][column] = mark
    lines = [f"{_label(line, low, high)} │{''.join(row)}".rstrip() for line, row in enumerate(grid)]
    axis = f"{'':>8} └{'─' * WIDTH}"
    ends = f"{'':>8}  step {first:g}{f'step {last:g}':>{WIDTH - 5 - len(f'{first:g}')}}"
    legend = f"{'':>8}  {TRAIN} training loss"
    legend += f"   {HELD_OUT} held-out loss" if held_out else ""
    return "\n".join([*lines, axis, ends, legend, *notes])


def _points(metrics: Iterable[Mapping[str, Any]], key: str) -> tuple[Points, list[Any]]:
    """Finite (step, value) pairs, and the steps whose value is no finite number."""
    points: Points = []
    bad = []
    for row in metrics:
        if key not in row:
            continue
        value = row[key]
        if isinstance(value, int | float) and math.isfinite(value):
            points.append((float(row["step"]), float(value)))
        else:
            bad.append(row["step"])
    return points, bad


def _notes(train_bad: list[Any], held_out_bad: list[Any]) -> list[str]:
    return [
        f"Not drawn: {len(steps)} {name} losses that are no finite number, "
        f"the first at step {steps[0]}."
        for name, steps in (("training", train_bad), ("held-out", held_out_bad))
        if steps
    ]


def _columns(series: Points, first: float, last: float) -> dict[int, float]:
    """The mean loss of the steps that fall in each column."""
    columns: dict[int, list[float]] = {}
    for step, loss in series:
        share = (step - first) / (last - first) if last > first else 0.0
        columns.setdefault(round(share * (WIDTH - 1)), []).append(loss)
    return {column: sum(losses) / len(losses) for column, losses in columns.items()}


def _line(loss: float, low: float, high: float) -> int:
    share = (high - loss) / (high - low) if high > low else 1.0
    return round(share * (HEIGHT - 1))


def _label(line: int, low: float, high: float) -> str:
    """The loss at the top, middle and bottom line; blank between them."""
    if line not in (0, HEIGHT // 2, HEIGHT - 1):
        return f"{'':>8}"
    return f"{high - (high - low) * line / (HEIGHT - 1):>8.4f}"
