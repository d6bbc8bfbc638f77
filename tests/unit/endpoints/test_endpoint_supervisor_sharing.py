"""Adapters of one base share a process, whatever happens to it and to them."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from finery.endpoints import operations, replicas, service, tables
from finery.endpoints.service import WantedDeployment, WantedEndpoint
from finery.endpoints.supervisor import Supervisor
from finery.endpoints.supervisor_sharing import Parts, parts_of
from finery.endpoints.values import Form, Operation, Replica
from finery.runners import process
from finery.workspace.place import Workspace

Look = Callable[[Callable[[], bool]], None]
Deploy = Callable[[WantedDeployment], Operation]


@pytest.fixture(autouse=True)
def chat(workspace: Workspace) -> None:
    service.put(workspace, WantedEndpoint("chat"))


@pytest.fixture
def deploy(workspace: Workspace, look_until: Look) -> Deploy:
    def go(wanted: WantedDeployment) -> Operation:
        _, operation = service.put_deployment(workspace, wanted)
        look_until(lambda: operations.get(workspace, operation).status != "InProgress")
        return operations.get(workspace, operation)

    return go


@pytest.fixture
def adapter(tmp_path: Path) -> Callable[..., WantedDeployment]:
    """`adapter(deployment, base)`: a deployment of an adapter of a base."""

    def make(deployment: str, base: str = "good", **changes: object) -> WantedDeployment:
        folder = tmp_path / "adapters" / deployment
        folder.mkdir(parents=True, exist_ok=True)
        note = {"base_model_name_or_path": base}
        (folder / "adapter_config.json").write_text(json.dumps(note))
        wanted = WantedDeployment("chat", deployment, str(folder), engine="torch")
        return replace(wanted, **changes)  # pyright: ignore[reportArgumentType]

    return make


Adapter = Callable[..., WantedDeployment]


def rows(workspace: Workspace) -> dict[str, Replica]:
    """The newest replica of each deployment."""
    with workspace.store.read() as connection:
        query = tables.replicas.select().order_by(tables.replicas.c.created_at)
        found = [Replica(**row._mapping) for row in connection.execute(query)]
    return {replica.deployment: replica for replica in found}


def processes(workspace: Workspace) -> list[Path]:
    folders = (workspace.replicas / "chat").glob("*/*")
    return [folder for folder in folders if process.is_running(folder)]


def said(workspace: Workspace, replica: Replica) -> str:
    return replicas.tail(replicas.folder_of(workspace, replica) / replicas.LOG, 50)


def test_the_second_adapter_of_a_base_answers_in_the_process_of_the_first(
    workspace: Workspace, deploy: Deploy, adapter: Adapter
) -> None:
    assert deploy(adapter("blue")).status == deploy(adapter("green")).status == "Succeeded"
    blue, green = rows(workspace)["blue"], rows(workspace)["green"]
    assert (green.host, green.port, green.key) == (blue.id, blue.port, blue.key)
    assert (blue.adapter, green.adapter) == ("blue.1", "green.1")
    assert len(processes(workspace)) == 1
    assert "adapter green.1 in" in said(workspace, blue)
    assert service.reports_of(workspace, "chat")["green"]["engine"] == "torch"
    assert service.host_of(workspace, "chat", "green") == "blue"
    assert service.host_of(workspace, "chat", "blue") == ""


def test_the_host_loads_the_base_and_its_adapter_beside_it(
    workspace: Workspace, deploy: Deploy, adapter: Adapter
) -> None:
    wanted = adapter("blue")
    deploy(wanted)
    folder = replicas.folder_of(workspace, rows(workspace)["blue"])
    argv = json.loads((folder / "process.json").read_text())["argv"]
    assert "good" in argv
    assert argv[-2:] == ["--adapter", f"blue.1={wanted.model}"]


@pytest.mark.parametrize(
    "changes",
    [{"engine": "auto"}, {"environment": {"GREETING": "b"}}, {"at_once": 3}, {"base": "better"}],
    ids=str,
)
def test_what_needs_another_process_gets_one(
    workspace: Workspace, deploy: Deploy, adapter: Adapter, changes: dict[str, object]
) -> None:
    deploy(adapter("blue"))
    assert deploy(adapter("green", **changes)).status == "Succeeded"
    assert rows(workspace)["green"].host == ""
    assert len(processes(workspace)) == 2


def test_an_adapter_answers_in_the_process_of_its_base(
    workspace: Workspace, deploy: Deploy, adapter: Adapter
) -> None:
    deploy(WantedDeployment("chat", "base", "good", engine="torch"))
    deploy(adapter("blue"))
    base, blue = rows(workspace)["base"], rows(workspace)["blue"]
    assert (base.adapter, blue.adapter, blue.host) == ("", "blue.1", base.id)


def test_replicas_of_one_deployment_are_processes_of_their_own(
    workspace: Workspace, deploy: Deploy, adapter: Adapter
) -> None:
    deploy(adapter("blue", instance_count=2))
    deploy(adapter("green", instance_count=2))
    assert len(processes(workspace)) == 2
    with workspace.store.read() as connection:
        found = [row.host for row in connection.execute(tables.replicas.select())]
    assert len(set(found)) == 3, "each guest has another host"


def test_an_adapter_that_does_not_fit_fails_its_deployment_alone(
    workspace: Workspace, deploy: Deploy, adapter: Adapter, supervisor: Supervisor
) -> None:
    deploy(adapter("blue"))
    before = rows(workspace)["blue"]
    wanted = adapter("green")
    (Path(wanted.model) / "refused").touch()
    ended = deploy(wanted)
    assert ended.status == "Failed"
    assert ended.error is not None
    assert "it does not fit the base" in ended.error["message"]
    assert supervisor.look()
    assert rows(workspace) == {"blue": before}


def test_a_host_that_dies_takes_its_guests_along_and_all_come_again(
    workspace: Workspace, deploy: Deploy, adapter: Adapter, look_until: Look
) -> None:
    for name in ("blue", "green"):
        deploy(adapter(name))
    first = rows(workspace)["blue"]
    os.kill(int(first.report["pid"]), signal.SIGKILL)

    def are_back() -> bool:
        found = rows(workspace)
        return len(found) == 2 and all(
            one.state == "ready" and first.id not in (one.id, one.host) for one in found.values()
        )

    look_until(are_back)
    states = {one.name: one.state for one in service.deployments_of(workspace, "chat")}
    assert states == {"blue": "Succeeded", "green": "Succeeded"}


def test_a_deleted_host_ends_when_its_guest_answers_elsewhere(
    workspace: Workspace, deploy: Deploy, adapter: Adapter, supervisor: Supervisor, look_until: Look
) -> None:
    for name in ("blue", "green"):
        deploy(adapter(name))
    host = rows(workspace)["blue"]
    operation = service.delete_deployment(workspace, "chat", "blue")
    assert operation is not None

    def is_gone() -> bool:
        with workspace.store.read() as connection:
            found = connection.execute(tables.replicas.select()).all()
        assert [row for row in found if (row.deployment, row.state) == ("green", "ready")]
        return operations.get(workspace, operation).status == "Succeeded"

    look_until(is_gone)
    assert rows(workspace)["green"].host == ""
    assert process.end_all(host.id) == 0
    assert len(processes(workspace)) == 1
    assert not (workspace.replicas / "chat" / "blue").exists()


def test_a_deleted_guest_is_let_go_and_its_host_answers_on(
    workspace: Workspace, deploy: Deploy, adapter: Adapter, look_until: Look
) -> None:
    for name in ("blue", "green"):
        deploy(adapter(name))
    host = rows(workspace)["blue"]
    operation = service.delete_deployment(workspace, "chat", "green")
    assert operation is not None
    look_until(lambda: operations.get(workspace, operation).status == "Succeeded")
    assert rows(workspace) == {"blue": host}
    assert "adapter green.1 out" in said(workspace, host)
    assert replicas.is_healthy(host, 5)


def test_an_endpoint_goes_with_hosts_and_guests(
    workspace: Workspace, deploy: Deploy, adapter: Adapter, look_until: Look
) -> None:
    for name in ("blue", "green", "red"):
        deploy(adapter(name))
    operation = service.delete(workspace, "chat")
    assert operation is not None
    look_until(lambda: operations.get(workspace, operation).status == "Succeeded")
    assert rows(workspace) == {}
    assert processes(workspace) == []


def test_another_version_of_a_guest_takes_its_place_in_the_process(
    workspace: Workspace, deploy: Deploy, adapter: Adapter, look_until: Look, tmp_path: Path
) -> None:
    for name in ("blue", "green"):
        deploy(adapter(name))
    host = rows(workspace)["blue"]
    newer = tmp_path / "adapters" / "newer"
    newer.mkdir()
    (newer / "adapter_config.json").write_text('{"base_model_name_or_path": "good"}')
    assert deploy(replace(adapter("green"), model=str(newer))).status == "Succeeded"

    def is_new() -> bool:
        with workspace.store.read() as connection:
            found = connection.execute(tables.replicas.select()).all()
        return len(found) == 2 and rows(workspace)["green"].revision == 2

    look_until(is_new)
    assert rows(workspace)["blue"] == host


def test_the_next_service_finds_hosts_and_guests_as_they_are(
    workspace: Workspace, deploy: Deploy, adapter: Adapter
) -> None:
    for name in ("blue", "green"):
        deploy(adapter(name))
    before = rows(workspace)
    assert Supervisor(workspace).look()
    assert rows(workspace) == before


def form(model: Path, engine: str = "torch") -> Form:
    return Form(1, str(model), engine, {}, 1, 1)


def test_an_adapter_is_known_by_its_files(tmp_path: Path) -> None:
    assert parts_of(form(tmp_path / "nowhere")) is None
    run = tmp_path / "run"
    (run / "adapter").mkdir(parents=True)
    assert parts_of(form(run)) is None
    (run / "adapter" / "adapter_config.json").write_text('{"base_model_name_or_path": "b"}')
    assert parts_of(form(run)) == Parts("b", run / "adapter")
    assert parts_of(form(run / "adapter")) == Parts("b", run / "adapter")
    assert parts_of(form(run, "auto")) is None, "other engines take no adapters"
    (run / "model").mkdir()
    (run / "model" / "config.json").write_text("{}")
    assert parts_of(form(run)) is None, "it is merged"
