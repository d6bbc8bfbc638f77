"""The web application: every door of the house, in the order in which paths are matched."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from fastapi import Depends, FastAPI

from finery.azureml import (
    assets,
    blobs,
    browser,
    caller,
    codes,
    computes,
    datastores,
    endpoints,
    errors,
    fallback,
    jobs,
    metadata,
    runs,
    tokens,
    tracking,
    workspaces,
)
from finery.azureml.limits import BodyLimits
from finery.azureml.scope import ArmPaths
from finery.endpoints import running as endpoints_part
from finery.jobs import service as jobs_part
from finery.jobs import warming
from finery.studio import door as studio
from finery.workspace import tracking_part
from finery.workspace.place import Workspace

DOORS = (
    metadata,
    tokens,
    browser,
    studio,
    blobs,
    tracking,
    runs,
    workspaces,
    computes,
    datastores,
    codes,
    assets,
    jobs,
    endpoints,
    fallback,  # last: it takes whatever path is left
)


def create_app(workspace: Workspace) -> FastAPI:
    """The service as an ASGI application; starting it starts what works in the background."""

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with contextlib.AsyncExitStack() as stack:
            for start in PARTS:
                await stack.enter_async_context(start(app, workspace))
            yield

    app = FastAPI(
        title="finery",
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        lifespan=lifespan,
        dependencies=[Depends(caller.the_caller)],
    )
    app.state.workspace = workspace
    errors.install(app)
    for door in DOORS:
        app.include_router(door.router)
    app.add_middleware(BodyLimits)  # inside ArmPaths: it goes by the canonical path
    app.add_middleware(ArmPaths)
    return app


# What runs beside the requests, each an async context manager (app, workspace): loaded
# libraries, tracking server, jobs, endpoints. Started in this order, stopped in the other.
PARTS = (warming.part, tracking_part.part, jobs_part.part, endpoints_part.part)
