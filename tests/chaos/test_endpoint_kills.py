"""A service that is killed while an endpoint is made, changed or deleted leaves none half done."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import pytest
from endpoints_server import ask, drive, is_there
from jobs_server import open_workspace

from finery.endpoints import replicas, tables
from finery.endpoints.values import Replica
from finery.runners import process
from finery.workspace.place import Workspace

SERVER = Path(__file__).with_name("endpoints_server.py")
MOST_POINTS = 100  # more than any of these goals has
ENDS = {"create": "Succeeded", "refuse": "Failed", "update": "Succeeded", "delete": ""}
BEFORE = {"create": "", "refuse": "", "update": "create", "delete": "create"}
SOME_POINTS = [
    ("create", "3:after"),
    ("create", "5:before"),
    ("refuse", "6:after"),
    ("update", "4:after"),
    ("delete", "2:after"),
]


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workspace]:
    monkeypatch.setattr(replicas, "command", replicas.command)  # put back what `drive` changes
    monkeypatch.setattr(replicas, "GRACE", replicas.GRACE)
    found = open_workspace(tmp_path / "service")
    yield found
    for lock in found.folder.glob("replicas/*/*/*/lock"):
        process.stop(lock.parent, grace=2)
    found.store.engine.dispose()


def died(workspace: Workspace, goal: str, point: str) -> tuple[bool, bool]:
    """Whether the goal's process died at the point, and whether it had acknowledged the wish."""
    if BEFORE[goal]:
        ask(workspace, BEFORE[goal])
        assert drive(workspace, BEFORE[goal]) == ENDS[BEFORE[goal]]
    argv = [sys.executable, str(SERVER), str(workspace.folder), goal, "--die", point]
    ended = subprocess.run(argv, capture_output=True, text=True, timeout=120)
    assert ended.returncode in (0, -signal.SIGKILL), ended.stderr
    return ended.returncode != 0, "acknowledged" in ended.stdout


def outcome(workspace: Workspace, goal: str, point: str) -> tuple[bool, list[str]]:
    """Whether there was a death, and what is wrong after the next service has gone on."""
    dead, acknowledged = died(workspace, goal, point)
    if not acknowledged:
        ask(workspace, goal)  # as a client does that heard nothing
    end, faults = drive(workspace, goal), []
    if end != ENDS[goal]:
        faults.append(f"it ended as {end!r}")
    with workspace.store.read() as connection:
        there = [Replica(**row._mapping) for row in connection.execute(tables.replicas.select())]
        query = tables.operations.select().where(tables.operations.c.status == "InProgress")
        faults += [f"operation {row.kind} is under way" for row in connection.execute(query)]
    wanted = {"create": 1, "update": 2}.get(goal, 0)
    ready = [one for one in there if one.state == "ready" and replicas.is_healthy(one, 5)]
    if len(there) != wanted or len(ready) != wanted:
        faults.append(f"{len(ready)} of {len(there)} replicas answer, {wanted} are wanted")
    folders = [lock.parent for lock in workspace.replicas.glob("*/*/*/lock")]
    running = {folder.name for folder in folders if process.carriers(folder.name)}
    if running != {one.id for one in there}:
        faults.append(f"{running} run, {there} are known")
    if goal == "delete" and is_there(workspace):
        faults.append("the endpoint is still there")
    ask(workspace, "delete")
    if drive(workspace, "delete") or is_there(workspace):
        faults.append("it cannot be deleted")
    return dead, [f"{goal}, death at {point}: {fault}" for fault in faults]


@pytest.mark.parametrize(("goal", "point"), SOME_POINTS)
def test_no_death_leaves_an_endpoint_half_done(workspace: Workspace, goal: str, point: str) -> None:
    assert outcome(workspace, goal, point) == (True, [])


@pytest.mark.full
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("goal", sorted(ENDS))
@pytest.mark.parametrize("moment", ["before", "after"])
def test_no_death_at_any_point_leaves_an_endpoint_half_done(
    workspace: Workspace, goal: str, moment: str
) -> None:
    faults, deaths = [], 0
    for at in range(1, MOST_POINTS):
        dead, found = outcome(workspace, goal, f"{at}:{moment}")
        faults += found
        if not dead:
            break
        deaths += 1
    print(f"{goal}, {moment}: {deaths} deaths")
    assert deaths > 3
    assert not faults
