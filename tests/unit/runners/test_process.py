"""A process whose life is known for certain, with real processes."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from finery.files import read_json
from finery.runners import process
from finery.runners.process import Exit, Process

GRACE = 0.3


def until(true: Callable[[], bool], seconds: float = 20.0) -> None:
    """Wait for something that another process does."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


def bash(folder: Path, text: str, token: str, **more: object) -> Process:
    """A process that runs a bash text."""
    log = folder / "log.txt"
    return Process(("bash", "-c", text), token, folder, log, grace=GRACE, **more)  # pyright: ignore


@pytest.fixture
def token(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A token that only this test's processes carry; none of them outlives the test."""
    token = f"test-{os.getpid()}-{time.monotonic_ns()}"
    request.addfinalizer(lambda: process.end_all(token))
    return token


def ended(folder: Path) -> Exit:
    """How it ended, once it has."""
    until(lambda: process.state(folder) == "ended")
    return process.exit_of(folder)


def test_exit_status_and_output_are_kept(tmp_path: Path, token: str) -> None:
    folder = tmp_path / "1"
    text = "echo said; echo also >&2; exit 3"
    assert process.start(folder, bash(tmp_path, text, token))
    assert ended(folder) == Exit(3)
    assert sorted((tmp_path / "log.txt").read_text().split()) == ["also", "said"]


def test_a_folder_runs_its_process_once(tmp_path: Path, token: str) -> None:
    folder, task = tmp_path / "1", bash(tmp_path, "echo run", token)
    assert process.start(folder, task)
    assert not process.start(folder, task)
    ended(folder)
    assert not process.start(folder, task)
    assert (tmp_path / "log.txt").read_text() == "run\n"


def test_a_look_at_the_lock_does_not_keep_a_process_from_starting(
    tmp_path: Path, token: str
) -> None:
    folder = tmp_path / "1"
    folder.mkdir()
    with process._opened(folder) as looking:
        assert process._taken(looking, shared=True)
        look = threading.Timer(0.1, lambda: fcntl.flock(looking, fcntl.LOCK_UN))
        look.start()
        assert process.start(folder, bash(tmp_path, "exit 0", token))
        look.join()
    assert ended(folder) == Exit(0)


def test_a_folder_without_a_process_is_new(tmp_path: Path) -> None:
    assert process.state(tmp_path / "1") == "never"
    assert not process.is_running(tmp_path / "1")


def test_output_of_the_next_attempt_is_appended(tmp_path: Path, token: str) -> None:
    for number in ("1", "2"):
        process.start(tmp_path / number, bash(tmp_path, f"echo {number}", token))
        ended(tmp_path / number)
    assert (tmp_path / "log.txt").read_text() == "1\n2\n"


def test_variables_reach_the_command_and_no_file(tmp_path: Path, token: str) -> None:
    folder = tmp_path / "1"
    task = bash(tmp_path, "echo $SECRET_OF_MINE", token, environment={"SECRET_OF_MINE": "s3"})
    process.start(folder, task)
    ended(folder)
    assert (tmp_path / "log.txt").read_text() == "s3\n"
    written = [path for path in folder.rglob("*") if path.is_file()]
    assert written
    assert not [path for path in written if "s3" in path.read_text()]


def test_the_services_database_is_nothing_to_a_step(
    tmp_path: Path, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FINERY_DATABASE_URL", "postgresql://finery:s3@localhost/finery")
    process.start(tmp_path / "1", bash(tmp_path, "echo url=$FINERY_DATABASE_URL", token))
    ended(tmp_path / "1")
    assert (tmp_path / "log.txt").read_text() == "url=\n"


def test_a_command_that_is_not_there_ends_with_127_and_says_so(tmp_path: Path, token: str) -> None:
    folder = tmp_path / "1"
    process.start(folder, Process(("no-such-command",), token, tmp_path, tmp_path / "log"))
    end = ended(folder)
    assert end.returncode == 127
    assert "no-such-command" in end.error


def test_it_outlives_who_started_it(tmp_path: Path, token: str) -> None:
    code = f"""
import os, signal
from pathlib import Path
from finery.runners.process import Process, start
folder = Path({str(tmp_path)!r})
start(folder / "1", Process(("sleep", "0.5"), {token!r}, folder, folder / "log.txt"))
os.kill(os.getpid(), signal.SIGKILL)
"""
    starter = subprocess.run([sys.executable, "-c", code])
    assert starter.returncode == -signal.SIGKILL
    assert process.state(tmp_path / "1") == "running"
    assert ended(tmp_path / "1") == Exit(0)


def test_a_killed_entry_is_lost_and_takes_its_command_with_it(tmp_path: Path, token: str) -> None:
    folder = tmp_path / "1"
    process.start(folder, bash(tmp_path, "sleep 60", token))
    until(lambda: len(process.carriers(token)) == 2)
    os.kill(read_json(folder / process.STARTED)["pid"], signal.SIGKILL)
    until(lambda: process.state(folder) == "lost")
    until(lambda: not process.carriers(token))


def test_what_a_lost_process_left_behind_is_found_by_its_token(tmp_path: Path, token: str) -> None:
    folder = tmp_path / "1"
    process.start(folder, bash(tmp_path, "setsid sleep 60 & sleep 60", token))
    until(lambda: len(process.carriers(token)) >= 3)
    os.kill(read_json(folder / process.STARTED)["pid"], signal.SIGKILL)
    until(lambda: process.state(folder) == "lost")
    assert process.end_all(token) >= 1
    assert not process.carriers(token)
    assert process.end_all(token) == 0


def test_stopping_lets_a_process_clean_up(tmp_path: Path, token: str) -> None:
    folder = tmp_path / "1"
    process.start(
        folder, bash(tmp_path, "trap 'echo bye; exit 5' TERM; echo up; sleep 60 & wait", token)
    )
    until(lambda: (tmp_path / "log.txt").exists() and "up" in (tmp_path / "log.txt").read_text())
    process.stop(folder, GRACE)
    assert process.exit_of(folder) == Exit(5, stopped=True)
    assert "bye" in (tmp_path / "log.txt").read_text()


def test_stopping_ends_what_does_not_listen(tmp_path: Path, token: str) -> None:
    folder = tmp_path / "1"
    process.start(folder, bash(tmp_path, "trap '' TERM; setsid sleep 60 & sleep 60", token))
    until(lambda: len(process.carriers(token)) >= 3)
    process.stop(folder, GRACE)
    assert process.exit_of(folder) == Exit(-signal.SIGKILL, stopped=True)
    assert not process.carriers(token)


def test_stopping_what_never_ran_or_has_ended_changes_nothing(tmp_path: Path, token: str) -> None:
    process.stop(tmp_path / "none", GRACE)
    folder = tmp_path / "1"
    process.start(folder, bash(tmp_path, "exit 2", token))
    ended(folder)
    process.stop(folder, GRACE)
    assert process.exit_of(folder) == Exit(2)


def test_a_stranger_with_the_same_number_is_not_asked_to_stop(tmp_path: Path, token: str) -> None:
    """A number that the system has given to another process since."""
    folder = tmp_path / "1"
    process.start(folder, bash(tmp_path, "sleep 60", token))
    until(lambda: (folder / process.STARTED).exists())
    stranger = subprocess.Popen(["sleep", "60"])
    try:
        process.write_json(folder / process.STARTED, {"pid": stranger.pid, "at": 0})
        process.ask_to_stop(folder)
        time.sleep(0.1)
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_what_the_command_leaves_in_its_group_ends_with_it(tmp_path: Path, token: str) -> None:
    folder = tmp_path / "1"
    process.start(folder, bash(tmp_path, "sleep 60 & exit 0", token))
    assert ended(folder) == Exit(0)
    until(lambda: not process.carriers(token))


def test_nobody_stays_a_zombie(tmp_path: Path, token: str) -> None:
    folder = tmp_path / "1"
    process.start(folder, bash(tmp_path, "exit 0", token))
    ended(folder)
    pid = read_json(folder / process.STARTED)["pid"]
    until(lambda: not psutil.pid_exists(pid))


@pytest.mark.parametrize(
    ("end", "killed"),
    [
        (Exit(0), False),
        (Exit(1), False),
        (Exit(-signal.SIGSEGV), False),
        (Exit(-signal.SIGKILL), True),
        (Exit(137), True),
        (Exit(-signal.SIGTERM), True),
        (Exit(1, stopped=True), True),
    ],
)
def test_a_kill_from_outside_is_told_from_a_failure(end: Exit, killed: bool) -> None:
    assert end.killed == killed
