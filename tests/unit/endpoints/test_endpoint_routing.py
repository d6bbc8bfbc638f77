"""Which deployment and which replica a request goes to."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest

from finery.endpoints.routing import OverloadedError, Table, choose, mirror, pick
from finery.endpoints.values import Deployment, Endpoint, Replica
from finery.workspace.errors import NotFoundError, UnavailableError

DAY = datetime(2026, 1, 1)


def deployment(name: str, **changes: Any) -> Deployment:
    one = Deployment("chat", name, "m", {}, 1, 1, 60.0, {}, {}, "Succeeded", None, 1, DAY, DAY)
    return replace(one, **changes)


def replica(identity: str, name: str) -> Replica:
    return Replica(identity, "chat", name, 1, "ready", 1, "k", DAY)


def table(
    traffic: dict[str, int], mirrored: dict[str, int] | None = None, **replicas: int
) -> Table:
    endpoint = Endpoint("chat", "key", traffic, mirrored or {}, {}, "Succeeded", "p", "s", DAY, DAY)
    behind = {name: deployment(name) for name in replicas}
    ready = {n: [replica(f"{n}{i}", n) for i in range(count)] for n, count in replicas.items()}
    return Table(endpoint, behind, ready)


def test_requests_are_shared_as_the_traffic_says() -> None:
    shared = table({"blue": 90, "green": 10}, blue=1, green=1)
    drawn = Counter(choose(shared, draw=point / 1000).name for point in range(1000))
    assert drawn == {"blue": 900, "green": 100}


def test_a_deployment_without_traffic_is_reached_by_name_alone() -> None:
    shared = table({"blue": 100, "green": 0}, blue=1, green=1)
    assert {choose(shared, draw=point / 10).name for point in range(10)} == {"blue"}
    assert choose(shared, "green").name == "green"


def test_without_traffic_there_is_nobody_to_answer() -> None:
    with pytest.raises(NotFoundError, match="azureml-model-deployment"):
        choose(table({}, blue=1))


def test_an_unknown_deployment_is_not_replaced_by_another() -> None:
    with pytest.raises(NotFoundError, match=r"no deployment red\. There is: blue"):
        choose(table({"blue": 100}, blue=1), "red")


def test_traffic_of_a_deployment_that_is_gone_goes_to_the_others() -> None:
    assert choose(table({"gone": 50, "blue": 50}, blue=1), draw=0.1).name == "blue"


def test_a_mirror_gets_its_share_of_copies() -> None:
    mirrored = table({"blue": 100}, {"green": 20}, blue=1, green=1)
    copies = [mirror(mirrored, draw=point / 100) for point in range(100)]
    assert sum(copy is not None for copy in copies) == 20
    assert mirror(table({"blue": 100}, blue=1), draw=0.0) is None


def test_the_least_busy_replica_is_asked_first() -> None:
    three = table({"blue": 100}, blue=3)
    first = pick(three, three.deployments["blue"], {"blue0": 1, "blue1": 1})[0]
    assert first.id == "blue2"


def test_twice_what_can_be_answered_may_wait_and_no_more() -> None:
    two = table({"blue": 100}, blue=2)
    blue = two.deployments["blue"]
    assert pick(two, blue, {"blue0": 2, "blue1": 1})
    with pytest.raises(OverloadedError, match="4 requests are under way"):
        pick(two, blue, {"blue0": 2, "blue1": 2})
    assert pick(two, replace(blue, at_once=2), {"blue0": 2, "blue1": 2})


@pytest.mark.parametrize("state", ["Creating", "Deleting"])
def test_a_deployment_that_is_not_there_yet_or_any_more_does_not_answer(state: str) -> None:
    one = table({"blue": 100}, blue=1)
    with pytest.raises(UnavailableError, match=state):
        pick(one, replace(one.deployments["blue"], state=state), {})


def test_a_deployment_whose_replica_died_says_so() -> None:
    none = table({"blue": 100}, blue=0)
    with pytest.raises(UnavailableError, match="no replica that answers yet"):
        pick(none, none.deployments["blue"], {})
