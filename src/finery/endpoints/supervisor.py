"""Makes of the replicas there are the replicas that are wanted, again and again.

All it acts on is in the store and in the replicas' folders, so a service that was killed is
followed by one that goes on where it was: replicas live on and are adopted as they are.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import sqlalchemy as sa

from finery.endpoints import operations, replicas
from finery.endpoints.service import change_deployment
from finery.endpoints.tables import deployments, endpoints
from finery.endpoints.tables import replicas as rows
from finery.endpoints.values import Deployment, Replica
from finery.runners import process
from finery.workspace.place import Workspace
from finery.workspace.store import now

log = logging.getLogger("finery.endpoints")

STARTS = 3  # attempts at a first replica before the deployment counts as failed
START_LIMIT = 3600.0  # seconds that a replica has to fetch and load its model
PROVEN = 300.0  # seconds after which a death is an accident, not the replica's nature
LONGEST_WAIT = 30.0  # seconds between two starts of a replica that keeps dying
SETTLED, UNSETTLED = 1.0, 0.1  # seconds between two looks


@dataclass
class Supervisor:
    """One thread that looks after every deployment of the workspace."""

    workspace: Workspace
    _wake: threading.Event = field(default_factory=threading.Event)
    _end: threading.Event = field(default_factory=threading.Event)
    # What may be forgotten when the service ends: deaths in a row, when to start again, when
    # to look at a replica, how often it did not answer, whom we asked to end.
    _losses: Counter[str] = field(default_factory=Counter)
    _not_before: dict[str, float] = field(default_factory=dict)
    _look_at: dict[str, float] = field(default_factory=dict)
    _silent: Counter[str] = field(default_factory=Counter)
    _asked: set[str] = field(default_factory=set)

    def run(self) -> None:
        """Look until `stop`; what a look fails at, the next one tries again."""
        while not self._end.is_set():
            try:
                settled = self.look()
            except Exception:
                log.exception("looking after the endpoints failed; trying again")
                settled = True
            self._wake.wait(SETTLED if settled else UNSETTLED)
            self._wake.clear()

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
        settled = [self._tried(one, [r for r in there if _belongs(r, one)]) for one in wanted]
        orphans = [r for r in there if not any(_belongs(r, one) for one in wanted)]
        for replica in orphans:
            self._dismiss(replica)
        for name in leaving:
            self._remove_endpoint(name)
        return all(settled) and not orphans and not leaving

    def _tried(self, wanted: Deployment, there: Sequence[Replica]) -> bool:
        """One deployment's trouble is not the others'."""
        try:
            return self._deployment(wanted, there)
        except Exception:
            log.exception("looking after %s failed; trying again", _key(wanted))
            return True

    def _deployment(self, wanted: Deployment, there: Sequence[Replica]) -> bool:
        """One deployment; whether it is as it should be."""
        living = [found for replica in there if (found := self._known(wanted, replica))]
        if len(living) < len(there):
            return False  # what follows from a death is in the store: look again
        there = living
        current = [r for r in there if r.revision == wanted.revision and r.state != "stopping"]
        old = [r for r in there if r.revision != wanted.revision and r.state != "stopping"]
        ready = [r for r in current if r.state == "ready"]
        if wanted.state == "Deleting":
            for replica in there:
                self._dismiss(replica)
            if not there:
                self._remove_deployment(wanted)
            return False
        if wanted.state == "Failed":
            for replica in current:
                self._dismiss(replica)
            return not current
        if len(ready) >= wanted.instance_count:
            if wanted.state != "Succeeded":
                self._settle(wanted, "Succeeded")
            for replica in [*old, *ready[wanted.instance_count :]]:
                self._dismiss(replica)
        missing = wanted.instance_count - len(current)
        if missing > 0 and time.monotonic() >= self._not_before.get(_form(wanted), 0.0):
            for _ in range(missing):
                self._start(wanted)
        return len(ready) == len(there) == wanted.instance_count

    def _known(self, wanted: Deployment, replica: Replica) -> Replica | None:
        """The replica as it is now; None when it is gone."""
        state = process.state(replicas.folder_of(self.workspace, replica))
        if state == "never" and replica.state != "stopping":
            # The service ended between noting the replica and starting it.
            replicas.start(self.workspace, replica, wanted)
            return replica
        if state != "running":
            self._bury(wanted, replica)
            return None
        if replica.state == "stopping":
            self._dismiss(replica)
        elif replica.state == "starting":
            return self._perhaps_ready(wanted, replica)
        elif not self._answers(wanted, replica):
            process.end_all(replica.id)
        return replica

    def _perhaps_ready(self, wanted: Deployment, replica: Replica) -> Replica:
        port = replicas.ready_port(self.workspace, replica)
        if not port:
            if (now() - replica.created_at).total_seconds() > START_LIMIT:
                process.end_all(replica.id)
            return replica
        with self.workspace.store.write() as connection:
            change = rows.update().where(rows.c.id == replica.id, rows.c.state == "starting")
            connection.execute(change.values(state="ready", port=port))
        log.info("%s: replica %s answers on port %d", _key(wanted), replica.id, port)
        return replace(replica, state="ready", port=port)

    def _answers(self, wanted: Deployment, replica: Replica) -> bool:
        """Whether a ready replica still counts as alive."""
        probe = replicas.probe_of(wanted.probe)
        moment = time.monotonic()
        if moment < self._look_at.setdefault(replica.id, moment + probe.period):
            return True
        healthy = replicas.is_healthy(replica, probe.timeout)
        self._look_at[replica.id] = time.monotonic() + probe.period
        self._silent[replica.id] = 0 if healthy else self._silent[replica.id] + 1
        return self._silent[replica.id] < probe.failures

    def _start(self, wanted: Deployment) -> None:
        replica = Replica(
            id=str(uuid.uuid4()),
            endpoint=wanted.endpoint,
            deployment=wanted.name,
            revision=wanted.revision,
            state="starting",
            port=0,
            key=secrets.token_urlsafe(32),
            created_at=now(),
        )
        with self.workspace.store.write() as connection:
            connection.execute(rows.insert().values(vars(replica)))
        log.info("%s: starting replica %s", _key(wanted), replica.id)
        replicas.start(self.workspace, replica, wanted)

    def _dismiss(self, replica: Replica) -> None:
        """Ask a replica to end; once, and it has its grace. When it has ended, forget it."""
        if replica.state != "stopping":
            with self.workspace.store.write() as connection:
                change = rows.update().where(rows.c.id == replica.id)
                connection.execute(change.values(state="stopping"))
        folder = replicas.folder_of(self.workspace, replica)
        if process.state(folder) != "running":
            self._remove(replica)
        elif replica.id not in self._asked and process.ask_to_stop(folder):
            self._asked.add(replica.id)

    def _bury(self, wanted: Deployment, replica: Replica) -> None:
        """A replica that is no more: was it asked to end, did it refuse, or was it lost?"""
        refused = replicas.was_refused(self.workspace, replica)
        end = replicas.how_it_ended(self.workspace, replica)
        words = replicas.tail(replicas.folder_of(self.workspace, replica) / replicas.LOG, 12)
        self._remove(replica)
        if replica.state == "stopping" or replica.revision != wanted.revision:
            return
        form = _form(wanted)
        lived_well = (now() - replica.created_at).total_seconds() > PROVEN
        losses = self._losses[form] = 1 if lived_well else self._losses[form] + 1
        wait = 0.0 if losses == 1 else min(LONGEST_WAIT, 2.0**losses / 4)
        self._not_before[form] = time.monotonic() + wait
        log.warning("%s: replica %s ended (%s): %s", _key(wanted), replica.id, end, words)
        in_vain = replica.state == "starting" and (refused or losses >= STARTS)
        if wanted.state in ("Creating", "Updating") and in_vain:
            text = f"A replica ended before it could answer ({end}). Its last words:\n{words}"
            self._settle(wanted, "Failed", {"code": "ResourceNotReady", "message": text})

    def _settle(
        self, wanted: Deployment, state: str, error: Mapping[str, str] | None = None
    ) -> None:
        """End the creation or update, unless another one has begun since."""
        with self.workspace.store.write() as connection:
            change = change_deployment(wanted.endpoint, wanted.name).where(
                deployments.c.revision == wanted.revision,
                deployments.c.state == wanted.state,
                deployments.c.modified_at == wanted.modified_at,
            )
            if connection.execute(change.values(state=state, error=error)).rowcount:
                name = wanted.name
                operations.finish(connection, wanted.endpoint, name, state, error, kind="put")
        self._losses.pop(_form(wanted), None)
        self._not_before.pop(_form(wanted), None)

    def _remove(self, replica: Replica) -> None:
        process.end_all(replica.id)
        with self.workspace.store.write() as connection:
            connection.execute(rows.delete().where(rows.c.id == replica.id))
        replicas.forget(self.workspace, replica)
        self._asked.discard(replica.id)
        self._look_at.pop(replica.id, None)
        self._silent.pop(replica.id, None)

    def _remove_deployment(self, gone: Deployment) -> None:
        replicas.remove_folders(self.workspace, gone.endpoint, gone.name)
        with self.workspace.store.write() as connection:
            connection.execute(
                deployments.delete().where(
                    deployments.c.endpoint == gone.endpoint, deployments.c.name == gone.name
                )
            )
            operations.finish(connection, gone.endpoint, gone.name, "Succeeded", kind="delete")

    def _remove_endpoint(self, name: str) -> None:
        """When its last deployment is gone."""
        with self.workspace.store.write() as connection:
            left = deployments.select().where(deployments.c.endpoint == name)
            if connection.execute(left).first():
                return
            connection.execute(endpoints.delete().where(endpoints.c.name == name))
            operations.finish(connection, name, "", "Succeeded", kind="delete")
        replicas.remove_folders(self.workspace, name)


def _belongs(replica: Replica, deployment: Deployment) -> bool:
    return (replica.endpoint, replica.deployment) == (deployment.endpoint, deployment.name)


def _form(deployment: Deployment) -> str:
    """A deployment as it was asked for last: its failures are not those of the form before."""
    return f"{_key(deployment)} {deployment.revision}"


def _key(deployment: Deployment) -> str:
    return f"{deployment.endpoint}/{deployment.name}"
