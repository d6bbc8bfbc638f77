"""The live view of a run in the terminal: one bar, and lines that stay."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar

from finery.cli.plan import expectation
from finery.evaluation.markup import plain


class Progress:
    """Shows the events of a run; without a terminal it prints plain lines instead."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.bar = Bar(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TextColumn("{task.fields[figures]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self.task: Any = None

    def __enter__(self) -> Progress:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def __call__(self, event: dict[str, Any]) -> None:
        """Show one event."""
        show = getattr(self, f"_{event['event']}", None)
        if show is not None:
            show(event)

    def _say(self, text: str, style: str = "") -> None:
        self.console.print(plain(text), style=style, markup=False, highlight=False, soft_wrap=True)

    def _note(self, event: dict[str, Any]) -> None:
        self._say(f"note: {event['text']}", "dim")

    def _stage(self, event: dict[str, Any]) -> None:
        self._say(event["text"])

    def _prepared(self, event: dict[str, Any]) -> None:
        self._say(f"plan: {expectation(event['plan'])}")

    def _self_tests(self, event: dict[str, Any]) -> None:
        when = "at an earlier start" if event.get("earlier") else f"in {event['seconds']:.1f} s"
        self._say(f"self-tests: {len(event['passed'])} passed {when}", "green")

    def _start(self, event: dict[str, Any]) -> None:
        if event["step"]:
            self._say(f"going on after step {event['step']}")
        if self.task is not None:  # a start after running out of memory
            self.bar.remove_task(self.task)
        self.task = self.bar.add_task(
            "training", total=event["total_steps"], completed=event["step"], figures=""
        )

    def _log(self, event: dict[str, Any]) -> None:
        left = int(event["seconds_left"])
        figures = (
            f"loss {event['loss']:.4f}  {event['tokens_per_s']:,.0f} tokens/s  "
            f"{left // 60}:{left % 60:02d} left"
        )
        if self.console.is_terminal:
            self.bar.update(self.task, completed=event["step"], figures=figures)
        else:
            self._say(f"step {event['step']}: {figures}")

    def _eval(self, event: dict[str, Any]) -> None:
        self._say(f"step {event['step']}: held-out loss {event['eval_loss']:.4f}")
