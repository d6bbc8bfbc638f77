"""Bodies of Azure AI's model inference API: `/chat/completions` and `/completions`.

https://learn.microsoft.com/rest/api/aifoundry/modelinference: its own defaults and bounds, and a
header that says what happens to parameters that it does not define.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from finery.errors import InputError
from finery.inference.protocol import openai_asks
from finery.inference.protocol.asks import (
    ANY,
    Asked,
    Parameters,
    between,
    must_be_object,
    read_settings,
    refuse_all,
    whole,
)
from finery.inference.protocol.refusals import RefusedError, refusal_of, refused

EXTRA = "extra-parameters"
DEFAULTS = {"temperature": 0.7, "top_p": 1.0, "max_new_tokens": 256}

_SHARED = {
    "temperature": between(0, 1, ""),
    "top_p": between(0, 1, ""),
    "max_tokens": whole(0, ""),
    **dict.fromkeys(("model", "frequency_penalty", "presence_penalty", "seed", "stop"), ANY),
    "stream": ANY,
}
CHAT = {**_SHARED, **dict.fromkeys(("messages", "response_format", "tools", "tool_choice"), ANY)}
COMPLETION = {**_SHARED, "prompt": ANY}


def read_chat(body: Any, headers: Mapping[str, str]) -> Asked:
    """A chat request; raises RefusedError, with 422 for a body that breaks the rules."""
    return _read(body, headers, CHAT, openai_asks.CHAT, openai_asks.read_chat)


def read_completion(body: Any, headers: Mapping[str, str]) -> Asked:
    """A completion request; raises as `read_chat`."""
    return _read(body, headers, COMPLETION, openai_asks.COMPLETION, openai_asks.read_completion)


def _read(
    body: Any, headers: Mapping[str, str], known: Parameters, wider: Parameters, read: Any
) -> Asked:
    try:
        body = must_be_object(body)
        kept = _without_extras(body, headers.get(EXTRA, "error"), known, wider)
        refuse_all(read_settings({k: v for k, v in kept.items() if k in known}, known, "body")[1])
        return _asked(kept, read)
    except InputError as error:
        raise RefusedError(replace(refusal_of(error), status=422)) from None


def _asked(body: dict[str, Any], read: Any) -> Asked:
    """The body as OpenAI's, where no nucleus is of no mass and no answer of no token."""
    changed = dict(body)
    nothing = changed.get("max_tokens") == 0
    if nothing:
        changed["max_tokens"] = 1
    if changed.get("top_p") == 0:
        changed["top_p"] = 1e-6  # the likeliest token alone
    asked: Asked = read(changed, **DEFAULTS)
    if nothing:
        asked = replace(asked, asks=tuple(replace(ask, max_new_tokens=0) for ask in asked.asks))
    return replace(asked, usage=True)  # in the last event of every stream


def _without_extras(
    body: dict[str, Any], mode: str, known: Parameters, wider: Parameters
) -> dict[str, Any]:
    if mode not in ("error", "drop", "pass-through"):
        text = f"The header {EXTRA} is {mode[:40]!r}. Use error, drop or pass-through."
        raise refused(text, param=EXTRA, code="unknown_header_value")
    extras = [name for name in body if name not in known]
    if mode == "drop":
        return {name: value for name, value in body.items() if name in known}
    unknown = extras if mode == "error" else [name for name in extras if name not in wider]
    if unknown:
        shown = ", ".join(name[:100] for name in unknown)
        text = f"The body has parameters that are not defined: {shown}. "
        if mode == "error":
            text += f"Take them out, or send the header {EXTRA}: drop or pass-through."
        else:
            text += "The model has no such parameter: take them out."
        raise refused(text, param=unknown[0][:100], code="unknown_parameter")
    return body
