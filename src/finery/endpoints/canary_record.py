"""A canary's figures: out of the gateway's counts, into the store, and before people."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from finery.endpoints.canary import NEEDED, Evidence, Guard, Seen, Watched
from finery.endpoints.gateway.counts import BOUNDS, Figures, Stats
from finery.endpoints.values import Canary
from finery.workspace.store import now


def seen_in(counted: Stats, endpoint: str, deployment: str) -> Seen:
    """What callers asked of a deployment since the gateway started; copies of a mirror are not.

    A replica that dies is the deployment's failure, also where the gateway hid it from callers.
    """
    found = counted.figures.get((endpoint, deployment), Figures())
    return Seen(found.requests, found.errors + found.lost, tuple(found.latencies))


def since(counts: Seen, watch: Mapping[str, Any], deployment: str, gateway: str) -> Seen:
    """What of `counts` is not taken over yet; a gateway that started anew counts from 0."""
    if watch["gateway"] != gateway or deployment not in watch["taken"]:
        return counts
    taken = _seen(watch["taken"][deployment])
    both = zip(counts.latencies, taken.latencies, strict=True)
    return Seen(
        counts.requests - taken.requests,
        counts.errors - taken.errors,
        tuple(new - old for new, old in both),
    )


def written(watched: Watched) -> dict[str, Any]:
    """As JSON takes it."""
    return asdict(watched)


def read_watched(value: Mapping[str, Any]) -> Watched:
    """What `written` wrote."""
    sides = ("before", "stable", "canary", "open_stable", "open_canary")
    evidence: dict[Guard, Evidence] = {
        guard: Evidence(tuple(one["logs"])) for guard, one in value["evidence"].items()
    }
    return Watched(evidence, **{side: _seen(value[side]) for side in sides})


def _seen(value: Mapping[str, Any]) -> Seen:
    return Seen(value["requests"], value["errors"], tuple(value["latencies"]))


def entry(one: Canary, decision: str, watched: Watched) -> dict[str, Any]:
    """One decision with the figures of the whole canary so far."""
    return {
        "at": now().isoformat() + "Z",
        "decision": decision,
        "share": one.steps[one.position],
        one.canary: figures(watched.canary + watched.open_canary),
        one.stable: figures(watched.stable + watched.open_stable),
        "evidence": {guard: odds(found) for guard, found in watched.evidence.items()},
    }


def figures(seen: Seen) -> dict[str, Any]:
    """Requests, errors and the 95th percentile in seconds."""
    return {
        "requests": seen.requests,
        "errors": seen.errors,
        "latencyP95": round(quantile(seen, 0.95), 4) if seen.timed else None,
    }


def quantile(seen: Seen, share: float) -> float:
    """The seconds that `share` of the answers stay within, by even spread in their bucket."""
    bucket = seen.bucket_of(share)
    high = BOUNDS[min(bucket, len(BOUNDS) - 1)]
    low = BOUNDS[bucket - 1] if bucket else 0.0
    inside = share * seen.timed - sum(seen.latencies[:bucket])
    return low + (high - low) * min(1.0, inside / max(1, seen.latencies[bucket]))


def odds(found: Evidence) -> float:
    """How many times likelier the figures are if the canary is worse; at most 10^9."""
    return float(f"{math.exp(min(found.total, math.log(1e9))):.3g}")


def reason_for(one: Canary, watched: Watched, guard: Guard) -> str:
    """Why a canary was rolled back, in a sentence with its figures."""
    new = figures(watched.canary + watched.open_canary)
    old = figures(watched.stable + watched.open_stable)
    if guard == "error_rate":
        what = (
            f"{one.canary} failed in {new['errors']} of {new['requests']} requests, {one.stable} "
            f"in {old['errors']} of {old['requests']}"
        )
    else:
        what = (
            f"95 % of the answers of {one.canary} took up to {new['latencyP95'] or 0:.3g} s, of "
            f"{one.stable} up to {old['latencyP95'] or 0:.3g} s"
        )
    times = odds(watched.evidence[guard])
    return (
        f"{what}: {times:g} times likelier if it is worse ({guard}; {math.exp(NEEDED):.0f} decide)."
    )
