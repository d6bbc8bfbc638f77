"""A look at a fine-tuning before it starts, made by a process of its own.

The service loads no tokenizer and no model library. The look is forked from the warm host where
there is one, which makes it a matter of a second, and is ended when it takes too long.
"""

from __future__ import annotations

import os
import shutil
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from finery.errors import Fault
from finery.files import read_json, write_json
from finery.recipe.inputs import SETTINGS, SPLITS
from finery.runners import process
from finery.studio import fine_tune_form as forms
from finery.studio.fine_tune_job import Wanted
from finery.studio.fine_tune_worker import ANSWER, ASK
from finery.workspace import machine
from finery.workspace.errors import UnavailableError
from finery.workspace.place import Workspace

ROWS = 5
PATIENCE = 180.0  # seconds; a model that is fetched first may take longer
WAITING = 60.0  # seconds that a look waits for another one's end
_LOADING = 30.0
_DAY = 86400.0
_MODULE = "finery.studio.fine_tune_worker"
# One at a time: each holds a model's tokenizer and all rows.
_one = threading.BoundedSemaphore(1)


@dataclass(frozen=True)
class Look:
    """What is known of a fine-tuning before it starts."""

    ledgers: Sequence[Mapping[str, Any]] = ()
    sentences: Sequence[str] = ()
    plan: Mapping[str, Any] = field(default_factory=dict)
    notes: Sequence[str] = ()
    rows: Sequence[Mapping[str, Any]] = ()
    faults: Sequence[tuple[str, str]] = ()  # field, sentence
    unknown: str = ""  # why there was no look, which is no fault of the form

    @property
    def is_good(self) -> bool:
        """Whether the run may start as it is."""
        return not self.faults


def look(workspace: Workspace, asked: Wanted, patience: float = PATIENCE) -> Look:
    """Ledger, preview and plan of what is asked for; raises UnavailableError while others look."""
    if not _one.acquire(timeout=WAITING):
        raise UnavailableError("Another look is under way. Try again in a moment.")
    try:
        with _folder(workspace) as folder:
            answer = _answer(folder, {"recipe": asked.recipe, "rows": ROWS}, patience)
    finally:
        _one.release()
    if isinstance(answer, str):
        return Look(unknown=answer)
    if "error" in answer:
        return Look(faults=[("", answer["error"])])
    if "faults" in answer:
        found = [Fault(**fault) for fault in answer["faults"]]
        return Look(faults=[placed(fault, asked) for fault in found])
    return Look(**answer)


def placed(fault: Fault, asked: Wanted) -> tuple[str, str]:
    """The field that a fault is about, and the sentence there; paths are said as file names."""
    for name in SPLITS:
        source = asked.sources.get(name)
        if source and fault.where.startswith(source.local):
            file = Path(source.local)
            place = file.name + fault.where[len(source.local) :]
            return name, forms.sentence(fault, with_place=place)
    name = forms.field_of(fault.where)
    if name in SETTINGS or name in forms.HEAD:
        return name, forms.sentence(fault)
    return "", forms.sentence(fault, with_place=fault.where)


def _answer(folder: Path, ask: Mapping[str, Any], patience: float) -> dict[str, Any] | str:
    """What the process answers, or why it does not."""
    write_json(folder / ASK, dict(ask))
    until = time.monotonic() + patience
    process.start(folder, _process(folder))
    while process.state(folder) == "running" and time.monotonic() < until:
        time.sleep(0.03)
    if process.state(folder) == "running":
        process.stop(folder, grace=1.0)
        return (
            f"The look was ended after {patience:.0f} s: a model that is not on this machine yet "
            "is fetched first. Start the run without it, or check again later."
        )
    if (folder / ANSWER).is_file():
        return read_json(folder / ANSWER)
    said = (folder / "look.log").read_text("utf-8", "replace") if _log(folder).is_file() else ""
    last = said.strip().splitlines()[-1:] or ["it said nothing"]
    return f"The look ended without an answer: {last[0][:300]}."


def _process(folder: Path) -> process.Process:
    cores = str(machine.cores())
    threads = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS")
    return process.Process(
        argv=(sys.executable, "-P", "-m", _MODULE, str(folder)),
        token=f"look-{folder.name}",
        working_folder=folder,
        log=_log(folder),
        environment=dict.fromkeys(threads, os.environ.get("OMP_NUM_THREADS", cores)),
        grace=1.0,
        loads=None if machine.gpus() else _LOADING,  # the warm host sees no GPU
    )


def _log(folder: Path) -> Path:
    return folder / "look.log"


@contextmanager
def _folder(workspace: Workspace) -> Iterator[Path]:
    """A folder for one look, gone afterwards; and so are those that a killed service left."""
    root = workspace.folder / "looks"
    root.mkdir(parents=True, exist_ok=True)
    for old in root.iterdir():
        if old.stat().st_mtime < time.time() - _DAY:
            shutil.rmtree(old, ignore_errors=True)
    folder = root / uuid.uuid4().hex
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
