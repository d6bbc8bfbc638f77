"""How far a download from the hub is, in a line every few seconds.

huggingface_hub draws bars, which are made for a terminal and say nothing in a log.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

SECONDS = 5.0  # between two lines

Say = Callable[[str], None]


@contextlib.contextmanager
def told(name: str, say: Say, seconds: float = SECONDS) -> Iterator[Any]:
    """While the block lasts, `say` how far the download of `name` is; also while nothing comes.

    Gives the class of bars for `snapshot_download(tqdm_class=…)`. What is downloaded already, or is
    over before the first line is due, says nothing.
    """
    bars = _bars()
    over = threading.Event()
    began = time.monotonic()

    def tell() -> None:
        while not over.wait(seconds):
            say(sentence(name, bars.made, time.monotonic() - began))

    teller = threading.Thread(target=tell, name=f"download of {name}", daemon=True)
    teller.start()
    try:
        yield bars
    finally:
        over.set()
        teller.join()


def sentence(name: str, bars: list[Bar], seconds: float) -> str:
    """A line for the bars that huggingface_hub made: one counts files, others bytes.

    A file's bytes count from when it begins, so that their sum may still grow.
    """
    files = [bar for bar in bars if bar.unit != "B"]
    bytes_ = [bar for bar in bars if bar.unit == "B"]
    done = max((bar.n or 0 for bar in bytes_), default=0)
    begun = max((bar.total or 0 for bar in bytes_), default=0)
    text = f"downloading {name}: {_amount(done)}"
    if begun:
        text += f" of {_amount(begun)} begun ({min(done / begun, 1.0):.0%})"
    if files and files[-1].total:
        text += f", {files[-1].n} of {files[-1].total} files whole"
    return f"{text}, {_amount(done / max(seconds, 1e-9))}/s"


def _amount(count: float) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count:.0f} B"


class Bar:
    """What huggingface_hub asks of a bar (`tqdm_class` of its `snapshot_download`), undrawn."""

    made: list[Bar]

    def __init__(self, *_: Any, total: float | None = None, unit: str = "it", **named: Any) -> None:
        self.n: float = named.get("initial") or 0
        self.total, self.unit = total, unit
        self._turn = threading.Lock()
        self.made.append(self)

    def update(self, n: float | None = 1) -> None:
        """Count; from any thread."""
        with self._turn:
            self.n += n or 0

    @property
    def format_dict(self) -> dict[str, Any]:
        """What tqdm knows of a bar; here no rate, which is reckoned over all bars."""
        return {"n": self.n, "total": self.total, "rate": None}

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def _nothing(self, *_: Any, **__: Any) -> None:
        """For what concerns the drawing alone."""

    refresh = close = set_description = set_description_str = _nothing
    set_postfix = set_postfix_str = reset = clear = _nothing


def _bars() -> type[Bar]:
    """A class of bars that remembers those that were made."""
    return type("Bars", (Bar,), {"made": []})
