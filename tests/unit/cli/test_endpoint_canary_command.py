"""`finery endpoint canary`: begin one, see how it stands, end it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from click.testing import Result
from scripted_service import Script
from typer.testing import CliRunner

from finery.cli.endpoint import app
from finery.errors import InputError

FIGURES = {
    "green": {"requests": 40, "errors": 3, "latencyP95": 0.4},
    "blue": {"requests": 800, "errors": 0, "latencyP95": None},
}
CANARY = {
    "deployment": "green",
    "stable": "blue",
    "state": "RolledBack",
    "reason": "green failed in 3 of 40 requests.",
    "steps": [5, 100],
    "step": 0,
    "share": 5,
    "guards": ["error_rate"],
    "minRequests": 200,
    "answered": 40,
    "figures": FIGURES,
    "evidence": {"error_rate": 812.0},
    "history": [
        {"at": "2026-11-20T11:00:00.5Z", "decision": "begin", "share": 5},
        {"at": "2026-11-20T11:01:00Z", "decision": "roll back", "share": 5},
    ],
}


def run(*words: str) -> Result:
    return CliRunner().invoke(app, ["canary", "chat", *words])


def test_a_canary_begins_as_it_was_asked_for(script: Script) -> None:
    script.on("POST /onlineEndpoints/chat/canary", CANARY)
    words = ("--to", "green", "--steps", "10, 100", "--guard", "error_rate", "--min-requests", "50")
    assert run(*words, "--step-minutes", "2").exit_code == 0
    assert script.sent("POST /onlineEndpoints/chat/canary") == {
        "deployment": "green",
        "steps": [10, 100],
        "guards": ["error_rate"],
        "minRequests": 50,
        "stepMinutes": 2.0,
    }


def test_without_more_words_it_takes_three_steps_and_both_guards(script: Script) -> None:
    script.on("POST /onlineEndpoints/chat/canary", CANARY)
    run("--to", "green")
    sent = script.sent("POST /onlineEndpoints/chat/canary")
    assert (sent["steps"], sent["guards"]) == ([5, 25, 100], ["error_rate", "latency_p95"])


def test_the_status_tells_figures_and_decisions(script: Script) -> None:
    script.on("GET /onlineEndpoints/chat/canary", {"value": [CANARY, {}]})
    told = run("--status").stdout
    for word in ("RolledBack", "812:1", "green failed in 3 of 40", "0.4 s", "roll back"):
        assert word in told
    assert json.loads(run("--status", "--json").stdout) == CANARY


def test_an_endpoint_without_canary_says_how_one_begins(script: Script) -> None:
    script.on("GET /onlineEndpoints/chat/canary", {"value": []})
    assert "--to DEPLOYMENT" in str(run("--status").exception)


def test_a_canary_is_aborted(script: Script) -> None:
    script.on("POST /onlineEndpoints/chat/canary/abort", {**CANARY, "state": "Aborted"})
    assert "Aborted" in run("--abort").stdout


@pytest.mark.parametrize(
    "words",
    [(), ("--to", "green", "--status"), ("--status", "--abort"), ("--to", "g", "--steps", "5,x")],
)
def test_what_makes_no_sense_is_refused_before_anything_is_asked(
    script: Script, words: tuple[Any, ...]
) -> None:
    assert isinstance(run(*words).exception, InputError)
    assert script.asked == []
