"""The execution log of a pipeline: append-only, and nothing in it twice.

What has been written is read back from the file itself, once for each server: a server that
is killed between a line and its book-keeping would otherwise write the line again.
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from pathlib import Path

from finery.workspace.store import now


class ExecutionLog:
    """One pipeline's log. Lines of a step begin with its name in brackets; ours with the time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._turn = threading.Lock()
        self._said: set[str] = set()
        self._copied: Counter[str] = Counter()  # complete lines, by step
        self._offsets: dict[str, int] = {}  # where in the step's own log those lines end
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            self._read_back()

    def say(self, text: str) -> None:
        """Lines of our own, each with the time, unless the first stands there already."""
        lines = text.split("\n")
        with self._turn:
            if lines[0] not in self._said:
                self._said.add(lines[0])
                time = now().isoformat(timespec="seconds")
                self._append("".join(f"{time}Z {line}\n" for line in lines))

    def copy(self, step: str, source: Path, *, last: bool = False) -> None:
        """The lines that came to the log of a step; with `last` an unfinished one too."""
        with self._turn:
            if not source.exists():
                return
            with source.open("rb") as file:
                file.seek(self._offset(step, source))
                data = file.read()
            end = len(data) if last else data.rfind(b"\n") + 1
            lines = data[:end].decode("utf-8", "replace").split("\n")
            if lines[-1] == "":
                lines.pop()
            if lines:
                self._append("".join(f"[{step}] {line}\n" for line in lines))
            self._offsets[step] += end
            self._copied[step] += len(lines)

    def _offset(self, step: str, source: Path) -> int:
        if step not in self._offsets:
            with source.open("rb") as file:
                self._offsets[step] = sum(
                    len(line) for line, _ in zip(file, range(self._copied[step]), strict=False)
                )
        return self._offsets[step]

    def _append(self, text: str) -> None:
        handle = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(handle, text.encode())  # one call: a kill leaves all of it, or whole pages
        finally:
            os.close(handle)

    def _read_back(self) -> None:
        whole = self._path.read_bytes().rfind(b"\n") + 1
        if whole < self._path.stat().st_size:  # a kill came in the middle of a line
            os.truncate(self._path, whole)
        with self._path.open(encoding="utf-8", errors="replace", newline="\n") as file:
            for line in file:
                if line.startswith("["):
                    self._copied[line[1:].partition("] ")[0]] += 1
                else:
                    self._said.add(line.rstrip("\n").partition("Z ")[2])


def last_lines(path: Path, count: int = 20, most: int = 4000) -> str:
    """The end of a log, for people who want to know why."""
    if not path.exists():
        return ""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - most))
        text = file.read().decode("utf-8", "replace")
    return "\n".join([line for line in text.splitlines() if line.strip()][-count:])
