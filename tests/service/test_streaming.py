"""What `jobs.stream` prints, line by line, while a job runs and after it has ended."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from job_runs import status_of, submitted, wait_for


def test_a_hello_world_job_is_streamed_to_its_end(client: Any, capsys: Any) -> None:
    job = submitted(client, "echo hello $GREETING", environment_variables={"GREETING": "world"})
    client.jobs.stream(job.name)
    shown = capsys.readouterr().out
    assert shown.count("hello world") == 1
    assert f"RunId: {job.name}" in shown
    assert status_of(client, job.name) == "Completed"


def test_a_job_that_has_ended_still_shows_its_log(client: Any, capsys: Any) -> None:
    job = submitted(client, "echo one; echo two")
    wait_for(client, job.name)
    for _ in range(2):
        client.jobs.stream(job.name)
        assert "one\ntwo\n" in capsys.readouterr().out


def test_lines_come_while_the_job_runs_and_each_once(client: Any, capsys: Any) -> None:
    text = "for i in 1 2 3 4 5 6; do printf 'line '; sleep 0.5; echo $i; done; printf 'the end'"
    job = submitted(client, text)
    client.jobs.stream(job.name)
    shown = capsys.readouterr().out.splitlines()
    lines = [line for line in shown if line.startswith(("line", "the end"))]
    assert lines == [*(f"line {i}" for i in range(1, 7)), "the end"]


def test_a_failed_job_raises_with_what_it_said_last(client: Any, capsys: Any) -> None:
    from azure.ai.ml.exceptions import JobException

    job = submitted(client, "echo before; echo 'the disk is made of cheese' >&2; exit 3")
    with pytest.raises(JobException) as failed:
        client.jobs.stream(job.name)
    assert "the disk is made of cheese" in str(failed.value)
    assert "UserError" in str(failed.value)
    assert "before" in capsys.readouterr().out
    assert status_of(client, job.name) == "Failed"


def test_a_log_needs_the_signature_of_its_address(client: Any, service: Any) -> None:
    job = submitted(client, "echo secret")
    wait_for(client, job.name)
    runs = client.jobs._runs_operations
    (address,) = runs.get_run_details(job.name).log_files.values()
    bundle = service.environment["REQUESTS_CA_BUNDLE"]
    from ssl import create_default_context

    with httpx.Client(verify=create_default_context(cafile=bundle)) as plain:
        whole = plain.get(address)
        assert whole.status_code == 200
        assert whole.headers["content-type"].startswith("text/plain")
        assert "secret" in whole.text
        assert plain.get(address.partition("?")[0]).status_code == 401
        assert plain.get(address[:-1] + ("0" if address[-1] != "0" else "1")).status_code == 401
        other = address.replace("user_logs/std_log.txt", "../../finery.sqlite")
        assert plain.get(other).status_code in (401, 404)
