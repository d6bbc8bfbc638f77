"""The body of a command job as the one process that it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from finery.errors import Fault
from finery.jobs.declared import compute_name, count_of, seconds_of, unknown_names
from finery.jobs.ignored import environment_of, ignored, notes
from finery.jobs.nodes import text_of
from finery.jobs.spec import JobSpec, Output, StepSpec


def command_step(job: JobSpec, properties: Mapping[str, Any], faults: list[Fault]) -> StepSpec:
    """The step of a command job; what is wrong with its body goes to `faults`."""
    command = properties.get("command")
    if not isinstance(command, str) or not command.strip():
        faults.append(Fault("command", repr(command), "a command"))
        command = ""
    outputs = {n: output for n, output in job.outputs.items() if isinstance(output, Output)}
    faults += unknown_names(command, job.inputs, outputs, "command")
    resources = _mapping(properties, "resources", faults)
    distribution = _mapping(properties, "distribution", faults)
    limits = _mapping(properties, "limits", faults)
    variables = _mapping(properties, "environmentVariables", faults)
    instances = resources.get("instanceCount")
    processes = distribution.get("processCountPerInstance")
    return StepSpec(
        path="",
        display_name=job.display_name,
        command=command,
        code=str(properties.get("codeId") or ""),
        inputs=job.inputs,
        outputs=outputs,
        environment_variables={k: text_of(v) for k, v in variables.items() if v is not None},
        compute=compute_name(str(properties.get("computeId") or "")),
        instance_count=count_of(_text(instances), "resources.instanceCount", faults),
        process_count=count_of(_text(processes), "distribution.processCountPerInstance", faults),
        timeout_seconds=seconds_of(_text(limits.get("timeout")), "limits.timeout", faults),
        deterministic=False,  # who submits a command wants it to run
        environment=environment_of(properties),
        notes=notes(ignored(properties)),
    )


def _mapping(properties: Mapping[str, Any], key: str, faults: list[Fault]) -> Mapping[str, Any]:
    value = properties.get(key)
    if value is None or isinstance(value, Mapping):
        return value or {}
    faults.append(Fault(key, type(value).__name__, "a mapping"))
    return {}


def _text(value: Any) -> str:
    return "" if value is None else str(value)
