"""Replicas and the service killed under load."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import time
from collections import Counter
from pathlib import Path

from endpoints_load import Load
from endpoints_world import CROWDED, Report, World, crowding, endpoint, run, until

BACK = 3.0  # seconds in which a service that was killed answers again
SUCCESS = 0.999
_MARK = re.compile(r"mark (\S+)\.")


def killed_replicas(there: World, *, full: bool) -> Report:
    """Of two replicas one is killed every second, two minutes long in the full form.

    (On a machine with more work than cores, not before both of them answer again.)
    99.9 % of the requests are answered whole; every failure says what it is; and no request is
    begun anew once its first token was taken (the replicas note that in a file).
    """
    report, notes = Report(), there.server.home / "begun"
    dice, kills = random.Random(0), 0  # noqa: S311
    with endpoint(there, "killed") as name:
        there.deploy(name, "blue", "--replicas", 2, at_once=256, first=0.03, note=notes)
        # Short answers: what a replica has begun when it is killed can only be lost.
        with Load(there.ask(name, max_tokens=2), rate=50) as load:
            load.wait_for(50)
            for _ in range(120 if full else 3):
                alive = sorted(there.replica_pids(name).values())
                if alive:
                    os.kill(dice.choice(alive), signal.SIGKILL)
                    kills += 1
                time.sleep(1.0)
                if crowding() > CROWDED:
                    until(lambda: len(there.replica_pids(name)) == 2, "two replicas again")
            load.wait_for(50)
    begun = marks(notes)
    twice = [mark for mark, times in begun.items() if times > 1]
    whole = 1 - len(load.failed) / len(load.answers)
    dirty = [answer for answer in load.failed if not answer.is_clean]
    # A short run may lose the one or two answers that were under way at a kill.
    least = SUCCESS if full else 1 - kills / len(load.answers)
    report.claim(whole >= least, f"{whole:.3%} whole answers; {load.faults()}")
    report.claim(not dirty, f"told badly: {[a.fault for a in dirty[:3]]}")
    report.claim(not twice, f"begun twice: {len(twice)}, for example {twice[:3]}")
    lost = {a.mark for a in load.answers if not a.fault} - set(begun)
    report.claim(not lost, f"answered, and yet never begun: {len(lost)}")  # the notes are real
    report.figures |= {
        "kills": kills,
        "requests": len(load.answers),
        "failed": len(load.failed),
        "how": load.faults(),
        "whole answers, %": round(100 * whole, 3),
        "begun twice after a first token": len(twice),
        "slowest answer, s": round(max(a.seconds for a in load.answers), 1),
    }
    return report


def marks(notes: Path) -> Counter[str]:
    """How often each request was begun, by its mark."""
    lines = notes.read_text().splitlines() if notes.is_file() else []
    return Counter(mark for line in lines for mark in _MARK.findall(json.loads(line)))


def killed_service(there: World, *, full: bool) -> Report:
    """The service is killed under streams, ten times in the full form.

    Replicas and gateway are the processes that they were, no stream is cut, the service answers
    again within three seconds, and the traffic is what it was.
    """
    report = Report()
    with endpoint(there, "orphaned") as name:
        there.deploy(name, "blue", rate=10.0, text="word " * 30)
        there.deploy(name, "green", "--traffic", 0, rate=10.0, text="word " * 30)
        run("endpoint", "traffic", name, "blue=80", "green=20")
        before = there.replica_pids(name), _gateway(there), there.traffic(name)
        there.server.slowest = 0.0
        with Load(there.ask(name, max_tokens=30), rate=10, streams=1) as load:  # of 3 s each
            for _ in range(10 if full else 1):
                load.wait_for(10)
                there.server.kill()
                load.wait_for(10)
                there.server.start()
                after = there.replica_pids(name), _gateway(there), there.traffic(name)
                report.claim(after == before, f"before {before}, after {after}")
    back = there.server.slowest
    report.faults += load.faults()
    limit = BACK * crowding()
    report.claim(back < limit, f"the service was back after {back:.1f} s, later than {limit:.1f} s")
    report.figures |= {
        "streams": len(load.answers),
        "cut": len(load.failed),
        "service back after, s, at most": round(back, 2),
        "processes that wanted each core": round(crowding(), 1),
    }
    return report


def _gateway(there: World) -> int:
    note = there.service.folder / "gateway" / "process" / "started.json"
    return json.loads(note.read_text())["pid"]
