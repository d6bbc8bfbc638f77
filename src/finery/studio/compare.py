"""Up to a hundred runs beside each other: best values, settings that differ, curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from finery.errors import Fault, InputError
from finery.jobs import listing
from finery.jobs.job import Job
from finery.studio import layout
from finery.studio.layout import workspace_of

MOST_RUNS = 100
_OFFERED = 30


@dataclass(frozen=True)
class Settings:
    """What runs were told, name by name."""

    differing: Mapping[str, Sequence[str]]  # a value a run, "" where it has none
    shared: Mapping[str, str]


def page(request: Request) -> Response:
    """The chosen runs, or a list to choose from."""
    workspace = workspace_of(request)
    names = list(dict.fromkeys(n for n in request.query_params.getlist("run") if n))
    if len(names) > MOST_RUNS:
        raise InputError([Fault("run", f"{len(names)} runs", f"at most {MOST_RUNS}")])
    runs = listing.whole(workspace, names) if names else []
    offered = listing.page(workspace, limit=_OFFERED)[0] if len(runs) < 2 else []
    return layout.page(
        request,
        "compare.html",
        title="Compare",
        active="compare",
        runs=runs,
        lost=len(names) - len(runs),
        settings=settings_of(runs),
        offered=offered,
        chosen=set(names),
    )


def settings_of(runs: Sequence[Job]) -> Settings:
    """What differs between runs, and what all of them share."""
    told = [_told(run) for run in runs]
    names = sorted({name for values in told for name in values})
    table = {name: [values.get(name, "") for values in told] for name in names}
    differing = {name: values for name, values in table.items() if len(set(values)) > 1}
    shared = {name: values[0] for name, values in table.items() if name not in differing}
    return Settings(differing, shared if len(runs) > 1 else {})


def _told(run: Job) -> dict[str, str]:
    """Every literal and file that the steps of a job are given, by the input's name."""
    steps = [run.spec] if run.parent else run.spec.get("steps", [])
    return {
        name: text
        for step in steps
        for name, value in step["inputs"].items()
        if (text := _text(value)) is not None
    }


def _text(value: Mapping[str, Any]) -> str | None:
    match value["kind"]:
        case "value":
            return str(value["text"])
        case "asset":
            uri = str(value["uri"])
            short = PurePosixPath(uri.removeprefix("azureml://")).parts[-3:]
            return "/".join(short)
    return None
