"""Which replicas of a deployment to start and which to let go: a pure decision.

Replicas of a new form come before those of the old one go, a few at a time, and at every moment
as many are in rotation as were wanted before. A form that fails leaves the one before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

from finery.endpoints.values import Deployment, Form, Replica

SURGE = 0.25  # of the wanted replicas, how many start beside the old ones at a time


@dataclass(frozen=True)
class Plan:
    """What to do next for one deployment."""

    start: tuple[tuple[Form, int], ...] = ()
    dismiss: tuple[Replica, ...] = ()
    succeeded: bool = False  # what was wanted answers now
    settled: bool = False  # nothing is left to do


def plan(wanted: Deployment, there: Sequence[Replica]) -> Plan:
    """The next step from the replicas there are (none of them dead) to those that are wanted."""
    going = [replica for replica in there if replica.state != "stopping"]
    if wanted.state == "Failed":
        if wanted.proven is None:
            return Plan(dismiss=tuple(going), settled=not there)
        return _towards(wanted.proven, None, there, going)
    before = wanted.proven
    if before is not None and before.revision == wanted.revision:
        before = None
    step = _towards(wanted.form, before, there, going)
    reached = len(_ready(_of(wanted.form, going))) >= wanted.instance_count
    is_new = reached and wanted.state != "Succeeded"
    return Plan(step.start, step.dismiss, is_new, step.settled and not is_new)


def _towards(
    form: Form, before: Form | None, there: Sequence[Replica], going: Sequence[Replica]
) -> Plan:
    """Towards `form`; `before` is kept up to strength until then."""
    current = _of(form, going)
    others = [replica for replica in going if replica not in current]
    ready, old = _ready(current), _ready(others)
    missing = form.instance_count - len(current)
    if len(ready) >= form.instance_count:
        surplus = _last_first(current)[: max(0, -missing)]
        left = [*others, *surplus]
        return Plan(dismiss=tuple(left), settled=not left and len(there) == len(going))
    keep = {replica.id for replica in old}
    if before is not None:
        keep |= {replica.id for replica in _of(before, others)}
    dismiss = [replica for replica in others if replica.id not in keep]
    enough = max(form.instance_count, before.instance_count if before else 0)
    dismiss += _last_first(old)[: max(0, len(ready) + len(old) - enough)]
    start = []
    if old:
        starting = len(current) - len(ready)
        missing = min(missing, max(1, ceil(SURGE * form.instance_count)) - starting)
    if missing > 0:
        start.append((form, missing))
    if before is not None:
        short = before.instance_count - len(ready) - len(old)
        short -= len([replica for replica in _of(before, others) if replica not in old])
        if short > 0:
            start.append((before, short))
    return Plan(tuple(start), tuple(dismiss))


def _of(form: Form, replicas: Sequence[Replica]) -> list[Replica]:
    return [replica for replica in replicas if replica.revision == form.revision]


def _ready(replicas: Sequence[Replica]) -> list[Replica]:
    return [replica for replica in replicas if replica.state == "ready"]


def _last_first(replicas: Sequence[Replica]) -> list[Replica]:
    """Those that answer go last; among equals the youngest goes first."""
    by_age = sorted(replicas, key=lambda replica: replica.created_at, reverse=True)
    return sorted(by_age, key=lambda replica: replica.state == "ready")
