"""Compute clusters as the SDK makes, reads, changes and removes them."""

from __future__ import annotations

import pytest
from azure.ai.ml import MLClient
from azure.ai.ml.entities import AmlCompute, ComputeInstance
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError
from job_runs import submitted, wait_for


def cluster(name: str, **settings: object) -> AmlCompute:
    given = {"size": "Standard_ND40rs_v2", "tier": "Dedicated", "max_instances": 2} | settings
    return AmlCompute(name=name, **given)  # pyright: ignore[reportArgumentType]


def test_a_cluster_is_made_and_found_again(client: MLClient) -> None:
    client.compute.begin_create_or_update(cluster("gpu-cluster-big")).wait()
    found = client.compute.get("gpu-cluster-big")
    assert found.provisioning_state == "Succeeded"
    assert found.size == "Standard_ND40rs_v2"
    assert found.tier == "dedicated"
    assert (found.min_instances, found.max_instances) == (0, 2)
    assert found.idle_time_before_scale_down == 120
    assert "gpu-cluster-big" in [compute.name for compute in client.compute.list()]


def test_what_the_creation_returns_is_the_cluster(client: MLClient) -> None:
    made = client.compute.begin_create_or_update(
        cluster("low-priority", tier="low_priority", description="cheap", tags={"team": "a"})
    ).result()
    assert (made.tier, made.description, made.tags) == ("low_priority", "cheap", {"team": "a"})


def test_a_compute_that_is_not_there_is_not_found(client: MLClient) -> None:
    with pytest.raises(ResourceNotFoundError, match="No compute is called nowhere"):
        client.compute.get("nowhere")


def test_a_cluster_can_be_scaled_but_not_made_another_size(client: MLClient) -> None:
    client.compute.begin_create_or_update(cluster("scaled")).wait()
    changed = client.compute.begin_update(cluster("scaled", max_instances=5)).result()
    assert changed.max_instances == 5
    with pytest.raises(HttpResponseError, match="cannot become Standard_NC6s_v3"):
        client.compute.begin_update(cluster("scaled", size="Standard_NC6s_v3")).result()


def test_the_size_is_found_in_any_case_and_faults_come_together(client: MLClient) -> None:
    made = client.compute.begin_create_or_update(cluster("anycase", size="STANDARD_NC6S_V3"))
    assert made.result().size == "Standard_NC6s_v3"
    with pytest.raises(HttpResponseError) as refused:
        wrong = cluster("x", size="Standard_NC6_v3", min_instances=3)
        client.compute.begin_create_or_update(wrong).result()
    assert refused.value.status_code == 400
    for part in ("compute x:name", "Did you mean Standard_NC6s_v3?", "min_instances"):
        assert part in str(refused.value)


def test_a_deleted_cluster_is_gone(client: MLClient) -> None:
    client.compute.begin_create_or_update(cluster("short-lived")).wait()
    client.compute.begin_delete("short-lived").wait()
    with pytest.raises(ResourceNotFoundError):
        client.compute.get("short-lived")
    with pytest.raises(ResourceNotFoundError):
        client.compute.begin_delete("short-lived").wait()


def test_other_kinds_of_compute_are_refused_by_name(client: MLClient) -> None:
    with pytest.raises(HttpResponseError, match="no computes of type ComputeInstance") as refused:
        client.compute.begin_create_or_update(
            ComputeInstance(name="mine", size="Standard_DS3_v2")
        ).result()
    assert refused.value.status_code == 501


def test_a_cluster_is_not_switched_by_hand(client: MLClient) -> None:
    client.compute.begin_create_or_update(cluster("switched")).wait()
    with pytest.raises(HttpResponseError, match="nothing has to be done"):
        client.compute.begin_stop("switched").wait()


def test_sizes_hold_what_the_notebook_asks_for_and_this_machine(client: MLClient) -> None:
    gpus = {size.name: size.gpus for size in client.compute.list_sizes()}
    assert gpus["Standard_ND40rs_v2"] == 8
    assert gpus["Standard_NC24ads_A100_v4"] == 1
    assert isinstance(gpus["Standard_local"], int)


def test_nodes_and_usage_answer(client: MLClient) -> None:
    client.compute.begin_create_or_update(cluster("looked-at")).wait()
    (node,) = client.compute.list_nodes("looked-at")
    assert "idle" in vars(node).values()  # the SDK's own attribute stays empty since 1.35
    usage = {item.name["value"]: item for item in client.compute.list_usage()}
    assert usage["vCPUs"].limit >= 1


def test_what_runs_on_a_cluster_is_seen_on_its_node_and_in_the_usage(client: MLClient) -> None:
    client.compute.begin_create_or_update(cluster("busy", size="Standard_local")).wait()
    assert node_words(client) >= {"idle"}
    job = submitted(client, "sleep 60", compute="busy")
    assert wait_for(client, job.name, "Running") == "Running"
    assert node_words(client) >= {"running", job.name}
    used = {one.name["value"]: vars(one) for one in client.compute.list_usage()}
    assert 1 in used["vCPUs"].values()  # a command has one core
    client.jobs.begin_cancel(job.name).result()
    assert node_words(client) >= {"idle"}


def node_words(client: MLClient) -> set[object]:
    """What the SDK holds of the only node, under whatever attributes."""
    (node,) = client.compute.list_nodes("busy")
    return {value for value in vars(node).values() if isinstance(value, str)}
