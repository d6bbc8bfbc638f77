"""The execution log: append-only, nothing twice, whoever writes it."""

from __future__ import annotations

from pathlib import Path

import pytest

from finery.jobs.log import ExecutionLog, last_lines


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "logs" / "executionlogs.txt"


def copied(path: Path) -> list[str]:
    return [line for line in path.read_text().splitlines() if line.startswith("[")]


def test_a_line_of_ours_is_said_once_by_any_server(path: Path) -> None:
    for _ in range(2):
        log = ExecutionLog(path)
        log.say("a: starts (attempt 1)")
        log.say("a: starts (attempt 1)")
    (line,) = path.read_text().splitlines()
    assert line.endswith("Z a: starts (attempt 1)")


def test_a_line_that_a_kill_cut_off_is_written_anew_and_whole(path: Path, tmp_path: Path) -> None:
    source = tmp_path / "std_log.txt"
    source.write_text("one\ntwo\nthree\n")
    ExecutionLog(path).copy("a", source)
    path.write_bytes(path.read_bytes()[: -len("wo\n[a] three\n")])
    log = ExecutionLog(path)
    log.copy("a", source)
    log.say("a: Completed")
    assert copied(path) == ["[a] one", "[a] two", "[a] three"]
    assert path.read_text().endswith("Z a: Completed\n")


def test_several_lines_are_said_together_and_once(path: Path) -> None:
    for _ in range(2):
        ExecutionLog(path).say("a: Failed\n[looks like a step] x\n\nlast")
    assert len(path.read_text().splitlines()) == 4


def test_lines_of_a_step_come_as_they_are_complete(path: Path, tmp_path: Path) -> None:
    source = tmp_path / "std_log.txt"
    log = ExecutionLog(path)
    log.copy("a", source)
    source.write_text("one\ntw")
    log.copy("a", source)
    assert copied(path) == ["[a] one"]
    source.write_text("one\ntwo\n")
    log.copy("a", source)
    assert copied(path) == ["[a] one", "[a] two"]


def test_the_last_line_comes_without_its_end(path: Path, tmp_path: Path) -> None:
    source = tmp_path / "std_log.txt"
    source.write_text("one\nunfinished")
    log = ExecutionLog(path)
    log.copy("a", source, last=True)
    log.copy("a", source, last=True)
    assert copied(path) == ["[a] one", "[a] unfinished"]


def test_the_next_server_goes_on_where_the_last_one_stopped(path: Path, tmp_path: Path) -> None:
    source = tmp_path / "std_log.txt"
    source.write_text("one\ntwo\n")
    ExecutionLog(path).copy("tune/a", source)
    other = tmp_path / "other.txt"
    other.write_text("[tune/a] looks like it\n")
    ExecutionLog(path).copy("b", other)
    source.write_text("one\ntwo\nthree\n")
    ExecutionLog(path).copy("tune/a", source)
    ExecutionLog(path).copy("b", other)
    assert copied(path) == [
        "[tune/a] one",
        "[tune/a] two",
        "[b] [tune/a] looks like it",
        "[tune/a] three",
    ]


def test_bytes_that_are_no_text_are_shown_as_such(path: Path, tmp_path: Path) -> None:
    source = tmp_path / "std_log.txt"
    source.write_bytes(b"\xff\xfe ok\n\n")
    ExecutionLog(path).copy("a", source)
    assert copied(path) == ["[a] \ufffd\ufffd ok", "[a] "]


def test_the_end_of_a_log_is_its_last_lines_with_words(tmp_path: Path) -> None:
    source = tmp_path / "std_log.txt"
    assert last_lines(source) == ""
    source.write_text("\n".join(f"line {i}" for i in range(50)) + "\n\n\n")
    assert last_lines(source, 2) == "line 48\nline 49"
