"""A Hugging Face model folder: which of its files matter, and what is wrong with it.

A model folder holds `config.json`, weights as safetensors (one file, or shards with their
index) and a tokenizer. Pickled weights (`*.bin`, `*.pt`, …) run code when they are opened and
are never read; see https://huggingface.co/docs/hub/security-pickle.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finery.errors import Fault, FineryError, InputError
from finery.files import read_json, sha256_json
from finery.model.hashing import file_hash

TOKENIZER_FILES = frozenset(
    {
        "added_tokens.json",
        "chat_template.jinja",
        "chat_template.json",
        "merges.txt",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer.model",
        "tokenizer_config.json",
        "vocab.json",
    }
)
MODEL_FILES = frozenset({"config.json", "generation_config.json", "model.safetensors.index.json"})
PAPERS = frozenset({"README.md", "LICENSE", "LICENSE.md", "LICENSE.txt", "NOTICE", "NOTICE.txt"})
PICKLES = frozenset({".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth", ".h5", ".msgpack"})
INDEX = "model.safetensors.index.json"
ADAPTER_CONFIG = "adapter_config.json"  # PEFT's names
ADAPTER_WEIGHTS = "adapter_model.safetensors"


@dataclass(frozen=True)
class ModelFolder:
    """A model as a plain Hugging Face folder, and where it came from."""

    path: Path
    source: str  # what the user wrote
    kind: str  # folder, mlflow, gguf, catalogue or hub
    sha256: str  # of the files that decide what the model computes: `content_hash`


def model_files(folder: Path) -> list[Path]:
    """The files that decide what the model computes, sorted by name; `.py` is the model's code."""
    return sorted(
        path
        for path in folder.iterdir()
        if path.is_file()
        and (path.name in TOKENIZER_FILES | MODEL_FILES or path.suffix in {".safetensors", ".py"})
    )


def content_hash(folder: Path) -> str:
    """One sha256 over (name, sha256) of `model_files`; the folder's own name does not count."""
    return sha256_json([[path.name, file_hash(path)] for path in model_files(folder)])


def check_folder(folder: Path, shown: str = "") -> None:
    """Refuse a folder that is not a whole model, naming everything that is wrong with it.

    `shown` stands for the folder in the messages. Raises InputError.
    """
    name = shown or str(folder)
    faults = [*_config_faults(folder, name), *weight_faults(folder, name)]
    if not any(
        (folder / file).is_file() for file in ("tokenizer.json", "tokenizer.model")
    ) and not ((folder / "vocab.json").is_file() and (folder / "merges.txt").is_file()):
        faults.append(
            Fault(
                name,
                "no tokenizer",
                "tokenizer.json (or tokenizer.model, or vocab.json with merges.txt)",
                "Copy the tokenizer files of the base model into the folder.",
            )
        )
    if faults:
        raise InputError(faults, subject="model folder")


def _config_faults(folder: Path, name: str) -> Iterator[Fault]:
    path = folder / "config.json"
    if path.is_file():
        try:
            config = read_json(path)
        except FineryError as error:
            yield Fault(f"{name}/config.json", str(error), "a JSON object")
            return
        if not isinstance(config, dict) or not config.get("model_type"):
            yield Fault(f"{name}/config.json", "no model_type", "a transformers configuration")
        return
    yield Fault(name, "no config.json", "a Hugging Face model folder", _elsewhere(folder, name))


def _elsewhere(folder: Path, name: str) -> str:
    """Where the model probably is, when the folder has the look of something else."""
    if (folder / "model" / "config.json").is_file():
        return f"The model seems to be in {name}/model."
    if (folder / ADAPTER_CONFIG).is_file():
        return "This is an adapter: name its base model, or merge the two first."
    if ggufs := sorted(folder.glob("*.gguf")):
        return f"To use a GGUF, name the file: {name}/{ggufs[0].name}."
    return "Copy the config.json that was published with the weights."


def weight_faults(folder: Path, name: str) -> Iterator[Fault]:
    """What is wrong with the weights in `folder`, called `name` in the messages."""
    weights = sorted(folder.glob("*.safetensors"))
    if (folder / INDEX).is_file():
        yield from _index_faults(folder, name)
    elif not weights:
        pickles = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLES)
        if pickles:
            yield Fault(
                name,
                f"weights only as {', '.join(pickles)}, a format that runs code when opened",
                "*.safetensors",
                "Take the safetensors version of the model, or convert it with its author's tool "
                "in a place where nothing can be harmed.",
            )
        else:
            yield Fault(name, "no weights", "model.safetensors or shards with their index")
    for path in weights:
        try:
            read_header(path)
        except FineryError as error:
            yield Fault(
                f"{name}/{path.name}", str(error), "a whole safetensors file", "Get it again."
            )


def _index_faults(folder: Path, name: str) -> Iterator[Fault]:
    try:
        shards = sorted(set(read_json(folder / INDEX)["weight_map"].values()))
    except (FineryError, KeyError, TypeError, AttributeError):
        yield Fault(f"{name}/{INDEX}", "something else", "a JSON object with a weight_map")
        return
    for shard in shards:
        if Path(shard).name != shard:
            yield Fault(f"{name}/{INDEX}", f"the shard name {shard}", "a file in the same folder")
        elif not (folder / shard).is_file():
            yield Fault(
                name, f"no {shard}", f"every shard that {INDEX} lists", "Copy the missing file."
            )


def read_header(path: Path) -> dict[str, Any]:
    """The tensors of a safetensors file: name → {dtype, shape, data_offsets}, weights unread.

    Raises FineryError, without the file's name, when the header is damaged or the file is cut
    short. Format: https://github.com/huggingface/safetensors#format
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > size - 8:
            raise FineryError("a header that is cut short or is no safetensors header")
        try:
            header = json.loads(file.read(length))
            header.pop("__metadata__", None)
            end = (
                8 + length + max((entry["data_offsets"][1] for entry in header.values()), default=0)
            )
        except (ValueError, KeyError, TypeError, AttributeError, IndexError):
            raise FineryError("a header that is no safetensors header") from None
    if end != size:
        raise FineryError(f"{size} bytes where its header announces {end}")
    return header


def link_or_copy(source: Path, target: Path) -> None:
    """`source` under a second name, sharing its bytes where the file system can."""
    try:
        os.link(source.resolve(), target)
    except OSError as error:
        # Another disk, a file system without links, or a file of another user.
        if error.errno not in {errno.EXDEV, errno.EPERM, errno.EACCES, errno.ENOTSUP, errno.EMLINK}:
            raise
        shutil.copyfile(source, target)


def assemble(files: Mapping[str, Path], target: Path) -> None:
    """Fill the folder `target` with files by name; only weights are linked, the rest is copied.

    Small files are copied because people edit them in place, which a link would carry along.
    """
    for name, source in sorted(files.items()):
        place = link_or_copy if source.suffix == ".safetensors" else shutil.copyfile
        place(source, target / name)
