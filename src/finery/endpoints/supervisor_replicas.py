"""The life of one replica as the supervisor steers it: start, watch, ask to end, bury."""

from __future__ import annotations

import logging
import secrets
import time
import uuid
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

from finery.endpoints import replicas
from finery.endpoints.gateway import control
from finery.endpoints.supervisor_probes import Probes
from finery.endpoints.supervisor_sharing import (
    adapter_name,
    host_for,
    load,
    parts_of,
    rehomed,
    unload,
)
from finery.endpoints.tables import replicas as rows
from finery.endpoints.values import Deployment, Form, Replica
from finery.errors import FineryError
from finery.runners import process
from finery.workspace.place import Workspace
from finery.workspace.store import now

log = logging.getLogger("finery.endpoints")

STARTS = 3  # attempts at a first replica before the deployment counts as failed
START_LIMIT = 3600.0  # seconds that a replica has to fetch and load its model
PROVEN = 300.0  # seconds after which a death is an accident, not the replica's nature
LONGEST_WAIT = 30.0  # seconds between two starts of a replica that keeps dying
DELETE_GRACE = 15.0  # seconds for answers under way at a deployment that somebody deletes
LAST_WORDS = 12  # lines of a log


@dataclass
class Replicas:
    """The replicas of a workspace; what it remembers itself may be forgotten."""

    workspace: Workspace
    probes: Probes = field(default_factory=Probes)
    # Deaths in a row and when to start again, by form; when we asked a replica to end.
    _losses: Counter[str] = field(default_factory=Counter)
    _not_before: dict[str, float] = field(default_factory=dict)
    _asked: dict[str, float] = field(default_factory=dict)
    _silent: set[str] = field(default_factory=set)  # ended as they failed their liveness probe
    # Adapters that hosts are taking in, by guest; all deployments and replicas as of this look.
    _loading: dict[str, Future[str]] = field(default_factory=dict)
    _loaders: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(4, "adapter"))
    _deployments: Sequence[Deployment] = ()
    _there: dict[str, Replica] = field(default_factory=dict)

    def attend(self, deployments: Sequence[Deployment], there: Sequence[Replica]) -> None:
        """Everything there is, at the beginning of a look."""
        self._deployments, self._there = deployments, {replica.id: replica for replica in there}

    def housed(self, living: Sequence[Replica]) -> list[Replica]:
        """The replicas, those marked that need another process soon."""
        return rehomed(living, self._there)

    def close(self) -> None:
        """Look after nothing any more."""
        self.probes.close()
        self._loaders.shutdown(wait=False, cancel_futures=True)

    def look(self, wanted: Deployment, replica: Replica) -> tuple[Replica | None, str]:
        """The replica as it is now; None when it is gone, with why its deployment failed by it."""
        if replica.host:
            return self._guest(wanted, replica)
        state = process.state(replicas.folder_of(self.workspace, replica))
        if state == "never" and replica.state != "stopping":
            # The service ended between noting the replica and starting it.
            self._run(wanted, replica)
            return replica, ""
        if state != "running":
            return None, self._bury(wanted, replica)
        if replica.state == "stopping":
            self.dismiss(replica, at_once=wanted.state == "Deleting")
        elif replica.state == "starting":
            return self._perhaps_ready(wanted, replica), ""
        elif not self.probes.is_alive(wanted, replica):
            log.warning("%s does not answer its liveness probe", _name(replica))
            found = self._turn(replica, "unready")
            self._silent.add(replica.id)
            process.end_all(replica.id)
            return found, ""
        else:
            return self._in_rotation(wanted, replica), ""
        return replica, ""

    def start(self, wanted: Deployment, form: Form, count: int) -> None:
        """Start `count` replicas of a form, unless it died too often a moment ago."""
        if time.monotonic() < self._not_before.get(_key(wanted, form.revision), 0.0):
            return
        for _ in range(count):
            replica = Replica(
                id=str(uuid.uuid4()),
                endpoint=wanted.endpoint,
                deployment=wanted.name,
                revision=form.revision,
                state="starting",
                port=0,
                key=secrets.token_urlsafe(32),
                created_at=now(),
                adapter=adapter_name(wanted.name, form.revision) if parts_of(form) else "",
            )
            host = host_for(wanted, form, self._deployments, [*self._there.values()])
            if host is not None:
                replica = replace(replica, host=host.id, port=host.port, key=host.key)
            with self.workspace.store.write() as connection:
                connection.execute(rows.insert().values(vars(replica)))
            self._there[replica.id] = replica
            if host is None:
                log.info("%s: starting", _name(replica))
                replicas.start(self.workspace, replica, wanted, form)
            else:
                log.info("%s: in the process of %s", _name(replica), _name(host))

    def dismiss(self, replica: Replica, *, at_once: bool = False) -> None:
        """Take a replica out of rotation, then ask it to end; `at_once` shortens its grace.

        It is asked a look later: what the gateway sent before it knew has arrived by then.
        """
        if replica.state != "stopping":
            self._turn(replica, "stopping")
            return
        if replica.host:
            self._move_out(replica)
            return
        if any(one.host == replica.id for one in self._there.values()):
            return  # its process ends when its last guest has another
        folder = replicas.folder_of(self.workspace, replica)
        if process.state(folder) != "running":
            self._remove(replica)
        elif replica.id not in self._asked:
            if process.ask_to_stop(folder):
                self._asked[replica.id] = time.monotonic()
        elif at_once and time.monotonic() > self._asked[replica.id] + DELETE_GRACE:
            process.end_all(replica.id)

    def start_afresh(self, wanted: Deployment) -> None:
        """What was lost before no longer counts."""
        self._losses.pop(_key(wanted, wanted.revision), None)
        self._not_before.pop(_key(wanted, wanted.revision), None)

    def _run(self, wanted: Deployment, replica: Replica) -> None:
        forms = [form for form in (wanted.form, wanted.proven) if form is not None]
        for form in forms:
            if form.revision == replica.revision:
                replicas.start(self.workspace, replica, wanted, form)
                return
        self._remove(replica)  # of a form that nobody wants any more

    def _guest(self, wanted: Deployment, replica: Replica) -> tuple[Replica | None, str]:
        """A replica in another one's process, which it lives and dies with."""
        host = self._there.get(replica.host)
        if host is None or process.state(replicas.folder_of(self.workspace, host)) != "running":
            self._remove(replica)
            return None, ""
        if replica.state == "stopping":
            self.dismiss(replica)
        elif replica.state == "starting":
            return self._moving_in(wanted, replica, host)
        elif host.state in ("ready", "unready") and host.state != replica.state:
            return self._turn(replica, host.state), ""
        return replica, ""

    def _moving_in(
        self, wanted: Deployment, replica: Replica, host: Replica
    ) -> tuple[Replica | None, str]:
        forms = [form for form in (wanted.form, wanted.proven) if form is not None]
        form = next((form for form in forms if form.revision == replica.revision), None)
        parts = parts_of(form) if form else None
        if parts is None:  # nobody wants it any more
            self._remove(replica)
            return None, ""
        work = self._loading.get(replica.id)
        if work is None:
            work = self._loaders.submit(load, host, replica.adapter, parts.adapter)
            self._loading[replica.id] = work
        if not work.done():
            return replica, ""
        del self._loading[replica.id]
        try:
            refusal = work.result()
        except FineryError as error:  # the host's own probes find out more
            log.warning("%s: %s", _name(replica), error)
            return replica, ""
        if refusal:
            self._remove(replica)
            self._count_loss(wanted, replica)
            return None, f"The adapter could not be loaded: {refusal}"
        return self._turn(replica, "ready", report=host.report), ""

    def _move_out(self, replica: Replica) -> None:
        host = self._there.get(replica.host)
        if host and process.state(replicas.folder_of(self.workspace, host)) == "running":
            try:
                unload(host, replica.adapter)
            except FineryError as error:
                log.warning("%s: %s", _name(replica), error)
                return
        self._remove(replica)

    def _perhaps_ready(self, wanted: Deployment, replica: Replica) -> Replica:
        """The start-up state: only its death, its refusal or the start limit ends it badly."""
        report = replicas.report_of(self.workspace, replica)
        if report is None:
            if (now() - replica.created_at).total_seconds() > START_LIMIT:
                process.end_all(replica.id)
            return replica
        port = int(report["port"])
        log.info("%s: answers on port %d", _name(replica), port)
        return self._turn(replica, "ready", port=port, report=report)

    def _in_rotation(self, wanted: Deployment, replica: Replica) -> Replica:
        is_ready = self.probes.is_ready(wanted, replica)
        if is_ready == (replica.state == "ready"):
            return replica
        log.warning("%s is %s", _name(replica), "ready again" if is_ready else "not ready")
        return self._turn(replica, "ready" if is_ready else "unready")

    def _turn(self, replica: Replica, state: str, **values: Any) -> Replica:
        """The replica in another state, which the gateway knows when this returns."""
        if state == replica.state:
            return replica
        with self.workspace.store.write() as connection:
            change = rows.update().where(rows.c.id == replica.id, rows.c.state == replica.state)
            connection.execute(change.values(state=state, **values))
        control.reload(self.workspace)
        return replace(replica, state=state, **values)  # pyright: ignore[reportArgumentType]

    def _bury(self, wanted: Deployment, replica: Replica) -> str:
        """A replica that is no more; why its deployment fails by it, "" when it does not."""
        refused = replicas.was_refused(self.workspace, replica)
        end = replicas.how_it_ended(self.workspace, replica)
        log_file = replicas.folder_of(self.workspace, replica) / replicas.LOG
        words = replicas.tail(log_file, LAST_WORDS)
        is_innocent = (
            replica.state != "starting"
            and replica.id not in self._silent
            and replicas.was_killed(self.workspace, replica)
        )
        self._remove(replica)
        if replica.state == "stopping":
            return ""
        # One that answered and was killed comes again at once: its loading is pause enough.
        losses = 0 if is_innocent else self._count_loss(wanted, replica)
        log.warning("%s: ended (%s): %s", _name(replica), end, words)
        in_vain = replica.state == "starting" and (refused or losses >= STARTS)
        if not in_vain or replica.revision != wanted.revision:
            return ""
        return f"A replica ended before it could answer ({end}). Its last words:\n{words}"

    def _count_loss(self, wanted: Deployment, replica: Replica) -> int:
        """How many were lost in a row; the next one starts the later, the more there were."""
        key = _key(wanted, replica.revision)
        lived_well = (now() - replica.created_at).total_seconds() > PROVEN
        losses = self._losses[key] = 1 if lived_well else self._losses[key] + 1
        wait = 0.0 if losses == 1 else min(LONGEST_WAIT, 2.0**losses / 4)
        self._not_before[key] = time.monotonic() + wait
        return losses

    def _remove(self, replica: Replica) -> None:
        if not replica.host:
            process.end_all(replica.id)
        with self.workspace.store.write() as connection:
            connection.execute(rows.delete().where(rows.c.id == replica.id))
        control.reload(self.workspace)
        replicas.forget(self.workspace, replica)
        for known in (self._asked, self._loading, self._there):
            known.pop(replica.id, None)
        self._silent.discard(replica.id)
        self.probes.forget(replica)


def _key(wanted: Deployment, revision: int) -> str:
    """A deployment in one form: its failures are not those of another."""
    return f"{wanted.endpoint}/{wanted.name} {revision}"


def _name(replica: Replica) -> str:
    return f"{replica.endpoint}/{replica.deployment} replica {replica.id}"
