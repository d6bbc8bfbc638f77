"""Which engine it becomes, and what is said of those that were passed over."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from scripted_engine import Scripted, every, reference

from finery.errors import FineryError, InputError
from finery.inference.engine import EngineLostError
from finery.inference.engines import choosing, probing
from finery.inference.engines.choosing import Choice, Proved, open_engine, open_proved
from finery.inference.engines.environments import Environment, row_of
from finery.inference.engines.probing import Speed
from finery.inference.engines.proving import ProofError
from finery.inference.open import Located

MODEL = Located(Path("/models/one"))


class World:
    """What is installed, and what each engine does when it is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
        self.measured: list[tuple[str, int]] = []
        self.cuda = False
        self.engines: dict[str, Any] = {"torch": Scripted("float32")}
        self.opened: list[tuple[str, str, dict[str, Path]]] = []
        self.closed: list[str] = []
        self.precisions: list[str] = []
        self.speeds = {"openvino": Speed(150, 311, 8), "torch": Speed(100, 240, 8)}
        self.small = True
        monkeypatch.setattr(choosing, "has_cuda", lambda: self.cuda)
        monkeypatch.setattr(choosing, "locate", lambda source: MODEL)
        monkeypatch.setattr(choosing, "reference_of", lambda located, renderer: reference())
        monkeypatch.setattr("finery.chat.render.load_renderer", lambda folder: object())
        monkeypatch.setattr(choosing, "check_stop_ids", lambda renderer, folder: None)
        monkeypatch.setattr(choosing, "_open", self.open)
        monkeypatch.setattr(choosing, "_environment", self.environment)
        monkeypatch.setattr(probing, "is_small", lambda model: self.small)
        monkeypatch.setattr(probing, "place_of", lambda *facts: home / "speeds.json")
        monkeypatch.setattr(probing, "speed", self.speed)

    def environment(self, attempt: Any, adapters: Mapping[str, Path]) -> None:
        if attempt.engine not in self.engines:
            raise FineryError("It is not installed: `finery engines …`.")

    async def speed(self, engine: Any, prompts: Any, streams: int) -> float:
        found = self.speeds[engine.name]
        if isinstance(found, Exception):
            raise found
        self.measured.append((engine.name, streams))
        return found.one if streams == 1 else found.many

    def open(
        self, attempt: Any, located: Located, at_once: int, adapters: Mapping[str, Path]
    ) -> Any:
        name = attempt.engine
        self.opened.append((name, attempt.device, dict(adapters)))
        self.precisions.append(attempt.precision)
        found = self.engines.get(name, FineryError("It is not installed: `finery engines …`."))
        if isinstance(found, dict):
            found = found[attempt.precision]
        if isinstance(found, Exception):
            raise found
        found.name = name

        async def close() -> None:
            self.closed.append(name)

        found.close = close
        return found


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> World:
    return World(monkeypatch, tmp_path)


def chosen(**settings: Any) -> Proved:
    return asyncio.run(open_proved("one", **settings))


@pytest.mark.parametrize("fastest", ["openvino", "torch"])
def test_auto_takes_the_engine_that_is_measured_the_fastest(world: World, fastest: str) -> None:
    world.engines["openvino"] = Scripted()
    world.speeds[fastest] = Speed(200, 500, 8)
    proved = chosen()
    assert proved.engine.name == proved.choice.engine == fastest
    assert proved.located == MODEL
    assert world.closed == [({"openvino", "torch"} - {fastest}).pop()]
    assert proved.choice.passed_over == {}


def test_the_speeds_that_decided_are_told(world: World) -> None:
    world.engines["openvino"] = Scripted()
    choice = chosen().choice
    said = "tokens/s at 8 streams and at one: openvino 311 and 150, torch 240 and 100"
    assert str(choice) == f"engine openvino (auto chose it, {said})"
    told = choice.written()["measured_tokens_per_s"]
    assert told["torch"] == {"one": 100, "many": 240, "streams": 8}


def test_a_second_start_measures_nothing_and_opens_one_engine(world: World) -> None:
    world.engines["openvino"] = Scripted()
    first = chosen().choice
    world.measured.clear()
    world.opened.clear()
    assert chosen().choice == first
    assert world.measured == []
    assert [name for name, *_ in world.opened] == ["openvino"]


def test_an_engine_that_is_not_installed_costs_no_comparison(world: World) -> None:
    assert chosen().choice.measured == {}
    assert world.measured == []


@pytest.mark.parametrize("asked", ["openvino", "torch"])
def test_an_engine_that_is_asked_for_is_not_compared(world: World, asked: str) -> None:
    world.engines["openvino"] = Scripted()
    assert chosen(engine=asked).choice.measured == {}
    assert world.measured == []


def test_a_large_model_is_loaded_once_in_the_order_of_the_facts(world: World) -> None:
    world.engines["openvino"] = Scripted()
    world.small = False
    assert chosen().choice == Choice("auto", "cpu", "openvino")
    assert [name for name, *_ in world.opened] == ["openvino"]


def test_an_engine_that_fails_the_comparison_is_told_and_the_next_one_taken(world: World) -> None:
    world.engines["openvino"] = Scripted()
    world.speeds["openvino"] = EngineLostError("The openvino engine ended.")
    choice = chosen().choice
    assert choice.engine == "torch"
    assert "could not be measured: The openvino engine ended" in choice.passed_over["openvino"]
    assert world.closed == ["openvino"]
    world.speeds["openvino"] = Speed(200, 500, 8)  # it was not written down as failing
    assert chosen().choice.engine == "openvino"


def test_an_engine_that_does_not_open_leaves_the_others(world: World) -> None:
    world.engines["openvino"] = FineryError("It could not be exported.")
    choice = chosen().choice
    assert (choice.engine, choice.measured) == ("torch", {})
    assert choice.passed_over == {"openvino": "It could not be exported"}


def test_the_fastest_that_fails_its_proof_gives_way_to_the_next(world: World) -> None:
    world.engines["openvino"] = Scripted(choose=every(3))
    choice = chosen().choice
    assert choice.engine == "torch"
    assert "does not compute this model" in choice.passed_over["openvino"]
    assert world.closed == ["openvino"]
    assert [name for name, *_ in world.opened] == ["openvino", "torch"]


def test_without_it_torch_answers_and_the_reason_is_told(world: World) -> None:
    choice = chosen().choice
    assert choice.engine == "torch"
    assert "not installed" in choice.passed_over["openvino"]
    assert "engine torch (the fastest that can on cpu); passed over: openvino: It is not" in str(
        choice
    )


def test_on_a_gpu_vllm_is_first_and_openvino_never_comes(world: World) -> None:
    world.cuda = True
    assert chosen().choice.passed_over.keys() == {"vllm"}
    world.engines["vllm"] = Scripted("bfloat16")
    assert chosen().choice == Choice("auto", "cuda", "vllm")


def test_when_the_last_fails_its_proof_nothing_is_served(world: World) -> None:
    world.engines["torch"] = Scripted("float32", every(3))
    with pytest.raises(ProofError):
        chosen()
    assert world.closed == ["torch"]


@pytest.mark.parametrize("asked", ["auto", "torch"])
def test_where_its_fastest_weights_fail_torch_takes_finer_ones(world: World, asked: str) -> None:
    forms = {"auto": Scripted("int8", every(3)), "bfloat16": Scripted("bfloat16", every(3))}
    world.engines["torch"] = {**forms, "float32": Scripted("float32")}
    proved = chosen(engine=asked)
    assert proved.proof.precision == "float32"
    assert world.precisions[-3:] == ["auto", "bfloat16", "float32"]
    assert {"torch in int8", "torch in bfloat16"} <= proved.choice.passed_over.keys()
    assert world.closed == ["torch", "torch"]


def test_weights_that_are_no_finer_are_not_tried(world: World) -> None:
    world.engines["torch"] = {
        "auto": Scripted("bfloat16", every(3)),
        "float32": Scripted("float32"),
    }
    assert chosen().proof.precision == "float32"
    assert world.precisions == ["auto", "auto", "float32"]


def test_torch_that_does_not_load_is_not_loaded_again(world: World) -> None:
    world.engines["torch"] = FineryError("The weights lack a tensor.")
    with pytest.raises(FineryError, match="lack a tensor"):
        chosen()
    assert [name for name, *_ in world.opened] == ["openvino", "torch"]


def test_an_engine_that_is_asked_for_is_not_replaced(world: World) -> None:
    with pytest.raises(FineryError, match="not installed"):
        chosen(engine="openvino")
    world.engines["openvino"] = Scripted(choose=every(3))
    with pytest.raises(ProofError):
        chosen(engine="openvino")
    assert "torch" not in [name for name, *_ in world.opened]
    assert str(chosen(engine="torch").choice) == "engine torch (asked for)"


@pytest.mark.parametrize("opens", [open_engine, lambda *a, **k: chosen(**k)])
def test_a_name_that_is_no_engine_is_refused_with_the_nearest(world: World, opens: Any) -> None:
    with pytest.raises(InputError, match="Did you mean openvino"):
        opens("one", engine="openvin")
    assert world.opened == []


def test_the_device_can_be_given(world: World) -> None:
    assert chosen(device="cuda:1").choice.device == "cuda:1"
    assert [(name, device) for name, device, _ in world.opened] == [
        ("vllm", "cuda:1"),
        ("torch", "cuda:1"),
    ]
    world.cuda, world.opened = True, []
    assert chosen(device="cpu").choice.passed_over.keys() == {"openvino"}


def test_adapters_reach_the_engine_and_each_is_proved(world: World) -> None:
    adapters = {"blue": Path("/adapters/blue"), "green": Path("/adapters/green")}
    engine = Scripted("float32")
    world.engines["torch"] = engine
    chosen(adapters=adapters)
    assert world.opened[-1] == ("torch", "cpu", adapters)
    assert {wanted.adapter for wanted in engine.asked} == {"", "blue", "green"}


def test_without_a_proof_an_engine_is_opened_in_the_same_order(world: World) -> None:
    assert open_engine("one").name == "torch"
    world.engines["openvino"] = Scripted()
    assert open_engine("one").name == "openvino"
    with pytest.raises(FineryError, match="not installed"):
        open_engine("one", engine="vllm")


def test_ready_json_tells_choice_and_proof(world: World) -> None:
    facts = chosen().facts()
    assert facts["choice"]["engine"] == "torch"
    assert facts["choice"]["asked"] == "auto"
    assert "openvino" in facts["choice"]["passed_over"]
    assert facts["proof"]["places"] == 128


OPENVINO = choosing._Attempt("openvino", "cpu")
CURRENT = Environment("openvino", "cpu", row_of("openvino").packages, "3.11.0")


def test_openvino_takes_no_adapters_beside_its_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choosing, "installed", lambda name: CURRENT)
    with pytest.raises(FineryError, match="applies the last one to all"):
        choosing._open(OPENVINO, MODEL, 8, {"blue": Path("/adapters/blue")})


def test_openvino_is_not_for_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choosing, "installed", lambda name: CURRENT)
    with pytest.raises(FineryError, match="runs on the CPU here, not on cuda"):
        choosing._open(choosing._Attempt("openvino", "cuda"), MODEL, 8, {})


def test_an_environment_of_other_versions_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    old = Environment("openvino", "cpu", ("openvino==1",), "3.11.0")
    monkeypatch.setattr(choosing, "installed", lambda name: old)
    with pytest.raises(FineryError, match="with other versions: `finery engines install openvino"):
        choosing._environment(OPENVINO, {})
    monkeypatch.setattr(choosing, "installed", lambda name: CURRENT)
    assert choosing._environment(OPENVINO, {}) == CURRENT
