"""A canary on a workspace: begun, looked after, ended, and found again by the next service."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from finery.endpoints import canary_steps, service, tables
from finery.endpoints.canary_steps import WantedCanary
from finery.endpoints.gateway import control
from finery.endpoints.gateway.counts import NONE, Figures, Stats
from finery.endpoints.service import WantedDeployment, WantedEndpoint
from finery.errors import InputError
from finery.workspace.errors import ConflictError, NotFoundError
from finery.workspace.place import Workspace

WANTED = WantedCanary("chat", "green", min_requests=20)
FAST, SLOW = 20, 40  # buckets of time


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest) -> str:
    return request.getfixturevalue("postgres") if request.param == "postgres" else ""


@dataclass
class FakeGateway:
    """Counts what a test says was answered."""

    name: str = "first"
    counts: dict[str, list[Any]] = field(default_factory=dict)
    reloads: int = 0
    answers: bool = True

    def answer(
        self, deployment: str, count: int, errors: int = 0, bucket: int = FAST, lost: int = 0
    ) -> None:
        zero = [0, 0, 0, list(NONE)]
        requests, failed, gone, latencies = self.counts.setdefault(deployment, zero)
        latencies[bucket] += count - errors
        self.counts[deployment] = [requests + count, failed + errors, gone + lost, latencies]

    def start_anew(self) -> None:
        self.name, self.counts = "second", {}

    def stats(self, _: Workspace) -> Stats | None:
        figures = {
            ("chat", name): Figures(requests, errors, lost, latencies=tuple(latencies))
            for name, (requests, errors, lost, latencies) in self.counts.items()
        }
        return Stats(self.name, figures, {}) if self.answers else None

    def reload(self, _: Workspace) -> bool:
        self.reloads += 1
        return True


@pytest.fixture
def gateway(monkeypatch: pytest.MonkeyPatch) -> FakeGateway:
    found = FakeGateway()
    monkeypatch.setattr(control, "stats", found.stats)
    monkeypatch.setattr(control, "reload", found.reload)
    return found


@pytest.fixture
def chat(workspace: Workspace, gateway: FakeGateway) -> Workspace:
    """An endpoint whose deployment `blue` has all the traffic, and `green` none."""
    service.put(workspace, WantedEndpoint("chat"))
    for name in ("blue", "green"):
        service.put_deployment(workspace, WantedDeployment("chat", name, "m"))
    with workspace.store.write() as connection:
        connection.execute(tables.deployments.update().values(state="Succeeded"))
    service.put(workspace, WantedEndpoint("chat", traffic={"blue": 100}))
    return workspace


@pytest.fixture
def traffic(chat: Workspace) -> Callable[[], dict[str, int]]:
    return lambda: dict(service.get(chat, "chat").traffic)


def look(workspace: Workspace, gateway: FakeGateway, blue: int, green: int, **bad: Any) -> str:
    """Let both answer, let the service look, and say how the canary stands."""
    gateway.answer("blue", blue)
    gateway.answer("green", green, **bad)
    canary_steps.advance(workspace)
    return canary_steps.find(workspace, "chat")[0].state


def test_a_canary_begins_with_its_first_share(
    chat: Workspace, gateway: FakeGateway, traffic: Callable[[], dict[str, int]]
) -> None:
    before = gateway.reloads
    made = canary_steps.begin(chat, WANTED)
    assert (made.state, made.stable, made.position) == ("Running", "blue", 0)
    assert traffic() == {"blue": 95, "green": 5}
    assert gateway.reloads == before + 1, "the gateway knows before the caller is answered"
    assert [entry["decision"] for entry in made.history] == ["begin"]


def test_a_good_canary_gets_all_the_traffic_step_by_step(
    chat: Workspace, gateway: FakeGateway, traffic: Callable[[], dict[str, int]]
) -> None:
    canary_steps.begin(chat, WANTED)
    seen = []
    for _ in range(6):
        state = look(chat, gateway, 100, 20)
        seen.append(traffic()["green"])
        if state != "Running":
            break
    assert seen == [25, 100, 100]
    (ended,) = canary_steps.find(chat, "chat")
    assert (ended.state, ended.ended_at is not None) == ("Succeeded", True)
    assert "no worse than blue" in ended.reason
    assert [entry["decision"] for entry in ended.history] == ["begin", *["advance"] * 3]
    assert [entry["share"] for entry in ended.history] == [5, 5, 25, 100]
    assert ended.history[-1]["green"]["requests"] == 60


@pytest.mark.parametrize(
    ("bad", "guard"), [({"errors": 5}, "error_rate"), ({"bucket": SLOW}, "latency_p95")]
)
def test_a_bad_canary_loses_its_traffic_and_the_figures_say_why(
    chat: Workspace,
    gateway: FakeGateway,
    traffic: Callable[[], dict[str, int]],
    bad: dict[str, int],
    guard: str,
) -> None:
    gateway.answer("blue", 200)
    canary_steps.begin(chat, WANTED)
    for _ in range(10):
        if look(chat, gateway, 100, 10, **bad) != "Running":
            break
    (ended,) = canary_steps.find(chat, "chat")
    assert ended.state == "RolledBack"
    assert traffic() == {"blue": 100, "green": 0}
    assert guard in ended.reason
    assert ended.history[-1]["decision"] == "roll back"
    assert ended.history[-1]["evidence"][guard] >= 250
    assert ended.history[-1]["green"]["errors"] == bad.get("errors", 0) * (
        ended.history[-1]["green"]["requests"] // 10
    )


def test_a_canary_whose_replicas_crash_is_rolled_back_though_every_caller_was_answered(
    chat: Workspace, gateway: FakeGateway
) -> None:
    gateway.answer("blue", 200)
    canary_steps.begin(chat, replace(WANTED, guards=["error_rate"], min_requests=1000))
    for _ in range(10):
        if look(chat, gateway, 100, 10, lost=5) != "Running":
            break
    (ended,) = canary_steps.find(chat, "chat")
    assert (ended.state, ended.history[-1]["green"]["errors"] > 0) == ("RolledBack", True)
    assert "error_rate" in ended.reason


def test_a_guard_that_was_not_asked_for_does_not_watch(
    chat: Workspace, gateway: FakeGateway
) -> None:
    gateway.answer("blue", 200)
    canary_steps.begin(chat, replace(WANTED, guards=["latency_p95"], min_requests=1000))
    for _ in range(5):
        assert look(chat, gateway, 100, 20, errors=10) == "Running"


def test_what_was_counted_before_the_canary_is_not_held_against_it(
    chat: Workspace, gateway: FakeGateway
) -> None:
    gateway.answer("green", 500, errors=500)
    canary_steps.begin(chat, WANTED)
    assert look(chat, gateway, 100, 10) == "Running"
    (one,) = canary_steps.find(chat, "chat")
    assert one.watch["canary"]["requests"] == 10
    assert one.watch["canary"]["errors"] == 0


def test_a_gateway_that_starts_anew_loses_no_evidence_and_counts_nothing_twice(
    chat: Workspace, gateway: FakeGateway
) -> None:
    canary_steps.begin(chat, WANTED)
    look(chat, gateway, 100, 10)
    gateway.start_anew()
    look(chat, gateway, 50, 9)
    gateway.answers = False
    canary_steps.advance(chat)
    (one,) = canary_steps.find(chat, "chat")
    assert (one.watch["stable"]["requests"], one.watch["canary"]["requests"]) == (150, 19)


def test_without_new_requests_nothing_is_written(chat: Workspace, gateway: FakeGateway) -> None:
    canary_steps.begin(chat, WANTED)
    look(chat, gateway, 100, 10)
    before = canary_steps.find(chat, "chat")
    canary_steps.advance(chat)
    assert canary_steps.find(chat, "chat") == before


def test_aborting_gives_the_traffic_back_and_cannot_be_done_twice(
    chat: Workspace, traffic: Callable[[], dict[str, int]]
) -> None:
    canary_steps.begin(chat, WANTED)
    assert canary_steps.abort(chat, "chat").state == "Aborted"
    assert traffic() == {"blue": 100, "green": 0}
    with pytest.raises(NotFoundError, match="No canary runs"):
        canary_steps.abort(chat, "chat")
    assert canary_steps.begin(chat, WANTED).state == "Running", "another may follow"
    assert [one.state for one in canary_steps.find(chat, "chat")] == ["Running", "Aborted"]


def test_traffic_set_by_hand_ends_the_canary_and_stays(
    chat: Workspace, gateway: FakeGateway, traffic: Callable[[], dict[str, int]]
) -> None:
    canary_steps.begin(chat, WANTED)
    service.put(chat, WantedEndpoint("chat", traffic={"blue": 50, "green": 50}))
    assert look(chat, gateway, 100, 10) == "Aborted"
    assert traffic() == {"blue": 50, "green": 50}
    assert "Somebody else" in canary_steps.find(chat, "chat")[0].reason


def test_one_canary_at_a_time(chat: Workspace) -> None:
    canary_steps.begin(chat, WANTED)
    with pytest.raises(ConflictError, match="runs at chat already, to green"):
        canary_steps.begin(chat, WANTED)


def test_every_fault_of_a_canary_is_said_at_once(chat: Workspace) -> None:
    wrong = WantedCanary("chat", "red", (25, 5), ("cost",), 0, -1)
    with pytest.raises(InputError) as told:
        canary_steps.begin(chat, wrong)
    places = [fault.where for fault in told.value.faults]
    assert places == ["steps", "guards", "minRequests", "stepMinutes", "deployment"]


@pytest.mark.parametrize(
    ("shares", "told"), [({}, "no other deployment"), ({"green": 100}, "no other deployment")]
)
def test_a_canary_needs_one_deployment_to_compare_with(
    chat: Workspace, shares: dict[str, int], told: str
) -> None:
    service.put(chat, WantedEndpoint("chat", traffic=shares))
    with pytest.raises(InputError, match=told):
        canary_steps.begin(chat, WANTED)


def test_all_at_once_needs_to_know_the_old_deployment(
    chat: Workspace, gateway: FakeGateway
) -> None:
    with pytest.raises(InputError, match="answered too little"):
        canary_steps.begin(chat, replace(WANTED, steps=[100]))
    gateway.answer("blue", 60)
    assert canary_steps.begin(chat, replace(WANTED, steps=[100])).shares == {
        "blue": 0,
        "green": 100,
    }


def test_a_canary_that_does_not_answer_is_no_canary(chat: Workspace) -> None:
    with chat.store.write() as connection:
        connection.execute(tables.deployments.update().values(state="Failed"))
    with pytest.raises(InputError, match="whose state is Failed"):
        canary_steps.begin(chat, WANTED)
