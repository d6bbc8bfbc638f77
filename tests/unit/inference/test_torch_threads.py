"""OpenMP workers are given back, and decoding takes as many as the machine has free."""

from __future__ import annotations

import threading

import pytest
import torch

from finery.inference.engines.torch_threads import (
    STEPS,
    WAITS,
    Pace,
    give_back_threads,
    thread_counts,
)


def test_a_thread_computes_the_same_after_it_gave_its_workers_back() -> None:
    found: list[bool] = []

    def work() -> None:
        a = torch.randn(300, 300)
        before = a @ a
        give_back_threads()
        found.append(torch.equal(before, a @ a))
        give_back_threads()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [True]


def test_where_torch_has_another_openmp_nothing_is_done(monkeypatch) -> None:  # noqa: ANN001
    monkeypatch.setattr(torch, "__file__", "/nowhere/torch/__init__.py")
    assert give_back_threads() is False


class Machine:
    """Steps that take as long as the machine lets them, by the number of threads."""

    def __init__(self, pace_counts: list[int], seconds: dict[int, float]) -> None:
        self.now = 0.0
        self.seconds = seconds
        self.steps: list[int] = []
        self.pace = Pace(pace_counts, lambda: self.now)

    def run(self, steps: int, rows: int = 1) -> list[int]:
        """The numbers of threads of so many steps."""
        made = []
        for _ in range(steps):
            made.append(self.pace.threads(rows))
            self.now += self.seconds[made[-1]]
            self.pace.took(self.seconds[made[-1]])
        return made


def test_on_a_quiet_machine_all_threads_stay_and_trials_cost_little() -> None:
    machine = Machine([1, 2], {1: 0.010, 2: 0.006})
    made = machine.run(5000)
    assert machine.pace.count == 2
    assert 0 < made.count(1) < 100
    assert machine.now < 5000 * 0.006 * 1.01


def test_where_threads_wait_for_one_that_is_held_back_one_decodes() -> None:
    machine = Machine([1, 2], {1: 0.010, 2: 0.080})
    made = machine.run(1000)
    assert machine.pace.count == 1
    assert made[-100:].count(2) <= 1
    assert machine.now < 1000 * 0.010 * 1.4


def test_once_the_machine_is_quiet_again_all_threads_come_back() -> None:
    machine = Machine([1, 2], {1: 0.010, 2: 0.080})
    machine.run(1000)
    machine.seconds[2] = 0.006
    machine.run(int(2 * WAITS[1] / 0.010))
    assert machine.pace.count == 2


def test_steps_of_other_numbers_of_rows_are_never_compared() -> None:
    machine = Machine([1, 2], {1: 0.001, 2: 0.080})
    for rows in range(200):
        assert set(machine.run(STEPS - 1, rows)) == {2}


def test_a_count_that_is_hardly_faster_is_not_taken() -> None:
    machine = Machine([1, 2], {1: 0.0095, 2: 0.010})
    machine.run(2000)
    assert machine.pace.count == 2


def test_every_count_has_its_trial() -> None:
    machine = Machine(thread_counts(8), {1: 0.020, 4: 0.010, 8: 0.030})
    assert set(machine.run(1000)) == {1, 4, 8}
    assert machine.pace.count == 4


@pytest.mark.parametrize(("most", "counts"), [(1, [1]), (2, [1, 2]), (3, [1, 3]), (16, [1, 8, 16])])
def test_the_counts_that_are_tried(most: int, counts: list[int]) -> None:
    assert thread_counts(most) == counts


def test_a_single_count_is_never_left() -> None:
    assert set(Machine([2], {2: 0.01}).run(500)) == {2}
