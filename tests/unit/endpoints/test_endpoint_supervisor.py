"""Replicas come, live on, come again and go, as the deployments want them."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from dataclasses import replace

import httpx
import pytest

from finery.endpoints import operations, replicas, routing, service, tables
from finery.endpoints.service import WantedDeployment, WantedEndpoint
from finery.endpoints.supervisor import Supervisor
from finery.endpoints.values import Operation, Probe, Replica
from finery.runners import process
from finery.workspace.errors import NotFoundError
from finery.workspace.place import Workspace

Look = Callable[[Callable[[], bool]], None]
BLUE = WantedDeployment("chat", "blue", "good", environment={"GREETING": "hello"})
QUICK = Probe(initial_delay=0.0, period=0.02, timeout=0.05, failure_threshold=2)


@pytest.fixture(autouse=True)
def chat(workspace: Workspace) -> None:
    service.put(workspace, WantedEndpoint("chat"))


@pytest.fixture
def deploy(workspace: Workspace, look_until: Look) -> Callable[[WantedDeployment], Operation]:
    """Ask for a deployment and wait for what becomes of it."""

    def go(wanted: WantedDeployment) -> Operation:
        _, operation = service.put_deployment(workspace, wanted)
        look_until(lambda: operations.get(workspace, operation).status != "InProgress")
        return operations.get(workspace, operation)

    return go


def ready(workspace: Workspace) -> list[Replica]:
    return list(routing.table(workspace, "chat").replicas.get("blue", []))


def pid_of(workspace: Workspace, replica: Replica) -> int:
    note = replicas.folder_of(workspace, replica) / replicas.READY
    return json.loads(note.read_text())["pid"]


def test_a_deployment_succeeds_when_all_its_replicas_answer(
    workspace: Workspace, deploy: Callable[[WantedDeployment], Operation]
) -> None:
    assert deploy(replace(BLUE, instance_count=2)).status == "Succeeded"
    assert service.deployment(workspace, "chat", "blue").state == "Succeeded"
    found = ready(workspace)
    assert len(found) == len({replica.port for replica in found}) == 2
    assert all(replicas.is_healthy(replica, 5) for replica in found)


def test_variables_of_the_deployment_reach_its_replicas_and_the_log_is_read(
    workspace: Workspace, deploy: Callable[[WantedDeployment], Operation]
) -> None:
    deploy(BLUE)
    log = replicas.newest_log(workspace, "chat", "blue")
    assert log is not None
    assert "loading good with hello" in replicas.tail(log, 100)
    assert replicas.tail(log, 0) == ""


def test_a_replica_answers_to_its_own_key_alone(
    workspace: Workspace, deploy: Callable[[WantedDeployment], Operation]
) -> None:
    deploy(replace(BLUE, instance_count=2))
    one, other = ready(workspace)

    def status(key: str) -> int:
        headers = {"authorization": f"Bearer {key}"}
        url = f"http://127.0.0.1:{one.port}/score"
        return httpx.post(url, json={}, headers=headers, trust_env=False).status_code

    assert (status(one.key), status(other.key)) == (200, 401)


def test_a_model_that_cannot_be_served_fails_the_deployment_at_once_and_says_why(
    workspace: Workspace,
    deploy: Callable[[WantedDeployment], Operation],
    supervisor: Supervisor,
) -> None:
    ended = deploy(replace(BLUE, model="refuses"))
    assert ended.status == "Failed"
    assert ended.error is not None
    assert ended.error["code"] == "ResourceNotReady"
    assert "it is a table" in ended.error["message"]
    found = service.deployment(workspace, "chat", "blue")
    assert found.state == "Failed"
    assert found.error == ended.error
    for _ in range(3):
        supervisor.look()
    starts = list((workspace.replicas / "chat" / "blue").iterdir())
    assert len(starts) == 1, "a refusal is not tried again"


@pytest.mark.parametrize(
    ("model", "end"), [("dies", "exit status 70"), ("starves", "was the machine out of memory?")]
)
def test_a_replica_that_dies_before_it_answers_has_three_attempts(
    workspace: Workspace,
    deploy: Callable[[WantedDeployment], Operation],
    model: str,
    end: str,
) -> None:
    ended = deploy(replace(BLUE, model=model))
    assert ended.status == "Failed"
    assert ended.error is not None
    assert end in ended.error["message"]
    assert len(list((workspace.replicas / "chat" / "blue").iterdir())) == 3


def test_a_failed_deployment_is_mended_by_another_update(
    workspace: Workspace, deploy: Callable[[WantedDeployment], Operation]
) -> None:
    deploy(replace(BLUE, model="refuses"))
    assert deploy(BLUE).status == "Succeeded"
    assert service.deployment(workspace, "chat", "blue").error is None


def test_a_killed_replica_comes_again(
    workspace: Workspace,
    deploy: Callable[[WantedDeployment], Operation],
    look_until: Look,
) -> None:
    deploy(BLUE)
    (first,) = ready(workspace)
    os.kill(pid_of(workspace, first), signal.SIGKILL)
    look_until(lambda: bool(ready(workspace)) and ready(workspace)[0].id != first.id)
    assert service.deployment(workspace, "chat", "blue").state == "Succeeded"


def test_a_replica_that_keeps_crashing_is_started_again_after_a_pause(
    workspace: Workspace,
    deploy: Callable[[WantedDeployment], Operation],
    look_until: Look,
) -> None:
    deploy(BLUE)
    for _ in range(2):
        look_until(lambda: bool(ready(workspace)))
        (one,) = ready(workspace)
        os.kill(pid_of(workspace, one), signal.SIGABRT)
        folder = replicas.folder_of(workspace, one)
        look_until(lambda folder=folder: process.state(folder) != "running")
        look_until(lambda one=one: one not in ready(workspace))
    with workspace.store.read() as connection:
        assert connection.execute(tables.replicas.select()).first() is None
    look_until(lambda: bool(ready(workspace)))


def test_one_that_is_killed_comes_again_at_once_however_often(
    workspace: Workspace,
    deploy: Callable[[WantedDeployment], Operation],
    supervisor: Supervisor,
    look_until: Look,
) -> None:
    deploy(BLUE)
    for _ in range(3):
        look_until(lambda: bool(ready(workspace)))
        process.end_all(ready(workspace)[0].id)
        supervisor.look()
        supervisor.look()
        with workspace.store.read() as connection:
            (row,) = connection.execute(tables.replicas.select())
        assert row.state == "starting"


def test_a_replica_that_does_not_answer_its_probe_is_replaced(
    workspace: Workspace,
    deploy: Callable[[WantedDeployment], Operation],
    look_until: Look,
) -> None:
    deploy(replace(BLUE, model="deaf", liveness_probe=QUICK))
    (first,) = ready(workspace)
    look_until(lambda: first.id not in [replica.id for replica in ready(workspace)])


def test_the_next_service_adopts_the_replicas_of_the_last(
    workspace: Workspace, deploy: Callable[[WantedDeployment], Operation]
) -> None:
    deploy(BLUE)
    before = ready(workspace)
    following = Supervisor(workspace)
    assert following.look()
    assert ready(workspace) == before
    assert replicas.is_healthy(before[0], 5)


def test_a_replica_that_died_while_no_service_looked_comes_again(
    workspace: Workspace, deploy: Callable[[WantedDeployment], Operation], look_until: Look
) -> None:
    deploy(BLUE)
    (first,) = ready(workspace)
    process.end_all(first.id)  # the replica and its entry: nobody notes an exit
    following = Supervisor(workspace)
    following.look()
    assert first.id not in [replica.id for replica in ready(workspace)]
    look_until(lambda: len(ready(workspace)) == 1)


def test_a_service_that_dies_between_the_note_and_the_start_loses_no_replica(
    workspace: Workspace,
    deploy: Callable[[WantedDeployment], Operation],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(replicas, "start", lambda *_: None)
        service.put_deployment(workspace, BLUE)
        Supervisor(workspace).look()
    assert deploy(BLUE).status == "Succeeded"
    assert len(list((workspace.replicas / "chat" / "blue").iterdir())) == 1


def test_scaling_keeps_the_replicas_that_stay(
    workspace: Workspace,
    deploy: Callable[[WantedDeployment], Operation],
    look_until: Look,
) -> None:
    deploy(BLUE)
    (first,) = ready(workspace)
    deploy(replace(BLUE, instance_count=2))
    assert first in ready(workspace)
    deploy(BLUE)
    look_until(lambda: len(ready(workspace)) == 1)


def test_the_old_model_answers_until_the_new_one_does(
    workspace: Workspace,
    deploy: Callable[[WantedDeployment], Operation],
    look_until: Look,
) -> None:
    deploy(BLUE)
    (old,) = ready(workspace)
    assert deploy(replace(BLUE, model="refuses")).status == "Failed"
    assert ready(workspace) == [old], "an update that failed takes nothing away"
    assert deploy(replace(BLUE, model="better")).status == "Succeeded"
    look_until(lambda: old.id not in [replica.id for replica in ready(workspace)])
    folder = replicas.folder_of(workspace, old)
    look_until(lambda: process.state(folder) != "running")


def test_a_deleted_endpoint_leaves_no_process_and_no_file(
    workspace: Workspace,
    deploy: Callable[[WantedDeployment], Operation],
    look_until: Look,
) -> None:
    deploy(BLUE)
    (replica,) = ready(workspace)
    operation = service.delete(workspace, "chat")
    assert operation is not None
    look_until(lambda: operations.get(workspace, operation).status == "Succeeded")
    with pytest.raises(NotFoundError):
        service.get(workspace, "chat")
    assert not (workspace.replicas / "chat").exists()
    assert process.end_all(replica.id) == 0


def test_a_deployment_deleted_while_it_starts_goes_too(
    workspace: Workspace, supervisor: Supervisor, look_until: Look
) -> None:
    service.put_deployment(workspace, BLUE)
    supervisor.look()
    operation = service.delete_deployment(workspace, "chat", "blue")
    assert operation is not None
    look_until(lambda: operations.get(workspace, operation).status == "Succeeded")
    assert service.deployments_of(workspace, "chat") == []
    assert service.put_deployment(workspace, BLUE)[0].state == "Creating"
