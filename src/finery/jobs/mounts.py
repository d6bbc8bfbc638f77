"""How a command gets its inputs: to read, never to change.

What an input names may be shared: versions of assets, outputs of jobs and reused steps hold the
same file. A command therefore gets a copy of its own, which no permission has to protect (the
owner of the machine has them all): a clone where the file system makes them, whatever the size,
or a plain copy of what is small. What is large is read where it lies, and looked at again when the
command has ended.

With mode `download`, Azure ML's word for a copy that may be written, it is always a copy.
"""

from __future__ import annotations

import shutil
import stat
from pathlib import Path
from typing import Any

from finery.errors import FineryError
from finery.files import TEMPORARY, cloned, files_below, read_json, write_json
from finery.jobs.job import Job
from finery.jobs.spec import Asset

SMALL = 256 * 2**20  # bytes of an input that are copied without being asked for
COPIES, SEEN = "inputs", "inputs.json"  # in the folder of an attempt
_NAMED = 3  # files that an error names


def mounted_inputs(job: Job, folder: Path, small: int = SMALL) -> dict[str, dict[str, Any]]:
    """The inputs as the command of an attempt finds them; raises FineryError when a copy fails."""
    inputs, seen = {}, {}
    for name, given in job.inputs.items():
        inputs[name] = dict(given)
        if not given.get("path"):
            continue
        source = Path(given["path"])
        try:
            copy = _copied(source, folder / COPIES / name, _mode(job, name), small)
        except OSError as error:
            raise FineryError(
                f"The input {name} could not be copied for the step: {error}."
            ) from error
        inputs[name]["path"] = str(copy or source)
        if copy is None:
            seen[name] = {"path": str(source), "files": _looked_at(source)}
    write_json(folder / SEEN, seen)
    return inputs


def changed_inputs(folder: Path) -> tuple[str, str]:
    """What a command did to inputs that it read where they lie: files changed or removed, and
    files added; each "" when there are none.
    """
    changed, added = [], []
    seen = read_json(folder / SEEN) if (folder / SEEN).exists() else {}
    for name, before in seen.items():
        now = _looked_at(Path(before["path"]))
        files = before["files"]
        changed += [f"{name}/{file}" for file in files if now.get(file) != files[file]]
        added += [f"{name}/{file}" for file in now if file not in files]
    return _listed(changed), _listed(added)


def as_failure(changed: str) -> str:
    """The sentence for a command that changed what it may only read."""
    return (
        f"The command changed its inputs: {changed}. Inputs are read-only and may be shared with "
        "other versions and jobs: restore what it changed, and write to an output, or give the "
        "input the mode download."
    )


def forget_inputs(folder: Path) -> None:
    """Remove the copies of an attempt that has ended."""
    shutil.rmtree(folder / COPIES, ignore_errors=True)


def _mode(job: Job, name: str) -> str:
    given = job.step.inputs.get(name)
    return given.mode.lower() if isinstance(given, Asset) else ""


def _copied(source: Path, place: Path, mode: str, small: int) -> Path | None:
    """The copy of an input in the folder `place`; None when it is too large for one."""
    target = place / source.name if source.is_file() else place
    if place.exists():  # before a crash
        return target
    made = place.with_name(f"{TEMPORARY}{place.name}")
    shutil.rmtree(made, ignore_errors=True)
    inner = made / source.name if source.is_file() else made
    inner.parent.mkdir(parents=True, exist_ok=True)
    may_copy = mode == "download" or _bytes(source) <= small

    def copy(one: str, other: str) -> str:
        if not cloned(Path(one), Path(other)):
            if not may_copy:
                raise _TooLargeError
            shutil.copyfile(one, other)
        Path(other).chmod(_permissions(Path(one), is_own=mode == "download"))
        return other

    try:
        if source.is_file():
            copy(str(source), str(inner))
        else:
            unfinished = shutil.ignore_patterns(f"{TEMPORARY}*")
            shutil.copytree(source, inner, copy_function=copy, ignore=unfinished)
    except _TooLargeError:
        shutil.rmtree(made, ignore_errors=True)
        return None
    made.rename(place)
    return target


class _TooLargeError(Exception):
    """A file that would have to be copied and is not to be."""


def _permissions(file: Path, *, is_own: bool) -> int:
    mode = stat.S_IMODE(file.stat().st_mode)
    return mode | stat.S_IWUSR if is_own else mode & ~0o222


def _bytes(source: Path) -> int:
    return sum(path.stat().st_size for path in _files(source))


def _looked_at(source: Path) -> dict[str, list[int]]:
    """What tells whether a file is as it was: its size, its time and its number, by name."""
    return {
        (path.name if path == source else path.relative_to(source).as_posix()): [
            (state := path.stat()).st_size,
            state.st_mtime_ns,
            state.st_ino,
        ]
        for path in _files(source)
    }


def _files(source: Path) -> list[Path]:
    found = [source] if source.is_file() else files_below(source)
    return [path for path in found if not path.name.startswith(TEMPORARY)]


def _listed(files: list[str]) -> str:
    more = f" and {len(files) - _NAMED} more" if len(files) > _NAMED else ""
    return f"{', '.join(files[:_NAMED])}{more}"
