"""The `openvino` engine: the fastest on a CPU; int8 weights, continuous batching.

A model is exported once, into `FINERY_HOME/engines-cache/openvino`, by its content. An
adapter is merged before that: a pipeline of OpenVINO GenAI applies the adapter of the last
request to all that are under way, so several are never given to one.
"""

from __future__ import annotations

import logging
import math
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finery.errors import FineryError
from finery.files import home, new_folder, sha256_json, verify_folder, write_atomic
from finery.inference.engines.children import script
from finery.inference.engines.contexts import context_of, text_config
from finery.inference.engines.environments import Environment, child_environment
from finery.inference.engines.merging import CACHE, merged_folder, only_one, source_hash
from finery.inference.engines.worker_engine import WorkerEngine, threads, worker_command

if TYPE_CHECKING:
    from finery.inference.open import Located

PRECISION = "int8"
_CACHE_SHARE = 4  # the key-value cache takes a quarter of the free memory at most
_LAST_LINES = 15
log = logging.getLogger("finery.replica")


def open_openvino_engine(
    located: Located, environment: Environment, *, at_once: int = 8
) -> WorkerEngine:
    """Export the model when it never was, and start its worker; raises FineryError."""
    folder = exported(located, environment)
    gigabytes, context = cache_size(located.model, at_once)
    options = {
        "folder": str(folder),
        "at_once": at_once,
        "cache_gigabytes": gigabytes,
        "threads": threads(),
    }
    command = worker_command(environment.python, "worker_openvino.py", options)
    return WorkerEngine("openvino", command, precision=PRECISION, context=context)


def exported(located: Located, environment: Environment) -> Path:
    """The folder of the exported model, made when it is not there whole."""
    facts = [*source_hash(located), environment.packages, PRECISION]
    final = home() / CACHE / "openvino" / sha256_json(facts)[:16]
    if verify_folder(final, hashes=False):
        model = merged_folder(located)
        with only_one(final):
            if verify_folder(final, hashes=False):  # nobody made it while we waited
                with new_folder(final, replace=True) as temporary:
                    log.info("openvino: exporting %s, once", located.model)
                    _export(environment, model, temporary)
                    _add_vocabulary(located, temporary)
    return final


def _export(environment: Environment, model: Path, target: Path) -> None:
    # The models are files of ours; nothing is to be looked up anywhere else.
    offline = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    command = [str(environment.python), "-I", script("export_openvino.py"), str(model), str(target)]
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=child_environment(offline),
    )
    said = []
    with process:
        for line in process.stdout or ():
            said.append(line.rstrip())
            log.info("openvino: %s", line.rstrip())
    if process.returncode:
        last = "\n".join(said[-_LAST_LINES:])
        raise FineryError(
            f"{model} could not be exported for openvino (status {process.returncode}). "
            f"Deploy it with --engine torch. The last lines:\n{last}"
        )


def _add_vocabulary(located: Located, folder: Path) -> None:
    """tokenizer.json, by which the worker knows what ids mean when it follows a JSON schema."""
    from finery.chat.render import load_renderer

    tokenizer: Any = load_renderer(located.renderer).tokenizer.backend_tokenizer
    tokenizer.no_padding()
    tokenizer.no_truncation()
    write_atomic(folder / "tokenizer.json", tokenizer.to_str())


def cache_size(model: Path, at_once: int) -> tuple[int, int]:
    """Gigabytes of key-value cache, and the context (tokens) that surely fits into it.

    Room for `at_once` answers of full length, within a quarter of the free memory.
    """
    import psutil

    config = text_config(model)
    context = context_of(model)
    heads = config.num_attention_heads
    of_head = getattr(config, "head_dim", None) or config.hidden_size // heads
    key_heads = getattr(config, "num_key_value_heads", None) or heads
    of_token = 2 * 2 * config.num_hidden_layers * key_heads * of_head  # keys, values; 16 bits
    most = max(1, psutil.virtual_memory().available // _CACHE_SHARE // 10**9)
    gigabytes = min(most, math.ceil(at_once * context * of_token / 1e9))
    return gigabytes, min(context, gigabytes * 10**9 // of_token)
