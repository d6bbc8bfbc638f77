"""An engine without a model: it says a given text at a given speed.

For load tests, and for measuring what a gateway costs. A source such as
`stub:text=Hello&rate=50&first=0.05` chooses it; `auto` never does.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from finery.chat.render import Renderer, load_renderer, make_renderer
from finery.errors import FineryError
from finery.inference.engine import Generation, Token

PREFIX = "stub:"
_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@dataclass(frozen=True)
class StubSettings:
    """What a stub does, as its source says."""

    text: str = "The quick brown fox jumps over the lazy dog."
    rate: float = 0.0  # tokens a second; 0 is as fast as the loop goes
    first: float = 0.0  # seconds before the first token
    load: float = 0.0  # seconds that starting takes
    fail: float = 0.0  # share of the answers that end in an error before their first token
    context: int = 4096
    seed: int = 0  # of which answers fail
    renderer: str = ""  # a model folder whose tokenizer and template it has; else its own
    note: str = ""  # a file: a line with the prompt of every answer whose first token was taken


def stub_settings(source: str) -> StubSettings:
    """The settings of `stub:name=value&…`; raises FineryError for others."""
    kinds = {one.name: type(one.default) for one in fields(StubSettings)}
    given: dict[str, Any] = {}
    for name, value in parse_qsl(source.removeprefix(PREFIX), keep_blank_values=True):
        if name not in kinds:
            raise FineryError(f"A stub has no {name!r}. It has: {', '.join(kinds)}.")
        try:
            given[name] = kinds[name](value)
        except ValueError:
            raise FineryError(f"The stub's {name} is {value!r}, which is no number.") from None
    return StubSettings(**given)


def stub_renderer() -> Renderer:
    """ChatML over single bytes."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: n for n, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|pad|>", "<|im_start|>", "<|im_end|>"])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",  # noqa: S106
        pad_token="<|pad|>",  # noqa: S106
        chat_template=_TEMPLATE,
    )
    return make_renderer(fast, PREFIX)


class StubEngine:
    """Every answer is the same text; an adapter's begins with its name."""

    name = "stub"
    precision = "none"
    features = frozenset({"logprobs", "penalties", "adapters"})

    def __init__(self, settings: StubSettings, renderer: Renderer) -> None:
        self.settings = settings
        self.context = settings.context
        self.adapters: dict[str, list[int]] = {"": []}
        self._tokenizer = renderer.tokenizer
        self._text = self._ids(settings.text)
        self._luck = random.Random(settings.seed)  # noqa: S311

    async def generate(self, wanted: Generation) -> AsyncGenerator[Token, None]:
        """The text, then the first of the stop ids; without one, the text again and again."""
        if self._luck.random() < self.settings.fail:
            raise RuntimeError("the stub fails this answer, as it was asked to")
        ids = itertools.chain(self.adapters[wanted.adapter], self._text)
        ids = itertools.chain(ids, wanted.stop_ids[-1:] or itertools.cycle(self._text))
        start = time.perf_counter() + self.settings.first
        for number, token in zip(range(wanted.max_new_tokens), ids, strict=False):
            due = start + number / self.settings.rate if self.settings.rate else start
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            if wanted.logprobs is None:
                yield Token(token)
            else:
                yield Token(token, 0.0, ((token, 0.0),) * min(1, wanted.logprobs))
            if number == 0 and self.settings.note:
                self._note(wanted.prompt)

    async def add_adapter(self, name: str, folder: Path) -> None:
        """Answers of this adapter begin with its name."""
        self.adapters[name] = self._ids(f"[{name}] ")

    async def remove_adapter(self, name: str) -> None:
        """Forget it."""
        del self.adapters[name]

    def health(self) -> str:
        """Nothing can happen to it."""
        return ""

    async def close(self) -> None:
        """Nothing was started."""

    def _note(self, prompt: tuple[int, ...]) -> None:
        """In one write, which replicas that share the file do not tear apart."""
        line = json.dumps(self._tokenizer.decode(list(prompt))) + "\n"
        with Path(self.settings.note).open("a", encoding="utf-8") as file:
            file.write(line)

    def _ids(self, text: str) -> list[int]:
        return self._tokenizer(text, add_special_tokens=False)["input_ids"]  # pyright: ignore[reportReturnType]


def open_stub(source: str) -> tuple[StubEngine, Renderer, str]:
    """The stub that a source describes, its renderer, and where that is from.

    It comes once its loading time has passed.
    """
    settings = stub_settings(source)
    place = settings.renderer or PREFIX
    renderer = open_renderer(place)
    time.sleep(settings.load)
    return StubEngine(settings, renderer), renderer, place


def open_renderer(place: str) -> Renderer:
    """The stub's own renderer, or that of a model folder."""
    return stub_renderer() if place == PREFIX else load_renderer(Path(place))
