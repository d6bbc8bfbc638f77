"""Streaming a job that has ended shows its logs."""

from __future__ import annotations

import pytest

from finery.azureml import first_look
from finery.azureml.first_look import Looks


def test_the_first_look_at_an_ended_job_is_told_from_the_second() -> None:
    looks = Looks()
    assert [looks.is_first("a", ended=True) for _ in range(4)] == [True, False, True, False]


def test_who_saw_a_job_run_sees_its_end_at_once() -> None:
    looks = Looks()
    assert [looks.is_first("a", ended=ended) for ended in (False, False, True)] == [False] * 3


def test_jobs_are_looked_at_apart() -> None:
    looks = Looks()
    assert looks.is_first("a", ended=True)
    assert looks.is_first("b", ended=True)
    assert not looks.is_first("a", ended=True)


def test_a_look_long_ago_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = Looks()
    looks.is_first("a", ended=False)
    monkeypatch.setattr(first_look, "PATIENCE", 0.0)
    assert looks.is_first("a", ended=True)


def test_old_looks_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(first_look, "MOST", 2)
    looks = Looks()
    for job in ("a", "b", "c"):
        looks.is_first(job, ended=False)
    assert looks.is_first("a", ended=True)
    assert not looks.is_first("c", ended=True)
