"""Azure AI's model inference API: its defaults, its bounds, its header, its errors."""

from __future__ import annotations

from typing import Any

import pytest

from finery.inference.protocol.azure_ai import read_chat, read_completion
from finery.inference.protocol.refusals import (
    Refusal,
    RefusedError,
    azure_ai_shape,
    from_json,
    openai_shape,
    to_json,
)

HELLO = {"role": "user", "content": "Hello"}


def test_a_body_that_says_nothing_has_the_apis_defaults() -> None:
    (ask,) = read_chat({"messages": [HELLO]}, {}).asks
    assert (ask.temperature, ask.top_p, ask.max_new_tokens) == (0.7, 1.0, 256)
    (ask,) = read_completion({"prompt": "a"}, {}).asks
    assert (ask.temperature, ask.max_new_tokens) == (0.7, 256)


def test_its_edges_are_taken() -> None:
    body = {"messages": [HELLO], "max_tokens": 0, "top_p": 0, "temperature": 1}
    (ask,) = read_chat(body, {}).asks
    assert ask.max_new_tokens == 0
    assert 0 < ask.top_p < 1e-3, "the likeliest token alone"


@pytest.mark.parametrize(
    "odd",
    [
        {"temperature": 1.5},
        {"temperature": "hot"},
        {"top_p": -1},
        {"max_tokens": -1},
        {"presence_penalty": 3},
        {"messages": []},
        {"messages": None},
        {"response_format": {"type": "xml"}},
    ],
)
def test_a_body_that_breaks_the_rules_is_a_422_with_details(odd: dict[str, Any]) -> None:
    with pytest.raises(RefusedError) as told:
        read_chat({"messages": [HELLO], **odd}, {})
    refusal = told.value.refusal
    assert refusal.status == 422
    error = azure_ai_shape(refusal)["error"]
    assert (error["code"], error["status"]) == ("Invalid input", 422)
    assert error["message"] == "invalid input error"
    assert any(next(iter(odd)) in detail["msg"] for detail in error["details"])
    assert error["details"][0]["loc"][0] == "body"


@pytest.mark.parametrize("body", [None, [], 3, "a"])
def test_a_body_that_is_no_object_is_a_422(body: Any) -> None:
    with pytest.raises(RefusedError) as told:
        read_chat(body, {})
    assert told.value.refusal.status == 422


def test_parameters_it_does_not_define_are_an_error_unless_the_header_says_otherwise() -> None:
    body = {"messages": [HELLO], "top_k": 5}
    for headers in ({}, {"extra-parameters": "error"}):
        with pytest.raises(RefusedError, match="top_k") as told:
            read_chat(body, headers)
        assert (told.value.refusal.status, told.value.refusal.param) == (400, "top_k")
    (dropped,) = read_chat(body, {"extra-parameters": "drop"}).asks
    assert dropped.top_k == 0
    (passed,) = read_chat(body, {"extra-parameters": "pass-through"}).asks
    assert passed.top_k == 5


def test_what_is_passed_through_must_mean_something_to_the_model() -> None:
    body = {"messages": [HELLO], "nonsense": 5}
    with pytest.raises(RefusedError, match="nonsense"):
        read_chat(body, {"extra-parameters": "pass-through"})
    with pytest.raises(RefusedError) as told:
        read_chat({"messages": [HELLO], "top_k": "x"}, {"extra-parameters": "pass-through"})
    assert told.value.refusal.status == 422


def test_another_value_of_the_header_is_an_error() -> None:
    with pytest.raises(RefusedError, match="pass-through") as told:
        read_chat({"messages": [HELLO]}, {"extra-parameters": "maybe"})
    assert told.value.refusal.status == 400


def test_other_errors_have_a_code_a_message_and_a_status() -> None:
    refusal = Refusal(404, "No such model.", "model_not_found", "model")
    told = {"code": "model_not_found", "message": "No such model.", "status": 404}
    assert azure_ai_shape(refusal) == {"error": told}


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (404, "invalid_request_error"),
        (429, "rate_limit_error"),
        (503, "server_error"),
    ],
)
def test_openais_errors_have_a_type(status: int, kind: str) -> None:
    error = openai_shape(Refusal(status, "No.", "code", "n"))["error"]
    assert error == {"message": "No.", "type": kind, "param": "n", "code": "code"}


def test_a_refusal_goes_from_one_process_to_another() -> None:
    refusal = Refusal(422, "No.", "code", None, (("a", "b"), ("c", "d")))
    assert from_json(to_json(refusal)) == refusal
