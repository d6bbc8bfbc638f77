"""Whether a step was run before with the same component, inputs and settings."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

import finery
from finery.files import sha256_json
from finery.jobs.bind import fingerprint, link_tree
from finery.jobs.job import COMPLETED, Job
from finery.jobs.rows import job_of
from finery.jobs.tables import jobs
from finery.workspace.place import Workspace

# Where a run happens and how it is looked at change nothing about its outputs.
_NEUTRAL_VARIABLES = frozenset({"PYTHONUNBUFFERED", "HF_HUB_DISABLE_PROGRESS_BARS"})


@dataclass(frozen=True)
class Decision:
    """The job whose outputs stand in for a run, if any, and why or why not."""

    job: Job | None
    why: str

    def written(self) -> dict[str, str]:
        """What the step says of it."""
        return {"from": self.job.name if self.job else "", "why": self.why}


def key_of(job: Job, inputs: Mapping[str, Mapping[str, Any]], code_hash: str) -> str:
    """The hash of all that decides a step's outputs."""
    step = job.step
    variables = dict(step.environment_variables)
    return sha256_json(
        {
            "finery": finery.__version__ if step.entry else "",
            "component": [step.component if step.entry else "", step.entry, step.command],
            "code": code_hash,
            "inputs": {name: _content(value) for name, value in inputs.items()},
            "outputs": {name: output.type for name, output in step.outputs.items()},
            "variables": {k: v for k, v in variables.items() if k not in _NEUTRAL_VARIABLES},
            "processes": [step.instance_count, step.process_count],
        }
    )


def _content(value: Mapping[str, Any]) -> list[str]:
    if "value" in value:
        return ["literal", value["value"]]
    return [value["type"], value["content_hash"] or value.get("uri", "")]


def decide(workspace: Workspace, job: Job, key: str, force_rerun: bool) -> Decision:
    """The newest completed step with the same key whose outputs are untouched."""
    if not job.parent:
        return Decision(None, "only steps of pipelines are reused")
    if force_rerun:
        return Decision(None, "force_rerun is set")
    if not job.step.deterministic:
        return Decision(None, "the component is not deterministic")
    query = (
        sa.select(jobs)
        .where(jobs.c.reuse_key == key, jobs.c.status == COMPLETED, jobs.c.name != job.name)
        .order_by(jobs.c.seq.desc())
        .limit(5)
    )
    with workspace.store.read() as connection:
        candidates = [job_of(row) for row in connection.execute(query).mappings()]
    if not candidates:
        return Decision(None, "no completed step has the same component, inputs and settings")
    for candidate in candidates:
        if candidate.reuse.get("fingerprint") == fingerprint(candidate.outputs):
            why = f"same component, inputs and settings as {candidate.name}"
            return Decision(candidate, why)
    return Decision(None, f"the outputs of {candidates[0].name} were changed or removed since")


def take_over(workspace: Workspace, source: Job, outputs: Mapping[str, Mapping[str, str]]) -> None:
    """Put the outputs of `source` where those of another step belong."""
    for name, output in outputs.items():
        target = Path(output["path"])
        if target.is_dir() and not any(target.iterdir()):
            shutil.rmtree(target)
        link_tree(Path(source.outputs[name]["path"]), target, workspace)
