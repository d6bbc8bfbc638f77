"""Runs one saved job, alone or as a process of a group, and writes down what it saw."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from finery.files import write_json
from finery.training import loop
from finery.training.job import load_job


def main(job_file: str, seen_file: str) -> None:
    """Train the job in `job_file`; `seen_file` gets events and the type of the wrapped model."""
    events: list[dict[str, Any]] = []
    wrappers: set[str] = set()
    original = loop.accumulate

    def watched(model: Any, *args: Any, **kwargs: Any) -> Any:
        stage = model.zero_optimization_stage() if type(model).__name__ == "DeepSpeedEngine" else 0
        wrappers.add(f"{type(model).__name__}:{stage}")
        return original(model, *args, **kwargs)

    loop.accumulate = watched
    job = load_job(Path(job_file))
    is_main = os.environ.get("RANK", "0") == "0"

    def report(event: dict[str, Any]) -> None:
        if event["event"] == "start":
            wrappers.clear()  # the self-tests before it run the bare model
        events.append(event)

    loop.train(job, report)
    if is_main:
        write_json(Path(seen_file), {"events": events, "wrappers": sorted(wrappers)})


if __name__ == "__main__":
    main(*sys.argv[1:])
