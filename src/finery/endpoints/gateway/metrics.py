"""The gateway's counts as Prometheus reads them.

https://prometheus.io/docs/instrumenting/exposition_formats/ (text, version 0.0.4). Percentiles
come of the histograms: `histogram_quantile(0.95, rate(…_seconds_bucket[5m]))`. Whoever may ask
on loopback may read them: they hold names and numbers, no keys and nothing of a request.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import accumulate

from finery.endpoints.gateway.counts import Figures, Key, Stats

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
STEP = 2  # every second bound: edges that grow by the square root of two

_ABOUT = {
    "requests_total": ("counter", "Requests that are over, by status code"),
    "errors_total": ("counter", "Requests that failed through no fault of their caller"),
    "lost_total": ("counter", "Others whose replica was lost under them, or that found none"),
    "mirrored_requests_total": ("counter", "Copies sent to a mirror, by status code"),
    "prompt_tokens_total": ("counter", "Tokens of prompts"),
    "completion_tokens_total": ("counter", "Tokens of answers"),
    "in_flight": ("gauge", "Requests at the replicas"),
    "queued": ("gauge", "Requests that wait for a place at a replica"),
    "latency_seconds": ("histogram", "From a request's last byte to its whole good answer"),
    "first_token_seconds": ("histogram", "Until the first byte of a good answer"),
}


def exposition(stats: Stats) -> str:
    """All of it."""
    return "".join(f"{line}\n" for name in _ABOUT for line in _metric(name, stats))


def _metric(name: str, stats: Stats) -> Iterator[str]:
    kind, about = _ABOUT[name]
    whole = f"finery_endpoint_{name}"
    yield f"# HELP {whole} {about}."
    yield f"# TYPE {whole} {kind}"
    found: Mapping[Key, Figures] = stats.mirrored if name.startswith("mirrored") else stats.figures
    for (endpoint, deployment), figures in sorted(found.items()):
        labels = f'endpoint="{endpoint}",deployment="{deployment}"'
        if name.endswith("requests_total"):
            for status, count in sorted(figures.statuses.items()):
                yield f'{whole}{{{labels},status="{status}"}} {count}'
        elif kind == "histogram":
            yield from _histogram(whole, labels, figures, stats.bounds)
        else:
            yield f"{whole}{{{labels}}} {getattr(figures, name.removesuffix('_total'))}"


def _histogram(
    name: str, labels: str, figures: Figures, bounds: tuple[float, ...]
) -> Iterator[str]:
    first = "first_token" in name
    counts = figures.first_tokens if first else figures.latencies
    seconds = figures.first_token_seconds if first else figures.latency_seconds
    so_far = list(accumulate(counts))
    for at in range(0, len(bounds), STEP):
        yield f'{name}_bucket{{{labels},le="{bounds[at]:.6g}"}} {so_far[at]}'
    yield f'{name}_bucket{{{labels},le="+Inf"}} {so_far[-1]}'
    yield f"{name}_sum{{{labels}}} {seconds:.6f}"
    yield f"{name}_count{{{labels}}} {so_far[-1]}"
