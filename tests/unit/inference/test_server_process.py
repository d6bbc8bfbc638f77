"""The replica as a process: ready when it says so, gone when it is asked, refusing what it must."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from finery.inference.open import open_model
from finery.inference.server import main

HELLO = [{"role": "user", "content": "Hello"}]


def test_a_replica_says_when_it_is_ready_answers_and_ends_when_asked(
    tiny_llama: Path, tmp_path: Path
) -> None:
    ready = tmp_path / "ready.json"
    command = [sys.executable, "-m", "finery.inference.server", str(tiny_llama)]
    environment = os.environ | {"FINERY_REPLICA_KEY": "secret"}
    with subprocess.Popen(
        [*command, "--name", "demo", "--ready", str(ready), "--device", "cpu"],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        end = time.monotonic() + 60
        while not ready.exists():
            assert process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.05)
        note = json.loads(ready.read_text())
        assert note["pid"] == process.pid
        url = f"http://127.0.0.1:{note['port']}/v1/chat/completions"
        asked: dict[str, Any] = {"json": {"messages": HELLO, "max_tokens": 4}, "trust_env": False}
        assert httpx.post(url, **asked).status_code == 401
        answer = httpx.post(url, headers={"authorization": "Bearer secret"}, **asked)
        assert answer.json()["usage"]["completion_tokens"] <= 4
        process.send_signal(signal.SIGTERM)
        said, _ = process.communicate(timeout=30)
    assert "demo answers on 127.0.0.1" in said
    assert "POST /v1/chat/completions 200" in said
    assert "Hello" not in said, "what people write is not logged"
    assert "secret" not in said


def test_no_model_is_one_sentence_and_an_exit_status(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["no-such-model"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("The model could not be served: No model is called 'no-such-model'")
    assert "Traceback" not in said


def test_a_model_with_other_ids_than_it_was_trained_with_is_not_served(
    tiny_llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_llama, folder)
    open_model(str(folder), device="cpu").renderer.save(folder)
    golden = folder / "finery_renderer.json"
    saved = json.loads(golden.read_text())
    saved["golden"]["texts"][0]["ids"][0] += 1
    golden.write_text(json.dumps(saved))
    assert main([str(folder), "--device", "cpu"]) == 1
    assert "was trained with other token ids" in capsys.readouterr().err


def test_a_port_that_is_taken_is_said(tiny_llama: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main([str(tiny_llama), "--device", "cpu", "--port", str(port)]) == 1
    assert f"127.0.0.1:{port} cannot be listened on" in capsys.readouterr().err
