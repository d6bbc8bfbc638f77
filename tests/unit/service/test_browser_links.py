"""Links that people open in a browser: none of them is a dead end."""

from __future__ import annotations

from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from workspaces import new_workspace

from finery.jobs import rows
from finery.jobs.spec import JobSpec, StepSpec, job_to_json
from finery.service.app import create_app
from finery.workspace import identity
from finery.workspace.place import Workspace

GROUP = "/subscriptions/s/resourceGroups/g/providers/Microsoft.MachineLearningServices"
PAGE = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}  # as browsers open an address


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return new_workspace(tmp_path)


@pytest.fixture
def app(workspace: Workspace) -> FastAPI:
    return create_app(workspace)


@pytest.fixture
def http(app: FastAPI) -> TestClient:
    """A client without the background parts of the service (no `with`)."""
    return TestClient(app, raise_server_exceptions=False, follow_redirects=False)


def owner(workspace: Workspace) -> dict[str, str]:
    return {"Authorization": f"Bearer {identity.mint(workspace, identity.MANAGEMENT)}"}


def put_job(workspace: Workspace) -> None:
    step = StepSpec("", command="true")
    spec = JobSpec("a-job", "command", (step,))
    shared = {"root": "a-job", "experiment": "e", "description": "", "tags": {}, "properties": {}}
    row = {"name": "a-job", "type": "command", "parent": "", "step_path": "", "compute": ""}
    row |= {"display_name": "", "spec": job_to_json(spec), "outputs": {}}
    with workspace.store.write() as connection:
        rows.insert(connection, [shared | row])


def on_plain_http(app: FastAPI) -> TestClient:
    return TestClient(app, "http://127.0.0.1", False, follow_redirects=False)


def test_the_studio_url_of_a_job_opens_in_a_browser_that_never_signed_in(
    app: FastAPI, http: TestClient, workspace: Workspace
) -> None:
    put_job(workspace)
    job = http.get(f"{GROUP}/workspaces/w/jobs/a-job", headers=owner(workspace)).json()
    address = job["properties"]["services"]["Studio"]["endpoint"]
    assert address.startswith(f"{workspace.settings.http_url}/")
    browser = on_plain_http(app)
    answer = browser.get("/studio/jobs/a-job", headers=PAGE)
    assert (answer.status_code, "finery up" in answer.text) == (401, True)
    answer = browser.get(address.removeprefix(workspace.settings.http_url), headers=PAGE)
    assert (answer.status_code, answer.headers["location"]) == (303, "/studio/jobs/a-job")
    answer = browser.get("/studio/jobs/a-job", headers=PAGE)
    assert (answer.status_code, "a-job" in answer.text) == (200, True)


def test_the_link_that_mlflow_prints_leads_to_its_pages(app: FastAPI, workspace: Workspace) -> None:
    printed = f"/mlflow/v2.0{GROUP}/workspaces/w"  # then #/experiments/…, which stays behind
    outside = TestClient(
        app, "https://localhost", False, follow_redirects=False, client=("127.0.0.1", 5)
    )
    answer = outside.get(printed, headers=PAGE)
    assert answer.status_code == 303
    assert answer.headers["location"] == f"{workspace.settings.http_url}{printed}"
    browser = on_plain_http(app)
    answer = browser.get(printed, headers=PAGE)
    assert answer.status_code == 401
    assert 'http-equiv="refresh"' in answer.text  # it goes on when the browser has signed in
    link = identity.login_link(workspace, "/mlflow/").removeprefix(workspace.settings.http_url)
    browser.get(link, headers=PAGE)
    for end in ("", "/"):
        answer = browser.get(printed + end, headers=PAGE)
        assert (answer.status_code, answer.headers["location"]) == (303, "/mlflow/")


def test_who_is_on_another_machine_is_not_sent_to_its_own_loopback(app: FastAPI) -> None:
    far = TestClient(app, "https://far", False, follow_redirects=False, client=("10.0.0.7", 5))
    answer = far.get("/mlflow/", headers=PAGE)
    assert (answer.status_code, "<code>finery up</code>" in answer.text) == (401, True)


def test_an_old_link_opens_its_page_in_a_browser_that_is_signed_in(
    app: FastAPI, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as then:
        then.setattr(identity, "HALF_A_DAY", -60)
        old = identity.login_link(workspace, "/studio/jobs/a")
    old = old.removeprefix(workspace.settings.http_url)
    browser = on_plain_http(app)
    answer = browser.get(old, headers=PAGE)
    assert (answer.status_code, "<code>finery up</code>" in answer.text) == (401, True)
    assert "set-cookie" not in answer.headers
    link = identity.login_link(workspace, "/mlflow/").removeprefix(workspace.settings.http_url)
    browser.get(link, headers=PAGE)
    answer = browser.get(old, headers=PAGE)
    assert (answer.status_code, answer.headers["location"]) == (303, "/studio/jobs/a")


def test_programs_are_refused_in_azures_words_still(http: TestClient) -> None:
    for headers in ({}, {**PAGE, "authorization": "Bearer x"}):
        answer = http.get("/mlflow/", headers=headers)
        assert answer.json()["error"]["code"] == "InvalidAuthenticationToken"
