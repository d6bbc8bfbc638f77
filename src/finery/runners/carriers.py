"""The living processes that carry a token in their environment, none of them left out.

Two moments hide a process from one look at every number: between the beginning of a program
and the setting up of its environment the environment reads as empty, and a process may start
another one and end while the numbers are gone through.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import psutil

TOKEN = "FINERY_ATTEMPT"  # noqa: S105 - the name of a variable
_BEGUN = 2.0  # seconds in which a program has begun; the system needs well under one of them
ROOM = 64  # bytes that a token may have
SIZE, START, END = 20, 47, 48  # words of Linux's /proc/PID/stat after the program's name


def carriers(token: str) -> list[psutil.Process]:
    """The living processes whose environment holds the token, but for our own."""
    import psutil  # here and below: the entry, which starts with every step, needs none of it

    found: list[psutil.Process] = []
    seen = {os.getpid()}
    # Whoever was started meanwhile is looked at as well, until nobody new is there.
    while new := set(psutil.pids()) - seen:
        seen |= new
        for pid in new:
            if token_of(pid) == token:
                with contextlib.suppress(psutil.NoSuchProcess):
                    found.append(psutil.Process(pid))
    return found


def token_of(pid: int) -> str:
    """The token of a process; "" when it has none, has ended, or is not ours to look at."""
    import psutil

    if not sys.platform.startswith("linux"):
        with contextlib.suppress(psutil.Error):
            return psutil.Process(pid).environ().get(TOKEN, "")
        return ""
    start = f"{TOKEN}=".encode()
    for word in _environment(pid).split(b"\0"):  # a tenth of the time that psutil takes
        if word.startswith(start):
            return word[len(start) :].decode()
    return ""


def _environment(pid: int) -> bytes:
    """What Linux says of the environment of a process, once its program has begun."""
    until = time.monotonic() + _BEGUN
    with contextlib.suppress(OSError):  # it has ended, or is another user's
        while True:
            said = Path(f"/proc/{pid}/environ").read_bytes()
            if said or _is_empty(pid) or time.monotonic() > until:
                return said
            time.sleep(0.001)
    return b""


def _is_empty(pid: int) -> bool:
    """Whether the environment of a process is empty for good."""
    words = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()
    has_memory = words[SIZE] != "0"  # one that has ended, or is the system's own, has none
    return not has_memory or (words[START] != "0" and words[START] == words[END])
