"""What a replica counts, as Prometheus reads it."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from finery.inference.answering import Generate
from finery.inference.engine import Generation, Token

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_REQUEST = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250)
_FIRST = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_BETWEEN = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)


class Metrics:
    """The counts of one replica."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "finery_requests",
            "Requests by route and status.",
            ["route", "status"],
            registry=self.registry,
        )
        self.seconds = Histogram(
            "finery_request_seconds",
            "Whole time of requests that got an answer.",
            ["route"],
            buckets=_REQUEST,
            registry=self.registry,
        )
        self.prompt_tokens = self._counter("prompt_tokens", "Tokens of prompts.")
        self.tokens = self._counter("completion_tokens", "Tokens made.")
        self.first = Histogram(
            "finery_time_to_first_token_seconds",
            "From the engine's taking an answer to its first token.",
            buckets=_FIRST,
            registry=self.registry,
        )
        self.between = Histogram(
            "finery_time_between_tokens_seconds",
            "From one token of an answer to the next.",
            buckets=_BETWEEN,
            registry=self.registry,
        )
        self.waiting = self._gauge("answers_waiting", "Answers without a first token.")
        self.running = self._gauge("answers_running", "Answers with a first token and no last.")

    def _counter(self, name: str, told: str) -> Counter:
        return Counter(f"finery_{name}", told, registry=self.registry)

    def _gauge(self, name: str, told: str) -> Gauge:
        return Gauge(f"finery_{name}", told, registry=self.registry)

    def text(self) -> bytes:
        """All of them, in Prometheus' text format."""
        return generate_latest(self.registry)

    def measured(self, generate: Generate) -> Generate:
        """The same tokens, counted and timed."""

        async def tokens(wanted: Generation) -> AsyncGenerator[Token, None]:
            self.prompt_tokens.inc(len(wanted.prompt))
            last, began, state = time.perf_counter(), False, self.waiting
            state.inc()
            try:
                async with aclosing(generate(wanted)) as made:
                    async for token in made:
                        now = time.perf_counter()
                        (self.between if began else self.first).observe(now - last)
                        if not began:
                            state.dec()
                            began, state = True, self.running
                            state.inc()
                        last = now
                        self.tokens.inc()
                        yield token
            finally:
                state.dec()

        return tokens
