"""From the form of a fine-tuning to the job that it asks for, and back from a job to the form."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finery.azureml.job_bodies import job_spec
from finery.azureml.pipeline_body import pipeline_body
from finery.components.spec import PIPELINE
from finery.errors import Fault, FineryError, InputError
from finery.jobs import service
from finery.jobs.job import Job
from finery.jobs.nodes import text_of
from finery.jobs.spec import Asset, JobSpec, Value
from finery.recipe.inputs import MODEL_SOURCES, SETTINGS, SPLITS
from finery.studio import fine_tune_form as forms
from finery.studio.fine_tune_form import Form, field_of, sentence
from finery.workspace import references
from finery.workspace.flavors import MLMODEL
from finery.workspace.place import Workspace

_BUILT_IN = "finery:"
_MLTABLE = "MLTable"


@dataclass(frozen=True)
class Source:
    """A model or data as an input of the pipeline."""

    input: str  # the input's name
    type: str  # "string" of a hub id, which is a literal
    uri: str
    local: str  # the path on this machine, or where the model is fetched from


@dataclass(frozen=True)
class Wanted:
    """What a form asks for, ready to become a job: its sources by field, and its settings."""

    sources: Mapping[str, Source]
    settings: Mapping[str, Any]  # those that are not at their default, in their types
    name: str

    @property
    def recipe(self) -> dict[str, Any]:
        """The same as the values of a recipe that runs on this machine without a service."""
        model = {forms.MODEL: self.sources[forms.MODEL].local}
        files = {one.input: one.local for k, one in self.sources.items() if k != forms.MODEL}
        return {**self.settings, **files, **model}


def wanted(workspace: Workspace, form: Form) -> tuple[Wanted | None, Form]:
    """What the form asks for, None with sentences at its fields where something is wrong."""
    faults = list(forms.own_faults(form))
    sources: dict[str, Source] = {}
    wrong = {name for name, _ in faults}
    for name in (forms.MODEL, *SPLITS, *_files(form)):
        if form.values[name] and name not in wrong:
            try:
                sources[name] = _source(workspace, name, form.values[name])
            except InputError as error:
                faults += [(name, sentence(fault)) for fault in error.faults]
            except FineryError as error:
                faults.append((name, str(error)))
    settings = {k: v for k, v in forms.chosen(form).items() if not SETTINGS[k].is_path}
    made = Wanted(sources, settings, form.values[forms.NAME] or _called(form))
    if not faults:
        try:
            spec_of(workspace, made, "check")
        except InputError as error:
            faults += [(field_of(fault.where), _elsewhere(fault)) for fault in error.faults]
    form = forms.with_faults(form, faults)
    return (None if form.faults else made), form


def _elsewhere(fault: Fault) -> str:
    name = field_of(fault.where)
    known = name in SETTINGS or name in forms.HEAD
    return sentence(fault) if known else sentence(fault, with_place=fault.where)


def _files(form: Form) -> list[str]:
    """Settings that name a file of the workspace."""
    return [name for name in forms.offered() if SETTINGS[name].is_path and form.values[name]]


def _called(form: Form) -> str:
    """A name for a run that got none: of its model."""
    parts = form.values[forms.MODEL].rstrip("/").split("/")
    name = parts[-3] if "versions" in parts[-2:-1] else parts[-1]
    return f"Fine-tune {name}"[: forms.LONGEST_NAME]


def _source(workspace: Workspace, name: str, text: str) -> Source:
    if name == forms.MODEL:
        return _model(workspace, text)
    if name in SETTINGS:
        found = references.resolve_input(workspace, text, SETTINGS[name].kind, where=name)
        return Source(name, SETTINGS[name].kind, found.uri, str(found.path))
    found = references.resolve_input(workspace, text, where=name)
    path = found.path or Path()
    kind = "mltable" if (path / _MLTABLE).is_file() else "uri_file"
    found = references.resolve_input(workspace, found.uri, kind, where=name)
    form = "mltable" if kind == "mltable" else "file"
    return Source(f"{name}_{form}_path", kind, found.uri, str(found.path))


def _model(workspace: Workspace, text: str) -> Source:
    """A registered model, one of a registry, a folder of the workspace, or a hub id."""
    if not text.startswith(("azureml:", "/", "https:", "runs:", "file:")):
        return Source("huggingface_id", "string", text, text)
    found = references.resolve_input(workspace, text, "custom_model", where=forms.MODEL)
    if found.path is None:
        return Source("mlflow_model_path", "mlflow_model", found.uri, found.source)
    kind = "mlflow_model" if (found.path / MLMODEL).is_file() else "custom_model"
    form = "mlflow" if kind == "mlflow_model" else "pytorch"
    return Source(f"{form}_model_path", kind, found.uri, str(found.path))


def body(workspace: Workspace, asked: Wanted) -> dict[str, Any]:
    """The `properties` of the job, as `finery job create` makes them of a recipe."""
    inputs: dict[str, Any] = {
        one.input: {"job_input_type": "literal", "value": one.uri}
        if one.type == "string"
        else {"job_input_type": one.type, "uri": one.uri}
        for one in asked.sources.values()
    }
    inputs |= {
        name: {"job_input_type": "literal", "value": text_of(value)}
        for name, value in asked.settings.items()
    }
    return pipeline_body(asked.name, component(workspace), inputs)


def component(workspace: Workspace) -> str:
    """The newest fine-tuning pipeline of the first registry."""
    registry = workspace.settings.registries[0]
    return f"azureml://registries/{registry}/components/{PIPELINE}/labels/latest"


def spec_of(workspace: Workspace, asked: Wanted, name: str) -> JobSpec:
    """The job, checked whole; raises InputError."""
    return job_spec(workspace, name, {"properties": body(workspace, asked)})


def start(workspace: Workspace, asked: Wanted) -> Job:
    """Submit it under a name of its own."""
    plain = re.sub(r"[^A-Za-z0-9]+", "-", asked.name).strip("-").lower() or "job"
    name = f"{plain[:40].strip('-')}-{uuid.uuid4().hex[:10]}"
    return service.submit(workspace, spec_of(workspace, asked, name))


def is_fine_tuning(job: Job) -> bool:
    """Whether a job's settings fit the form: one whose steps are the fine-tuning's own."""
    if job.parent or job.type == "command":
        return False
    return any(step.entry.startswith(_BUILT_IN) for step in job.job_spec.steps)


def values_of(workspace: Workspace, job: Job) -> dict[str, str]:
    """The form's values of a job that ran, whoever submitted it in whatever form."""
    values = {**dict.fromkeys(forms.HEAD, ""), **forms.defaults()}
    values |= {forms.NAME: job.display_name[: forms.LONGEST_NAME]}
    for name, text in _bound(job.job_spec):
        place = field_of(name) if name in SETTINGS else ""
        if place in values:
            values[place] = _as_the_form_says(workspace, name, text)
    return values


def _as_the_form_says(workspace: Workspace, name: str, text: str) -> str:
    """One spelling for what has several: references of assets, true and false."""
    row = SETTINGS[name]
    if row.kind == "boolean":
        return text.lower()
    if not row.is_path:
        return text
    try:
        found = references.parse(text)
        if isinstance(found, references.AssetVersion):
            return references.asset_uri(references.find_asset(workspace, found, row.kind))
        return references.canonical(text)
    except FineryError:  # it is gone: the form says so when it is checked
        return text


def _bound(spec: JobSpec) -> Iterator[tuple[str, str]]:
    """Inputs of the steps that come from outside; of two models the one that wins is last."""
    order = {name: -place for place, name in enumerate(MODEL_SOURCES)}
    found = [
        (name, one.text if isinstance(one, Value) else one.uri)
        for step in spec.steps
        if step.entry.startswith(_BUILT_IN)
        for name, one in step.inputs.items()
        if isinstance(one, Value | Asset)
    ]
    return iter(sorted(found, key=lambda pair: order.get(pair[0], -len(order))))
