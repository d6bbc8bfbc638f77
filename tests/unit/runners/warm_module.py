"""What the warm host of these tests loads: next to nothing, and it says that it began."""

from __future__ import annotations

import os

LOADED_IN = os.getpid()


def begin() -> None:
    """Tell the process that it was forked from the one that loaded this."""
    os.environ["LOADED_IN"] = str(LOADED_IN)
