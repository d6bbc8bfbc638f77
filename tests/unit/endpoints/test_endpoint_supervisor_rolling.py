"""Which replicas to start and which to let go, from any state there may be."""

from __future__ import annotations

from dataclasses import asdict, replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from finery.endpoints.supervisor_rolling import Plan, plan
from finery.endpoints.values import Deployment, Form, Replica

DAY = datetime(2026, 1, 1)
LONGEST = 100  # steps, after which a simulation counts as stuck


def form(revision: int, count: int = 1) -> Form:
    return Form(revision, f"model {revision}", "auto", {}, 1, count)


def deployment(wanted: Form, state: Any = "Updating", served: Form | None = None) -> Deployment:
    one = Deployment("chat", "blue", "m", {}, 1, 1, 60.0, {}, {}, state, None, 1, DAY, DAY)
    named = {**asdict(wanted), "served": asdict(served) if served else None}
    return replace(one, **named)


def replicas(revision: int, *states: Any) -> list[Replica]:
    return [
        Replica(f"{revision}-{n}", "chat", "blue", revision, state, 1, "k", DAY + timedelta(n))
        for n, state in enumerate(states)
    ]


def ids(found: Plan) -> list[str]:
    return [replica.id for replica in found.dismiss]


def test_a_new_deployment_starts_all_its_replicas_and_succeeds_when_they_answer() -> None:
    wanted = deployment(form(1, 3), "Creating")
    assert plan(wanted, []).start == ((form(1, 3), 3),)
    waiting = plan(wanted, replicas(1, "ready", "starting", "ready"))
    assert (waiting.start, waiting.succeeded) == ((), False)
    assert plan(wanted, replicas(1, "ready", "ready", "ready")).succeeded


def test_what_is_as_it_should_be_is_left_alone() -> None:
    wanted = deployment(form(1, 2), "Succeeded", form(1, 2))
    assert plan(wanted, replicas(1, "ready", "ready")) == Plan(settled=True)


def test_a_lost_replica_is_started_again() -> None:
    wanted = deployment(form(1, 2), "Succeeded", form(1, 2))
    assert plan(wanted, replicas(1, "ready")).start == ((form(1, 2), 1),)


def test_a_replica_that_is_not_ready_is_not_replaced_for_that() -> None:
    wanted = deployment(form(1, 2), "Succeeded", form(1, 2))
    assert plan(wanted, replicas(1, "ready", "unready")) == Plan()


def test_old_replicas_stay_until_a_new_one_answers() -> None:
    wanted = deployment(form(2, 2), served=form(1, 2))
    old = replicas(1, "ready", "ready")
    assert plan(wanted, old) == Plan(start=((form(2, 2), 1),))
    assert plan(wanted, [*old, *replicas(2, "starting")]) == Plan()
    one_new = plan(wanted, [*old, *replicas(2, "ready")])
    assert ids(one_new) == ["1-1"], "the youngest of the old ones goes"
    assert one_new.start == ((form(2, 2), 1),)
    done = plan(wanted, [*old, *replicas(2, "ready", "ready")])
    assert (sorted(ids(done)), done.succeeded) == (["1-0", "1-1"], True)


def test_a_new_form_with_fewer_replicas_lets_the_rest_go_at_the_end() -> None:
    wanted = deployment(form(2, 1), served=form(1, 3))
    found = plan(wanted, [*replicas(1, "ready", "ready", "ready"), *replicas(2, "ready")])
    assert len(found.dismiss) == 3


def test_an_old_replica_that_dies_in_an_update_is_replaced_by_its_like() -> None:
    wanted = deployment(form(2, 2), served=form(1, 2))
    found = plan(wanted, [*replicas(1, "ready"), *replicas(2, "starting")])
    assert found.start == ((form(1, 2), 1),)


def test_an_update_that_failed_keeps_the_old_form_up_to_strength() -> None:
    failed = deployment(form(2, 2), "Failed", form(1, 2))
    found = plan(failed, [*replicas(1, "ready"), *replicas(2, "ready", "starting")])
    assert found.start == ((form(1, 2), 1),)
    assert ids(found) == ["2-1"], "one that answers stays until the old ones are back"
    whole = plan(failed, [*replicas(1, "ready", "ready"), *replicas(2, "ready")])
    assert ids(whole) == ["2-0"]
    assert plan(failed, replicas(1, "ready", "ready")).settled


def test_a_deployment_that_never_answered_keeps_nothing_when_it_fails() -> None:
    failed = deployment(form(1, 2), "Failed")
    assert ids(plan(failed, replicas(1, "ready", "starting"))) == ["1-0", "1-1"]
    assert plan(failed, []).settled


def test_scaling_down_prefers_those_that_do_not_answer() -> None:
    wanted = deployment(form(1, 1), "Updating", form(1, 3))
    assert ids(plan(wanted, replicas(1, "ready", "unready", "ready"))) == ["1-1", "1-2"]


def test_an_update_that_another_one_overtakes_leaves_no_replica_behind() -> None:
    wanted = deployment(form(3, 1), served=form(1, 1))
    there = [*replicas(1, "ready"), *replicas(2, "starting")]
    assert ids(plan(wanted, there)) == ["2-0"]
    assert sorted(ids(plan(wanted, [*there, *replicas(3, "ready")]))) == ["1-0", "2-0"]


@pytest.mark.parametrize("before", range(1, 6))
@pytest.mark.parametrize("after", range(1, 9))
def test_from_any_size_to_any_size_capacity_never_falls(before: int, after: int) -> None:
    """A whole update, replica by replica: some start slowly, and none of them is lost."""
    wanted = deployment(form(2, after), served=form(1, before))
    there = replicas(1, *["ready"] * before)
    most = 0
    for step in range(LONGEST):
        found = plan(wanted, there)
        there = [one for one in there if one not in found.dismiss]
        for made, count in found.start:
            names = range(step * 10, step * 10 + count)
            there += [replace(replicas(made.revision, "starting")[0], id=f"n{n}") for n in names]
        in_rotation = [one for one in there if one.state == "ready"]
        assert len(in_rotation) >= min(before, after)
        most = max(most, len(there))
        if found.succeeded:
            break
        starting = [one for one in there if one.state == "starting"]
        there = [replace(one, state="ready") if one in starting[:1] else one for one in there]
    else:
        raise AssertionError("it never ended")
    assert [one.revision for one in there] == [2] * after
    assert most <= max(before, after) + max(1, -(-after // 4))
