"""Azure ML's scoring bodies, as the servers of its walkthrough and its base models take them.

A chat body has `input_string`, one conversation or a list of them; a text generation body has
a list of prompts in its place. Parameters stand inside (`parameters`) or beside (`params`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from finery.chat.data_row import kind
from finery.errors import Fault, InputError
from finery.inference.protocol.asks import (
    FLAG,
    MOST_ANSWERS,
    SAMPLING,
    Ask,
    Asked,
    Parameter,
    make_ask,
    read_messages,
    read_settings,
    refuse_all,
    whole,
)

EXAMPLE = (
    '{"input_data": {"input_string": [{"role": "user", "content": "Hello"}], '
    '"parameters": {"temperature": 0.6, "top_p": 0.9, "do_sample": true, "max_new_tokens": 200}}}'
)
NEW_TOKENS = 256  # of a body that says nothing

_LENGTH = whole(1, "max_new_tokens")
SCORE: dict[str, Parameter] = {
    **SAMPLING,
    "max_new_tokens": _LENGTH,
    "max_gen_len": _LENGTH,
    "max_tokens": _LENGTH,
    "do_sample": (FLAG[0], FLAG[1], "do_sample"),
    "return_full_text": (lambda v: v is False, "false: an answer alone is returned", ""),
}


def read_score(body: Any) -> Asked:
    """The asks of a scoring body.

    An answer is made to the last user turn: assistant turns after it are left out, as Azure's
    own model server does. Raises InputError, with an example, for anything else.
    """
    data = body.get("input_data") if isinstance(body, dict) else None
    inside = data if isinstance(data, dict) else {}
    texts = isinstance(data, list)
    value = data if texts else inside.get("input_string")
    if not isinstance(value, list) or not value:
        found = "something else" if data is not None else "no input_data"
        expected = f"a chat body such as {EXAMPLE}"
        raise InputError([Fault("body", found, expected)], "request")
    given, faults = _parameters(body, inside)
    settings, wrong = read_settings(given, SCORE, "parameters")
    whats, form, odd = _prompts(value) if texts else _conversations(value)
    if len(whats) > MOST_ANSWERS:
        found = f"{len(whats)} of them"
        odd.append(Fault("input_data", found, f"at most {MOST_ANSWERS} answers to a request"))
    refuse_all([*faults, *wrong, *odd])
    return Asked(tuple(_ask(settings, what) for what in whats), form=form)


def _ask(settings: Mapping[str, Any], what: Mapping[str, Any]) -> Ask:
    own = dict(settings)
    sampled = own.pop("do_sample", bool(own.keys() & {"temperature", "top_p", "top_k"}))
    own = {"temperature": 1.0, "max_new_tokens": NEW_TOKENS, **own}
    if not sampled:
        own["temperature"] = 0.0
    return make_ask(own, **what)


def _conversations(value: list[Any]) -> tuple[list[dict[str, Any]], str, list[Fault]]:
    place = "input_data.input_string"
    many = isinstance(value[0], list)
    given = [(f"{place}[{n}]", turns) for n, turns in enumerate(value)] if many else []
    read = [
        read_messages(_until_last_user(turns), where) for where, turns in given or [(place, value)]
    ]
    faults = [fault for _, wrong in read for fault in wrong]
    return [{"messages": messages} for messages, _ in read], "many" if many else "one", faults


def _prompts(value: list[Any]) -> tuple[list[dict[str, Any]], str, list[Fault]]:
    faults = [
        Fault(f"input_data[{index}]", kind(text), "a prompt: some text")
        for index, text in enumerate(value)
        if not isinstance(text, str) or not text
    ]
    return [{"prompt": text} for text in value], "texts", faults


def _parameters(
    body: Mapping[str, Any], data: Mapping[str, Any]
) -> tuple[dict[str, Any], list[Fault]]:
    """`input_data.parameters`, then `params`: two places in which clients put them."""
    places = (("input_data.parameters", data.get("parameters")), ("params", body.get("params")))
    faults = [
        Fault(place, kind(value), "an object of parameters")
        for place, value in places
        if value is not None and not isinstance(value, dict)
    ]
    known = (("input_data.", data, ("input_string", "parameters")),)
    known += (("body.", body, ("input_data", "params")),)
    faults += [
        Fault(f"{place}{key[:100]}", "a key that is not known", ", ".join(keys))
        for place, given, keys in known
        for key in given
        if key not in keys
    ]
    if faults:
        return {}, faults
    return {**(places[0][1] or {}), **(places[1][1] or {})}, []


def _until_last_user(turns: Any) -> Any:
    """The turns without the assistant's at the end."""
    kept = list(turns) if isinstance(turns, list) else turns
    while kept and isinstance(kept[-1], dict) and kept[-1].get("role") == "assistant":
        kept.pop()
    return kept
