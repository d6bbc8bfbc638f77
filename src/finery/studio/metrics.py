"""Curves for the charts of pages: all at first, then what came since."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse

from finery.jobs import service
from finery.studio import curves
from finery.studio.formats import colour
from finery.studio.layout import workspace_of


def series(request: Request, name: str, cursor: str = "") -> JSONResponse:
    """The curves of a job: `x` are steps, `y` values. `cursor` of one answer goes into the next."""
    workspace = workspace_of(request)
    job = service.get(workspace, name)
    found = curves.of_job(workspace, job, cursor[:100])
    return JSONResponse(
        {
            "run": job.name,
            "label": job.display_name,
            "colour": colour(job.name),
            "cursor": found.cursor,
            "whole": found.is_whole,
            "ended": job.is_terminal,
            "series": {name: _shown(name, curve) for name, curve in found.curves.items()},
        }
    )


def _shown(name: str, curve: curves.Curve) -> dict[str, Any]:
    return {
        "x": [x for x, _ in curve.points],
        "y": [float(f"{y:.6g}") for _, y in curve.points],
        "count": curve.count,
        "last": curve.last,
        "best": curve.best,
        "direction": curves.direction(name),
    }
