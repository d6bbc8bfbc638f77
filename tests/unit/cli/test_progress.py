"""What a run says while it works, on a terminal and in a log file."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from finery.cli.progress import Progress

START: dict[str, Any] = {"event": "start", "step": 0, "total_steps": 20}
LOG: dict[str, Any] = {
    "event": "log",
    "step": 7,
    "loss": 1.25,
    "tokens_per_s": 12345.6,
    "seconds_left": 61.0,
}


def said(*events: dict[str, Any], terminal: bool = False) -> str:
    console = Console(file=io.StringIO(), force_terminal=terminal, width=60, no_color=True)
    with Progress(console) as progress:
        for event in events:
            progress(event)
    return console.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]


def test_a_log_file_gets_one_plain_line_a_step() -> None:
    text = said(START, LOG)
    assert text == "step 7: loss 1.2500  12,346 tokens/s  1:01 left\n"


def test_a_terminal_gets_a_bar_instead() -> None:
    text = said(START, LOG, terminal=True)
    assert "training" in text
    assert "7/20" in text
    assert "step 7:" not in text


@pytest.mark.parametrize(
    ("event", "line"),
    [
        ({"event": "note", "text": "no [red]rows[/] \x1b[2J"}, "note: no [red]rows[/]"),
        ({"event": "stage", "text": "merging"}, "merging"),
        ({"event": "eval", "step": 9, "eval_loss": 2.0}, "step 9: held-out loss 2.0000"),
        (
            {"event": "self_tests", "passed": ["a", "b"], "seconds": 0.26},
            "self-tests: 2 passed in 0.3 s",
        ),
        (
            {"event": "self_tests", "passed": ["a"], "seconds": 0.0, "earlier": True},
            "self-tests: 1 passed at an earlier start",
        ),
        ({**START, "step": 4}, "going on after step 4"),
    ],
)
def test_each_event_is_one_line(event: dict[str, Any], line: str) -> None:
    text = said(event)
    assert text.startswith(line)
    assert text.count("\n") == 1
    assert "\x1b" not in text


def test_a_long_note_stays_on_one_line_of_a_log_file() -> None:
    assert said({"event": "note", "text": "word " * 50}).count("\n") == 1


def test_events_nobody_shows_are_no_error() -> None:
    assert said({"event": "checkpoint", "step": 3}, {"event": "end", "ok": True}) == ""


def test_the_plan_is_said_before_the_first_step() -> None:
    plan: dict[str, Any] = {"memory_bytes": 2 * 1024**3, "disk_bytes": 1024**3}
    assert "2.0 GiB of memory a process and 1.00 GiB of disk (arithmetic" in said(
        {"event": "prepared", "plan": plan}
    )
    measured = {
        **plan,
        "measured": True,
        "tokens_per_s": 1234.5,
        "seconds": 5400.0,
        "time_error": 0.1,
        "memory_error": 0.05,
        "available_bytes": 4 * 1024**3,
    }
    text = said({"event": "prepared", "plan": measured})
    for words in ("1,234 tokens/s", "1:30 h of training", "within 10 %", "of 4.0 GiB there is"):
        assert words in text


def test_a_second_start_does_not_leave_a_second_bar() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=60)
    with Progress(console) as progress:
        progress(START)
        progress(START)
        assert len(progress.bar.tasks) == 1
        progress(LOG)
