"""Which engine serves a model: the one asked for, or the fastest here that passes its proof."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finery.errors import Fault, FineryError, InputError, did_you_mean, first_line
from finery.inference.engine import Engine
from finery.inference.engines import probing
from finery.inference.engines.environments import Environment, has_cuda, installed, outdated
from finery.inference.engines.probing import Contest, Speed
from finery.inference.engines.proving import Proof, ProofError, check_stop_ids, prove
from finery.inference.engines.reference import Reference, reference_of
from finery.inference.open import Located, locate

if TYPE_CHECKING:
    from finery.chat.render import Renderer

ENGINES = ("torch", "openvino", "vllm")
# What is tried first where nothing is measured: on a CPU int8 weights in OpenVINO were ahead of
# int8 in torch with the models measured; on a GPU vLLM is the engine built for it.
_BY_SPEED = {"cpu": ("openvino", "torch"), "cuda": ("vllm", "torch")}
_FINER = ("int8", "bfloat16", "float32")  # of the weights: each rounds less than the one before
log = logging.getLogger("finery.replica")


@dataclass(frozen=True)
class Choice:
    """Which engine it became, by which speeds, and why others were not asked."""

    asked: str
    device: str
    engine: str
    passed_over: Mapping[str, str] = field(default_factory=dict)
    measured: Mapping[str, Speed] = field(default_factory=dict)

    def __str__(self) -> str:
        why = "asked for" if self.asked != "auto" else f"the fastest that can on {self.device}"
        if self.engine in self.measured:
            why = f"auto chose it, {probing.told(self.engine, self.measured)}"
        over = "; ".join(f"{name}: {reason}" for name, reason in self.passed_over.items())
        return f"engine {self.engine} ({why})" + (f"; passed over: {over}" if over else "")

    def written(self) -> dict[str, Any]:
        """For ready.json."""
        return {
            "asked": self.asked,
            "device": self.device,
            "engine": self.engine,
            "passed_over": dict(self.passed_over),
            "measured_tokens_per_s": {name: asdict(one) for name, one in self.measured.items()},
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

    `auto` takes the engine that a short comparison finds the fastest with this model, and goes on
    to the next where one is not installed, cannot take this model or fails its proof; torch goes
    on to finer weights where its fastest fail.
    Raises FineryError when none is left, InputError for names that are not known.
    """
    from finery.chat.render import load_renderer

    attempts = list(_attempts(engine, device))
    located = await asyncio.to_thread(locate, source)
    renderer = await asyncio.to_thread(load_renderer, located.renderer)  # golden ids first
    check_stop_ids(renderer, located.renderer)
    reference = await asyncio.to_thread(reference_of, located, renderer)
    given = adapters or {}
    contest = await _contest(attempts, located, reference, at_once, given)
    attempts.sort(key=lambda attempt: contest.rank(attempt.engine))
    passed_over = dict(contest.failed)
    try:
        while attempts:
            attempt, *attempts = attempts
            opened = contest.opened.pop(attempt.engine, None)
            try:
                opened = opened or await asyncio.to_thread(_open, attempt, located, at_once, given)
                proof = await prove(opened, reference)
                for adapter, folder in given.items():
                    await prove_adapter(opened, located, adapter, folder)
            except FineryError as error:
                if opened is not None:
                    await opened.close()
                attempts = [one for one in attempts if _is_worth_it(one, attempt, opened, error)]
                if not attempts:
                    raise
                label = attempt.engine
                if opened is not None and attempts[0].engine == attempt.engine:
                    label = f"{attempt.engine} in {opened.precision}"
                passed_over[label] = first_line(error)
                log.info("engine %s is passed over: %s", label, error)
                continue
            choice = Choice(engine, attempt.device, attempt.engine, passed_over, contest.found)
            log.info("%s; %s", choice, proof)
            return Proved(opened, renderer, located, proof, choice)
        raise AssertionError("the last attempt is chosen or raises")
    finally:
        await contest.close()


async def _contest(
    attempts: Sequence[_Attempt],
    located: Located,
    reference: Reference,
    at_once: int,
    adapters: Mapping[str, Path],
) -> Contest:
    """The speeds of the engines that may be meant by `auto` here, where there are several.

    On a CPU and with a small model alone: elsewhere it would hold up a start for minutes.
    """
    meant = [one for one in attempts if one.precision == "auto"]
    if len(meant) < 2 or meant[0].device != "cpu" or not probing.is_small(located.model):
        return Contest()
    environments: dict[str, Environment | None] = {}
    for attempt in meant:
        with contextlib.suppress(FineryError):  # who tries it says why it cannot
            environments[attempt.engine] = _environment(attempt, adapters)
    if len(environments) < 2:
        return Contest()
    streams = min(8, at_once)
    path = await asyncio.to_thread(probing.place_of, located, environments, streams)
    openers = {
        one.engine: functools.partial(_open, one, located, at_once, adapters)
        for one in meant
        if one.engine in environments
    }
    return await probing.contest(openers, path, reference.prompts, streams)


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
    environment = _environment(attempt, adapters)
    if environment is None:
        from finery.inference.engines.torch_engine import open_torch_engine

        return open_torch_engine(
            located,
            device=attempt.device,
            precision=attempt.precision,
            at_once=at_once,
            adapters=adapters,
        )
    if attempt.engine == "openvino":
        from finery.inference.engines.openvino_engine import open_openvino_engine

        return open_openvino_engine(located, environment, at_once=at_once)
    from finery.inference.engines.vllm_engine import open_vllm_engine

    return open_vllm_engine(located, environment, at_once=at_once, adapters=adapters)


def _environment(attempt: _Attempt, adapters: Mapping[str, Path]) -> Environment | None:
    """Where the engine is installed, of the versions this finery was proved with; None: in ours.

    Raises FineryError for one that is not, or that cannot do what is asked of it.
    """
    name = attempt.engine
    if name == "torch":
        return None
    found = installed(name)
    if found is None:
        raise FineryError(f"It is not installed: `finery engines install {name}`.")
    if outdated(found):
        raise FineryError(
            f"It was installed by another finery, with other versions: "
            f"`finery engines install {name}` brings those of this one."
        )
    if name == "openvino" and adapters:
        raise FineryError(
            "The openvino engine serves no adapters beside its model: with several under way "
            "OpenVINO GenAI applies the last one to all. Deploy each as a model of its own, "
            "or use --engine torch."
        )
    if name == "openvino" and attempt.device != "cpu":
        raise FineryError(f"The openvino engine runs on the CPU here, not on {attempt.device}.")
    return found
