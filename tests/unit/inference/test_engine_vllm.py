"""vLLM as a child: what is asked of its server, and what becomes of its answers."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import psutil
import pytest

from finery.errors import FineryError
from finery.inference.engine import EngineLostError, Generation, Token
from finery.inference.engines import vllm_engine
from finery.inference.engines.environments import Environment
from finery.inference.engines.vllm_engine import VllmEngine, _free_port, _rank, open_vllm_engine
from finery.inference.engines.vllm_wire import request_of, tokens_of
from finery.inference.open import Located

SERVER = Path(__file__).with_name("stand_in_vllm.py")
Work = Callable[[VllmEngine], Coroutine[Any, Any, Any]]


def start(log: Path, *words: str, adapters: tuple[str, ...] = ()) -> VllmEngine:
    port = _free_port()
    return VllmEngine(
        [sys.executable, "-I", str(SERVER), str(port), str(log), *words],
        port=port,
        precision="bfloat16",
        context=64,
        adapters={name: Path(name) for name in adapters},
    )


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("vllm") / "log"


@pytest.fixture(scope="module")
def engine(log: Path) -> Iterator[VllmEngine]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HTTP_PROXY", "http://127.0.0.1:9")  # nothing of ours goes through a proxy
        made = start(log, adapters=("blue",))
        yield made
    asyncio.run(made.close())


def run(engine: VllmEngine, work: Coroutine[Any, Any, Any]) -> Any:
    """In a loop of its own, the client with it."""

    async def all_of_it() -> Any:
        try:
            return await asyncio.wait_for(work, 30)
        finally:
            if engine._client is not None:
                await engine._client.aclose()
                engine._client = None

    return asyncio.run(all_of_it())


async def made(engine: VllmEngine, *prompt: int, **settings: Any) -> list[Token]:
    wanted = Generation(prompt, settings.pop("max_new_tokens", 8), **settings)
    return [token async for token in engine.generate(wanted)]


def bodies(log: Path) -> list[Any]:
    return [json.loads(line) for line in log.read_text().splitlines()]


def test_tokens_come_as_ids_in_their_order(engine: VllmEngine) -> None:
    assert run(engine, made(engine, 5, 6, 7, 8)) == [Token(5), Token(6), Token(7), Token(8)]


def test_what_is_asked_is_what_is_wanted(engine: VllmEngine, log: Path) -> None:
    schema = {"type": "object"}
    settings = {"stop_ids": (2, 7), "temperature": 0.5, "top_p": 0.9, "top_k": 4, "seed": 11}
    penalties = {"frequency_penalty": 0.1, "presence_penalty": 0.2}
    run(engine, made(engine, 5, max_new_tokens=3, schema=schema, **settings, **penalties))
    body = bodies(log)[-1]
    assert body["prompt"] == [5]
    assert (body["max_tokens"], body["stop_token_ids"], body["ignore_eos"]) == (3, [2, 7], True)
    assert (body["temperature"], body["top_p"], body["top_k"], body["seed"]) == (0.5, 0.9, 4, 11)
    assert (body["frequency_penalty"], body["presence_penalty"]) == (0.1, 0.2)
    assert body["structured_outputs"] == {"json": schema}
    assert body["model"] == "model"


def test_nothing_of_the_publishers_settings_is_left_to_apply() -> None:
    body = request_of(Generation((1,), 1))
    assert (body["temperature"], body["repetition_penalty"], body["min_p"]) == (0.0, 1.0, 0.0)
    assert body["add_special_tokens"] is False
    assert "logprobs" not in body
    assert "structured_outputs" not in body


def test_log_probabilities_are_by_id_and_as_many_as_asked(engine: VllmEngine) -> None:
    [first, second] = run(engine, made(engine, 5, 6, logprobs=2))
    assert first == Token(5, -0.5, ((3, -0.1), (5, -0.5)))
    assert second == Token(6, -0.5, ((3, -0.1), (6, -0.5)))
    assert run(engine, made(engine, 5, logprobs=0)) == [Token(5, -0.5, ())]


def test_an_adapter_is_asked_for_by_its_name(engine: VllmEngine, log: Path) -> None:
    run(engine, made(engine, 5, adapter="blue"))
    assert bodies(log)[-1]["model"] == "blue"
    with pytest.raises(FineryError, match="no adapter named red"):
        run(engine, made(engine, 5, adapter="red"))


def test_adapters_come_and_go_while_it_runs(engine: VllmEngine, log: Path) -> None:
    run(engine, engine.add_adapter("green", Path("/adapters/green")))
    assert bodies(log)[-1] == {
        "path": "/v1/load_lora_adapter",
        "lora_name": "green",
        "lora_path": "/adapters/green",
    }
    assert run(engine, made(engine, 5, adapter="green")) == [Token(5)]
    run(engine, engine.remove_adapter("green"))
    with pytest.raises(FineryError, match="no adapter named green"):
        run(engine, made(engine, 5, adapter="green"))
    with pytest.raises(FineryError, match="rank 999 is too large"):
        run(engine, engine.add_adapter("bad", Path("/adapters/bad")))


def test_its_refusal_is_an_error_for_people(engine: VllmEngine) -> None:
    with pytest.raises(FineryError, match="vLLM refused the request: the schema has no type"):
        run(engine, made(engine, 400))
    assert engine.health() == ""


def test_an_answer_that_does_not_fit_never_reaches_it(engine: VllmEngine, log: Path) -> None:
    before = len(bodies(log))
    with pytest.raises(FineryError, match="the context holds 64"):
        run(engine, made(engine, *range(60)))
    assert len(bodies(log)) == before


def test_a_stream_that_breaks_off_with_an_error_is_a_lost_engine(
    engine: VllmEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def at_once() -> None:
        """It lives on: there is nothing to wait for."""

    monkeypatch.setattr(engine, "_settle", at_once)
    with pytest.raises(EngineLostError, match="the engine core is dead"):
        run(engine, made(engine, 555))


def test_an_answer_that_nobody_reads_is_left(engine: VllmEngine, log: Path) -> None:
    async def leave() -> None:
        async with aclosing(engine.generate(Generation((777,), 50))) as tokens:
            async for _ in tokens:
                break
        while bodies(log)[-1] != "left":
            await asyncio.sleep(0.01)

    run(engine, leave())


def test_the_key_is_random_and_not_on_the_command_line(engine: VllmEngine) -> None:
    assert len(engine._key) >= 32
    assert engine._key not in " ".join(engine._child.process.args)  # pyright: ignore


def test_its_death_is_told_with_its_last_words(tmp_path: Path) -> None:
    engine = start(tmp_path / "log")
    with pytest.raises(EngineLostError, match=r"status 9(.|\n)*out of memory"):
        run(engine, made(engine, 666))
    assert "out of memory" in engine.health()
    with pytest.raises(EngineLostError):
        run(engine, made(engine, 5))
    run(engine, engine.close())


def test_one_that_does_not_start_says_why(tmp_path: Path) -> None:
    with pytest.raises(FineryError, match=r"did not start(.|\n)*No module named vllm"):
        start(tmp_path / "log", "die")


def test_one_that_is_slow_to_start_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm_engine, "START_SECONDS", 0.3)
    sleeper = [sys.executable, "-c", "import time; time.sleep(60)"]
    monkeypatch.setattr("finery.inference.engines.children._GRACE", 0.1)
    with pytest.raises(FineryError, match="did not start within"):
        VllmEngine(sleeper, port=_free_port(), precision="bfloat16", context=8, adapters={})


def test_the_guard_ends_the_server_and_what_it_started(tmp_path: Path) -> None:
    """worker_vllm.py runs `python -m vllm…`: here that is a package of ours."""
    package = tmp_path / "vllm" / "entrypoints" / "openai"
    package.mkdir(parents=True)
    (package / "api_server.py").write_text(
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "print(child.pid, *sys.argv[1:], flush=True)\n"
        "time.sleep(600)\n"
    )
    guard = Path(vllm_engine.__file__).with_name("worker_vllm.py")
    import subprocess

    process = subprocess.Popen(
        [sys.executable, str(guard), "--port", "1"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    with process:
        assert process.stdout is not None
        assert process.stdin is not None
        pid, *words = process.stdout.readline().split()
        grandchild = psutil.Process(int(pid))
        assert words == ["--port", "1"]
        process.stdin.close()
        assert process.wait(20) == 128 + signal.SIGKILL
        psutil.wait_procs([grandchild], timeout=10)
        assert not grandchild.is_running() or grandchild.status() == psutil.STATUS_ZOMBIE


def test_the_server_is_started_with_what_keeps_answers_ours(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "adapter_config.json").write_text('{"r": 100}')
    seen: dict[str, Any] = {}

    class Recorded:
        def __init__(self, command: list[str], **given: Any) -> None:
            seen.update(given, command=command)

    monkeypatch.setattr(vllm_engine, "VllmEngine", Recorded)
    monkeypatch.setattr(vllm_engine, "context_of", lambda model: 4096)
    environment = Environment("vllm", "cuda", (), "3.11.0")
    open_vllm_engine(Located(tmp_path), environment, at_once=3, adapters={"blue": tmp_path})
    command = seen["command"]

    def value(flag: str) -> str:
        return command[command.index(flag) + 1]

    assert command[:2] == [str(environment.python), "-I"]
    assert (value("--model"), value("--served-model-name")) == (str(tmp_path), "model")
    assert (value("--host"), value("--generation-config")) == ("127.0.0.1", "vllm")
    assert json.loads(value("--structured-outputs-config"))["backend"] == "guidance"
    assert (value("--max-model-len"), value("--max-num-seqs")) == ("4096", "3")
    assert value("--max-lora-rank") == "128"  # the next that vLLM takes
    assert json.loads(value("--lora-modules")) == {"name": "blue", "path": str(tmp_path)}
    assert (seen["context"], seen["precision"]) == (4096, "bfloat16")
    assert "VLLM_CPU_KVCACHE_SPACE" not in seen["variables"]


def test_an_adapter_of_a_rank_that_it_cannot_have_is_refused(tmp_path: Path) -> None:
    assert _rank([]) == 64  # room for adapters that come later
    (tmp_path / "adapter_config.json").write_text('{"r": 4096}')
    with pytest.raises(FineryError, match="rank 4096; vLLM takes 512"):
        _rank([tmp_path])


def test_events_that_hold_no_tokens_give_none() -> None:
    assert tokens_of('{"choices": []}', 0) == []
    assert tokens_of('{"choices": [{"token_ids": null, "logprobs": null}]}', 0) == []
    with pytest.raises(ValueError, match="dead"):
        tokens_of('{"error": {"message": "dead"}}', 0)
