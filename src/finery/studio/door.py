"""Every page of the studio, in the order in which addresses are matched."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

from fastapi import APIRouter

from finery.studio import (
    assets,
    compare,
    data,
    front,
    jobs,
    logs,
    metrics,
    models,
    run,
)
from finery.studio.pages import StudioRoute


@contextlib.asynccontextmanager
async def _checked(_app: object) -> AsyncIterator[None]:
    """Before the service answers: the files of the pages are the known ones."""
    assets.bundle()
    yield


router = APIRouter(route_class=StudioRoute, lifespan=_checked)

GET, POST = ["GET", "HEAD"], ["POST"]
PAGES: tuple[tuple[list[str], str, Callable[..., Any]], ...] = (
    (GET, "/static/{version}/{name}", front.static),
    (POST, "/sign-in", front.sign_in),
    (POST, "/sign-out", front.sign_out),
    (POST, "/theme", front.theme),
    (GET, "/", front.home),
    (GET, "/now", front.now),
    (GET, "/fine-tune", front.fine_tune),
    (GET, "/jobs", jobs.listing),
    (GET, "/jobs/{name}", run.overview),
    (GET, "/jobs/{name}/state", run.state),
    (POST, "/jobs/{name}/cancel", run.cancel),
    (POST, "/jobs/{name}/again", run.again),
    (POST, "/jobs/{name}/register", run.register),
    (GET, "/jobs/{name}/metrics", metrics.series),
    (GET, "/jobs/{name}/result", run.result),
    (GET, "/jobs/{name}/details", run.details),
    (GET, "/jobs/{name}/log", logs.page),
    (GET, "/jobs/{name}/log/follow", logs.follow),
    (GET, "/jobs/{name}/log/search", logs.search),
    (GET, "/jobs/{name}/log/download", logs.download),
    (GET, "/compare", compare.page),
    (GET, "/models", models.listing),
    (GET, "/models/{name}", models.page),
    (GET, "/data", data.listing),
    (GET, "/data/{name}", data.page),
    (GET, "/data/{name}/look", data.look),
    (["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"], "/{rest:path}", front.nowhere),
)
for _methods, _path, _page in PAGES:
    router.add_api_route(f"/studio{_path}", _page, methods=_methods, response_model=None)
router.add_api_route("/studio", front.to_home, methods=GET, response_model=None)
