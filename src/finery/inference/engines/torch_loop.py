"""The thread that owns the model: rows join and leave the running batch at every step.

Each step takes one token of every row that is answering and, in the same pass, a piece of the
prompts of those that are not there yet (Orca: Yu et al. 2022; chunked prefill: Agrawal et al.
2023, arXiv 2308.16369), so that a long prompt never holds up the others for longer than
one piece takes.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import torch

from finery.errors import first_line
from finery.inference.engine import EngineLostError
from finery.inference.engines.torch_rows import Item, Row, Runner, Span
from finery.inference.engines.torch_sampling import choose, penalty_counts
from finery.inference.engines.torch_threads import Pace, use_threads

PIECE = 512  # most prompt tokens in one step while nobody else waits for it
SHARED_PIECE = 128  # and while others are answering
LEAST_PIECE = 64
# Seconds of a step that reads a prompt: shorter ones take more of it, longer ones less.
STEP_SECONDS = (0.1, 0.3)
STUCK_SECONDS = 300.0  # one step that takes longer has hung
CLOSE_SECONDS = 30.0  # how long closing waits for the step in progress


class ModelThread:
    """Runs `runner` for the rows that are put in; at most `at_once` of them at a time.

    `counts` are the numbers of threads that a decoding step may take; without any it takes torch's.
    """

    def __init__(self, runner: Runner, at_once: int, counts: Sequence[int] = ()) -> None:
        self.runner = runner
        self._pace = Pace(counts) if len(counts) > 1 else None
        self.at_once = at_once
        self.running: list[Row] = []
        self.waiting: list[Row] = []
        self.lost = ""  # why the thread ended by itself
        self._inbox: queue.SimpleQueue[Row | Callable[[], None] | None] = queue.SimpleQueue()
        self._handing: list[tuple[Row, Item]] = []
        self._step_began: float | None = None
        self._piece = SHARED_PIECE
        self._closing = False
        self._gate = threading.Lock()  # between a thread that ends and a row that comes
        self._thread = threading.Thread(target=self._run, name="finery-torch", daemon=True)
        self._thread.start()

    def add(self, row: Row) -> None:
        """Put a row in line; raises EngineLostError when nothing will ever read the line."""
        with self._gate:
            if reason := self.health():
                raise EngineLostError(f"The torch engine cannot answer: {reason}.")
            self._inbox.put(row)

    def call(self, work: Callable[[], None]) -> None:
        """Have `work` done between two steps; EngineLostError as for a row."""
        with self._gate:
            if reason := self.health():
                raise EngineLostError(f"The torch engine cannot answer: {reason}.")
            self._inbox.put(work)

    def health(self) -> str:
        """Why no row is answered any more; "" while they are."""
        if self.lost:
            return self.lost
        if self._closing:
            return "it was closed"
        if not self._thread.is_alive():
            return "its model thread is not running"
        began = self._step_began
        if began is not None and time.monotonic() - began > STUCK_SECONDS:
            return f"one step has been running for {time.monotonic() - began:.0f} s"
        return ""

    def close(self) -> None:
        """End the thread after its step; rows that are not done get EngineLostError.

        A thread that hangs in a step is left behind: it ends with the process.
        """
        with self._gate:
            self._closing = True
            self._inbox.put(None)
        self._thread.join(CLOSE_SECONDS)
        if self._thread.is_alive():
            self._end("it was closed while one of its steps hung")
        self.running, self.waiting = [], []

    def free(self) -> None:
        """Let go of the model; only after `close`."""
        self.__dict__.pop("runner", None)

    def _run(self) -> None:
        try:
            with torch.inference_mode():
                while self._take_in():
                    self._step_began = time.monotonic()
                    self._step()
                    self._step_began = None
            reason = "it was closed"
        except BaseException as error:
            reason = f"its model thread ended with {type(error).__name__}: {first_line(error)}"  # pyright: ignore[reportArgumentType]
            self.lost = reason
        self._end(reason)

    def _end(self, reason: str) -> None:
        with self._gate:
            self._step_began = None
            while not self._inbox.empty():
                item = self._inbox.get()
                if isinstance(item, Row):
                    self.waiting.append(item)
                elif item is not None and not self._closing:
                    item()
        for row in [*self.running, *self.waiting]:
            self._hand(row, EngineLostError(f"The torch engine ended under this answer: {reason}."))
        self._flush()

    def _take_in(self) -> bool:
        """Take what was put in and let rows join; waits while there is nothing to do."""
        while not self._closing:
            idle = not self.running and not self.waiting
            while idle or not self._inbox.empty():
                item = self._inbox.get()
                if item is None:
                    return False
                if isinstance(item, Row):
                    self.waiting.append(item)
                else:
                    item()
                idle = False
            self._drop_left()
            self._join()
            if self.running:
                return True
        return False

    def _drop_left(self) -> None:
        """Rows that nobody reads any more leave before the step."""
        for row in [row for row in self.running if row.left]:
            self._leave(row)
        self.waiting = [row for row in self.waiting if not row.left]

    def _join(self) -> None:
        """First come, first served: the first in line never gives way to a smaller one."""
        while self.waiting and len(self.running) < self.at_once:
            row = self.waiting[0]
            if not self.runner.place(row):
                return
            row.counts = penalty_counts(row, self.runner.vocabulary, self.runner.device)
            self.running.append(self.waiting.pop(0))

    def _leave(self, row: Row) -> None:
        self.running.remove(row)
        self.runner.free(row)

    def _step(self) -> None:
        spans = plan(self.running, self._piece if self.runner.pieces else None)
        rows = [span.row for span in spans if span.last]  # asked before `known` moves on
        reading = any(span.count > 1 for span in spans)
        if self._pace is not None:
            use_threads(self._pace.most if reading else self._pace.threads(len(spans)))
        began = time.perf_counter()
        logits = self.runner.forward(spans)
        took = time.perf_counter() - began
        if reading:
            self._piece = paced(self._piece, took)
        elif self._pace is not None:
            self._pace.took(took)
        self._give(rows, logits)

    def _give(self, rows: Sequence[Row], logits: torch.Tensor) -> None:
        """Choose the next token of each row and hand it out; rows that are done leave."""
        if not rows:
            return
        for row, token in zip(rows, choose(rows, logits), strict=True):
            self._hand(row, token)
            wanted = row.wanted
            whole = row.matcher is not None and row.matcher.complete and not wanted.stop_ids
            if token.id in wanted.stop_ids or row.made >= wanted.max_new_tokens or whole:
                self._hand(row, None)
                self._leave(row)
        self._flush()

    def _hand(self, row: Row, item: Item) -> None:
        self._handing.append((row, item))

    def _flush(self) -> None:
        """One call into each reader's loop, however many tokens there are."""
        by_loop: dict[Any, list[tuple[Row, Item]]] = defaultdict(list)
        for row, item in self._handing:
            by_loop[row.loop].append((row, item))
        self._handing = []
        for loop, items in by_loop.items():
            try:
                loop.call_soon_threadsafe(_deliver, items)
            except RuntimeError:  # the loop has been closed: its readers have gone with it
                for row, _ in items:
                    row.left = True


def _deliver(items: list[tuple[Row, Item]]) -> None:
    for row, item in items:
        row.ready.put_nowait(item)


def paced(piece: int, seconds: float) -> int:
    """How much of a prompt the next step takes, after one that took `seconds`."""
    least, most = STEP_SECONDS
    if seconds > most:
        return max(LEAST_PIECE, piece // 2)
    return min(PIECE, piece * 2) if seconds < least else piece


def plan(rows: Sequence[Row], piece: int | None) -> list[Span]:
    """What the next step takes: one token of each answering row, a piece of the prompts.

    The rows that are still reading their prompts share the piece, the earliest first; where it
    is None, one of them reads the whole of its own. A prompt's last token is a step of its own:
    so it is computed alike whether the others were read now or taken over from an earlier
    prompt, and the same request gets the same answer (rounding depends on a product's shape).
    """
    spans = [Span(row, 1) for row in rows if row.pending == 1]
    reading = [row for row in rows if row.pending > 1]
    if piece is None:
        return spans + [Span(row, row.pending) for row in reading[:1]]
    left = min(piece, SHARED_PIECE if spans else PIECE)
    for row in reading:
        if left:
            spans.append(Span(row, min(row.pending - 1, left)))
            left -= spans[-1].count
    return spans
