"""What came of a fine-tuning, read from the files that its steps left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from finery.components.handover import TRAINING
from finery.errors import FineryError
from finery.files import read_json, read_json_lines
from finery.jobs.job import Job
from finery.jobs.lineage import lineage
from finery.studio import graph
from finery.studio.formats import segment
from finery.workspace import assets, references
from finery.workspace.asset import MODEL_TYPES
from finery.workspace.place import Workspace

SAMPLES = 20
_METRICS = (
    ("rougeL", "ROUGE-L"),
    ("rouge1", "ROUGE-1"),
    ("bleu_4", "BLEU-4"),
    ("bleu_1", "BLEU-1"),
)
_PROOF = {"rows", "tokens", "greedy_agreement", "max_logit_difference", "stored_dtype"}
_SAMPLE = ("reference", "base", "tuned", "base_passed", "tuned_passed", "problem")


@dataclass(frozen=True)
class Figure:
    """One line of base against tuned."""

    label: str
    base: float | None
    tuned: float | None
    less_is_better: bool
    is_share: bool = False
    difference: Mapping[str, float] | None = None  # estimate, low, high, confidence

    @property
    def verdict(self) -> str:
        """good or bad where the interval excludes zero, else even; "" where there is none."""
        if not self.difference:
            return ""
        low, high = self.difference["low"], self.difference["high"]
        if low <= 0 <= high:
            return "even"
        return "good" if (high < 0) == self.less_is_better else "bad"


@dataclass(frozen=True)
class Result:
    """All that the result page shows; empty where a job leaves nothing of the kind."""

    figures: Sequence[Figure] = ()
    rows: int = 0
    missing: Sequence[str] = ()
    samples: Sequence[Mapping[str, Any]] = ()
    more_samples: int = 0
    certificate: Mapping[str, Any] = field(default_factory=dict)
    models: Sequence[Mapping[str, str]] = ()  # name, version

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to show yet."""
        return not (self.figures or self.samples or self.certificate or self.models)


def of_job(workspace: Workspace, job: Job, steps: Sequence[Job]) -> Result:
    """The result of a job, from its own outputs or those of its steps."""
    folders = [
        Path(output["path"])
        for one in (*steps, job)
        for output in one.outputs.values()
        if output.get("path")
    ]
    measured = _evaluation(_first(folders, "evaluation.json"))
    samples = _samples(_first(folders, "samples.jsonl"))
    places = [*folders, *(folder / TRAINING for folder in folders)]
    certificate = _json(_first(places, "certificate.json"))
    return replace(
        measured,
        samples=samples[:SAMPLES],
        more_samples=max(0, len(samples) - SAMPLES),
        certificate=certificate if certificate.keys() >= _PROOF else {},
        models=registered(workspace, job.root or job.name),
    )


def _evaluation(path: Path | None) -> Result:
    """The figures of an evaluation. A command may leave another file of that name."""
    evaluation = _json(path)
    try:
        return Result(
            figures=figures_of(evaluation),
            rows=int((evaluation.get("assistant_loss") or {}).get("rows") or 0),
            missing=[str(text) for text in evaluation.get("missing") or ()],
        )
    except (AttributeError, KeyError, TypeError, ValueError):
        return Result(missing=["Its evaluation.json is not of the form that finery writes."])


def _samples(path: Path | None) -> list[dict[str, Any]]:
    """The lines of samples.jsonl that are conversations with answers."""
    try:
        rows = read_json_lines(path) if path else []
    except ValueError:
        return []
    return [
        {**dict.fromkeys(_SAMPLE), **row, "messages": row["messages"]}
        for row in rows
        if isinstance(row, dict) and _are_messages(row.get("messages"))
    ]


def _are_messages(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(one, dict) and one.keys() >= {"role", "content"} for one in value
    )


def _first(folders: Sequence[Path], name: str) -> Path | None:
    return next((folder / name for folder in folders if (folder / name).is_file()), None)


def _json(path: Path | None) -> dict[str, Any]:
    """An object in a file; what is damaged is as good as absent here, and the run page says so."""
    if path is None:
        return {}
    try:
        value = read_json(path)
    except FineryError as error:
        return {"missing": [str(error)]}
    return value if isinstance(value, dict) else {}


def figures_of(evaluation: Mapping[str, Any]) -> list[Figure]:
    """The lines of an evaluation.json."""
    found = []
    for key, label in (("assistant_loss", "Held-out loss"), ("all_loss", "Loss, all tokens")):
        if pair := evaluation.get(key):
            difference = pair.get("difference")
            found.append(Figure(label, pair["base"], pair["tuned"], True, difference=difference))
    if pair := evaluation.get("assistant_loss"):
        values = (pair.get("base_perplexity"), pair.get("tuned_perplexity"))
        found.append(Figure("Perplexity", *values, True))
    if checks := evaluation.get("checks"):
        values = [(checks.get(who) or {}).get("estimate") for who in ("base", "tuned")]
        share = Figure("Checks passed", values[0], values[1], False, is_share=True)
        found.append(replace(share, difference=checks.get("difference")))
    base, tuned = (evaluation.get(f"{who}_metrics") or {} for who in ("base", "tuned"))
    found += [
        Figure(label, base.get(key), tuned.get(key), False)
        for key, label in _METRICS
        if key in tuned
    ]
    return found


def registered(workspace: Workspace, job: str) -> list[dict[str, str]]:
    """The versions of models that a job registered."""
    return [
        {"name": one.name, "version": one.version} for one in assets.of_job(workspace, "model", job)
    ]


def link_of(uri: str) -> str:
    """The page of what a reference names; "" where the studio has none."""
    try:
        found = references.parse(uri)
    except FineryError:
        return ""
    match found:
        case references.AssetVersion(kind, registry, name, version) if kind in ("model", "data"):
            place = "models" if kind == "model" else "data"
            more = f"&registry={segment(registry)}" if registry else ""
            return f"/studio/{place}/{segment(name)}?version={segment(version)}{more}"
        case references.JobOutput(job, _, _):
            return f"/studio/jobs/{segment(job)}"
        case references.DatastorePath(_, path) if path.startswith("azureml/"):
            return f"/studio/jobs/{segment(path.split('/')[1])}"
    return ""


def lineage_drawing(workspace: Workspace, job: Job) -> graph.Drawing:
    """What a job is made from, the job, and what it made."""
    told = lineage(workspace, job.name)
    sources = [(value, "Base model") for value in told["models"]]
    sources += [(value, "Data") for value in told["data"]]
    nodes = [
        graph.Node(
            key=f"from {number}",
            label=_short(value["uri"]),
            note=f"{kind} · {value['input']}",
            kind="data" if kind == "Data" else "model",
            link=link_of(value["uri"]),
        )
        for number, (value, kind) in enumerate(sources)
    ]
    before = frozenset(node.key for node in nodes)
    root = told["job"]
    link = f"/studio/jobs/{segment(root)}"
    nodes.append(graph.Node("job", _short(root), "Job", "job", link, before))
    nodes += [
        graph.Node(
            key=f"model {one['name']}:{one['version']}",
            label=f"{one['name']}:{one['version']}",
            note="Registered model",
            kind="model",
            link=f"/studio/models/{segment(one['name'])}?version={segment(one['version'])}",
            after=frozenset({"job"}),
        )
        for one in registered(workspace, root)
    ]
    nodes += [
        graph.Node(f"output {name}", name, f"Output · {out.get('type')}", "data", "", _JOB)
        for name, out in job.outputs.items()
        if out.get("type") not in MODEL_TYPES and not job.parent
    ]
    return graph.draw(nodes)


_JOB = frozenset({"job"})


def _short(uri: str) -> str:
    """The end of a reference that tells it from others."""
    parts = [part for part in uri.split("/") if part and part not in ("versions", "paths")]
    text = parts[-1] if parts else uri
    if uri.startswith("azureml://") and "/versions/" in uri and len(parts) > 1:
        text = f"{parts[-2]}:{parts[-1]}"
    return text if len(text) <= 26 else f"{text[:12]}…{text[-12:]}"
