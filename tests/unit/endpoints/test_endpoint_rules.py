"""Names, shares of traffic and sizes that an endpoint takes."""

from __future__ import annotations

from typing import Any

import pytest

from finery.endpoints.rules import (
    canary_faults,
    engine_faults,
    name_faults,
    probe_faults,
    size_faults,
    traffic_faults,
)
from finery.endpoints.values import ENGINES, Probe


@pytest.mark.parametrize("name", ["abc", "ultrachat-completion-1700000000", "A1-b2", "a" * 32])
def test_names_that_azure_takes(name: str) -> None:
    assert name_faults(name, "endpoint") == []


@pytest.mark.parametrize(
    "name", ["", "ab", "1abc", "a" * 33, "a--b", "abc-", "a_b", "a.b", "../etc", "abc\n", "åbc"]
)
def test_names_that_azure_refuses(name: str) -> None:
    (fault,) = name_faults(name, "endpoint")
    assert repr(name) in str(fault)


@pytest.mark.parametrize(
    ("traffic", "mirror"),
    [
        ({}, {}),
        ({"blue": 100}, {}),
        ({"blue": 90, "green": 10}, {}),
        ({"blue": 0}, {}),
        ({"blue": 100, "green": 0}, {"green": 50}),
    ],
)
def test_traffic_that_adds_up(traffic: dict[str, int], mirror: dict[str, int]) -> None:
    assert traffic_faults(traffic, mirror, {"blue", "green"}) == []


@pytest.mark.parametrize(
    ("traffic", "mirror", "told"),
    [
        ({"blue": 90}, {}, "sum to 90"),
        ({"blue": 60, "green": 60}, {}, "sum to 120"),
        ({"blu": 100}, {}, "Did you mean blue?"),
        ({"blue": 101}, {}, "traffic.blue"),
        ({"blue": -1}, {}, "traffic.blue"),
        ({"blue": "100"}, {}, "traffic.blue"),
        ({"blue": True}, {}, "traffic.blue"),
        ({"blue": 100}, {"green": 51}, "at most 50"),
        ({"blue": 100}, {"blue": 10}, "live traffic beside it"),
        ({}, {"blue": 10, "green": 10}, "one deployment at most"),
    ],
)
def test_traffic_that_does_not(traffic: dict[str, Any], mirror: dict[str, Any], told: str) -> None:
    faults = traffic_faults(traffic, mirror, {"blue", "green"})
    assert told in " ".join(map(str, faults))


def test_every_fault_of_the_sizes_is_said() -> None:
    faults = size_faults(0, True, 0.0)
    assert [fault.where.split(".")[0] for fault in faults] == ["sku", *["requestSettings"] * 2]
    assert size_faults(50, 1000, 3600.0) == []
    assert size_faults(None, 1, 1.0)


def test_engines_are_named_and_near_misses_put_right() -> None:
    assert [engine_faults(engine) for engine in ENGINES] == [[], [], [], []]
    (fault,) = engine_faults("pytorch")
    assert "Did you mean torch?" in str(fault)


def test_every_number_of_a_probe_that_makes_no_sense_is_said_as_the_wire_calls_it() -> None:
    assert probe_faults("livenessProbe", Probe()) == []
    wrong = Probe(-1.0, 0.0, 1e9, 0, True)
    assert [fault.where for fault in probe_faults("p", wrong)] == [
        *("p.successThreshold", "p.failureThreshold"),
        *("p.initialDelay", "p.period", "p.timeout"),
    ]


@pytest.mark.parametrize("steps", [[100], [5, 25, 100], [1, 2, 3], [50]])
def test_steps_of_a_canary_that_rise(steps: list[int]) -> None:
    assert canary_faults(steps, ["error_rate"], 1, 0) == []


@pytest.mark.parametrize("steps", [[], [0, 100], [5, 5], [25, 5], [5, 101], [True], ["5"], [2.5]])
def test_steps_of_a_canary_that_do_not(steps: list[Any]) -> None:
    (fault,) = canary_faults(steps, ["error_rate"], 1, 0)
    assert fault.where == "steps"


@pytest.mark.parametrize(
    ("guards", "requests", "minutes", "where"),
    [
        ([], 1, 0, "guards"),
        (["error-rate"], 1, 0, "guards"),
        (["latency_p95"], 0, 0, "minRequests"),
        (["latency_p95"], True, 0, "minRequests"),
        (["latency_p95"], 1, -0.5, "stepMinutes"),
        (["latency_p95"], 1, 1e9, "stepMinutes"),
    ],
)
def test_what_a_canary_does_not_take(
    guards: list[str], requests: Any, minutes: Any, where: str
) -> None:
    (fault,) = canary_faults([5, 100], guards, requests, minutes)
    assert fault.where == where
