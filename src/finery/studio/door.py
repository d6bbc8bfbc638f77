"""Every page of the studio, in the order in which addresses are matched."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

from fastapi import APIRouter

from finery.studio import (
    assets,
    chat,
    chat_rows,
    compare,
    data,
    endpoints,
    endpoints_ask,
    endpoints_changes,
    endpoints_deploy,
    endpoints_figures,
    endpoints_logs,
    fine_tune,
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
ENDPOINT = "/endpoints/{name}"
DEPLOYMENT = ENDPOINT + "/deployments/{deployment}"
PAGES: tuple[tuple[list[str], str, Callable[..., Any]], ...] = (
    (GET, "/static/{version}/{name}", front.static),
    (POST, "/sign-in", front.sign_in),
    (POST, "/sign-out", front.sign_out),
    (POST, "/theme", front.theme),
    (GET, "/", front.home),
    (GET, "/now", front.now),
    (GET, "/fine-tune", fine_tune.show),
    (POST, "/fine-tune", fine_tune.send),
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
    (GET, "/endpoints", endpoints.listing),
    (GET, ENDPOINT, endpoints.overview),
    (GET, ENDPOINT + "/state", endpoints.state),
    (GET, ENDPOINT + "/traffic", endpoints.traffic),
    (POST, ENDPOINT + "/traffic", endpoints_changes.set_traffic),
    (POST, ENDPOINT + "/canary", endpoints_changes.begin_canary),
    (POST, ENDPOINT + "/canary/abort", endpoints_changes.abort_canary),
    (GET, ENDPOINT + "/keys", endpoints_changes.hide_keys),
    (POST, ENDPOINT + "/keys", endpoints_changes.show_keys),
    (POST, ENDPOINT + "/keys/rotate", endpoints_changes.rotate_key),
    (POST, ENDPOINT + "/ask", endpoints_ask.ask),
    (POST, ENDPOINT + "/delete", endpoints_changes.delete),
    (POST, DEPLOYMENT + "/delete", endpoints_changes.delete_deployment),
    (GET, DEPLOYMENT + "/figures", endpoints_figures.figures),
    (GET, DEPLOYMENT + "/log", endpoints_logs.page),
    (GET, DEPLOYMENT + "/log/follow", endpoints_logs.follow),
    (GET, DEPLOYMENT + "/log/download", endpoints_logs.download),
    (GET, "/deploy", endpoints_deploy.form),
    (POST, "/deploy", endpoints_deploy.deploy),
    (GET, "/chat", chat.conversation),
    (POST, "/chat/answer", chat.answer),
    (POST, "/chat/save", chat_rows.save),
    (["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"], "/{rest:path}", front.nowhere),
)
for _methods, _path, _page in PAGES:
    router.add_api_route(f"/studio{_path}", _page, methods=_methods, response_model=None)
router.add_api_route("/studio", front.to_home, methods=GET, response_model=None)
