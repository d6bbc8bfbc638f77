"""A model and its adapter as one plain folder, for engines that read plain folders only."""

from __future__ import annotations

import contextlib
import fcntl
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finery.files import home, new_folder, sha256_json, verify_folder
from finery.model.folder import ADAPTER_CONFIG, ADAPTER_WEIGHTS, content_hash
from finery.model.hashing import file_hash

if TYPE_CHECKING:
    from finery.inference.open import Located

CACHE = "engines-cache"  # below the finery home
log = logging.getLogger("finery.replica")


def source_hash(located: Located) -> list[str]:
    """What the model and its adapter are, by content."""
    files = [] if located.adapter is None else [ADAPTER_CONFIG, ADAPTER_WEIGHTS]
    hashes = [file_hash(located.adapter / name) for name in files]  # pyright: ignore[reportOptionalOperand]
    return [content_hash(located.model), *hashes]


def merged_folder(located: Located) -> Path:
    """The model's own folder, or one with the adapter folded in, made once and kept."""
    if located.adapter is None:
        return located.model
    from finery.chat.render import load_renderer
    from finery.model.load import load_model, stored_dtype
    from finery.model.lora import load_adapter, merge

    final = home() / CACHE / "merged" / sha256_json(source_hash(located))[:16]
    with only_one(final):
        if verify_folder(final, hashes=False):
            log.info("merging %s into %s, once", located.adapter, located.model)
            base = load_model(located.model, precision="32", device="cpu")
            merged: Any = merge(load_adapter(base, located.adapter))
            with new_folder(final, replace=True) as temporary:
                merged.to(stored_dtype(located.model)).save_pretrained(temporary)
                load_renderer(located.renderer).save(temporary)
    return final


@contextlib.contextmanager
def only_one(final: Path) -> Iterator[None]:
    """One maker of a folder at a time: the replicas of a deployment start together."""
    final.parent.mkdir(parents=True, exist_ok=True)
    with final.with_name(f".{final.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
