"""What a model folder says about itself, read without loading the model."""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from finery.files import read_json
from finery.model.folder import read_header

# A licence as a model card's front matter names it.
LICENCE = re.compile(r"\A---\s*\n(?:.*\n)*?license:\s*(\S+)\s*\n(?:.*\n)*?---", re.ASCII)
TORCH_NAMES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32", "F64": "float64"}


@dataclass(frozen=True)
class Description:
    """The facts of a model folder; empty or 0 where the folder does not say."""

    architecture: str
    parameters: int  # stored numbers, tied weights once
    dtype: str  # of most parameters
    context: int  # tokens
    template_sha256: str  # of the chat template's text
    licence: str
    bytes: int  # of the weights


def describe_folder(folder: Path) -> Description:
    """The facts of a folder that `check_folder` accepts."""
    config = read_json(folder / "config.json")
    weights = sorted(folder.glob("*.safetensors"))
    sizes: Counter[str] = Counter()
    for path in weights:
        for tensor in read_header(path).values():
            sizes[tensor["dtype"]] += math.prod(tensor["shape"])
    dtype = sizes.most_common(1)[0][0] if sizes else ""
    template = chat_template(folder)
    return Description(
        architecture=next(iter(config.get("architectures") or [config["model_type"]])),
        parameters=sizes.total(),
        dtype=TORCH_NAMES.get(dtype, dtype.lower()),
        context=int(config.get("max_position_embeddings") or 0),
        template_sha256=hashlib.sha256(template.encode()).hexdigest() if template else "",
        licence=_licence(folder),
        bytes=sum(path.stat().st_size for path in weights),
    )


def config_number(folder: Path, name: str, trust_remote_code: bool = False) -> int | None:
    """A number of config.json, of its text part where it has one; None when the model sets none.

    transformers, which takes seconds to load, is asked only where the file does not say it: a
    family may have a default, or another name for it.
    """
    config = read_json(folder / "config.json")
    for part in (config.get("text_config"), config):
        if isinstance(part, dict) and isinstance(part.get(name), int):
            return part[name]
    from finery.model.load import load_config

    known = load_config(folder, trust_remote_code=trust_remote_code).get_text_config()
    return getattr(known, name, None)


def chat_template(folder: Path) -> str:
    """The chat template's text as transformers would find it, or ""."""
    if (folder / "chat_template.jinja").is_file():
        return (folder / "chat_template.jinja").read_text(encoding="utf-8")
    settings = folder / "tokenizer_config.json"
    template = read_json(settings).get("chat_template") if settings.is_file() else None
    if isinstance(template, list):  # several named templates
        template = {entry["name"]: entry["template"] for entry in template}.get("default")
    return template or ""


def _licence(folder: Path) -> str:
    card = folder / "README.md"
    found = (
        LICENCE.match(card.read_text(encoding="utf-8", errors="replace"))
        if card.is_file()
        else None
    )
    return found[1] if found else ""
