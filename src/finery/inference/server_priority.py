"""How much of a busy machine a process gets.

Linux may share the processors among sessions first, and only then among the processes of one
(autogroups, `man 7 sched`). A process' own nice value then counts in its session alone. What
gives way to everybody has therefore a session of its own, and that session a value as well.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path

USUAL = 0
LOW = 10  # a tenth of what others get: on a busy machine it comes to its end, too
_TRIES, _PAUSE = 20, 0.11  # seconds


async def lower(pid: int, nice: int, *, session: int = USUAL) -> None:
    """Lower a process that leads a session of its own, if it still is there."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.setpriority(os.PRIO_PROCESS, pid, nice)
    if session != USUAL:
        await set_session(pid, session)


async def lower_threads(pid: int) -> bool:
    """Give the threads of such a process a low priority, but for its first one.

    A thread that the first one starts later has the process' own priority: nobody may raise what
    was lowered once. False where threads have no priorities; then the whole process is lowered.
    """
    threads = Path(f"/proc/{pid}/task")
    if not Path("/proc/self/task").is_dir():
        await lower(pid, LOW, session=LOW)
        return False
    with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
        for thread in threads.iterdir():
            if thread.name != str(pid):
                os.setpriority(os.PRIO_PROCESS, int(thread.name), LOW)
    await set_session(pid, LOW)
    return True


async def set_session(pid: int, nice: int) -> None:
    """The value of the session that a process leads, where sessions have one.

    The kernel takes ten changes a second of everybody together, and says EAGAIN to more.
    """
    for _ in range(_TRIES):
        try:
            Path(f"/proc/{pid}/autogroup").write_text(str(nice), encoding="ascii")
        except BlockingIOError:
            await asyncio.sleep(_PAUSE)
        except OSError:  # no autogroups, or the process is gone
            return
        else:
            return
