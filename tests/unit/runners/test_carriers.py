"""Every process of a token is found, also those that are only just there."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator, Sequence

import psutil
import pytest

from finery.runners import process
from finery.runners.carriers import TOKEN, carriers, token_of


@contextlib.contextmanager
def running(argv: Sequence[str], environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is ended with the block."""
    child = subprocess.Popen(argv, env=environment, start_new_session=True)
    try:
        yield child
    finally:
        child.kill()
        child.wait()


@pytest.fixture
def token() -> str:
    """A token of this test's own."""
    return f"test-{os.getpid()}-{time.monotonic_ns()}"


def test_a_process_is_found_however_soon_it_is_looked_for(token: str) -> None:
    """Between the start of its program and the setting up of its environment it shows none."""
    for _ in range(200):
        with running(("sleep", "60"), {TOKEN: token}):
            assert process.end_all(token) == 1


def test_a_process_that_was_started_during_the_look_is_found(
    token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(("sleep", "60"), {TOKEN: token}) as child:
        others = [os.getpid(), os.getppid()]
        numbers = [others, [*others, child.pid], [*others, child.pid]]
        monkeypatch.setattr(psutil, "pids", lambda: numbers.pop(0))
        assert [found.pid for found in carriers(token)] == [child.pid]


def test_a_process_without_any_environment_is_nobodys_and_not_waited_for(token: str) -> None:
    with running(("env", "-i", "sleep", "60"), {TOKEN: token}) as child:
        until = time.monotonic() + 20
        while token_of(child.pid):
            assert time.monotonic() < until
        began = time.monotonic()
        assert [token_of(child.pid) for _ in range(20)] == [""] * 20
        assert time.monotonic() - began < 1.0


def test_what_has_ended_carries_nothing(token: str) -> None:
    with running(("true",), {TOKEN: token}) as child:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # it stays as a zombie
        assert token_of(child.pid) == ""
        assert carriers(token) == []
    assert token_of(child.pid) == ""
