"""The same fine-tuning as texts to copy: for the command line, as YAML, for Azure ML's SDK."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from typing import Any

import yaml

from finery.azureml.pipeline_body import EXPERIMENT, OUTPUTS
from finery.components.spec import PIPELINE
from finery.recipe.inputs import SETTINGS
from finery.recipe.parse import Value
from finery.studio.fine_tune_job import Wanted, component
from finery.workspace.place import Workspace

SCHEMA = "https://azuremlschemas.azureedge.net/latest/pipelineJob.schema.json"


def texts(workspace: Workspace, asked: Wanted) -> list[tuple[str, str, str]]:
    """Of each form: its name, what to do with it, the text."""
    return [
        ("CLI", "Runs on this machine without the service.", command_line(asked)),
        ("YAML", "finery job create FILE", pipeline_yaml(workspace, asked)),
        ("SDK", "finery exec -- python FILE", sdk_script(workspace, asked)),
    ]


def command_line(asked: Wanted) -> str:
    """`finery finetune` with every setting that is not at its default."""
    values = {**asked.recipe, "output_dir": _folder(asked.name)}
    names = [name for name in SETTINGS if name in values]
    words = [_option(name, values[name]) for name in names]
    return " \\\n  ".join(["finery finetune", *words])


def _option(name: str, value: Value) -> str:
    if isinstance(value, bool):
        plain = name.replace("_", "-")
        return f"--{plain}" if value else f"--no-{plain}"
    text = shlex.quote(str(value))
    flag = SETTINGS[name].flag
    return f"{flag}={text}" if str(value).startswith("-") else f"{flag} {text}"


def pipeline_yaml(workspace: Workspace, asked: Wanted) -> str:
    """A pipeline job in Azure ML's YAML, of the one step that is the fine-tuning pipeline."""
    step = {
        "type": "pipeline",
        "component": component(workspace),
        "inputs": {**_sources(asked), **_literals(asked)},
        "outputs": {
            inner: f"${{{{parent.outputs.{outer}}}}}" for outer, (inner, _) in OUTPUTS.items()
        },
    }
    job = {
        "$schema": SCHEMA,
        "type": "pipeline",
        "display_name": asked.name,
        "experiment_name": EXPERIMENT,
        "outputs": {outer: {"type": kind} for outer, (_, kind) in OUTPUTS.items()},
        "jobs": {PIPELINE: step},
    }
    return yaml.safe_dump(job, sort_keys=False, allow_unicode=True, width=10**9)


def _sources(asked: Wanted) -> dict[str, Any]:
    return {
        one.input: one.uri if one.type == "string" else {"type": one.type, "path": one.uri}
        for one in asked.sources.values()
    }


def _literals(asked: Wanted) -> Mapping[str, Any]:
    """Settings as the component declares them, whose booleans are text."""
    return {
        name: str(value).lower() if isinstance(value, bool) else value
        for name, value in asked.settings.items()
    }


def sdk_script(workspace: Workspace, asked: Wanted) -> str:
    """A script with the unmodified azure-ai-ml SDK."""
    registry = workspace.settings.registries[0]
    inputs = [
        f"        {one.input}={_python(one.uri)},"
        if one.type == "string"
        else f"        {one.input}=Input(type={_python(one.type)}, path={_python(one.uri)}),"
        for one in asked.sources.values()
    ]
    inputs += [f"        {name}={_python(value)}," for name, value in _literals(asked).items()]
    results = [
        f'        "{outer}": tuned.outputs.{inner},' for outer, (inner, _) in OUTPUTS.items()
    ]
    return _SCRIPT.format(
        registry=_python(registry),
        component=_python(PIPELINE),
        inputs="\n".join(inputs),
        results="\n".join(results),
        name=_python(asked.name),
        experiment=_python(EXPERIMENT),
    )


def _python(value: Any) -> str:
    """A text or a number as Python writes it."""
    return json.dumps(value) if isinstance(value, str) else repr(value)


def _folder(name: str) -> str:
    plain = re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-").lower()
    return plain or "finery-run"


_SCRIPT = """\
from azure.ai.ml import Input, MLClient
from azure.ai.ml.dsl import pipeline
from azure.identity import DefaultAzureCredential

credential = DefaultAzureCredential()
workspace = MLClient(credential, "finery", "finery", "finery")
registry = MLClient(credential, registry_name={registry})
tune_chat_model = registry.components.get({component}, label="latest")


@pipeline()
def fine_tuning():
    tuned = tune_chat_model(
{inputs}
    )
    return {{
{results}
    }}


job = fine_tuning()
job.display_name = {name}
job = workspace.jobs.create_or_update(job, experiment_name={experiment})
print(job.name)
"""
