"""Who may be answered now: places at the replicas of one deployment, and a line before them.

A replica has `at_once` places. A request that finds none waits in line, first come, first
served, while no more than twice as many requests are under way as there are places (Azure's
rule); the next one is refused. A replica that could not be reached is left out for a moment.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from finery.endpoints.gateway.refusals import OverloadedError, TooSlowError
from finery.endpoints.values import Deployment, Replica
from finery.workspace.errors import UnavailableError

log = logging.getLogger("finery.gateway")

NEVER_SERVED = ("Creating", "Deleting")
LEFT_OUT = 0.5  # seconds after which a replica that was not reached is tried again
PATIENCE = 10.0  # seconds that a request waits for a deployment that has lost all its replicas


@dataclass(eq=False)
class Places:
    """The places of one deployment. Everything happens on one event loop."""

    deployment: Deployment
    replicas: Sequence[Replica] = ()
    busy: dict[str, int] = field(default_factory=dict)  # requests under way, by replica
    waiting: deque[asyncio.Future[Replica]] = field(default_factory=deque)
    _left_out: dict[str, float] = field(default_factory=dict)  # until when

    @property
    def in_flight(self) -> int:
        """How many requests are at the replicas."""
        return sum(self.busy.values())

    def update(self, deployment: Deployment, replicas: Sequence[Replica]) -> None:
        """What there is from now on; requests under way are left alone."""
        self.deployment, self.replicas = deployment, replicas
        here = {replica.id for replica in replicas}
        self._left_out = {id_: until for id_, until in self._left_out.items() if id_ in here}
        self._let_in()

    def check(self, *, patient: bool = True) -> None:
        """Raise UnavailableError when the deployment answers nobody.

        With patience, one that has lost its replicas counts on their being started again.
        """
        name, state = self.deployment.name, self.deployment.state
        expected = patient and state in ("Succeeded", "Updating")
        if state in NEVER_SERVED or not (self.replicas or expected):
            raise UnavailableError(
                f"The deployment {name} has no replica that answers yet (its state is {state}). "
                "Try again in a moment; its log says more."
            )

    def close(self) -> None:
        """The deployment is gone, and so is the line."""
        for place in self.waiting:
            if not place.done():
                text = f"The deployment {self.deployment.name} was deleted."
                place.set_exception(UnavailableError(text))
        self.waiting.clear()

    async def enter(self, seconds: float, *, again: bool = False) -> Replica:
        """A place at the least busy replica, once there is one; give it back with `leave`.

        `again` is for a request that had a place and lost its replica: it goes to the head of
        the line and is not counted anew. Raises UnavailableError (none answers, or none again
        within some seconds), OverloadedError, and TooSlowError when `seconds` are over.
        """
        if not again:
            self.check()
            self._refuse_more()
        if not self.waiting and (replica := self._free()):
            return self._taken(replica)
        place: asyncio.Future[Replica] = asyncio.get_running_loop().create_future()
        (self.waiting.appendleft if again else self.waiting.append)(place)
        limit = seconds if self._usable() else min(seconds, PATIENCE)
        try:
            async with asyncio.timeout(limit):
                return await place
        except BaseException as error:
            self._withdraw(place)
            if not isinstance(error, TimeoutError):
                raise
            raise self._out_of_time(seconds) from None

    def has_replica(self) -> bool:
        """Whether there is one that is not known to be gone."""
        return bool(self._usable())

    def enter_now(self) -> Replica | None:
        """A place that is free at this moment; None when somebody waits for one."""
        if self.waiting or self.deployment.state in NEVER_SERVED:
            return None
        return self._taken(replica) if (replica := self._free()) else None

    def leave(self, replica: Replica) -> None:
        """Give a place back."""
        self.busy[replica.id] -= 1
        if not self.busy[replica.id]:
            del self.busy[replica.id]
        self._let_in()

    def leave_out(self, replica: Replica, why: str) -> None:
        """Ask others than this one for a moment: it was not reached, or it broke off."""
        moment = time.monotonic()
        if self._left_out.get(replica.id, 0.0) < moment:  # others may have found out before
            key = f"{self.deployment.endpoint}/{self.deployment.name}"
            log.warning("%s: replica %s is left out for a moment: %s", key, replica.id, why)
        self._left_out[replica.id] = moment + LEFT_OUT
        asyncio.get_running_loop().call_later(LEFT_OUT + 0.01, self._let_in)

    def _refuse_more(self) -> None:
        count = len(self.replicas) or self.deployment.instance_count
        most = 2 * self.deployment.at_once * count
        here = sum(self.busy.get(replica.id, 0) for replica in self.replicas)
        if here + len(self.waiting) >= most:
            raise OverloadedError(
                f"{most} requests are under way at the deployment {self.deployment.name}, and it "
                "takes no more. Try again in a moment, or give it more instances."
            )

    def _usable(self) -> list[Replica]:
        if not self._left_out:
            return list(self.replicas)
        moment = time.monotonic()
        return [r for r in self.replicas if self._left_out.get(r.id, 0.0) <= moment]

    def _free(self) -> Replica | None:
        busy, most = self.busy, self.deployment.at_once
        free = [r for r in self._usable() if busy.get(r.id, 0) < most]
        return min(free, key=lambda replica: busy.get(replica.id, 0), default=None)

    def _taken(self, replica: Replica) -> Replica:
        self.busy[replica.id] = self.busy.get(replica.id, 0) + 1
        return replica

    def _let_in(self) -> None:
        while self.waiting and (replica := self._free()):
            place = self.waiting.popleft()
            if not place.done():  # cancelled, and not yet withdrawn
                place.set_result(self._taken(replica))

    def _withdraw(self, place: asyncio.Future[Replica]) -> None:
        """Leave the line, or give back the place that came at the same moment."""
        if place in self.waiting:
            self.waiting.remove(place)
        elif place.done() and not place.cancelled() and place.exception() is None:
            self.leave(place.result())

    def _out_of_time(self, seconds: float) -> UnavailableError:
        name = self.deployment.name
        if not self._usable():
            text = f"No replica of the deployment {name} takes requests. Try again in a moment."
            return UnavailableError(text)
        return TooSlowError(
            f"The deployment {name} had no place for the request within {seconds:.3g} seconds. "
            "Try again later, give it more instances, or raise its request_timeout_ms."
        )
