"""Curves of an endpoint: what of the gateway's log of requests becomes which point."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from endpoint_store import put_endpoint, write_requests
from fastapi.testclient import TestClient

from finery.endpoints.gateway.request_log import FOLDER
from finery.studio import endpoints_figures
from finery.studio.endpoints_figures import FAILED, FIRST, P50, P95, RATE, WINDOW
from finery.workspace.place import Workspace

NOW = 1_800_000_000.0  # a multiple of five
BLUE = "/studio/endpoints/talk/deployments/blue/figures"


def line(ago: float, ms: float = 100.0, status: int = 200, **more: Any) -> dict[str, Any]:
    """A line of the gateway's log, some seconds before NOW."""
    moment = datetime.fromtimestamp(NOW - ago, UTC).isoformat(timespec="milliseconds")
    told = {"time": moment.replace("+00:00", "Z"), "deployment": "blue", "status": status}
    return {**told, "ms": ms, "ttft_ms": ms / 2, "mirrored": False, **more}


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What the clock shows; a test may move it."""
    shown = [NOW + endpoints_figures.LATE]
    moment = lambda: datetime.fromtimestamp(shown[0], UTC).replace(tzinfo=None)  # noqa: E731
    monkeypatch.setattr(endpoints_figures, "now", moment)
    return shown


def told(browser: TestClient, cursor: str = "", place: str = BLUE) -> dict[str, Any]:
    answer = browser.get(place, params={"cursor": cursor} if cursor else {})
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_times_and_failures_of_five_seconds_are_one_point(
    browser: TestClient, workspace: Workspace
) -> None:
    put_endpoint(workspace)
    times = [line(12, ms=1000 * n) for n in range(1, 21)]
    bad = [line(11, status=503), line(11, status=429), line(11, status=400, error="InputError")]
    cut = [line(11, status=200, error="BrokenOffError"), line(11, status=499)]
    cut += [line(11, error="ClientLeftError"), line(11, status=408, error="SlowSenderError")]
    write_requests(workspace, "talk", *times, *bad, *cut)
    found = told(browser)["series"]
    assert found[P50]["x"] == [NOW - 15] and found[P50]["y"] == [10.0]
    assert found[P95]["y"] == [19.0] and found[FIRST]["y"] == [5.0]
    assert found[FAILED]["y"] == [12.5]  # 3 of 24; a wrong request and one that left are not
    assert found[RATE]["x"] == [NOW - 15, NOW - 10, NOW - 5]
    assert found[RATE]["y"] == [4.8, 0, 0]


def test_other_deployments_mirrors_and_the_past_are_left_out(
    browser: TestClient, workspace: Workspace
) -> None:
    put_endpoint(workspace)
    write_requests(workspace, "talk", line(WINDOW + 60), line(7, deployment="green"))
    write_requests(workspace, "talk", line(7, mirrored=True))
    first = told(browser)
    assert (first["series"], first["whole"], first["run"]) == ({}, True, "blue")
    assert told(browser, place=BLUE.replace("blue", "green"))["series"][RATE]["y"] == [0.2, 0]


def test_a_reader_gets_each_stretch_once_it_is_over(
    browser: TestClient, workspace: Workspace, clock: list[float]
) -> None:
    put_endpoint(workspace)
    write_requests(workspace, "talk", line(6), line(-1))
    first = told(browser)
    assert first["series"][RATE]["x"] == [NOW - 10, NOW - 5] and first["whole"]
    again = told(browser, first["cursor"])
    assert (again["series"], again["whole"]) == ({}, False)
    clock[0] += 5
    write_requests(workspace, "talk", line(-3))
    second = told(browser, again["cursor"])
    assert second["series"][RATE] | {} == {
        **{"x": [NOW], "y": [0.4], "last": 0.4},
        **{"best": None, "direction": 0},
    }
    clock[0] += 10
    third = told(browser, second["cursor"])
    assert third["series"] == {RATE: second["series"][RATE] | {"x": [NOW + 5, NOW + 10]} | ZEROS}


ZEROS = {"y": [0.0, 0.0], "last": 0.0}


def test_nothing_is_shown_before_the_first_request(
    browser: TestClient, workspace: Workspace, clock: list[float]
) -> None:
    put_endpoint(workspace)
    first = told(browser)
    again = told(browser, first["cursor"])
    assert first["series"] == again["series"] == {}
    write_requests(workspace, "talk", line(-2))
    clock[0] += 5
    assert told(browser, again["cursor"])["series"][RATE] == {
        **{"x": [NOW], "y": [0.2], "last": 0.2},
        **{"best": None, "direction": 0},
    }


def test_a_log_that_was_put_aside_is_read_to_its_end(
    browser: TestClient, workspace: Workspace, clock: list[float]
) -> None:
    put_endpoint(workspace)
    write_requests(workspace, "talk", line(6))
    first = told(browser)
    write_requests(workspace, "talk", line(-1))
    path = workspace.logs / FOLDER / "talk.jsonl"
    path.replace(path.with_name("talk.jsonl.1"))
    write_requests(workspace, "talk", line(-2))
    clock[0] += 5
    assert told(browser, first["cursor"])["series"][RATE]["y"] == [0.4]
    assert told(browser)["series"][RATE]["y"] == [0.2, 0.0, 0.4]


def test_half_a_line_is_waited_for_or_passed_over(
    browser: TestClient, workspace: Workspace, clock: list[float]
) -> None:
    put_endpoint(workspace)
    write_requests(workspace, "talk", line(6))
    path = workspace.logs / FOLDER / "talk.jsonl"
    with path.open("a") as file:
        file.write('{"time": "2027-')
    first = told(browser)
    assert first["series"][RATE]["y"] == [0.2, 0.0]
    with path.open("a") as file:  # the gateway was killed; another one goes on
        file.write("\n")
    write_requests(workspace, "talk", line(-2))
    clock[0] += 5
    assert told(browser, first["cursor"])["series"][RATE]["y"] == [0.2]


def test_a_long_log_is_read_from_near_its_end(
    browser: TestClient, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_endpoint(workspace)
    write_requests(workspace, "talk", *(line(20) for _ in range(30)), line(8))
    monkeypatch.setattr(endpoints_figures, "MOST_READ", 400)
    found = told(browser)["series"]
    assert sum(found[RATE]["y"]) * 5 < 5 and found[RATE]["y"][-2:] == [0.2, 0.0]


@pytest.mark.parametrize("cursor", ["x", "1.2", "1.2.-3", "1.2.3.4", "9" * 30 + ".1.1"])
def test_a_cursor_that_is_none_is_refused(
    browser: TestClient, workspace: Workspace, cursor: str
) -> None:
    put_endpoint(workspace)
    assert browser.get(BLUE, params={"cursor": cursor}).status_code == 400


def test_the_quantile_is_a_value_that_was_seen() -> None:
    values = [5.0, 1.0, 4.0, 2.0, 3.0]
    assert [endpoints_figures.quantile(values, share) for share in (0.5, 0.95, 0.01)] == [3, 5, 1]
