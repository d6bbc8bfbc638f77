"""The real OpenVINO engine on real small models: it says what its model says, and keeps rules."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Callable, Coroutine, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from installed_engines import needs_engine
from safetensors.torch import load_file, save_file

from finery.chat.render import load_renderer
from finery.errors import FineryError
from finery.inference.engine import Generation, Token
from finery.inference.engines import openvino_engine
from finery.inference.engines.choosing import open_proved
from finery.inference.engines.openvino_engine import exported, open_openvino_engine
from finery.inference.engines.proving import ProofError, prove
from finery.inference.engines.reference import Reference, reference_of
from finery.inference.engines.worker_engine import WorkerEngine
from finery.inference.open import Located

PROMPT = (1, 450, 4996, 17354)


@pytest.fixture(scope="module")
def own_home_of_all(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One home for the module: the model is exported once."""
    folder = tmp_path_factory.mktemp("openvino-home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FINERY_HOME", str(folder))
        needs_engine("openvino")
        yield folder


@pytest.fixture(autouse=True)
def same_home(own_home: Path, own_home_of_all: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the home that every other test gets for itself."""
    monkeypatch.setenv("FINERY_HOME", str(own_home_of_all))


@pytest.fixture(scope="module")
def located(kit: Path) -> Located:
    return Located(kit / "model" / "stories15m-phi3")


@pytest.fixture(scope="module")
def reference(own_home_of_all: Path, located: Located) -> Reference:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FINERY_HOME", str(own_home_of_all))
        return reference_of(located, load_renderer(located.renderer))


@pytest.fixture(scope="module")
def engine(own_home_of_all: Path, located: Located) -> Iterator[WorkerEngine]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FINERY_HOME", str(own_home_of_all))
        made = open_openvino_engine(located, needs_engine("openvino"))
    yield made
    asyncio.run(made.close())


def run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(work, 120))


async def made(engine: WorkerEngine, most: int = 12, **settings: Any) -> list[Token]:
    wanted = Generation(settings.pop("prompt", PROMPT), most, **settings)
    return [token async for token in engine.generate(wanted)]


def ids(engine: WorkerEngine, most: int = 12, **settings: Any) -> list[int]:
    return [token.id for token in run(made(engine, most, **settings))]


def test_it_passes_the_proof(engine: WorkerEngine, reference: Reference) -> None:
    proof = run(prove(engine, reference))
    assert proof.precision == "int8"
    assert proof.same >= 0.9 * proof.places


def test_it_makes_exactly_as_many_tokens_as_are_wanted(engine: WorkerEngine) -> None:
    assert [len(ids(engine, most)) for most in (1, 2, 33)] == [1, 2, 33]


def test_a_stop_id_ends_the_answer_and_is_its_last_token(engine: WorkerEngine) -> None:
    plain = ids(engine)
    assert ids(engine, stop_ids=(plain[3],)) == plain[:4]
    assert ids(engine, stop_ids=(31999, plain[5], plain[3])) == plain[:4]
    assert ids(engine, stop_ids=(31999,)) == plain


def test_the_models_own_end_ids_end_nothing(engine: WorkerEngine, located: Located) -> None:
    end = json.loads((located.model / "generation_config.json").read_text())["eos_token_id"]
    schema = {"const": "a"}  # whose document ends at once: nothing but an end id may follow
    stops = tuple(end if isinstance(end, list) else [end])
    assert set(ids(engine, 12, schema=schema, stop_ids=stops)) & set(stops)
    assert len(ids(engine, 60)) == 60


def test_the_same_seed_is_the_same_answer_and_another_is_another(engine: WorkerEngine) -> None:
    def drawn(seed: int) -> list[int]:
        return ids(engine, temperature=1.0, seed=seed)

    assert drawn(1) == drawn(1)
    assert len({tuple(drawn(seed)) for seed in range(6)}) > 3


def test_a_seed_does_not_depend_on_who_else_is_answered(engine: WorkerEngine) -> None:
    alone = [ids(engine, temperature=1.0, seed=seed) for seed in range(6)]

    async def together() -> list[list[Token]]:
        asked = (made(engine, temperature=1.0, seed=seed) for seed in range(6))
        return await asyncio.gather(*asked)

    assert [[token.id for token in tokens] for tokens in run(together())] == alone


def test_greedy_and_drawn_answers_go_on_side_by_side(engine: WorkerEngine) -> None:
    greedy = ids(engine)

    async def both() -> list[list[Token]]:
        drawn = made(engine, temperature=1.0, seed=5)
        return await asyncio.gather(made(engine), drawn, made(engine))

    first, _, last = run(both())
    assert [token.id for token in first] == [token.id for token in last] == greedy


def test_what_top_k_and_top_p_leave_out_is_never_drawn(engine: WorkerEngine) -> None:
    greedy = ids(engine)
    assert ids(engine, temperature=1.5, seed=3, top_k=1) == greedy
    assert ids(engine, temperature=1.5, seed=3, top_p=1e-6) == greedy


def test_log_probabilities_are_near_the_references(
    engine: WorkerEngine, reference: Reference
) -> None:
    prompt, answer = reference.prompts[0], reference.answers[0]
    [token] = run(made(engine, 1, prompt=prompt, logprobs=5))
    assert len(token.likeliest) == 5
    known = dict(answer[0].likeliest)
    assert token.logprob == pytest.approx(known[token.id], abs=0.3)
    assert token.likeliest[0][1] >= token.likeliest[1][1]
    # asking for them changes no token
    plain = ids(engine, prompt=prompt)
    assert [one.id for one in run(made(engine, prompt=prompt, logprobs=0))] == plain


def test_penalties_are_openais(engine: WorkerEngine) -> None:
    plain, varied = ids(engine, 60), ids(engine, 60, frequency_penalty=2.0)
    assert len(set(varied)) > len(set(plain))
    assert ids(engine, 60, frequency_penalty=0.0) == plain


def test_an_answer_follows_its_schema(engine: WorkerEngine, located: Located) -> None:
    renderer = load_renderer(located.renderer)
    schema = {
        "type": "object",
        "properties": {"size": {"enum": ["small", "big"]}, "ok": {"type": "boolean"}},
        "required": ["size", "ok"],
        "additionalProperties": False,
    }
    made_ids = ids(engine, 60, schema=schema, stop_ids=renderer.stop_ids)
    assert made_ids[-1] in renderer.stop_ids
    value = json.loads(renderer.decode(made_ids))
    assert value["size"] in ("small", "big")


def test_a_schema_that_nobody_can_follow_harms_nobody_else(engine: WorkerEngine) -> None:
    async def both() -> list[Any]:
        return await asyncio.gather(
            made(engine, 40), made(engine, schema={"type": "objekt"}), return_exceptions=True
        )

    good, bad = run(both())
    assert len(good) == 40
    assert isinstance(bad, FineryError)
    assert "schema" in str(bad)
    assert engine.health() == ""


def test_a_reader_that_leaves_makes_room(engine: WorkerEngine) -> None:
    async def leave() -> None:
        for _ in range(20):  # more than are answered at once
            async with aclosing(engine.generate(Generation(PROMPT, 1500))) as tokens:
                async for _ in tokens:
                    break
        assert len(await made(engine)) == 12

    run(leave())


def test_more_answers_than_places_all_come(engine: WorkerEngine) -> None:
    async def many() -> list[list[Token]]:
        return await asyncio.gather(*(made(engine, 5 + n) for n in range(20)))

    assert [len(tokens) for tokens in run(many())] == [5 + n for n in range(20)]


def test_a_long_prompt_is_answered(engine: WorkerEngine) -> None:
    assert len(ids(engine, 8, prompt=(1, *PROMPT * 450))) == 8
    with pytest.raises(FineryError, match="context holds 2048"):
        ids(engine, 8, prompt=PROMPT * 512)


def test_no_process_but_its_own_is_started(engine: WorkerEngine) -> None:
    worker = psutil.Process(engine._child.process.pid)
    assert worker.children(recursive=True) == []
    assert [c.raddr for c in worker.net_connections()] == []


def test_the_second_start_exports_nothing(
    engine: WorkerEngine, located: Located, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> None:
        raise AssertionError("it is there already")

    monkeypatch.setattr(openvino_engine, "_export", never)
    assert (exported(located, needs_engine("openvino")) / "openvino_model.bin").is_file()


def damaged(located: Located, folder: Path, change: Callable[[dict[str, Any]], None]) -> Located:
    """A copy of the model with other weights."""
    shutil.copytree(located.model, folder)
    weights = folder / "model.safetensors"
    weights.chmod(0o644)
    tensors = load_file(weights)
    change(tensors)
    save_file(tensors, weights, {"format": "pt"})
    return Located(folder)


def without_a_layer(tensors: dict[str, Any]) -> None:
    name = "model.layers.2.mlp.down_proj.weight"
    tensors[name] = torch.zeros_like(tensors[name])


@pytest.mark.full
def test_an_export_of_other_weights_is_refused(
    located: Located, reference: Reference, tmp_path: Path
) -> None:
    other = damaged(located, tmp_path / "model", without_a_layer)
    engine = open_openvino_engine(other, needs_engine("openvino"))
    try:
        with pytest.raises(ProofError, match="does not compute this model"):
            run(prove(engine, reference))
    finally:
        run(engine.close())


def test_auto_takes_it_and_says_so(located: Located) -> None:
    async def opened() -> Any:
        proved = await open_proved(str(located.model), device="cpu")
        await proved.engine.close()
        return proved

    proved = run(opened())
    assert proved.engine.name == "openvino"
    assert proved.facts()["choice"]["engine"] == "openvino"


@pytest.mark.full
def test_an_adapter_is_folded_in_before_the_export(located: Located, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    from finery.model.load import load_model

    torch.manual_seed(3)
    config = LoraConfig(r=4, target_modules=["o_proj", "down_proj"], init_lora_weights=False)
    tuned = get_peft_model(load_model(located.model, precision="32", device="cpu"), config)  # pyright: ignore
    tuned.save_pretrained(tmp_path / "adapter")
    whole = Located(located.model, tmp_path / "adapter")
    own = reference_of(whole, load_renderer(whole.renderer))
    engine = open_openvino_engine(whole, needs_engine("openvino"))
    try:
        assert run(prove(engine, own)).same > 0
        with pytest.raises(ProofError):  # it is not the base
            run(prove(engine, reference_of(located, load_renderer(located.renderer))))
    finally:
        run(engine.close())
