"""What may be asked of an endpoint: names, shares of traffic, numbers."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from finery.endpoints.canary import GUARDS
from finery.endpoints.values import ENGINES, STUB, Probe
from finery.errors import Fault, did_you_mean

NAME = re.compile(r"[A-Za-z](?:[A-Za-z0-9]|-(?=[A-Za-z0-9])){2,31}")
MOST_MIRRORED = 50
MOST_INSTANCES = 50
MOST_LOOKS = 1000  # in a row that a probe may wait for
LONGEST_STEP = 7 * 24 * 60  # minutes of a canary
LONGEST_PROBE = 86400.0  # seconds
LONGEST_TIMEOUT = 3600.0  # seconds; Azure stops at 180, which is short for a model on a CPU


def name_faults(name: str, what: str) -> list[Fault]:
    """Azure's rule for names of endpoints and deployments."""
    if NAME.fullmatch(name):
        return []
    expected = "3 to 32 letters, digits and single dashes, the first a letter"
    return [Fault(f"{what} name", repr(name), expected)]


def traffic_faults(
    traffic: Mapping[str, Any], mirror: Mapping[str, Any], deployments: Collection[str]
) -> list[Fault]:
    """Shares name deployments that exist; live ones sum to 0 or 100, one mirror has at most 50."""
    faults = _share_faults(traffic, "traffic", deployments)
    faults += _share_faults(mirror, "mirrorTraffic", deployments)
    if faults:
        return faults
    total = sum(traffic.values())
    if total not in (0, 100):
        faults.append(Fault("traffic", f"shares that sum to {total}", "a sum of 0 or of 100"))
    mirrored = {name: share for name, share in mirror.items() if share}
    if len(mirrored) > 1:
        faults.append(Fault("mirrorTraffic", ", ".join(mirrored), "one deployment at most"))
    for name, share in mirrored.items():
        where = f"mirrorTraffic.{name}"
        if share > MOST_MIRRORED:
            faults.append(Fault(where, str(share), f"at most {MOST_MIRRORED}"))
        if traffic.get(name):
            faults.append(Fault(where, "live traffic beside it", "a deployment without traffic"))
    return faults


def _share_faults(shares: Mapping[str, Any], where: str, known: Collection[str]) -> list[Fault]:
    faults = []
    for name, share in shares.items():
        if not isinstance(share, int) or isinstance(share, bool) or not 0 <= share <= 100:
            faults.append(Fault(f"{where}.{name}", repr(share), "a whole number from 0 to 100"))
        elif name not in known:
            there = ", ".join(sorted(known)) or "none yet: create it before it gets traffic"
            remedy = did_you_mean(name, known)
            faults.append(Fault(f"{where}.{name}", "no such deployment", there, remedy))
    return faults


def size_faults(instances: Any, at_once: Any, timeout: float) -> list[Fault]:
    """Numbers of a deployment."""
    faults = []
    for where, value, most in (
        ("sku.capacity", instances, MOST_INSTANCES),
        ("requestSettings.maxConcurrentRequestsPerInstance", at_once, 1000),
    ):
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
            faults.append(Fault(where, repr(value), f"a whole number from 1 to {most}"))
    if not 0 < timeout <= LONGEST_TIMEOUT:
        expected = f"more than 0 and at most {LONGEST_TIMEOUT:.0f} seconds"
        faults.append(Fault("requestSettings.requestTimeout", f"{timeout} s", expected))
    return faults


def engine_faults(engine: str) -> list[Fault]:
    """An engine that finery knows; whether this machine has it, the replica says."""
    if engine in (*ENGINES, STUB):
        return []
    return [Fault("engine", repr(engine), ", ".join(ENGINES), did_you_mean(engine, ENGINES))]


def probe_faults(where: str, probe: Probe) -> list[Fault]:
    """Numbers of a probe, all that are out of bounds."""
    faults = []
    for name in ("success_threshold", "failure_threshold"):
        count = getattr(probe, name)
        if not isinstance(count, int) or isinstance(count, bool) or not 1 <= count <= MOST_LOOKS:
            expected = f"a whole number from 1 to {MOST_LOOKS}"
            faults.append(Fault(f"{where}.{_wire_name(name)}", repr(count), expected))
    for name, least in (("initial_delay", 0.0), ("period", 0.01), ("timeout", 0.01)):
        seconds = getattr(probe, name)
        if not least <= seconds <= LONGEST_PROBE:
            expected = f"{least:g} to {LONGEST_PROBE:.0f} seconds"
            faults.append(Fault(f"{where}.{_wire_name(name)}", f"{seconds} s", expected))
    return faults


def canary_faults(
    steps: Sequence[Any], guards: Sequence[Any], min_requests: Any, step_minutes: Any
) -> list[Fault]:
    """Steps that rise, guards that there are, numbers that make sense."""
    faults = []
    whole = all(isinstance(step, int) and not isinstance(step, bool) for step in steps)
    rising = whole and list(steps) == sorted(set(steps))
    if not steps or not rising or steps[0] < 1 or steps[-1] > 100:
        expected = "shares of the traffic from 1 to 100 that rise, such as 5,25,100"
        faults.append(Fault("steps", repr(list(steps)), expected))
    for guard in guards:
        if guard not in GUARDS:
            remedy = did_you_mean(str(guard), GUARDS)
            faults.append(Fault("guards", repr(guard), ", ".join(GUARDS), remedy))
    if not guards:
        faults.append(Fault("guards", "none", f"one at least of {', '.join(GUARDS)}"))
    if not isinstance(min_requests, int) or isinstance(min_requests, bool) or min_requests < 1:
        faults.append(Fault("minRequests", repr(min_requests), "a whole number from 1"))
    number = isinstance(step_minutes, int | float) and not isinstance(step_minutes, bool)
    if not number or not 0 <= step_minutes <= LONGEST_STEP:
        expected = f"minutes from 0 to {LONGEST_STEP}"
        faults.append(Fault("stepMinutes", repr(step_minutes), expected))
    return faults


def _wire_name(name: str) -> str:
    """`failure_threshold` as Azure's REST says it."""
    head, *rest = name.split("_")
    return head + "".join(word.capitalize() for word in rest)
