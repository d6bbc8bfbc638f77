"""A command may do to its inputs what it likes: nobody else's files change."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from finery.jobs import mounts
from finery.jobs.job import attempt_folder
from finery.jobs.spec import Asset, Output, StepOutput, StepSpec
from finery.workspace.references import DatastorePath, locate, parse

Step = Callable[..., StepSpec]
BLOBS = "azureml://datastores/workspaceblobstore/paths/"


@pytest.fixture
def place() -> str:
    """The reference of a folder of the workspace."""
    return f"{BLOBS}given data"


@pytest.fixture
def rows(server: Any, place: str) -> Path:
    """The one file in that folder."""
    found = parse(place)
    assert isinstance(found, DatastorePath)
    file = locate(server.workspace, found) / "rows.txt"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("one\n")
    return file


def test_a_step_that_appends_to_its_input_changes_no_blob(
    server: Any, step: Step, place: str, rows: Path
) -> None:
    read = 'chmod u+w ${{inputs.x}}; echo two >> ${{inputs.x}}; cat "${{inputs.x}}"'
    job = server.run(step("", read, {"x": Asset(f"{place}/rows.txt", "uri_file")}))
    assert job.status == "Completed", job.error
    assert "one\ntwo\n" in server.log(job)
    assert rows.read_text() == "one\n"


def test_a_step_that_rewrites_the_output_of_another_leaves_it_as_it_was(
    server: Any, step: Step
) -> None:
    made = step("a", "echo one > ${{outputs.out}}/f")
    write = "chmod -R u+w ${{inputs.x}}; echo two > ${{inputs.x}}/f; rm ${{inputs.x}}/f"
    spoil = step("b", write, {"x": StepOutput("a", "out")})
    job = server.run(made, spoil, outputs={"final": StepOutput("a", "out")})
    assert job.status == "Completed", job.error
    first = server.steps(job)["a"].outputs["out"]["path"]
    assert (Path(first) / "f").read_text() == "one\n"


def test_the_copies_are_gone_when_the_step_has_ended(
    server: Any, step: Step, place: str, rows: Path
) -> None:
    read = "test -f ${{inputs.x}}/rows.txt && echo ${{inputs.x}}"
    job = server.run(step("", read, {"x": Asset(place, "uri_folder")}))
    assert job.status == "Completed", job.error
    folder = attempt_folder(server.workspace, job, 1)
    assert str(folder) in server.log(job)
    assert not (folder / mounts.COPIES).exists()


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every input is too large to be copied, and the file system makes no clones."""
    real = mounts.mounted_inputs
    monkeypatch.setattr(mounts, "cloned", lambda source, target: False)
    monkeypatch.setattr(
        "finery.jobs.command.mounted_inputs", lambda job, folder: real(job, folder, small=0)
    )


@pytest.mark.usefixtures("large")
def test_a_step_that_changes_a_large_input_fails_and_says_which_file(
    server: Any, step: Step, place: str, rows: Path
) -> None:
    write = "echo two >> ${{inputs.x}}/rows.txt"
    job = server.run(step("", write, {"x": Asset(place, "uri_folder")}))
    rows.write_text("one\n")
    assert job.status == "Failed"
    assert job.error["code"] == "UserError"
    assert "changed its inputs: x/rows.txt" in job.error["message"]
    assert "mode download" in job.error["message"]


@pytest.mark.usefixtures("large")
def test_a_file_put_beside_a_large_input_is_said_in_the_log(
    server: Any, step: Step, place: str, rows: Path
) -> None:
    job = server.run(step("", "touch ${{inputs.x}}/new", {"x": Asset(place, "uri_folder")}))
    (rows.parent / "new").unlink()
    assert job.status == "Completed", job.error
    assert "put files among its inputs, which stay there: x/new." in server.log(job)


@pytest.mark.usefixtures("large")
def test_a_large_input_of_mode_download_is_a_copy_that_may_be_written(
    server: Any, step: Step, place: str, rows: Path
) -> None:
    write = "test -w ${{inputs.x}}/rows.txt && echo two > ${{inputs.x}}/rows.txt"
    job = server.run(step("", write, {"x": Asset(place, "uri_folder", "download")}))
    assert job.status == "Completed", job.error
    assert rows.read_text() == "one\n"


def test_who_may_not_write_is_told_by_the_system(
    server: Any, step: Step, place: str, rows: Path
) -> None:
    show = "stat -c %A ${{inputs.x}}/rows.txt"
    job = server.run(step("", show, {"x": Asset(place, "uri_folder")}))
    assert "w" not in server.log(job)


def test_data_with_spaces_in_its_name_is_read(
    server: Any, step: Step, place: str, rows: Path
) -> None:
    outputs = {"out": Output("uri_folder")}
    text = "cat ${{inputs.x}}/rows.txt > ${{outputs.out}}/copy"
    job = server.run(step("", text, {"x": Asset(place, "uri_folder")}, outputs=outputs))
    assert job.status == "Completed", job.error
    assert (Path(job.outputs["out"]["path"]) / "copy").read_text() == "one\n"
