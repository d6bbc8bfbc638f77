"""The list of jobs: by state, experiment and words, a page at a time."""

from __future__ import annotations

from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import Response

from finery.errors import Fault, InputError
from finery.jobs import job as states
from finery.jobs import listing as lists
from finery.studio.layout import fragment, page, workspace_of

PAGE = 50
# What the filter offers, and the states that each means.
KINDS = {
    "active": (
        *(states.NOT_STARTED, states.QUEUED, states.PREPARING, states.STARTING),
        *(states.RUNNING, states.FINALIZING, states.CANCEL_REQUESTED),
    ),
    "completed": (states.COMPLETED,),
    "failed": (states.FAILED,),
    "canceled": (states.CANCELED,),
}


def listing(
    request: Request, state: str = "", experiment: str = "", q: str = "", before: str = ""
) -> Response:
    """A page of jobs; to htmx its rows alone."""
    if state and state not in KINDS:
        raise InputError([Fault("state", repr(state), f"one of {', '.join(KINDS)}")])
    if before and not (before.isascii() and before.isdigit() and len(before) < 19):
        raise InputError([Fault("before", repr(before), "a place that a page gave")])
    workspace = workspace_of(request)
    found, after = lists.page(
        workspace,
        statuses=KINDS.get(state, ()),
        experiment=experiment,
        words=q,
        limit=PAGE,
        before=int(before) if before else None,
    )
    kept = {k: v for k, v in (("state", state), ("experiment", experiment), ("q", q)) if v}
    shown = {
        "jobs": found,
        "more": f"/studio/jobs?{urlencode({**kept, 'before': after})}" if after else "",
        "is_filtered": bool(kept),
        "is_first": not before,
    }
    if request.headers.get("hx-request"):
        return fragment(request, "jobs_rows.html", **shown)
    return page(
        request,
        "jobs.html",
        title="Jobs",
        active="jobs",
        kinds=list(KINDS),
        experiments=lists.experiments(workspace),
        chosen={"state": state, "experiment": experiment, "q": q},
        **shown,
    )
