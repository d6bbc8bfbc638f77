"""Processes that begin from a host with loaded libraries, with real processes."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from finery.files import read_json
from finery.runners import process, warm
from finery.runners.carriers import ROOM, TOKEN, carriers, token_of
from finery.runners.process import Exit, Process
from finery.runners.warm import WarmHost

pytestmark = pytest.mark.skipif(not warm.is_possible(), reason="needs Linux's /proc")
HERE = Path(__file__).parent


def until(true: Callable[[], bool], seconds: float = 20.0) -> None:
    """Wait for something that another process does."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The module that the host loads and the program that it runs lie beside this file."""
    monkeypatch.setenv("PYTHONPATH", str(HERE))


@pytest.fixture
def host(tmp_path: Path) -> Iterator[WarmHost]:
    """A host that is kept while the test runs."""
    host = WarmHost("warm_module", tmp_path / "logs" / "warm.log")
    with warm.kept(host):
        yield host


@pytest.fixture
def token(request: pytest.FixtureRequest) -> str:
    """A token that only this test's processes carry; none of them outlives the test."""
    token = f"test-{os.getpid()}-{time.monotonic_ns()}"
    request.addfinalizer(lambda: process.end_all(token))
    return token


def program(folder: Path, token: str, what: str, **more: str) -> Process:
    """One that runs `warm_program`, from the host if there is one."""
    argv = (sys.executable, "-P", "-m", "warm_program", what)
    environment = {"FINERY_SAID": "hello", **more}
    return Process(argv, token, folder, folder / "log.txt", environment, grace=0.3, loads=30.0)


def ended(folder: Path) -> Exit:
    """How it ended, once it has."""
    until(lambda: process.state(folder) == "ended")
    return process.exit_of(folder)


def said(tmp_path: Path) -> list[str]:
    """The lines of the program's log."""
    path = tmp_path / "log.txt"
    return path.read_text().splitlines() if path.exists() else []


def pid_of(host: WarmHost) -> int:
    assert host._process is not None
    return host._process.pid


@pytest.mark.parametrize(
    ("what", "end"), [("exit", Exit(3)), ("raise", Exit(1)), ("kill", Exit(-9)), ("", Exit(0))]
)
def test_a_process_from_the_host_ends_as_one_of_its_own_start(
    tmp_path: Path, host: WarmHost, token: str, what: str, end: Exit
) -> None:
    assert process.start(tmp_path / "1", program(tmp_path, token, what))
    assert ended(tmp_path / "1") == end
    first, second, *rest = said(tmp_path)
    assert first.startswith(f"loaded in {pid_of(host)}, ")
    assert second.split()[:2] == [tmp_path.name, "hello"]
    assert bool(rest) == (what == "raise")
    if rest:
        assert rest[-1] == "OSError: went wrong"


def test_without_a_host_it_starts_in_the_ordinary_way(tmp_path: Path, token: str) -> None:
    assert process.start(tmp_path / "1", program(tmp_path, token, "exit"))
    assert ended(tmp_path / "1") == Exit(3)
    assert said(tmp_path)[0].startswith("loaded in no host")


def test_two_processes_share_no_random_numbers(tmp_path: Path, host: WarmHost, token: str) -> None:
    for name in ("1", "2"):
        process.start(tmp_path / name, program(tmp_path, token, "exit"))
        ended(tmp_path / name)
    drawn = [line.split()[2] for line in said(tmp_path) if line.startswith(tmp_path.name)]
    assert len(set(drawn)) == 2


def test_its_token_is_found_in_all_its_processes_and_in_no_other(
    tmp_path: Path, host: WarmHost, token: str
) -> None:
    process.start(tmp_path / "1", program(tmp_path, token, "child"))
    until(lambda: len(said(tmp_path)) == 2 and len(carriers(token)) == 3)  # entry, command, child
    assert token_of(pid_of(host)) == ""
    assert process.end_all(token) == 3
    assert process.state(tmp_path / "1") == "lost"


def test_a_short_token_leaves_nothing_of_a_long_one(
    tmp_path: Path, host: WarmHost, token: str
) -> None:
    long, short = token.ljust(ROOM, "x"), f"{token}-short"
    for number, one in enumerate((long, short)):
        process.start(tmp_path / str(number), program(tmp_path, one, "wait"))
    until(lambda: len(carriers(long)) == len(carriers(short)) == 2)
    process.end_all(long)
    assert process.state(tmp_path / "1") == "running"
    process.end_all(short)


def test_a_token_without_room_starts_in_the_ordinary_way(tmp_path: Path, host: WarmHost) -> None:
    process.start(tmp_path / "1", program(tmp_path, "x" * (ROOM + 1), "exit"))
    assert ended(tmp_path / "1") == Exit(3)
    assert said(tmp_path)[0].startswith("loaded in no host")


def test_what_the_host_started_outlives_it(tmp_path: Path, host: WarmHost, token: str) -> None:
    process.start(tmp_path / "1", program(tmp_path, token, "wait"))
    until(lambda: len(said(tmp_path)) == 2)
    os.kill(pid_of(host), signal.SIGKILL)
    until(lambda: host._process is not None and host._process.poll() is not None)
    assert process.state(tmp_path / "1") == "running"
    process.stop(tmp_path / "1", grace=1.0)
    assert process.exit_of(tmp_path / "1") == Exit(-15, stopped=True)


def test_a_command_ends_with_its_entry(tmp_path: Path, host: WarmHost, token: str) -> None:
    process.start(tmp_path / "1", program(tmp_path, token, "wait"))
    until(lambda: len(said(tmp_path)) == 2)
    os.kill(int(read_json(tmp_path / "1" / process.STARTED)["pid"]), signal.SIGKILL)
    until(lambda: not carriers(token))
    assert process.state(tmp_path / "1") == "lost"


def test_a_host_that_was_killed_is_followed_by_another(
    tmp_path: Path, host: WarmHost, token: str
) -> None:
    process.start(tmp_path / "1", program(tmp_path, token, "exit"))
    first = pid_of(host)
    os.kill(first, signal.SIGKILL)
    until(lambda: host._process is not None and host._process.poll() is not None)
    process.start(tmp_path / "2", program(tmp_path, token, "exit"))
    assert ended(tmp_path / "2") == Exit(3)
    assert pid_of(host) != first
    assert said(tmp_path)[-2].startswith(f"loaded in {pid_of(host)}, ")


def test_a_host_that_hangs_costs_time_and_runs_nothing_twice(
    tmp_path: Path, host: WarmHost, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    process.start(tmp_path / "1", program(tmp_path, token, "exit"))
    ended(tmp_path / "1")
    monkeypatch.setattr(warm, "HAND_OVER", 0.2)
    os.kill(pid_of(host), signal.SIGSTOP)
    assert process.start(tmp_path / "2", program(tmp_path, token, "exit"))
    assert ended(tmp_path / "2") == Exit(3)
    assert [line for line in said(tmp_path) if line.startswith("loaded")][1:] == [
        line for line in said(tmp_path) if line.startswith("loaded in no host")
    ]


def test_a_host_that_cannot_load_is_tried_once(
    tmp_path: Path, token: str, caplog: pytest.LogCaptureFixture
) -> None:
    host = WarmHost("no_such_module", tmp_path / "warm.log")
    with warm.kept(host):
        for name in ("1", "2"):
            process.start(tmp_path / name, program(tmp_path, token, "exit"))
            assert ended(tmp_path / name) == Exit(3)
    assert (tmp_path / "warm.log").read_text().count("No module named") == 1
    assert [record.message for record in caplog.records] == [
        f"steps start without loaded libraries: see {tmp_path / 'warm.log'}"
    ]


@pytest.mark.parametrize("name", ["HF_HUB_OFFLINE", "PYTHONHASHSEED", "KMP_AFFINITY"])
def test_a_variable_that_libraries_read_while_they_load_makes_an_ordinary_start(
    tmp_path: Path, host: WarmHost, token: str, name: str
) -> None:
    process.start(tmp_path / "1", program(tmp_path, token, "exit", **{name: "1"}))
    ended(tmp_path / "1")
    assert said(tmp_path)[0].startswith("loaded in no host")


def test_who_does_not_wait_starts_before_the_host_has_loaded(tmp_path: Path) -> None:
    host = WarmHost("warm_module", tmp_path / "warm.log")
    environment = {TOKEN: "none"}
    argv = (sys.executable, "-P", "-m", "warm_program", "exit")
    with warm.kept(host):
        os.kill(pid_of(host), signal.SIGSTOP)
        assert not host.take(argv, environment, tmp_path, 0, patience=0.0)
        os.kill(pid_of(host), signal.SIGCONT)


def test_another_command_than_a_module_is_not_for_the_host(tmp_path: Path, host: WarmHost) -> None:
    assert not host.take(("bash", "-c", "true"), {TOKEN: "none"}, tmp_path, 0)


def test_the_host_ends_when_its_service_does(host: WarmHost) -> None:
    assert host._channel is not None
    host._channel.close()
    assert psutil.Process(pid_of(host)).wait(timeout=10) == 0
    host._channel = None


def test_a_host_that_nobody_needs_ends_by_itself() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    text = (
        "import socket, sys; from finery.runners import warm_host; warm_host.IDLE = 0.05; "
        "warm_host.main(socket.socket(fileno=int(sys.argv[1])), 'warm_module')"
    )
    with ours, theirs:
        number = str(theirs.fileno())
        command = [sys.executable, "-c", text, number]
        environment = {**os.environ, TOKEN: "-" * ROOM}
        ran = subprocess.run(
            command, env=environment, pass_fds=(int(number),), timeout=30, check=False
        )
    assert ran.returncode == 0
