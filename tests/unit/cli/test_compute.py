"""`finery compute`: what people and programs read, and what the service is asked for."""

from __future__ import annotations

import json
from typing import Any

from scripted_service import Script
from typer.testing import CliRunner

from finery.cli.compute import app
from finery.errors import FineryError

CLUSTER = {
    "name": "gpu-cluster-big",
    "location": "local",
    "properties": {
        "computeType": "AmlCompute",
        "provisioningState": "Succeeded",
        "properties": {
            "vmSize": "Standard_ND40rs_v2",
            "scaleSettings": {"minNodeCount": 0, "maxNodeCount": 2},
        },
    },
}


def run(*words: str) -> Any:
    return CliRunner().invoke(app, list(words))


def test_the_list_is_a_table(script: Script) -> None:
    script.on("GET /computes", {"value": [CLUSTER]})
    result = run("list")
    head, row = result.stdout.splitlines()
    assert head.split() == ["name", "size", "nodes", "state", "location"]
    assert row.split() == [
        *("gpu-cluster-big", "Standard_ND40rs_v2", "0", "to", "2", "Succeeded", "local")
    ]


def test_programs_get_the_services_own_json(script: Script) -> None:
    script.on("GET /computes", {"value": [CLUSTER]})
    assert json.loads(run("list", "--json").stdout) == [CLUSTER]
    script.on("GET /computes/c", CLUSTER)
    assert json.loads(run("show", "c", "--json").stdout) == CLUSTER


def test_nothing_there_says_how_to_make_one(script: Script) -> None:
    script.on("GET /computes", {"value": []})
    assert "finery compute create" in run("list").stdout
    assert run("list", "--json").stdout == "[]\n"


def test_create_sends_size_and_nodes_and_waits(script: Script) -> None:
    script.on("PUT /computes/c", CLUSTER, status=201)
    script.on("GET /computes/c", CLUSTER)
    result = run("create", "c", "--size", "Standard_D2", "--max-instances", "3")
    assert result.exit_code == 0
    inner = script.sent("PUT /computes/c")["properties"]["properties"]
    assert inner["vmSize"] == "Standard_D2"
    assert inner["scaleSettings"] == {"minNodeCount": 0, "maxNodeCount": 3}
    assert "Standard_ND40rs_v2" in result.stdout


def test_delete_prints_nothing_but_json_to_programs(script: Script) -> None:
    script.on("DELETE /computes/c", None)
    result = run("delete", "c", "--json")
    assert json.loads(result.stdout) == {"name": "c", "deleted": True}
    assert "c is gone" in result.stderr


def test_a_compute_that_is_not_there_is_an_error(script: Script) -> None:
    assert isinstance(run("show", "nowhere").exception, FineryError)


def test_sizes_are_asked_for_the_workspaces_own_location(script: Script) -> None:
    script.on("GET /workspaces/w", {"location": "local"})
    sizes = [{"name": "Standard_local", "vCPUs": 2, "memoryGB": 8, "gpus": 0}]
    script.on("GET /locations/local/vmSizes", {"value": sizes})
    assert run("sizes").stdout.splitlines()[1].split() == ["Standard_local", "2", "8", "0"]
    assert json.loads(run("sizes", "--json").stdout) == sizes


def test_names_from_elsewhere_cannot_steer_the_terminal(script: Script) -> None:
    script.on("GET /computes", {"value": [{**CLUSTER, "name": "a\x1b[31mb"}]})
    assert "\x1b" not in run("list").stdout
