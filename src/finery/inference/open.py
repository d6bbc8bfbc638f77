"""A model ready to answer, from whatever a person names: a run, an adapter, a model source."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finery.errors import FineryError
from finery.files import read_json
from finery.model.folder import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from finery.model.sources import resolve_source

if TYPE_CHECKING:
    from finery.chat.render import Renderer


@dataclass(frozen=True)
class Located:
    """Where the parts of a named model lie."""

    model: Path
    adapter: Path | None = None

    @property
    def renderer(self) -> Path:
        """The folder whose tokenizer and template apply: the adapter's, when it has its own."""
        from finery.chat.golden import GOLDEN_FILE

        own = self.adapter
        return own if own and (own / GOLDEN_FILE).is_file() else self.model


@dataclass(frozen=True)
class Opened:
    """A model in eval mode with the renderer it was trained with."""

    name: str  # what the person called it
    model: Any  # a transformers model, in PEFT's wrapper when it has an adapter
    renderer: Renderer


def locate(source: str) -> Located:
    """Find the folders behind `source`, loading nothing.

    A run folder gives its merged `model/`, or its `adapter/` on the base when it was not
    merged; a folder with adapter_config.json gives that adapter on the base it names; all
    else is a source as `resolve_source` takes it. Raises FineryError when a part is missing.
    """
    folder = Path(source).expanduser()
    if not folder.is_dir() or (folder / "config.json").is_file():
        return Located(resolve_source(source).path)
    if (folder / ADAPTER_CONFIG).is_file():
        return _adapter(folder)
    if (folder / "model" / "config.json").is_file():
        return Located(resolve_source(str(folder / "model")).path)
    if (folder / "adapter" / ADAPTER_CONFIG).is_file():
        return _adapter(folder / "adapter")
    if (folder / "recipe.yaml").is_file():
        raise FineryError(
            f"{source} is a run that has no model yet: neither model/ nor adapter/ is in it. "
            "Let the run finish, or start it again to resume it."
        )
    return Located(resolve_source(source).path)


def _adapter(folder: Path) -> Located:
    """An adapter and its base; only safetensors weights are ever read."""
    base = read_json(folder / ADAPTER_CONFIG).get("base_model_name_or_path")
    if not base:
        raise FineryError(
            f"{folder / ADAPTER_CONFIG} names no base model. "
            "Put the base's path or name at base_model_name_or_path."
        )
    if not (folder / ADAPTER_WEIGHTS).is_file():
        raise FineryError(
            f"{folder} has no {ADAPTER_WEIGHTS}. Save the adapter as safetensors; "
            "pickled weights (.bin) are not loaded because loading them can run code."
        )
    return Located(resolve_source(str(base)).path, folder)


def open_model(source: str, *, device: str = "auto", precision: str = "auto") -> Opened:
    """Load what `source` names; raises FineryError or InputError when it cannot be.

    `auto` is the GPU with bf16 where there is one, else the CPU with 32-bit floats.
    """
    import torch

    from finery.chat.render import load_renderer
    from finery.model.load import load_model

    located = locate(source)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if precision == "auto":
        precision = "32" if device == "cpu" else "16"
    renderer = load_renderer(located.renderer)
    model: Any = load_model(located.model, precision=precision, device=device)
    if located.adapter is not None:
        from finery.model.lora import load_adapter  # imports peft, which takes seconds

        model = load_adapter(model, located.adapter)
    return Opened(source, model, renderer)
