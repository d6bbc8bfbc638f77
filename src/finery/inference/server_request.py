"""What a client asks of a replica: Azure's scoring body and OpenAI's chat body as one `Ask`.

Whatever would change the answer and is not known here is refused, never left out in silence.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from finery.chat.data_row import kind
from finery.chat.roles import normal_messages, normal_tools
from finery.errors import Fault, InputError, did_you_mean

EXAMPLE = (
    '{"input_data": {"input_string": [{"role": "user", "content": "Hello"}], '
    '"parameters": {"temperature": 0.6, "top_p": 0.9, "do_sample": true, "max_new_tokens": 200}}}'
)
SCORE_NEW_TOKENS = 256  # of a scoring body that says nothing


# Whether a value is taken, what is expected, the parameter's name here ("": none).
Parameter = tuple[Callable[[Any], bool], str, str]


@dataclass(frozen=True)
class Ask:
    """One answer that is wanted."""

    messages: tuple[dict[str, Any], ...]
    max_new_tokens: int | None  # None: as far as the context goes
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0
    stop: tuple[str, ...] = ()
    tools: tuple[dict[str, Any], ...] | None = None


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _texts(value: Any) -> bool:
    return isinstance(value, str) or (
        isinstance(value, list) and all(isinstance(text, str) and text for text in value)
    )


def _only(*values: Any) -> Parameter:
    """A parameter that finery does not have: taken where it says what holds anyway."""

    def fits(given: Any) -> bool:
        return any(
            given == one and isinstance(given, bool) == isinstance(one, bool) for one in values
        )

    return fits, f"{' or '.join(map(repr, values))}: this model server has nothing else", ""


_SAMPLING: dict[str, Parameter] = {
    "temperature": (lambda v: _number(v) and 0 <= v <= 100, "a number from 0", "temperature"),
    "top_p": (lambda v: _number(v) and 0 < v <= 1, "a number above 0, up to 1", "top_p"),
    "top_k": (lambda v: _whole(v) and v >= -1, "a whole number; 0 is all tokens", "top_k"),
    "seed": (_whole, "a whole number", "seed"),
    "stop": (_texts, "a text or a list of texts", "stop"),
}
_LENGTH = (lambda v: _whole(v) and v >= 1, "a whole number from 1", "max_new_tokens")
_FLAG = (lambda v: isinstance(v, bool), "true or false", "")
_SCORE = {
    **_SAMPLING,
    "max_new_tokens": _LENGTH,
    "max_gen_len": _LENGTH,
    "max_tokens": _LENGTH,
    "do_sample": (_FLAG[0], _FLAG[1], "do_sample"),
    "return_full_text": (lambda v: v is False, "false: an answer alone is returned", ""),
}
_ANY = (lambda v: True, "", "")
_CHAT = {
    **_SAMPLING,
    "max_tokens": _LENGTH,
    "max_completion_tokens": _LENGTH,
    **dict.fromkeys(("model", "messages", "tools", "user", "metadata", "store"), _ANY),
    "stream": _FLAG,
    "stream_options": (lambda v: isinstance(v, dict), "an object", ""),
    "n": _only(1),
    "logprobs": _only(False),
    "top_logprobs": _only(0),
    "logit_bias": _only({}),
    "response_format": _only({"type": "text"}),
    "tool_choice": _only("auto"),
    "parallel_tool_calls": _only(True),
    "frequency_penalty": _only(0),
    "presence_penalty": _only(0),
}


def ask_from_chat(body: Any) -> Ask:
    """The body of `/v1/chat/completions`; raises InputError with everything wrong in it."""
    if not isinstance(body, dict):
        raise InputError([Fault("body", kind(body), "a JSON object")], "request")
    settings, faults = _settings(body, _CHAT, "body")
    messages, wrong = _prompt(body.get("messages"), "messages")
    tools, odd = normal_tools(body.get("tools"), "tools")
    if faults := [*faults, *wrong, *odd]:
        raise InputError(faults, "request")
    settings = {"temperature": 1.0, "max_new_tokens": None, **settings}
    return _ask(messages, settings, tools)


def asks_from_score(body: Any) -> tuple[list[Ask], bool]:
    """The asks of an Azure scoring body, and whether `input_string` was a list of conversations.

    `input_string` is one conversation, or a list of them. An answer is made to the last user
    turn: assistant turns after it are left out, as Azure's own model server does. Raises
    InputError, with an example, for anything else.
    """
    data = body.get("input_data") if isinstance(body, dict) else None
    value = data.get("input_string") if isinstance(data, dict) else None
    if not isinstance(data, dict) or not isinstance(value, list) or not value:
        found = "something else" if data is not None else "no input_data"
        expected = f"a chat body such as {EXAMPLE}"
        raise InputError([Fault("body", found, expected)], "request")
    place = "input_data.input_string"
    given, faults = _parameters(body, data)
    settings, wrong = _settings(given, _SCORE, "parameters")
    many = isinstance(value[0], list)
    conversations = (
        [(f"{place}[{n}]", v) for n, v in enumerate(value)] if many else [(place, value)]
    )
    prompts = [_prompt(_until_last_user(turns), where) for where, turns in conversations]
    faults = [*faults, *wrong, *(fault for _, odd in prompts for fault in odd)]
    if faults:
        raise InputError(faults, "request")
    sampled = settings.pop("do_sample", bool(settings.keys() & {"temperature", "top_p", "top_k"}))
    settings = {"temperature": 1.0, "max_new_tokens": SCORE_NEW_TOKENS, **settings}
    if not sampled:
        settings["temperature"] = 0.0
    return [_ask(messages, settings) for messages, _ in prompts], many


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
    strange = [key for key in data if key not in ("input_string", "parameters")]
    faults += [
        Fault(f"input_data.{key}", "a key that is not known", "input_string, parameters")
        for key in strange
    ]
    if faults:
        return {}, faults
    return {**(places[0][1] or {}), **(places[1][1] or {})}, []


def _settings(
    given: Mapping[str, Any],
    known: Mapping[str, tuple[Callable[[Any], bool], str, str]],
    place: str,
) -> tuple[dict[str, Any], list[Fault]]:
    settings, faults = {}, []
    for name, value in given.items():
        if name not in known:
            remedy = did_you_mean(name, known) or "Take it out."
            expected = ", ".join(sorted(known))
            faults.append(Fault(f"{place}.{name}", "a parameter not known here", expected, remedy))
            continue
        fits, expected, own = known[name]
        if value is None:
            continue
        if not fits(value):
            faults.append(Fault(f"{place}.{name}", kind(value), expected))
        elif own:
            settings[own] = value
    return settings, faults


def _until_last_user(turns: Any) -> Any:
    """The turns without the assistant's at the end."""
    kept = list(turns) if isinstance(turns, list) else turns
    while kept and isinstance(kept[-1], dict) and kept[-1].get("role") == "assistant":
        kept.pop()
    return kept


def _prompt(turns: Any, place: str) -> tuple[tuple[dict[str, Any], ...], list[Fault]]:
    """Messages that wait for an answer."""
    if not isinstance(turns, list) or not turns:
        expected = "a list of messages that ends with the user's"
        return (), [Fault(place, "nothing to answer" if turns == [] else kind(turns), expected)]
    # The rules of a conversation are those of training, where an assistant has to speak.
    messages, faults = normal_messages([*turns, {"role": "assistant", "content": "."}], place)
    messages = messages[:-1]
    last = messages[-1].get("role") if messages else None
    if not faults and last not in ("user", "tool"):
        found = f"a last message of {last}"
        faults = [Fault(f"{place}[{len(messages) - 1}]", found, "the user's turn to answer")]
    return messages, faults


def _ask(
    messages: Sequence[dict[str, Any]],
    settings: Mapping[str, Any],
    tools: tuple[dict[str, Any], ...] | None = None,
) -> Ask:
    stop = settings.get("stop", ())
    return Ask(
        messages=tuple(messages),
        max_new_tokens=settings["max_new_tokens"],
        temperature=float(settings["temperature"]),
        top_p=float(settings.get("top_p", 1.0)),
        top_k=max(0, settings.get("top_k", 0)),  # -1 is "all" to other servers
        seed=settings.get("seed", random.getrandbits(32)),
        stop=(stop,) if isinstance(stop, str) else tuple(stop),
        tools=tools,
    )
