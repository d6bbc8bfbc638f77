"""From measured micro-batches to a whole run: time by work, memory by the largest micro-batch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from finery.planning.calibration import (
    Calibration,
    Sample,
    chosen,
    from_dict,
    growth,
    keep,
    kept,
    thinned,
)

SAMPLES = (Sample(1e9, 10, 0.1, 500), Sample(2e9, 20, 0.2, 600), Sample(4e9, 40, 0.3, 800))
FOUND = Calibration(
    samples=SAMPLES,
    step_seconds=0.01,
    evaluation_seconds=0.001,
    checkpoint_seconds=0.5,
    checkpoint_bytes=1000,
    before=100,
    loaded=300,
    peak=820,
    probe_seconds=9.0,
)


def test_each_micro_batch_takes_the_speed_of_the_nearest_measured_one() -> None:
    assert FOUND.seconds_of([1e9, 2e9, 4e9]) == pytest.approx([0.1, 0.2, 0.3])
    assert FOUND.seconds_of([0.5e9]) == pytest.approx([0.05])
    assert FOUND.seconds_of([8e9, 3.5e9]) == pytest.approx([0.6, 0.2625])


def test_memory_grows_by_the_token_and_is_never_below_the_loaded_model() -> None:
    assert growth(SAMPLES, 300) == pytest.approx(10.0)
    assert FOUND.peak_at(40) == 820
    assert FOUND.peak_at(80) == 1220
    assert FOUND.peak_at(0) == 420
    assert replace(FOUND, loaded=700).peak_at(0) == 700


def test_one_size_alone_is_taken_to_have_grown_from_the_loaded_model() -> None:
    assert growth(SAMPLES[:1], 300) == pytest.approx(20.0)


def test_a_smooth_curve_has_no_spread_and_a_jump_has() -> None:
    even = tuple(Sample(n * 1e9, n, n * 0.1, 1) for n in range(1, 6))
    assert replace(FOUND, samples=even).spread() == pytest.approx(0.0)
    jump = (*even[:2], Sample(3e9, 3, 0.6, 1), *even[3:])
    assert replace(FOUND, samples=jump).spread() > 0.2
    assert replace(FOUND, samples=even[:2]).spread() == pytest.approx(0.1)


def test_the_measured_micro_batches_have_equal_work_between_them() -> None:
    even = [1.0] * 80
    assert len(chosen(even, 8)) == 8
    short_and_long = [1.0] * 100 + [100.0]  # the long one is half of the work
    picked = chosen(short_and_long, 4)
    assert picked[-1] == 100
    assert all(index < 100 for index in picked[:-1])
    assert chosen([5.0]) == [0]


def test_what_takes_too_long_is_thinned_and_keeps_its_ends() -> None:
    work = [1.0, 2.0, 3.0, 4.0, 5.0]
    assert thinned(work, 100.0, 1.0) == [0, 1, 2, 3, 4]
    assert thinned(work, 9.5, 1.0) == [0, 2, 4]
    assert thinned(work, 0.1, 1.0) == [0]


def test_what_was_measured_is_remembered_for_this_key_only(own_home: Path) -> None:
    keep({"model": "a"}, FOUND)
    assert kept({"model": "a"}) == FOUND
    assert kept({"model": "b"}) is None
    assert from_dict({**FOUND.to_dict(), "form": 0}) is None
