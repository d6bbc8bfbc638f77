"""The pages of endpoints: what they show, what stays hidden, what they change and refuse."""

from __future__ import annotations

import re
from typing import Any

import pytest
from endpoint_store import (
    PRIMARY,
    SECONDARY,
    put_deployment,
    put_endpoint,
    write_replica_log,
)
from fastapi.testclient import TestClient
from studio_store import put_model

from finery.endpoints import canary_steps, service
from finery.endpoints.gateway import control
from finery.endpoints.gateway.counts import Figures, Stats
from finery.workspace.place import Workspace

ORIGIN = {"origin": "http://127.0.0.1"}
HTMX = {**ORIGIN, "hx-request": "true"}
EVIL = "<script>alert(1)</script>"


def token(text: str) -> str:
    found = re.search(r'name="token" value="([^"]+)"', text)
    assert found
    return found[1]


def send(browser: TestClient, place: str, headers: dict[str, str] = ORIGIN, **fields: str) -> Any:
    """A form of the endpoint's page, with its token and the traffic that the page showed."""
    page = browser.get("/studio/endpoints/talk").text
    seen = re.search(r'name="seen" value="([^"]+)"', page)
    data = {"token": token(page), "seen": seen[1] if seen else "", **fields}
    return browser.post(f"/studio/endpoints/talk{place}", data=data, headers=headers)


def traffic(workspace: Workspace) -> dict[str, int]:
    return {k: v for k, v in service.get(workspace, "talk").traffic.items() if v}


def test_the_list_says_what_to_do_where_there_is_nothing(browser: TestClient) -> None:
    page = browser.get("/studio/endpoints").text
    assert "No endpoint is up" in page and 'href="/studio/deploy"' in page


def test_the_list_shows_every_deployment(browser: TestClient, workspace: Workspace) -> None:
    put_endpoint(workspace, traffic={"blue": 90, "green": 10})
    page = browser.get("/studio/endpoints").text
    assert "90 %" in page and "10 %" in page and page.count("tuned:1") == 2
    assert "1 of 1" in page


def test_the_page_of_an_endpoint_shows_model_engine_and_replicas(
    browser: TestClient, workspace: Workspace
) -> None:
    put_model(workspace, "tuned", "job")
    put_endpoint(workspace)
    page = browser.get("/studio/endpoints/talk").text
    assert 'href="/studio/models/tuned?version=1"' in page
    assert "torch, int8" in page and "2,048 tokens" in page
    assert "1 of 1 answers" in page and "blue-0-0" in page
    assert "/endpoints/talk/v1" in page and "/endpoints/talk/score" in page


def test_counts_come_from_the_gateway_when_it_answers(
    browser: TestClient, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_endpoint(workspace)
    assert "Requests so far" not in browser.get("/studio/endpoints/talk").text
    counted = Stats("g", {("talk", "blue"): Figures(1234, 7, in_flight=3, queued=2)}, {})
    monkeypatch.setattr(control, "stats", lambda _workspace: counted)
    page = browser.get("/studio/endpoints/talk").text
    assert "1,234" in page and "7 failed" in page and "3 under way, 2 waiting" in page


def test_a_deployment_that_failed_says_why_with_the_end_of_its_log(
    browser: TestClient, workspace: Workspace
) -> None:
    put_endpoint(workspace)
    error = {"code": "ResourceNotReady", "message": f"It did not start {EVIL}."}
    put_deployment(workspace, "talk", "red", state="Failed", error=error, ready=0)
    write_replica_log(workspace, "talk", "red", "early\n" * 50 + f"the cause {EVIL}\n")
    page = browser.get("/studio/endpoints/talk").text
    assert "ResourceNotReady" in page and "the cause" in page
    assert page.count("early") == 14
    assert EVIL not in page
    write_replica_log(workspace, "talk", "red", f"It did not start {EVIL}.\n")
    again = browser.get("/studio/endpoints/talk").text
    assert "early" not in again  # the error quotes the log


def test_an_endpoint_that_is_not_there_is_a_404(browser: TestClient, workspace: Workspace) -> None:
    put_endpoint(workspace)
    places = ("", "/state", "/traffic", "/keys", "/deployments/x/log", "/deployments/x/figures")
    for place in places:
        assert browser.get(f"/studio/endpoints/tolk{place}").status_code == 404
    assert "Did you mean talk?" in browser.get("/studio/endpoints/tolk").text


def test_the_changing_part_is_sent_only_when_it_changed(
    browser: TestClient, workspace: Workspace
) -> None:
    put_endpoint(workspace)
    seen = re.search(r"state\?seen=(\w+)", browser.get("/studio/endpoints/talk").text)
    assert seen
    address = f"/studio/endpoints/talk/state?seen={seen[1]}"
    assert browser.get(address).status_code == 204
    put_deployment(workspace, "talk", "third")
    changed = browser.get(address)
    assert changed.status_code == 200 and 'id="d-third"' in changed.text
    assert "<html" not in changed.text


def test_traffic_is_moved_and_nothing_else_changes(
    browser: TestClient, workspace: Workspace
) -> None:
    put_endpoint(workspace)
    fields = {"share.blue": "25", "share.green": "75"}
    answer = send(browser, "/traffic", **fields)
    assert answer.status_code == 303
    assert answer.headers["location"] == "/studio/endpoints/talk"
    found = service.get(workspace, "talk")
    assert found.traffic == {"blue": 25, "green": 75}
    assert found.wire == {"properties": {"description": "kept"}}
    assert (found.primary_key, found.secondary_key) == (PRIMARY, SECONDARY)
    assert "blue 25 %, green 75 %" in browser.get("/studio/endpoints/talk").text


@pytest.mark.parametrize(
    ("blue", "green", "words"),
    [
        ("60", "60", "shares that sum to 120"),
        ("-1", "101", "a whole number from 0 to 100"),
        ("half", "50", "a whole number from 0 to 100"),
        ("", "100", "a whole number from 0 to 100"),
    ],
)
def test_shares_that_are_none_are_refused(
    browser: TestClient, workspace: Workspace, blue: str, green: str, words: str
) -> None:
    put_endpoint(workspace)
    answer = send(browser, "/traffic", **{"share.blue": blue, "share.green": green})
    assert answer.status_code == 400 and words in answer.text
    assert traffic(workspace) == {"blue": 100}


def test_nobody_may_get_traffic_and_then_a_deployment_can_go(
    browser: TestClient, workspace: Workspace
) -> None:
    put_endpoint(workspace)
    refused = send(browser, "/deployments/blue/delete")
    assert refused.status_code == 409 and "100 % of the traffic" in refused.text
    send(browser, "/traffic", none="1", **{"share.blue": "100", "share.green": "0"})
    assert traffic(workspace) == {}
    assert send(browser, "/deployments/blue/delete").status_code == 303
    assert service.deployment(workspace, "talk", "blue").state == "Deleting"


def test_a_mirror_gets_copies(browser: TestClient, workspace: Workspace) -> None:
    put_endpoint(workspace)
    shares = {"share.blue": "100", "share.green": "0"}
    answer = send(browser, "/traffic", mirror="green", mirrored="20", **shares)
    assert answer.status_code == 303
    assert service.get(workspace, "talk").mirror_traffic == {"green": 20}
    page = browser.get("/studio/endpoints/talk").text
    assert "copies of 20 %" in page and "green gets copies of 20 %" in page
    refused = send(browser, "/traffic", mirror="green", mirrored="60", **shares)
    assert refused.status_code == 400 and "at most 50" in refused.text


def test_a_form_from_before_another_change_is_refused(
    browser: TestClient, workspace: Workspace
) -> None:
    put_endpoint(workspace)
    page = browser.get("/studio/endpoints/talk").text
    seen = re.search(r'name="seen" value="([^"]+)"', page)
    assert seen
    send(browser, "/traffic", **{"share.blue": "50", "share.green": "50"})
    stale = send(browser, "/traffic", **{"seen": seen[1], "share.blue": "0", "share.green": "100"})
    assert stale.status_code == 409 and "changed since this page was made" in stale.text
    assert traffic(workspace) == {"blue": 50, "green": 50}
    fresh = browser.get("/studio/endpoints/talk/traffic").text
    assert 'value="50"' in fresh and seen[1] not in fresh


def test_keys_are_shown_only_to_who_asks(browser: TestClient, workspace: Workspace) -> None:
    put_endpoint(workspace)
    for place in ("", "/state", "/traffic", "/keys"):
        text = browser.get(f"/studio/endpoints/talk{place}").text
        assert PRIMARY not in text and SECONDARY not in text and "replica-secret" not in text
    shown = send(browser, "/keys", HTMX)
    assert shown.status_code == 200 and shown.headers["cache-control"] == "no-store"
    assert PRIMARY in shown.text and SECONDARY in shown.text and "<html" not in shown.text


def test_keys_come_on_a_page_of_their_own_without_scripts(
    browser: TestClient, workspace: Workspace
) -> None:
    put_endpoint(workspace)
    shown = send(browser, "/keys")
    assert PRIMARY in shown.text and "<html" in shown.text
    assert shown.headers["cache-control"] == "no-store"


def test_one_key_is_rotated_and_the_other_stays(browser: TestClient, workspace: Workspace) -> None:
    put_endpoint(workspace)
    answer = send(browser, "/keys/rotate", HTMX, which="primary")
    found = service.get(workspace, "talk")
    assert found.primary_key not in (PRIMARY, "") and found.secondary_key == SECONDARY
    assert found.primary_key in answer.text and PRIMARY not in answer.text
    assert send(browser, "/keys/rotate", HTMX, which="both").status_code == 400


def test_an_endpoint_with_tokens_shows_a_token_and_rotates_nothing(
    browser: TestClient, workspace: Workspace
) -> None:
    put_endpoint(workspace, auth_mode="aml_token")
    assert "Rotate" not in browser.get("/studio/endpoints/talk").text
    assert 'data-key="token">ey' in send(browser, "/keys", HTMX).text
    assert send(browser, "/keys/rotate", HTMX, which="primary").status_code == 409


def test_an_endpoint_for_users_says_so(browser: TestClient, workspace: Workspace) -> None:
    put_endpoint(workspace, auth_mode="aad_token")
    page = browser.get("/studio/endpoints/talk").text
    assert "tokens of this service" in page and "keys-button" not in page


def test_a_canary_is_begun_shown_and_aborted(browser: TestClient, workspace: Workspace) -> None:
    put_endpoint(workspace)
    fields = {"deployment": "green", "steps": "10, 100", "min_requests": "5", "error_rate": "1"}
    answer = send(browser, "/canary", step_minutes="0", **fields)
    assert answer.status_code == 303
    assert traffic(workspace) == {"blue": 90, "green": 10}
    (one,) = canary_steps.find(workspace, "talk")
    assert (one.steps, one.guards, one.min_requests) == ([10, 100], ["error_rate"], 5)
    page = browser.get("/studio/endpoints/talk").text
    assert "Canary: blue → green" in page and "0 of 5 requests" in page and "begin at 10 %" in page
    assert send(browser, "/canary/abort").status_code == 303
    assert traffic(workspace) == {"blue": 100}
    assert "It was aborted." in browser.get("/studio/endpoints/talk").text
    assert send(browser, "/canary/abort").status_code == 404


def test_every_fault_of_a_canary_is_said_at_once(browser: TestClient, workspace: Workspace) -> None:
    put_endpoint(workspace)
    fields = {"deployment": "green", "steps": "ten", "min_requests": "", "step_minutes": "soon"}
    answer = send(browser, "/canary", **fields)
    assert answer.status_code == 400
    for word in ("steps", "min_requests", "step_minutes"):
        assert word in answer.text
    assert canary_steps.find(workspace, "talk") == []


def test_an_endpoint_is_deleted_when_its_name_is_written(
    browser: TestClient, workspace: Workspace
) -> None:
    put_endpoint(workspace)
    assert send(browser, "/delete", name="tolk").status_code == 400
    assert service.get(workspace, "talk").state == "Succeeded"
    answer = send(browser, "/delete", name="talk")
    assert (answer.status_code, answer.headers["location"]) == (303, "/studio/endpoints")
    assert service.get(workspace, "talk").state == "Deleting"


CHANGES = (
    *("/traffic", "/canary", "/canary/abort", "/keys", "/keys/rotate", "/ask", "/delete"),
    "/deployments/blue/delete",
)


@pytest.mark.parametrize("place", CHANGES)
def test_no_change_without_the_token_of_the_page(
    browser: TestClient, workspace: Workspace, place: str
) -> None:
    put_endpoint(workspace)
    address = f"/studio/endpoints/talk{place}"
    assert browser.post(address, data={"token": "x"}, headers=ORIGIN).status_code == 403
    foreign = {"origin": "http://evil.example"}
    assert browser.post(address, data={}, headers=foreign).status_code == 403
    assert traffic(workspace) == {"blue": 100}
    assert service.get(workspace, "talk").primary_key == PRIMARY
