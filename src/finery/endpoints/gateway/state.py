"""What all requests of the gateway share: tables, places, connections, counts."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field

import aiohttp

from finery.endpoints.gateway import upstream
from finery.endpoints.gateway.admission import Places
from finery.endpoints.gateway.bodies import Bodies
from finery.endpoints.gateway.counts import Counter, Figures, Key, Stats
from finery.endpoints.gateway.naming import Naming
from finery.endpoints.gateway.request_log import FOLDER, RequestLog
from finery.endpoints.gateway.tables import Watch
from finery.endpoints.routing import Table
from finery.workspace.place import Workspace

log = logging.getLogger("finery.gateway")


@dataclass
class Gateway:
    """One of these for a process; everything happens on one event loop."""

    workspace: Workspace
    session: aiohttp.ClientSession
    log: RequestLog
    watch: Watch = field(init=False)
    tables: Mapping[str, Table] = field(default_factory=dict)
    places: dict[Key, Places] = field(default_factory=dict)
    counters: defaultdict[Key, Counter] = field(default_factory=lambda: defaultdict(Counter))
    mirrored: defaultdict[Key, Counter] = field(default_factory=lambda: defaultdict(Counter))
    copies: set[asyncio.Task[None]] = field(default_factory=set)  # on their way to mirrors
    bodies: Bodies = field(default_factory=Bodies)
    naming: Naming = field(default_factory=Naming)
    id: str = field(default_factory=lambda: uuid.uuid4().hex)

    def __post_init__(self) -> None:
        self.watch = Watch(self.workspace.store, self.take)

    def take(self, tables: Mapping[str, Table]) -> None:
        """What there is from now on; what is under way goes on."""
        self.tables = tables
        here = {(e, d): table for e, table in tables.items() for d in table.deployments}
        for key, table in here.items():
            deployment, ready = table.deployments[key[1]], table.replicas[key[1]]
            if key not in self.places:
                self.places[key] = Places(deployment)
            self.places[key].update(deployment, ready)
        for key in self.places.keys() - here.keys():
            self.places.pop(key).close()
        for counted in (self.counters, self.mirrored):  # a name that comes again begins anew
            for key in [key for key in counted if key[0] not in tables]:
                del counted[key]

    def stats(self) -> Stats:
        """All counts."""
        keys = self.places.keys() | self.counters.keys()
        return Stats(
            self.id,
            {key: self._figures(key) for key in keys},
            {key: counter.figures() for key, counter in self.mirrored.items()},
        )

    def _figures(self, key: Key) -> Figures:
        counter = self.counters.get(key) or Counter()
        places = self.places.get(key)
        return (
            counter.figures(places.in_flight, len(places.waiting)) if places else counter.figures()
        )


@contextlib.asynccontextmanager
async def opened(workspace: Workspace) -> AsyncIterator[Gateway]:
    """A gateway that knows its tables and keeps up with them."""
    async with upstream.client() as session:
        gateway = Gateway(workspace, session, RequestLog(workspace.logs / FOLDER))
        await gateway.watch.reload()
        gateway.log.start()
        looking = asyncio.create_task(gateway.watch.run())
        try:
            yield gateway
        finally:
            left = [looking, *gateway.copies]
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)
            await gateway.naming.close()
            gateway.watch.close()
            gateway.log.close()
