"""A thread's OpenMP workers are given back, and it can compute again afterwards."""

from __future__ import annotations

import threading

import torch

from finery.inference.engines.torch_threads import give_back_threads


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
