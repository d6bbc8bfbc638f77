"""The guard of a vLLM server: it starts it, and ends it with all its processes.

It runs with the Python of the engine's own environment: `worker_vllm.py ARGUMENTS…` are those
of `vllm.entrypoints.openai.api_server`. vLLM works in several processes, which its server
alone would leave behind when it is killed; here the whole group ends when standard input
ends, when the parent dies, or when the server does.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading

_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of Linux's prctl


def main() -> int:
    """Run the server until it ends or nobody wants it any more; its exit status."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGTERM)
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", *sys.argv[1:]]
    server = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)

    def end(*_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)

    signal.signal(signal.SIGTERM, end)

    def watch() -> None:
        sys.stdin.read()  # until the parent closes it, or is gone
        end()

    threading.Thread(target=watch, daemon=True).start()
    status = server.wait()
    end()  # what the server left behind
    return status if status >= 0 else 128 - status


if __name__ == "__main__":
    sys.exit(main())
