"""What the gateway counted: by endpoint and deployment, since it started. It never goes down.

Times fall into buckets that grow by the fourth root of two from a millisecond to an hour and a
half, so that a percentile read from them is right within a fifth of itself.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

BOUNDS = tuple(0.001 * 2 ** (step / 4) for step in range(90))  # seconds, the upper edges
NONE = (0,) * (len(BOUNDS) + 1)

Key = tuple[str, str]  # endpoint, deployment


@dataclass(frozen=True)
class Figures:
    """Requests to one deployment that are over; those it refused are among them."""

    requests: int = 0
    errors: int = 0  # 408, 429, 500 and above, broken off: not what the caller did wrong
    # Of the others: a replica was lost under them, or there was none. Callers only had to wait.
    lost: int = 0
    statuses: Mapping[str, int] = field(default_factory=dict)  # requests by status code
    # How many times fell into each bucket, the last beyond every bound.
    latencies: tuple[int, ...] = NONE  # of whole good answers, from their request's last byte on
    latency_seconds: float = 0.0  # their sum
    first_tokens: tuple[int, ...] = NONE  # until the first byte of a good answer
    first_token_seconds: float = 0.0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    in_flight: int = 0  # at the replicas at the moment
    queued: int = 0  # waiting for a place at the moment


@dataclass(frozen=True)
class Stats:
    """All deployments; those of a gateway that started anew begin at 0 under another id."""

    gateway: str
    figures: Mapping[Key, Figures]  # what callers were answered
    mirrored: Mapping[Key, Figures]  # copies, whose answers nobody got
    bounds: tuple[float, ...] = BOUNDS

    def written(self) -> dict[str, Any]:
        """As JSON takes it."""
        return {
            "gateway": self.gateway,
            "bounds": list(self.bounds),
            "figures": _rows(self.figures),
            "mirrored": _rows(self.mirrored),
        }


def read_stats(value: Mapping[str, Any]) -> Stats:
    """What `Stats.written` wrote."""
    both = (_figures(value["figures"]), _figures(value["mirrored"]))
    return Stats(value["gateway"], *both, tuple(value["bounds"]))


def _rows(figures: Mapping[Key, Figures]) -> list[list[Any]]:
    return [[*key, asdict(found)] for key, found in sorted(figures.items())]


def _figures(rows: Sequence[Sequence[Any]]) -> dict[Key, Figures]:
    times = ("latencies", "first_tokens")
    return {
        (endpoint, deployment): Figures(**row | {name: tuple(row[name]) for name in times})
        for endpoint, deployment, row in rows
    }


@dataclass
class Counter:
    """Figures that are still counted."""

    errors: int = 0
    lost: int = 0
    statuses: dict[str, int] = field(default_factory=dict)
    latencies: list[int] = field(default_factory=lambda: list(NONE))
    latency_seconds: float = 0.0
    first_tokens: list[int] = field(default_factory=lambda: list(NONE))
    first_token_seconds: float = 0.0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def add(
        self,
        status: int,
        seconds: float,
        *,
        failed: bool,
        lost: bool = False,
        first_token: float | None = None,
        tokens: tuple[int, int] = (0, 0),
    ) -> None:
        """Count one request that is over."""
        self.statuses[str(status)] = self.statuses.get(str(status), 0) + 1
        self.errors += failed
        self.lost += lost and not failed
        if status < 400 and not failed:
            self.latencies[bisect_left(BOUNDS, seconds)] += 1
            self.latency_seconds += seconds
            if first_token is not None:
                self.first_tokens[bisect_left(BOUNDS, first_token)] += 1
                self.first_token_seconds += first_token
        self.prompt_tokens += tokens[0]
        self.completion_tokens += tokens[1]

    def figures(self, in_flight: int = 0, queued: int = 0) -> Figures:
        """What it comes to now."""
        return Figures(
            requests=sum(self.statuses.values()),
            errors=self.errors,
            lost=self.lost,
            statuses=dict(self.statuses),
            latencies=tuple(self.latencies),
            latency_seconds=self.latency_seconds,
            first_tokens=tuple(self.first_tokens),
            first_token_seconds=self.first_token_seconds,
            prompt_tokens=self.prompt_tokens,
            completion_tokens=self.completion_tokens,
            in_flight=in_flight,
            queued=queued,
        )
