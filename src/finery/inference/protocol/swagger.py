"""The OpenAPI document of a replica: https://spec.openapis.org/oas/v3.0.3."""

from __future__ import annotations

import json
from typing import Any

from finery.inference.protocol.azure_ml import EXAMPLE

_ERROR = {"description": "Why not", "content": {"application/json": {"schema": {"type": "object"}}}}
_TEXT = {"type": "string"}
_MESSAGES = {
    "type": "array",
    "items": {
        "type": "object",
        "required": ["role"],
        "properties": {"role": _TEXT, "content": {"description": "Text, or parts of text"}},
    },
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
            "/v1/chat/completions": {"post": _chat("An answer to a chat, as OpenAI's")},
            "/v1/completions": {"post": _completion("A continuation of a prompt, as OpenAI's")},
            "/chat/completions": {"post": _chat("An answer to a chat, as Azure AI's")},
            "/completions": {"post": _completion("A continuation of a prompt, as Azure AI's")},
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
    schema = {
        "type": "object",
        "required": ["input_data"],
        "properties": {
            "input_data": {"description": "input_string and parameters, or a list of prompts"},
            "params": {"type": "object"},
        },
    }
    request = {"schema": schema, "example": json.loads(EXAMPLE)}
    answer = {"description": '{"output": text}, or a list of such', "example": {"output": "Hi!"}}
    return _post("An answer to each conversation", request, answer)


def _chat(summary: str) -> dict[str, Any]:
    properties = {"model": _TEXT, "messages": _MESSAGES, "stream": {"type": "boolean"}}
    schema = {"type": "object", "required": ["messages"], "properties": properties}
    return _post(summary, {"schema": schema}, {"type": "object"})


def _completion(summary: str) -> dict[str, Any]:
    prompt = {"description": "A text, several texts, or token ids"}
    properties = {"model": _TEXT, "prompt": prompt, "stream": {"type": "boolean"}}
    schema = {"type": "object", "required": ["prompt"], "properties": properties}
    return _post(summary, {"schema": schema}, {"type": "object"})
