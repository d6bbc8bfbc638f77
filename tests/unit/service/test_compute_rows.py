"""Sizes and computes: what a job asks for when it names one."""

from __future__ import annotations

from pathlib import Path

import pytest
from workspaces import new_workspace

from finery.errors import InputError
from finery.workspace import computes, machine
from finery.workspace.computes import Compute, size_of
from finery.workspace.errors import ConflictError, NotFoundError, NotImplementedHereError
from finery.workspace.sizes import every_size, find_size, this_machine


def test_a_size_is_found_in_any_case() -> None:
    found = find_size("standard_nd40RS_v2")
    assert found is not None
    assert (found.name, found.gpus, found.vcpus) == ("Standard_ND40rs_v2", 8, 40)
    assert find_size("Standard_nothing") is None


def test_no_size_is_listed_twice() -> None:
    names = [size.name.lower() for size in every_size()]
    assert len(names) == len(set(names))


def test_this_machine_has_at_least_one_core_and_some_memory() -> None:
    here = this_machine()
    assert here.vcpus >= 1
    assert here.memory_gb > 0


@pytest.mark.parametrize(
    ("visible", "seen"),
    [(None, 4), ("", 0), ("-1", 0), ("0,2", 2), ("0,7,1", 1), ("GPU-abc", 1), ("0,1,2,3,4", 4)],
)
def test_gpus_are_counted_as_cuda_would_show_them(
    monkeypatch: pytest.MonkeyPatch, visible: str | None, seen: int
) -> None:
    monkeypatch.setattr(machine, "_count_by_driver", lambda: 4)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    machine.gpus.cache_clear()
    try:
        assert machine.gpus() == seen
    finally:
        machine.gpus.cache_clear()


@pytest.mark.parametrize("name", ["", "serverless", "Serverless", "azureml:serverless"])
def test_serverless_is_this_machine(tmp_path: Path, name: str) -> None:
    assert size_of(new_workspace(tmp_path), name) == this_machine()


@pytest.mark.parametrize("form", ["{}", "azureml:{}", "/subscriptions/s/workspaces/w/computes/{}"])
def test_a_compute_asks_for_its_size_however_it_is_named(tmp_path: Path, form: str) -> None:
    workspace = new_workspace(tmp_path)
    computes.create_or_update(workspace, Compute("big", "Standard_NC96ads_A100_v4"))
    assert size_of(workspace, form.format("big")).gpus == 4


def test_a_compute_that_is_not_there_names_those_that_are(tmp_path: Path) -> None:
    workspace = new_workspace(tmp_path)
    with pytest.raises(NotFoundError, match="There is none yet"):
        size_of(workspace, "gpu-cluster")
    computes.create_or_update(workspace, Compute("gpu-cluster-big", "Standard_D2_v2"))
    with pytest.raises(NotFoundError, match=r"Did you mean gpu-cluster-big\?"):
        size_of(workspace, "gpu-cluster-bigg")


def test_faults_of_a_compute_come_together(tmp_path: Path) -> None:
    wrong = Compute("1st", "Standard_D2_v9", min_nodes=3, max_nodes=0)
    with pytest.raises(InputError) as refused:
        computes.create_or_update(new_workspace(tmp_path), wrong)
    assert len(refused.value.faults) == 4


def test_a_compute_keeps_its_size(tmp_path: Path) -> None:
    workspace = new_workspace(tmp_path)
    first = computes.create_or_update(workspace, Compute("a-b", "Standard_D2_v2"))
    again = computes.create_or_update(workspace, Compute("a-b", "standard_d2_v2", max_nodes=7))
    assert (again.max_nodes, again.created_at) == (7, first.created_at)
    with pytest.raises(ConflictError, match="cannot become"):
        computes.create_or_update(workspace, Compute("a-b", "Standard_D12_v2"))


def test_only_clusters_exist() -> None:
    computes.refuse_other_kinds("amlcompute")
    for kind in ("ComputeInstance", "Kubernetes", ""):
        with pytest.raises(NotImplementedHereError):
            computes.refuse_other_kinds(kind)
