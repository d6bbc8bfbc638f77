"""What a client sees that begins to stream a job which has ended already.

The SDK prints logs only while it waits: it asks for the state, and when that is final at the
first look it prints none. A job here may well end before that look. So the first look at an
ended job finds it finalizing, the next one (a second later, with the logs read) what it is.
"""

from __future__ import annotations

import threading
import time

PATIENCE = 120.0  # seconds between two looks of one client: the SDK waits a minute at most
MOST = 1000


class Looks:
    """Who is looking at which job; kept in memory, and nothing is lost with it."""

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._seen: dict[str, float] = {}

    def is_first(self, job: str, *, ended: bool) -> bool:
        """Whether an ended job is looked at by somebody who has not looked before."""
        moment = time.monotonic()
        with self._turn:
            before = self._seen.pop(job, None)
            known = before is not None and moment - before < PATIENCE
            if not ended or not known:
                self._seen[job] = moment
            while len(self._seen) > MOST:
                del self._seen[next(iter(self._seen))]
        return ended and not known
