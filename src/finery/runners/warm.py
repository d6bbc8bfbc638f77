"""The service's side of `finery.runners.warm_host`: keep one, and hand processes over to it.

Whatever goes wrong here costs time and nothing else: the process is started in the ordinary way.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from finery.runners.carriers import ROOM, TOKEN

log = logging.getLogger("finery.runners")

LOADING = 30.0  # seconds that loading may take on a busy machine
HAND_OVER = 5.0  # seconds for a fork
# What libraries read when they are loaded: the same for all that the host starts. A pool of
# threads would not survive the fork.
_FIXED = {"OPENBLAS_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "PYTHONUNBUFFERED": "1"}
_KNOWN = frozenset(
    (
        *("CUDA_VISIBLE_DEVICES", "PATH", "PYTHONUNBUFFERED", "OMP_WAIT_POLICY", TOKEN),
        *("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS"),
    )
)
_OURS = ("FINERY_", "MLFLOW_", "AZUREML_")


class HandOverError(OSError):
    """The host failed in the middle: what it began has to be ended."""


@dataclass
class WarmHost:
    """At most one host process; it ends with us, what it started does not."""

    module: str  # what it loads
    log: Path  # what it says, if ever
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _process: subprocess.Popen[bytes] | None = None
    _channel: socket.socket | None = None
    _is_ready: bool = False
    _is_broken: bool = False  # it ended while it loaded: another one would too

    def start(self) -> None:
        """Begin to load, unless it is loaded or loading."""
        with self._lock:
            self._ensure()

    def close(self) -> None:
        """End it."""
        with self._lock:
            self._end()
            self._is_broken = True

    def take(
        self,
        argv: tuple[str, ...],
        environment: Mapping[str, str],
        folder: Path,
        lock: int,
        *,
        patience: float = LOADING,
    ) -> bool:
        """Start the entry of `folder` with the open `lock`; False when it has to be started cold.

        Waits as long as `patience` while the host is loading. Raises HandOverError when nobody
        knows whether the host came to it.
        """
        message = json.dumps({"folder": str(folder), "environment": dict(environment)}).encode()
        if not _is_module(argv) or len(environment.get(TOKEN, "")) > ROOM:
            return False
        if not self._lock.acquire(timeout=max(patience, HAND_OVER)):
            return False
        try:
            self._ensure()
            channel = self._channel
            if channel is None or not self._ready(channel, patience):
                return False
            try:
                socket.send_fds(channel, [message], [lock])
            except OSError:  # too long, or it ended when it had nothing to do
                self._end()
                return False
            channel.settimeout(HAND_OVER)
            with contextlib.suppress(OSError):
                if channel.recv(16) == b"begun":
                    return True
            self._end()
            raise HandOverError(f"the host of steps ended while it started {folder}")
        finally:
            self._lock.release()

    def _ensure(self) -> None:
        if self._is_broken or (self._process is not None and self._process.poll() is None):
            return
        self._end()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        environment = {**os.environ, **_FIXED, "CUDA_VISIBLE_DEVICES": "", TOKEN: "-" * ROOM}
        argv = [sys.executable, "-P", "-m", "finery.runners.warm_host"]
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with theirs, self.log.open("ab") as said:
            self._process = subprocess.Popen(
                [*argv, str(theirs.fileno()), self.module],
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                env=environment,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )
        self._channel, self._is_ready = ours, False

    def _ready(self, channel: socket.socket, patience: float) -> bool:
        """Whether it has loaded; one that ends while it loads is not tried again."""
        if not self._is_ready:
            channel.settimeout(max(patience, 0.001))
            try:
                said = channel.recv(16)
            except TimeoutError:
                return False
            except OSError:
                said = b""
            self._is_ready = said == b"ready"
            if not self._is_ready:
                log.warning("steps start without loaded libraries: see %s", self.log)
                self._is_broken = True
                self._end()
        return self._is_ready

    def _end(self) -> None:
        if self._channel is not None:
            self._channel.close()  # with which it ends
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._process, self._channel, self._is_ready = None, None, False


def is_possible() -> bool:
    """Whether this system shows a process's environment where the host can write a token."""
    return sys.platform == "linux"


def is_ordinary(environment: Mapping[str, str]) -> bool:
    """Whether nothing in a process's own variables is read by libraries while they are loaded."""
    return all(name in _KNOWN or name.startswith(_OURS) for name in environment)


def _is_module(argv: tuple[str, ...]) -> bool:
    return argv[:3] == (sys.executable, "-P", "-m")


_current: WarmHost | None = None  # a process has one service, and a service one host


def current() -> WarmHost | None:
    """The running service's, if it keeps one."""
    return _current


@contextlib.contextmanager
def kept(host: WarmHost) -> Iterator[None]:
    """Keep `host` loaded for what is started inside the block."""
    global _current
    host.start()
    _current = host
    try:
        yield
    finally:
        _current = None
        host.close()
