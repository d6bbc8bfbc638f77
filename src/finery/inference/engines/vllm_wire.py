"""What is said between us and vLLM's server: /v1/completions, with token ids both ways.

The fields beside OpenAI's are vLLM's own; see its documentation of the completions API
(`return_token_ids`, `return_tokens_as_token_ids`, `stop_token_ids`, `structured_outputs`).
"""

from __future__ import annotations

import json
from typing import Any

from finery.inference.engine import Generation, Token

MODEL = "model"  # what the server calls the model itself
_ID = "token_id:"  # how it writes a token as its id


def request_of(wanted: Generation) -> dict[str, Any]:
    """The body that asks for an answer as a stream."""
    body: dict[str, Any] = {
        "model": wanted.adapter or MODEL,
        "prompt": list(wanted.prompt),
        "add_special_tokens": False,
        "max_tokens": wanted.max_new_tokens,
        # The model's own end ids end nothing: those of the request are all there are.
        "ignore_eos": True,
        "stop_token_ids": list(wanted.stop_ids),
        "temperature": wanted.temperature,
        "top_p": wanted.top_p,
        "top_k": wanted.top_k,
        "seed": wanted.seed,
        "frequency_penalty": wanted.frequency_penalty,
        "presence_penalty": wanted.presence_penalty,
        "repetition_penalty": 1.0,
        "min_p": 0.0,
        "stream": True,
        "return_token_ids": True,
    }
    if wanted.logprobs is not None:
        body |= {"logprobs": wanted.logprobs, "return_tokens_as_token_ids": True}
    if wanted.schema is not None:
        body["structured_outputs"] = {"json": wanted.schema}
    return body


def tokens_of(data: str, likeliest: int) -> list[Token]:
    """The tokens in one event of the stream, with the `likeliest` of each where they were asked.

    Raises ValueError with the server's message when the event says that the answer broke off.
    """
    value = json.loads(data)
    if "error" in value:
        raise ValueError(str(value["error"].get("message") or value["error"]))
    tokens: list[Token] = []
    for choice in value.get("choices", ()):
        ids = choice.get("token_ids") or []
        scores = choice.get("logprobs")
        if not scores:
            tokens += [Token(one) for one in ids]
            continue
        measured = zip(ids, scores["token_logprobs"], scores["top_logprobs"], strict=True)
        for one, logprob, top in measured:
            # It adds the token that was made, where that is none of the likeliest.
            pairs = sorted(((_id(t), p) for t, p in (top or {}).items()), key=lambda pair: -pair[1])
            tokens.append(Token(one, logprob, tuple(pairs[:likeliest])))
    return tokens


def _id(token: str) -> int:
    return int(token.removeprefix(_ID))
