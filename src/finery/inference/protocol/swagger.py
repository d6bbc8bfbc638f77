"""The OpenAPI document of a replica: https://spec.openapis.org/oas/v3.0.3."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from finery.inference.protocol.asks import MOST_ANSWERS, MOST_STOPS
from finery.inference.protocol.azure_ml import EXAMPLE

_ERROR = {"description": "Why not", "content": {"application/json": {"schema": {"type": "object"}}}}
_TEXT = {"type": "string"}
_TRUTH = {"type": "boolean"}
_MESSAGES = {
    "type": "array",
    "minItems": 1,
    "items": {
        "type": "object",
        "required": ["role", "content"],
        "properties": {
            "role": {"type": "string", "enum": ["system", "user", "assistant"]},
            "content": {"type": "string", "minLength": 1},
        },
    },
}


def _number(least: float, most: float, kind: str = "number") -> dict[str, Any]:
    return {"type": kind, "minimum": least, "maximum": most}


_LONGEST = _number(1, 2**31 - 1, "integer")
_STOPS = {"type": "array", "items": {"type": "string", "minLength": 1}, "maxItems": MOST_STOPS}
# Of the settings those that people use; docs/endpoints.md says what else there is.
_AZURE_AI = {
    "model": _TEXT,
    "max_tokens": _LONGEST,
    "temperature": _number(0, 1),
    "top_p": _number(0.01, 1),
    "seed": _number(-(2**63), 2**63 - 1, "integer"),
    "stop": _STOPS,
    "frequency_penalty": _number(-2, 2),
    "presence_penalty": _number(-2, 2),
    "stream": _TRUTH,
}
_OPENAI = {
    **_AZURE_AI,
    "temperature": _number(0, 2),
    "n": _number(1, MOST_ANSWERS, "integer"),
    "user": _TEXT,
}
_SCORE = {
    **{name: _OPENAI[name] for name in ("temperature", "top_p", "seed", "stop")},
    "max_new_tokens": _LONGEST,
    "do_sample": _TRUTH,
}


def document(name: str, version: str) -> dict[str, Any]:
    """What the replica of the model `name` answers."""
    return {
        "openapi": "3.0.3",
        "info": {"title": name, "version": version},
        "paths": {
            "/": {"get": _read("Whether it can answer")},
            "/health": {"get": _read("Whether it can answer")},
            "/info": {"get": _read("What it serves")},
            "/v1/models": {"get": _read("The models there are")},
            "/score": {"post": _score()},
            "/v1/chat/completions": {"post": _chat("An answer to a chat, as OpenAI's", _OPENAI)},
            "/v1/completions": {"post": _completion("A prompt continued, as OpenAI's", _OPENAI)},
            "/chat/completions": {"post": _chat("An answer to a chat, as Azure AI's", _AZURE_AI)},
            "/completions": {"post": _completion("A prompt continued, as Azure AI's", _AZURE_AI)},
        },
        "components": {
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"key": []}],
    }


def _read(summary: str) -> dict[str, Any]:
    return {"summary": summary, "responses": {"200": _answer({"type": "object"})}}


def _answer(schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": "The answer", "content": {"application/json": {"schema": schema}}}


def _post(summary: str, request: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
    return {
        "summary": summary,
        "requestBody": {"required": True, "content": {"application/json": request}},
        "responses": {"200": _answer(answer), "400": _ERROR},
    }


def _score() -> dict[str, Any]:
    one = {
        "type": "object",
        "required": ["input_string"],
        "properties": {
            "input_string": _MESSAGES,
            "parameters": {"type": "object", "properties": _SCORE},
        },
    }
    schema = {
        "type": "object",
        "required": ["input_data"],
        "properties": {"input_data": one, "params": {"type": "object", "maxProperties": 0}},
    }
    request = {"schema": schema, "example": json.loads(EXAMPLE)}
    answer = {"description": '{"output": text}, or a list of such', "example": {"output": "Hi!"}}
    return _post("An answer to each conversation", request, answer)


def _chat(summary: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    schema = {
        "type": "object",
        "required": ["messages"],
        "properties": {"messages": _MESSAGES, **settings},
    }
    return _post(summary, {"schema": schema}, {"type": "object"})


def _completion(summary: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    prompt = {"type": "string", "minLength": 1, "description": "Or several texts, or token ids"}
    schema = {
        "type": "object",
        "required": ["prompt"],
        "properties": {"prompt": prompt, **settings},
    }
    return _post(summary, {"schema": schema}, {"type": "object"})
