"""Command jobs through the unmodified SDK: submit, download, list, cancel, archive, refuse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from job_runs import command_job, new_name, status_of, submitted, wait_for


def test_inputs_and_outputs_reach_the_command_and_come_back(client: Any, tmp_path: Path) -> None:
    from azure.ai.ml import Input, Output

    (tmp_path / "greeting.txt").write_text("hello", encoding="utf-8")
    job = submitted(
        client,
        "cp ${{inputs.file}} ${{outputs.made}}/copy.txt && echo ${{inputs.word}} >> "
        "${{outputs.made}}/copy.txt && echo said",
        inputs={"file": Input(type="uri_file", path=str(tmp_path / "greeting.txt")), "word": 42},
        outputs={"made": Output(type="uri_folder")},
    )
    assert wait_for(client, job.name) == "Completed"
    client.jobs.download(job.name, output_name="made", download_path=tmp_path / "one")
    copy = tmp_path / "one" / "named-outputs" / "made" / "copy.txt"
    assert copy.read_text(encoding="utf-8") == "hello42\n"
    client.jobs.download(job.name, all=True, download_path=tmp_path / "all")
    assert (tmp_path / "all" / "named-outputs" / "made" / "copy.txt").is_file()
    log = tmp_path / "all" / "artifacts" / "user_logs" / "std_log.txt"
    assert "said" in log.read_text(encoding="utf-8")
    read = client.jobs.get(job.name)
    assert read.outputs["made"].path.endswith(f"/paths/azureml/{job.name}/made")


def test_a_job_runs_in_a_copy_of_its_code(client: Any, tmp_path: Path) -> None:
    code = tmp_path / "src"
    code.mkdir()
    (code / "main.py").write_text("print('from', __file__.split('/')[-1])", encoding="utf-8")
    job = submitted(client, "python main.py > ${{outputs.o}}/said", code=str(code), outputs=OUT)
    assert wait_for(client, job.name) == "Completed"
    client.jobs.download(job.name, output_name="o", download_path=tmp_path)
    said = tmp_path / "named-outputs" / "o" / "said"
    assert said.read_text(encoding="utf-8") == "from main.py\n"


OUT = {"o": {"type": "uri_folder"}}


def test_what_a_command_writes_into_outputs_is_among_its_artifacts(
    client: Any, tmp_path: Path
) -> None:
    job = submitted(client, "echo kept > ./outputs/kept.txt")
    assert wait_for(client, job.name) == "Completed"
    client.jobs.download(job.name, download_path=tmp_path)
    kept = tmp_path / "artifacts" / "outputs" / "kept.txt"
    assert kept.read_text(encoding="utf-8") == "kept\n"


def test_a_job_that_runs_longer_than_its_limit_fails_and_says_so(client: Any) -> None:
    job = command_job("sleep 60")
    job.set_limits(timeout=1)
    client.jobs.create_or_update(job)
    assert wait_for(client, job.name) == "Failed"
    client.jobs._runs_operations.get_run_details(job.name)  # the first look finds it finalizing
    found = client.jobs._runs_operations.get_run_details(job.name)
    assert "longer than its limit of 1 seconds" in found.error.error.message


def test_a_model_output_is_downloaded_with_all_the_others(client: Any, tmp_path: Path) -> None:
    from azure.ai.ml import Output

    job = submitted(
        client,
        "echo weights > ${{outputs.model}}/w && echo row > ${{outputs.file}}",
        outputs={"model": Output(type="mlflow_model"), "file": Output(type="uri_file")},
    )
    assert wait_for(client, job.name) == "Completed"
    client.jobs.download(job.name, all=True, download_path=tmp_path)
    outputs = tmp_path / "named-outputs"
    assert (outputs / "model" / "w").read_text(encoding="utf-8") == "weights\n"
    assert [path.read_text() for path in (outputs / "file").rglob("*") if path.is_file()] == [
        "row\n"
    ]


def test_a_canceled_job_ends_and_the_poller_says_when(client: Any) -> None:
    job = submitted(client, "sleep 120")
    assert wait_for(client, job.name, "Running") == "Running"
    client.jobs.begin_cancel(job.name).result()
    assert status_of(client, job.name) == "Canceled"
    client.jobs.begin_cancel(job.name).result()  # once more changes nothing


def test_an_archived_job_leaves_the_list_and_comes_back(client: Any) -> None:
    from azure.ai.ml.constants import ListViewType

    name = submitted(client, "true").name
    assert name in [job.name for job in client.jobs.list()]
    client.jobs.archive(name)
    assert name not in [job.name for job in client.jobs.list()]
    archived = client.jobs.list(list_view_type=ListViewType.ARCHIVED_ONLY)
    assert name in [job.name for job in archived]
    client.jobs.restore(name)
    assert name in [job.name for job in client.jobs.list(list_view_type=ListViewType.ALL)]
    assert name in [job.name for job in client.jobs.list()]


def test_a_long_list_comes_in_pages_newest_first(client: Any, service: Any) -> None:
    names = [submitted(client, "true").name for _ in range(3)]
    listed = [job.name for job in client.jobs.list()]
    assert [name for name in listed if name in names] == names[::-1]


def test_tags_and_names_of_a_job_can_be_changed(client: Any) -> None:
    job = submitted(client, "true", tags={"a": "1"})
    changed = client.jobs.update(
        job.name, display_name="New", description="why", tags={"b": "2"}, properties={"p": "3"}
    )
    assert (changed.display_name, changed.description) == ("New", "why")
    assert changed.tags == {"a": "1", "b": "2"}
    assert changed.properties["p"] == "3"
    again = client.jobs.get(job.name)
    again.tags["c"] = "4"
    assert client.jobs.create_or_update(again).tags == {"a": "1", "b": "2", "c": "4"}


def test_a_body_sent_twice_is_one_job(client: Any) -> None:
    job = command_job("true", experiment_name="twice")
    first, second = (client.jobs.create_or_update(job) for _ in range(2))
    assert first.name == second.name
    assert first.creation_context.created_at == second.creation_context.created_at


def test_a_name_that_is_taken_by_another_job_is_a_conflict(client: Any) -> None:
    from azure.core.exceptions import ResourceExistsError

    job = submitted(client, "true")
    other = command_job("false")
    other.name = job.name
    with pytest.raises(ResourceExistsError, match="another name"):
        client.jobs.create_or_update(other)


def test_a_job_with_faults_is_refused_with_all_of_them_and_not_created(client: Any) -> None:
    from azure.ai.ml import Input
    from azure.core.exceptions import HttpResponseError, ResourceNotFoundError

    gone = "azureml://datastores/workspaceblobstore/paths/gone/x.jsonl"
    job = command_job(
        "echo > ${{outputs.other}}",
        inputs={"data": Input(type="uri_file", path=gone)},
        compute="gone-cluster",
        distribution={"type": "pytorch", "process_count_per_instance": 0},
    )
    with pytest.raises(HttpResponseError) as refused:
        client.jobs.create_or_update(job)
    assert refused.value.status_code == 400
    text = str(refused.value)
    for part in (
        "inputs.data",
        "gone/x.jsonl",
        "${{outputs.other}}",
        "gone-cluster",
        "processCount",
    ):
        assert part in text
    with pytest.raises(ResourceNotFoundError):
        client.jobs.get(job.name)


def test_a_sweep_is_refused_as_not_there(client: Any) -> None:
    from azure.ai.ml.sweep import Choice
    from azure.core.exceptions import HttpResponseError

    trial = command_job("echo ${{inputs.x}}", inputs={"x": Choice([1, 2])}, compute="cpu")
    sweep = trial.sweep(sampling_algorithm="random", primary_metric="m", goal="minimize")
    sweep.name = new_name("sweep")
    sweep.compute = "serverless"
    with pytest.raises(HttpResponseError) as refused:
        client.jobs.create_or_update(sweep)
    assert refused.value.status_code == 501
    assert "Sweep" in str(refused.value)


def test_a_deleted_job_is_gone_and_a_running_one_stays(client: Any) -> None:
    from azure.core.exceptions import HttpResponseError, ResourceNotFoundError

    job = submitted(client, "sleep 120")
    wait_for(client, job.name, "Running")
    with pytest.raises(HttpResponseError, match="Cancel it"):
        client.jobs.begin_delete(job.name).result()
    client.jobs.begin_cancel(job.name).result()
    client.jobs.begin_delete(job.name).result()
    with pytest.raises(ResourceNotFoundError):
        client.jobs.get(job.name)


def test_a_job_that_is_not_there_is_not_found(client: Any) -> None:
    from azure.core.exceptions import ResourceNotFoundError

    for use in (client.jobs.get, client.jobs.stream, client.jobs.begin_cancel, client.jobs.archive):
        with pytest.raises(ResourceNotFoundError, match="no-such-job"):
            use("no-such-job")


def test_a_job_has_no_interactive_services(client: Any) -> None:
    assert client.jobs.show_services(submitted(client, "true").name) is None
