"""Replicas of a real endpoint that are killed while they answer: what is asked again, and what not.

Two replicas take one request each, so that a kill concerns one of two requests.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from service_process import Service
from typer.testing import CliRunner

from finery.cli.main import app

pytestmark = pytest.mark.timeout(900)

PATIENCE = 120.0
PROMPTS = ("first question", "second question")


def run(*words: object) -> str:
    """What a command prints; its refusal is raised."""
    answer = CliRunner().invoke(app, [str(word) for word in words])
    if answer.exception:
        raise answer.exception
    return answer.stdout


def until(holds: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < end, "it never came to hold"
        time.sleep(0.02)


@dataclass(frozen=True)
class Endpoint:
    """An endpoint whose replicas note every answer whose first token was taken."""

    address: str
    key: str
    folder: Path  # of its replicas
    note: Path

    def pids(self) -> list[int]:
        """The replicas that say that they are ready."""
        notes = self.folder.glob("*/ready.json")
        pids = [int(json.loads(note.read_text())["pid"]) for note in notes]
        return [pid for pid in pids if psutil.pid_exists(pid)]

    def begun(self) -> list[str]:
        """Of which prompts a first token was made, as often as it was."""
        lines = self.note.read_text().splitlines() if self.note.exists() else []
        return [prompt for line in lines for prompt in PROMPTS if prompt in line]

    def in_flight(self) -> int:
        """Requests at its replicas."""
        host = self.address.split("/endpoints/")[0]
        text = httpx.get(f"{host}/metrics", trust_env=False).text
        rows = [line for line in text.splitlines() if line.startswith("finery_endpoint_in_flight{")]
        return sum(int(row.rsplit(" ", 1)[1]) for row in rows)

    def ask(self, prompt: str) -> httpx.Response:
        """The whole answer to a prompt."""
        body = {"messages": [{"role": "user", "content": prompt}], "max_tokens": 16}
        headers = {"Authorization": f"Bearer {self.key}"}
        url = f"{self.address}/chat/completions"
        return httpx.post(url, json=body, headers=headers, timeout=PATIENCE, trust_env=False)


@pytest.fixture
def made(started: Service, tmp_path: Path) -> Iterator[Callable[[str], Endpoint]]:
    def make(stub: str) -> Endpoint:
        note = tmp_path / "begun"
        run(
            *("deploy", "Phi-3-mini-4k-instruct", "--engine", "stub", "--timeout", "100"),
            *("--endpoint", "once", "--at-once", "1", "--replicas", "2"),
            *("--env", f"FINERY_STUB={stub}&note={note}"),
        )
        shown: dict[str, Any] = json.loads(run("endpoint", "show", "once", "--json"))
        keys = json.loads(run("endpoint", "keys", "once", "--json"))
        folder = started.folder / "replicas" / "once" / "blue"
        return Endpoint(shown["openaiBaseUrl"], keys["primaryKey"], folder, note)

    yield make
    run("endpoint", "delete", "once")


def test_an_answer_that_had_its_first_token_is_never_made_again(
    made: Callable[[str], Endpoint],
) -> None:
    endpoint = made("rate=2")
    with ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(endpoint.ask, prompt) for prompt in PROMPTS]
        until(lambda: len(endpoint.begun()) == 2)
        os.kill(endpoint.pids()[0], signal.SIGKILL)
        answers = sorted((one.result() for one in asked), key=lambda one: one.status_code)
    assert [answer.status_code for answer in answers] == [200, 424]
    error = answers[1].json()["error"]
    assert (error["code"], "broke off" in error["message"]) == ("ModelError", True)
    assert sorted(endpoint.begun()) == sorted(PROMPTS)


def test_an_answer_whose_replica_dies_before_its_first_token_is_made_by_another(
    made: Callable[[str], Endpoint],
) -> None:
    endpoint = made("first=8")
    with ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(endpoint.ask, prompt) for prompt in PROMPTS]
        until(lambda: endpoint.in_flight() == 2)
        os.kill(endpoint.pids()[0], signal.SIGKILL)
        assert endpoint.begun() == [], "the machine is too slow for this test"
        answers = [one.result() for one in asked]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert sorted(endpoint.begun()) == sorted(PROMPTS)
