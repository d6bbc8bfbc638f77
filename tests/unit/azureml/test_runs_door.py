"""The run history: details, logs, children, outputs, and changes to a run."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from bodies_of_sdk import workspace_in
from fastapi.testclient import TestClient
from jobs_app import ARM, RUNS, client_of, put_job, write_log

from finery.azureml.runs import CHUNK, complete_lines, read
from finery.jobs.job import child_name
from finery.workspace.place import Workspace

LOG = "logs/azureml/executionlogs.txt"
NEW, OLD = "azsdk azure-ai-ml/1.35.2 Python", "azure-ai-ml/1.31.0 azsdk"


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    made = workspace_in(tmp_path)
    put_job(made, "one")
    return made


@pytest.fixture
def door(workspace: Workspace) -> TestClient:
    return client_of(workspace)


def local(workspace: Workspace, address: str) -> str:
    return address.removeprefix(workspace.settings.base_url)


def test_details_give_every_log_at_an_address_that_works(
    door: TestClient, workspace: Workspace
) -> None:
    write_log(workspace, "one", LOG, b"one\ntwo")
    files = door.get(f"{RUNS}/one/details").json()["logFiles"]
    assert list(files) == [LOG]
    answer = door.get(local(workspace, files[LOG]))
    assert (answer.status_code, answer.text) == (200, "one\ntwo")
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"


def test_an_unfinished_line_waits_until_the_run_has_ended(
    door: TestClient, workspace: Workspace
) -> None:
    put_job(workspace, "going", status="Running")
    write_log(workspace, "going", LOG, b"done\nhal" + "ü".encode()[:1])
    address = door.get(f"{RUNS}/going/details").json()["logFiles"][LOG]
    assert door.get(local(workspace, address)).text == "done\n"


def test_a_log_is_shown_to_nobody_without_the_signature(
    door: TestClient, workspace: Workspace
) -> None:
    write_log(workspace, "one", LOG, b"secret")
    good = local(workspace, door.get(f"{RUNS}/one/details").json()["logFiles"][LOG])
    for bad in (
        good.partition("?")[0],
        good.replace("sig=", "sig=0"),
        good.replace("executionlogs", "other"),
        good.replace("/one/", "/two/"),
        good.replace("se=", "se=9"),
    ):
        answer = door.get(bad)
        assert answer.status_code == 401
        assert "secret" not in answer.text


def test_only_the_logs_of_a_job_are_served(door: TestClient, workspace: Workspace) -> None:
    from finery.azureml.run_views import log_address

    (workspace.blobs / "azureml").mkdir(parents=True, exist_ok=True)
    for name in ("../../../finery.sqlite", "logs/../../x", "gone.txt"):
        address = local(workspace, log_address(workspace, "one", name))
        assert door.get(address).status_code in (401, 404)


def test_the_first_look_at_an_ended_run_finds_it_finalizing(door: TestClient) -> None:
    statuses = [door.get(f"{RUNS}/one/details").json()["status"] for _ in range(2)]
    assert statuses == ["Finalizing", "Completed"]


def test_a_failed_run_says_why_in_the_shape_of_azure(
    door: TestClient, workspace: Workspace
) -> None:
    error = {"code": "UserError", "message": "no flour left", "step": "train"}
    put_job(workspace, "bad", status="Failed", error=error)
    door.get(f"{RUNS}/bad/details")
    found = door.get(f"{RUNS}/bad/details").json()
    assert found["status"] == "Failed"
    assert found["error"]["error"]["code"] == "UserError"
    assert "no flour left" in found["error"]["error"]["message"]


def test_the_steps_of_a_run_are_its_children(door: TestClient, workspace: Workspace) -> None:
    (child,) = door.get(f"{RUNS}/one/children").json()["value"]
    assert child["runId"] == child_name("one", "train")
    assert (child["parentRunId"], child["rootRunId"]) == ("one", "one")
    assert child["displayName"] == "Train"
    assert child["experimentId"] == "tests"


def test_a_run_is_found_below_its_experiment_as_well(door: TestClient) -> None:
    history = f"/history/v1.0{ARM}"
    for place in ("experiments/tests/runs/one", "experimentids/tests/runs/one", "runs/one"):
        assert door.get(f"{history}/{place}").json()["runId"] == "one"


def test_outputs_have_types_that_each_sdk_understands(door: TestClient) -> None:
    def kind(agent: str) -> str:
        headers = {"user-agent": agent}
        asked = {"runId": "one", "selectRunMetadata": True}
        found = door.post(f"/history/v1.0{ARM}/rundata", json=asked, headers=headers).json()
        return found["runMetadata"]["outputs"]["model"]["type"]

    assert kind(NEW) == "uri_folder"
    assert kind(OLD) == "UriFolder"
    assert kind("curl") == "uri_folder"


def test_the_id_of_an_output_leads_to_its_place(door: TestClient) -> None:
    asset = "azureml://jobs/one/outputs/model"
    place = "azureml://subscriptions/s/resourcegroups/g/workspaces/w/datastores/workspaceblobstore"
    data = f"/data/v1.0{ARM}/dataversion/batchGetResolvedUris"
    found = door.post(data, json={"values": [asset]}).json()["values"][asset]
    assert found["uri"] == f"{place}/paths/azureml/one/model"
    models = f"/modelregistry/v1.0{ARM}/models/batchGetResolvedUris"
    found = door.post(models, json={"values": [asset]}).json()["values"][asset]
    assert found["path"] == f"{place}/paths/azureml/one/model"


@pytest.mark.parametrize(
    ("asset", "status"),
    [
        ("azureml://jobs/one/outputs/gone", 404),
        ("azureml://jobs/gone/outputs/model", 404),
        ("azureml:x:1", 400),
        ("/etc/passwd", 400),
    ],
)
def test_an_id_of_nothing_is_refused(door: TestClient, asset: str, status: int) -> None:
    data = f"/data/v1.0{ARM}/dataversion/batchGetResolvedUris"
    assert door.post(data, json={"values": [asset]}).status_code == status


def test_a_run_can_be_archived_and_described(door: TestClient) -> None:
    body = {
        "hidden": True,
        "displayName": "New",
        "description": "why",
        "tags": {"b": 2},
        "properties": {"p": "3"},
    }
    changed = door.patch(f"/history/v1.0{ARM}/experiments/tests/runs/one", json=body).json()
    assert changed["hidden"] is True
    assert (changed["displayName"], changed["description"]) == ("New", "why")
    assert changed["tags"] == {"k": "v", "b": "2"}
    assert changed["properties"] == {"p": "3"}
    restored = door.patch(f"{RUNS}/one", json={"hidden": False}).json()
    assert restored["hidden"] is False
    assert restored["displayName"] == "New"


def test_tags_that_two_give_at_once_are_both_kept(door: TestClient) -> None:
    with ThreadPoolExecutor(8) as pool:
        bodies = [{"tags": {f"t{number}": "1"}} for number in range(24)]
        for answer in pool.map(lambda body: door.patch(f"{RUNS}/one", json=body), bodies):
            assert answer.status_code == 200
    tags = door.get(f"{RUNS}/one").json()["tags"]
    assert len(tags) == 1 + 24


@pytest.mark.parametrize(
    "body",
    [
        *({"hidden": "yes"}, {"tags": ["a"]}, {"properties": 3}),
        *({"displayName": {"a": 1}}, {"description": [1]}),
    ],
)
def test_a_change_that_is_none_is_refused(door: TestClient, body: object) -> None:
    assert door.patch(f"{RUNS}/one", json=body).status_code == 400


def test_a_reused_step_says_so_as_azure_does(door: TestClient, workspace: Workspace) -> None:
    reuse = {"from": "earlier", "why": "same inputs"}
    put_job(workspace, "again", reuse=reuse)
    properties = door.get(f"{RUNS}/again").json()["properties"]
    assert properties["azureml.isreused"] == "true"
    assert properties["azureml.reusedrunid"] == "earlier"
    assert properties["finery.reuse"] == "same inputs"


def test_whole_lines_are_counted_in_files_of_any_size(tmp_path: Path) -> None:
    path = tmp_path / "log"
    for content, whole in (
        (b"", 0),
        (b"x", 0),
        (b"\n", 1),
        (b"a\nb", 2),
        (b"a\n" + b"b" * (CHUNK + 5), 2),
        (b"b" * (2 * CHUNK) + b"\n", 2 * CHUNK + 1),
    ):
        path.write_bytes(content)
        assert complete_lines(path) == whole


def test_a_growing_file_is_read_up_to_the_promised_size(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"abc" * CHUNK)
    assert b"".join(read(path, 2 * CHUNK + 1)) == (b"abc" * CHUNK)[: 2 * CHUNK + 1]


@pytest.fixture
def ten(door: TestClient, workspace: Workspace) -> str:
    """The address of a log of ten bytes, and an unfinished line."""
    put_job(workspace, "going", status="Running")
    write_log(workspace, "going", LOG, b"012345678\nhalf a line")
    return local(workspace, door.get(f"{RUNS}/going/details").json()["logFiles"][LOG])


@pytest.mark.parametrize(
    ("asked", "part", "said"),
    [
        ("bytes=4-", "45678\n", "bytes 4-9/10"),
        ("bytes=4-6", "456", "bytes 4-6/10"),
        ("bytes=0-99", "012345678\n", "bytes 0-9/10"),
        ("bytes=-3", "78\n", "bytes 7-9/10"),
        ("bytes=-99", "012345678\n", "bytes 0-9/10"),
    ],
)
def test_who_follows_a_log_fetches_only_what_is_new(
    door: TestClient, ten: str, asked: str, part: str, said: str
) -> None:
    answer = door.get(ten, headers={"Range": asked})
    assert (answer.status_code, answer.text) == (206, part)
    assert answer.headers["content-range"] == said
    assert answer.headers["content-length"] == str(len(part))


@pytest.mark.parametrize("asked", ["bytes=10-", "bytes=99-120", "bytes=-0"])
def test_a_log_without_news_says_how_long_it_is(door: TestClient, ten: str, asked: str) -> None:
    answer = door.get(ten, headers={"Range": asked})
    assert (answer.status_code, answer.content) == (416, b"")
    assert answer.headers["content-range"] == "bytes */10"


@pytest.mark.parametrize("asked", ["", "bytes=-", "bytes=5-4", "lines=1-2", "bytes=0-1,3-4", "x"])
def test_a_range_that_is_none_gives_the_whole_log(door: TestClient, ten: str, asked: str) -> None:
    answer = door.get(ten, headers={"Range": asked})
    assert (answer.status_code, answer.text) == (200, "012345678\n")
    assert answer.headers["accept-ranges"] == "bytes"
