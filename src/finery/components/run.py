"""`python -m finery.components.run ATTEMPT`: run the step that ATTEMPT/step.json describes.

Its log goes to standard output, one event a line. What a person did wrong ends standard error,
and stands in ATTEMPT/error.json with code UserError; a defect has its traceback on standard
error and code SystemError.
"""

from __future__ import annotations

import atexit
import importlib
import os
import shutil
import sys
import threading
import traceback
from pathlib import Path
from types import ModuleType
from typing import NoReturn

from finery.components.handover import TRAINING
from finery.components.log import say
from finery.components.spec import BUILT_IN
from finery.components.step import Step, load_step
from finery.errors import FineryError
from finery.files import TEMPORARY, write_json

ERROR = "error.json"
UNUSED = ("sklearn", "mlflow")  # see _set_up
# Each step is a module with `run(step)`; it is imported only in the process that runs it.
STEPS = {
    "ft_nlp_common_validation": "validation",
    "chat_completion_model_import": "model_import",
    "chat_completion_datapreprocess": "preprocess",
    "chat_completion_finetune": "finetune",
    "ft_nlp_model_converter": "converter",
    "chat_completion_evaluation": "evaluation",
}


def main(folder: Path) -> int:
    """Run the step; the exit status is 0 when all its outputs are whole."""
    try:
        step = load_step(folder)
        _set_up(step)
        sweep(step)
        _module(step.entry).run(step)
    except FineryError as error:
        write_json(folder / ERROR, {"code": "UserError", "message": str(error)})
        sys.stderr.write(f"{error}\n")
        return error.exit_status
    except Exception as error:
        traceback.print_exc()
        message = f"{type(error).__name__}: {error}"
        write_json(folder / ERROR, {"code": "SystemError", "message": message})
        return 70  # EX_SOFTWARE
    say("done")
    return 0


def _module(entry: str) -> ModuleType:
    name = entry.removeprefix(BUILT_IN)
    if name not in STEPS:
        raise FineryError(f"No step is called {entry!r}. Steps: {', '.join(STEPS)}.")
    return importlib.import_module(f"finery.components.{STEPS[name]}")


def sweep(step: Step) -> None:
    """Remove what an attempt that was killed left half-written in and beside the outputs."""
    for output in step.outputs.values():
        beside = output.parent.glob(f"{TEMPORARY}*-{output.name}")
        inside = (f for place in (output, output / TRAINING) for f in place.glob(f"{TEMPORARY}*"))
        for leftover in (*beside, *inside):
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()


def _set_up(step: Step) -> None:
    """Show the process its devices, and spare it libraries that no step uses.

    transformers loads scikit-learn for assisted generation, DeepSpeed loads MLflow for its
    tuner; each takes more than a second, and both do without where it is not installed.
    """
    gpus = ",".join(step.devices.ids) if step.devices.kind == "cuda" else ""
    if step.devices.kind != "cuda" or gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus
    tracked = "FINERY_ROOT_RUN_ID" in os.environ or "MLFLOW_TRACKING_URI" not in os.environ
    if step.devices.kind == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # DeepSpeed would look for others, and warn
        if step.devices.count:
            os.environ.setdefault("OMP_NUM_THREADS", str(step.devices.count))
        # Threads that spin while they wait for others make all ten times slower on a busy machine.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    for library in UNUSED:
        if library != "mlflow" or tracked:
            sys.modules.setdefault(library, None)  # pyright: ignore[reportArgumentType]


def _leave(status: int) -> NoReturn:
    """End without taking apart what is loaded, which takes longer than some steps."""
    threading._shutdown()  # pyright: ignore[reportAttributeAccessIssue] - waits for threads
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    _leave(main(Path(sys.argv[1])))
