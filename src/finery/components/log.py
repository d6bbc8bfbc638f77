"""The events of a step as lines of its log: one event a line, at once."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any

from finery.training.events import Event


def say(text: str) -> None:
    """One line of the log, with the time of day in UTC."""
    sys.stdout.write(f"{time.strftime('%H:%M:%S', time.gmtime())} {text}\n")
    sys.stdout.flush()


def report(event: Event) -> None:
    """Write an event of the engine; what has no words of its own is left to metrics.jsonl."""
    if text := sentence(event):
        say(text)


def sentence(event: Event) -> str:
    """An event in words, "" for one that says nothing to a reader."""
    kind = event["event"]
    if kind in ("stage", "note"):
        return str(event["text"])
    if kind == "start":
        begun = f", going on after step {event['step']:,}" if event["step"] else ""
        return f"training {event['total_steps']:,} steps{begun}"
    if kind == "self_tests":
        return f"{len(event['passed'])} self-tests passed in {event['seconds']:.1f} s"
    if kind == "log":
        return _figures(event)
    if kind == "eval":
        return f"step {event['step']:,}: held-out loss {event['eval_loss']:.4f}"
    if kind == "checkpoint":
        return f"step {event['step']:,}: checkpoint written"
    if kind == "prepared":
        return plan_sentence(event["plan"])
    return ""


def plan_sentence(plan: Mapping[str, Any]) -> str:
    """What is about to be trained, on what."""
    return (
        f"{plan['trainable']:,} of {plan['parameters']:,} parameters train in "
        f"{plan['total_steps']:,} steps of {plan['global_batch']:,} rows "
        f"({plan['processes']} x {plan['device']}, micro-batch {plan['micro_batch']}, "
        f"accumulation {plan['accumulation']}); about "
        f"{plan['memory_bytes'] / 1024**3:.1f} GiB of memory a process"
    )


def _figures(event: Mapping[str, Any]) -> str:
    left = event.get("seconds_left")
    parts = [
        f"step {event['step']:,}",
        f"epoch {event['epoch']:.2f}" if "epoch" in event else "",
        f"loss {event['loss']:.4f}",
        f"learning rate {event['learning_rate']:.3g}" if "learning_rate" in event else "",
        f"gradient norm {event['grad_norm']:.3g}" if "grad_norm" in event else "",
        f"{event['tokens_per_s']:,.0f} tokens/s" if "tokens_per_s" in event else "",
        f"{left:,.0f} s left" if left is not None else "",
    ]
    return ", ".join(part for part in parts if part)
