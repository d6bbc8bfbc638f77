"""Liveness and readiness as Azure defines them, and the start-up state before both."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path

import pytest

from finery.endpoints import operations, replicas, service, supervisor_replicas, tables
from finery.endpoints.service import WantedDeployment, WantedEndpoint
from finery.endpoints.supervisor import Supervisor
from finery.endpoints.supervisor_probes import Watch
from finery.endpoints.values import Form, Operation, Probe, Replica
from finery.workspace.place import Workspace

Look = Callable[[Callable[[], bool]], None]
NEVER = Probe(initial_delay=3600.0, period=3600.0)
QUICK = Probe(initial_delay=0.0, period=0.01, timeout=5.0, failure_threshold=2, success_threshold=3)


def count(watch: Watch, looks: str) -> str:
    """What is known after each look; `+` is a good one."""
    known = ""
    for look in looks:
        watch.count(look == "+")
        known += "+" if watch.good else "-"
    return known


@pytest.mark.parametrize(
    ("good", "looks", "known"),
    [
        (True, "+--+--", "+++++" + "+"),
        (True, "---", "++-"),
        (True, "----++", "++---" + "+"),
        (False, "+-++", "---+"),
        (False, "-++", "--+"),
    ],
)
def test_thresholds_count_looks_in_a_row(good: bool, looks: str, known: str) -> None:
    probe = Probe(success_threshold=2, failure_threshold=3)
    assert count(Watch(probe, 0.0, good), looks) == known


def test_a_look_under_way_is_waited_for_and_the_next_comes_a_period_later() -> None:
    asked: list[Future[bool]] = []

    def ask(timeout: float) -> Future[bool]:
        assert timeout == 2.5
        asked.append(Future())
        return asked[-1]

    watch = Watch(Probe(period=3600.0, timeout=2.5, failure_threshold=1), 0.0)
    assert watch.look(ask)
    assert watch.look(ask)
    assert len(asked) == 1
    asked[0].set_result(False)
    assert not watch.look(ask)
    assert not watch.look(ask)
    assert len(asked) == 1


@pytest.fixture(autouse=True)
def chat(workspace: Workspace) -> None:
    service.put(workspace, WantedEndpoint("chat"))


@pytest.fixture
def mood(tmp_path: Path) -> Path:
    """While this file is there, the replicas say that they are not healthy."""
    return tmp_path / "bad mood"


@pytest.fixture
def moody(mood: Path) -> WantedDeployment:
    variables = {"MOOD": str(mood)}
    return WantedDeployment("chat", "blue", "moody", variables, readiness_probe=QUICK)


@pytest.fixture
def deploy(workspace: Workspace, look_until: Look) -> Callable[[WantedDeployment], Operation]:
    def go(wanted: WantedDeployment) -> Operation:
        _, operation = service.put_deployment(workspace, wanted)
        look_until(lambda: operations.get(workspace, operation).status != "InProgress")
        return operations.get(workspace, operation)

    return go


def rows(workspace: Workspace) -> list[Replica]:
    with workspace.store.read() as connection:
        found = connection.execute(tables.replicas.select())
        return [Replica(**row._mapping) for row in found]


def test_a_replica_that_is_not_ready_leaves_rotation_and_comes_back(
    workspace: Workspace,
    deploy: Callable[[WantedDeployment], Operation],
    look_until: Look,
    moody: WantedDeployment,
    mood: Path,
) -> None:
    assert deploy(replace(moody, liveness_probe=NEVER)).status == "Succeeded"
    (first,) = rows(workspace)
    mood.touch()
    look_until(lambda: rows(workspace)[0].state == "unready")
    assert rows(workspace)[0].id == first.id, "it is neither ended nor replaced"
    mood.unlink()
    look_until(lambda: rows(workspace)[0].state == "ready")
    assert rows(workspace) == [first]
    assert service.deployment(workspace, "chat", "blue").state == "Succeeded"


def test_the_next_service_lets_a_replica_back_that_the_last_one_took_out(
    workspace: Workspace,
    deploy: Callable[[WantedDeployment], Operation],
    look_until: Look,
    moody: WantedDeployment,
) -> None:
    deploy(replace(moody, liveness_probe=NEVER))
    with workspace.store.write() as connection:
        connection.execute(tables.replicas.update().values(state="unready"))
    following = Supervisor(workspace)

    def is_back() -> bool:
        following.look()
        return rows(workspace)[0].state == "ready"

    look_until(is_back)


def test_a_replica_that_fails_its_liveness_probe_is_replaced(
    workspace: Workspace,
    deploy: Callable[[WantedDeployment], Operation],
    look_until: Look,
    moody: WantedDeployment,
    mood: Path,
) -> None:
    deploy(replace(moody, liveness_probe=QUICK, readiness_probe=NEVER))
    (first,) = rows(workspace)
    mood.touch()
    look_until(lambda: first.id not in [one.id for one in rows(workspace)])
    mood.unlink()
    look_until(lambda: [one.state for one in rows(workspace)] == ["ready"])


def test_no_probe_looks_before_its_initial_delay(
    workspace: Workspace,
    deploy: Callable[[WantedDeployment], Operation],
    supervisor: Supervisor,
    moody: WantedDeployment,
    mood: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    late = replace(QUICK, initial_delay=3600.0)
    deploy(replace(moody, liveness_probe=late, readiness_probe=late))
    mood.touch()
    looks: list[Replica] = []
    monkeypatch.setattr(replicas, "is_healthy", lambda one, _: looks.append(one))
    for _ in range(20):
        supervisor.look()
    assert looks == []


def test_a_model_that_loads_slowly_is_probed_by_nobody(
    workspace: Workspace, supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    impatient = Probe(initial_delay=0.0, period=0.01, timeout=0.01, failure_threshold=1)
    wanted = WantedDeployment("chat", "blue", "slow")
    probes = {"liveness_probe": impatient, "readiness_probe": impatient}
    service.put_deployment(workspace, replace(wanted, **probes))
    monkeypatch.setattr(replicas, "is_healthy", lambda *_: pytest.fail("it was probed"))
    for _ in range(20):
        supervisor.look()
    (one,) = rows(workspace)
    assert one.state == "starting"
    assert service.deployment(workspace, "chat", "blue").state == "Creating"


def test_a_replica_that_is_never_ready_ends_with_the_start_limit(
    workspace: Workspace,
    supervisor: Supervisor,
    look_until: Look,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    service.put_deployment(workspace, WantedDeployment("chat", "blue", "slow"))
    supervisor.look()
    (first,) = rows(workspace)
    log = replicas.folder_of(workspace, first) / replicas.LOG
    look_until(lambda: "loading slow" in replicas.tail(log, 5))
    monkeypatch.setattr(supervisor_replicas, "START_LIMIT", 0.0)
    look_until(lambda: first.id not in [one.id for one in rows(workspace)])


def test_what_a_replica_reports_is_kept_and_shown(
    workspace: Workspace, deploy: Callable[[WantedDeployment], Operation]
) -> None:
    deploy(WantedDeployment("chat", "blue", "good", engine="torch"))
    (one,) = rows(workspace)
    folder = replicas.folder_of(workspace, one)
    assert one.report == json.loads((folder / replicas.READY).read_text())
    assert service.reports_of(workspace, "chat") == {"blue": {"engine": "torch", "context": 64}}


def test_a_replica_has_the_time_of_its_longest_answer_to_end(
    workspace: Workspace, deploy: Callable[[WantedDeployment], Operation]
) -> None:
    deploy(WantedDeployment("chat", "blue", "good", timeout_seconds=77.0))
    (one,) = rows(workspace)
    asked = json.loads((replicas.folder_of(workspace, one) / "process.json").read_text())
    assert asked["grace"] == 77.0 + replicas.GRACE
    found = Path(f"/proc/{one.report['pid']}/environ")
    if found.exists():
        assert b"FINERY_REPLICA_GRACE=77\0" in found.read_bytes()
    assert "FINERY_REPLICA_GRACE" not in os.environ


@pytest.mark.parametrize(
    ("engine", "variables", "model"),
    [
        ("auto", {}, "m"),
        ("stub", {}, "stub:"),
        ("stub", {"FINERY_STUB": "rate=50&fail=0.05"}, "stub:rate=50&fail=0.05"),
    ],
)
def test_a_replica_is_started_with_its_model_or_with_a_stub_in_its_place(
    engine: str, variables: dict[str, str], model: str, tmp_path: Path
) -> None:
    argv = replicas.command("blue", Form(1, "m", engine, variables, 8, 1), tmp_path)
    assert argv[argv.index("finery.inference.server") + 1] == model
    assert argv[argv.index("--at-once") + 1] == "8"
