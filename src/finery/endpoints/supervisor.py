"""Makes of the replicas there are the replicas that are wanted, again and again.

All it acts on is in the store and in the replicas' folders, so a service that was killed is
followed by one that goes on where it was: replicas live on and are adopted as they are.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

import sqlalchemy as sa

from finery.endpoints import canary_steps, operations, replicas
from finery.endpoints.gateway import control
from finery.endpoints.service import change_deployment
from finery.endpoints.supervisor_replicas import Replicas
from finery.endpoints.supervisor_rolling import plan
from finery.endpoints.tables import canaries, deployments, endpoints
from finery.endpoints.tables import replicas as rows
from finery.endpoints.values import Deployment, Replica, State
from finery.workspace.place import Workspace

log = logging.getLogger("finery.endpoints")

SETTLED, UNSETTLED = 0.2, 0.1  # seconds between two looks
CANARIES = 1.0  # seconds between two looks at canaries


@dataclass
class Supervisor:
    """One thread that looks after every deployment of the workspace."""

    workspace: Workspace
    _wake: threading.Event = field(default_factory=threading.Event)
    _end: threading.Event = field(default_factory=threading.Event)
    _replicas: Replicas = field(init=False)

    def __post_init__(self) -> None:
        self._replicas = Replicas(self.workspace)

    def run(self) -> None:
        """Look until `stop`; what a look fails at, the next one tries again."""
        canaries_at = 0.0
        while not self._end.is_set():
            settled = True
            try:
                settled = self.look()
                if time.monotonic() >= canaries_at:
                    canaries_at = time.monotonic() + CANARIES
                    canary_steps.advance(self.workspace)
            except Exception:
                log.exception("looking after the endpoints failed; trying again")
            self._wake.wait(SETTLED if settled else UNSETTLED)
            self._wake.clear()
        self._replicas.close()

    def wake(self) -> None:
        """Look now: something is wanted."""
        self._wake.set()

    def stop(self) -> None:
        """End the thread; the replicas stay as they are."""
        self._end.set()
        self._wake.set()

    def look(self) -> bool:
        """Bring everything one step nearer to what is wanted; whether nothing is left to do."""
        with self.workspace.store.read() as connection:
            wanted = [
                Deployment(**row._mapping) for row in connection.execute(deployments.select())
            ]
            there = [Replica(**row._mapping) for row in connection.execute(rows.select())]
            gone = sa.select(endpoints.c.name).where(endpoints.c.state == "Deleting")
            leaving = list(connection.execute(gone).scalars())
        self._replicas.attend(wanted, there)
        settled = [self._tried(one, [r for r in there if _belongs(r, one)]) for one in wanted]
        orphans = [r for r in there if not any(_belongs(r, one) for one in wanted)]
        for replica in orphans:
            self._replicas.dismiss(replica, at_once=True)
        for name in leaving:
            self._remove_endpoint(name)
        return all(settled) and not orphans and not leaving

    def _tried(self, wanted: Deployment, there: Sequence[Replica]) -> bool:
        """One deployment's trouble is not the others'."""
        try:
            return self._deployment(wanted, there)
        except Exception:
            log.exception("looking after %s/%s failed; trying again", wanted.endpoint, wanted.name)
            return True

    def _deployment(self, wanted: Deployment, there: Sequence[Replica]) -> bool:
        """One deployment; whether it is as it should be."""
        living = []
        for replica in there:
            found, why = self._replicas.look(wanted, replica)
            if found is not None:
                living.append(found)
            elif why:
                self._fail(wanted, why)
        if len(living) < len(there):
            return False  # what follows from a death is in the store: look again
        if wanted.state == "Deleting":
            for replica in there:
                self._replicas.dismiss(replica, at_once=True)
            if not there:
                self._remove_deployment(wanted)
            return False
        todo = plan(wanted, self._replicas.housed(living))
        if todo.succeeded:
            self._settle(wanted, "Succeeded")
        for replica in todo.dismiss:
            self._replicas.dismiss(replica)
        for form, count in todo.start:
            self._replicas.start(wanted, form, count)
        return todo.settled and all(replica.state == "ready" for replica in living)

    def _fail(self, wanted: Deployment, why: str) -> None:
        if wanted.state in ("Creating", "Updating"):
            self._settle(wanted, "Failed", {"code": "ResourceNotReady", "message": why})

    def _settle(
        self, wanted: Deployment, state: State, error: Mapping[str, str] | None = None
    ) -> None:
        """End the creation or update, unless another one has begun since."""
        values = {"state": state, "error": error}
        if state == "Succeeded":
            values["served"] = asdict(wanted.form)
        with self.workspace.store.write() as connection:
            change = change_deployment(wanted.endpoint, wanted.name).where(
                deployments.c.revision == wanted.revision,
                deployments.c.state == wanted.state,
                deployments.c.modified_at == wanted.modified_at,
            )
            if connection.execute(change.values(values)).rowcount:
                name = wanted.name
                operations.finish(connection, wanted.endpoint, name, state, error, kind="put")
        self._replicas.start_afresh(wanted)
        control.reload(self.workspace)

    def _remove_deployment(self, gone: Deployment) -> None:
        replicas.remove_folders(self.workspace, gone.endpoint, gone.name)
        with self.workspace.store.write() as connection:
            connection.execute(
                deployments.delete().where(
                    deployments.c.endpoint == gone.endpoint, deployments.c.name == gone.name
                )
            )
            operations.finish(connection, gone.endpoint, gone.name, "Succeeded", kind="delete")
        control.reload(self.workspace)

    def _remove_endpoint(self, name: str) -> None:
        """When its last deployment is gone."""
        with self.workspace.store.write() as connection:
            left = deployments.select().where(deployments.c.endpoint == name)
            if connection.execute(left).first():
                return
            connection.execute(canaries.delete().where(canaries.c.endpoint == name))
            connection.execute(endpoints.delete().where(endpoints.c.name == name))
            operations.finish(connection, name, "", "Succeeded", kind="delete")
        replicas.remove_folders(self.workspace, name)
        control.reload(self.workspace)


def _belongs(replica: Replica, deployment: Deployment) -> bool:
    return (replica.endpoint, replica.deployment) == (deployment.endpoint, deployment.name)
