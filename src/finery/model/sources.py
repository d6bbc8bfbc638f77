"""From what a person writes to a model folder on this machine."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from finery.errors import FineryError
from finery.model.catalogue import CATALOGUE, Entry, find_entry, nearest_name
from finery.model.download_progress import Say
from finery.model.folder import ModelFolder, check_folder, content_hash
from finery.model.gguf_folder import import_gguf
from finery.model.hub import fetch, is_hub_id
from finery.model.mlflow_folder import import_mlflow, is_mlflow_folder

PACKAGE = "package:"


def resolve_source(source: str, say: Say | None = None) -> ModelFolder:
    """The model that `source` names, as a plain Hugging Face folder.

    Tried in this order, the first that fits decides:

    1. `package:NAME` or `package:NAME/FILE.gguf`: a GGUF inside an installed Python package;
    2. an existing path: a `.gguf` file, an MLflow model (a folder with MLmodel), a model folder;
    3. a short name of the catalogue;
    4. `organisation/name` on the mirror or the Hugging Face hub.

    Model folders and downloads stay where they are; MLflow models and GGUF files become folders
    under the finery home, once. With `say`, a long download says how far it is. Raises InputError
    for a model that is not whole, FineryError for one that cannot be found.
    """
    text = source.strip()
    kind, path = _locate(text, say)
    return ModelFolder(path, text, kind, content_hash(path))


def _locate(source: str, say: Say | None) -> tuple[str, Path]:
    if not source:
        raise FineryError(
            "No model is named. Name a model folder, a GGUF file, organisation/name, or a short "
            f"name such as {CATALOGUE[0].name}."
        )
    if source.startswith(PACKAGE):
        return "gguf", import_gguf(_packaged(source.removeprefix(PACKAGE)))
    path = Path(source).expanduser()
    if path.exists():
        return _from_path(path.resolve(), source)
    if entry := find_entry(source):
        return "catalogue", _from_catalogue(entry, say)
    if is_hub_id(source) and not source.endswith(".gguf"):
        return "hub", fetch(source, say)
    raise FineryError(_unknown(source))


def _from_path(path: Path, source: str) -> tuple[str, Path]:
    if path.is_file():
        if path.suffix.lower() == ".gguf":
            return "gguf", import_gguf(path)
        raise FineryError(
            f"{source} is a single file, and of the single files only .gguf is a whole model. "
            "Name the folder it lies in."
        )
    if is_mlflow_folder(path):
        return "mlflow", import_mlflow(path)
    check_folder(path, source)
    return "folder", path


def _from_catalogue(entry: Entry, say: Say | None) -> Path:
    if entry.package and _package_folder(entry.package) is not None:
        return import_gguf(_packaged(entry.package))
    return fetch(entry.hub, say)


def _package_folder(name: str) -> Path | None:
    """Where a package lies, found without running any of its code."""
    if not name.isidentifier():  # a dotted name would import its parent
        return None
    spec = importlib.util.find_spec(name)
    places = list(spec.submodule_search_locations or ()) if spec else []
    return Path(places[0]).resolve() if places else None


def _packaged(text: str) -> Path:
    """The GGUF file that `NAME` or `NAME/FILE.gguf` means."""
    name, _, file = text.partition("/")
    folder = _package_folder(name)
    if folder is None:
        raise FineryError(
            f"No Python package {name!r} is installed here. Install it, or name another model."
        )
    if file:
        path = (folder / file).resolve()
        if path.suffix.lower() != ".gguf" or not path.is_relative_to(folder) or not path.is_file():
            raise FineryError(f"The package {name} holds no {file}. {_contents(name, folder)}")
        return path
    ggufs = sorted(folder.rglob("*.gguf"))
    if len(ggufs) != 1:
        count = "several GGUF files" if ggufs else "no GGUF file"
        raise FineryError(f"The package {name} holds {count}. {_contents(name, folder)}")
    return ggufs[0].resolve()


def _contents(name: str, folder: Path) -> str:
    names = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*.gguf"))]
    choices = " or ".join(f"{PACKAGE}{name}/{file}" for file in names)
    return f"Name one: {choices}." if names else "Name another package or a .gguf file."


def _unknown(source: str) -> str:
    near = nearest_name(source)
    guess = f"Did you mean {near}?" if near else f"Short names: {_short_names()}."
    return (
        f"No model is called {source!r}: it is no path on this machine, no short name of the "
        f"catalogue, and does not read organisation/name. {guess}"
    )


def _short_names() -> str:
    return ", ".join(entry.name for entry in CATALOGUE)
