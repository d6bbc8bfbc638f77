"""An endpoint under load: updated, scaled, shifted by canaries, with its service killed."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import psutil
import pytest
from service_process import Service
from typer.testing import CliRunner

from finery.cli.main import app
from finery.errors import FineryError

pytestmark = pytest.mark.timeout(900)

# The replicas are stubs: all that a replica is but for the model, whose name matters to nobody.
BASE = ("Phi-3-mini-4k-instruct", "--engine", "stub", "--timeout", "60")
PATIENCE = 120.0


def run(*words: object) -> str:
    """What a command prints; its refusal is raised."""
    answer = CliRunner().invoke(app, [str(word) for word in words])
    if answer.exception:
        raise answer.exception
    return answer.stdout


def told(*words: object) -> Any:
    """The JSON that a command prints."""
    return json.loads(run(*words, "--json"))


def until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < end, "it never came to hold"
        time.sleep(0.1)


@dataclass
class Load:
    """Requests one after another, from two clients, until it is stopped; what they were told."""

    name: str
    answers: Counter[tuple[int, str]] = field(default_factory=Counter)  # status, deployment
    _end: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> Load:
        address = told("endpoint", "show", self.name)["openaiBaseUrl"]
        key = told("endpoint", "keys", self.name)["primaryKey"]
        for _ in range(2):
            thread = threading.Thread(target=self._ask, args=(address, key), daemon=True)
            self._threads.append(thread)
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join(60)

    @property
    def statuses(self) -> set[int]:
        return {status for status, _ in self.answers}

    def wait_for(self, more: int) -> None:
        """Until so many more requests have been answered."""
        goal = self.answers.total() + more
        until(lambda: self.answers.total() >= goal)

    def _ask(self, address: str, key: str) -> None:
        body = {
            "messages": [{"role": "user", "content": "Hi"}],
            "max_tokens": 1,
            "model": self.name,
        }
        headers = {"Authorization": f"Bearer {key}"}
        with httpx.Client(trust_env=False, timeout=60, headers=headers) as client:
            while not self._end.is_set():
                answer = client.post(f"{address}/chat/completions", json=body)
                named = answer.headers.get("azureml-model-deployment", "")
                self.answers[answer.status_code, named] += 1


@pytest.fixture
def endpoint(started: Service) -> Iterator[str]:
    """An endpoint whose deployment `blue` has all the traffic."""
    run("deploy", *BASE, "--endpoint", "lively")
    yield "lively"
    run("endpoint", "delete", "lively")


def replica_pids(service: Service, deployment: str) -> list[int]:
    """The processes of a deployment's replicas that say that they are ready."""
    notes = (service.folder / "replicas").glob(f"*/{deployment}/*/ready.json")
    pids = [int(json.loads(note.read_text())["pid"]) for note in notes]
    return [pid for pid in pids if psutil.pid_exists(pid)]


def test_updates_and_sizes_change_under_load_and_no_request_is_lost(
    started: Service, endpoint: str
) -> None:
    with Load(endpoint) as load:
        load.wait_for(5)
        (old,) = replica_pids(started, "blue")
        run("deploy", *BASE, "--endpoint", endpoint, "--at-once", "4")
        load.wait_for(5)
        until(lambda: old not in replica_pids(started, "blue"))
        run(
            "deploy",
            *BASE,
            *("--endpoint", endpoint, "--at-once", "4"),
            *("--replicas", "2"),
        )
        assert len(replica_pids(started, "blue")) == 2
        run("deploy", *BASE, "--endpoint", endpoint, "--at-once", "4")
        until(lambda: len(replica_pids(started, "blue")) == 1)
        load.wait_for(5)
    assert load.statuses == {200}, load.answers


def test_an_update_that_fails_says_why_and_leaves_what_answers(
    started: Service, endpoint: str, tmp_path: Any
) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text('{"model_type": "no such family"}')
    with Load(endpoint) as load:
        load.wait_for(2)
        with pytest.raises(FineryError, match="The model could not be served"):
            run("deploy", tmp_path / "broken", "--endpoint", endpoint)
        (blue,) = told("endpoint", "show", endpoint)["deployments"]
        assert blue["properties"]["provisioningState"] == "Failed"
        load.wait_for(5)
        (pid,) = replica_pids(started, "blue")
        os.kill(pid, signal.SIGKILL)
        until(lambda: replica_pids(started, "blue") not in ([], [pid]))
        load.answers.clear()
        load.wait_for(5)
    assert 200 in load.statuses, "the old form comes again after a death"


def test_a_canary_goes_on_after_the_service_is_killed_and_is_rolled_back_when_it_fails(
    started: Service, endpoint: str
) -> None:
    run("deploy", *BASE, "--endpoint", endpoint, "--deployment", "green")
    begun = ("--to", "green", "--steps", "40,100", "--min-requests", "10000")
    told("endpoint", "canary", endpoint, *begun)
    with Load(endpoint) as load:
        load.wait_for(40)
        until(lambda: told("endpoint", "canary", endpoint, "--status")["answered"] >= 10)
        started.kill()
        load.wait_for(20)
        started.start()
        before = told("endpoint", "canary", endpoint, "--status")
        assert (before["state"], before["answered"] >= 10) == ("Running", True)
        load.wait_for(20)
        until(
            lambda: (
                told("endpoint", "canary", endpoint, "--status")["answered"] > before["answered"]
            )
        )
        assert load.statuses == {200}, "nothing was lost so far"
        green = ("--endpoint", endpoint, "--deployment", "green")
        run("deploy", *BASE, *green, "--env", "FINERY_STUB=fail=0.5")
        until(lambda: told("endpoint", "canary", endpoint, "--status")["state"] != "Running")
    found = told("endpoint", "canary", endpoint, "--status")
    assert found["state"] == "RolledBack", found
    assert "error_rate" in found["reason"]
    assert told("endpoint", "show", endpoint)["traffic"] == {"blue": 100, "green": 0}
    assert found["history"][-1]["green"]["errors"] > 0


def test_a_canary_that_is_no_worse_gets_all_the_traffic(started: Service, endpoint: str) -> None:
    run("deploy", *BASE, "--endpoint", endpoint, "--deployment", "green")
    begun = ("--to", "green", "--steps", "50,100", "--guard", "error_rate", "--min-requests", "15")
    told("endpoint", "canary", endpoint, *begun)
    with Load(endpoint) as load:
        until(lambda: told("endpoint", "canary", endpoint, "--status")["state"] != "Running")
    found = told("endpoint", "canary", endpoint, "--status")
    assert found["state"] == "Succeeded", found["reason"]
    assert told("endpoint", "show", endpoint)["traffic"] == {"blue": 0, "green": 100}
    assert load.statuses == {200}
