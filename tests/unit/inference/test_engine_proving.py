"""An engine serves only when it says what its model says."""

from __future__ import annotations

import asyncio
import dataclasses
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from scripted_engine import PROMPTS, VOCABULARY, Scripted, every, reference

from finery.errors import FineryError
from finery.inference.engine import Engine
from finery.inference.engines import reference as reference_module
from finery.inference.engines.proving import (
    LIMITS,
    Proof,
    ProofError,
    check_stop_ids,
    limits_of,
    prove,
)
from finery.inference.engines.reference import Place, _kept, _written


def proof(engine: Engine, gap: float = 0.2, precision: str = "float32", **kw: str) -> Proof:
    return asyncio.run(prove(engine, reference(gap, precision), **kw))


@pytest.mark.parametrize("precision", sorted(LIMITS))
def test_the_same_tokens_pass_in_every_precision(precision: str) -> None:
    engine = Scripted(precision)
    made = proof(engine)
    assert (made.same, made.places, made.widest_gap) == (128, 128, 0.0)
    assert len(engine.asked) == 9  # one for each prompt, one for the stop ids


def test_after_a_near_tie_the_comparison_goes_on_behind_it() -> None:
    engine = Scripted(choose=every(29))
    made = proof(engine)
    assert made.same < 128
    assert made.widest_gap == 0.2
    for wanted in engine.asked[8:-1]:  # what was compared anew begins with the reference's tokens
        answer = reference().answers[PROMPTS.index(wanted.prompt[:2])]
        given = wanted.prompt[2:]
        assert list(given) == [p.id for p in answer[: len(given)]]


def test_a_token_far_less_likely_is_refused_however_rare() -> None:
    with pytest.raises(ProofError, match=r"one is 18\.5\d* nats less likely"):
        proof(Scripted(choose=every(29, step=10)))


def test_a_token_that_the_reference_never_thought_of_is_refused() -> None:
    with pytest.raises(ProofError):
        proof(Scripted(choose=every(29, step=30)))


def test_too_many_near_ties_are_no_rounding() -> None:
    with pytest.raises(ProofError, match=r"at most \d+ are those of transformers.*at least 85%"):
        proof(Scripted(choose=every(3)))


def test_a_hopeless_engine_is_not_asked_to_the_end() -> None:
    engine = Scripted(choose=lambda before, token: (token + 1) % VOCABULARY)
    with pytest.raises(ProofError):
        proof(engine)
    assert len(engine.asked) < 40  # of 128 places


def test_float32_takes_no_near_tie_that_int8_takes() -> None:
    proof(Scripted("int8", every(60)))
    with pytest.raises(ProofError):
        proof(Scripted("float32", every(60)))


def test_float32_takes_an_exact_tie() -> None:
    assert proof(Scripted("float32", every(127)), gap=1e-5).widest_gap == 0.0


def test_a_reference_in_16_bits_allows_what_16_bits_round() -> None:
    proof(Scripted("float32", every(60)), precision="bfloat16")


def test_an_engine_that_ends_at_a_stop_id_of_its_own_is_refused() -> None:
    token = reference().answers[3][5].id
    with pytest.raises(ProofError, match="tokens where 16 were asked for and no stop id"):
        proof(Scripted(extra_stops=(token,)))


def test_an_engine_that_runs_past_the_stop_id_is_refused() -> None:
    with pytest.raises(ProofError, match="ended an answer after 16 tokens that the stop id"):
        proof(Scripted(heeds_stops=False))


def test_an_engine_that_makes_one_token_too_many_is_refused() -> None:
    with pytest.raises(ProofError, match="made 17 tokens where 16 were asked for"):
        proof(Scripted(one_more=True))


def test_an_adapter_is_asked_for_by_its_name() -> None:
    engine = Scripted()
    proof(engine, adapter="blue")
    assert {wanted.adapter for wanted in engine.asked} == {"blue"}
    with pytest.raises(ProofError, match="with the adapter blue does not compute"):
        proof(Scripted(choose=every(3)), adapter="blue")


def test_a_failed_proof_is_an_error_for_people_with_its_figures() -> None:
    with pytest.raises(FineryError) as caught:
        proof(Scripted(choose=every(29, step=10)))
    for words in ("of 128 tokens", "float32", "int8 weights", "85%", "1.5 nats"):
        assert words in str(caught.value)


def test_the_proof_of_ready_json_says_what_was_allowed() -> None:
    written = proof(Scripted()).written()
    assert written.pop("seconds") >= 0
    assert written == {
        "precision": "int8",
        "places": 128,
        "same": 128,
        "widest_gap": 0.0,
        "least_share": 0.85,
        "most_gap": 1.5,
    }


def test_a_precision_nobody_knows_has_the_widest_limits_only() -> None:
    assert limits_of("int4") == LIMITS["int8"]


def test_limits_widen_as_precision_falls() -> None:
    order = [LIMITS[name] for name in ("float32", "bfloat16", "int8")]
    assert sorted(order, key=lambda one: one.gap) == order
    assert sorted(order, key=lambda one: -one.share) == order


def test_other_stop_ids_than_the_saved_ones_are_refused(tmp_path: Path) -> None:
    renderer: Any = SimpleNamespace(stop_ids=(7, 2))
    check_stop_ids(renderer, tmp_path)  # nothing was saved
    (tmp_path / "finery_renderer.json").write_text('{"stop_ids": [2, 7]}')
    check_stop_ids(renderer, tmp_path)
    (tmp_path / "finery_renderer.json").write_text('{"stop_ids": [2]}')
    with pytest.raises(ProofError, match=r"ended with the ids \[2\].*end with \[2, 7\] now"):
        check_stop_ids(renderer, tmp_path)


def test_the_gap_of_a_token() -> None:
    one = Place(((4, -0.1), (9, -0.6), (2, -3.0)))
    assert one.id == 4
    assert one.gap(4) == 0.0
    assert math.isclose(one.gap(9), 0.5)
    assert math.isclose(one.gap(33), 2.9)  # at least: below all that are known


def test_a_kept_reference_is_the_one_that_was_made(tmp_path: Path) -> None:
    path = tmp_path / "reference.json"
    path.write_text(_written(reference()))
    assert _kept(path) == reference()


@pytest.mark.parametrize("damage", ["", "{", "{}", '{"prompts": 3}', "[]"])
def test_a_damaged_reference_is_made_again(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "reference.json"
    path.write_text(damage)
    assert _kept(path) is None
    assert _kept(tmp_path / "none.json") is None


def test_the_prompts_are_of_many_kinds_and_one_is_long() -> None:
    prompts = reference_module.PROMPTS
    assert len(prompts) >= 8
    assert len(set(prompts)) == len(prompts)
    assert max(map(len, prompts)) > 900  # characters: positions are told apart from afar only


def test_a_proof_is_a_value() -> None:
    assert dataclasses.replace(proof(Scripted()), seconds=0.0) == Proof("int8", 128, 128, 0.0, 0.0)
