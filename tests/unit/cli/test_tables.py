"""Tables and facts: what people read, whatever the terminal."""

from __future__ import annotations

import json

import pytest

from finery.cli.tables import lasted, moment, print_facts, print_json, print_table, say


def test_a_table_without_a_terminal_breaks_no_name(capsys: pytest.CaptureFixture[str]) -> None:
    long = "n" * 150
    print_table(("name", "tags"), [(long, {"a": 1}), ("b", None)], "none")
    head, first, second = capsys.readouterr().out.splitlines()
    assert head.split() == ["name", "tags"]
    assert first.split() == [long, "a=1"]
    assert second.split() == ["b"]


def test_an_empty_table_is_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("name",), [], "There are none.")
    assert capsys.readouterr().out == "There are none.\n"


def test_facts_leave_out_what_is_not_known(capsys: pytest.CaptureFixture[str]) -> None:
    print_facts({"name": "a", "description": "", "tags": {}, "count": 0, "list": [1, 2]})
    lines = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    assert lines == [["name", "a"], ["count", "0"], ["list", "1, 2"]]


def test_json_keeps_every_letter(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"text": "Grüße"})
    out = capsys.readouterr().out
    assert json.loads(out) == {"text": "Grüße"}
    assert "Grüße" in out


def test_what_is_said_to_people_is_not_in_the_output(capsys: pytest.CaptureFixture[str]) -> None:
    say("done\x1b[0m")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "done\\x1b[0m\n")


def test_times_are_read_with_and_without_a_zone() -> None:
    assert moment("2026-01-02T03:04:05Z") == moment("2026-01-02T03:04:05.1234567+00:00")
    assert moment("2026-01-02T03:04:05") == moment("2026-01-02T03:04:05Z")
    assert moment(None) == ""


def test_how_long_something_took() -> None:
    assert lasted("2026-01-01T00:00:00Z", "2026-01-02T01:02:03Z") == "25:02:03"
    assert lasted(None, None) == ""
    assert lasted("2026-01-02T00:00:01Z", "2026-01-02T00:00:00Z") == "0:00:00"
