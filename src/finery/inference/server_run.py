"""The life of a replica's process: load, prove, listen, say so, answer, drain, end."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import uvicorn
from starlette.types import ASGIApp

from finery.errors import FineryError
from finery.files import write_json
from finery.inference.answering import stop_ids
from finery.inference.engine import Engine
from finery.inference.server_adapters import heard
from finery.inference.server_app import create_app
from finery.inference.server_readers import ReaderPool
from finery.inference.server_state import Replica, make_voice

if TYPE_CHECKING:
    from finery.chat.render import Renderer
    from finery.inference.open import Located

LOST = 70  # the exit status of a replica whose engine is lost: it can be started again
_KEEP_ALIVE = 75  # seconds; longer than a gateway keeps a connection that it does not use
log = logging.getLogger("finery.replica")


@dataclass(frozen=True)
class _Loaded:
    """What loading gave."""

    engine: Engine
    renderer: Renderer
    place: str  # the renderer's folder, for the readers
    stops: tuple[int, ...]
    located: Located | None = None  # None: a stub, whose answers need no proof
    facts: dict[str, Any] = field(default_factory=dict)


def run(options: argparse.Namespace, key: str, start: float) -> int:
    """Serve until asked to end; the exit status. Raises FineryError when it cannot begin."""
    # The loop that uvicorn itself would choose: uvloop's where it is installed.
    factory = uvicorn.Config("").get_loop_factory()
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(_run(options, key, start))


async def _run(options: argparse.Namespace, key: str, start: float) -> int:
    log.info("loading %s", options.model)
    adapters = _adapters(options.adapter)
    pool = ReaderPool(await asyncio.to_thread(_place, options))
    reading = asyncio.create_task(pool.start())  # while the model is loaded
    loaded: _Loaded | None = None
    try:
        loaded = await _load(options, adapters)
        await reading
        voice = make_voice(loaded.place, loaded.renderer, loaded.engine, loaded.stops)
        name = options.name or Path(options.model).name
        replica = Replica(
            name, loaded.engine, pool, voice, key, facts=loaded.facts, located=loaded.located
        )
        for adapter, folder in adapters.items():
            replica.adapters[adapter] = await heard(replica, folder)
        with _listening(options.host, options.port) as listener:
            return await serve(replica, create_app(replica), listener, options, start)
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        await pool.close()
        if loaded is not None:
            await loaded.engine.close()


def _place(options: argparse.Namespace) -> str:
    """The folder of the renderer that the readers load."""
    from finery.inference.engines import stub
    from finery.inference.open import locate

    if options.model.startswith(stub.PREFIX):
        return stub.stub_settings(options.model).renderer or stub.PREFIX
    if options.engine == "stub":
        raise FineryError(f"The engine stub serves no model. Name {stub.PREFIX} as its source.")
    return str(locate(options.model).renderer)


async def _load(options: argparse.Namespace, adapters: Mapping[str, Path]) -> _Loaded:
    """The engine, proved, and the renderer, its golden ids verified."""
    from finery.inference.engines import stub

    if options.model.startswith(stub.PREFIX):
        engine, renderer, place = stub.open_stub(options.model)
        for name, folder in adapters.items():
            await engine.add_adapter(name, folder)
        return _Loaded(engine, renderer, place, renderer.stop_ids, facts={"proof": {}})
    from finery.inference.engines.choosing import open_proved

    proved = await open_proved(
        options.model,
        engine=options.engine,
        device=options.device,
        at_once=options.at_once,
        adapters=adapters,
    )
    located, renderer = proved.located, proved.renderer
    facts = {**proved.facts(), "info": getattr(proved.engine, "info", {})}
    stops = stop_ids(located.model, renderer)
    return _Loaded(proved.engine, renderer, str(located.renderer), stops, located, facts)


def _adapters(given: list[str]) -> dict[str, Path]:
    found = {}
    for one in given:
        name, _, folder = one.partition("=")
        if not name or not folder:
            raise FineryError(f"--adapter is {one!r}. Write NAME=FOLDER.")
        found[name] = Path(folder).expanduser()
        if not found[name].is_dir():
            raise FineryError(f"{folder} is no folder. Name the folder of a LoRA adapter.")
    return found


async def serve(
    replica: Replica,
    app: ASGIApp,
    listener: socket.socket,
    options: argparse.Namespace,
    start: float,
) -> int:
    """Say that it is ready, and answer until asked to end or until the engine is lost."""
    config = uvicorn.Config(
        app,  # pyright: ignore[reportArgumentType] - Starlette's and uvicorn's types of one thing
        log_level="warning",
        access_log=False,
        lifespan="off",
        timeout_keep_alive=_KEEP_ALIVE,
        timeout_graceful_shutdown=max(1, round(options.grace)),
    )
    engine, port = replica.engine, listener.getsockname()[1]
    seconds = time.perf_counter() - start
    told = f"ready in {seconds:.1f} s, engine {engine.name}, {engine.precision}"
    log.info("%s answers on %s:%d, %s", replica.name, options.host, port, told)
    if options.ready:
        note = {
            "pid": os.getpid(),
            "port": port,
            "seconds": seconds,
            "engine": engine.name,
            "precision": engine.precision,
            "context": engine.context,
            "adapters": sorted(replica.adapters),
            **replica.facts,
        }
        write_json(options.ready, note)
    server = _Server(config, replica)
    await server.serve(sockets=[listener])
    if server.lost:
        log.error("the engine is lost: %s", server.lost)
        return LOST
    return 0


class _Server(uvicorn.Server):
    """Drains when it is asked to end, and ends by itself when its engine is lost."""

    def __init__(self, config: uvicorn.Config, replica: Replica) -> None:
        super().__init__(config)
        self.replica = replica
        self.lost = ""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Take no more requests; a second signal ends those under way too.

        The signal is not raised again: the engine is ended, then the process.
        """
        self.force_exit = self.replica.draining
        self.replica.draining = True
        self.should_exit = True

    async def on_tick(self, counter: int) -> bool:
        """Every 0.1 s: whether to end."""
        self.lost = self.lost or self.replica.engine.health()
        if self.lost and not self.should_exit:
            self.config.timeout_graceful_shutdown = 1  # nothing under way can be finished
            self.should_exit = True
        return await super().on_tick(counter)


def _listening(host: str, port: int) -> socket.socket:
    """A socket that takes connections from now on; raises FineryError when it cannot."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        # Inherited by its connections: no token waits for the one before to be acknowledged.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        listener.listen(1024)
    except OSError as error:
        listener.close()
        raise FineryError(f"{host}:{port} cannot be listened on: {error}.") from None
    return listener
