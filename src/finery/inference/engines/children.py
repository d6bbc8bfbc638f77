"""A process of an engine: started, listened to, and never outliving who started it.

The thread that starts it is the one that reads from it, and lives as long as it does: Linux
ends a child with the *thread* that made it (`PR_SET_PDEATHSIG`, which our workers set), so a
thread that did its work and left would take the child with it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from finery.errors import FineryError, os_reason
from finery.inference.engines.environments import child_environment

_LAST_WORDS = 15  # lines of its standard error that an error repeats
_GRACE = 5.0  # seconds between closing its input and killing it
log = logging.getLogger("finery.replica")


class Child:
    """A running process in a group of its own; ended by `close`, or with this process."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        said: Callable[[str], None],
        ended: Callable[[str], None],
        variables: Mapping[str, str] | None = None,
    ) -> None:
        """Start it; raises FineryError when the system refuses.

        `said` gets each line of its standard output, `ended` why it ended, both in a thread.
        """
        self.name = name
        self._said, self._ended = said, ended
        self._words: deque[str] = deque(maxlen=_LAST_WORDS)
        started: Future[subprocess.Popen[str]] = Future()
        self._thread = threading.Thread(
            target=self._live,
            args=(list(command), child_environment(variables), started),
            name=f"finery-{name}",
            daemon=True,
        )
        self._thread.start()
        self.process = started.result()

    def write(self, line: str) -> None:
        """Give it one line; a child that just ended is told by `ended`, not here."""
        with contextlib.suppress(OSError, ValueError):
            into: Any = self.process.stdin
            into.write(line + "\n")
            into.flush()

    def close(self) -> None:
        """Close its input, and kill it when that does not end it; waits until it is gone."""
        with contextlib.suppress(OSError, ValueError):
            self.process.stdin.close()  # pyright: ignore[reportOptionalMemberAccess]
        try:
            self.process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            self.process.kill()
        self._thread.join()

    def _live(
        self, command: list[str], variables: dict[str, str], started: Future[subprocess.Popen[str]]
    ) -> None:
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                encoding="utf-8",
                errors="replace",
                env=variables,
                start_new_session=True,
            )
        except OSError as error:
            text = f"{command[0]} cannot be started: {os_reason(error)}."
            started.set_exception(FineryError(text))
            return
        started.set_result(process)
        words = threading.Thread(target=self._listen, args=(process.stderr,), daemon=True)
        words.start()
        threading.Thread(target=_reap, args=(process,), daemon=True).start()
        for line in process.stdout or ():
            self._said(line)
        process.wait()
        words.join(_GRACE)
        for stream in (process.stdin, process.stdout, process.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.close()  # pyright: ignore[reportOptionalMemberAccess]
        last = "; its last words:\n" + "\n".join(self._words) if self._words else ""
        self._ended(f"its process ended with status {process.returncode}{last}")

    def _listen(self, stream: Any) -> None:
        """Its own messages go to this process's log; the last are kept."""
        for line in stream:
            self._words.append(line.rstrip())
            log.info("%s: %s", self.name, line.rstrip())


def _reap(process: subprocess.Popen[str]) -> None:
    """What it started and left behind holds its pipes open: it goes too."""
    process.wait()
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def script(name: str) -> str:
    """The path of one of our scripts that run in another environment."""
    return str(Path(__file__).with_name(name))
