"""The process that looks at a fine-tuning: its answer, its faults, its end."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from fine_tune_store import put_both

from finery.errors import Fault
from finery.studio import fine_tune_form as forms
from finery.studio import fine_tune_job, fine_tune_look, fine_tune_worker
from finery.studio.fine_tune_job import Wanted
from finery.workspace.errors import UnavailableError
from finery.workspace.place import Workspace

HEAD = "import json, sys, time\nfrom pathlib import Path\nfolder = Path(sys.argv[1])\n"
ANSWER = "(folder / 'answer.json').write_text(json.dumps({}))\n"


@pytest.fixture
def asked(workspace: Workspace) -> Wanted:
    put_both(workspace)
    form = forms.blank(
        model="azureml://models/tiny/versions/1", train="azureml://data/chats/versions/1"
    )
    wanted, form = fine_tune_job.wanted(workspace, form)
    assert wanted is not None, form.faults
    return wanted


def looks_by(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str) -> None:
    """Let a small script be the process."""
    script = tmp_path / "looking.py"
    script.write_text(HEAD + text)
    made = fine_tune_look._process

    def process(folder: Path) -> Any:
        from dataclasses import replace

        usual = made(folder)
        argv = (usual.argv[0], str(script), str(folder))
        return replace(usual, argv=argv, loads=None)

    monkeypatch.setattr(fine_tune_look, "_process", process)


def test_the_process_is_asked_for_the_recipe_and_its_answer_is_the_look(
    workspace: Workspace, asked: Wanted, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    text = "ask = json.loads((folder / 'ask.json').read_text())\n"
    answer = "{'notes': [ask['recipe']['model'], str(ask['rows'])]}"
    looks_by(monkeypatch, tmp_path, text + ANSWER.format(answer))
    found = fine_tune_look.look(workspace, asked)
    assert found.notes == [asked.recipe["model"], "5"]
    assert found.is_good
    assert list((workspace.folder / "looks").iterdir()) == []


def test_refusals_are_faults_of_the_form_with_names_of_files_alone(
    workspace: Workspace, asked: Wanted, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    text = (
        "ask = json.loads((folder / 'ask.json').read_text())\n"
        "rows = ask['recipe']['train_file_path']\n"
        "fault = {'found': 'no role', 'expected': 'a role', 'remedy': ''}\n"
        "faults = [{'where': rows + ':3:messages[0]', **fault}, {'where': '--seed', **fault}]\n"
    )
    looks_by(monkeypatch, tmp_path, text + ANSWER.format("{'faults': faults}"))
    found = fine_tune_look.look(workspace, asked)
    assert found.faults == [
        ("train", "rows.jsonl:3:messages[0]: found no role; expected a role."),
        ("seed", "Found no role; expected a role."),
    ]
    looks_by(monkeypatch, tmp_path, ANSWER.format("{'error': 'No such family.'}"))
    assert fine_tune_look.look(workspace, asked).faults == [("", "No such family.")]


def test_a_look_is_ended_when_it_takes_too_long(
    workspace: Workspace, asked: Wanted, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    looks_by(monkeypatch, tmp_path, "time.sleep(60)\n")
    begun = time.monotonic()
    found = fine_tune_look.look(workspace, asked, patience=0.3)
    assert time.monotonic() - begun < 30
    assert "was ended after" in found.unknown
    assert found.is_good  # it is no fault of the form
    assert list((workspace.folder / "looks").iterdir()) == []


def test_a_look_that_breaks_says_its_last_words(
    workspace: Workspace, asked: Wanted, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    looks_by(monkeypatch, tmp_path, "raise SystemExit('out of memory')\n")
    assert "out of memory" in fine_tune_look.look(workspace, asked).unknown


def test_one_looks_at_a_time(
    workspace: Workspace, asked: Wanted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fine_tune_look, "WAITING", 0.01)
    with fine_tune_look._one, pytest.raises(UnavailableError, match="Another look"):
        fine_tune_look.look(workspace, asked)


def test_a_fault_without_a_field_keeps_its_place(asked: Wanted) -> None:
    fault = Fault("chat_template", "none", "one")
    assert fine_tune_look.placed(fault, asked) == ("", "chat_template: found none; expected one.")


def test_a_long_row_is_shown_as_far_as_a_page_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fine_tune_worker, "LONGEST", 10)
    assert fine_tune_worker.shortened([("12345", False), ("678", True)]) == [
        ("12345", False),
        ("678", True),
    ]
    assert fine_tune_worker.shortened([("12345", False), ("6789abc", True), ("z", False)]) == [
        ("12345", False),
        ("6789a …", True),
    ]


def test_pieces_end_where_a_cut_text_ends() -> None:
    spans = [(2, 4), (6, 9), (10, 12)]
    assert fine_tune_worker._pieces("abcdefgh", spans) == [
        ("ab", False),
        ("cd", True),
        ("ef", False),
        ("gh", True),
    ]
    assert fine_tune_worker._pieces("abc", []) == [("abc", False)]
