"""Replicas for tests: a scripted engine, or any other, behind the real app."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable
from pathlib import Path
from typing import Any

from finery.chat.render import Renderer
from finery.inference.engine import Engine, Generation, Token
from finery.inference.engines.stub import stub_renderer
from finery.inference.server_app import create_app
from finery.inference.server_gate import Gate
from finery.inference.server_readers import OwnReader
from finery.inference.server_state import Replica, make_voice

ALL = frozenset({"logprobs", "schema", "penalties", "adapters"})
END = "<|im_end|>"


class Scripted:
    """Says the ids of given texts, one text after the other, and remembers what was wanted."""

    name = "scripted"
    precision = "none"

    def __init__(
        self,
        renderer: Renderer,
        *texts: str | Iterable[int],
        context: int = 512,
        features: frozenset[str] = ALL,
        pause: float = 0.0,
        error: Exception | None = None,
        after: int = 0,
    ) -> None:
        self.texts = [text if isinstance(text, str) else list(text) for text in texts]
        self.renderer = renderer
        self.context = context
        self.features = features
        self.pause = pause
        self.error = error  # raised after so many tokens
        self.after = after
        self.wanted: list[Generation] = []
        self.made = 0
        self.closed = 0
        self.fault = ""
        self.adapters: dict[str, Path] = {}

    def ids(self, text: str | list[int]) -> list[int]:
        tokenizer: Any = self.renderer.tokenizer
        return (
            text if isinstance(text, list) else tokenizer(text, add_special_tokens=False).input_ids
        )

    async def generate(self, wanted: Generation) -> AsyncGenerator[Token, None]:
        self.wanted.append(wanted)
        text = self.texts[(len(self.wanted) - 1) % len(self.texts)]
        try:
            for number, token in enumerate(self.ids(text)[: wanted.max_new_tokens]):
                if self.error is not None and number == self.after:
                    raise self.error
                await asyncio.sleep(self.pause)
                self.made += 1
                likeliest = ((token, -0.5), (0, -1.5))[: wanted.logprobs or 0]
                yield Token(token, None if wanted.logprobs is None else -0.5, likeliest)
                if token in wanted.stop_ids:
                    return
        finally:
            self.closed += 1

    async def add_adapter(self, name: str, folder: Path) -> None:
        self.adapters[name] = folder

    async def remove_adapter(self, name: str) -> None:
        del self.adapters[name]

    def health(self) -> str:
        return self.fault

    async def close(self) -> None:
        """Nothing to end."""


def replica_of(engine: Engine, renderer: Renderer, key: str = "", name: str = "demo") -> Replica:
    """A replica that reads requests in this process."""
    voice = make_voice("", renderer, engine, renderer.stop_ids)
    return Replica(name, engine, OwnReader(renderer), voice, key)


def app_of(engine: Engine, renderer: Renderer, key: str = "") -> Gate:
    """Its app."""
    return create_app(replica_of(engine, renderer, key))


def scripted(*texts: str | Iterable[int], **settings: Any) -> Scripted:
    """A scripted engine over single bytes."""
    return Scripted(stub_renderer(), *texts, **settings)
