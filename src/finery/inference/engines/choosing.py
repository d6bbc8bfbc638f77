"""Which engine serves a model: the one asked for, or the fastest here that passes its proof."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finery.errors import Fault, FineryError, InputError, did_you_mean, first_line
from finery.inference.engine import Engine
from finery.inference.engines.environments import Environment, has_cuda, installed, outdated
from finery.inference.engines.proving import Proof, ProofError, check_stop_ids, prove
from finery.inference.engines.reference import Reference, reference_of
from finery.inference.open import Located, locate

if TYPE_CHECKING:
    from finery.chat.render import Renderer

ENGINES = ("torch", "openvino", "vllm")
# The fastest first, as measured at one and at eight streams of greedy answers: on a CPU int8
# weights in OpenVINO are ahead of int8 in torch; on a GPU vLLM is the engine built for it.
_BY_SPEED = {"cpu": ("openvino", "torch"), "cuda": ("vllm", "torch")}
_FINER = ("int8", "bfloat16", "float32")  # of the weights: each rounds less than the one before
log = logging.getLogger("finery.replica")


@dataclass(frozen=True)
class Choice:
    """Which engine it became, and why the faster ones did not."""

    asked: str
    device: str
    engine: str
    passed_over: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        why = "asked for" if self.asked != "auto" else f"the fastest that can on {self.device}"
        over = "; ".join(f"{name}: {reason}" for name, reason in self.passed_over.items())
        return f"engine {self.engine} ({why})" + (f"; passed over: {over}" if over else "")

    def written(self) -> dict[str, Any]:
        """For ready.json."""
        return {
            "asked": self.asked,
            "device": self.device,
            "engine": self.engine,
            "passed_over": dict(self.passed_over),
        }


@dataclass(frozen=True)
class Proved:
    """An engine that computes its model, with all that a replica tells about it."""

    engine: Engine
    renderer: Renderer  # its golden ids hold
    located: Located
    proof: Proof
    choice: Choice

    def facts(self) -> dict[str, Any]:
        """For ready.json."""
        return {"proof": self.proof.written(), "choice": self.choice.written()}


async def open_proved(
    source: str,
    *,
    engine: str = "auto",
    device: str = "auto",
    at_once: int = 8,
    adapters: Mapping[str, Path] | None = None,
) -> Proved:
    """The engine for what `source` names, loaded and proved, its adapters too.

    `auto` goes on to the next engine where one is not installed, cannot take this model or
    fails its proof; torch is the last, and goes on to finer weights where its fastest fail.
    Raises FineryError when none is left, InputError for names that are not known.
    """
    from finery.chat.render import load_renderer

    attempts = list(_attempts(engine, device))
    located = await asyncio.to_thread(locate, source)
    renderer = await asyncio.to_thread(load_renderer, located.renderer)  # golden ids first
    check_stop_ids(renderer, located.renderer)
    reference = await asyncio.to_thread(reference_of, located, renderer)
    passed_over: dict[str, str] = {}
    while attempts:
        attempt, *attempts = attempts
        opened = None
        try:
            opened = await asyncio.to_thread(_open, attempt, located, at_once, adapters or {})
            proof = await prove(opened, reference)
            for adapter, folder in (adapters or {}).items():
                await prove_adapter(opened, located, adapter, folder)
        except FineryError as error:
            if opened is not None:
                await opened.close()
            attempts = [other for other in attempts if _is_worth_it(other, attempt, opened, error)]
            if not attempts:
                raise
            label = attempt.engine
            if opened is not None and attempts[0].engine == attempt.engine:
                label = f"{attempt.engine} in {opened.precision}"
            passed_over[label] = first_line(error)
            log.info("engine %s is passed over: %s", label, error)
            continue
        choice = Choice(engine, attempt.device, attempt.engine, passed_over)
        log.info("%s; %s", choice, proof)
        return Proved(opened, renderer, located, proof, choice)
    raise AssertionError("the last attempt is chosen or raises")


async def prove_adapter(engine: Engine, located: Located, name: str, folder: Path) -> Proof:
    """Prove an adapter that `engine` has loaded as `name`; raises ProofError, FineryError."""
    from finery.chat.render import load_renderer

    def reference() -> Reference:
        whole = Located(located.model, folder)
        return reference_of(whole, load_renderer(whole.renderer))

    return await prove(engine, await asyncio.to_thread(reference), adapter=name)


def open_engine(
    source: str,
    *,
    engine: str = "auto",
    device: str = "auto",
    at_once: int = 8,
    adapters: Mapping[str, Path] | None = None,
) -> Engine:
    """The engine for what `source` names, loaded and not proved; raises as `open_proved`."""
    attempts = [one for one in _attempts(engine, device) if one.precision == "auto"]
    located = locate(source)
    for attempt in attempts:
        try:
            return _open(attempt, located, at_once, adapters or {})
        except FineryError as error:
            if attempt == attempts[-1]:
                raise
            log.info("engine %s is passed over: %s", attempt.engine, first_line(error))
    raise AssertionError("the last attempt is opened or raises")


@dataclass(frozen=True)
class _Attempt:
    """One engine to try."""

    engine: str
    device: str
    precision: str = "auto"


def _attempts(engine: str, device: str) -> Iterator[_Attempt]:
    """What to try, in this order; raises InputError for an engine not known."""
    if engine not in (*ENGINES, "auto"):
        expected = ", ".join(("auto", *ENGINES))
        remedy = did_you_mean(engine, ENGINES)
        raise InputError([Fault("--engine", repr(engine), expected, remedy)])
    kind = device.partition(":")[0]
    on = ("cuda" if has_cuda() else "cpu") if kind == "auto" else device
    names = _BY_SPEED.get(on.partition(":")[0], ("torch",)) if engine == "auto" else (engine,)
    for name in names:
        yield _Attempt(name, on)
        if name == "torch":  # takes its fastest form, and another where that fails its proof
            yield from (_Attempt(name, on, finer) for finer in _FINER[1:])


def _is_worth_it(
    other: _Attempt, failed: _Attempt, opened: Engine | None, error: FineryError
) -> bool:
    """Whether `other` may do what `failed` could not: another engine, or finer weights."""
    if other.engine != failed.engine:
        return True
    if opened is None or not isinstance(error, ProofError) or opened.precision not in _FINER:
        return False
    return _FINER.index(other.precision) > _FINER.index(opened.precision)


def _open(
    attempt: _Attempt, located: Located, at_once: int, adapters: Mapping[str, Path]
) -> Engine:
    name, device = attempt.engine, attempt.device
    if name == "torch":
        from finery.inference.engines.torch_engine import open_torch_engine

        return open_torch_engine(
            located,
            device=device,
            precision=attempt.precision,
            at_once=at_once,
            adapters=adapters,
        )
    environment = _environment(name)
    if name == "openvino":
        from finery.inference.engines.openvino_engine import open_openvino_engine

        if adapters:
            raise FineryError(
                "The openvino engine serves no adapters beside its model: with several under way "
                "OpenVINO GenAI applies the last one to all. Deploy each as a model of its own, "
                "or use --engine torch."
            )
        if device != "cpu":
            raise FineryError(f"The openvino engine runs on the CPU here, not on {device}.")
        return open_openvino_engine(located, environment, at_once=at_once)
    from finery.inference.engines.vllm_engine import open_vllm_engine

    return open_vllm_engine(located, environment, at_once=at_once, adapters=adapters)


def _environment(name: str) -> Environment:
    """The environment of an engine, of the versions this finery was proved with."""
    found = installed(name)
    if found is None:
        raise FineryError(f"It is not installed: `finery engines install {name}`.")
    if outdated(found):
        raise FineryError(
            f"It was installed by another finery, with other versions: "
            f"`finery engines install {name}` brings those of this one."
        )
    return found
