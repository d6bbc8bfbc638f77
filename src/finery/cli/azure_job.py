"""A job in Azure ML's own YAML (pipeline, command, finetuning) as the body that the service takes.

The steps of a pipeline name registered components. A component or an environment that lives in
a file of its own is registered first, with the SDK.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finery.cli.azure_job_check import DATA, MODES, RUN, faults, local
from finery.cli.client import Service
from finery.cli.job_files import upload, upload_code
from finery.errors import InputError
from finery.files import sha256_json

_OUTPUT = {"path": "uri", "name": "assetName", "version": "assetVersion"}
_SHORT = re.compile(r"azureml:(?P<name>[^:@/]+)(?::(?P<version>[^:@/]+)|@(?P<label>[^:@/]+))")
ENVIRONMENT = "finery"  # what a command job without an environment runs in: this installation


@dataclass(frozen=True)
class _Job:
    """One file being translated."""

    service: Service
    file: Path
    about: Mapping[str, Any]

    def local(self, text: str) -> Path:
        """A path that the file names."""
        return local(self.file, text)


def body(service: Service, file: Path, about: Mapping[str, Any], compute: str) -> dict[str, Any]:
    """The `properties` of the job; raises InputError with every fault before anything is sent."""
    job = _Job(service, file, about)
    found = list(faults(file, about))
    if found:
        raise InputError(found, subject=file.name)
    shared = {
        "displayName": about.get("display_name") or file.stem,
        "experimentName": about.get("experiment_name") or file.stem,
        "description": about.get("description"),
        "tags": {name: str(value) for name, value in (about.get("tags") or {}).items()},
        "properties": about.get("properties") or {},
        "inputs": _bindings(job, about.get("inputs"), "jobInputType"),
        "outputs": _outputs(about.get("outputs"), "jobOutputType"),
    }
    kinds = {"pipeline": _pipeline, "command": _command, "finetuning": _finetuning}
    made = shared | kinds[about["type"]](job, compute or about.get("compute") or "")
    return {name: value for name, value in made.items() if value is not None}


def _pipeline(job: _Job, compute: str) -> dict[str, Any]:
    settings = dict(job.about.get("settings") or {})
    default = compute or str(settings.pop("default_compute", "")).removeprefix("azureml:")
    nodes = {name: _step(job, name, step) for name, step in job.about["jobs"].items()}
    if default:
        settings["default_compute"] = _compute(job, default)
    return {"jobType": "Pipeline", "settings": settings, "jobs": nodes}


def _step(job: _Job, name: str, step: Mapping[str, Any]) -> dict[str, Any]:
    node = {
        "name": name,
        "type": step.get("type") or "command",
        "componentId": _versioned(job, "components", step["component"]),
        "inputs": _bindings(job, step.get("inputs"), "job_input_type"),
        "outputs": _outputs(step.get("outputs"), "job_output_type"),
    }
    if step.get("compute"):
        node["computeId"] = _compute(job, step["compute"])
    more = {key: step[key] for key in (*RUN, "display_name") if key in step}
    return node | more


def _command(job: _Job, compute: str) -> dict[str, Any]:
    about = job.about
    distribution, limits = about.get("distribution"), about.get("limits")
    resources = about.get("resources") or {}
    made: dict[str, Any] = {
        "jobType": "Command",
        "command": about["command"],
        "environmentId": _environment(job, about.get("environment")),
        "environmentVariables": {
            name: str(value) for name, value in (about.get("environment_variables") or {}).items()
        },
        "resources": {_camel(name): value for name, value in resources.items()},
    }
    if about.get("code"):
        made["codeId"] = upload_code(job.service, job.local(about["code"]))
    if compute:
        made["computeId"] = _compute(job, compute)
    if distribution:
        kind = {"pytorch": "PyTorch", "mpi": "Mpi", "tensorflow": "TensorFlow"}
        named = {_camel(name): value for name, value in distribution.items() if name != "type"}
        made["distribution"] = {"distributionType": kind[str(distribution["type"])], **named}
    if limits:
        made["limits"] = {"jobLimitsType": "Command", "timeout": f"PT{limits['timeout']}S"}
    return made


def _finetuning(job: _Job, compute: str) -> dict[str, Any]:
    about = job.about
    details: dict[str, Any] = {
        "taskType": _camel(str(about.get("task", "chat_completion"))),
        "modelProvider": str(about.get("model_provider", "custom")).capitalize(),
        "hyperParameters": {
            name: str(value) for name, value in (about.get("hyperparameters") or {}).items()
        },
        **{
            theirs: _binding(job, about[ours], "jobInputType")
            for ours, theirs in DATA.items()
            if ours in about
        },
    }
    made = {"jobType": "FineTuning", "fineTuningDetails": details}
    return made | ({"computeId": _compute(job, compute)} if compute else {})


def _bindings(job: _Job, inputs: Mapping[str, Any] | None, key: str) -> dict[str, Any]:
    return {name: _binding(job, value, key) for name, value in (inputs or {}).items()}


def _binding(job: _Job, value: Any, key: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        return {key: "literal", "value": str(value)}
    path = str(value["path"])
    uri = path if "azureml:" in path[:10] else upload(job.service, job.local(path))
    if short := _SHORT.fullmatch(uri):
        kind = "models" if str(value["type"]).endswith("_model") else "data"
        uri = _versioned(job, kind, short.group())
    mode = {"mode": MODES[value["mode"]]} if "mode" in value else {}
    return {key: value["type"], "uri": uri, **mode}


def _outputs(outputs: Mapping[str, Any] | None, key: str) -> dict[str, Any]:
    made = {}
    for name, value in (outputs or {}).items():
        if isinstance(value, Mapping):
            more = {theirs: value[ours] for ours, theirs in _OUTPUT.items() if ours in value}
            made[name] = {key: value.get("type", "uri_folder"), **more}
        else:
            made[name] = {"type": "literal", "value": str(value)}
    return made


def _compute(job: _Job, name: str) -> str:
    return f"{job.service.workspace}/computes/{name.removeprefix('azureml:')}"


def _versioned(job: _Job, kind: str, reference: str) -> str:
    """The id of a registered component, data asset, model or environment."""
    short = _SHORT.fullmatch(reference)
    if short is None:
        return reference
    version = short["version"]
    if version is None:
        newest = job.service.get(
            kind, short["name"], "versions", **{"$orderBy": "createdtime desc", "$top": 1}
        )["value"]
        version = newest[0]["name"] if newest else short["label"]
    return f"{job.service.workspace}/{kind}/{short['name']}/versions/{version}"


def _environment(job: _Job, environment: Any) -> str:
    """An id; an environment written out in the job becomes an anonymous one, as with Azure."""
    if isinstance(environment, str):
        return _versioned(job, "environments", environment)
    described = dict(environment or {"image": ENVIRONMENT})
    version = sha256_json(described)[:32]
    names = ("environments", "CliV2AnonymousEnvironment", "versions", version)
    made = {"isAnonymous": True, "image": described.get("image", ENVIRONMENT)}
    job.service.ask("PUT", *names, body={"properties": made})
    return f"{job.service.workspace}/{'/'.join(names)}"


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)
