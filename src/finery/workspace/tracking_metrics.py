"""The metrics that a run logged, as MLflow's database has them."""

from __future__ import annotations

import sqlalchemy as sa

from finery.workspace.place import Workspace
from finery.workspace.tracking_models import read_rows

MOST = 500_000  # points of a run that are read; more than any chart can use
_COUNT = sa.text("SELECT count(*) AS n FROM metrics WHERE run_uuid = :run")
_POINTS = sa.text(
    "SELECT key, step, value FROM metrics WHERE run_uuid = :run AND is_nan = false "
    "AND key NOT LIKE 'system/%' ORDER BY step, timestamp LIMIT :most"
)


def count_of(workspace: Workspace, run: str) -> int:
    """How many points a run has logged: whether there is something new to read."""
    rows = read_rows(workspace, "metrics", _COUNT, {"run": run})
    return rows[0].n if rows else 0


def metrics_of(workspace: Workspace, run: str) -> dict[str, list[tuple[float, float]]]:
    """Step and value of every point of a run, in the order of steps, by the metric's name."""
    found: dict[str, list[tuple[float, float]]] = {}
    for row in read_rows(workspace, "metrics", _POINTS, {"run": run, "most": MOST}):
        found.setdefault(row.key, []).append((float(row.step), float(row.value)))
    return found
