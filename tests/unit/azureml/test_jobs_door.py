"""The door of jobs: what is shown, listed, changed and refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from bodies_of_sdk import sent, workspace_in
from fastapi.testclient import TestClient
from jobs_app import ARM, JOBS, client_of, put_job

from finery.azureml.job_changes import same_request
from finery.jobs.job import child_name
from finery.workspace.place import Workspace


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return workspace_in(tmp_path)


@pytest.fixture
def door(workspace: Workspace) -> TestClient:
    return client_of(workspace)


def test_a_job_is_shown_with_what_was_sent_and_what_became_of_it(
    door: TestClient, workspace: Workspace
) -> None:
    put_job(workspace, "one")
    job = door.get(f"{JOBS}/one").json()
    assert (job["id"], job["name"]) == (f"{ARM}/jobs/one", "one")
    assert job["systemData"]["createdAt"].endswith("Z")
    properties = job["properties"]
    assert properties["jobType"] == "Pipeline"
    assert properties["status"] == "Completed"
    assert properties["tags"] == {"k": "v"}
    assert properties["isArchived"] is False
    assert properties["services"]["Studio"]["endpoint"].endswith("&next=/studio/jobs/one")
    model = properties["outputs"]["model"]
    assert model["jobOutputType"] == "uri_folder"
    place = "azureml://subscriptions/s/resourcegroups/g/workspaces/w/datastores/workspaceblobstore"
    assert model["uri"] == f"{place}/paths/azureml/one/model"


def test_a_step_has_no_properties_so_that_clients_look_into_the_run_history(
    door: TestClient, workspace: Workspace
) -> None:
    put_job(workspace, "one")
    assert door.get(f"{JOBS}/{child_name('one', 'train')}").json()["properties"] is None


def test_the_list_has_submitted_jobs_alone_newest_first_in_pages(
    door: TestClient, workspace: Workspace
) -> None:
    for number in range(5):
        put_job(workspace, f"job{number}")
    names, address = [], f"{JOBS}?$top=2&api-version=x"
    while address:
        page = door.get(address).json()
        assert len(page["value"]) <= 2
        names += [job["name"] for job in page["value"]]
        address = page.get("nextLink", "").removeprefix(workspace.settings.base_url)
    assert names == [f"job{number}" for number in (4, 3, 2, 1, 0)]


def test_the_list_can_be_limited(door: TestClient, workspace: Workspace) -> None:
    put_job(workspace, "a", tags={"team": "x"})
    put_job(workspace, "b", archived=True)

    def names(query: str) -> list[str]:
        return [job["name"] for job in door.get(f"{JOBS}?{query}").json()["value"]]

    assert names("") == ["a"]
    assert names("listViewType=ArchivedOnly") == ["b"]
    assert names("listViewType=ListViewType.ARCHIVED_ONLY") == ["b"]
    assert names("listViewType=All") == ["b", "a"]
    assert names("listViewType=ListViewType.ALL&tag=team") == ["a"]
    assert names("tag=team=x") == ["a"]
    assert names("tag=team=y") == []
    assert names("jobType=Command") == []
    assert names("jobType=pipeline") == ["a"]


@pytest.mark.parametrize(
    "query",
    [
        *("$top=x", "$top=0", "$top=-1", "$skip=x", "$top=²", "$skip=99999999999999999999"),
        *("listViewType=Archived", "listViewType="),
    ],
)
def test_a_page_that_cannot_be_is_refused(door: TestClient, query: str) -> None:
    assert door.get(f"{JOBS}?{query}").status_code == 400


def test_what_is_not_there_is_not_found(door: TestClient) -> None:
    for method, place in (
        ("GET", "gone"),
        ("DELETE", "gone"),
        ("POST", "gone/cancel"),
        ("GET", "gone/cancel"),
    ):
        answer = door.request(method, f"{JOBS}/{place}")
        assert answer.status_code == 404
        assert "gone" in answer.json()["error"]["message"]


def test_canceling_what_has_ended_is_done_at_once(door: TestClient, workspace: Workspace) -> None:
    put_job(workspace, "one")
    assert door.post(f"{JOBS}/one/cancel").status_code == 200


def test_canceling_says_where_to_ask_and_when(door: TestClient, workspace: Workspace) -> None:
    put_job(workspace, "one", status="Running")
    asked = door.post(f"{JOBS}/one/cancel")
    assert asked.status_code == 202
    assert int(asked.headers["retry-after-ms"]) < 1000
    address = asked.headers["location"].removeprefix(workspace.settings.base_url)
    assert door.get(address).status_code == 202
    assert door.get(f"{JOBS}/one").json()["properties"]["status"] == "CancelRequested"


def test_a_running_job_cannot_be_deleted(door: TestClient, workspace: Workspace) -> None:
    put_job(workspace, "one", status="Running")
    assert door.delete(f"{JOBS}/one").status_code == 409
    put_job(workspace, "two")
    assert door.delete(f"{JOBS}/two").status_code == 200
    assert door.get(f"{JOBS}/two").status_code == 404


def test_a_job_sent_again_changes_what_may_change(door: TestClient, workspace: Workspace) -> None:
    put_job(workspace, "one")
    body = door.get(f"{JOBS}/one").json()
    body["properties"] |= {"tags": {"new": "1"}, "displayName": "New", "isArchived": True}
    changed = door.put(f"{JOBS}/one", json=body)
    assert changed.status_code == 200
    properties = changed.json()["properties"]
    assert properties["tags"] == {"new": "1"}
    assert (properties["displayName"], properties["isArchived"]) == ("New", True)


def test_a_job_sent_again_with_other_work_is_a_conflict(
    door: TestClient, workspace: Workspace
) -> None:
    put_job(workspace, "one")
    body = door.get(f"{JOBS}/one").json()
    body["properties"]["jobs"]["more"] = {"type": "command"}
    refused = door.put(f"{JOBS}/one", json=body)
    assert refused.status_code == 409
    assert "another name" in refused.json()["error"]["message"]


def test_a_step_cannot_be_submitted_over(door: TestClient, workspace: Workspace) -> None:
    put_job(workspace, "one")
    body = sent("command")["body"]
    assert door.put(f"{JOBS}/{child_name('one', 'train')}", json=body).status_code == 409


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"properties": {"jobType": "Sweep"}}, 501),
        ({"properties": {}}, 501),
        ({"properties": {"jobType": "Command"}}, 400),
        ({}, 400),
        ([], 400),
        ({"properties": {"jobType": "Pipeline", "jobs": 3, "inputs": 3, "settings": 3}}, 400),
        ({"properties": {"jobType": "FineTuning"}}, 501),
    ],
)
def test_bodies_that_are_no_jobs_are_refused_with_words(
    door: TestClient, body: object, status: int
) -> None:
    answer = door.put(f"{JOBS}/new", json=body)
    assert answer.status_code == status
    assert answer.json()["error"]["message"]
    assert door.get(f"{JOBS}/new").status_code == 404


def test_a_body_that_a_client_read_and_sent_back_asks_for_the_same() -> None:
    old = {"command": "x", "outputs": {"o": {"mode": "Upload"}}, "tags": {"a": "1"}}
    filled = {"o": {"uri": "azureml://subscriptions/s/x", "mode": "Upload"}}
    new = {"command": "x", "outputs": filled, "status": "Completed", "distribution": None}
    assert same_request(old, new)
    assert not same_request(old, {**new, "command": "y"})
    other = {"o": {"uri": "azureml://datastores/d/paths/p", "mode": "Upload"}}
    assert not same_request(old, {**new, "outputs": other})
