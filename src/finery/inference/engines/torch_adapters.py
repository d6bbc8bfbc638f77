"""LoRA adapters over one base, rows of different ones in one batch: y += s (x Aᵀ) Bᵀ.

The adapters at work in a step are stacked along their ranks, so that the step costs two small
products whatever their number; a token's hidden values are kept for its own adapter's ranks and
zeroed for the others' (the grouped product of S-LoRA and Punica as a mask: Sheng et al. 2023,
arXiv 2311.03285; Chen et al. 2023, arXiv 2310.18547). The base's weights are never written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from finery.errors import FineryError
from finery.files import read_json
from finery.inference.engines.torch_projection import Part, Projection
from finery.model.folder import ADAPTER_CONFIG, ADAPTER_WEIGHTS

_SETS = 8  # sets of adapters whose stacks are kept

Low = tuple[Tensor, Tensor]  # A (ranks, in) and s Bᵀ (ranks, out)


@dataclass(eq=False)
class Adapter:
    """One loaded adapter."""

    name: str
    low: dict[Projection, Low]

    @property
    def bytes(self) -> int:
        """The memory it takes."""
        return sum(t.nbytes for pair in self.low.values() for t in pair)


@dataclass
class Mix:
    """Which adapter each token of a step goes through."""

    stacks: Mapping[Projection, tuple[Tensor, Tensor, Tensor]]
    owner: Tensor  # (T,) place of the token's adapter in the set, -1 for none
    alone: bool  # every token has the same adapter
    masks: dict[int, Tensor] = field(default_factory=dict)

    def add(self, onto: Tensor, x: Tensor, projection: Projection) -> None:
        """Add the adapters' part of a projection of x (T, in) to `onto` (T, out)."""
        stacked = self.stacks.get(projection)
        if stacked is None:
            return
        down, up, ranks = stacked
        hidden = x.to(down.dtype) @ down.T
        if not self.alone:
            mask = self.masks.get(id(ranks))
            if mask is None:
                mask = self.masks[id(ranks)] = self.owner[:, None] == ranks
            hidden.mul_(mask)
        if onto.dtype == up.dtype:
            onto.addmm_(hidden, up)
        else:
            onto.add_((hidden @ up).to(onto.dtype))

    def of(self, tokens: Tensor) -> Mix:
        """The mix of some of the tokens, by their places (n,)."""
        return Mix(self.stacks, self.owner[tokens], self.alone)


class Adapters:
    """The adapters of one engine, by name, and the stacks of the sets that were at work."""

    def __init__(self, projections: Sequence[Projection], device: torch.device) -> None:
        self._parts = {part.name: (one, part) for one in projections for part in one.parts}
        self._device = device
        self._sets: dict[tuple[Adapter, ...], dict[Projection, tuple[Tensor, Tensor, Tensor]]] = {}

    def load(self, name: str, folder: Path) -> Adapter:
        """Read a PEFT folder; raises FineryError for what cannot be applied row by row."""
        config = _config(name, folder)
        found = _matrices(name, folder)
        grouped: dict[Projection, list[tuple[Part, Tensor, Tensor]]] = {}
        for layer, (down, up) in found.items():
            if layer not in self._parts:
                raise FineryError(
                    f"Adapter {name} changes {layer}, which is no linear layer of this model "
                    "that takes adapters. Merge it into the base and deploy the merged model."
                )
            projection, part = self._parts[layer]
            if down.shape[1] != projection.weight.size[1] or len(up) != part.high - part.low:
                raise FineryError(
                    f"Adapter {name} was made for another base: its {layer} is "
                    f"{len(up)} x {down.shape[1]}, the model's {part.high - part.low} x "
                    f"{projection.weight.size[1]}. Deploy it with its own base."
                )
            scale = _scale(config, layer, len(down))
            grouped.setdefault(projection, []).append((part, down, up * scale))
        low = {one: self._together(one, pieces) for one, pieces in grouped.items()}
        return Adapter(name, low)

    def _together(self, projection: Projection, pieces: list[tuple[Part, Tensor, Tensor]]) -> Low:
        """The matrices of a projection's parts, one below the other."""
        down = torch.cat([one for _, one, _ in pieces])
        up = torch.zeros(len(down), projection.weight.size[0])
        first = 0
        for part, one, wide in pieces:
            rows = wide if part.order is None else wide[part.order]
            up[first : first + len(one), part.low : part.high] = rows.T
            first += len(one)
        return down.contiguous().to(self._device), up.to(self._device)

    def mix(self, owners: Sequence[tuple[Adapter | None, int]]) -> Mix | None:
        """The mix of packed tokens: (adapter, count) in packed order; None without adapters."""
        active = tuple(sorted({one for one, _ in owners if one is not None}, key=id))
        if not active:
            return None
        if active not in self._sets:
            while len(self._sets) >= _SETS:
                del self._sets[next(iter(self._sets))]
            self._sets[active] = _stacks(active, self._device)
        numbers = [-1 if one is None else active.index(one) for one, _ in owners]
        counts = torch.tensor([count for _, count in owners])
        owner = torch.tensor(numbers).repeat_interleave(counts).to(self._device)
        return Mix(self._sets[active], owner, alone=len(set(numbers)) == 1)

    def forget(self, adapter: Adapter) -> None:
        """Drop the stacks that an adapter is in."""
        self._sets = {key: value for key, value in self._sets.items() if adapter not in key}


def _stacks(
    active: tuple[Adapter, ...], device: torch.device
) -> dict[Projection, tuple[Tensor, Tensor, Tensor]]:
    """A, s Bᵀ and the owner of each rank, for every projection that one of the set changes."""
    stacks = {}
    owners: dict[tuple[int, ...], Tensor] = {}  # one tensor a layout: its mask is made once a step
    for projection in {projection for one in active for projection in one.low}:
        pairs = [one.low.get(projection) for one in active]
        layout = tuple(0 if pair is None else len(pair[0]) for pair in pairs)
        if layout not in owners:
            places = torch.arange(len(active)).repeat_interleave(torch.tensor(layout))
            owners[layout] = places.to(device)
        there = [pair for pair in pairs if pair is not None]
        down, up = (torch.cat([pair[i] for pair in there]) for i in (0, 1))
        stacks[projection] = (down, up, owners[layout])
    return stacks


def _config(name: str, folder: Path) -> dict[str, Any]:
    """The adapter's settings; raises FineryError for kinds that are no plain LoRA."""
    if not (folder / ADAPTER_CONFIG).is_file() or not (folder / ADAPTER_WEIGHTS).is_file():
        raise FineryError(
            f"Adapter {name}: {folder} lacks {ADAPTER_CONFIG} or {ADAPTER_WEIGHTS}. "
            "Give the folder that PEFT wrote, with safetensors weights."
        )
    config = read_json(folder / ADAPTER_CONFIG)
    strange = [
        key
        for key in ("use_dora", "modules_to_save", "lora_bias", "fan_in_fan_out")
        if config.get(key)
    ]
    if config.get("peft_type") != "LORA":
        strange.append(f"peft_type {config.get('peft_type')}")
    if config.get("bias", "none") != "none":
        strange.append("bias")
    if strange:
        raise FineryError(
            f"Adapter {name} has {', '.join(strange)}, which is not applied row by row here. "
            "Merge it into the base and deploy the merged model."
        )
    return config


def _matrices(name: str, folder: Path) -> dict[str, Low]:
    """A and B in float32 by the layer's name in the model."""
    tensors = load_file(folder / ADAPTER_WEIGHTS)
    layers: dict[str, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        layer, _, kind = key.removeprefix("base_model.model.").partition(".lora_")
        if kind not in ("A.weight", "B.weight"):
            raise FineryError(
                f"Adapter {name} holds {key}, which is no LoRA matrix of a linear layer. "
                "Merge it into the base and deploy the merged model."
            )
        layers.setdefault(layer, {})[kind[0]] = value.float()
    return {layer: (pair["A"], pair["B"]) for layer, pair in layers.items()}


def _scale(config: dict[str, Any], layer: str, rank: int) -> float:
    """alpha / r, or alpha / sqrt(r) for rsLoRA (Kalajdzievski 2023); alpha may be the layer's."""
    from peft.utils.other import get_pattern_key  # imports peft, which takes seconds

    patterns = config.get("alpha_pattern") or {}
    alpha = patterns.get(get_pattern_key(list(patterns), layer), config["lora_alpha"])
    return alpha / (rank**0.5 if config.get("use_rslora") else rank)
