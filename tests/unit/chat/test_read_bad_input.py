"""Every file of the bad-input corpus, through the library and through the command line."""

from __future__ import annotations

from pathlib import Path

import pytest
from bad_input.corpus import ACCEPTED, REFUSED, Case
from typer.testing import CliRunner

from finery.chat.conversation import read_conversations
from finery.cli.data import app
from finery.errors import InputError


def _names(case: Case) -> str:
    return case.name


def _tree(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() if p.is_file() else b"" for p in folder.rglob("*")}


@pytest.mark.parametrize("case", REFUSED, ids=_names)
def test_a_bad_file_is_refused_with_its_place_and_nothing_is_written(
    case: Case, tmp_path: Path
) -> None:
    path = case.make(tmp_path)
    before = _tree(tmp_path)
    with pytest.raises(InputError) as caught:
        read_conversations(path)
    run = CliRunner().invoke(app, ["check", str(path)])
    assert isinstance(run.exception, InputError)
    assert run.exception.exit_status == 2
    for message in (str(caught.value), str(run.exception)):
        for piece in case.says:
            assert piece.format(file=path) in message, message
        assert "Traceback" not in message
    assert not run.stdout
    assert all(str(path) in fault.where for fault in caught.value.faults)
    assert len(caught.value.faults) <= 50
    assert _tree(tmp_path) == before


@pytest.mark.parametrize("case", ACCEPTED, ids=_names)
def test_an_unusual_file_is_taken(case: Case, tmp_path: Path) -> None:
    path = case.make(tmp_path)
    assert read_conversations(path)
    assert CliRunner().invoke(app, ["check", str(path)], catch_exceptions=False).exit_code == 0


def test_the_corpus_is_as_large_as_we_say() -> None:
    assert len(REFUSED) > 100
    for cases in (REFUSED, ACCEPTED):
        assert len({case.name for case in cases}) == len(cases)
    assert all(case.policy and case.says for case in REFUSED)
