"""Pipelines of tiny commands in real processes."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from finery.errors import InputError
from finery.files import read_json
from finery.jobs import service
from finery.jobs.job import Job, attempt_folder
from finery.jobs.spec import Asset, Output, StepOutput, StepSpec
from finery.runners import process
from finery.workspace.errors import ConflictError

Step = Callable[..., StepSpec]
After = Callable[..., Mapping[str, Any]]
FINAL = {"final": StepOutput("b", "out")}


def pid_of(server: Any, job: Job, number: int = 1) -> int:
    """The number of the entry of an attempt, once it runs."""
    started = attempt_folder(server.workspace, job, number) / process.STARTED
    until = time.monotonic() + 30
    while not started.exists():
        assert time.monotonic() < until
        time.sleep(0.01)
    return int(read_json(started)["pid"])


def test_outputs_go_from_step_to_step_and_to_the_job(server: Any, step: Step, after: After) -> None:
    job = server.run(
        step("a", "echo ${{inputs.word}} > ${{outputs.out}}/f", {"word": "hello"}),
        step("b", "sed s/h/j/ ${{inputs.from_a}}/f > ${{outputs.out}}/f", after("a")),
        outputs=FINAL,
    )
    assert (job.status, job.error) == ("Completed", None)
    place = server.workspace.job_outputs(job.name) / "final"
    assert (place / "f").read_text() == "jello\n"
    assert not place.is_symlink()
    assert job.outputs["final"]["uri"].endswith(f"/azureml/{job.name}/final")
    steps = server.steps(job)
    assert list(steps) == ["a", "b"]
    assert {s.status for s in steps.values()} == {"Completed"}
    assert steps["b"].started_at >= steps["a"].ended_at


def test_steps_that_need_nothing_of_each_other_run_at_the_same_time(
    server: Any, step: Step, after: After, tmp_path: Path
) -> None:
    meet = "touch {0}/{1}; until [ -e {0}/{2} ]; do sleep 0.02; done"
    job = server.run(
        step("a", meet.format(tmp_path, "a", "b")), step("b", meet.format(tmp_path, "b", "a"))
    )
    assert job.status == "Completed"


def test_the_log_tells_what_happens_and_holds_every_line_once(
    server: Any, step: Step, after: After
) -> None:
    job = server.run(
        step("a", "for i in 1 2 3; do echo line $i; done; printf unfinished"),
        step("b", "echo last", after("a")),
    )
    lines = server.log(job).splitlines()
    own = [line.partition("Z ")[2] for line in lines if not line.startswith("[")]
    assert [line for line in lines if line.startswith("[a]")] == [
        "[a] line 1",
        "[a] line 2",
        "[a] line 3",
        "[a] unfinished",
    ]
    assert own[0] == f"pipeline {job.name} starts: 2 steps"
    assert "a: starts (attempt 1) on 1 core" in own
    assert own[-1] == f"pipeline {job.name}: Completed"
    assert lines.index("[a] unfinished") < lines.index("[b] last")


def test_a_failing_step_fails_the_pipeline_with_its_last_words(
    server: Any, step: Step, after: After
) -> None:
    job = server.run(
        step("a", "echo something is wrong >&2; exit 7"), step("b", "echo never", after("a"))
    )
    assert job.status == "Failed"
    assert job.error["code"] == "UserError"
    assert job.error["step"] == "a"
    assert "exit status 7" in job.error["message"]
    assert "something is wrong" in job.error["message"]
    steps = server.steps(job)
    assert steps["a"].status == "Failed"
    assert steps["a"].attempts == 1, "a failure of the user's is not tried again"
    assert steps["b"].status == "Canceled"
    assert "step a failed" in steps["b"].error["message"]
    assert server.log(job).rstrip().endswith("something is wrong")


def test_a_failure_ends_the_steps_that_run_beside_it(
    server: Any, step: Step, tmp_path: Path
) -> None:
    job = server.run(
        step("a", f"until [ -e {tmp_path}/up ]; do sleep 0.02; done; exit 1"),
        step("b", f"touch {tmp_path}/up; sleep 60"),
    )
    assert job.status == "Failed"
    assert server.ended(server.steps(job)["b"].name).status == "Canceled"


def test_continue_on_step_failure_runs_what_does_not_need_the_failed_step(
    server: Any, step: Step, after: After
) -> None:
    job = server.run(
        step("a", "exit 1"),
        step("b", "echo > ${{outputs.out}}/f"),
        step("c", "echo", after("a")),
        step("d", "echo", after("b")),
        continue_on_step_failure=True,
        outputs=FINAL,
    )
    assert job.status == "Failed"
    statuses = {path: s.status for path, s in server.steps(job).items()}
    assert statuses == {"a": "Failed", "b": "Completed", "c": "Canceled", "d": "Completed"}
    assert (server.workspace.job_outputs(job.name) / "final" / "f").exists()


def test_a_step_is_reused_when_nothing_about_it_changed(
    server: Any, step: Step, after: After
) -> None:
    def steps(word: str) -> tuple[StepSpec, ...]:
        first = step("a", "echo reuse > ${{outputs.out}}/f")
        text = "cat ${{inputs.from_a}}/f > ${{outputs.out}}/f; echo ${{inputs.word}}"
        return first, step("b", text, {**after("a"), "word": word})

    first = server.run(*steps("one"))
    second = server.run(*steps("one"), outputs=FINAL)
    third = server.run(*steps("two"))
    forced = server.run(*steps("one"), force_rerun=True)
    names = {path: s.name for path, s in server.steps(first).items()}
    again = server.steps(second)
    assert {path: s.reuse["from"] for path, s in again.items()} == names
    assert again["a"].attempts == 0
    assert (server.workspace.job_outputs(second.name) / "final" / "f").read_text() == "reuse\n"
    assert server.steps(third)["a"].reuse["from"] in {names["a"], again["a"].name}
    assert server.steps(third)["b"].reuse["from"] == ""
    assert "reused: same component" in server.log(second)
    assert "no completed step has the same" in server.log(third)
    assert {s.reuse["why"] for s in server.steps(forced).values()} == {"force_rerun is set"}


def test_changed_outputs_are_not_reused(server: Any, step: Step) -> None:
    one = step("a", "echo first > ${{outputs.out}}/f # touched later")
    job = server.run(one)
    (Path(server.steps(job)["a"].outputs["out"]["path"]) / "f").write_text("tampered")
    again = server.steps(server.run(one))["a"]
    assert again.reuse["from"] == ""
    assert "changed or removed" in again.reuse["why"]
    assert (Path(again.outputs["out"]["path"]) / "f").read_text() == "first\n"


def test_what_is_not_deterministic_runs_again_and_so_does_what_reads_it(
    server: Any, step: Step, after: After
) -> None:
    steps = (
        step("a", "date +%s%N > ${{outputs.out}}/f", deterministic=False),
        step("b", "cat ${{inputs.from_a}}/f", after("a")),
    )
    server.run(*steps)
    again = server.steps(server.run(*steps))
    assert [s.reuse["from"] for s in again.values()] == ["", ""]


def test_input_files_decide_by_content(server: Any, step: Step) -> None:
    file = server.workspace.blobs / "azureml-blobstore" / "rows.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    uri = "azureml://datastores/workspaceblobstore/paths/rows.jsonl"
    reads = step("a", "cat ${{inputs.rows}}", {"rows": Asset(uri, "uri_file")})
    file.write_text("one")
    first = server.steps(server.run(reads))["a"]
    assert server.log(first) == "one"
    assert server.steps(server.run(reads))["a"].reuse["from"] == first.name
    file.write_text("two")
    assert server.log(server.steps(server.run(reads))["a"]) == "two"


def test_an_input_that_is_gone_fails_the_step_and_names_it(server: Any, step: Step) -> None:
    uri = "azureml://datastores/workspaceblobstore/paths/no-such-file"
    job = server.run(step("a", "cat ${{inputs.rows}}", {"rows": Asset(uri, "uri_file")}))
    assert job.status == "Failed"
    assert "a.inputs.rows" in job.error["message"]


def test_canceling_ends_the_processes_of_a_running_job(
    server: Any, step: Step, after: After
) -> None:
    job = server.submit(step("a", "setsid sleep 60 & sleep 60"), step("b", "echo", after("a")))
    child = server.steps(job)["a"]
    pid_of(server, child)
    folder = attempt_folder(server.workspace, child, 1)
    token = read_json(folder / process.PROCESS)["token"]
    assert service.cancel(server.workspace, job.name).status in ("CancelRequested", "Canceled")
    assert server.ended(job.name).status == "Canceled"
    assert {s.status for s in server.steps(job).values()} == {"Canceled"}
    assert not process.carriers(token)


def test_canceling_a_job_that_has_ended_changes_nothing(server: Any, step: Step) -> None:
    job = server.run(step("a", "echo"))
    assert service.cancel(server.workspace, job.name).status == "Completed"


def test_a_canceled_job_that_waits_for_the_machine_never_runs(
    server: Any, step: Step, tmp_path: Path
) -> None:
    heavy = [step(f"s{i}", f"until [ -e {tmp_path}/go ]; do sleep 0.05; done") for i in range(4)]
    first = server.submit(*heavy)
    for child in server.steps(first).values():
        server.when(child.name, lambda job: job.status == "Running")
    second = server.submit(step("late", "echo # waits"))
    late = server.steps(second)["late"].name
    server.when(late, lambda job: job.status == "Queued")
    service.cancel(server.workspace, second.name)
    assert server.ended(second.name).status == "Canceled"
    (tmp_path / "go").touch()
    assert server.ended(first.name).status == "Completed"
    assert server.steps(second)["late"].started_at is None


@pytest.mark.parametrize("victim", ["entry", "command"])
def test_a_killed_process_is_tried_again_and_finds_what_it_had(
    server: Any, step: Step, tmp_path: Path, victim: str
) -> None:
    text = f"""
if [ -e ${{{{outputs.out}}}}/half ]; then echo resumed; exit 0; fi
touch ${{{{outputs.out}}}}/half; echo $$ > {tmp_path}/pid.tmp; mv {tmp_path}/pid.tmp {tmp_path}/pid
sleep 60
"""
    job = server.submit(step("a", text))
    child = server.steps(job)["a"]
    until = time.monotonic() + 30
    while not (tmp_path / "pid").exists():
        assert time.monotonic() < until
        time.sleep(0.01)
    pid = pid_of(server, child) if victim == "entry" else int((tmp_path / "pid").read_text())
    os.kill(pid, signal.SIGKILL)
    job = server.ended(job.name)
    assert job.status == "Completed"
    assert server.steps(job)["a"].attempts == 2
    log = server.log(job)
    assert "[a] resumed" in log
    assert "attempt 1 was lost" in log


def test_a_step_that_is_always_killed_is_given_up(server: Any, step: Step) -> None:
    job = server.run(step("a", "kill -9 $$ # gone"))
    assert job.status == "Failed"
    assert job.error["code"] == "SystemError"
    assert "3 times" in job.error["message"]
    assert server.steps(job)["a"].attempts == 3


def test_a_command_job_is_its_own_step(server: Any, step: Step) -> None:
    job = server.run(step("", "echo ran ${{inputs.x}}; echo > ${{outputs.out}}/f", {"x": "1"}))
    assert job.status == "Completed"
    assert job.attempts == 1
    assert server.log(job) == "ran 1\n"
    assert (server.workspace.job_outputs(job.name) / "out" / "f").exists()
    assert service.find(server.workspace, parent=job.name) == ([], None)
    assert [file.name for file in service.log_files(server.workspace, job.name)] == [
        "user_logs/std_log.txt"
    ]


def test_a_file_output_is_a_file_in_the_folder_of_its_name(server: Any, step: Step) -> None:
    outputs = {"rows": Output("uri_file")}
    job = server.run(
        step("a", "echo x > ${{outputs.rows}}", outputs=outputs),
        step("b", "cat ${{inputs.rows}}", {"rows": StepOutput("a", "rows")}),
        outputs={"rows": StepOutput("a", "rows")},
    )
    assert job.status == "Completed"
    assert (server.workspace.job_outputs(job.name) / "rows" / "rows").read_text() == "x\n"
    assert "[b] x" in server.log(job)


def test_variables_and_the_root_job_reach_the_command(server: Any, step: Step) -> None:
    text = "echo $COLOUR $FINERY_ROOT_RUN_ID"
    job = server.run(step("a", text, environment_variables={"COLOUR": "blue"}))
    assert f"[a] blue {job.name}" in server.log(job)


def test_the_same_job_submitted_again_is_the_job_that_is_there(server: Any, step: Step) -> None:
    one = step("a", "echo same")
    job = server.run(one, name="the-same")
    again = server.submit(one, name="the-same", tags={"new": "tag"})
    assert (again.seq, again.status, again.tags) == (job.seq, "Completed", {"new": "tag"})


def test_another_job_under_the_same_name_is_refused(server: Any, step: Step) -> None:
    server.run(step("a", "echo one"), name="taken")
    with pytest.raises(ConflictError, match="taken"):
        server.submit(step("a", "echo two"), name="taken")


def test_a_specification_with_faults_leaves_nothing_behind(
    server: Any, step: Step, after: After
) -> None:
    with pytest.raises(InputError) as caught:
        server.submit(step("a", "echo", after("nowhere")), step("b", ""), name="faulty")
    assert len(caught.value.faults) == 2
    assert "faulty" not in [job.name for job in service.find(server.workspace)[0]]


def test_an_output_cannot_leave_its_datastore(server: Any, step: Step) -> None:
    bad = "azureml://datastores/workspaceblobstore/paths/../../../secrets"
    job = server.run(step("a", "echo", outputs={"out": Output("uri_folder", uri=bad)}))
    assert job.status == "Failed"
    assert "stays inside" in job.error["message"]


def test_the_first_process_runs_within_a_second(server: Any, step: Step) -> None:
    job = server.run(step("a", "echo quick"))
    child = server.steps(job)["a"]
    waited = (child.started_at - job.created_at).total_seconds()
    assert waited < 1.0 * max(1.0, os.getloadavg()[0] / 2)


def test_a_deleted_job_is_gone_and_its_outputs_are_not(server: Any, step: Step) -> None:
    job = server.run(step("a", "echo > ${{outputs.out}}/f # kept"), outputs={})
    place = Path(server.steps(job)["a"].outputs["out"]["path"])
    service.delete(server.workspace, job.name)
    assert (place / "f").exists()
    assert not (server.workspace.jobs / job.name).exists()
    with pytest.raises(ConflictError, match="deleted"):
        server.submit(step("a", "echo"), name=job.name)


def test_a_job_named_like_one_that_was_deleted_runs(server: Any, step: Step) -> None:
    for _ in range(2):
        job = server.run(step("", "exit 3", outputs={}), name="again")
        assert job.status == "Failed"
        service.delete(server.workspace, "again")


def test_a_defect_of_ours_ends_the_job_it_meets(
    server: Any, step: Step, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr("finery.jobs.step._watch", broken)
    job = server.run(step("a", "sleep 60 # defect"))
    assert job.status == "Failed"
    assert job.error["code"] == "SystemError"
    assert "a defect" in job.error["message"]
