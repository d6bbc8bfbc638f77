"""Times and failures of the last minutes, read from the gateway's log of requests.

A reader gets what it has not seen yet: stretches of time that are over, and the place in bytes
after the last line that they are made of. So nothing is kept here between two questions.
"""

from __future__ import annotations

import json
import math
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from finery.endpoints import service
from finery.endpoints.gateway.request_log import FOLDER, PERIOD
from finery.errors import Fault, InputError
from finery.studio.endpoints_view import colours
from finery.studio.layout import workspace_of
from finery.workspace.store import now

WIDTH = 5  # seconds of a stretch
WINDOW = 15 * 60  # seconds that a page begins with
MOST_READ = 8 * 2**20  # bytes of the log: about 30,000 requests
LATE = 4 * PERIOD  # seconds until the lines of a stretch are surely written
P50, P95 = "Latency p50 (s)", "Latency p95 (s)"
FIRST, RATE, FAILED = "First byte p50 (s)", "Requests per second", "Failed (%)"
LEFT = 499  # the caller went away before the answer began: nobody's failure, and no time
OWN = frozenset({"ClientLeftError", "SlowSenderError"})  # in its middle, or at its beginning


@dataclass
class Stretch:
    """What one deployment answered in a few seconds."""

    requests: int = 0
    failed: int = 0
    seconds: list[float] = field(default_factory=list)  # of whole good answers
    first: list[float] = field(default_factory=list)

    @property
    def failed_share(self) -> float:
        """In percent."""
        return 100 * self.failed / self.requests

    def add(self, line: Mapping[str, Any]) -> None:
        """Count a line of the log."""
        status = line["status"]
        if status == LEFT or line.get("error") in OWN:
            return
        is_bad = status in (408, 429) or status >= 500 or (status < 400 and "error" in line)
        self.requests += 1
        self.failed += is_bad
        if status < 400 and not is_bad:
            self.seconds.append(line["ms"] / 1000)
            if line.get("ttft_ms") is not None:
                self.first.append(line["ttft_ms"] / 1000)


def figures(request: Request, name: str, deployment: str, cursor: str = "") -> Response:
    """The curves of one deployment, from a cursor that an earlier answer gave."""
    workspace = workspace_of(request)
    service.deployment(workspace, name, deployment)
    names = [one.name for one in service.deployments_of(workspace, name)]
    inode, place, since = _cursor(cursor)
    until = _stretch(now().replace(tzinfo=UTC).timestamp() - LATE)
    start = since or until - WINDOW
    found, cursor_inode, after = read(
        places(workspace.logs / FOLDER / f"{name}.jsonl", inode, place), deployment, start, until
    )
    is_first = not since
    curves = {} if is_first and not found else series(found, start, until)
    shown = until if curves or since else 0
    told = {
        "run": deployment,
        "label": deployment,
        "colour": colours(names)[deployment],
        "cursor": f"{cursor_inode}.{after}.{shown}",
        "ended": False,
        "whole": is_first,
        "series": curves,
    }
    return JSONResponse(told)


def places(path: Path, inode: int, place: int) -> list[tuple[Path, int]]:
    """Where to read on: in the file of the cursor and the one after it, else near the end."""
    files = [one for one in (path.with_name(f"{path.name}.1"), path) if one.is_file()]
    for number, one in enumerate(files):
        if one.stat().st_ino == inode and place <= one.stat().st_size:
            return [(one, place), *((later, 0) for later in files[number + 1 :])]
    left, found = MOST_READ, []
    for one in reversed(files):
        size = one.stat().st_size
        if left > 0:
            found.insert(0, (one, max(0, size - left)))
        left -= size
    return found


def read(
    files: Sequence[tuple[Path, int]], deployment: str, start: int, until: int
) -> tuple[dict[int, Stretch], int, int]:
    """The stretches from `start` to before `until`, and the file and place of what comes after.

    Both are seconds since 1970; requests that a mirror got copies of are left out.
    """
    found: dict[int, Stretch] = defaultdict(Stretch)
    inode = place = 0
    for path, begin in files:
        with path.open("rb") as file:
            inode, place = os.fstat(file.fileno()).st_ino, _line_start(file, begin)
            for text in file:
                line = _parsed(text)
                at = _stretch(datetime.fromisoformat(line["time"]).timestamp()) if line else 0
                if at >= until or not text.endswith(b"\n"):  # or it is being written
                    return dict(found), inode, place
                place += len(text)
                if at >= start and line["deployment"] == deployment and not line["mirrored"]:
                    found[at].add(line)
    return dict(found), inode, place


def _line_start(file: BinaryIO, place: int) -> int:
    """Go to the first line that begins at a place or after it."""
    file.seek(max(0, place - 1))
    if place:
        file.readline()
    return file.tell()


def _parsed(text: bytes) -> dict[str, Any]:
    """A line; {} for half of one, which a gateway leaves that is killed while it writes."""
    try:
        return json.loads(text)
    except ValueError:
        return {}


def series(found: Mapping[int, Stretch], start: int, until: int) -> dict[str, Any]:
    """Curves over time in seconds since 1970; times only where something was answered."""
    begin = min(found, default=start)
    every = {at: found.get(at, Stretch()) for at in range(begin, until, WIDTH)}
    points = {
        P50: ((at, quantile(one.seconds, 0.5)) for at, one in found.items() if one.seconds),
        P95: ((at, quantile(one.seconds, 0.95)) for at, one in found.items() if one.seconds),
        FIRST: ((at, quantile(one.first, 0.5)) for at, one in found.items() if one.first),
        RATE: ((at, one.requests / WIDTH) for at, one in every.items()),
        FAILED: ((at, one.failed_share) for at, one in found.items() if one.requests),
    }
    return {key: curve for key, pairs in points.items() if (curve := _curve(sorted(pairs)))}


def _curve(pairs: Iterable[tuple[int, float]]) -> dict[str, Any]:
    x, y = [], []
    for at, value in pairs:
        x.append(at)
        y.append(round(value, 6))
    return {"x": x, "y": y, "last": y[-1], "best": None, "direction": 0} if x else {}


def quantile(values: list[float], share: float) -> float:
    """The smallest value that `share` of the values do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def _stretch(moment: float) -> int:
    return int(moment // WIDTH) * WIDTH


def _cursor(text: str) -> tuple[int, int, int]:
    """Of which file, from which byte, from which second."""
    parts = text.split(".") if text else ["0", "0", "0"]
    if len(parts) == 3 and all(p.isascii() and p.isdigit() and len(p) < 20 for p in parts):
        return int(parts[0]), int(parts[1]), int(parts[2])
    raise InputError([Fault("cursor", repr(text), "a cursor that an answer gave")])
