"""What one replica holds while it answers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finery.inference.answering import Limits
from finery.inference.detokenizing import Words
from finery.inference.engine import Engine
from finery.inference.protocol.refusals import refused
from finery.inference.server_metrics import Metrics
from finery.inference.server_readers import Reader

if TYPE_CHECKING:
    from finery.chat.render import Renderer
    from finery.inference.open import Located


@dataclass(frozen=True)
class Voice:
    """How one model's text is read and written: the base's, or an adapter's own."""

    renderer: str  # the folder, for the readers
    words: Words
    limits: Limits


def make_voice(place: str, renderer: Renderer, engine: Engine, stops: tuple[int, ...]) -> Voice:
    """The voice of a renderer on an engine; `stops` end its answers."""
    limits = Limits(engine.context, engine.features, stops, engine.name)
    return Voice(place, Words(renderer), limits)


@dataclass
class Replica:
    """The engine, its voices, and how it stands."""

    name: str  # what it calls its model
    engine: Engine
    reader: Reader
    base: Voice
    key: str = ""  # every request must bear it
    adapters: dict[str, Voice] = field(default_factory=dict)
    metrics: Metrics = field(default_factory=Metrics)
    since: int = field(default_factory=lambda: int(time.time()))
    draining: bool = False
    facts: Mapping[str, Any] = field(default_factory=dict)  # what /info tells beside the rest
    located: Located | None = None  # the model, when an adapter of it has to be proved
    changing: asyncio.Lock = field(default_factory=asyncio.Lock)  # of its adapters

    def __post_init__(self) -> None:
        self.generate = self.metrics.measured(self.engine.generate)

    def fault(self) -> str:
        """Why it takes no requests; "" while it does."""
        return "it is being stopped" if self.draining else self.engine.health()

    def voice(self, adapter: str) -> Voice:
        """The voice of an adapter, or of the base; raises RefusedError for one not here."""
        if not adapter:
            return self.base
        if adapter not in self.adapters:
            known = ", ".join(sorted(self.adapters)) or "none"
            text = f"No adapter is called {adapter[:100]!r} here. There is: {known}."
            raise refused(text, status=404, code="model_not_found", param="model")
        return self.adapters[adapter]

    def voice_of(self, folder: Path) -> Voice:
        """The voice of an adapter folder: the base's, unless it has a renderer of its own.

        Raises FineryError when its golden ids do not hold.
        """
        from finery.chat.golden import GOLDEN_FILE
        from finery.chat.render import load_renderer

        if not (folder / GOLDEN_FILE).is_file():
            return self.base
        renderer = load_renderer(folder)
        if renderer.fingerprint == self.base.words.renderer.fingerprint:
            return self.base
        stops = tuple(sorted({*self.base.limits.stop_ids, *renderer.stop_ids}))
        limits = replace(self.base.limits, stop_ids=stops)
        return Voice(str(folder), Words(renderer), limits)
