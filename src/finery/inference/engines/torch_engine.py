"""The engine that is always there: PyTorch, on a CPU or a GPU, in this process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finery.errors import FineryError
from finery.inference.decoding import check_settings
from finery.inference.engine import EngineLostError, Generation, Token
from finery.inference.engines.torch_adapters import Adapter
from finery.inference.engines.torch_forms import TEXT, Formed, form
from finery.inference.engines.torch_loop import ModelThread
from finery.inference.engines.torch_rows import Row
from finery.inference.engines.torch_schema import Matcher, Schemas
from finery.inference.engines.torch_threads import give_back_threads

if TYPE_CHECKING:
    from finery.inference.open import Located


class TorchEngine:
    """The async front of one model thread; see `finery.inference.engine.Engine`."""

    name = "torch"

    def __init__(
        self,
        formed: Formed,
        schemas: Schemas,
        *,
        at_once: int,
        adapters: Mapping[str, Path],
    ) -> None:
        self.precision = formed.precision
        self.context = formed.runner.context
        self._vocabulary = formed.runner.vocabulary
        able = {"logprobs", "schema", "penalties"}
        self.features = frozenset(able | ({"adapters"} if formed.adapters else set()))
        self.info = formed.info  # how it runs, for people: form, measured figures, why not faster
        self._adapters = formed.adapters
        self._loaded: dict[str, Adapter] = {}
        for name, folder in adapters.items():
            self._load(name, folder)  # before the thread begins: a bad one leaves none
        self._schemas = schemas
        self._thread = ModelThread(formed.runner, at_once, formed.threads)

    @property
    def adapters(self) -> dict[str, int]:
        """The adapters that can be asked for, with the bytes each takes."""
        return {name: adapter.bytes for name, adapter in sorted(self._loaded.items())}

    async def add_adapter(self, name: str, folder: Path) -> None:
        """Read a LoRA folder under `name` while the others answer; FineryError if it does not fit.

        A name that is taken gets the new adapter for the answers that begin from now on.
        """
        if reason := self.health():
            raise EngineLostError(f"The torch engine takes no adapter: {reason}.")
        replaced = self._loaded.get(name)
        await asyncio.to_thread(self._load_aside, name, folder)
        if replaced is not None:
            self._forget(replaced)

    def _load_aside(self, name: str, folder: Path) -> None:
        self._load(name, folder)
        give_back_threads()

    def _load(self, name: str, folder: Path) -> None:
        if self._adapters is None:
            raise FineryError(
                f"This model runs in transformers' plain form ({self.info.get('interface')}), "
                "which takes no adapters. Merge the adapter and deploy the merged model."
            )
        self._loaded[name] = self._adapters.load(name, folder)

    async def remove_adapter(self, name: str) -> None:
        """Forget an adapter; answers that began with it end with it."""
        if name not in self._loaded:
            raise FineryError(self._no_adapter(name))
        gone = self._loaded.pop(name)
        self._forget(gone)

    def _forget(self, adapter: Adapter) -> None:
        """Between two steps, drop what was kept for an adapter that has gone."""
        self._thread.call(lambda: self._thread.runner.forget(adapter))

    def _no_adapter(self, name: str) -> str:
        known = ", ".join(sorted(self._loaded)) or "none is loaded"
        return f"There is no adapter named {name} ({known}). Load it, or name one of these."

    async def generate(self, wanted: Generation) -> AsyncGenerator[Token, None]:
        """The tokens as they are made; see the protocol."""
        self._check(wanted)
        matcher = await self._matcher(wanted)
        adapter = self._loaded[wanted.adapter] if wanted.adapter else None
        row = Row(wanted, matcher, adapter, loop=asyncio.get_running_loop())
        self._thread.add(row)
        try:
            while (item := await row.ready.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            row.left = True

    def _check(self, wanted: Generation) -> None:
        """Raise FineryError for what no model could answer."""
        check_settings(
            wanted.max_new_tokens, wanted.temperature, top_p=wanted.top_p, top_k=wanted.top_k
        )
        if not wanted.prompt:
            raise FineryError("The prompt has no token. Give at least one.")
        size = self._vocabulary
        if strange := [token for token in wanted.prompt if not 0 <= token < size]:
            raise FineryError(
                f"The prompt holds the id {strange[0]}; the model's ids are 0 to {size - 1}. "
                "Render it with the model's own tokenizer."
            )
        total = len(wanted.prompt) + wanted.max_new_tokens
        if total > self.context:
            raise FineryError(
                f"The prompt has {len(wanted.prompt)} tokens and {wanted.max_new_tokens} new ones "
                f"are wanted, {total} together; the context holds {self.context}. "
                "Shorten the prompt or ask for fewer."
            )
        if wanted.adapter and wanted.adapter not in self._loaded:
            raise FineryError(self._no_adapter(wanted.adapter))

    async def _matcher(self, wanted: Generation) -> Matcher | None:
        if wanted.schema is None:
            return None
        return await asyncio.to_thread(self._schemas.matcher, wanted.schema, wanted.stop_ids)

    def health(self) -> str:
        """Why it cannot answer any more; "" while it can."""
        return self._thread.health()

    async def close(self) -> None:
        """End the thread and free the model, its caches and adapters."""
        await asyncio.to_thread(self._thread.close)
        self._adapters = None
        self._loaded = {}
        self._thread.free()


def open_torch_engine(
    located: Located,
    *,
    device: str = "auto",
    precision: str = "auto",
    at_once: int = 8,
    adapters: Mapping[str, Path] | None = None,
    reuse: bool = True,
) -> TorchEngine:
    """Load the model at `located` and start its thread; raises FineryError when it cannot.

    `precision` is float32, bfloat16, int8 or auto (the fastest of those this machine has, by a
    measurement of half a second); `adapters` are names and PEFT folders of LoRA adapters of this
    base. An adapter that `located` itself has is folded into the weights. `reuse` is whether a
    prompt takes over what others that begin alike have read already.
    """
    import torch

    from finery.chat.render import load_renderer
    from finery.model.load import load_model

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"

    def load(dtype: str) -> Any:
        kind = {"float32": "32", "bfloat16": "bf16"}[dtype]
        model: Any = load_model(located.model, precision=kind, device=device)
        if located.adapter is None:
            return model
        from finery.model.lora import load_adapter, merge  # imports peft, which takes seconds

        return merge(load_adapter(model, located.adapter))

    renderer = load_renderer(located.renderer)
    text = renderer.tokenizer(TEXT, add_special_tokens=False)["input_ids"]
    formed = form(load, text, precision, at_once, reuse=reuse)  # pyright: ignore[reportArgumentType]
    give_back_threads()  # this thread has loaded the model, the engine's own will run it
    schemas = Schemas(renderer.tokenizer, formed.runner.vocabulary)
    return TorchEngine(formed, schemas, at_once=at_once, adapters=adapters or {})
