"""What every engine behind a replica promises: token ids in, token ids out.

Rendering, detokenising, stop texts, finish reasons and usage are the replica's, once for all
engines (`finery.inference.answering`), so that they can differ in speed and rounding alone.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any, Protocol

from finery.errors import FineryError


class EngineLostError(FineryError):
    """The engine ended under an answer, or had ended before it; a replica starts again."""


@dataclass(frozen=True)
class Generation:
    """One answer that is wanted, as token ids."""

    prompt: tuple[int, ...]
    max_new_tokens: int  # at least 1; prompt and answer fit the engine's context
    stop_ids: tuple[int, ...] = ()  # the first of them ends the answer and is its last token
    temperature: float = 0.0  # 0 is greedy
    top_p: float = 1.0
    top_k: int = 0  # 0 is all tokens
    seed: int = 0
    frequency_penalty: float = 0.0  # OpenAI's: subtracted per occurrence in the answer so far
    presence_penalty: float = 0.0
    logprobs: int | None = None  # None: none; n: of the token made and of the n likeliest
    schema: dict[str, Any] | None = None  # a JSON schema that the answer's text must satisfy
    adapter: str = ""  # "" is the model itself


@dataclass(frozen=True)
class Token:
    """One token of an answer.

    Log-probabilities are of the model's own distribution at temperature 1, before penalties
    and filters, as OpenAI's are.
    """

    id: int
    logprob: float | None = None
    likeliest: tuple[tuple[int, float], ...] = ()


class Engine(Protocol):
    """A loaded model. Methods are called on one event loop; the work happens elsewhere."""

    name: str  # torch, openvino, vllm
    precision: str  # what its weights are held in: float32, bfloat16, int8, …
    context: int  # the most tokens of prompt and answer together
    features: frozenset[str]  # of logprobs, schema, penalties, adapters: what it can do

    def generate(self, wanted: Generation) -> AsyncGenerator[Token, None]:
        """The tokens as they are made; closing it ends the work at the next token.

        Raises FineryError for what the engine cannot do, before the first token, and
        EngineLostError when the engine ended under it.
        """
        ...

    def health(self) -> str:
        """Why it cannot answer any more; "" while it can."""
        ...

    async def close(self) -> None:
        """End it and everything it started."""
        ...
