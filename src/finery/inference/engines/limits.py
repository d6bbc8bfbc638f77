"""What no engine can answer, told before its first token and in the same words for all."""

from __future__ import annotations

from finery.errors import FineryError
from finery.inference.engine import Engine, Generation


def refuse_unfit(engine: Engine, wanted: Generation) -> None:
    """Raise FineryError when `wanted` is no answer that `engine` can make."""
    if not wanted.prompt or wanted.max_new_tokens < 1:
        raise FineryError("An answer needs a prompt of one token or more, and room for one new.")
    total = len(wanted.prompt) + wanted.max_new_tokens
    if total > engine.context:
        raise FineryError(
            f"The prompt has {len(wanted.prompt)} tokens and {wanted.max_new_tokens} new ones are "
            f"wanted, {total} together; the context holds {engine.context}. "
            "Shorten the prompt or ask for fewer."
        )
    if missing := sorted(asked_features(wanted) - engine.features):
        raise FineryError(
            f"The {engine.name} engine has no {' and no '.join(missing)}. "
            "Deploy the model with --engine torch for it, or leave it out."
        )


def asked_features(wanted: Generation) -> frozenset[str]:
    """Which of an engine's features this answer needs."""
    asked = {
        "logprobs": wanted.logprobs is not None,
        "schema": wanted.schema is not None,
        "penalties": bool(wanted.frequency_penalty or wanted.presence_penalty),
        "adapters": bool(wanted.adapter),
    }
    return frozenset(name for name, is_asked in asked.items() if is_asked)
