"""What the gateway knows of the endpoints: read whole, held in memory, read anew on a change."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import sqlalchemy as sa

from finery.endpoints.routing import Table
from finery.endpoints.tables import deployments, endpoints, replicas
from finery.endpoints.values import Deployment, Endpoint, Replica
from finery.workspace.store import Store

log = logging.getLogger("finery.gateway")

PERIOD = 0.25  # seconds between two looks


def read(store: Store) -> dict[str, Table]:
    """Every endpoint with its deployments and the replicas that answer, at one moment."""
    with store.read() as connection:
        rows = [Endpoint(**row._mapping) for row in connection.execute(endpoints.select())]
        behind: dict[str, dict[str, Deployment]] = defaultdict(dict)
        for row in connection.execute(deployments.select()):
            behind[row.endpoint][row.name] = Deployment(**row._mapping)
        query = replicas.select().where(replicas.c.state == "ready").order_by(replicas.c.created_at)
        ready = [Replica(**row._mapping) for row in connection.execute(query)]
    return {
        endpoint.name: Table(
            endpoint,
            behind[endpoint.name],
            {
                name: [r for r in ready if (r.endpoint, r.deployment) == (endpoint.name, name)]
                for name in behind[endpoint.name]
            },
        )
        for endpoint in rows
    }


@dataclass
class Watch:
    """Reads the tables when they changed, in a thread of its own."""

    store: Store
    changed: Callable[[Mapping[str, Table]], None]  # called on the event loop
    _thread: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1))
    _connection: sa.Connection | None = None
    _version: int | None = None
    _known: Mapping[str, Table] = field(default_factory=dict)

    async def reload(self) -> None:
        """Read everything now."""
        await self._take(self._read)

    async def run(self) -> None:
        """Look again and again; what a look fails at, the next one tries again."""
        while True:
            await asyncio.sleep(PERIOD)
            try:
                await self._take(self._look)
            except Exception:
                log.exception("the tables could not be read; the old ones hold on")

    def close(self) -> None:
        """End the thread."""
        if self._connection is not None:
            self._thread.submit(self._connection.close)
        self._thread.shutdown()

    async def _take(self, read: Callable[[], Mapping[str, Table] | None]) -> None:
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(self._thread, read)
        if found is not None:
            self.changed(found)

    def _look(self) -> Mapping[str, Table] | None:
        """The tables when they are others than before."""
        version = self._commits()
        if version is not None and version == self._version:
            return None
        known = self._known
        found = self._read()
        self._version = version  # not before: a look that failed has seen nothing
        return found if found != known else None

    def _read(self) -> Mapping[str, Table]:
        self._known = read(self.store)
        return self._known

    def _commits(self) -> int | None:
        """A number that grows when another connection commits; SQLite alone has one."""
        if self.store.engine.dialect.name != "sqlite":
            return None
        if self._connection is None:
            self._connection = self.store.engine.connect()
        return self._connection.exec_driver_sql("PRAGMA data_version").scalar()
