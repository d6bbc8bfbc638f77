"""What a job asks for without effect is said, once for each matter."""

from __future__ import annotations

from finery.jobs.ignored import ignored, job_notes, notes
from finery.jobs.spec import JobSpec, StepSpec


def test_both_spellings_are_read() -> None:
    wire = {"environmentId": "azureml:e:1", "resources": {"shmSize": "16g", "dockerArgs": "--x"}}
    yaml = {"environment": "azureml:e:1", "resources": {"shm_size": "16g", "docker_args": "--x"}}
    assert ignored(wire) == ignored(yaml)
    assert set(ignored(yaml)) == {"resources.shm_size", "resources.docker_args", "environment"}


def test_every_matter_is_a_sentence_with_its_value_and_the_reason() -> None:
    body = {
        "resources": {"instanceType": "Standard_NC6s_v3"},
        "services": {"lab": {"jobServiceType": "JupyterLab"}},
        "identity": {"identityType": "Managed"},
        "queueSettings": {"jobTier": "Spot"},
    }
    said = "\n".join(notes(ignored(body)))
    assert "resources.instance_type Standard_NC6s_v3 is not used: a step runs on this" in said
    assert "services lab is not used: there are no interactive services" in said
    assert "identity " in said
    assert "queue_settings " in said


def test_what_nobody_asked_for_is_not_said() -> None:
    body = {
        "resources": {"instanceCount": 2, "shmSize": None, "instanceType": ""},
        "queueSettings": {"jobTier": "Null"},
        "services": {},
        "environmentId": None,
    }
    assert ignored(body) == {}
    assert notes({"resources.instance_type": ""}) == ()


def test_a_job_says_each_thing_once() -> None:
    steps = tuple(StepSpec(path, notes=("same", path)) for path in ("a", "b"))
    job = JobSpec("j", "pipeline", steps, wire={"identity": {"identityType": "Managed"}})
    assert job_notes(job)[1:] == ["same", "a", "b"]
