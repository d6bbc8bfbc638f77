"""A process that has loaded what steps need, and starts them without loading it again.

`python -P -m finery.runners.warm_host FD MODULE` imports MODULE, says so on the socket FD, and
then forks an entry (`finery.runners.entry`) for every request that comes in, which forks the
command in its turn. What was loaded is shared, so that a step begins at once and costs no memory
for it. MODULE has a function `begin()`, called in the command's process.

A forked process has the environment of its parent as the system shows it, and that is where a
step's token is looked for: the token is written over a place that was kept free for it.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import sys
import threading
import traceback
from pathlib import Path
from typing import Any, NoReturn

from finery.runners import entry
from finery.runners.carriers import END, ROOM, START, TOKEN

IDLE = 900.0  # seconds without a request after which it ends


def main(channel: socket.socket, module: str) -> None:
    """Load, then serve requests until the other end closes or nothing comes for long."""
    begin = importlib.import_module(module).begin
    mark = _Mark()
    if threading.active_count() > 1:
        raise RuntimeError(f"{module} starts threads, which a fork would lose")
    gc.collect()
    gc.freeze()  # no look at what is there for good, so that its memory stays shared
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them: no zombies
    channel.sendall(b"ready")
    while select.select([channel], [], [], IDLE)[0]:
        message, handles, _, _ = socket.recv_fds(channel, 1 << 20, 1)
        if not message:
            return
        (lock,) = handles
        request = json.loads(message)
        mark.write(request["environment"][TOKEN])
        if os.fork() == 0:
            channel.close()
            _be_entry(request, lock, begin)
        mark.write("")
        os.close(lock)
        channel.sendall(b"begun")


class _Mark:
    """The place in this process's own environment block that holds the token."""

    def __init__(self) -> None:
        stat = Path("/proc/self/stat").read_text("utf-8", "replace").rpartition(")")[2].split()
        start, end = int(stat[START]), int(stat[END])
        block = b"\0" + ctypes.string_at(start, end - start)
        name = f"\0{TOKEN}=".encode()
        self._place = start + block.index(name) + len(name) - 1

    def write(self, token: str) -> None:
        """Put the token there, for this process and for those it forks."""
        value = token.encode()
        if len(value) > ROOM:
            raise ValueError(f"a token of {len(value)} bytes has no room")
        ctypes.memmove(self._place, value.ljust(ROOM, b"\0"), ROOM)


def _be_entry(request: dict[str, Any], lock: int, begin: Any) -> NoReturn:
    """What `finery.runners.entry` does as a program of its own, in this forked process."""
    folder = Path(request["folder"])
    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.environ.clear()
    os.environ.update(request["environment"])
    _say_into(folder / "entry.log")
    os.chdir(folder)
    entry.main(folder, lock, lambda process: _forked(process, begin))
    os._exit(0)


class _Forked:
    """A forked command, as far as the entry needs `subprocess.Popen` of it."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def wait(self) -> int:
        """Its exit status, or the number of the signal that ended it below zero."""
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def _forked(process: dict[str, Any], begin: Any) -> _Forked:
    arrange = entry.die_with(os.getpid())
    log = Path(process["log"])
    log.parent.mkdir(parents=True, exist_ok=True)
    if pid := os.fork():
        return _Forked(pid)
    os.setsid()
    for number in (signal.SIGTERM, signal.SIGALRM):
        signal.signal(number, signal.SIG_DFL)
    if arrange:
        arrange()
    try:
        _say_into(log)
        os.chdir(process["working_folder"])
        _run(process["argv"], begin)
    except SystemExit:
        raise
    except BaseException:
        traceback.print_exc()
        sys.exit(1)
    sys.exit(0)


def _run(argv: list[str], begin: Any) -> None:
    """`python -P -m MODULE ARGUMENTS`, as in a new interpreter."""
    module, arguments = argv[3], argv[4:]
    begin()
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _say_into(log: Path) -> None:
    """Standard output and error go there, whoever writes to them."""
    with log.open("ab") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the service has ended
        main(socket.socket(fileno=int(sys.argv[1])), sys.argv[2])
