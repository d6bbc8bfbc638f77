"""Looking at replicas that answer: whether they live, and whether they should get requests.

Two probes as Azure (and Kubernetes) define them. A liveness probe that fails has the replica
replaced; a readiness probe that fails takes it out of rotation until it has answered
`success_threshold` times in a row. Neither looks before the replica has said once that it is
ready: a model that loads slowly is never killed for it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from finery.endpoints import replicas
from finery.endpoints.values import Deployment, Probe, Replica
from finery.workspace.store import now

AT_ONCE = 16  # looks under way, so that silent replicas do not hold up the others


@dataclass
class Watch:
    """One probe of one replica, and how its looks ended."""

    probe: Probe
    next_at: float  # on the monotonic clock
    good: bool = True
    in_a_row: int = 0  # looks that said the opposite of `good`
    under_way: Future[bool] | None = None

    def count(self, healthy: bool) -> None:
        """Take the result of a look; `good` turns when a threshold of the other kind is met."""
        self.in_a_row = 0 if healthy == self.good else self.in_a_row + 1
        needed = self.probe.failure_threshold if self.good else self.probe.success_threshold
        if self.in_a_row >= needed:
            self.good, self.in_a_row = healthy, 0

    def look(self, ask: Callable[[float], Future[bool]]) -> bool:
        """What is known now; collects a look that ended, and begins one that is due."""
        moment = time.monotonic()
        if self.under_way is not None and self.under_way.done():
            self.count(self.under_way.result())
            self.under_way, self.next_at = None, moment + self.probe.period
        elif self.under_way is None and moment >= self.next_at:
            self.under_way = ask(self.probe.timeout)
        return self.good


@dataclass
class Probes:
    """The probes of all replicas. It may be forgotten: the next service begins to look anew."""

    _live: dict[str, Watch] = field(default_factory=dict)
    _ready: dict[str, Watch] = field(default_factory=dict)
    _pool: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(AT_ONCE, thread_name_prefix="probe")
    )

    def is_alive(self, wanted: Deployment, replica: Replica) -> bool:
        """Whether it passes its liveness probe."""
        return self._look(self._live, Probe(**wanted.liveness_probe), replica, good=True)

    def is_ready(self, wanted: Deployment, replica: Replica) -> bool:
        """Whether it passes its readiness probe."""
        good = replica.state == "ready"
        return self._look(self._ready, Probe(**wanted.readiness_probe), replica, good=good)

    def forget(self, replica: Replica) -> None:
        """It is gone."""
        self._live.pop(replica.id, None)
        self._ready.pop(replica.id, None)

    def close(self) -> None:
        """Look no more."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _look(
        self, watches: dict[str, Watch], probe: Probe, replica: Replica, *, good: bool
    ) -> bool:
        watch = watches.get(replica.id)
        if watch is None:
            lived = (now() - replica.created_at).total_seconds()
            wait = max(probe.period, probe.initial_delay - lived)
            watch = watches[replica.id] = Watch(probe, time.monotonic() + wait, good)
        watch.probe = probe
        return watch.look(lambda timeout: self._pool.submit(replicas.is_healthy, replica, timeout))
