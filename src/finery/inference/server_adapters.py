"""Adapters of the replica's base model, taken in and let go while it answers.

For the service that started the replica: only its key opens these routes.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from finery.errors import FineryError
from finery.inference.protocol.reading import parsed
from finery.inference.protocol.refusals import Refusal, refusal_of, refused
from finery.inference.server_gate import failure
from finery.inference.server_readers import ReaderPool
from finery.inference.server_state import Replica, Voice
from finery.inference.server_stream import GoneError, body_of

log = logging.getLogger("finery.replica")

_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,127}")


async def add(request: Request) -> Response:
    """POST /adapters {"name", "folder"}: the adapter answers from now on."""
    return await _shaped(request, _add)


async def remove(request: Request) -> Response:
    """DELETE /adapters/NAME: it answers no more; unknown names are a 404."""
    return await _shaped(request, _remove)


async def _shaped(request: Request, work: Any) -> Response:
    replica: Replica = request.app.state.replica
    try:
        if not replica.key:
            text = "Adapters are changed with the replica's key only, and this one has none."
            raise refused(text, status=403, code="no_key")
        if "adapters" not in replica.engine.features:
            text = f"The engine {replica.engine.name} takes no adapters."
            raise refused(text, code="unsupported")
        async with replica.changing:
            return await work(request, replica)
    except GoneError:
        return Response(status_code=499)
    except FineryError as error:
        return failure(request, refusal_of(error))
    except Exception:
        log.exception("an adapter could not be changed")
        told = Refusal(500, "The replica failed; its log says why.", "internal_error")
        return failure(request, told)


async def _add(request: Request, replica: Replica) -> Response:
    body = parsed(await body_of(request))
    name = body.get("name") if isinstance(body, dict) else None
    folder = body.get("folder") if isinstance(body, dict) else None
    if not isinstance(name, str) or not isinstance(folder, str) or not _NAME.fullmatch(name):
        raise refused(f"The body is {json.dumps(body)[:100]}. Send a name and a folder.")
    if name == replica.name:
        raise refused(f"{name} is the base model's own name.", param="name")
    await take_in(replica, name, Path(folder))
    return JSONResponse({"name": name, "adapters": sorted(replica.adapters)})


async def _remove(request: Request, replica: Replica) -> Response:
    name = request.path_params["name"]
    replica.voice(name)
    await _forget(replica, name)
    return JSONResponse({"name": name, "adapters": sorted(replica.adapters)})


async def _forget(replica: Replica, name: str) -> None:
    replica.adapters.pop(name, None)
    await replica.engine.remove_adapter(name)  # pyright: ignore[reportAttributeAccessIssue]


async def take_in(replica: Replica, name: str, folder: Path) -> None:
    """Load and prove an adapter; raises FineryError when it does not fit or does not hold."""
    if not folder.is_dir():
        raise FineryError(f"{folder} is no folder. Name the folder of a LoRA adapter.")
    voice = await heard(replica, folder)
    await replica.engine.add_adapter(name, folder)  # pyright: ignore[reportAttributeAccessIssue]
    if replica.located is not None:
        from finery.inference.engines.choosing import prove_adapter

        try:
            await prove_adapter(replica.engine, replica.located, name, folder)
        except BaseException:
            await _forget(replica, name)
            raise
    replica.adapters[name] = voice


async def heard(replica: Replica, folder: Path) -> Voice:
    """The voice of an adapter's folder, which the readers know too; raises FineryError."""
    voice = await asyncio.to_thread(replica.voice_of, folder)
    if isinstance(replica.reader, ReaderPool) and voice is not replica.base:
        await replica.reader.warm(voice.renderer)
    return voice
