"""Which deployment a request goes to."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest

from finery.endpoints.gateway.refusals import ModelNotFoundError
from finery.endpoints.gateway.routing import asked_for, choose, mirror
from finery.endpoints.routing import Table
from finery.endpoints.values import Deployment, Endpoint, Replica
from finery.errors import FineryError
from finery.workspace.errors import NotFoundError

DAY = datetime(2026, 1, 1)
PEOPLE = [f"user-{number}" for number in range(10_000)]


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


def test_ten_thousand_requests_at_ten_percent_are_within_a_few_of_a_thousand() -> None:
    shared = table({"blue": 90, "green": 10}, blue=1, green=1)
    drawn = Counter(choose(shared).name for _ in range(10_000))
    assert 880 <= drawn["green"] <= 1120  # four standard deviations: fails once in 16,000 runs


def test_a_conversation_stays_with_its_deployment() -> None:
    shared = table({"blue": 50, "green": 50}, blue=1, green=1)
    for person in PEOPLE[:100]:
        assert len({choose(shared, conversation=person).name for _ in range(5)}) == 1


def test_conversations_are_shared_as_the_traffic_says() -> None:
    shared = table({"blue": 70, "green": 20, "red": 10}, blue=1, green=1, red=1)
    drawn = Counter(choose(shared, conversation=person).name for person in PEOPLE)
    for name, share in shared.endpoint.traffic.items():
        assert drawn[name] / len(PEOPLE) == pytest.approx(share / 100, abs=0.015)


@pytest.mark.parametrize(
    ("before", "after", "most"),
    [
        ({"blue": 90, "green": 10}, {"blue": 80, "green": 20}, 0.115),
        ({"blue": 100}, {"blue": 90, "green": 10}, 0.115),
        ({"blue": 60, "green": 30, "red": 10}, {"blue": 50, "green": 40, "red": 10}, 0.13),
    ],
)
def test_moving_a_tenth_of_the_traffic_moves_a_tenth_of_the_conversations(
    before: dict[str, int], after: dict[str, int], most: float
) -> None:
    names = dict.fromkeys({*before, *after}, 1)
    first, then = table(before, **names), table(after, **names)
    moved = Counter(
        (was, now)
        for person in PEOPLE
        if (was := choose(first, conversation=person).name)
        != (now := choose(then, conversation=person).name)
    )
    assert 0.08 < moved.total() / len(PEOPLE) < most
    assert moved["blue", "green"] > 0.85 * 0.1 * len(PEOPLE)
    assert moved["green", "blue"] == 0


def test_a_deployment_without_traffic_gets_no_conversation() -> None:
    shared = table({"blue": 100, "green": 0}, blue=1, green=1)
    assert {choose(shared, conversation=person).name for person in PEOPLE[:200]} == {"blue"}


def test_an_id_of_odd_characters_is_an_id_like_any_other() -> None:
    shared = table({"blue": 50, "green": 50}, blue=1, green=1)
    assert choose(shared, conversation="\ud800 ключ\x00").name in ("blue", "green")


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


@pytest.mark.parametrize(
    ("header", "model", "named"),
    [
        ("", None, ""),
        ("", "chat", ""),
        ("", "", ""),
        ("", "blue", "blue"),
        ("blue", "chat", "blue"),
        ("blue", "blue", "blue"),
        ("red", None, "red"),  # `choose` says that there is none
    ],
)
def test_header_and_model_name_a_deployment(header: str, model: object, named: str) -> None:
    assert asked_for(table({"blue": 100}, blue=1), header, model) == named


@pytest.mark.parametrize("model", ["gpt-4", ["blue"], 1, {"a": 1}, False])
def test_a_model_that_is_not_here_is_not_replaced_by_another(model: object) -> None:
    with pytest.raises(ModelNotFoundError, match="There is: chat, blue"):
        asked_for(table({"blue": 100}, blue=1), "", model)


def test_a_header_and_a_model_that_name_two_deployments_are_refused() -> None:
    with pytest.raises(FineryError, match="model is blue, its header"):
        asked_for(table({"blue": 100}, blue=1, green=1), "green", "blue")
