"""From the body that a client sends to the job that it asks for, with every fault at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from finery.azureml.command_bodies import command_step
from finery.azureml.finetuning_bodies import (
    MODEL_OUTPUT,
    REGISTERED,
    fine_tuning,
    place_in_body,
)
from finery.components.spec import PIPELINE, check_inputs
from finery.errors import Fault, FineryError, InputError
from finery.jobs.bindings import Pipeline
from finery.jobs.check import check_spec
from finery.jobs.declared import Lookup, compute_name, defaults, flat_inputs, lookup_in
from finery.jobs.existence import missing
from finery.jobs.expand import Expanded, expand
from finery.jobs.ignored import job_notes
from finery.jobs.nodes import read_inputs, read_nodes, read_outputs, text_of
from finery.jobs.spec import JobSpec, Output, StepSpec
from finery.workspace.errors import NotImplementedHereError
from finery.workspace.place import Workspace

TYPES = {"pipeline": "Pipeline", "command": "Command", "finetuning": "FineTuning"}
DATASTORE = "workspaceblobstore"  # where outputs go unless a job says otherwise
# Settings of a pipeline that finery cannot follow; others that it does not know change nothing.
REFUSED_SETTINGS = frozenset({"on_init", "on_finalize"})
NOTES = "finery.notes"  # the property that repeats the notes of the log
HEAD = frozenset({"name", "experiment", "display_name"})


def job_spec(workspace: Workspace, name: str, body: Mapping[str, Any]) -> JobSpec:
    """The job that `body` asks for, ready to be submitted.

    Raises InputError with everything that is wrong with it or not there, and
    NotImplementedHereError for a type of job that finery does not run.
    """
    properties = properties_of(body)
    kind = str(properties.get("jobType") or "").lower()
    if kind not in TYPES:
        known = ", ".join(TYPES.values())
        found = properties.get("jobType")
        raise NotImplementedHereError(f"finery runs jobs of type {known}; this one is {found}.")
    faults: list[Fault] = []
    job = replace(_head(name, kind, properties, faults), wire=dict(properties))
    if kind == "command":
        job = _command(job, properties, faults)
    elif kind == "pipeline":
        job = _pipeline(job, properties, lookup_in(workspace), faults)
    else:
        job = _finetuning(job, properties, workspace, faults)
    faults += [*_refused(job, faults), *missing(workspace, job)]
    if kind == "finetuning":
        faults = [place_in_body(fault) for fault in faults]
    if faults:
        raise InputError(_unique(faults), subject=f"job {name}")
    return _with_notes(job)


def _with_notes(job: JobSpec) -> JobSpec:
    """The job with a property that says what it asks for without effect, if anything."""
    said = " ".join(job_notes(job))
    return replace(job, properties={**job.properties, NOTES: said}) if said else job


def _refused(job: JobSpec, faults: list[Fault]) -> list[Fault]:
    """What else is wrong with the specification; after `faults` its steps are not whole."""
    try:
        check_spec(job)
    except InputError as error:
        return [fault for fault in error.faults if not faults or fault.where in HEAD]
    return []


def properties_of(body: Any) -> Mapping[str, Any]:
    """The properties of a resource's body; raises InputError when there are none."""
    properties = body.get("properties") if isinstance(body, Mapping) else None
    if not isinstance(properties, Mapping):
        raise InputError([Fault("properties", type(properties).__name__, "the job's properties")])
    return properties


def texts(value: Any, where: str, faults: list[Fault]) -> dict[str, str]:
    """A mapping of texts, such as tags; what is null in it is left out."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        faults.append(Fault(where, type(value).__name__, "names and texts"))
        return {}
    return {str(key): text_of(text) for key, text in value.items() if text is not None}


def _head(name: str, kind: str, properties: Mapping[str, Any], faults: list[Fault]) -> JobSpec:
    """What every job has."""
    return JobSpec(
        name=name,
        type=kind,
        steps=(),
        experiment=str(properties.get("experimentName") or "Default"),
        display_name=str(properties.get("displayName") or name),
        description=str(properties.get("description") or ""),
        tags=texts(properties.get("tags"), "tags", faults),
        properties=texts(properties.get("properties"), "properties", faults),
        inputs=read_inputs(properties.get("inputs"), "inputs", faults),
        outputs=read_outputs(properties.get("outputs"), "outputs", faults),
        compute=compute_name(str(properties.get("computeId") or "")),
    )


def _command(job: JobSpec, properties: Mapping[str, Any], faults: list[Fault]) -> JobSpec:
    outputs = {
        name: replace(output, type=output.type or "uri_folder")
        for name, output in job.outputs.items()
        if isinstance(output, Output)
    }
    step = command_step(replace(job, outputs=outputs), properties, faults)
    return replace(job, outputs=outputs, steps=(step,))


def _pipeline(
    job: JobSpec, properties: Mapping[str, Any], lookup: Lookup, faults: list[Fault]
) -> JobSpec:
    _refuse_transfers(properties.get("jobs"))
    settings = _settings(properties.get("settings"), faults)
    compute = job.compute or compute_name(str(settings.get("default_compute") or ""))
    nodes, wrong = read_nodes(properties.get("jobs") or {}, "jobs")
    faults += wrong
    asked = {n: output for n, output in job.outputs.items() if isinstance(output, Output)}
    pipeline = Pipeline(nodes=nodes, inputs=job.inputs, outputs=asked, compute=compute)
    found: list[Fault] = []
    if not nodes and not wrong:
        pipeline = _of_component(pipeline, properties.get("componentId"), lookup, found)
    job = _expanded(job, pipeline, expand(pipeline, lookup, check=not found), faults)
    faults += found
    datastore = str(settings.get("default_datastore") or DATASTORE).rpartition("/")[2]
    return replace(
        job,
        steps=tuple(_placed(step, datastore.removeprefix("azureml:")) for step in job.steps),
        force_rerun=_is_true(settings.get("force_rerun")),
        continue_on_step_failure=_is_true(settings.get("continue_on_step_failure")),
        compute=compute,
    )


def _refuse_transfers(nodes: Any) -> None:
    """Raise NotImplementedHereError for nodes that bring data from somewhere else, as those of
    `data.import_data` do.
    """
    for name, node in nodes.items() if isinstance(nodes, Mapping) else ():
        if isinstance(node, Mapping) and str(node.get("type")).lower() == "data_transfer":
            raise NotImplementedHereError(
                f"finery does not import data from databases and other services (jobs.{name}). "
                "Write it to a file, and register that with data.create_or_update."
            )


def _of_component(
    pipeline: Pipeline, reference: Any, lookup: Lookup, faults: list[Fault]
) -> Pipeline:
    """A pipeline whose nodes are those of a component: the body names it and lists none."""
    if not isinstance(reference, str) or not reference:
        faults.append(Fault("jobs", "no nodes", "at least one node, or a componentId"))
        return pipeline
    try:
        component = lookup(reference, "")
    except FineryError as error:
        faults.append(Fault("componentId", reference, "a component that is there", str(error)))
        return pipeline
    nodes, wrong = read_nodes(component.spec.get("jobs") or {}, "jobs")
    given = {n: getattr(b, "text", None) for n, b in pipeline.inputs.items()}
    literals = {n: text for n, text in given.items() if text is not None}
    data = [n for n, text in given.items() if text is None]
    declared = flat_inputs(component.spec)
    spec = {**component.spec, "inputs": declared}
    faults += [*wrong, *check_inputs(spec, literals, data, "inputs")]
    outputs = {n: Output("") for n in component.spec.get("outputs") or {}}
    return replace(
        pipeline,
        nodes=nodes,
        inputs={**defaults(declared), **pipeline.inputs},
        outputs={**outputs, **pipeline.outputs},
        declared=frozenset(declared),
        registry=component.registry,
        within=(component.id,),
    )


def _expanded(job: JobSpec, pipeline: Pipeline, expanded: Expanded, faults: list[Fault]) -> JobSpec:
    faults += expanded.faults
    return replace(job, steps=expanded.steps, inputs=pipeline.inputs, outputs=expanded.outputs)


def _finetuning(
    job: JobSpec, properties: Mapping[str, Any], workspace: Workspace, faults: list[Fault]
) -> JobSpec:
    """A fine-tuning job runs the steps of the chat-completion pipeline."""
    outputs = {n: output for n, output in job.outputs.items() if isinstance(output, Output)}
    asked = fine_tuning(properties, outputs, faults)
    registry = workspace.settings.registries[0]
    reference = f"azureml://registries/{registry}/components/{PIPELINE}/labels/latest"
    lookup = lookup_in(workspace)
    found: list[Fault] = []
    pipeline = Pipeline({}, asked.inputs, {MODEL_OUTPUT: asked.model})
    pipeline = _of_component(pipeline, reference, lookup, found)
    job = _expanded(job, pipeline, expand(pipeline, lookup, check=not found), faults)
    faults += found
    model = job.outputs.get(MODEL_OUTPUT)
    return replace(job, outputs={**({REGISTERED: model} if model else {}), **job.outputs})


def _settings(body: Any, faults: list[Fault]) -> dict[str, Any]:
    if body is not None and not isinstance(body, Mapping):
        faults.append(Fault("settings", type(body).__name__, "a mapping of settings"))
        return {}
    settings = {_snake(key): value for key, value in (body or {}).items()}
    for key, value in settings.items():
        if key in REFUSED_SETTINGS and value is not None:
            remedy = "finery has no steps that run before or after all others."
            faults.append(Fault(f"settings.{key}", repr(value), "nothing", remedy))
    return settings


def _snake(key: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in key)


def _placed(step: StepSpec, datastore: str) -> StepSpec:
    """A step whose outputs go to the pipeline's datastore unless they say where."""
    if datastore == DATASTORE:
        return step
    root = f"azureml://datastores/{datastore}/paths/azureml/${{{{name}}}}"
    outputs = {
        name: output if output.uri else replace(output, uri=f"{root}/{name}/")
        for name, output in step.outputs.items()
    }
    return replace(step, outputs=outputs)


def _is_true(value: Any) -> bool:
    return text_of(value).lower() == "true"


def _unique(faults: list[Fault]) -> list[Fault]:
    return list({(fault.where, fault.found): fault for fault in faults}.values())
