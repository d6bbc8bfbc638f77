"""What a job may ask for that changes nothing here: each said once, at the start of its log."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from finery.jobs.spec import JobSpec

# By what is asked for, in the words of YAML: why it changes nothing.
_RESOURCES = {
    "instance_type": "a step runs on this machine, whose devices the log names",
    "instance_types": "steps run on this machine, whose devices the log names",
    "shm_size": "processes share the memory of this machine without a limit",
    "docker_args": "steps run as processes of this machine, not in containers",
    "locations": "steps run on this machine",
    "max_instance_count": "steps run on this machine, with the instances that are asked for",
}
_IN = "resources."
_SETTINGS = {
    "services": "there are no interactive services; read the logs, or open a shell on this machine",
    "queue_settings": "steps start first come, first served",
    "environment": "no image is built; commands run in finery's own Python environment",
    "identity": "steps run as the user who started the service",
}
_NOTHING = (None, "", "null")  # what clients send for a setting that nobody made


def ignored(body: Mapping[str, Any]) -> dict[str, str]:
    """By matter: what the body of a job, a node or a component asks for without effect.

    Both spellings are read, that of the wire and that of YAML. `notes` makes sentences of it.
    """
    said = _snake(body)
    resources = _snake(said.get("resources"))
    asked = {f"{_IN}{name}": resources.get(name) for name in _RESOURCES}
    asked |= {name: said.get(name) for name in _SETTINGS}
    asked["environment"] = environment_of(body)
    return {matter: _shown(value) for matter, value in asked.items() if _is_said(value)}


def notes(asked: Mapping[str, str]) -> tuple[str, ...]:
    """A sentence for each matter of `ignored` that has a value."""
    reasons = {**{f"{_IN}{name}": why for name, why in _RESOURCES.items()}, **_SETTINGS}
    return tuple(
        f"{matter} {value} is not used: {reasons[matter]}."
        for matter, value in asked.items()
        if value
    )


def job_notes(job: JobSpec) -> list[str]:
    """The notes of a job and of its steps, one for each matter and value."""
    every = [*notes(ignored(job.wire)), *(note for step in job.steps for note in step.notes)]
    return list(dict.fromkeys(every))


def environment_of(body: Mapping[str, Any]) -> str:
    """The environment that a body names by a reference; "" when it names none."""
    value = body.get("environmentId") or body.get("environment")
    return value if isinstance(value, str) else ""


def _snake(body: Any) -> dict[str, Any]:
    if not isinstance(body, Mapping):
        return {}
    return {re.sub(r"(?<!^)([A-Z])", r"_\1", str(key)).lower(): body[key] for key in body}


def _is_said(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(_is_said(inner) for inner in value.values())
    if isinstance(value, list | tuple):
        return any(_is_said(inner) for inner in value)
    return (value.lower() if isinstance(value, str) else value) not in _NOTHING


def _shown(value: Any) -> str:
    """A value as a note shows it: of a mapping, its names."""
    if isinstance(value, Mapping):
        return ", ".join(str(key) for key in value)
    return ", ".join(str(one) for one in value) if isinstance(value, list) else str(value)
