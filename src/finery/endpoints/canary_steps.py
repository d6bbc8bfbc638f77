"""Canaries: begun, looked after step by step, ended; every decision is kept with its figures.

All of it is in the store. What the gateway counted is taken over together with what follows
from it, so a service that is killed is followed by one that goes on where it was.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import sqlalchemy as sa

from finery.endpoints.canary import LEAST_KNOWN, Decision, Guard, Seen, Watched, decide
from finery.endpoints.canary_record import (
    entry,
    read_watched,
    reason_for,
    seen_in,
    since,
    written,
)
from finery.endpoints.gateway import control
from finery.endpoints.gateway.counts import Stats
from finery.endpoints.rules import canary_faults
from finery.endpoints.service import deployments_of, get
from finery.endpoints.tables import canaries, endpoints
from finery.endpoints.values import Canary, Endpoint
from finery.errors import Fault, InputError
from finery.workspace.errors import ConflictError, NotFoundError
from finery.workspace.place import Workspace
from finery.workspace.store import now

log = logging.getLogger("finery.endpoints")


@dataclass(frozen=True)
class WantedCanary:
    """What a caller asks for."""

    endpoint: str
    canary: str
    steps: Sequence[int] = (5, 25, 100)
    guards: Sequence[str] = ("error_rate", "latency_p95")
    min_requests: int = 200  # to the canary, in every step
    step_minutes: float = 0.0


def begin(workspace: Workspace, wanted: WantedCanary) -> Canary:
    """Give the canary the first step's share. Raises InputError with every fault."""
    endpoint = get(workspace, wanted.endpoint)
    faults = canary_faults(wanted.steps, wanted.guards, wanted.min_requests, wanted.step_minutes)
    stable = _stable(workspace, endpoint, wanted.canary, faults)
    counted = control.stats(workspace)
    before = seen_in(counted, wanted.endpoint, stable) if counted else Seen()
    if not faults and wanted.steps[0] == 100 and before.requests < LEAST_KNOWN:
        expected = f"a first share below 100: {stable} has answered too little to compare with"
        faults.append(Fault("steps", "100 alone", expected))
    if faults:
        raise InputError(faults, f"canary {wanted.canary}")
    made = Canary(
        id=str(uuid.uuid4()),
        endpoint=wanted.endpoint,
        stable=stable,
        canary=wanted.canary,
        steps=list(wanted.steps),
        guards=list(wanted.guards),
        min_requests=wanted.min_requests,
        step_seconds=60.0 * wanted.step_minutes,
        state="Running",
        position=0,
        step_since=now(),
        watch=_watch(Watched(before=before), counted, wanted.endpoint, stable, wanted.canary, 0),
        history=[],
        reason="",
        created_at=now(),
        ended_at=None,
    )
    made = replace(made, history=[entry(made, "begin", Watched(before=before))])
    with workspace.store.write() as connection:
        _refuse_a_second(connection, wanted.endpoint)
        connection.execute(canaries.insert().values(asdict(made)))
        if not _shift(connection, made.endpoint, endpoint.traffic, made.shares):
            raise ConflictError(_CHANGED.format(wanted.endpoint))
    control.reload(workspace)
    return made


_CHANGED = "The traffic of {} was changed at this very moment. Look at it, and try again."


def find(workspace: Workspace, endpoint: str) -> list[Canary]:
    """The canaries of an endpoint, the newest first; raises NotFoundError without the endpoint."""
    get(workspace, endpoint)
    query = canaries.select().where(canaries.c.endpoint == endpoint)
    with workspace.store.read() as connection:
        rows = connection.execute(query.order_by(canaries.c.created_at.desc()))
        return [Canary(**row._mapping) for row in rows]


def abort(workspace: Workspace, endpoint: str) -> Canary:
    """End the canary that runs and give its traffic back; raises NotFoundError without one."""
    running = [one for one in find(workspace, endpoint) if one.state == "Running"]
    if not running:
        raise NotFoundError(f"No canary runs at the endpoint {endpoint}.")
    (one,) = running
    ended = _ended(one, "Aborted", "It was aborted.", "abort", read_watched(one.watch))
    _commit(workspace, one, ended, {one.stable: 100, one.canary: 0})
    return find(workspace, endpoint)[0]


def advance(workspace: Workspace) -> None:
    """Look after every canary that runs."""
    query = canaries.select().where(canaries.c.state == "Running")
    with workspace.store.read() as connection:
        running = [Canary(**row._mapping) for row in connection.execute(query)]
        found = connection.execute(sa.select(endpoints.c.name, endpoints.c.traffic))
        traffic = {row.name: row.traffic for row in found}
    if running and (counted := control.stats(workspace)):
        for one in running:
            _advance(workspace, one, traffic.get(one.endpoint), counted)


def _advance(
    workspace: Workspace, one: Canary, traffic: Mapping[str, int] | None, counted: Stats
) -> None:
    before = read_watched(one.watch)
    if traffic is None or not _same(traffic, one.shares):
        why = "Somebody else changed the traffic of the endpoint."
        _commit(workspace, one, _ended(one, "Aborted", why, "abort", before), None)
        return
    stable, canary = (
        since(seen_in(counted, one.endpoint, name), one.watch, name, counted.gateway)
        for name in (one.stable, one.canary)
    )
    alone = one.shares[one.stable] == 0
    guards: list[Guard] = list(one.guards)  # pyright: ignore[reportAssignmentType] - by rule
    watched = before.after(stable, canary, guards, alone=alone)
    answered = one.watch["answered"] + canary.requests
    lasted = (now() - one.step_since).total_seconds()
    decision, guard = decide(
        *(watched, guards, answered, lasted),
        min_requests=one.min_requests,
        step_seconds=one.step_seconds,
    )
    if decision == "wait" and not (stable.requests or canary.requests):
        return
    names = (one.endpoint, one.stable, one.canary)
    one_later = replace(one, watch=_watch(watched, counted, *names, answered))
    _act(workspace, one, one_later, watched, decision, guard)


def _act(
    workspace: Workspace,
    one: Canary,
    later: Canary,
    watched: Watched,
    decision: Decision,
    guard: Guard | None,
) -> None:
    if decision == "wait":
        _commit(workspace, one, later, None)
    elif decision == "roll back" and guard:
        why = reason_for(later, watched, guard)
        ended = _ended(later, "RolledBack", why, decision, watched)
        _commit(workspace, one, ended, {one.stable: 100, one.canary: 0})
        log.warning("%s: %s", one.endpoint, why)
    elif one.position + 1 == len(one.steps):
        why = f"{one.canary} has {one.steps[-1]} % and is no worse than {one.stable}."
        _commit(workspace, one, _ended(later, "Succeeded", why, decision, watched), None)
        log.info("%s: %s", one.endpoint, why)
    else:
        history = [*later.history, entry(later, decision, watched)]
        watch = {**later.watch, "answered": 0}
        step = replace(
            later, position=one.position + 1, step_since=now(), watch=watch, history=history
        )
        _commit(workspace, one, step, step.shares)
        log.info("%s: %s gets %d %%", one.endpoint, one.canary, step.steps[step.position])


def _commit(
    workspace: Workspace, before: Canary, after: Canary, traffic: Mapping[str, int] | None
) -> None:
    """Store the canary as it is now, and the endpoint's traffic with it when that changes."""
    changed = ("state", "position", "step_since", "watch", "history", "reason", "ended_at")
    values = {name: getattr(after, name) for name in changed}
    with workspace.store.write() as connection:
        this = (canaries.c.id == before.id, canaries.c.state == "Running")
        if not connection.execute(canaries.update().where(*this).values(values)).rowcount:
            return  # it was ended a moment ago
        if traffic is not None:
            # Where somebody else has changed it, theirs stays; the next look ends the canary.
            _shift(connection, before.endpoint, before.shares, traffic)
    if traffic is not None:
        control.reload(workspace)


def _shift(
    connection: sa.Connection,
    endpoint: str,
    expected: Mapping[str, int],
    traffic: Mapping[str, int],
) -> bool:
    row = connection.execute(endpoints.select().where(endpoints.c.name == endpoint)).one_or_none()
    if row is None or not _same(row.traffic, expected):
        return False
    values = {"traffic": {**row.traffic, **traffic}, "modified_at": now()}
    connection.execute(endpoints.update().where(endpoints.c.name == endpoint).values(values))
    return True


def _ended(one: Canary, state: str, why: str, decision: str, watched: Watched) -> Canary:
    history = [*one.history, entry(one, decision, watched)]
    return replace(one, state=state, reason=why, history=history, ended_at=now())  # pyright: ignore[reportArgumentType]


def _watch(
    watched: Watched, counted: Stats | None, endpoint: str, stable: str, canary: str, answered: int
) -> dict[str, Any]:
    """What the store keeps: the evidence, and how far the gateway's counts are taken over."""
    names = (stable, canary) if counted else ()
    taken = {name: asdict(seen_in(counted, endpoint, name)) for name in names if counted}
    gateway = counted.gateway if counted else ""
    return {**written(watched), "gateway": gateway, "taken": taken, "answered": answered}


def _stable(workspace: Workspace, endpoint: Endpoint, canary: str, faults: list[Fault]) -> str:
    """The deployment that has the traffic now; faults go to the others."""
    known = {one.name: one for one in deployments_of(workspace, endpoint.name)}
    if canary not in known:
        there = ", ".join(known) or "none"
        faults.append(Fault("deployment", repr(canary), f"a deployment of it: {there}"))
    elif known[canary].state not in ("Succeeded", "Updating"):
        found = f"{canary}, whose state is {known[canary].state}"
        faults.append(Fault("deployment", found, "one that answers"))
    if endpoint.mirror_traffic.get(canary):
        expected = "none: a mirror gets no live traffic"
        faults.append(Fault("mirrorTraffic", f"{canary} in it", expected))
    others = [name for name, share in endpoint.traffic.items() if share and name != canary]
    if len(others) != 1:
        found = ", ".join(others) or "no other deployment with traffic"
        faults.append(Fault("traffic", found, "exactly one deployment to compare with"))
    return others[0] if others else ""


def _refuse_a_second(connection: sa.Connection, endpoint: str) -> None:
    this = (canaries.c.endpoint == endpoint, canaries.c.state == "Running")
    if row := connection.execute(canaries.select().where(*this)).first():
        raise ConflictError(
            f"A canary runs at {endpoint} already, to {row.canary}. Wait for its end, or abort it."
        )


def _same(one: Mapping[str, int], other: Mapping[str, int]) -> bool:
    """Whether two traffics share out the same; a share of 0 is none."""
    return {k: v for k, v in one.items() if v} == {k: v for k, v in other.items() if v}
