"""What a process of these tests runs: it says who it is, and ends as it is told."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path


def main(what: str) -> None:
    """Do as `what` says."""
    print(f"loaded in {os.environ.get('LOADED_IN', 'no host')}, {os.getpid()}", flush=True)
    drawn = random.random()  # noqa: S311 - whether two processes draw the same
    print(Path.cwd().name, os.environ["FINERY_SAID"], drawn, flush=True)
    if what == "exit":
        sys.exit(3)
    if what == "raise":
        raise OSError("went wrong")
    if what == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "wait":
        time.sleep(60)
    if what == "child":
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        time.sleep(60)


if __name__ == "__main__":
    main(sys.argv[1])
