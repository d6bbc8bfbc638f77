"""What a job in Azure ML's YAML may say, and everything that is wrong with one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from finery.errors import Fault, did_you_mean

_COMMON = (
    *("$schema", "type", "name", "display_name", "experiment_name", "description", "tags"),
    *("properties", "inputs", "outputs", "compute"),
)
RUN = ("environment_variables", "resources", "distribution", "limits")
KEYS = {
    "pipeline": (*_COMMON, "jobs", "settings"),
    "command": (*_COMMON, *RUN, "command", "code", "environment"),
    "finetuning": (
        *(name for name in _COMMON if name != "inputs"),
        *("task", "model_provider", "model", "training_data", "validation_data", "hyperparameters"),
    ),
    "step": ("type", "component", "inputs", "outputs", "compute", "display_name", *RUN),
}
MODES = {
    name.lower(): name for name in ("Download", "ReadOnlyMount", "ReadWriteMount", "Direct")
} | {"ro_mount": "ReadOnlyMount", "rw_mount": "ReadWriteMount", "upload": "Upload"}
DATA = {"model": "model", "training_data": "trainingData", "validation_data": "validationData"}


def local(file: Path, text: str) -> Path:
    """A path that `file` names, which counts from where the file is."""
    return (file.parent / Path(text).expanduser()).resolve()


def faults(file: Path, about: Mapping[str, Any]) -> Iterator[Fault]:
    """Everything wrong with a job as far as its file alone tells."""
    kind = about["type"]
    yield from _unknown(file, about, KEYS[kind], "")
    yield from _input_faults(file, about.get("inputs"), "inputs.")
    own = {"finetuning": _finetuning, "command": _command, "pipeline": _pipeline}
    yield from own[kind](file, about)


def _finetuning(file: Path, about: Mapping[str, Any]) -> Iterator[Fault]:
    for name in ("model", "training_data"):
        if not isinstance(about.get(name), Mapping):
            yield Fault(f"{file}:{name}", "none", "a mapping with type and path")
    data = {name: about[name] for name in DATA if isinstance(about.get(name), Mapping)}
    yield from _input_faults(file, data, "")


def _command(file: Path, about: Mapping[str, Any]) -> Iterator[Fault]:
    if not isinstance(about.get("command"), str):
        yield Fault(f"{file}:command", "no text", "the command to run")
    if about.get("code") and not local(file, str(about["code"])).exists():
        yield Fault(f"{file}:code", repr(about["code"]), "a file or folder that is there")


def _pipeline(file: Path, about: Mapping[str, Any]) -> Iterator[Fault]:
    jobs = about.get("jobs")
    if not isinstance(jobs, Mapping) or not jobs:
        yield Fault(f"{file}:jobs", "no steps", "the steps of the pipeline by name")
        return
    for name, step in jobs.items():
        where = f"jobs.{name}"
        if not isinstance(step, Mapping):
            yield Fault(f"{file}:{where}", "no mapping", "a step")
            continue
        yield from _unknown(file, step, KEYS["step"], f"{where}.")
        yield from _input_faults(file, step.get("inputs"), f"{where}.inputs.")
        component = step.get("component")
        if not isinstance(component, str) or "azureml:" not in component[:10]:
            found = "a component of its own" if component else "none"
            remedy = "Register it first: ml_client.components.create_or_update(load_component(…))."
            expected = "a registered component, such as azureml:NAME:VERSION"
            yield Fault(f"{file}:{where}.component", found, expected, remedy)


def _unknown(
    file: Path, given: Mapping[str, Any], known: tuple[str, ...], at: str
) -> Iterator[Any]:
    for key in given:
        if key not in known:
            remedy = did_you_mean(str(key), known)
            yield Fault(f"{file}:{at}{key}", "a key that is not known here", "another", remedy)


def _input_faults(file: Path, inputs: Any, at: str) -> Iterator[Fault]:
    for name, value in (inputs or {}).items():
        where = f"{file}:{at}{name}"
        if isinstance(value, list):
            yield Fault(where, "a list", "a value, or a mapping with type and path")
        if not isinstance(value, Mapping):
            continue
        path = value.get("path")
        if "type" not in value or not isinstance(path, str):
            yield Fault(where, "an input without type or path", "both")
        elif "azureml:" not in path[:10] and not local(file, path).exists():
            yield Fault(where, repr(path), "a file or folder that is there, or azureml:…")
        if value.get("mode", "download") not in MODES:
            yield Fault(where, f"mode {value['mode']!r}", f"one of {', '.join(MODES)}")
