"""Models named `organisation/name`: from a local mirror first, else from the Hugging Face hub."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

from finery.errors import FineryError, first_line
from finery.files import MIRROR, mirrored
from finery.model.download_progress import Say, told
from finery.model.folder import check_folder

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w.-]+)?", re.ASCII)

# What a model needs and nothing that runs code: no pickles, no Python.
WANTED = ("*.safetensors", "*.json", "*.jinja", "*.txt", "tokenizer.model", "README.md", "LICENSE*")
# Second copies of the weights that some repositories carry in subfolders.
UNWANTED = ("original/*", "onnx/*", "metal/*", "*.index.json.bak", "consolidated*")


def is_hub_id(source: str) -> bool:
    """Whether `source` reads `organisation/name` or `organisation/name@revision`."""
    return HUB_ID.fullmatch(source) is not None and ".." not in source


def fetch(source: str, say: Say | None = None) -> Path:
    """The folder of a hub model; downloads at most what is missing from the hub's own cache.

    With `say`, a download that takes a while says how far it is; without, it draws bars.

    `$FINERY_HUB_MIRROR/organisation/name` wins when it exists. A download that is interrupted
    is continued by the next call. Raises FineryError when the model can be had in neither
    place, InputError when what was found is not a whole model.
    """
    name, _, revision = source.partition("@")
    place = mirrored(name)
    if place is not None and place.is_dir():
        if revision:
            raise FineryError(
                f"{source} names a revision, but the mirror {place} holds one version only. "
                f"Leave out @{revision}, or unset {MIRROR}."
            )
        folder = place
    else:
        folder = _download(name, revision or None, place, say)
    check_folder(folder)
    return folder


def _download(name: str, revision: str | None, mirror: Path | None, say: Say | None) -> Path:
    from huggingface_hub import errors, snapshot_download

    try:
        with told(name, say) if say is not None else contextlib.nullcontext() as bars:
            return Path(
                snapshot_download(
                    name,
                    revision=revision,
                    allow_patterns=list(WANTED),
                    ignore_patterns=list(UNWANTED),
                    tqdm_class=bars,
                )
            )
    except errors.GatedRepoError:
        raise FineryError(
            f"The publisher of {name} asks for consent. Accept the terms at "
            f"https://huggingface.co/{name}, then set HF_TOKEN or run `hf auth login`."
        ) from None
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        version = f" at revision {revision}" if revision else ""
        raise FineryError(
            f"The Hugging Face hub has no {name}{version} that you may see. Check the spelling; "
            "for a private model set HF_TOKEN."
        ) from error
    except OSError as error:  # offline mode, no network, an absent cache, a full disk
        raise FineryError(_nowhere(name, mirror, first_line(error))) from error


def _nowhere(name: str, mirror: Path | None, reason: str) -> str:
    looked = f"{mirror} does not exist" if mirror else f"{MIRROR} is not set"
    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "TRUE", "YES", "ON"}
    remedy = "unset HF_HUB_OFFLINE" if offline else "check the network"
    return (
        f"{name} is not on this machine. Looked in the mirror ({looked}) and on the Hugging Face "
        f"hub and its cache ({reason}). Either {remedy}; or copy the model folder to "
        f"${MIRROR}/{name}; or name a model folder or GGUF file that you have."
    )
