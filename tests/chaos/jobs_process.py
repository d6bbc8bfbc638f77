"""The small server of jobs (`jobs_server.py`) as a process, to be killed and started again."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from jobs_server import open_workspace

from finery.workspace.place import Workspace

SERVER = Path(__file__).with_name("jobs_server.py")


@dataclass
class JobsServer:
    """The server's process, started again as often as it dies."""

    folder: Path
    database: str = ""  # "" is SQLite in the folder
    child: subprocess.Popen[str] | None = field(default=None, init=False)
    slowest: float = 0.0  # seconds from a start to the answer

    @cached_property
    def workspace(self) -> Workspace:
        """What it works on, to look at."""
        return open_workspace(self.folder, self.database)

    @property
    def pid(self) -> int:
        """The number of its process."""
        assert self.child
        return self.child.pid

    def start(self, die: str = "0:after") -> None:
        """Start it and wait until it answers."""
        began = time.monotonic()
        argv = [
            sys.executable,
            str(SERVER),
            str(self.folder),
            "--die",
            die,
            "--database",
            self.database,
        ]
        with (self.folder.parent / "server.log").open("a") as log:
            self.child = subprocess.Popen(
                argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
            )
        assert self.child.stdout
        word = self.child.stdout.readline()
        assert word == "ready\n", f"the server did not start: {log.name}"
        self.slowest = max(self.slowest, time.monotonic() - began)

    def die_starting(self, seconds: float) -> None:
        """Start it, and end it soon: before it answers, or just after."""
        strike = threading.Timer(seconds, self._strike, (self.child,))
        strike.start()
        with contextlib.suppress(AssertionError):  # "the server did not start"
            self.start()
        strike.join()
        self.kill()

    def _strike(self, former: subprocess.Popen[str] | None) -> None:
        if self.child is not None and self.child is not former:
            self.child.kill()

    def ask(self, line: str) -> bool:
        """Give a command; whether it was acknowledged before the server died."""
        assert self.child and self.child.stdin and self.child.stdout
        try:
            self.child.stdin.write(line + "\n")
            self.child.stdin.flush()
        except BrokenPipeError:
            return False
        return self.child.stdout.readline().startswith("ok")

    def kill(self) -> None:
        """End it at once, if it lives, and collect it."""
        assert self.child
        self.child.kill()
        self.child.wait()
        for pipe in (self.child.stdin, self.child.stdout):
            assert pipe
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
