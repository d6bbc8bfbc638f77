"""Tokens per second of our engines, bare and through the gateway, beside other servers.

    python benchmarks/run.py serving --model FOLDER [--engines torch openvino auto]
        [--transformers] [--llama-cpp PYTHON --gguf FILE ...] [--streams 1 8] [--json FILE]

Every server is up for the whole run and they take turns, round after round, in changing order:
the same prompts, greedy, streamed, as many at a time as --streams says, the same number of tokens.
`bare` is the very replica that `gateway` asks, asked without it. --transformers adds `transformers
serve` and, in this process, `generate` with all prompts in one batch. Ratios are of neighbours in
a round, so that what else the machine does falls on both.

--llama-cpp is a Python with `xllamacpp` (llama.cpp's own server in a wheel) installed. Tokens are
counted by a server's own usage where it tells it, else by the pieces it streams.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import httpx
from measure import OthersCpu, machine, spread, versions
from serving_servers import PATIENCE, Server, started

TOPICS = (
    *("the tides", "a lost key", "winter soup", "an old bridge", "two friends", "a small garden"),
    *("the night train", "a blue kite"),
)


@dataclass(frozen=True)
class Round:
    """What one round of one server gave."""

    tokens: int
    seconds: float
    first: float  # median seconds to the first piece

    @property
    def speed(self) -> float:
        """Tokens per second, all streams together."""
        return self.tokens / self.seconds


Found = dict[tuple[str, int], list[Round]]


def main(arguments: Sequence[str]) -> int:
    """Measure, print a table, write JSON."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--model", required=True, help="a model folder, or any model source")
    options.add_argument("--engines", nargs="*", default=["torch"])
    options.add_argument("--env", action="append", default=[], help="NAME=VALUE for our replicas")
    options.add_argument("--transformers", action="store_true", help="serve and generate, too")
    options.add_argument("--llama-cpp", type=Path, help="a Python that has xllamacpp")
    options.add_argument("--gguf", type=Path, nargs="*", default=[], help="models for llama.cpp")
    options.add_argument("--streams", type=int, nargs="+", default=[1, 8])
    options.add_argument("--tokens", type=int, default=64)
    options.add_argument("--rounds", type=int, default=4)
    options.add_argument("--json", type=Path)
    asked = options.parse_args(arguments)
    others = OthersCpu()
    with contextlib.ExitStack() as stack:
        turns = {server.name: turn_of(server) for server in started(stack, asked)}
        if asked.transformers:
            turns["transformers generate bfloat16"] = generating(asked.model)
        found = measured(turns, asked.streams, asked.tokens, asked.rounds)
    report(found, others.cores())
    if asked.json:
        asked.json.write_text(json.dumps(written(found, asked), indent=2) + "\n", "utf-8")
    return 0


Turn = Callable[[int, int, int], Round]  # streams, tokens of each answer, number of the round


def turn_of(server: Server) -> Turn:
    """A round of one server."""

    def turn(streams: int, tokens: int, number: int) -> Round:
        with server.turn():
            return asyncio.run(ask(server, streams, tokens, number))

    return turn


def generating(model: str) -> Turn:
    """A round of transformers' generate."""
    from serving_generate import Generate  # imports torch

    generate = Generate(Path(model))

    def turn(streams: int, tokens: int, number: int) -> Round:
        took = generate([prompt(one, number) for one in range(streams)], tokens)
        return Round(streams * tokens, took, took)

    return turn


def measured(turns: dict[str, Turn], streams: Sequence[int], tokens: int, rounds: int) -> Found:
    """Every server with every number of streams, in turns; the first round warms up."""
    turns = {name: turn for name, turn in turns.items() if can(name, turn, tokens)}
    found: Found = {(name, count): [] for count in streams for name in turns}
    for number in range(rounds + 1):
        order = list(turns.items())[:: -1 if number % 2 else 1]
        for count in streams:
            for name, turn in order:
                one = turn(count, tokens, number)
                if number:
                    found[name, count].append(one)
    return found


def can(name: str, turn: Turn, tokens: int) -> bool:
    """Whether it answers at all; one that does not is named, and the others are measured."""
    try:
        return turn(1, tokens, -1).tokens > 0
    except (RuntimeError, httpx.HTTPError) as error:
        print(f"{name} takes no part: {type(error).__name__}: {error}")
        return False


async def ask(server: Server, streams: int, tokens: int, number: int) -> Round:
    """As many answers at a time as there are streams, each to a prompt of its own."""
    limits = httpx.Limits(max_connections=None)
    headers = {"authorization": f"Bearer {server.key}"}
    async with httpx.AsyncClient(
        headers=headers, timeout=PATIENCE, limits=limits, trust_env=False
    ) as client:
        before = time.perf_counter()
        told = await asyncio.gather(
            *(answer(client, server, prompt(one, number), tokens) for one in range(streams))
        )
        took = time.perf_counter() - before
    return Round(sum(made for made, _ in told), took, median(first for _, first in told))


def prompt(stream: int, number: int) -> str:
    """What stream `stream` asks in round `number`: nothing that was read before."""
    topic = TOPICS[stream % len(TOPICS)]
    return f"Round {number}. Write a very long story about {topic}. Describe every detail. " * 2


async def answer(
    client: httpx.AsyncClient, server: Server, text: str, tokens: int
) -> tuple[int, float]:
    """Tokens of one streamed answer, and seconds to its first piece."""
    body = {
        "model": server.model,
        "messages": [{"role": "user", "content": text}],
        "max_tokens": tokens,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
        **server.more,
    }
    before, first, pieces, usage = time.perf_counter(), 0.0, 0, 0
    async with client.stream("POST", f"{server.url}/chat/completions", json=body) as response:
        if response.status_code != 200:
            said = (await response.aread()).decode(errors="replace")
            raise RuntimeError(f"{server.name} answered {response.status_code}: {said[:500]}")
        async for line in response.aiter_lines():
            if not line.startswith("data: {"):
                continue
            event = json.loads(line[6:])
            usage = (event.get("usage") or {}).get("completion_tokens") or usage
            if any((c.get("delta") or {}).get("content") for c in event.get("choices") or []):
                first = first or time.perf_counter() - before
                pieces += 1
    return usage or pieces, first


def report(found: Found, others: float) -> None:
    """The table, then the ratios of neighbours."""
    print(f"{'server':<38}{'streams':>8}  {'tokens/s':<26}{'first piece, s'}")
    for (name, streams), rounds in found.items():
        speeds = spread([one.speed for one in rounds], 1)
        firsts = spread([one.first for one in rounds], 3)
        print(f"{name:<38}{streams:>8}  {speeds:<26}{firsts}")
    for line, ratios in compared(found).items():
        print(f"{line:<72}{spread(ratios, 2)}")
    print(f"others kept {others:.2f} cores busy (the servers are others here)")


def compared(found: Found) -> dict[str, list[float]]:
    """Speeds through the gateway beside bare, and bare beside each other program, by round."""
    lines: dict[str, list[float]] = {}
    for (name, streams), rounds in found.items():
        if not name.endswith(", bare"):
            continue
        ours = name.removesuffix(", bare")
        gateway = [(f"{ours}, gateway", streams)]
        peers = [key for key in found if ", " not in key[0] and key[1] == streams]
        for key in gateway:
            lines[f"{streams} streams: {key[0]} / bare"] = ratios(found[key], rounds)
        for key in peers:
            lines[f"{streams} streams: {ours} / {key[0]}"] = ratios(rounds, found[key])
    return lines


def ratios(these: Sequence[Round], those: Sequence[Round]) -> list[float]:
    """Of the speeds of the same rounds."""
    return [this.speed / that.speed for this, that in zip(these, those, strict=True)]


def written(found: Found, asked: argparse.Namespace) -> dict[str, Any]:
    """Every number."""
    rows = [
        {
            "server": name,
            "streams": streams,
            "tokens": [one.tokens for one in rounds],
            "tokens_per_s": [round(one.speed, 1) for one in rounds],
            "first_piece_s": [round(one.first, 4) for one in rounds],
        }
        for (name, streams), rounds in found.items()
    ]
    return {
        "machine": machine(),
        "versions": versions(),
        "model": Path(asked.model).name,
        "max_tokens": asked.tokens,
        "rows": rows,
        "ratios": {name: [round(one, 3) for one in each] for name, each in compared(found).items()},
    }
