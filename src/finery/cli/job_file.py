"""From a file to a job: a recipe, or a job in Azure ML's YAML, as the body that the service takes.

Everything wrong with the file is said before anything is sent.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from finery.azureml.pipeline_body import pipeline_body
from finery.cli.client import REGISTRY, Service
from finery.cli.job_files import upload
from finery.cli.tables import say
from finery.components.spec import PIPELINE
from finery.errors import Fault, InputError, os_reason
from finery.recipe.inputs import SETTINGS, nearest_input
from finery.recipe.resolve import Resolved, resolve

# A job's outputs lie in the workspace, so these say nothing there.
OF_A_FOLDER = ("output_dir", "overwrite_output")
COMPUTES = ("compute_model_import", "compute_preprocess", "compute_finetune")
AZURE_TYPES = ("pipeline", "command", "finetuning")


def job_body(service: Service, file: Path, experiment: str, compute: str) -> dict[str, Any]:
    """The `properties` of the job that `file` asks for; its local files are uploaded."""
    from finery.cli import azure_job

    about = _mapping(file)
    if "type" in about or "$schema" in about or "jobs" in about:
        if about.get("type") not in AZURE_TYPES:
            found, expected = repr(about.get("type")), ", ".join(AZURE_TYPES)
            raise InputError([Fault(f"{file}:type", found, expected)], subject=file.name)
        body = azure_job.body(service, file, about, compute)
    else:
        body = recipe_body(service, file, resolve(file, {}), compute)
    return body | ({"experimentName": experiment} if experiment else {})


def submit(service: Service, properties: Mapping[str, Any], name: str, stem: str) -> Any:
    """Create the job; the service checks it whole before it takes it."""
    plain = re.sub(r"[^A-Za-z0-9]+", "-", stem).strip("-").lower() or "job"
    name = name or f"{plain[:40]}-{uuid.uuid4().hex[:10]}"
    return service.ask("PUT", "jobs", name, body={"properties": properties}).json()


def recipe_body(service: Service, file: Path, read: Resolved, compute: str) -> dict[str, Any]:
    """A pipeline job of one step: the chat-completion pipeline of the registry."""
    component = newest(service, "components", PIPELINE)
    known = component["properties"]["componentSpec"]["inputs"]
    values = {
        name: getattr(read.recipe, name)
        for name, origin in read.origins.items()
        if origin != "default"
    }
    if compute:
        names = (*COMPUTES, "compute_model_evaluation")
        values = dict.fromkeys(names, compute) | values
    if source := values.pop("model", ""):
        values[_model_input(source)] = source
    for name in OF_A_FOLDER:
        if values.pop(name, None) is not None:
            say(f"note: {name} has no effect in a job; its outputs lie in the workspace.")
    foreign = [
        Fault(read.origins[name], f"{name}", "an input that a job has", _remedy(name, known))
        for name in values
        if name not in known
    ]
    if foreign:
        raise InputError(foreign, subject=file.name)
    inputs = {name: _input(service, known[name]["type"], one) for name, one in values.items()}
    return pipeline_body(file.stem, component["id"], inputs)


def newest(service: Service, kind: str, name: str, registry: str = REGISTRY) -> dict[str, Any]:
    """The newest version of a registry's model or component."""
    below = service.registry(registry)
    query = {"$orderBy": "createdtime desc", "$top": 1}
    found = service.get(kind, name, "versions", below=below, **query)["value"]
    if not found:
        from finery.workspace.errors import NotFoundError

        raise NotFoundError(f"The registry {registry} has no {kind.removesuffix('s')} {name}.")
    return found[0]


def _model_input(source: str) -> str:
    """The component's input for a model source that is a path or a name."""
    path = Path(source)
    if not path.is_absolute():
        return "huggingface_id"
    return "mlflow_model_path" if (path / "MLmodel").is_file() else "pytorch_model_path"


def _input(service: Service, kind: str, value: Any) -> dict[str, Any]:
    if kind in ("string", "integer", "number", "boolean"):
        text = str(value).lower() if isinstance(value, bool) else str(value)
        return {"job_input_type": "literal", "value": text}
    return {"job_input_type": kind, "uri": upload(service, Path(value))}


def _remedy(name: str, known: Mapping[str, Any]) -> str:
    near = nearest_input(name)
    if near in known:
        return f"Did you mean {near}?"
    kind = SETTINGS[name].group
    return f"Leave it out: a job has no such {kind} input; `finery finetune` has."


def _mapping(file: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InputError([Fault(str(file), os_reason(error), "a file that can be read")]) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise InputError([Fault(str(file), f"no YAML ({reason})", "a job in YAML")]) from None
    if not isinstance(content, dict):
        raise InputError([Fault(str(file), "no mapping", "lines such as `model: NAME`")])
    return content
