"""What a URI in a job, an asset or a deployment means: a path, or a model to fetch.

Every reference is parsed into one of four values first; nothing outside the workspace's own
folders can be reached through any of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from finery.errors import Fault, InputError
from finery.files import home, sha256_json
from finery.workspace import assets, datastores
from finery.workspace.asset import MODEL_TYPES, Asset
from finery.workspace.catalogue.shipped import source_of
from finery.workspace.content import content_hash
from finery.workspace.errors import NotFoundError
from finery.workspace.paths import inside
from finery.workspace.place import BLOB_CONTAINER, Workspace

BLOB_HOST_PATH = "/_blob.blob.local/"  # of the blob endpoint; container and name follow
KINDS = {  # the path word of Azure's ids, in lower case → the kind of asset
    "models": "model",
    "data": "data",
    "components": "component",
    "environments": "environment",
    "codes": "code",
}
BROUGHT = "mlflow"  # where what a run logged goes, among the outputs of the job of that name
_RUN = re.compile(r"runs:/+(?P<run>[A-Za-z0-9][A-Za-z0-9._-]{0,254})(?:/(?P<path>.*))?")
_SCOPES = {"subscriptions", "resourcegroups", "providers", "workspaces", "locations"}
_SHORT = re.compile(r"(?P<name>[^/:@]+)(?::(?P<version>[^/:@]+)|@(?P<label>[^/:@]+))")
# In two places the SDK makes addresses of container and path alone: files of a registry, and
# the build context of an environment.
_OUR_BLOB = re.compile(
    rf"(?:{BLOB_HOST_PATH}(?P<container>[^/]+)"
    rf"|/(?P<bare>registry-[0-9a-f]{{32}}|{BLOB_CONTAINER}))(?:/(?P<path>.*))?"
)
_EXPECTED = (
    "azureml://datastores/D/paths/P, azureml://jobs/J/outputs/O, azureml:NAME:VERSION, "
    "azureml://registries/R/models/N/versions/V, or the id of an asset"
)


@dataclass(frozen=True)
class DatastorePath:
    """A file or folder of a datastore."""

    datastore: str
    path: str


@dataclass(frozen=True)
class JobOutput:
    """A file or folder that a job wrote."""

    job: str
    output: str
    path: str = ""


@dataclass(frozen=True)
class AssetVersion:
    """A version of an asset; `kind` is "" where only the use tells it."""

    kind: str
    registry: str
    name: str
    version: str  # or a label


@dataclass(frozen=True)
class BlobUrl:
    """A file or folder of a container of this service."""

    container: str
    path: str


@dataclass(frozen=True)
class LocalPath:
    """A path of this machine."""

    path: str


Reference = DatastorePath | JobOutput | AssetVersion | BlobUrl | LocalPath
JobOutputs = Callable[[str, str], Path | None]


@dataclass(frozen=True)
class ResolvedInput:
    """What a job reads: files at `path`, or else a model to be had from `source`."""

    path: Path | None
    source: str
    uri: str  # the reference in its full form, labels replaced by versions
    content_hash: str


def parse(uri: str, where: str = "uri") -> Reference:
    """The reference that `uri` writes; raises InputError when it is none."""
    text = uri.strip()
    tail = text[len("azureml:") :] if text.lower().startswith("azureml:") else text
    if (tail.startswith("//") and tail != text) or tail.lower().startswith("azureml://"):
        return _parsed(tail.split("//", 1)[1], text, where)
    if tail.lower().startswith("/subscriptions/"):
        return _parsed(tail[1:], text, where)
    if tail != text and (match := _SHORT.fullmatch(tail)):
        return AssetVersion("", "", match["name"], match["version"] or match["label"])
    if text.lower().startswith("https://") and (found := _OUR_BLOB.fullmatch(urlsplit(text).path)):
        return BlobUrl(found["container"] or found["bare"], unquote(found["path"] or ""))
    if match := _RUN.fullmatch(text):
        path = f"azureml/{match['run']}/{BROUGHT}/{match['path'] or ''}"
        return DatastorePath(datastores.DEFAULT, path.rstrip("/"))
    if text.lower().startswith("file://"):
        return LocalPath(unquote(urlsplit(text).path))
    if text.startswith("/") or re.match(r"[A-Za-z]:[\\/]", text):
        return LocalPath(text)
    raise _not_a_reference(text, where)


def resolve_input(
    workspace: Workspace,
    uri: str,
    type: str = "",
    *,
    job_outputs: JobOutputs | None = None,
    where: str = "input",
) -> ResolvedInput:
    """The files or the model behind `uri`, checked against the asset `type` when one is given.

    `job_outputs` says where an output of a job lies, when that is not the usual place (None).
    Raises InputError for a reference that is malformed, leads out of its place, or is of another
    type; NotFoundError when what it names is not there.
    """
    reference = parse(uri, where)
    full = uri
    if isinstance(reference, AssetVersion):
        asset = find_asset(workspace, reference, type)
        full = asset_uri(asset)
        if source := source_of(asset):
            _check_model_type(type, full, where)
            digest = sha256_json({"source": source, "content": asset.content_hash})
            return ResolvedInput(None, source, full, digest)
        if not asset.path:
            raise NotFoundError(f"The {asset.words} has no files.")
        reference = parse(asset.path, where)
        if isinstance(reference, AssetVersion):
            raise InputError([Fault(where, asset.path, "files, not another asset")])
    path = locate(workspace, reference, where, job_outputs)
    if not path.exists():
        raise NotFoundError(
            f"{where}: nothing is at {uri}. Check the spelling, or upload it first."
        )
    path = _fitting(path, type, uri, where)
    return ResolvedInput(path, "", full, content_hash(path))


def locate(
    workspace: Workspace,
    reference: DatastorePath | JobOutput | BlobUrl | LocalPath,
    where: str = "uri",
    job_outputs: JobOutputs | None = None,
) -> Path:
    """Where the files of a reference lie, or would lie; always inside the workspace's folders."""
    match reference:
        case DatastorePath(datastore, path):
            root = workspace.blobs / datastores.container_of(workspace, datastore)
            return inside(root, path.lstrip("/"), where)
        case BlobUrl(container, path):
            return inside(inside(workspace.blobs, container, where), path, where)
        case JobOutput(job, output, path):
            folder = _output_folder(workspace, job, output, where, job_outputs)
            return inside(folder, path, where) if path else folder
        case LocalPath(text):
            return _local(workspace, Path(text), where)


def find_asset(workspace: Workspace, reference: AssetVersion, type: str = "") -> Asset:
    """The asset version that a reference names; `type` tells models from data in `azureml:N:V`."""
    kind = reference.kind or ("model" if type in MODEL_TYPES else "data")
    return assets.get(workspace, kind, reference.registry, reference.name, reference.version)


def asset_uri(asset: Asset) -> str:
    """The full reference of a version, the same for every caller."""
    word = next(word for word, kind in KINDS.items() if kind == asset.kind)
    if not asset.registry:
        return f"azureml://{word}/{asset.name}/versions/{asset.version}"
    registry = f"azureml://registries/{asset.registry}"
    return f"{registry}/{word}/{asset.name}/versions/{asset.version}"


def canonical(uri: str, where: str = "uri") -> str:
    """One spelling for each place: the path of a datastore, where `uri` means one."""
    match parse(uri, where):
        case JobOutput(job, output, path):
            store, folder = output_place(job, output)
            return f"azureml://datastores/{store}/paths/{folder}/{path}"
        case DatastorePath(datastore, path):
            return f"azureml://datastores/{datastore}/paths/{path.lstrip('/')}"
        case BlobUrl(container, path):
            return f"https://localhost{BLOB_HOST_PATH}{container}/{path}"
        case _:
            return uri.strip()


def output_place(job: str, output: str) -> tuple[str, str]:
    """The datastore and the folder in it where an output of a job usually lies."""
    if output == "artifacts":  # what a job logs without declaring it
        return datastores.ARTIFACTS, f"ExperimentRun/dcid.{job}"
    return datastores.DEFAULT, f"azureml/{job}/{output}"


def _parsed(text: str, uri: str, where: str) -> Reference:
    """The reference in the segments of an azureml:// URI or an ARM id."""
    parts = text.split("/")
    while len(parts) > 2 and parts[0].lower() in _SCOPES:
        parts = parts[2:]
    match [parts[0].lower(), *parts[1:]]:
        case ["datastores", name, word, *rest] if word.lower() == "paths" and name:
            return DatastorePath(name, "/".join(rest))
        case ["datastores", name] if name:
            return DatastorePath(name, "")
        case ["jobs", job, word, output, *rest] if word.lower() == "outputs" and job and output:
            tail = rest[1:] if rest and rest[0].lower() == "paths" else rest
            return JobOutput(job, output, "/".join(tail))
        case ["registries", registry, plural, name, word, version] if _is_version(plural, word):
            return AssetVersion(KINDS[plural.lower()], registry, name, version)
        case [plural, name, word, version] if _is_version(plural, word):
            return AssetVersion(KINDS[plural], "", name, version)
    raise _not_a_reference(uri, where)


def _is_version(plural: str, word: str) -> bool:
    return plural.lower() in KINDS and word.lower() in ("versions", "labels")


def _not_a_reference(text: str, where: str) -> InputError:
    remedy = ""
    if text.lower().startswith(("http://", "https://", "wasbs://", "abfss://")):
        remedy = "Download the file and name the local path; the service fetches nothing itself."
    return InputError([Fault(where, repr(text), _EXPECTED, remedy)])


def _output_folder(
    workspace: Workspace, job: str, output: str, where: str, job_outputs: JobOutputs | None
) -> Path:
    told = job_outputs(job, output) if job_outputs else None
    if told is not None:
        return told
    datastore, folder = output_place(job, output)
    return inside(workspace.blobs / datastores.container_of(workspace, datastore), folder, where)


def _local(workspace: Workspace, path: Path, where: str) -> Path:
    """A path of this machine, if it lies in a folder that jobs may read."""
    roots = (workspace.blobs, workspace.jobs, home() / "models", home() / "tokens")
    real = path.resolve()
    if any(real.is_relative_to(root.resolve()) for root in roots):
        return real
    remedy = "Give the local path to the SDK's Input or Data, which uploads it."
    expected = "a file of the workspace"
    raise InputError([Fault(where, repr(str(path)), expected, remedy)])


def _fitting(path: Path, type: str, uri: str, where: str) -> Path:
    """`path` as the type means it; raises InputError when it is something else."""
    if type == "uri_file" and path.is_dir():
        files = [child for child in path.iterdir() if child.is_file()]
        if isinstance(parse(uri), JobOutput) and len(files) == 1:
            return files[0]  # a job writes its uri_file output into the folder of that output
        raise InputError([Fault(where, f"the folder {uri}", "a file", "Use type uri_folder.")])
    if type in ("uri_folder", "mltable") and path.is_file():
        raise InputError([Fault(where, f"the file {uri}", "a folder", "Use type uri_file.")])
    if type == "mltable" and not (path / "MLTable").is_file():
        raise InputError([Fault(where, f"the folder {uri}", "a folder with a file MLTable")])
    if type == "mlflow_model" and not (path / "MLmodel").is_file():
        remedy = "Use type custom_model for a model folder of Hugging Face."
        raise InputError(
            [Fault(where, uri, "an MLflow model: a folder with a file MLmodel", remedy)]
        )
    return path


def _check_model_type(type: str, uri: str, where: str) -> None:
    if type and type not in MODEL_TYPES:
        raise InputError([Fault(where, f"the model {uri}", f"an asset of type {type}")])
