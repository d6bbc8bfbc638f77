"""Bodies of OpenAI's `/v1/chat/completions` and `/v1/completions`.

https://platform.openai.com/docs/api-reference/chat/create and …/completions/create. Whatever
would change the answer and is not known here is refused, never left out in silence.
"""

from __future__ import annotations

from typing import Any

from finery.chat.data_row import kind
from finery.chat.roles import normal_tools
from finery.errors import Fault
from finery.inference.protocol.asks import (
    ANY,
    FLAG,
    MOST_ANSWERS,
    SAMPLING,
    Asked,
    Parameter,
    between,
    make_ask,
    must_be_object,
    only,
    read_messages,
    read_settings,
    refuse_all,
    whole,
)

COMPLETION_TOKENS = 16  # OpenAI's, of a completion that says nothing

_SHARED: dict[str, Parameter] = {
    **SAMPLING,
    "n": (lambda v: whole(1, "")[0](v) and v <= MOST_ANSWERS, f"1 to {MOST_ANSWERS}", "count"),
    "frequency_penalty": between(-2, 2, "frequency_penalty"),
    "presence_penalty": between(-2, 2, "presence_penalty"),
    "ignore_eos": (lambda v: isinstance(v, bool), "true or false", "ignore_eos"),  # vLLM's
    "stream": FLAG,
    "stream_options": ANY,
    "logit_bias": only({}),
    # They say who asks and how it is stored or billed; no answer depends on them.
    **dict.fromkeys(("model", "user", "metadata", "store", "safety_identifier"), ANY),
    **dict.fromkeys(("prompt_cache_key", "prompt_cache_retention", "service_tier"), ANY),
}
CHAT: dict[str, Parameter] = {
    **_SHARED,
    "max_tokens": whole(1, "max_new_tokens"),
    "max_completion_tokens": whole(1, "max_completion_tokens"),
    "logprobs": FLAG,
    "top_logprobs": (lambda v: whole(0, "")[0](v) and v <= 20, "0 to 20", "top_logprobs"),
    "parallel_tool_calls": FLAG,
    "modalities": only(["text"]),
    **dict.fromkeys(("messages", "tools", "tool_choice", "response_format"), ANY),
}
COMPLETION: dict[str, Parameter] = {
    **_SHARED,
    "prompt": ANY,
    "max_tokens": whole(0, "max_new_tokens"),
    "echo": FLAG,
    "best_of": only(1),
    "logprobs": (lambda v: whole(0, "")[0](v) and v <= 5, "0 to 5", "logprobs"),
}


def read_chat(body: Any, **defaults: Any) -> Asked:
    """A chat request; raises InputError with everything wrong in it."""
    body = must_be_object(body)
    settings, faults = read_settings(body, CHAT, "body")
    if body.get("logprobs") is True:
        settings["logprobs"] = settings.get("top_logprobs", 0)
    elif body.get("top_logprobs"):
        faults.append(Fault("body.top_logprobs", "it without logprobs", "logprobs: true beside it"))
    settings["max_new_tokens"] = settings.get(
        "max_completion_tokens", settings.get("max_new_tokens", defaults.get("max_new_tokens"))
    )
    messages, wrong = read_messages(body.get("messages"), "messages")
    tools, odd = normal_tools(body.get("tools"), "tools")
    faults += [*wrong, *odd]
    tools = None if odd else tools
    schema, strange = _format(body.get("response_format"))
    choice, amiss = _choice(body.get("tool_choice"), tools or ())
    choice["one_call"] = body.get("parallel_tool_calls") is False
    faults += [*_tool_faults(tools or ()), *strange, *amiss, *_stream_faults(body)]
    if schema is not None and choice.get("forced"):
        expected = "one of response_format and a tool_choice that forces a call"
        faults.append(Fault("body.response_format", "both", expected))
    refuse_all(faults)
    choice.setdefault("schema", schema)
    return _asked(body, settings, defaults, [{"messages": messages, "tools": tools, **choice}])


def read_completion(body: Any, **defaults: Any) -> Asked:
    """A completion request: each of its prompts is an ask; raises InputError."""
    body = must_be_object(body)
    settings, faults = read_settings(body, COMPLETION, "body")
    prompts, wrong = _prompts(body.get("prompt"))
    if body.get("echo") is True and body.get("logprobs") is not None:
        expected = "one of the two: this server has no log-probabilities of the prompt's tokens"
        faults.append(Fault("body.echo", "echo and logprobs", expected))
    if len(prompts) * settings.get("count", 1) > MOST_ANSWERS:
        found = f"{len(prompts)} prompts"
        faults.append(Fault("body.prompt", found, f"at most {MOST_ANSWERS} answers to a request"))
    refuse_all([*faults, *wrong, *_stream_faults(body)])
    defaults = {"max_new_tokens": COMPLETION_TOKENS, **defaults}
    return _asked(body, settings, defaults, [{"prompt": prompt} for prompt in prompts])


def _asked(
    body: dict[str, Any],
    settings: dict[str, Any],
    defaults: dict[str, Any],
    whats: list[dict[str, Any]],
) -> Asked:
    settings = {"temperature": 1.0, **defaults, **settings}
    settings["ends"] = not settings.get("ignore_eos", False)
    options = body.get("stream_options") or {}
    model = body.get("model")
    return Asked(
        asks=tuple(make_ask(settings, **what) for what in whats),
        model=model if model is None or isinstance(model, str) else kind(model),
        stream=bool(body.get("stream")),
        usage=bool(options.get("include_usage")),
        echo=bool(body.get("echo")),
    )


def _stream_faults(body: dict[str, Any]) -> list[Fault]:
    options = body.get("stream_options")
    if options is None:
        return []
    known = {"include_usage": FLAG, "include_obfuscation": only(False)}
    if not isinstance(options, dict):
        return [Fault("body.stream_options", kind(options), "an object")]
    return read_settings(options, known, "body.stream_options")[1]


def _prompts(value: Any) -> tuple[list[str | tuple[int, ...]], list[Fault]]:
    """One text, several texts, ids, or several lists of ids."""
    listed = isinstance(value, list) and bool(value)
    if isinstance(value, str):
        return [value], []
    if listed and all(isinstance(one, str) for one in value):
        return list(value), []
    if listed and all(_is_id(one) for one in value):
        return [tuple(value)], []
    if listed and all(isinstance(one, list) and all(map(_is_id, one)) for one in value):
        return [tuple(one) for one in value], []
    found = "no prompt" if value is None else kind(value)
    expected = "a text, a list of texts, a list of token ids, or a list of such lists"
    return [], [Fault("body.prompt", found, expected)]


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31


def _format(value: Any) -> tuple[dict[str, Any] | None, list[Fault]]:
    """The JSON schema that the answer has to satisfy, if any."""
    place = "body.response_format"
    if value is None:
        return None, []
    name = value.get("type") if isinstance(value, dict) else None
    if name == "text":
        return None, []
    if name == "json_object":
        return {"type": "object"}, []
    if name == "json_schema":
        given = value.get("json_schema")
        schema = given.get("schema") if isinstance(given, dict) else None
        if isinstance(schema, dict):
            return schema, []
        expected = '{"name": "…", "schema": {…}}'
        return None, [Fault(f"{place}.json_schema", kind(given), expected)]
    found = kind(value) if not isinstance(value, dict) else f"the type {kind(name)}"
    return None, [Fault(place, found, "the type text, json_object or json_schema")]


def _tool_faults(tools: tuple[dict[str, Any], ...]) -> list[Fault]:
    wrong = []
    for index, tool in enumerate(tools):
        parameters = tool.get("function", tool)
        parameters = parameters.get("parameters") if isinstance(parameters, dict) else None
        if tool.get("type", "function") != "function":
            expected = "function: this server has no other kind of tool"
            wrong.append(Fault(f"tools[{index}].type", kind(tool["type"]), expected))
        elif parameters is not None and not isinstance(parameters, dict):
            place = f"tools[{index}].function.parameters"
            wrong.append(Fault(place, kind(parameters), "a JSON schema"))
    return wrong


def _choice(value: Any, tools: tuple[dict[str, Any], ...]) -> tuple[dict[str, Any], list[Fault]]:
    """What `tool_choice` does to an ask."""
    place, offered = "body.tool_choice", [tool.get("function", tool) for tool in tools]
    names = [function["name"] for function in offered if isinstance(function, dict)]
    if value is None or value == "auto":
        return {}, []
    if value == "none":
        return {"calls": False}, []
    if not tools:
        return {}, [Fault(place, kind(value), "tools beside it")]
    if value == "required":
        return {"forced": True, "schema": _call_schema(offered)}, []
    function = value.get("function") if isinstance(value, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    if name in names and value.get("type") == "function":
        chosen = [function for function in offered if function["name"] == name]
        return {"forced": True, "schema": _call_schema(chosen)}, []
    expected = f"none, auto, required, or a function by name: {', '.join(names)}"
    return {}, [Fault(place, kind(value if name is None else name), expected)]


def _call_schema(functions: list[dict[str, Any]]) -> dict[str, Any]:
    """One call of one of the functions, as the models' own formats write it."""
    calls = [
        {
            "type": "object",
            "properties": {
                "name": {"const": function["name"]},
                "arguments": function.get("parameters") or {"type": "object"},
            },
            "required": ["name", "arguments"],
            "additionalProperties": False,
        }
        for function in functions
    ]
    return calls[0] if len(calls) == 1 else {"anyOf": calls}
