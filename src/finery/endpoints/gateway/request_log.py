"""A line of JSON for every request of an endpoint, in `logs/endpoints/NAME.jsonl`.

Lines are written a few times a second by a thread of their own, so that no request waits for a
disk; a gateway that is killed loses those of the last moment. They hold no key and no body.
"""

from __future__ import annotations

import json
import logging
import threading
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

log = logging.getLogger("finery.gateway")

FOLDER = "endpoints"  # below the service's logs
MOST = 16 * 2**20  # bytes of a file before it gets a number and another one begins
KEPT = 4  # files with a number
PERIOD = 0.25  # seconds between two writes


@dataclass
class RequestLog:
    """The lines that are to be written, and the thread that does it."""

    folder: Path
    most: int = MOST
    _lines: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    _end: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def start(self) -> None:
        """Write from now on."""
        self._thread = threading.Thread(target=self._run, name="request log", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Write what is left, and end."""
        self._end.set()
        if self._thread is not None:
            self._thread.join()
        self._flush()

    def add(self, endpoint: str, line: dict[str, Any]) -> None:
        """Have a line written to the log of an endpoint that exists."""
        self._lines.append((endpoint, line))

    def flush(self) -> None:
        """Write what there is."""
        lines, self._lines = self._lines, []
        texts: dict[str, list[str]] = defaultdict(list)
        for endpoint, line in lines:
            texts[endpoint].append(json.dumps(line, separators=(",", ":")) + "\n")
        for endpoint, rows in texts.items():
            self._write(self.folder / f"{endpoint}.jsonl", "".join(rows))

    def _run(self) -> None:
        while not self._end.wait(PERIOD):
            self._flush()

    def _flush(self) -> None:
        try:
            self.flush()
        except OSError as error:  # a full disk is no reason to answer nobody
            log.error("the log of requests cannot be written: %s", error)

    def _write(self, path: Path, text: str) -> None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(text)
            size = file.tell()
        if size >= self.most:
            for number in range(KEPT - 1, 0, -1):
                older = path.with_name(f"{path.name}.{number}")
                if older.exists():
                    older.replace(path.with_name(f"{path.name}.{number + 1}"))
            path.replace(path.with_name(f"{path.name}.1"))
