"""What a job asks for and finery does not do is said in its log, not passed over."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from job_runs import ENVIRONMENT, command_job, new_name, wait_for


def log_of(client: Any, name: str, folder: Path, log: str) -> str:
    client.jobs.download(name, all=True, download_path=folder)
    return next(folder.rglob(log)).read_text(encoding="utf-8")


def test_a_command_job_says_at_its_start_what_has_no_effect(client: Any, tmp_path: Path) -> None:
    from azure.ai.ml.entities import JupyterLabJobService

    job = command_job(
        "echo said",
        shm_size="16g",
        docker_args="--privileged",
        instance_type="Standard_NC24rs_v3",
        services={"lab": JupyterLabJobService()},
    )
    made = client.jobs.create_or_update(job)
    assert wait_for(client, job.name) == "Completed"
    *first, last = log_of(client, job.name, tmp_path, "std_log.txt").splitlines()
    assert last == "said"
    for matter in ("environment", "shm_size 16g", "docker_args", "instance_type", "services lab"):
        assert len([line for line in first if matter in line]) == 1, matter
        assert matter in made.properties["finery.notes"]
    assert len(first) == 5


def test_a_pipeline_says_it_once_for_all_its_steps(client: Any, tmp_path: Path) -> None:
    from azure.ai.ml import command, dsl

    component = command(command="echo said", environment=ENVIRONMENT).component

    def two():  # type: ignore  # noqa: ANN202
        for step in (component(), component()):
            step.set_resources(instance_type="Standard_NC24rs_v3", shm_size="8g")

    job = dsl.pipeline(two, default_compute="serverless", force_rerun=True)()
    job.name = new_name("notes")
    client.jobs.create_or_update(job)
    assert wait_for(client, job.name) == "Completed"
    log = log_of(client, job.name, tmp_path, "executionlogs.txt")
    for matter in ("note: environment", "note: resources.instance_type", "note: resources.shm_siz"):
        assert log.count(matter) == 1, log
