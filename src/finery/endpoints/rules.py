"""What may be asked of an endpoint: names, shares of traffic, numbers."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from finery.errors import Fault, did_you_mean

NAME = re.compile(r"[A-Za-z](?:[A-Za-z0-9]|-(?=[A-Za-z0-9])){2,31}")
MOST_MIRRORED = 50
MOST_INSTANCES = 50
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
