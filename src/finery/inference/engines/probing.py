"""How fast engines answer with a model on this machine: what `auto` chooses by.

Engines that are open at the same time take turns, so that a busy machine slows all alike, and the
best of their turns counts. A result is kept by what it depends on: the model, the engines'
versions, the machine.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import logging
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, aclosing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finery import __version__
from finery.errors import FineryError, first_line
from finery.files import home, read_json, sha256_json, write_json
from finery.inference.engine import Engine, Generation
from finery.inference.engines.merging import CACHE, only_one, source_hash

if TYPE_CHECKING:
    from finery.inference.engines.environments import Environment
    from finery.inference.open import Located

NEW_TOKENS = 24  # of each answer
TURNS = 2
SECONDS = 2.0  # most of one turn with one number of streams; what was made by then counts
BUDGET = 12.0  # seconds from the first engine's opening after which no other turn begins
# Weights above this take longer to load than a start may be delayed by a comparison.
LARGEST = 10**9  # bytes
_FORMAT = 1  # of the file; part of its name's hash
log = logging.getLogger("finery.replica")


@dataclass(frozen=True)
class Speed:
    """Greedy tokens a second, prompts included in the time."""

    one: float  # of one answer alone
    many: float  # of `streams` answers at the same time, together
    streams: int

    @property
    def score(self) -> float:
        """What engines are compared by: both count alike (their geometric mean)."""
        return (self.one * self.many) ** 0.5


@dataclass(frozen=True)
class Contest:
    """What a comparison found; engines in `opened` were opened for it and are the caller's."""

    found: dict[str, Speed] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    opened: dict[str, Engine] = field(default_factory=dict)

    def rank(self, name: str) -> float:
        """What engines are tried by, the least first: not in the contest, fastest, failed."""
        if name in self.failed:
            return 1.0
        return -self.found[name].score if name in self.found else float("-inf")

    async def close(self) -> None:
        """Close the engines that nobody took."""
        while self.opened:
            _, engine = self.opened.popitem()
            await engine.close()


async def contest(
    openers: Mapping[str, Callable[[], Engine]],
    path: Path,
    prompts: Sequence[tuple[int, ...]],
    streams: int,
) -> Contest:
    """The comparison that `path` keeps, or one made now, by one replica at a time.

    Nothing is kept where one of them failed: what kept it from answering may be over next time.
    """
    result = Contest()
    with ExitStack() as stack:
        await asyncio.to_thread(stack.enter_context, only_one(path))
        if (known := kept(path)).keys() == openers.keys():
            return Contest(known)
        start = 0.0
        for name, opener in openers.items():
            try:
                result.opened[name] = await asyncio.to_thread(opener)
            except FineryError as error:
                result.failed[name] = first_line(error)
            start = start or time.perf_counter()  # one had to be opened anyway
        if len(result.opened) > 1:
            found, failed = await compare(result.opened, prompts, streams, start + BUDGET)
            result.found.update(found)
            result.failed.update(failed)
            log.info("engines were compared in %.1f s, once", time.perf_counter() - start)
        if result.found and not result.failed:
            keep(path, result.found)
    for name, reason in result.failed.items():
        log.info("engine %s is passed over: %s", name, reason)
    return result


async def compare(
    engines: Mapping[str, Engine],
    prompts: Sequence[tuple[int, ...]],
    streams: int,
    end: float = float("inf"),
) -> tuple[dict[str, Speed], dict[str, str]]:
    """The speed of each engine, and why those have none that failed.

    The first turn warms up, and counts where no other could begin before `end`.
    """
    found: dict[str, Speed] = {}
    failed: dict[str, str] = {}
    for turn in range(TURNS + 1):
        if turn and time.perf_counter() > end:
            break
        for name, engine in engines.items():
            if name in failed:
                continue
            try:
                one = await speed(engine, prompts[:1], 1)
                many = await speed(engine, prompts, streams)
            except FineryError as error:
                failed[name] = f"its speed could not be measured: {first_line(error)}"
                found.pop(name, None)
                continue
            if turn > 1:
                one, many = max(one, found[name].one), max(many, found[name].many)
            found[name] = Speed(one, many, streams)
    return found, failed


async def speed(engine: Engine, prompts: Sequence[tuple[int, ...]], streams: int) -> float:
    """Tokens a second of `streams` answers at the same time; raises FineryError for none."""
    start = time.perf_counter()
    asked = [prompts[number % len(prompts)] for number in range(streams)]
    counts = await asyncio.gather(*(_made(engine, prompt, start + SECONDS) for prompt in asked))
    if not sum(counts):
        raise FineryError(f"The {engine.name} engine made no token.")
    return round(sum(counts) / (time.perf_counter() - start), 1)


async def _made(engine: Engine, prompt: tuple[int, ...], end: float) -> int:
    """How many tokens of an answer were made; it is left at `end`, after its next token."""
    made = 0
    wanted = Generation(prompt, max(1, min(NEW_TOKENS, engine.context - len(prompt))))
    async with aclosing(engine.generate(wanted)) as tokens:
        async for _ in tokens:
            made += 1
            if time.perf_counter() > end:
                break
    return made


def is_small(model: Path) -> bool:
    """Whether several engines may hold the model at once, and load it within seconds."""
    return sum(path.stat().st_size for path in model.glob("*.safetensors")) <= LARGEST


def place_of(
    located: Located, environments: Mapping[str, Environment | None], streams: int
) -> Path:
    """The file of a comparison; `None` stands for the engine that is part of finery."""
    packages = {
        name: [__version__, importlib.metadata.version("torch")] if one is None else one.packages
        for name, one in environments.items()
    }
    facts = [_FORMAT, source_hash(located), packages, _machine(), streams]
    return home() / CACHE / "speeds" / f"{sha256_json(facts)}.json"


def kept(path: Path) -> dict[str, Speed]:
    """What an earlier comparison found; nothing when there was none or its file is damaged."""
    if not path.is_file():
        return {}
    try:
        return {name: Speed(**one) for name, one in read_json(path)["engines"].items()}
    except (FineryError, AttributeError, KeyError, TypeError):
        return {}


def keep(path: Path, found: Mapping[str, Speed]) -> None:
    """Write a comparison down."""
    write_json(path, {"engines": {name: asdict(one) for name, one in found.items()}})


def told(chosen: str, found: Mapping[str, Speed]) -> str:
    """The comparison in a few words, the chosen one first."""
    names = [chosen, *sorted(found.keys() - {chosen})]
    parts = [f"{name} {found[name].many:.0f} and {found[name].one:.0f}" for name in names]
    return f"tokens/s at {found[chosen].streams} streams and at one: {', '.join(parts)}"


def _machine() -> list[Any]:
    """What a speed depends on that is not the engine's."""
    model = ""
    if (info := Path("/proc/cpuinfo")).is_file():
        lines = info.read_text(encoding="utf-8", errors="replace").splitlines()
        model = next((line for line in lines if line.startswith("model name")), "")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return [platform.machine(), model, cores, os.environ.get("OMP_NUM_THREADS", "")]
