"""The replica as a process: ready when it says so, gone when it is asked, refusing what it must."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from small_replica import END, replica_of, scripted

from finery.chat.render import load_renderer
from finery.inference.engines.stub import stub_renderer
from finery.inference.server import main
from finery.inference.server_app import create_app
from finery.inference.server_run import LOST, serve

HELLO = [{"role": "user", "content": "Hello"}]
CHAT = "/v1/chat/completions"


class Started:
    """A replica that is ready, and a client that has its key."""

    def __init__(self, process: subprocess.Popen[str], note: dict[str, Any]) -> None:
        self.process, self.note = process, note
        self.http = httpx.Client(
            base_url=f"http://127.0.0.1:{note['port']}",
            headers={"authorization": "Bearer secret"},
            trust_env=False,
            timeout=60,
        )

    def end(self) -> str:
        """Ask it to end; what it said."""
        self.process.send_signal(signal.SIGTERM)
        said, _ = self.process.communicate(timeout=60)
        return said


@contextlib.contextmanager
def started(model: str, ready: Path, *options: str, **environment: str) -> Iterator[Started]:
    command = [sys.executable, "-P", "-m", "finery.inference.server", model, "--name", "demo"]
    with subprocess.Popen(
        [*command, "--ready", str(ready), "--device", "cpu", *options],
        env=os.environ | {"FINERY_REPLICA_KEY": "secret"} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            end = time.monotonic() + 120
            while not ready.exists():
                assert process.poll() is None, process.communicate()[0]
                assert time.monotonic() < end
                time.sleep(0.05)
            replica = Started(process, json.loads(ready.read_text()))
            with replica.http:
                yield replica
        finally:
            process.kill()


def test_a_replica_says_when_it_is_ready_answers_and_ends_when_asked(
    tiny_llama: Path, tmp_path: Path
) -> None:
    with started(str(tiny_llama), tmp_path / "ready.json") as replica:
        note = replica.note
        assert note["pid"] == replica.process.pid
        assert {"port", "seconds", "engine", "precision", "context", "adapters", "proof"} <= set(
            note
        )
        assert note["context"] == 512
        body = {"messages": HELLO, "max_tokens": 4}
        wrong = {"authorization": "Bearer wrong"}
        assert replica.http.post(CHAT, json=body, headers=wrong).status_code == 401
        answer = replica.http.post(CHAT, json=body)
        assert answer.json()["usage"]["completion_tokens"] <= 4
        said = replica.end()
        assert replica.process.returncode == 0
    assert "demo answers on 127.0.0.1" in said
    assert f"POST {CHAT} 200" in said
    assert "Hello" not in said, "what people write is not logged"
    assert "secret" not in said
    assert "Traceback" not in said


def test_answers_under_way_are_finished_when_it_is_asked_to_end(tmp_path: Path) -> None:
    source = "stub:rate=40&text=" + "a" * 40
    with started(source, tmp_path / "ready.json", FINERY_REPLICA_GRACE="30") as replica:
        body = {"messages": HELLO, "stream": True}
        with replica.http.stream("POST", CHAT, json=body) as stream:
            lines = stream.iter_lines()
            assert next(lines).startswith("data: ")
            replica.process.send_signal(signal.SIGTERM)
            time.sleep(0.3)  # a moment in which it has heard
            assert replica.process.poll() is None
            with pytest.raises(httpx.TransportError):
                httpx.get(f"{replica.http.base_url}/health", trust_env=False)
            text = "".join(
                json.loads(line.removeprefix("data: "))["choices"][0]["delta"].get("content", "")
                for line in lines
                if line.startswith("data: {")
            )
        assert text == "a" * 40
        replica.process.communicate(timeout=60)
        assert replica.process.returncode == 0


def test_answers_that_take_too_long_are_ended_with_the_grace(tmp_path: Path) -> None:
    source = "stub:rate=1&text=" + "a" * 400
    with started(source, tmp_path / "ready.json", "--grace", "1") as replica:
        body = {"messages": HELLO, "stream": True}
        with (
            contextlib.suppress(httpx.TransportError),
            replica.http.stream("POST", CHAT, json=body) as stream,
        ):
            lines = stream.iter_lines()
            next(lines)
            start = time.monotonic()
            replica.process.send_signal(signal.SIGTERM)
            for _ in lines:
                pass
        replica.process.communicate(timeout=60)
        assert time.monotonic() - start < 30


def test_a_client_who_leaves_frees_the_engine(tmp_path: Path) -> None:
    source = "stub:rate=50&text=" + "a" * 3000
    with started(source, tmp_path / "ready.json") as replica:

        def gauge(name: str) -> float:
            text = replica.http.get("/metrics").text
            return float(
                next(line.split()[1] for line in text.splitlines() if line.startswith(name))
            )

        for stream in (True, False):
            body = {"messages": HELLO, "stream": stream}
            with contextlib.suppress(httpx.TimeoutException), httpx.Client(timeout=1) as client:
                headers = replica.http.headers
                url = f"{replica.http.base_url}{CHAT}"
                with client.stream("POST", url, json=body, headers=headers) as answer:
                    next(answer.iter_lines())
            end = time.monotonic() + 10
            while gauge("finery_answers_running"):
                assert time.monotonic() < end
                time.sleep(0.02)
        made = gauge("finery_completion_tokens_total")
        time.sleep(0.2)  # ten tokens' time
        assert gauge("finery_completion_tokens_total") == made
        assert f"POST {CHAT} 499" in replica.end()


def test_adapters_are_named_at_the_start(tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    options = ("--adapter", f"polite={adapter}", "--engine", "stub")
    with started("stub:text=Hi", tmp_path / "ready.json", *options) as replica:
        assert replica.note["adapters"] == ["polite"]
        assert (replica.note["engine"], replica.note["context"]) == ("stub", 4096)
        body = {"messages": HELLO, "model": "polite"}
        answer = replica.http.post(CHAT, json=body).json()
        assert answer["choices"][0]["message"]["content"] == "[polite] Hi"


async def _served(replica: Any, lose: bool) -> int:
    """Serve a replica in this process, and let its engine be lost."""
    import argparse
    import asyncio

    if lose:
        asyncio.get_running_loop().call_later(0.3, setattr, replica.engine, "fault", "killed")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        options = argparse.Namespace(host="127.0.0.1", grace=5, ready=None)
        return await serve(replica, create_app(replica), listener, options, 0.0)


def test_a_replica_whose_engine_is_lost_ends_with_a_status_of_its_own() -> None:
    import asyncio

    replica = replica_of(scripted(f"a{END}"), stub_renderer())
    assert asyncio.run(_served(replica, lose=True)) == LOST


def test_no_model_is_one_sentence_and_an_exit_status(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["no-such-model"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("The model could not be served: No model is called 'no-such-model'")
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["stub:speed=3"], "A stub has no 'speed'"),
        (["stub:rate=fast"], "no number"),
        (["no-such-model", "--engine", "stub"], "Name stub: as its source"),
        (["stub:", "--adapter", "polite"], "Write NAME=FOLDER"),
        (["stub:", "--adapter", "polite=/no/such/folder"], "is no folder"),
    ],
)
def test_a_wrong_option_is_one_sentence(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 1
    assert told in capsys.readouterr().err


def test_a_model_with_other_ids_than_it_was_trained_with_is_not_served(
    tiny_llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_llama, folder)
    load_renderer(folder).save(folder)
    golden = folder / "finery_renderer.json"
    saved = json.loads(golden.read_text())
    saved["golden"]["texts"][0]["ids"][0] += 1
    golden.write_text(json.dumps(saved))
    assert main([str(folder), "--device", "cpu"]) == 1
    assert "was trained with other token ids" in capsys.readouterr().err


def test_a_port_that_is_taken_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["stub:", "--port", str(port)]) == 1
    assert f"127.0.0.1:{port} cannot be listened on" in capsys.readouterr().err
