"""The job that a recipe is: the fine-tuning pipeline as its one step, in Azure ML's words.

The command line and the studio both ask for it, so that a job is the same whoever made it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from finery.components.spec import PIPELINE

EXPERIMENT = "finetune"
# What the job's outputs are called, and the component's outputs that they are.
OUTPUTS = {
    "trained_model": ("mlflow_model_folder", "mlflow_model"),
    "pytorch_model": ("pytorch_model_folder", "uri_folder"),
    "evaluation": ("evaluation_result", "uri_folder"),
}


def pipeline_body(name: str, component: str, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The `properties` of the job: `component` is the pipeline's id, `inputs` are on the wire."""
    node = {
        "name": PIPELINE,
        "type": "pipeline",
        "componentId": component,
        "inputs": dict(inputs),
        "outputs": {
            inner: {"type": "literal", "value": f"${{{{parent.outputs.{outer}}}}}"}
            for outer, (inner, _) in OUTPUTS.items()
        },
    }
    return {
        "jobType": "Pipeline",
        "displayName": name,
        "experimentName": EXPERIMENT,
        "inputs": {},
        "outputs": {outer: {"jobOutputType": kind} for outer, (_, kind) in OUTPUTS.items()},
        "settings": {"force_rerun": False, "continue_on_step_failure": False},
        "jobs": {PIPELINE: node},
    }
