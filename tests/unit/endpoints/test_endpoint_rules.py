"""Names, shares of traffic and sizes that an endpoint takes."""

from __future__ import annotations

from typing import Any

import pytest

from finery.endpoints.rules import name_faults, size_faults, traffic_faults


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
